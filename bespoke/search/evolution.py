"""The search: rounds of climbing lineages, and what they met, put in order.

How a round climbs is told in ``lineages``; how the least of a metric is found at a given top-1, in
``minimisation``; what makes alternatives, in ``alternatives``.

One seed gives one answer whatever the number of threads: every price is a sum in a fixed order,
every prediction the same arithmetic wherever it stands in a batch, and ties fall to the earlier.
"""

from __future__ import annotations

import numpy as np

from bespoke.predictors.blas import one_thread
from bespoke.search.alternatives import Alternatives
from bespoke.search.evaluator import Limits, candidates, prices_of
from bespoke.search.feasibility import feasible_genome
from bespoke.search.goals import Cheapest, Goal, MostAccurate
from bespoke.search.lineages import explore, rounds
from bespoke.search.minimisation import least
from bespoke.search.pareto import evenly
from bespoke.search.problem import Problem, SearchResult
from bespoke.search.seen import Seen
from bespoke.supernet.architecture import Genomes

_FRONT = 32
"""Members of the front that is returned, at most."""


def search(problem: Problem) -> SearchResult:
    """Find the most accurate architecture within the limits, or the cheapest one of a least top-1.

    Args:
        problem: Space, predictor, limits, what is asked for, seed and effort.

    Returns:
        The best architecture that was met, the front that leads to it, and its alternatives.

    Raises:
        BudgetInfeasible: No architecture meets the limits, or reaches the least top-1 within them.
    """
    with one_thread():
        return _search(problem)


def _search(problem: Problem) -> SearchResult:
    limits, seen = Limits(problem), Seen(problem)
    anchor = feasible_genome(problem, limits, np.random.default_rng(problem.seed))
    known, before = prices_of(problem), _told(problem, limits, seen)
    if problem.minimise is not None and problem.min_top1 is not None:
        cheapest = Cheapest(limits, known[problem.minimise], problem.min_top1)
        others = Alternatives(problem.space, cheapest, seen, problem.alternatives)
        steps = least(problem, cheapest, seen, anchor, others.look)
        return _result(problem, cheapest, seen, others.found, steps)
    goal, starts, steps = MostAccurate(limits, known[_priced(problem)]), before[:1], 0
    others = Alternatives(problem.space, goal, seen, problem.alternatives)
    for number, size in enumerate(rounds(problem.effort)):
        rng = np.random.default_rng((problem.seed, number))
        given = [anchor[None]] if size.anew else [anchor[None], starts]
        starts = explore(problem, goal, seen, size, np.concatenate(given), rng)
        others.look()
        steps += size.steps
    return _result(problem, goal, seen, others.found, steps)


def _told(problem: Problem, limits: Limits, seen: Seen) -> Genomes:
    """What was known before and meets the limits, the most accurate first, (N, G); it is remembered."""
    if problem.head_start is None:
        return seen.genomes
    genomes, top1 = problem.head_start.genomes, problem.head_start.top1
    inside = np.flatnonzero(limits.meets(genomes))
    best = inside[np.argsort(-top1[inside], kind="stable")]
    seen.tell(genomes[best], top1[best])
    return genomes[best]


def _result(problem: Problem, goal: Goal, seen: Seen, others: Genomes, steps: int) -> SearchResult:
    front = _front(goal, seen)
    best = front[0] if problem.minimise else front[-1]
    genomes = np.concatenate([best[None], others, front])
    told = candidates(problem, genomes, seen.top1_of(genomes))
    return SearchResult(
        best=told[0],
        front=told[1 + len(others) :],
        evaluations=seen.evaluations,
        generations=steps,
        seed=problem.seed,
        alternatives=told[1 : 1 + len(others)],
    )


def _front(goal: Goal, seen: Seen) -> Genomes:
    """What has the highest top-1 of all that cost no more, cheapest first, (at most ``_FRONT``, G)."""
    genomes, top1 = seen.genomes, seen.top1
    allowed = goal.fits(genomes) & goal.reaches(top1)
    genomes, top1 = genomes[allowed], top1[allowed]
    price = goal.price.of(genomes)
    order = np.lexsort((price, -top1))
    cheapest = np.minimum.accumulate(np.append(np.inf, price[order]))[:-1]
    members = order[price[order] < cheapest][::-1]
    return genomes[evenly(members, _FRONT)]


def _priced(problem: Problem) -> str:
    """The metric of a front beside the top-1."""
    limited = problem.constraints[0].name if problem.constraints else "macs"
    return "latency_ms" if problem.latency else limited
