import numpy as np
import pytest

from bespoke.predictors import MlpPredictor
from bespoke.search import Constraint, LatencyPricer, Problem, search
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import BudgetInfeasible, ConstraintInvalid
from tests.search.test_evolution import QUICK


def test_a_limit_with_confidence_holds_for_the_upper_end_of_the_interval(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    found = {}
    for confidence in (None, 0.5, 0.9, 0.99):
        limit = Constraint("latency_ms", 5, confidence)
        best = search(Problem(space, predictor, (limit,), latency, 0, QUICK)).best
        found[confidence] = best.metrics["latency_ms"]
        if confidence:
            upper = latency.interval_ms(np.array([best.metrics["latency_ms"]]), confidence)[1][0]
            assert 4.5 < upper <= 5
    assert found[None] > found[0.5] > found[0.9] > found[0.99]


def test_what_is_refused_is_told_by_the_upper_end(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    with pytest.raises(BudgetInfeasible) as caught:
        search(Problem(space, predictor, (Constraint("latency_ms", 0.5, 0.9),), latency))
    low = caught.value.feasible["latency_ms"][0]
    assert caught.value.relax == {"latency_ms": low}
    found = search(Problem(space, predictor, (Constraint("latency_ms", low, 0.9),), latency, 0, QUICK))
    assert found.best.metrics["latency_ms"] < low


@pytest.mark.parametrize("confidence", [0.4, 1, 2, True, "0.9", float("nan")])
def test_a_confidence_is_a_share(confidence: object) -> None:
    with pytest.raises(ConstraintInvalid, match=r"0\.5 to less"):
        Constraint("latency_ms", 5, confidence)  # type: ignore[arg-type]


def test_a_confidence_is_of_a_latency_only() -> None:
    with pytest.raises(ConstraintInvalid, match="latency_ms only"):
        Constraint("macs", 1e8, 0.9)


class Uncertain:
    """A device of whose predictions nobody measured how far off they are."""

    additive = True
    overhead_ms = 0.0

    def __init__(self, inner: LatencyPricer) -> None:
        self.slots, self.latency_ms = inner.slots, inner.latency_ms

    def interval_ms(self, latency_ms: np.ndarray, confidence: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        return latency_ms, latency_ms


def test_an_unknown_error_gives_no_interval_and_no_confidence(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    device = Uncertain(latency)
    found = search(Problem(space, predictor, (Constraint("latency_ms", 5),), device, effort=QUICK)).best
    assert found.latency_interval_ms is None
    with pytest.raises(ConstraintInvalid, match="whose error on whole networks was measured"):
        Problem(space, predictor, (Constraint("latency_ms", 5, 0.95),), device)
    named = Constraint("latency_ms", 5, 0.95, device="board")
    with pytest.raises(ConstraintInvalid, match="latency_ms:board confidence"):
        Problem(space, predictor, (named,), latency, devices={"board": device})
