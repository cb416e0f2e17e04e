import numpy as np
import pytest

from bespoke.search import METRICS, LatencyPricer, feasible_ranges
from bespoke.search.evaluator import prices
from bespoke.supernet.architecture import SearchSpace, decode
from bespoke.supernet.cost import cost
from bespoke.supernet.genomes import extremes, sample
from bespoke.supernet.spaces import space as make_space
from tests.search.small_space import SmallSpace, every_genome


def test_every_price_is_that_of_the_plan(space: SearchSpace, latency: LatencyPricer) -> None:
    genomes = sample(space, 20, np.random.default_rng(0))
    known = prices(space, latency)
    assert tuple(known) == METRICS
    np.testing.assert_array_equal(known["latency_ms"].of(genomes), latency.latency_ms(genomes))
    for i, genome in enumerate(genomes):
        price = cost(space.plan(decode(space, genome)))
        for name in ("macs", "params", "peak_memory_bytes", "model_size_bytes"):
            assert known[name].of(genomes)[i] == getattr(price, name)
        assert known["flops"].of(genomes)[i] == 2 * price.macs


def test_ranges_are_those_of_enumeration() -> None:
    space = SmallSpace()
    genomes = every_genome(space)
    ranges = feasible_ranges(space, None)
    assert tuple(ranges) == METRICS[1:]
    for name, (low, high) in ranges.items():
        values = prices(space, None)[name].of(genomes)
        assert (low, high) == pytest.approx((values.min(), values.max()))


def test_ranges_of_a_large_space_are_met_by_its_extremes_and_exceeded_by_none(
    space: SearchSpace, latency: LatencyPricer
) -> None:
    genomes = np.concatenate([extremes(space), sample(space, 2000, np.random.default_rng(1))])
    ranges = feasible_ranges(space, latency)
    assert tuple(ranges) == METRICS
    for name, (low, high) in ranges.items():
        values = prices(space, latency)[name].of(genomes)
        assert low <= values.min() <= values.max() <= high
        if name != "peak_memory_bytes":
            assert (values[0], values[1]) == pytest.approx((low, high))


def test_the_published_latency_range_is_found_exactly(official) -> None:  # type: ignore[no-untyped-def]
    from bespoke.latency_tables import read_table

    expected = {160: (9.89, 47.77), 192: (13.33, 67.56), 224: (17.77, 92.40)}
    table = read_table([official / "note10"])
    for side, ends in expected.items():
        space = make_space("ofa-mobilenetv3-w1.2", (side,))
        low, high = feasible_ranges(space, table.pricer(space))["latency_ms"]
        assert (round(low, 2), round(high, 2)) == ends
