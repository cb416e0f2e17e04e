import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from bespoke.predictors import MlpPredictor
from bespoke.search import (
    Constraint,
    Effort,
    LatencyPricer,
    Problem,
    feasible_ranges,
    labels,
    pareto_front,
    restrict,
    search,
)
from bespoke.search.evaluator import Limits, prices
from bespoke.search.feasibility import feasible_genome
from bespoke.supernet.architecture import Genomes, SearchSpace, encode, read_architecture
from bespoke.supernet.cost import SlotTable, op_macs, op_weights
from bespoke.supernet.errors import BudgetInfeasible
from bespoke.supernet.genomes import mutate, sample
from tests.conftest import random_predictor
from tests.search.small_space import SmallSpace, every_genome


@pytest.mark.parametrize("metric", ["latency_ms", "macs", "flops", "params", "peak_memory_bytes"])
def test_the_smallest_feasible_limit_is_met_and_a_smaller_one_is_refused(
    metric: str, space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    low, high = feasible_ranges(space, latency)[metric]
    found = search(Problem(space, predictor, (Constraint(metric, low),), latency))
    assert found.best.metrics[metric] == low
    with pytest.raises(BudgetInfeasible) as caught:
        search(Problem(space, predictor, (Constraint(metric, 0.999 * low),), latency))
    error = caught.value
    assert error.limits == {metric: 0.999 * low}
    assert error.feasible == {metric: (low, high)}
    assert error.relax == {metric: low}
    nearest = read_architecture(space, error.nearest["architecture"])
    value = prices(space, latency)[metric].of(encode(space, [nearest]))[0]
    assert error.nearest["metrics"] == {metric: value} == {metric: low}


def test_an_infeasible_budget_is_answered_in_milliseconds(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    problem = Problem(space, predictor, (Constraint("latency_ms", 0.5),), latency)
    seconds = []
    for _ in range(5):
        began = time.process_time()
        with pytest.raises(BudgetInfeasible):
            search(problem)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.1


def test_mixtures_are_decided_as_by_enumeration() -> None:
    space = SmallSpace()
    predictor = random_predictor(space)
    genomes = every_genome(space)
    names = ("macs", "params", "peak_memory_bytes")
    values = np.stack([prices(space, None)[name].of(genomes) for name in names], axis=1)
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(60):
        limits = values[rng.integers(len(values))] * rng.uniform(0.7, 1.0, 3)
        constraints = tuple(Constraint(n, float(v)) for n, v in zip(names, limits, strict=True))
        problem = Problem(space, predictor, constraints)
        feasible = bool((values <= limits).all(axis=1).any())
        verdicts.append(feasible)
        try:
            genome = feasible_genome(problem, Limits(problem), rng)
            assert feasible
            assert Limits(problem).meets(genome[None])[0]
        except BudgetInfeasible as error:
            assert not feasible
            assert error.relax
            relaxed = np.array([error.relax.get(n, v) for n, v in zip(names, limits, strict=True)])
            assert (values <= relaxed).all(axis=1).any()
    assert 10 < sum(verdicts) < 55


def test_two_limits_that_exclude_each_other_are_told_apart_from_one_that_is_too_tight(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    ranges = feasible_ranges(space, latency)
    tight = Constraint("params", ranges["params"][0])
    wide = Constraint("latency_ms", ranges["latency_ms"][1])
    assert search(Problem(space, predictor, (tight, wide), latency)).best
    with pytest.raises(BudgetInfeasible) as caught:
        search(Problem(space, predictor, (tight, Constraint("latency_ms", 0.5)), latency))
    assert set(caught.value.relax) == {"latency_ms"}


class CachedLatency:
    """A device on which sums mislead: large networks fall out of its cache, by twice."""

    overhead_ms = 0.25
    additive = False

    def __init__(self, space: SearchSpace) -> None:
        self.slots = SlotTable(space, lambda op: op_macs(op) / 2e6 + 0.02)
        self._bytes = SlotTable(space, op_weights)

    def latency_ms(self, genomes: Genomes) -> NDArray[np.float64]:
        weights = self._bytes.total(genomes)
        return (self.overhead_ms + self.slots.total(genomes)) * (1 + 1 / (1 + np.exp((6e3 - weights) / 5e2)))

    def interval_ms(
        self, latency_ms: NDArray[np.float64], confidence: float = 0.9
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return 0.9 * latency_ms, 1.1 * latency_ms


def test_a_space_of_one_architecture_has_a_range_whose_ends_are_one_and_refusals_of_its_own() -> None:
    space = SmallSpace()
    problem = Problem(space, random_predictor(space), latency=CachedLatency(space))
    single = restrict(problem, {d.name: d.choices[:1] for d in space.dimensions})
    low, high = feasible_ranges(single.space, single.latency)["latency_ms"]
    assert low == high == search(single).best.metrics["latency_ms"]
    with pytest.raises(BudgetInfeasible):
        search(replace(single, constraints=(Constraint("latency_ms", 0.9 * low),)))
    assert len(pareto_front(single, ("top1", "latency_ms")).members) == 1


def test_latencies_that_are_no_sums_are_limited_as_they_are() -> None:
    space = SmallSpace()
    predictor, latency, genomes = random_predictor(space), CachedLatency(space), every_genome(space)
    values, top1 = latency.latency_ms(genomes), predictor.top1(genomes)
    assert feasible_ranges(space, latency)["latency_ms"] == (values.min(), values.max())
    hits = 0
    limits = np.quantile(values, np.linspace(0.05, 0.95, 10))
    for limit in limits:
        found = search(Problem(space, predictor, (Constraint("latency_ms", float(limit)),), latency))
        assert found.best.metrics["latency_ms"] <= limit
        hits += found.best.top1 >= top1[values <= limit].max() - 1e-9
    assert hits >= 9
    with pytest.raises(BudgetInfeasible):
        search(Problem(space, predictor, (Constraint("latency_ms", 0.99 * values.min()),), latency))


def test_which_limits_exclude_each_other_is_told_as_by_enumeration() -> None:
    space = SmallSpace()
    predictor, genomes = random_predictor(space), every_genome(space)
    names = ("macs", "params", "peak_memory_bytes", "model_size_bytes")
    values = np.stack([prices(space, None)[name].of(genomes) for name in names], axis=1)
    low, high, rng = values.min(axis=0), values.max(axis=0), np.random.default_rng(1)
    exact, least, refused = 0, 0, 0
    for _ in range(40):
        limits = low + rng.uniform(-0.02, 0.12, 4) * (high - low)
        constraints = tuple(Constraint(n, float(v)) for n, v in zip(names, limits, strict=True))
        try:
            search(Problem(space, predictor, constraints, effort=Effort(4, 1)))
            continue
        except BudgetInfeasible as error:
            caught = error
        refused += 1
        holds = values <= limits
        minimal: list[set[int]] = []
        for some in (set(s) for n in range(1, 5) for s in itertools.combinations(range(4), n)):
            if not any(m <= some for m in minimal) and not holds[:, sorted(some)].all(axis=1).any():
                minimal.append(some)
        exact += caught.conflicts == [[names[i] for i in sorted(some)] for some in minimal]
        excess = np.maximum(values / limits - 1, 0).sum(axis=1).min()
        told = np.array([caught.relax.get(n, v) for n, v in zip(names, limits, strict=True)])
        assert (values <= told).all(axis=1).any()
        least += (told / limits - 1).sum() <= excess + 1e-9
    assert refused > 10
    assert exact == refused
    assert least >= 0.95 * refused


class RandomDevice:
    """A device whose ops take any time."""

    overhead_ms = 0.0
    additive = True

    def __init__(self, space: SearchSpace, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.slots = SlotTable(space, lambda op: float(rng.uniform(0.05, 0.3)))

    def latency_ms(self, genomes: Genomes) -> NDArray[np.float64]:
        return self.slots.total(genomes)

    def interval_ms(
        self, latency_ms: NDArray[np.float64], confidence: float = 0.9
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return 0.9 * latency_ms, 1.1 * latency_ms


@pytest.mark.parametrize("seed", [4, 8, 18])
def test_limits_that_a_known_network_just_meets_are_never_refused(
    space: SearchSpace, predictor: MlpPredictor, seed: int
) -> None:
    devices = {name: RandomDevice(space, 3 * seed + i) for i, name in enumerate("abc")}
    rng = np.random.default_rng(seed)
    known = sample(space, 3000, rng)
    for _ in range(25):  # towards what no device can have much less of
        total = np.sum([device.latency_ms(known) for device in devices.values()], axis=0)
        best = known[np.argsort(total)[:100]]
        known = np.concatenate([best, *(mutate(space, best, 2 / best.shape[1], rng) for _ in range(6))])
    for tight in known[:20:4]:
        for names in ("ab", "abc"):
            limits = tuple(
                Constraint(
                    "latency_ms", 1.0001 * float(devices[name].latency_ms(tight[None])[0]), device=name
                )
                for name in names
            )
            problem = Problem(space, predictor, limits, devices=devices)
            assert Limits(problem).meets(feasible_genome(problem, Limits(problem), rng)[None])[0]


def test_whether_devices_and_memory_can_be_met_together_is_decided_as_by_enumeration() -> None:
    space = SmallSpace()
    predictor, genomes, rng = random_predictor(space), every_genome(space), np.random.default_rng(3)
    met = conflicting = 0
    for seed in range(40):
        devices = {name: RandomDevice(space, 3 * seed + i) for i, name in enumerate("abc")}
        latencies = [device.latency_ms(genomes) for device in devices.values()]
        memory = prices(space, None)["peak_memory_bytes"].of(genomes)
        values = np.stack([*latencies, memory], axis=1)
        low, high = values.min(axis=0), values.max(axis=0)
        limits = low + rng.uniform(0.0, 0.35, 4) * (high - low)
        constraints = [
            Constraint("latency_ms", float(v), device=name) for name, v in zip("abc", limits[:3], strict=True)
        ]
        constraints.append(Constraint("peak_memory_bytes", float(limits[3])))
        problem = Problem(space, predictor, tuple(constraints), devices=devices)
        possible = (values <= limits).all(axis=1).any()
        try:
            feasible_genome(problem, Limits(problem), rng)
            assert possible
            met += 1
        except BudgetInfeasible as error:
            assert not possible
            assert error.relax
            names = [constraint.name for constraint in constraints]
            for conflict in error.conflicts:
                together = [names.index(name) for name in conflict]
                assert not (values <= limits)[:, together].all(axis=1).any()
                conflicting += len(together) > 1
    assert min(met, conflicting) > 5


def test_where_there_is_too_much_to_enumerate_an_evolution_decides(
    space: SearchSpace, predictor: MlpPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "MOST_LABELS", 1)
    devices = {name: RandomDevice(space, i) for i, name in enumerate("ab")}
    (one,) = sample(space, 1, np.random.default_rng(0))
    limits = tuple(
        Constraint("latency_ms", 0.85 * float(device.latency_ms(one[None])[0]), device=name)
        for name, device in devices.items()
    )
    problem = Problem(space, predictor, limits, devices=devices)
    found = feasible_genome(problem, Limits(problem), np.random.default_rng(0))
    assert Limits(problem).meets(found[None])[0]
