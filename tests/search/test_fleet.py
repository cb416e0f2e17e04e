import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bespoke.predictors import MlpPredictor
from bespoke.search import (
    Constraint,
    Effort,
    FleetResult,
    LatencyPricer,
    Problem,
    feasible_ranges,
    fleet,
    restrict,
    search,
)
from bespoke.search.evaluator import prices
from bespoke.supernet.architecture import Genomes, SearchSpace
from bespoke.supernet.cost import SlotTable, cost, op_macs, op_weights
from bespoke.supernet.errors import BudgetInfeasible, InvalidInput
from tests.conftest import random_predictor
from tests.search.small_space import SmallSpace, every_genome
from tests.search.test_devices import SmallCache
from tests.search.test_evolution import QUICK

SPACE = SmallSpace()
GENOMES = every_genome(SPACE)
THOROUGH = Effort(24, 10)


class Mixed:
    """A device on which MACs and weights take time in its own proportion."""

    overhead_ms = 0.1
    additive = True

    def __init__(self, space: SearchSpace, share: float) -> None:
        self.slots = SlotTable(
            space, lambda op: share * op_macs(op) / 1e5 + (1 - share) * op_weights(op) / 1e3
        )

    def latency_ms(self, genomes: Genomes) -> np.ndarray:
        return self.overhead_ms + self.slots.total(genomes)

    def interval_ms(self, latency_ms: np.ndarray, confidence: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        return 0.9 * latency_ms, (1 + confidence / 9) * latency_ms


def small_fleet(seed: int, count: int) -> dict[str, Problem]:
    """Members with a device, a limit on its latency, and here and there a confidence or a size."""
    rng, predictor = np.random.default_rng(seed), random_predictor(SPACE, seed)
    found = {}
    for i in range(count):
        device = Mixed(SPACE, float(rng.random()))
        quantile = np.quantile(device.latency_ms(GENOMES), rng.uniform(0.1, 0.9))
        limits = [Constraint("latency_ms", float(quantile), 0.8 if rng.random() < 0.3 else None)]
        if rng.random() < 0.3:
            limits.append(Constraint("macs", float(rng.uniform(2e5, 2e6))))
        found[f"board-{i}"] = Problem(SPACE, predictor, tuple(limits), device, seed, THOROUGH)
    return found


def truth(problems: dict[str, Problem], weights: list[float]) -> list[float]:
    """The best mean top-1 with at most 1, 2, ... architectures, by enumeration."""
    from bespoke.search.evaluator import Limits

    top1 = next(iter(problems.values())).predictor.top1(GENOMES)
    fits = np.stack([Limits(problem).meets(GENOMES) for problem in problems.values()])
    count = len(problems)
    means = []
    for groups in range(1, count + 1):
        best = -np.inf
        for labels in itertools.product(range(groups), repeat=count):
            mean = 0.0
            for group in set(labels):
                mine = [i for i in range(count) if labels[i] == group]
                inside = fits[mine].all(axis=0)
                worth = top1[inside].max() if inside.any() else -np.inf
                mean += sum(weights[i] for i in mine) * worth
            best = max(best, mean)
        means.append(best)
    return means


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), count=st.integers(1, 4))
def test_a_fleet_is_parted_as_enumeration_parts_it(seed: int, count: int) -> None:
    problems = small_fleet(seed, count)
    weights = {name: 1.0 + i for i, name in enumerate(problems)}
    shares = [weight / sum(weights.values()) for weight in weights.values()]
    try:
        found = fleet(problems, count, weights)
    except BudgetInfeasible:
        assert truth(problems, shares)[-1] == -np.inf
        return
    assert found.exact
    expected = [
        None if mean == -np.inf else pytest.approx(mean, abs=1e-9) for mean in truth(problems, shares)
    ]
    assert list(found.by_subnets) == expected


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 9), subnets=st.integers(1, 4), tight=st.floats(0.1, 0.9))
def test_all_limits_hold_and_more_subnets_never_cost_more(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer, seed: int, subnets: int, tight: float
) -> None:
    board = SmallCache(space)
    limits = {
        "phone": (latency, (Constraint("latency_ms", 5 + 3 * tight),)),
        "watch": (latency, (Constraint("latency_ms", 6, 0.9), Constraint("params", 6e6))),
        "board": (board, (Constraint("latency_ms", 9 + 3 * tight),)),
        "cloud": (None, (Constraint("macs", 2e8),)),
    }
    problems = {
        name: Problem(space, predictor, limits, pricer, seed, Effort(8, 4))
        for name, (pricer, limits) in limits.items()
    }
    found = fleet(problems, subnets)
    assert len(found.subnets) <= subnets
    assert [member.name for member in found.members] == list(problems)
    for member, problem in zip(found.members, problems.values(), strict=True):
        subnet = found.subnets[member.subnet]
        assert member.top1 == subnet.top1
        assert member.alone_top1 >= member.top1
        for c in problem.constraints:
            value = subnet.metrics[f"latency_ms:{member.name}" if c.metric == "latency_ms" else c.metric]
            upper = (
                problem.latency.interval_ms(np.array([value]), c.confidence)[1][0] if c.confidence else value
            )
            assert upper <= c.limit
        if problem.latency is None:
            assert member.latency_ms is member.latency_interval_ms is None
        else:
            assert member.latency_ms == subnet.metrics[f"latency_ms:{member.name}"]
            assert member.latency_interval_ms[0] < member.latency_ms < member.latency_interval_ms[1]
    assert found.mean_top1 == pytest.approx(np.mean([member.top1 for member in found.members]))
    assert found.mean_top1 == found.by_subnets[subnets - 1]
    assert (np.diff(found.by_subnets) >= 0).all()
    assert (np.diff(found.costs) <= 0).all()
    assert found.costs[-1] == 0


