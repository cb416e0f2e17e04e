"""Other networks near the optimum: each different from the best and from every other one.

The best of what a search has met that is different enough is refined under that condition, one
alternative after the other; so they are no clones, and each is a local optimum of its own.

On the way a better answer may be met. A search therefore looks for alternatives after each of its rounds,
of which more effort only adds some: it then knows all that less effort met, and answers no worse.
"""

from __future__ import annotations

import numpy as np

from bespoke.search.goals import Apart, Goal
from bespoke.search.lineages import refine
from bespoke.search.seen import Seen
from bespoke.supernet.architecture import Genomes, SearchSpace

_BEGUN = 3
"""How many genomes are refined for each alternative."""


class Alternatives:
    """Looks for alternatives in what a search has met so far.

    Attributes:
        found: Best first, (K, G), as of the last look.
    """

    def __init__(self, space: SearchSpace, goal: Goal, seen: Seen, count: int) -> None:
        """Have found none yet.

        Args:
            space: The space.
            goal: What is worth more.
            seen: What is met; it learns what is met on the way.
            count: How many alternatives at most.
        """
        self._space, self._goal, self._seen, self._count = space, goal, seen, count
        self._refined: dict[tuple[bytes, bytes], Genomes] = {}
        self.found = seen.genomes[:0]

    def look(self) -> None:
        """Find those to the best that was met, if the goal allows any of it."""
        best = best_seen(self._goal, self._seen, 1)
        if not self._count or not len(best):
            return
        chosen = best[:0]
        # Meanwhile the best may turn out to be another one: a better one each time, so this ends.
        while not len(chosen) or (best != chosen[0]).any():
            chosen = self._different(best)
            best = best_seen(self._goal, self._seen, 1)
        others = chosen[1:]
        self.found = others[self._goal.order(others, self._seen.top1_of(others))]

    def _different(self, chosen: Genomes) -> Genomes:
        for _ in range(self._count):
            apart = Apart(self._goal, self._space, chosen)
            begun = best_seen(apart, self._seen, _BEGUN)
            if not len(begun):
                break
            # A climb from where one began before ends where that one did.
            key = chosen.tobytes(), begun.tobytes()
            if key not in self._refined:
                self._refined[key] = refine(self._space, apart, self._seen, begun)[:1]
            chosen = np.concatenate([chosen, self._refined[key]])
        return chosen


def best_seen(goal: Goal, seen: Seen, count: int) -> Genomes:
    """The best that were met and that a goal allows, best first, (at most ``count``, G)."""
    genomes, top1 = seen.genomes, seen.top1
    allowed = np.flatnonzero(goal.fits(genomes) & goal.reaches(top1))
    genomes, top1 = genomes[allowed], top1[allowed]
    return genomes[goal.order(genomes, top1)[:count]]
