"""Architectures to judge a latency table by: such as searches deliver.

What a search returns is no random draw: it is large where that is cheap, and what is cheap alone need
not be cheap inside a network. An interval that is to hold for delivered networks is measured on their
like; limits on MACs find such networks before the device has a table.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bespoke.latency_tables import ProfilingPlan, plan_profiling
from bespoke.latency_tables.profiling import profiling_effort
from bespoke.predictors.accuracy import AccuracyPredictor
from bespoke.search.evaluator import feasible_ranges
from bespoke.search.evolution import search
from bespoke.search.problem import Constraint, Problem
from bespoke.supernet.architecture import Architecture, SearchSpace
from bespoke.supernet.ops import OpKey

__all__ = ["probes", "table_plan"]


def table_plan(
    space: SearchSpace, predictor: AccuracyPredictor | None, effort: str, known: Iterable[OpKey] = ()
) -> ProfilingPlan:
    """What to measure on a device for its latency table; half of the whole networks are ``probes``.

    Args:
        space: The supernet's.
        predictor: The supernet's; without one all networks are random.
        effort: Name in ``EFFORTS``.
        known: Ops that a table of the same device profile has already.

    Raises:
        InvalidInput: There is no such effort.
    """
    half = profiling_effort(effort).subnets // 2
    networks = probes(space, predictor, half) if predictor else ()
    return plan_profiling(space, known, effort, networks=networks)


def probes(
    space: SearchSpace, predictor: AccuracyPredictor, count: int, seed: int = 0
) -> tuple[Architecture, ...]:
    """The best architectures at limits on MACs that are spread over the feasible range, smallest limit first.

    Args:
        space: The space.
        predictor: Of the supernet.
        count: How many limits, evenly in their logarithms.
        seed: Of the searches.

    Returns:
        At most ``count`` architectures, all different: beyond some limit the best one stays the same.
    """
    low, high = feasible_ranges(space, None)["macs"]
    limits = np.geomspace(low, high, count + 2)[1:-1].tolist()
    problems = [Problem(space, predictor, (Constraint("macs", limit),), seed=seed) for limit in limits]
    return tuple(dict.fromkeys(search(problem).best.architecture for problem in problems))
