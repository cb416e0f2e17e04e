import numpy as np
import pytest

from bespoke.predictors import MlpPredictor
from bespoke.search import Constraint, LatencyPricer, Problem, feasible_ranges, restrict, search
from bespoke.supernet.architecture import Genomes, SearchSpace, encode
from bespoke.supernet.cost import SlotTable, op_weights
from bespoke.supernet.errors import BudgetInfeasible, ConstraintInvalid
from tests.search.test_evolution import QUICK


class SmallCache:
    """A device whose ops take time by their weights alone."""

    overhead_ms = 1.0
    additive = True

    def __init__(self, space: SearchSpace) -> None:
        self.slots = SlotTable(space, lambda op: op_weights(op) / 5e5)

    def latency_ms(self, genomes: Genomes) -> np.ndarray:
        return self.overhead_ms + self.slots.total(genomes)

    def interval_ms(self, latency_ms: np.ndarray, confidence: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        half = confidence / 3
        return (1 - half) * latency_ms, (1 + half) * latency_ms


@pytest.fixture(scope="module")
def board(space: SearchSpace) -> SmallCache:
    return SmallCache(space)


def test_limits_on_several_devices_hold_at_once(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer, board: SmallCache
) -> None:
    asked = (
        Constraint("latency_ms", 5),
        Constraint("latency_ms", 5.4, device="board"),
        Constraint("latency_ms", 6, 0.9, device="phone"),
    )
    devices = {"board": board, "phone": latency}
    found = search(Problem(space, predictor, asked, latency, 0, QUICK, devices))
    alone = search(Problem(space, predictor, asked[:1], latency, 0, QUICK))
    for candidate in found.front:
        genome = encode(space, [candidate.architecture])
        assert candidate.metrics["latency_ms"] == latency.latency_ms(genome)[0] <= 5
        assert candidate.metrics["latency_ms:board"] == board.latency_ms(genome)[0] <= 5.4
        assert candidate.metrics["latency_ms:phone"] == candidate.metrics["latency_ms"]
        assert candidate.latency_intervals_ms["phone"][1] <= 6
        assert candidate.latency_intervals_ms["board"] == pytest.approx(
            (0.7 * candidate.metrics["latency_ms:board"], 1.3 * candidate.metrics["latency_ms:board"])
        )
    assert board.latency_ms(encode(space, [alone.best.architecture]))[0] > 5.4


def test_a_named_device_may_be_the_only_one(
    space: SearchSpace, predictor: MlpPredictor, board: SmallCache
) -> None:
    limit = (Constraint("latency_ms", 10, device="board"),)
    best = search(Problem(space, predictor, limit, None, 0, QUICK, {"board": board})).best
    assert "latency_ms" not in best.metrics
    assert best.latency_interval_ms is None
    assert 9 < best.metrics["latency_ms:board"] <= 10


def test_refusals_name_the_device(space: SearchSpace, predictor: MlpPredictor, board: SmallCache) -> None:
    limit = (Constraint("latency_ms", 1.5, device="board"), Constraint("macs", 1e9))
    with pytest.raises(BudgetInfeasible) as caught:
        search(Problem(space, predictor, limit, None, 0, QUICK, {"board": board}))
    low, high = feasible_ranges(space, None, {"board": board})["latency_ms:board"]
    assert caught.value.limits == {"latency_ms:board": 1.5, "macs": 1e9}
    assert caught.value.feasible["latency_ms:board"] == (low, high)
    assert caught.value.relax == {"latency_ms:board": low}


def test_a_restricted_problem_keeps_its_devices(
    space: SearchSpace, predictor: MlpPredictor, board: SmallCache
) -> None:
    limit = (Constraint("latency_ms", 10, device="board"),)
    problem = Problem(space, predictor, limit, None, 0, QUICK, {"board": board})
    best = search(restrict(problem, {"resolution": (112,), "kernel": (3,)})).best
    genome = encode(space, [best.architecture])
    assert best.architecture.resolution == 112
    assert best.metrics["latency_ms:board"] == board.latency_ms(genome)[0] <= 10


def test_a_device_is_known_and_of_a_latency(space: SearchSpace, predictor: MlpPredictor) -> None:
    with pytest.raises(ConstraintInvalid, match="latency_ms only"):
        Constraint("macs", 1e8, device="board")
    with pytest.raises(ConstraintInvalid, match="name of a device"):
        Constraint("latency_ms", 5, device="")
    with pytest.raises(ConstraintInvalid, match="one of the devices"):
        Problem(space, predictor, (Constraint("latency_ms", 5, device="board"),))
