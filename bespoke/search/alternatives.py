"""Other networks near the optimum: each different from the best and from every other one.

The best of what a search has met that is different enough is refined under that condition, one
alternative after the other; so they are no clones, and each is a local optimum of its own.
"""

from __future__ import annotations

import numpy as np

from bespoke.search.goals import Apart, Goal
from bespoke.search.lineages import refine
from bespoke.search.seen import Seen
from bespoke.supernet.architecture import Genomes, SearchSpace

_BEGUN = 3
"""How many genomes are refined for each alternative."""


def alternatives(space: SearchSpace, goal: Goal, seen: Seen, count: int) -> Genomes:
    """Others than the best that was met, which differ from it and from one another.

    Args:
        space: The space.
        goal: What is worth more.
        seen: What was met, of which the goal allows at least one; it learns what is met on the way.
        count: How many alternatives at most.

    Returns:
        Best first, (K, G).
    """
    if not count:
        return seen.genomes[:0]
    chosen, best = seen.genomes[:0], best_seen(goal, seen, 1)
    # Meanwhile the best may turn out to be another one: a better one each time, so this ends.
    while not len(chosen) or (best != chosen[0]).any():
        chosen = _different(space, goal, seen, best, count)
        best = best_seen(goal, seen, 1)
    others = chosen[1:]
    return others[goal.order(others, seen.top1_of(others))]


def best_seen(goal: Goal, seen: Seen, count: int) -> Genomes:
    """The best that were met and that a goal allows, best first, (at most ``count``, G)."""
    genomes, top1 = seen.genomes, seen.top1
    allowed = np.flatnonzero(goal.fits(genomes) & goal.reaches(top1))
    genomes, top1 = genomes[allowed], top1[allowed]
    return genomes[goal.order(genomes, top1)[:count]]


def _different(space: SearchSpace, goal: Goal, seen: Seen, chosen: Genomes, count: int) -> Genomes:
    for _ in range(count):
        apart = Apart(goal, space, chosen)
        begun = best_seen(apart, seen, _BEGUN)
        if not len(begun):
            break
        chosen = np.concatenate([chosen, refine(space, apart, seen, begun)[:1]])
    return chosen