def test_members_of_two_precisions_limit_bytes_each_in_their_own() -> None:
    predictor = random_predictor(SPACE, 3)
    for metric in ("model_size_bytes", "peak_memory_bytes"):
        problems = {}
        for precision, quantile in (("fp32", 0.6), ("int8", 0.4)):
            bytes_of = prices(SPACE, None, None, precision)[metric].of(GENOMES)
            limit = Constraint(metric, float(np.quantile(bytes_of, quantile)))
            problems[precision] = Problem(SPACE, predictor, (limit,), precision=precision)
        found = fleet(problems, 1)
        assert list(found.by_subnets) == [
            pytest.approx(mean, abs=1e-9) for mean in truth(problems, [0.5, 0.5])
        ]
        plan = SPACE.plan(found.subnets[0].architecture)
        for precision, problem in problems.items():
            assert getattr(cost(plan, precision), metric) <= problem.constraints[0].limit


def nested(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer, count: int
) -> dict[str, Problem]:
    """One device with ever wider limits."""
    return {
        f"at-{i}": Problem(space, predictor, (Constraint("latency_ms", 5 + i / 2),), latency, 0, QUICK)
        for i in range(count)
    }


def test_one_for_all_of_one_device_is_the_one_of_its_tightest_limit(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    problems = nested(space, predictor, latency, 4)
    found = fleet(problems, 1)
    alone = search(problems["at-0"]).best
    assert len(found.subnets) == 1
    assert found.subnets[0].architecture == alone.architecture
    # What serves the tightest limit serves all, so that no group has to be searched.
    assert found.searches == 4


def test_large_fleets_are_merged_greedily_and_say_so(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    found = fleet(nested(space, predictor, latency, 10), 3)
    assert not found.exact
    assert len(found.subnets) == 3
    assert len(found.by_subnets) == 10
    assert (np.diff(found.by_subnets) >= 0).all()
    # Neighbouring limits share an architecture.
    assert (np.diff([member.subnet for member in found.members]) >= 0).all()


def test_the_same_fleet_is_answered_alike(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    def run() -> FleetResult:
        return fleet(nested(space, predictor, latency, 3), 2)

    assert run() == run()


def test_a_restricted_fleet_keeps_to_what_is_allowed(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    allowed = {"resolution": (112,), "kernel": (5, 7)}
    problems = {name: restrict(p, allowed) for name, p in nested(space, predictor, latency, 2).items()}
    found = fleet(problems, 2)
    assert {subnet.architecture.resolution for subnet in found.subnets} == {112}
    assert found.members[0].latency_ms <= 5


def test_members_that_no_one_architecture_serves_need_two(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    class Backwards(SmallCache):
        """A device that is faster, the more weights there are."""

        def __init__(self, space: SearchSpace) -> None:
            self.slots = SlotTable(space, lambda op: 2 - op_weights(op) / 1e6)

    device = Backwards(space)
    smallest, largest = (
        feasible_ranges(space, latency)["latency_ms"],
        feasible_ranges(space, device)["latency_ms"],
    )
    problems = {
        "small": Problem(
            space, predictor, (Constraint("latency_ms", 1.01 * smallest[0]),), latency, 0, QUICK
        ),
        "large": Problem(
            space,
            predictor,
            (Constraint("latency_ms", 1.01 * largest[0]),),
            device,
            0,
            QUICK,
        ),
    }
    with pytest.raises(BudgetInfeasible) as caught:
        fleet(problems, 1)
    assert set(caught.value.limits) == {"latency_ms:small", "latency_ms:large"}
    found = fleet(problems, 2)
    assert found.by_subnets[0] is None
    assert found.costs == (None, 0.0)
    others = {f"any-{i}": replace(problems["small"], constraints=()) for i in range(8)}
    with pytest.raises(BudgetInfeasible):  # also in a large fleet, where one of them counts next to nothing
        fleet(problems | others, 1, {"small": 5e-324})


def test_a_member_whose_limits_cannot_be_met_is_named(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    problems = nested(space, predictor, latency, 2)
    problems["watch"] = replace(problems["at-0"], constraints=(Constraint("latency_ms", 0.3),))
    with pytest.raises(BudgetInfeasible, match="latency_ms:watch"):
        fleet(problems, 2)


def test_fleets_that_do_not_fit_together_are_refused(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    problems = nested(space, predictor, latency, 2)
    with pytest.raises(InvalidInput, match="no members"):
        fleet({}, 1)
    with pytest.raises(InvalidInput, match="got 0 subnets"):
        fleet(problems, 0)
    with pytest.raises(InvalidInput, match="weight of 'phone'"):
        fleet(problems, 1, {"phone": 1.0})
    with pytest.raises(InvalidInput, match="positive number"):
        fleet(problems, 1, {"at-0": -1.0})
    problems["other"] = Problem(space, random_predictor(space, 1), (), latency)
    with pytest.raises(InvalidInput, match="'other': got another space or predictor"):
        fleet(problems, 1)
