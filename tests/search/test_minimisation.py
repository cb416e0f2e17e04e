import numpy as np
import pytest

from bespoke.predictors import MlpPredictor
from bespoke.search import Constraint, LatencyPricer, Problem, search
from bespoke.search.evaluator import prices
from bespoke.supernet.architecture import SearchSpace, encode
from bespoke.supernet.errors import BudgetInfeasible, ConstraintInvalid
from tests.conftest import random_predictor
from tests.search.small_space import SmallSpace, every_genome
from tests.search.test_evolution import QUICK


def test_the_least_of_a_metric_at_a_top1_is_that_of_enumeration() -> None:
    space = SmallSpace()
    genomes, rng = every_genome(space), np.random.default_rng(0)
    known = {name: price.of(genomes) for name, price in prices(space, None).items()}
    solved = 0
    for seed in range(30):
        predictor = random_predictor(space, seed)
        top1 = predictor.top1(genomes)
        metric, limited = map(str, rng.choice(list(known), 2, replace=False))
        limit = float(np.quantile(known[limited], rng.uniform(0.3, 1)))
        inside = known[limited] <= limit
        min_top1 = float(np.quantile(top1[inside], rng.uniform(0.5, 0.99)))
        limits = (Constraint(limited, limit),)
        found = search(
            Problem(space, predictor, limits, seed=seed, minimise=metric, min_top1=min_top1, effort=QUICK)
        )
        assert found.best.top1 >= min_top1
        assert found.best.metrics[limited] <= limit
        assert found.best == found.front[0]
        assert all(candidate.top1 >= min_top1 for candidate in found.front)
        solved += found.best.metrics[metric] == known[metric][inside & (top1 >= min_top1)].min()
    assert solved >= 29


def test_less_latency_at_a_top1_agrees_with_more_top1_at_a_latency(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    accurate = search(Problem(space, predictor, (Constraint("latency_ms", 5),), latency)).best
    problem = Problem(space, predictor, (), latency, minimise="latency_ms", min_top1=accurate.top1)
    fast = search(problem).best
    assert fast.top1 >= accurate.top1
    assert fast.metrics["latency_ms"] <= 1.01 * accurate.metrics["latency_ms"]
    confident = (Constraint("latency_ms", 0.9 * accurate.metrics["latency_ms"], 0.9),)
    with pytest.raises(BudgetInfeasible):
        search(Problem(space, predictor, confident, latency, 0, QUICK, {}, "latency_ms", accurate.top1))


def test_a_named_devices_latency_is_minimised(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    problem = Problem(
        space, predictor, effort=QUICK, devices={"a:b": latency}, minimise="latency_ms:a:b", min_top1=0.75
    )
    best = search(problem).best
    own = Problem(space, predictor, latency=latency, effort=QUICK, minimise="latency_ms", min_top1=0.75)
    assert best.metrics["latency_ms:a:b"] == search(own).best.metrics["latency_ms"]
    assert best.metrics["latency_ms:a:b"] == latency.latency_ms(encode(space, [best.architecture]))[0]


def test_a_top1_that_nothing_reaches_is_told_with_the_best_there_is(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    limits = (Constraint("latency_ms", 4), Constraint("params", 1e8))
    highest = search(Problem(space, predictor, (), latency)).best.top1
    within = search(Problem(space, predictor, limits, latency)).best.top1

    def refusal(min_top1: float) -> BudgetInfeasible:
        with pytest.raises(BudgetInfeasible) as caught:
            search(Problem(space, predictor, limits, latency, minimise="macs", min_top1=min_top1))
        return caught.value

    error = refusal((within + highest) / 2)
    assert error.limits == {"latency_ms": 4, "params": 1e8, "top1": (within + highest) / 2}
    assert error.relax == {"top1": error.feasible["top1"][1]}
    assert error.relax["top1"] == pytest.approx(within, abs=0.002)
    assert error.nearest["metrics"]["top1"] == error.relax["top1"]
    assert error.conflicts == [["latency_ms", "top1"]]
    assert "top1 >= " in str(error)
    assert refusal(min(1.0, highest + 0.05)).conflicts == [["top1"]]


@pytest.mark.parametrize(
    ("minimise", "min_top1", "complaint"),
    [
        ("macs", None, "together"),
        (None, 0.8, "together"),
        ("watts", 0.8, "one of macs"),
        ("latency_ms", 0.8, "one of macs"),
        ("latency_ms:board", 0.8, "one of macs"),
        ("macs", 0, "more than 0"),
        ("macs", 1.01, "more than 0"),
        ("macs", float("nan"), "more than 0"),
        ("macs", True, "more than 0"),
    ],
)
def test_what_cannot_be_minimised_is_refused(
    minimise: str | None, min_top1: float | None, complaint: str
) -> None:
    space = SmallSpace()
    with pytest.raises(ConstraintInvalid, match=complaint):
        Problem(space, random_predictor(space), minimise=minimise, min_top1=min_top1)
