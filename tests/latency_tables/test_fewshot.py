"""Provisional tables of a device that is unlike its reference in known ways."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from bespoke.latency_tables import (
    Correction,
    DeviceProfile,
    LatencyStat,
    LatencyTable,
    NetworkSample,
    choose_networks,
    few_shot_table,
    read_table,
)
from bespoke.supernet.agreement import spearman
from bespoke.supernet.architecture import Architecture
from bespoke.supernet.cost import cost, op_macs
from bespoke.supernet.errors import InvalidInput, TableIncomplete
from bespoke.supernet.genomes import sample
from bespoke.supernet.ops import Op
from bespoke.supernet.spaces import space

SPACE = space("ofa-mobilenetv3-w1.0", (96, 128, 160), 10)
PROFILE = DeviceProfile("new", "onnxruntime", "1.0", "CPUExecutionProvider", 1, "fp32", 1, {"cpu": "y"})
OTHER = DeviceProfile("old", "onnxruntime", "1.0", "CPUExecutionProvider", 1, "fp32", 1, {"cpu": "x"})
OPS = {op.key: op for slot in SPACE.slots for op in slot.ops if op}


def table(op_ms: Callable[[Op], float], overhead_ms: float = 0.0) -> LatencyTable:
    ms = {key: op_ms(op) for key, op in OPS.items()}
    stats = {key: LatencyStat(m, m, m, 30, 0) for key, m in ms.items()}
    return LatencyTable(OTHER, stats, Correction(overhead_ms=overhead_ms))


def old_ms(op: Op) -> float:
    return 0.02 + op_macs(op) / 2e8


def new_ms(op: Op) -> float:
    """Three times as slow, more so for large kernels and SE; calls cost relatively much more."""
    return 3 * (0.05 + 0.05 * op.se + (0.6 + 0.15 * op.kernel) * op_macs(op) / 2e8)


REFERENCE, TRUTH = table(old_ms), table(new_ms)


def measure(architectures: Sequence[Architecture], noise: float = 0.02, seed: int = 0) -> list[NetworkSample]:
    rng = np.random.default_rng(seed)
    return [
        NetworkSample(a, TRUTH.predict(SPACE.plan(a)) * (1 + noise * rng.standard_normal()))
        for a in architectures
    ]


def judge(made: LatencyTable) -> tuple[float, float]:
    """Mean absolute relative error and Spearman on 300 unseen networks."""
    genomes = sample(SPACE, 300, np.random.default_rng(9))
    predicted, seen = (t.pricer(SPACE).latency_ms(genomes) for t in (made, TRUTH))
    return float(np.abs(predicted / seen - 1).mean()), spearman(predicted, seen)


@pytest.fixture(scope="module")
def ten() -> list[Architecture]:
    return choose_networks(SPACE, [REFERENCE], 10)


@pytest.fixture(scope="module")
def made(ten: list[Architecture]) -> LatencyTable:
    return few_shot_table(SPACE, [REFERENCE], measure(ten), PROFILE)


def test_ten_networks_and_a_reference_make_a_provisional_table(made: LatencyTable) -> None:
    mape, rank = judge(made)
    assert mape < 0.06
    assert rank > 0.985
    assert (made.source, made.provisional, made.profile) == ("few-shot", True, PROFILE)
    assert made.missing(SPACE) == ()
    assert min(stat.median_ms for stat in made.stats.values()) > 0
    assert LatencyTable.from_json(made.to_json()).revision == made.revision
    assert made.quality is not None
    assert (made.quality.subnets, made.quality.samples) == (10, 10)


def test_the_interval_holds_nine_of_ten_unseen_networks(made: LatencyTable) -> None:
    genomes = sample(SPACE, 300, np.random.default_rng(10))
    predicted, seen = (t.pricer(SPACE).latency_ms(genomes) for t in (made, TRUTH))
    assert (np.abs(seen / predicted - 1) <= made.interval).mean() >= 0.9
    assert made.interval < 0.4


def test_more_networks_tell_more(ten: list[Architecture], made: LatencyTable) -> None:
    thirty = few_shot_table(SPACE, [REFERENCE], measure(choose_networks(SPACE, [REFERENCE], 35)), PROFILE)
    five = few_shot_table(SPACE, [REFERENCE], measure(ten[:5]), PROFILE)
    none = few_shot_table(SPACE, [REFERENCE], [], PROFILE)
    errors = [judge(t)[0] for t in (none, five, made, thirty)]
    assert errors[0] > 0.5
    assert errors[1] < 0.15
    assert errors[3] < 0.03
    assert errors[3] < errors[2] < errors[0]
    assert judge(thirty)[1] > 0.995


def test_without_a_network_the_reference_stands_and_nothing_is_promised() -> None:
    made = few_shot_table(SPACE, [REFERENCE], [], PROFILE)
    for key, stat in made.stats.items():
        assert stat.median_ms == pytest.approx(REFERENCE.stats[key].median_ms)
        assert stat.samples == 0
    assert made.quality is None
    assert made.interval == 9.0
    assert made.provisional


def test_one_network_sets_the_level(ten: list[Architecture]) -> None:
    made = few_shot_table(SPACE, [REFERENCE], measure(ten[:1]), PROFILE)
    assert judge(made)[0] < 0.4
    assert made.quality is None
    assert 0.1 < made.interval < 1


def test_what_a_reference_costs_beside_its_ops_is_priced(ten: list[Architecture]) -> None:
    with_overhead = table(old_ms, overhead_ms=1.5)
    made = few_shot_table(SPACE, [with_overhead], [], PROFILE)
    genomes = sample(SPACE, 200, np.random.default_rng(2))
    predicted, expected = (t.pricer(SPACE).latency_ms(genomes) for t in (made, with_overhead))
    assert np.median(predicted / expected) == pytest.approx(1, abs=0.05)


def test_of_several_references_the_fitting_one_is_found(ten: list[Architecture]) -> None:
    unlike = table(lambda op: 0.5 + 0.3 * (op.stride == 2))
    like = table(lambda op: 0.1 * new_ms(op))
    both = judge(few_shot_table(SPACE, [unlike, like], measure(ten), PROFILE))
    wrong = judge(few_shot_table(SPACE, [unlike], measure(ten), PROFILE))
    assert both[0] < wrong[0]
    assert both[1] > 0.98


def test_a_reference_that_lacks_resolutions_is_completed_by_shape(ten: list[Architecture]) -> None:
    few = space(SPACE.name, (96, 160), 10)
    known = {op.key for slot in few.slots for op in slot.ops if op}
    partial = LatencyTable(OTHER, {key: stat for key, stat in REFERENCE.stats.items() if key in known})
    assert partial.missing(SPACE)
    completed = few_shot_table(SPACE, [partial], [], PROFILE)
    ratios = [completed.stats[key].median_ms / REFERENCE.stats[key].median_ms for key in REFERENCE.stats]
    assert np.abs(np.array(ratios) - 1).mean() < 0.05
    assert judge(few_shot_table(SPACE, [partial], measure(ten), PROFILE))[1] > 0.98


def test_a_gross_outlier_among_the_few_is_rejected(ten: list[Architecture]) -> None:
    samples = measure(choose_networks(SPACE, [REFERENCE], 15))
    samples[4] = NetworkSample(samples[4].architecture, 20 * samples[4].latency_ms)
    made = few_shot_table(SPACE, [REFERENCE], samples, PROFILE)
    assert made.quality is not None
    assert made.quality.rejected == 1
    assert judge(made)[0] < 0.08


def test_references_are_needed_and_must_be_of_use() -> None:
    with pytest.raises(InvalidInput, match="no reference table"):
        few_shot_table(SPACE, [], [], PROFILE)
    key = next(iter(OPS))
    with pytest.raises(TableIncomplete):
        choose_networks(SPACE, [LatencyTable(OTHER, {key: REFERENCE.stats[key]})])


def test_the_chosen_networks_are_different_and_spread(ten: list[Architecture]) -> None:
    assert len(set(ten)) == 10
    macs = [cost(SPACE.plan(a)).macs for a in ten]
    assert max(macs) > 3 * min(macs)
    assert len({a.resolution for a in ten}) > 1
    assert choose_networks(SPACE, [REFERENCE], 4) == ten[:4]
    assert choose_networks(SPACE, [REFERENCE], 4, seed=1) != ten[:4]
    with pytest.raises(InvalidInput, match="count: got 0"):
        choose_networks(SPACE, [REFERENCE], 0)


def test_chosen_networks_tell_more_than_random_ones(made: LatencyTable) -> None:
    from bespoke.supernet.architecture import decode

    chosen = judge(made)[0]
    random = []
    for seed in range(4):
        drawn = [decode(SPACE, g) for g in sample(SPACE, 10, np.random.default_rng(100 + seed))]
        random.append(judge(few_shot_table(SPACE, [REFERENCE], measure(drawn, seed=seed), PROFILE))[0])
    assert chosen < np.mean(random)


def test_published_tables_are_references(note10: Path) -> None:
    large = space("ofa-mobilenetv3-w1.2", (144, 160, 224))
    reference = read_table([note10])
    made = few_shot_table(large, [reference], [], PROFILE)
    inside = sample(space("ofa-mobilenetv3-w1.2", (160, 224)), 100, np.random.default_rng(0))
    published = reference.pricer(space("ofa-mobilenetv3-w1.2", (160, 224)))
    pricer = made.pricer(space("ofa-mobilenetv3-w1.2", (160, 224)))
    assert spearman(pricer.latency_ms(inside), published.latency_ms(inside)) > 0.999
    assert made.missing(large) == ()


def test_networks_in_different_units_are_refused(ten: list[Architecture]) -> None:
    """Two cannot tell which of them is wrong; the table of both could not be read back."""
    one, other = measure(ten[:2])
    in_us = dataclasses.replace(other, latency_ms=1000 * other.latency_ms)
    with pytest.raises(InvalidInput, match="another unit"):
        few_shot_table(SPACE, [REFERENCE], [one, in_us], PROFILE)
