from pathlib import Path

import numpy as np
import pytest

from bespoke.predictors.active import collect_actively, most_unsure
from bespoke.predictors.dataset import read_dataset
from bespoke.predictors.kriging import uncertainty
from bespoke.supernet.architecture import Architecture, encode
from bespoke.supernet.cost import CostTable
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import stratified
from bespoke.supernet.spaces import space as make_space

SPACE = make_space("ofa-mobilenetv3-w1.0", (96, 112, 128), 10)
TABLE = CostTable(SPACE)


def accuracy(architecture: Architecture) -> float:
    return float(0.1 * np.log(TABLE.macs(encode(SPACE, [architecture]))[0]) - 1.2)


def collected(path: Path, count: int = 60, unsure: int = 20, measure: object = accuracy) -> object:
    return collect_actively(SPACE, count, measure, path, 0, unsure=unsure, aside=10)  # type: ignore[arg-type]


def test_rounds_follow_what_the_seed_draws(tmp_path: Path) -> None:
    found = collected(tmp_path / "set.jsonl")
    assert found.architectures[:40] == stratified(SPACE, 40, 0)
    assert found.rounds == (0,) * 40 + (1,) * 10 + (2,) * 10
    assert len(set(found.architectures)) == 60
    assert found.top1 == tuple(accuracy(a) for a in found.architectures)


def test_a_stopped_run_goes_on_in_the_middle_of_a_round(tmp_path: Path) -> None:
    whole, calls = collected(tmp_path / "whole.jsonl"), 0

    def interrupted(architecture: Architecture) -> float:
        nonlocal calls
        calls += 1
        if calls == 54:
            raise KeyboardInterrupt
        return accuracy(architecture)

    with pytest.raises(KeyboardInterrupt):
        collected(tmp_path / "set.jsonl", measure=interrupted)
    assert read_dataset(tmp_path / "set.jsonl", SPACE).rounds.count(2) == 3
    assert collected(tmp_path / "set.jsonl") == whole

    def forbidden(architecture: Architecture) -> float:
        raise AssertionError(architecture)

    assert len(collected(tmp_path / "set.jsonl", measure=forbidden)) == 60


def test_what_is_chosen_is_more_unsure_than_the_rest_and_of_all_sides_and_sizes() -> None:
    seen, pool = stratified(SPACE, 60, 0), stratified(SPACE, 300, 1)
    genomes, top1 = encode(SPACE, seen), np.array([accuracy(a) for a in seen])
    chosen = most_unsure(SPACE, genomes, top1, pool, 45)
    assert len(set(chosen)) == 45
    unsure = [uncertainty(SPACE, genomes, top1, encode(SPACE, among)) for among in (chosen, pool)]
    assert unsure[0].mean() > 1.15 * unsure[1].mean()
    sides = [a.resolution for a in chosen]
    assert [sides.count(side) for side in (96, 112, 128)] == [15, 15, 15]
    macs, of_pool = TABLE.macs(encode(SPACE, chosen)), TABLE.macs(encode(SPACE, pool))
    for side in (96, 112, 128):
        at = [a.resolution == side for a in pool]
        low, high = np.quantile(of_pool[at], (1 / 3, 2 / 3))
        own = macs[np.array(sides) == side]
        assert 4 <= (own < low).sum() <= 6
        assert 4 <= (own > high).sum() <= 6


def test_numbers_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="unsure"):
        collected(tmp_path / "set.jsonl", count=30, unsure=20)
