"""The least of one metric at a given top-1: the search turned round.

The highest top-1 within a limit on the metric rises with that limit, and near the answer almost in
a straight line. So each round looks for the highest top-1 within the limit at which that line
crosses the top-1 that is asked for; the cheapest that reach it are refined towards smaller prices;
and what was found moves the line. A round that does not reach it says where not to look again.

Source: regula falsi, on the front of the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bespoke.search.alternatives import best_seen
from bespoke.search.evaluator import Limits, cheapest
from bespoke.search.feasibility import feasible_genome, limits_told
from bespoke.search.goals import Cheapest, MostAccurate
from bespoke.search.lineages import Round, explore, refine, rounds
from bespoke.search.problem import Constraint, Problem
from bespoke.search.restriction import of_base
from bespoke.search.seen import Seen
from bespoke.supernet.architecture import Genomes, decode
from bespoke.supernet.errors import BudgetInfeasible

_LOOKS = 2
"""How often each of the effort's rounds is climbed."""

_REFINED = 8
"""How many of the cheapest are refined after a round."""

_LEAST_STEP = 0.002
"""By which share a round looks below the least that is known, at least."""

_SHORT = Round(16, 6, 4)
"""The round that tells whether a top-1 is reached under fewer limits."""


def least(
    problem: Problem, goal: Cheapest, seen: Seen, anchor: Genomes, after_round: Callable[[], None]
) -> int:
    """Find the least of the metric, and remember all that is met on the way.

    Args:
        problem: Space, predictor, limits, seed and effort.
        goal: The metric and the least top-1.
        seen: Knows what is known before, and learns what is met; of that, the goal then allows at least one.
        anchor: A genome within the limits, (G,).
        after_round: Called after each round.

    Returns:
        How many steps were taken.

    Raises:
        BudgetInfeasible: No architecture within the limits was found to reach the least top-1.
    """
    failed = float(goal.price.of(cheapest(problem.space, goal.price)[None])[0])
    starts, steps = np.concatenate([best_seen(goal, seen, 1), anchor[None]]), 0
    for number, size in enumerate(rounds(problem.effort)):
        if size.anew:
            starts = anchor[None]
        for look in range(_LOOKS):
            rng = np.random.default_rng((problem.seed, number, look))
            guess = _guess(goal, seen, failed)
            within, begun = _within(problem, goal, guess, starts, rng)
            starts = explore(problem, within, seen, size, begun, rng)
            steps += size.steps
            known = best_seen(goal, seen, _REFINED)
            if not len(known):
                continue
            known = refine(problem.space, goal, seen, known)
            high = float(goal.price.of(known[:1])[0])
            # What was refined may cost less than a round that failed could find.
            failed = min(failed if guess is None or high <= guess else guess, high * (1 - _LEAST_STEP))
            starts = np.concatenate([known[:1], starts])
        after_round()
    if not len(best_seen(goal, seen, 1)):
        raise _unreached(problem, goal, seen)
    return steps


def _guess(goal: Cheapest, seen: Seen, failed: float) -> float | None:
    """The limit to look within next; None for no limit, as long as nothing reaches the top-1."""
    if not len(seen):
        return None
    genomes, top1 = seen.genomes, seen.top1
    inside = goal.fits(genomes)
    price, top1 = goal.price.of(genomes[inside]), top1[inside]
    enough = top1 >= goal.min_top1
    if not enough.any():
        return None
    high = float(price[enough].min())
    low_top1 = float(top1[price <= failed].max(initial=0.0))
    high_top1 = float(top1[price <= high].max())
    rise = (goal.min_top1 - low_top1) / max(high_top1 - low_top1, 1e-9)
    return min(failed + min(max(rise, 0.0), 1.0) * (high - failed), high * (1 - _LEAST_STEP))


def _within(
    problem: Problem, goal: Cheapest, guess: float | None, starts: Genomes, rng: np.random.Generator
) -> tuple[MostAccurate, Genomes]:
    """The highest top-1 under one more limit, on the metric, and starts of which the first one meets it.

    Without that limit where nothing meets it.
    """
    if guess is not None:
        metric, _, device = goal.price.metric.partition(":")
        others = tuple(c for c in problem.constraints if c.name != goal.price.metric)
        further = (*others, Constraint(metric, guess, device=device or None))
        tight = replace(problem, constraints=further, minimise=None, min_top1=None)
        limits = Limits(tight)
        try:
            anchor = feasible_genome(tight, limits, rng)
            return MostAccurate(limits, goal.price), np.concatenate([anchor[None], starts])
        except BudgetInfeasible:
            pass
    anchor = feasible_genome(problem, goal.limits, rng)
    return MostAccurate(goal.limits, goal.price), np.concatenate([anchor[None], starts])


def _unreached(problem: Problem, goal: Cheapest, seen: Seen) -> BudgetInfeasible:
    """What to tell where no architecture within the limits reaches the least top-1."""
    limits = goal.limits
    nearest = best_seen(MostAccurate(limits, goal.price), seen, 1)
    top1 = seen.top1[limits.meets(seen.genomes)]
    asked, values, feasible = limits_told(problem, limits, nearest[0])
    best = float(top1.max())
    space, places = of_base(problem.space, nearest)
    return BudgetInfeasible(
        limits=asked | {"top1": goal.min_top1},
        feasible=feasible | {"top1": (float(top1.min()), best)},
        nearest={"architecture": decode(space, places[0]).to_json(), "metrics": values | {"top1": best}},
        relax={"top1": best},
        conflicts=[[*_standing_in_the_way(problem, goal), "top1"]],
    )


def _standing_in_the_way(problem: Problem, goal: Cheapest) -> list[str]:
    """Limits without any of which the top-1 is reached, as far as short rounds tell."""
    left = list(problem.constraints)
    for constraint in problem.constraints:
        fewer = tuple(c for c in left if c is not constraint)
        if not _reached(replace(problem, constraints=fewer), goal):
            left.remove(constraint)
    return [constraint.name for constraint in left]


def _reached(problem: Problem, goal: Cheapest) -> bool:
    limits, seen, rng = Limits(problem), Seen(problem), np.random.default_rng(problem.seed)
    anchor = feasible_genome(problem, limits, rng)
    explore(problem, MostAccurate(limits, goal.price), seen, _SHORT, anchor[None], rng)
    return len(best_seen(replace(goal, limits=limits), seen, 1)) > 0
