import pytest

from bespoke.predictors import MlpPredictor
from bespoke.search import Constraint, LatencyPricer, Problem, search
from bespoke.search.binding import LimitUse, limit_uses
from bespoke.search.restriction import restrict
from bespoke.supernet.architecture import SearchSpace
from tests.search.test_evolution import QUICK


def uses(problem: Problem) -> dict[str, LimitUse]:
    return {use.name: use for use in limit_uses(problem, search(problem).best)}


def test_a_limit_with_room_does_not_bind_and_a_tight_one_does(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    limits = (Constraint("latency_ms", 5, 0.9), Constraint("params", 1e9))
    found = uses(Problem(space, predictor, limits, latency, 0, QUICK))
    assert (found["latency_ms"].binds, found["params"].binds) == (True, False)
    assert 4.5 < found["latency_ms"].used <= 5
    assert found["latency_ms"].confidence == 0.9


def test_nothing_binds_where_the_optimum_is_free(space: SearchSpace, predictor: MlpPredictor) -> None:
    assert not uses(Problem(space, predictor, (Constraint("macs", 1e12),), None, 0, QUICK))["macs"].binds


def test_the_least_accuracy_binds_where_a_metric_is_minimised(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    best = search(Problem(space, predictor, (Constraint("latency_ms", 5),), latency, 0, QUICK)).best
    limits = (Constraint("latency_ms", 50),)
    least = best.top1 - 0.005
    found = uses(Problem(space, predictor, limits, latency, 0, QUICK, minimise="latency_ms", min_top1=least))
    assert (found["top1"].binds, found["latency_ms"].binds) == (True, False)
    assert found["top1"].used >= found["top1"].limit == pytest.approx(least)


def test_what_is_not_allowed_does_not_make_a_limit_bind(space: SearchSpace, predictor: MlpPredictor) -> None:
    smallest = {"kernel": (3,), "expand": (3,), "depth": (2,), "resolution": (96,)}
    macs = search(restrict(Problem(space, predictor, effort=QUICK), smallest)).best.metrics["macs"]
    free = Problem(space, predictor, (Constraint("macs", 1.01 * macs),), None, 0, QUICK)
    assert uses(free)["macs"].binds
    assert not uses(restrict(free, smallest))["macs"].binds


def test_a_restriction_may_exclude_what_stands_in_blocks_that_are_not_there(
    space: SearchSpace, predictor: MlpPredictor
) -> None:
    problem = restrict(
        Problem(space, predictor, (Constraint("macs", 4e7),), None, 0, QUICK),
        {"kernel": (5, 7), "expand": (4, 6), "depth": (2, 3)},
    )
    best = search(problem).best
    assert set(best.architecture["depth"]) != {4}
    (use,) = limit_uses(problem, best)
    assert use.used == best.metrics["macs"] <= 4e7
