"""Search: the most accurate architecture within limits, in milliseconds."""

from bespoke.search.evaluator import feasible_ranges
from bespoke.search.evolution import search
from bespoke.search.fleet import FleetMember, FleetResult, fleet
from bespoke.search.front import Front, pareto_front
from bespoke.search.pareto import hypervolume, non_dominated
from bespoke.search.probes import probes, table_plan
from bespoke.search.problem import (
    METRICS,
    Candidate,
    Constraint,
    Effort,
    LatencyPricer,
    Problem,
    SearchResult,
)
from bespoke.search.restriction import restrict

__all__ = [
    "METRICS",
    "Candidate",
    "Constraint",
    "Effort",
    "FleetMember",
    "FleetResult",
    "Front",
    "LatencyPricer",
    "Problem",
    "SearchResult",
    "feasible_ranges",
    "fleet",
    "hypervolume",
    "non_dominated",
    "pareto_front",
    "probes",
    "restrict",
    "search",
    "table_plan",
]
