import math

import pytest

from bespoke.predictors import MlpPredictor
from bespoke.search import Constraint, Effort, Problem
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import ConstraintInvalid, InvalidInput


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf, "20", True, None])
def test_a_limit_is_a_positive_finite_number(limit: object) -> None:
    with pytest.raises(ConstraintInvalid, match="positive"):
        Constraint("macs", limit)  # type: ignore[arg-type]


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConstraintInvalid, match="peak_memory_bytes"):
        Constraint("watts", 3)


def test_a_latency_limit_needs_a_pricer_and_a_metric_has_one_limit(
    space: SearchSpace, predictor: MlpPredictor
) -> None:
    with pytest.raises(ConstraintInvalid, match="latency table"):
        Problem(space, predictor, (Constraint("latency_ms", 20),))
    with pytest.raises(ConstraintInvalid, match="one limit"):
        Problem(space, predictor, (Constraint("macs", 1e8), Constraint("macs", 2e8)))


def test_a_precision_is_a_known_one_and_of_bytes_only(space: SearchSpace, predictor: MlpPredictor) -> None:
    with pytest.raises(ConstraintInvalid, match="one of fp32, int8"):
        Problem(space, predictor, precision="int4")
    with pytest.raises(ConstraintInvalid, match="one of fp32, int8"):
        Constraint("model_size_bytes", 1e6, precision="int4")
    with pytest.raises(ConstraintInvalid, match="a precision with peak_memory_bytes and model_size"):
        Constraint("macs", 1e6, precision="int8")


@pytest.mark.parametrize("seed", [-1, 0.5, True, "1"])
def test_a_seed_is_a_whole_number_of_at_least_0(
    seed: object, space: SearchSpace, predictor: MlpPredictor
) -> None:
    with pytest.raises(ConstraintInvalid, match="seed"):
        Problem(space, predictor, seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("effort", [(3, 10), (10, 0), (10**6, 10), (10, 10**5)])
def test_effort_has_bounds(effort: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match="effort"):
        Effort(*effort)
