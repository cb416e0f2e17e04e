"""Tables fitted to whole networks, on a device whose op prices are known."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from bespoke.latency_tables import (
    DeviceProfile,
    LatencyStat,
    LatencyTable,
    NetworkSample,
    fit_table,
    read_samples,
)
from bespoke.supernet.agreement import spearman
from bespoke.supernet.architecture import SearchSpace, decode
from bespoke.supernet.cost import op_macs
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import sample
from bespoke.supernet.ops import Op
from bespoke.supernet.spaces import space

SPACE = space("ofa-mobilenetv3-w1.0", (96, 112, 128, 144, 160), 10)
PROFILE = DeviceProfile("board", "onnxruntime", "1.0", "CPUExecutionProvider", 1, "fp32", 1, {"cpu": "x"})


def op_ms(op: Op) -> float:
    """A device on which large kernels are slow, SE costs a call, and narrow maps waste lanes."""
    height, width, channels = op.in_shape
    lanes = -(-width // 4) * 4 / width
    values = height * width * max(channels, op.mid_channels)
    return 0.02 + 0.03 * op.se + lanes * (1 + 0.1 * op.kernel) * op_macs(op) / 4e8 + values / 6e6


@pytest.fixture(scope="module")
def truth() -> LatencyTable:
    ops = {op.key: op for slot in SPACE.slots for op in slot.ops if op}
    return LatencyTable(PROFILE, {key: LatencyStat(ms, ms, ms, 1, 0) for key, ms in prices(ops).items()})


def prices(ops: dict[str, Op]) -> dict[str, float]:
    return {key: op_ms(op) for key, op in ops.items()}


def measured(
    truth: LatencyTable, count: int, seed: int = 0, noise: float = 0.03, sides: Sequence[int] = ()
) -> list[NetworkSample]:
    rng = np.random.default_rng(seed)
    genomes = sample(SPACE, count, rng)
    if sides:
        choices = [SPACE.dimensions[-1].choices.index(side) for side in sides]
        genomes[:, -1] = rng.choice(choices, count)
    latency = truth.pricer(SPACE).latency_ms(genomes) * (1 + noise * rng.standard_normal(count))
    return [NetworkSample(decode(SPACE, g), float(ms)) for g, ms in zip(genomes, latency, strict=True)]


def errors(table: LatencyTable, truth: LatencyTable) -> tuple[float, float]:
    """Mean absolute relative error and Spearman on 300 networks that nobody has seen, at all resolutions."""
    genomes = sample(SPACE, 300, np.random.default_rng(99))
    predicted, seen = (t.pricer(SPACE).latency_ms(genomes) for t in (table, truth))
    return float(np.abs(predicted / seen - 1).mean()), spearman(predicted, seen)


@pytest.fixture(scope="module")
def fitted(truth: LatencyTable) -> LatencyTable:
    return fit_table(SPACE, measured(truth, 200), PROFILE)


def test_unseen_networks_are_priced_better_than_the_log_is_noisy(
    fitted: LatencyTable, truth: LatencyTable
) -> None:
    mape, rank = errors(fitted, truth)
    assert mape < 0.015
    assert rank > 0.995


def test_a_fitted_table_says_how_it_was_made_and_how_good_it_is(fitted: LatencyTable) -> None:
    assert (fitted.source, fitted.provisional) == ("networks", False)
    assert fitted.missing(SPACE) == ()
    assert min(stat.median_ms for stat in fitted.stats.values()) > 0
    card = fitted.quality
    assert card is not None
    assert (card.subnets, card.samples, card.rejected, card.repeat_mape) == (200, 200, 0, 0.0)
    assert len(card.points) == 200
    # Held-out networks are noisy themselves: the mean of |N(0, 3%)| is 2.4%.
    assert 0.018 < card.mape < 0.035
    assert 0.03 < fitted.interval < 0.09
    assert LatencyTable.from_json(json.loads(json.dumps(fitted.to_json()))).revision == fitted.revision


def test_the_interval_holds_nine_of_ten_new_measurements(fitted: LatencyTable, truth: LatencyTable) -> None:
    new = measured(truth, 300, seed=5)
    held = [
        abs(s.latency_ms / fitted.predict(SPACE.plan(s.architecture)) - 1) <= fitted.interval for s in new
    ]
    assert 0.85 <= np.mean(held) <= 1


def test_resolutions_that_the_log_lacks_are_priced_from_shape(truth: LatencyTable) -> None:
    table = fit_table(SPACE, measured(truth, 150, sides=(96, 128, 160)), PROFILE)
    genomes = sample(SPACE, 200, np.random.default_rng(3))
    genomes[:, -1] = np.random.default_rng(4).choice([1, 3], 200)
    predicted, seen = (t.pricer(SPACE).latency_ms(genomes) for t in (table, truth))
    assert np.abs(predicted / seen - 1).mean() < 0.05
    assert spearman(predicted, seen) > 0.99


def test_the_interval_holds_at_resolutions_that_a_log_of_one_resolution_lacks(truth: LatencyTable) -> None:
    table = fit_table(SPACE, measured(truth, 30, sides=(160,)), PROFILE)
    genomes = sample(SPACE, 300, np.random.default_rng(3))
    predicted, seen = (t.pricer(SPACE).latency_ms(genomes) for t in (table, truth))
    assert (np.abs(seen / predicted - 1) <= table.interval).mean() > 0.9
    assert table.interval < 0.5


def test_a_few_gross_outliers_do_not_move_the_fit(truth: LatencyTable) -> None:
    samples = measured(truth, 200)
    for i, factor in zip(range(0, 200, 16), (0.1, 3.0, 10.0, 1.6, 40.0, 0.4) * 3, strict=False):
        samples[i] = replace(samples[i], latency_ms=samples[i].latency_ms * factor)
    table = fit_table(SPACE, samples, PROFILE)
    mape, rank = errors(table, truth)
    assert mape < 0.016
    assert rank > 0.995
    assert table.quality is not None
    assert 11 <= table.quality.rejected <= 15
    assert table.quality.subnets == 200 - table.quality.rejected


def test_repeated_networks_count_once_with_their_median_and_tell_the_repeat_error(
    truth: LatencyTable,
) -> None:
    samples = measured(truth, 40, noise=0.0)
    repeated = [replace(s, latency_ms=s.latency_ms * f) for s in samples for f in (0.98, 1.0, 1.02)]
    disturbed = [replace(repeated[0], latency_ms=30 * repeated[0].latency_ms), *repeated[1:]]
    once, thrice = fit_table(SPACE, samples, PROFILE), fit_table(SPACE, repeated, PROFILE)
    assert thrice.stats.keys() == once.stats.keys()
    for key, stat in thrice.stats.items():
        assert stat.median_ms == pytest.approx(once.stats[key].median_ms, rel=1e-6)
    assert thrice.quality is not None
    assert thrice.quality.repeat_mape == pytest.approx(0.04 / 3)
    assert (thrice.quality.subnets, thrice.quality.samples) == (40, 120)
    assert errors(fit_table(SPACE, disturbed, PROFILE), truth)[0] < errors(once, truth)[0] + 0.002


def test_the_same_log_gives_the_same_table(truth: LatencyTable) -> None:
    samples = measured(truth, 30)
    assert fit_table(SPACE, samples, PROFILE).revision == fit_table(SPACE, samples, PROFILE).revision


def test_too_few_networks_are_refused(truth: LatencyTable) -> None:
    samples = measured(truth, 9)
    with pytest.raises(InvalidInput, match=r"got 9 different networks, expected at least 10.*few-shot"):
        fit_table(SPACE, samples * 3, PROFILE)


def test_another_family_is_priced_too() -> None:
    """Ops of kinds that the MobileNets lack."""
    resnet = space("ofa-resnet50", (128, 160), 10)
    genomes = sample(resnet, 60, np.random.default_rng(0))
    latency = _macs(resnet, genomes) / 1e8 + 1
    samples = [NetworkSample(decode(resnet, g), float(ms)) for g, ms in zip(genomes, latency, strict=True)]
    table = fit_table(resnet, samples, PROFILE)
    unseen = sample(resnet, 100, np.random.default_rng(1))
    expected = _macs(resnet, unseen) / 1e8 + 1
    assert np.abs(table.pricer(resnet).latency_ms(unseen) / expected - 1).mean() < 0.03


def _macs(of: SearchSpace, genomes: np.ndarray) -> np.ndarray:
    from bespoke.supernet.cost import CostTable

    return CostTable(of).macs(genomes)


def lines(samples: Sequence[NetworkSample]) -> list[str]:
    return [json.dumps(s.architecture.to_json() | {"latency_ms": s.latency_ms}) + "\n" for s in samples]


def test_lines_are_read_back(truth: LatencyTable) -> None:
    samples = measured(truth, 12)
    assert read_samples([*lines(samples[:6]), "\n", *lines(samples[6:])], SPACE) == samples
    assert read_samples([], SPACE) == []


def test_what_else_a_log_tells_is_passed_over(truth: LatencyTable) -> None:
    samples = measured(truth, 4)
    told = [json.dumps(json.loads(line) | {"watts": 4, "host": "board-7"}) for line in lines(samples)]
    assert read_samples(told, SPACE) == samples


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"latency_ms": None}, "line 3: latency_ms: got None"),
        ({"latency_ms": 0}, "line 3: latency_ms: got 0"),
        ({"latency_ms": -1.5}, "line 3: latency_ms: got -1.5"),
        ({"latency_ms": True}, "line 3: latency_ms: got True"),
        ({"latency_ms": "5 ms"}, "line 3: latency_ms: got '5 ms'"),
        ({"latency_ms": 1e9}, "line 3: latency_ms: got 1000000000.0"),
        ({"latency_ms": float("nan")}, "line 3: expected an architecture as JSON"),
        ({"depth": [9] * 5}, r"line 3: architecture field 'depth\[0\]'"),
        ({"resolution": 100}, "line 3: architecture field 'resolution'"),
    ],
)
def test_a_wrong_line_is_named(truth: LatencyTable, change: dict[str, object], complaint: str) -> None:
    good = lines(measured(truth, 4))
    good[2] = json.dumps(json.loads(good[2]) | change)
    with pytest.raises(InvalidInput, match=complaint):
        read_samples(good, SPACE)


@pytest.mark.parametrize(
    ("line", "complaint"), [("[1]", "line 1: got"), ("{", "line 1: expected"), ("{}", "line 1")]
)
def test_a_line_that_is_no_network_is_named(line: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        read_samples([line], SPACE)


@pytest.mark.parametrize(("factor", "word"), [(1e-3, "smaller"), (1e3, "larger")])
def test_lines_in_another_unit_are_named(truth: LatencyTable, factor: float, word: str) -> None:
    samples = measured(truth, 40)
    for i in (3, 20):
        samples[i] = replace(samples[i], latency_ms=samples[i].latency_ms * factor)
    with pytest.raises(InvalidInput, match=rf"line 4: .*1000 times {word}.*2 such lines: 4, 21"):
        read_samples(lines(samples), SPACE)


def test_an_outlier_is_no_other_unit(truth: LatencyTable) -> None:
    samples = measured(truth, 40)
    samples[7] = replace(samples[7], latency_ms=samples[7].latency_ms * 100)
    assert read_samples(lines(samples), SPACE) == samples
