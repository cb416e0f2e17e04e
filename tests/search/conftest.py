import numpy as np
import pytest

from bespoke.predictors import MlpPredictor
from bespoke.search import LatencyPricer
from bespoke.supernet.architecture import Genomes, SearchSpace
from bespoke.supernet.cost import SlotTable, op_macs, op_weights
from bespoke.supernet.spaces import space as make_space
from tests.conftest import random_predictor


class MadeUpLatency:
    """A device whose ops take 1 ms a 20 million MACs, 1 ms a million weights, and 0.02 ms each."""

    overhead_ms = 0.25
    additive = True

    def __init__(self, space: SearchSpace) -> None:
        self.slots = SlotTable(space, lambda op: op_macs(op) / 2e7 + op_weights(op) / 1e6 + 0.02)

    def latency_ms(self, genomes: Genomes) -> np.ndarray:
        return self.overhead_ms + self.slots.total(genomes)

    def interval_ms(self, latency_ms: np.ndarray, confidence: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        half = confidence / 9
        return (1 - half) * latency_ms, (1 + half) * latency_ms


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    return make_space("ofa-mobilenetv3-w1.0", (96, 112, 128), 10)


@pytest.fixture(scope="session")
def predictor(space: SearchSpace) -> MlpPredictor:
    return random_predictor(space)


@pytest.fixture(scope="session")
def latency(space: SearchSpace) -> LatencyPricer:
    return MadeUpLatency(space)
