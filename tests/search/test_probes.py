"""Networks that judge a table are such as searches deliver."""

import numpy as np
import pytest

from bespoke.latency_tables import EFFORTS, plan_profiling
from bespoke.predictors import MlpPredictor
from bespoke.search import probes, table_plan
from bespoke.supernet.architecture import SearchSpace, encode
from bespoke.supernet.cost import cost
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import stratified


def test_probes_are_different_networks_of_all_sizes(space: SearchSpace, predictor: MlpPredictor) -> None:
    found = probes(space, predictor, 8)
    assert 4 <= len(found) == len(set(found)) <= 8
    macs = [cost(space.plan(one)).macs for one in found]
    assert max(macs) > 2 * min(macs)
    assert probes(space, predictor, 8) == found


def test_probes_are_more_accurate_than_random_networks_of_their_size(
    space: SearchSpace, predictor: MlpPredictor
) -> None:
    found, drawn = probes(space, predictor, 6), stratified(space, 200, 3)
    top1 = predictor.top1(encode(space, drawn))
    macs = np.array([cost(space.plan(one)).macs for one in drawn])
    for one, value in zip(found, predictor.top1(encode(space, found)), strict=True):
        assert value >= top1[macs <= cost(space.plan(one)).macs].max(initial=0)


def test_half_of_a_tables_networks_are_probes(space: SearchSpace, predictor: MlpPredictor) -> None:
    half = EFFORTS["quick"].subnets // 2
    plan = table_plan(space, predictor, "quick")
    subnets = [entry.id for entry in plan.entries if entry.kind == "subnet"]
    wanted = [f"subnet:{one.id}" for one in probes(space, predictor, half)]
    assert subnets[: len(wanted)] == wanted
    assert len(subnets) == len(set(subnets)) == 2 * half
    random = [entry.id for entry in plan_profiling(space).entries if entry.kind == "subnet"]
    assert set(subnets[len(wanted) :]) <= set(random)
    others = [entry for entry in plan.entries if entry.kind != "subnet"]
    assert others == [entry for entry in plan_profiling(space).entries if entry.kind != "subnet"]


def test_without_a_predictor_all_networks_are_random(space: SearchSpace) -> None:
    assert table_plan(space, None, "quick") == plan_profiling(space)


def test_an_unknown_effort_is_named(space: SearchSpace, predictor: MlpPredictor) -> None:
    with pytest.raises(InvalidInput, match="heroic"):
        table_plan(space, predictor, "heroic")
