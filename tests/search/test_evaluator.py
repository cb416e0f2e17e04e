import numpy as np
import pytest

from bespoke.predictors import MlpPredictor
from bespoke.search import METRICS, Constraint, LatencyPricer, Problem, feasible_ranges, search
from bespoke.search.evaluator import prices, prices_of
from bespoke.search.problem import BYTES
from bespoke.supernet.architecture import SearchSpace, decode
from bespoke.supernet.cost import cost
from bespoke.supernet.errors import BudgetInfeasible
from bespoke.supernet.genomes import extremes, sample
from bespoke.supernet.spaces import space as make_space
from tests.search.small_space import SmallSpace, every_genome
from tests.search.test_evolution import QUICK


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


def test_bytes_are_those_of_the_precision(space: SearchSpace, predictor: MlpPredictor) -> None:
    genomes = sample(space, 20, np.random.default_rng(0))
    costs = [cost(space.plan(decode(space, genome)), "int8") for genome in genomes]
    for known in (prices(space, None, None, "int8"), prices_of(Problem(space, predictor, precision="int8"))):
        assert tuple(known) == METRICS[1:]
        for name in ("macs", "params", "peak_memory_bytes", "model_size_bytes"):
            np.testing.assert_array_equal(known[name].of(genomes), [getattr(one, name) for one in costs])
    ranges = feasible_ranges(space, None, None, "int8")
    for name, (low, high) in feasible_ranges(space, None).items():
        if name in BYTES:
            assert (ranges[name][0] < 0.4 * low, ranges[name][1] < 0.4 * high) == (True, True)
        else:
            assert ranges[name] == (low, high)


def test_a_limit_may_be_on_bytes_of_another_precision(space: SearchSpace, predictor: MlpPredictor) -> None:
    low, high = feasible_ranges(space, None, None, "int8")["model_size_bytes"]
    limits = (
        Constraint("model_size_bytes", (low + high) / 2, precision="int8"),
        Constraint("model_size_bytes", 1e9),
    )
    best = search(Problem(space, predictor, limits, effort=QUICK)).best
    plan = space.plan(best.architecture)
    assert best.metrics["model_size_bytes:int8"] == cost(plan, "int8").model_size_bytes <= limits[0].limit
    assert best.metrics["model_size_bytes"] == cost(plan).model_size_bytes
    with pytest.raises(BudgetInfeasible) as caught:
        search(Problem(space, predictor, (Constraint("model_size_bytes", low / 2, precision="int8"),)))
    assert caught.value.feasible == {"model_size_bytes:int8": (low, high)}


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
