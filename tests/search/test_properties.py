"""What holds for every search, whatever is asked."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bespoke.predictors import MlpPredictor
from bespoke.search import (
    METRICS,
    Constraint,
    Effort,
    LatencyPricer,
    Problem,
    feasible_ranges,
    restrict,
    search,
)
from bespoke.search.evaluator import prices
from bespoke.supernet.architecture import SearchSpace, encode, read_architecture
from bespoke.supernet.errors import BudgetInfeasible

few = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
shares = st.floats(0.02, 1.0)
limited = st.dictionaries(st.sampled_from(METRICS), shares, min_size=1, max_size=3)
kernels = st.sets(st.sampled_from((3, 5, 7)), min_size=1)
sides = st.sets(st.sampled_from((96, 112, 128)), min_size=1)
efforts = st.builds(Effort, st.integers(4, 40), st.integers(1, 12))
SMALL = Effort(8, 4)


def constraints_of(
    space: SearchSpace, latency: LatencyPricer, asked: dict[str, float]
) -> tuple[Constraint, ...]:
    """Limits that lie at these shares of what the space has."""
    ranges = feasible_ranges(space, latency)
    return tuple(
        Constraint(name, ranges[name][0] + share * (ranges[name][1] - ranges[name][0]))
        for name, share in asked.items()
    )


@few
@given(limited, kernels, sides, st.integers(0, 3), st.integers(0, 2))
def test_whatever_is_returned_is_valid_canonical_and_within_its_limits(
    space: SearchSpace,
    predictor: MlpPredictor,
    latency: LatencyPricer,
    asked: dict[str, float],
    kernel: set[int],
    resolution: set[int],
    seed: int,
    count: int,
) -> None:
    limits = constraints_of(space, latency, asked)
    whole = Problem(space, predictor, limits, latency, seed, SMALL, alternatives=count)
    problem = restrict(whole, {"kernel": sorted(kernel), "resolution": sorted(resolution)})
    try:
        found = search(problem)
    except BudgetInfeasible as error:
        nearest = read_architecture(space, error.nearest["architecture"])
        names = [c.name for c in limits]
        values = [prices(space, latency)[name].of(encode(space, [nearest]))[0] for name in names]
        assert any(value > c.limit for value, c in zip(values, limits, strict=True))
        assert error.relax == {c.name: v for c, v in zip(limits, values, strict=True) if v > c.limit}
        assert error.conflicts
        assert all(set(names) >= set(some) for some in error.conflicts)
        return
    for candidate in (found.best, *found.front, *found.alternatives):
        again = read_architecture(space, candidate.architecture.to_json())
        assert (again, again.id) == (candidate.architecture, candidate.architecture.id)
        assert all(candidate.metrics[c.name] <= c.limit for c in limits)
        assert candidate.architecture.resolution in resolution
        genome = encode(space, [candidate.architecture])
        assert candidate.top1 == pytest.approx(float(predictor.top1(genome)[0]), abs=1e-12)
        active = space.active(genome)[0][:20]
        assert {(3, 5, 7)[i] for i in genome[0][:20][active]} <= kernel
    for one, other in zip(found.front, found.front[1:], strict=False):
        assert one.metrics["latency_ms"] < other.metrics["latency_ms"]
        assert one.top1 < other.top1


@few
@given(efforts, efforts, st.floats(0.05, 0.6), st.integers(0, 5), st.integers(0, 3))
def test_more_effort_never_answers_worse(
    space: SearchSpace,
    predictor: MlpPredictor,
    latency: LatencyPricer,
    one: Effort,
    other: Effort,
    share: float,
    seed: int,
    others: int,
) -> None:
    more = Effort(max(one.population, other.population), max(one.generations, other.generations))
    limits = constraints_of(space, latency, {"latency_ms": share})
    found, better = (
        search(Problem(space, predictor, limits, latency, seed, effort, alternatives=others))
        for effort in (one, more)
    )
    assert better.best.top1 >= found.best.top1
    assert better.evaluations >= found.evaluations


@settings(parent=few, max_examples=4)
@given(efforts, efforts, st.floats(0.68, 0.76), st.integers(0, 5), st.integers(0, 1))
def test_more_effort_never_costs_more_at_a_top1(
    space: SearchSpace,
    predictor: MlpPredictor,
    latency: LatencyPricer,
    one: Effort,
    other: Effort,
    min_top1: float,
    seed: int,
    others: int,
) -> None:
    more = Effort(max(one.population, other.population), max(one.generations, other.generations))
    found, better = (
        search(Problem(space, predictor, (), latency, seed, effort, {}, "latency_ms", min_top1, others)).best
        for effort in (one, more)
    )
    assert better.metrics["latency_ms"] <= found.metrics["latency_ms"]


@few
@given(st.integers(0, 10**6))
def test_networks_that_are_the_same_have_one_id(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [len(d.choices) for d in space.dimensions for _ in range(d.count)]
    genome = rng.integers(0, sizes).astype(np.int16)
    data = {}
    start = 0
    for d in space.dimensions:
        values = [d.choices[i] for i in genome[start : start + d.count]]
        data[d.name] = values[0] if d.scalar else values
        start += d.count
    known = read_architecture(space, data)
    skipped = np.flatnonzero(~space.active(genome[None])[0][:20])
    for block in skipped:
        data["kernel"][block] = int(rng.choice((3, 5, 7)))
        data["expand"][block] = int(rng.choice((3, 4, 6)))
    again = read_architecture(space, data)
    assert (again.id, again.digest) == (known.id, known.digest)
    assert space.plan(again) == space.plan(known)
