import json
from pathlib import Path

import numpy as np
import pytest

from bespoke.predictors.dataset import (
    AccuracyDataset,
    Measurement,
    Shard,
    collect,
    measured,
    merge_datasets,
    read_dataset,
    write_dataset,
)
from bespoke.supernet.architecture import Architecture
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.genomes import stratified
from bespoke.supernet.spaces import space as make_space

SPACE = make_space("ofa-mobilenetv3-w1.0", (96, 112, 128), 10)


def accuracy(architecture: Architecture) -> float:
    return int(architecture.digest[:6], 16) / 16**6


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "data" / "set.jsonl"
    calls = 0

    def interrupted(architecture: Architecture) -> float:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return accuracy(architecture)

    with pytest.raises(KeyboardInterrupt):
        collect(SPACE, 10, interrupted, path, 0)
    with path.open("a") as file:
        file.write('{"architecture": {"ker')  # as a crash leaves it
    asked = []
    found = collect(SPACE, 10, lambda a: asked.append(a) or accuracy(a), path, 0, images=500)  # type: ignore[func-returns-value]
    assert len(asked) == 7
    assert found.architectures == stratified(SPACE, 10, 0)
    assert found.top1 == tuple(accuracy(a) for a in found.architectures)
    assert found.images == (0,) * 3 + (500,) * 7
    assert len(path.read_text().splitlines()) == 10
    assert read_dataset(path, SPACE) == found


def test_a_finished_set_is_only_read(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    first = collect(SPACE, 5, accuracy, path, 0)
    content = path.read_bytes()

    def forbidden(architecture: Architecture) -> float:
        raise AssertionError(architecture)

    assert collect(SPACE, 5, forbidden, path, 0) == first
    assert len(collect(SPACE, 3, forbidden, path, 0)) == 3
    assert path.read_bytes() == content


def test_what_was_measured_on_another_number_of_images_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    collect(SPACE, 2, accuracy, path, 0, images=500)
    with pytest.raises(FileInvalid, match="measured on 500 images, and here are 1000"):
        collect(SPACE, 4, accuracy, path, 0, images=1000)
    assert len(collect(SPACE, 4, accuracy, path, 0, images=500)) == 4


def test_wrong_lines_and_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"architecture": {"kernel": 3}, "top1": 0.5}) + "\n")
    with pytest.raises(FileInvalid, match="line 1"):
        read_dataset(path, SPACE)
    with pytest.raises(InvalidInput, match="share"):
        collect(SPACE, 1, lambda _: 76.4, tmp_path / "new.jsonl", 0)
    assert np.size(read_dataset(tmp_path / "absent.jsonl", SPACE).top1) == 0


def test_workers_share_a_set_out_and_their_files_make_the_whole(tmp_path: Path) -> None:
    whole = collect(SPACE, 10, accuracy, tmp_path / "whole.jsonl", 0, images=500)
    files = [tmp_path / f"{number}.jsonl" for number in range(3)]
    for number, file in enumerate(files):
        own = collect(SPACE, 10, accuracy, file, 0, images=500, shard=Shard(number, 3))
        assert own.architectures == whole.architectures[number::3]
    merged = merge_datasets(files, SPACE)
    assert merged == whole
    write_dataset(merged, tmp_path / "merged.jsonl")
    assert read_dataset(tmp_path / "merged.jsonl", SPACE) == whole
    again = collect(SPACE, 4, lambda _: 0.5, tmp_path / "again.jsonl", 0, images=500)
    assert merge_datasets([*files, tmp_path / "again.jsonl"], SPACE) == whole  # the first line of each counts
    assert set(again.architectures) < set(whole.architectures)


def test_a_data_set_that_held_more_is_kept_beside_the_one_that_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "accuracy.jsonl"
    first = collect(SPACE, 4, accuracy, tmp_path / "first.jsonl", 0, images=500)
    more = collect(SPACE, 6, accuracy, tmp_path / "more.jsonl", 0, images=500)
    other = collect(SPACE, 3, accuracy, tmp_path / "other.jsonl", 1, images=500)
    write_dataset(first, path)
    write_dataset(more, path)
    assert sorted(tmp_path.glob("accuracy*")) == [path]
    write_dataset(other, path)
    kept, _ = sorted(tmp_path.glob("accuracy*"))
    assert (read_dataset(path, SPACE), read_dataset(kept, SPACE)) == (other, more)


def test_a_shard_that_is_none_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="shard 3/3"):
        Shard(3, 3)
    with pytest.raises(FileInvalid, match="no such file"):
        merge_datasets([tmp_path / "absent.jsonl"], SPACE)


def test_rounds_are_kept_and_come_last(tmp_path: Path) -> None:
    path, chosen = tmp_path / "set.jsonl", stratified(SPACE, 4, 1)
    measured(SPACE, chosen[:2], accuracy, path, number=2)
    collect(SPACE, 3, accuracy, path, 0)
    assert read_dataset(path, SPACE).rounds == (2, 2, 0, 0, 0)
    merged = merge_datasets([path], SPACE)
    assert merged.rounds == (0, 0, 0, 2, 2)
    assert merged.architectures[3:] == chosen[:2]


def test_soft_edges_are_kept_where_they_were_measured(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    collect(SPACE, 2, accuracy, path, 0)
    found = collect(SPACE, 4, lambda a: Measurement(accuracy(a), accuracy(a) / 2), path, 0)
    assert found.smooth == (None, None, found.top1[2] / 2, found.top1[3] / 2)
    assert read_dataset(path, SPACE) == merge_datasets([path], SPACE) == found


def test_targets_are_top1_without_the_noise_that_soft_edges_lack() -> None:
    rng, count = np.random.default_rng(0), 400
    truth = rng.uniform(0.7, 0.8, count)
    top1, smooth = truth + rng.normal(0, 0.01, count), 0.9 * truth - 0.02
    chosen = stratified(SPACE, count, 0)
    both = AccuracyDataset(chosen, tuple(top1), (1000,) * count, (0,) * count, tuple(smooth))
    assert np.abs(both.targets() - truth).max() < 0.002
    some = AccuracyDataset(chosen, tuple(top1), (1000,) * count, (0,) * count, (*smooth[1:], None))
    np.testing.assert_array_equal(some.targets(), top1)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_bytes(b"\x93NUMPY\x00\n\xff\n")
    with pytest.raises(FileInvalid, match="expected the JSON lines of a data set"):
        merge_datasets([tmp_path / "set.jsonl"], SPACE)
