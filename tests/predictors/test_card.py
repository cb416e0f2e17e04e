import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bespoke.predictors import GaussianPredictor, read_predictor
from bespoke.predictors.card import (
    correct_for_search,
    fit_predictor,
    measure_accuracy,
    measure_subnets,
    write_card,
    write_fit,
)
from bespoke.predictors.dataset import DATASET, AccuracyDataset, Shard, merge_datasets, read_dataset
from bespoke.supernet import zoo
from bespoke.supernet.architecture import Architecture, encode
from bespoke.supernet.cost import CostTable
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.genomes import stratified
from bespoke.supernet.training.data import ImageSet
from tests.supernet.training.tiny import two_colours


@pytest.fixture
def entry(random_zoo: Path, tmp_path: Path) -> zoo.ZooEntry:
    shutil.copytree(random_zoo / "tiny", tmp_path / "zoo" / "tiny")
    return zoo.entry("tiny", tmp_path / "zoo")


@pytest.fixture
def images() -> ImageSet:
    return two_colours(6)


def dataset_of(entry: zoo.ZooEntry, count: int, noise: float) -> AccuracyDataset:
    """Top-1 that grows with MACs; the last tenth is of round 1."""
    chosen = stratified(entry.space, count, 0)
    macs = CostTable(entry.space).macs(encode(entry.space, chosen))
    top1 = 0.7 + 0.05 * np.log(macs / macs.min()) + np.random.default_rng(0).normal(0, noise, count)
    rounds = tuple(int(i >= 0.9 * count) for i in range(count))
    return AccuracyDataset(chosen, tuple(top1.tolist()), (500,) * count, rounds)


def test_a_fit_is_saved_with_its_data_set_and_what_it_is_worth(entry: zoo.ZooEntry) -> None:
    dataset = dataset_of(entry, 150, noise=0.01)
    fields = fit_predictor(entry, dataset, report=lambda _: None)
    assert (fields["predictor_subnets"], fields["predictor_unseen_subnets"]) == (105, 45)
    assert (
        fields["predictor_kendall_tau_smooth"] == fields["predictor_kendall_tau"]
    )  # there are no soft edges
    assert (fields["predictor_kendall_tau_most"], fields["predictor_rmse_least"]) == (None, None)
    assert fields["predictor_images"] == 500
    assert fields["predictor_kendall_tau"] > 0.4
    predictor = read_predictor(entry.folder / "predictor.json", entry.space)
    assert isinstance(predictor, GaussianPredictor)
    assert predictor.card["fitted_on"] == 150
    # So much noise on what it was fitted on, and so few examples: what it chooses is predicted too high.
    assert 0.0005 < predictor.selection_bias < 0.02
    assert fields["predictor_selection_bias"] == pytest.approx(predictor.selection_bias, abs=1e-5)
    assert predictor.corrected(np.array([0.8]))[0] == pytest.approx(0.8 - predictor.selection_bias)
    assert read_dataset(entry.folder / DATASET, entry.space) == dataset


def test_the_unseen_ones_are_the_first_and_the_saved_predictor_has_seen_all(entry: zoo.ZooEntry) -> None:
    dataset = dataset_of(entry, 90, noise=0.0)
    spoiled = list(dataset.top1)
    spoiled[:27] = [0.123] * 27  # a third of the 81 that follow from the seed
    wrong = AccuracyDataset(dataset.architectures, tuple(spoiled), dataset.images, dataset.rounds)
    right = fit_predictor(entry, dataset, report=lambda _: None)
    assert right["predictor_rmse"] < 0.02
    fields = fit_predictor(entry, wrong, report=lambda _: None)
    # None of the wrong ones was seen by the fit that is judged on them.
    assert fields["predictor_rmse"] == pytest.approx(np.mean(dataset.top1[:27]) - 0.123, abs=0.03)
    saved = read_predictor(entry.folder, entry.space)
    assert saved.top1(encode(entry.space, dataset.architectures[:27])).mean() < 0.6


def test_workers_measure_what_one_measures(entry: zoo.ZooEntry, images: ImageSet, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.jsonl" for number in range(2)]
    for number, file in enumerate(files):
        measure_subnets(entry, images, 3, file, shard=Shard(number, 2), report=lambda _: None)
    whole = measure_subnets(entry, images, 3, tmp_path / "whole.jsonl", report=lambda _: None)
    assert merge_datasets(files, entry.space) == whole
    assert whole.images == (6,) * 3


def test_views_count_as_images(entry: zoo.ZooEntry, images: ImageSet, tmp_path: Path) -> None:
    found = measure_subnets(entry, images, 1, tmp_path / "set.jsonl", views=2, report=lambda _: None)
    assert found.images == (12,)
    assert all(round(top1 * 12) == pytest.approx(top1 * 12) for top1 in found.top1)


def test_a_card_tells_points_and_what_was_measured_is_not_measured_again(
    entry: zoo.ZooEntry, images: ImageSet, tmp_path: Path
) -> None:
    searched, lines = stratified(entry.space, 1, 5), list[str]()
    options = {"folder": tmp_path / "run", "subnets": 2, "searched": searched, "report": lines.append}
    card = measure_accuracy(entry, images, images, **options)  # type: ignore[arg-type]
    assert len(lines) == 2 + 2 + 1 + 2  # largest and smallest, random, searched, and random re-calibrated
    assert [len(card[name]) for name in ("random_points", "front_points")] == [2, 1]
    point = card["front_points"][0]
    assert point["macs"] == int(CostTable(entry.space).macs(encode(entry.space, searched))[0])
    assert {"resolution", "top1", "top1_predicted"} < set(point)
    assert card["top1_mean_random"] == pytest.approx(
        np.mean([p["top1"] for p in card["random_points"]]), abs=1e-4
    )
    gained = card["top1_mean_recalibrated"] - card["top1_mean_random"]
    assert card["bn_table_gap"]["mean"] == pytest.approx(gained, abs=2e-4)
    assert measure_accuracy(entry, images, images, **options) == card  # type: ignore[arg-type]
    assert len(lines) == 7
    written = write_card(entry, card)
    assert json.loads((entry.folder / "card.json").read_text()) == written == entry.card | card


def test_what_searches_promise_too_much_is_measured_and_taken_off(
    entry: zoo.ZooEntry, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_predictor(entry, dataset_of(entry, 60, noise=0.0), report=lambda _: None)
    before = read_predictor(entry.folder / "predictor.json", entry.space)
    searched = stratified(entry.space, 5, 5)

    def top1(network: object, architecture: Architecture, *_: object, **__: object) -> float:
        """Two points below what was predicted, and of searched ones five."""
        (predicted,) = before.top1(encode(entry.space, [architecture]))
        return float(predicted) - (0.05 if architecture in searched else 0.02)

    monkeypatch.setattr("bespoke.predictors.card.subnet_top1", top1)
    options = {"folder": tmp_path, "report": lambda _: None}
    few = measure_accuracy(entry, images, subnets=9, searched=searched, **options)  # type: ignore[arg-type]
    assert few["predictor_search_bias"] is None
    correct_for_search(entry, few)
    assert read_predictor(entry.folder / "predictor.json", entry.space).revision == before.revision
    fields = measure_accuracy(entry, images, subnets=10, searched=searched, **options)  # type: ignore[arg-type]
    assert fields["predictor_search_bias"] == pytest.approx(0.03, abs=2e-4)
    correct_for_search(entry, fields)
    after = read_predictor(entry.folder / "predictor.json", entry.space)
    assert after.selection_bias == fields["predictor_search_bias"]
    # A predictor that is fitted later, of the same supernet, has it too.
    write_card(entry, fields)
    again = zoo.entry("tiny", entry.folder.parent)
    fit_predictor(again, dataset_of(entry, 60, noise=0.0), report=lambda _: None)
    assert read_predictor(again.folder / "predictor.json", entry.space).selection_bias == after.selection_bias


def test_other_validation_images_are_measured_anew(
    entry: zoo.ZooEntry, images: ImageSet, tmp_path: Path
) -> None:
    lines = list[str]()
    for seen in (images, replace(images, stored_NHWC=255 - images.stored_NHWC)):
        measure_accuracy(entry, seen, folder=tmp_path, subnets=1, report=lines.append)
    assert len(lines) == 2 * 3


def test_what_was_measured_of_another_supernet_is_neither_gone_on_with_nor_fitted_on(
    entry: zoo.ZooEntry, images: ImageSet, tmp_path: Path
) -> None:
    measure_subnets(entry, images, 1, tmp_path / "set.jsonl", report=lambda _: None)
    other = replace(entry, digest="other")
    with pytest.raises(FileInvalid, match=r"a supernet other than 'tiny'.*into another file"):
        measure_subnets(other, images, 2, tmp_path / "set.jsonl", report=lambda _: None)
    known = dataset_of(entry, 60, noise=0.01)
    fit_predictor(other, known, report=lambda _: None)
    with pytest.raises(InvalidInput, match="60 subnets of a supernet other than 'tiny'"):
        fit_predictor(other, replace(known, supernets=(entry.digest,) * 60), report=lambda _: None)


def test_a_new_predictor_takes_what_the_old_one_said_off_the_card(
    entry: zoo.ZooEntry, images: ImageSet, tmp_path: Path
) -> None:
    searched = stratified(entry.space, 1, 5)
    told = measure_accuracy(
        entry, images, folder=tmp_path, subnets=2, searched=searched, report=lambda _: None
    )
    write_card(entry, told)
    (entry.folder / "plots").mkdir()
    (entry.folder / "plots" / "top1_macs.png").touch()
    opened = zoo.entry("tiny", entry.folder.parent)
    card = write_fit(opened, fit_predictor(opened, dataset_of(entry, 60, noise=0.0), report=lambda _: None))
    again = measure_accuracy(opened, images, folder=tmp_path, subnets=2, report=lambda _: None)
    assert card["random_points"] == again["random_points"] != told["random_points"]
    assert "front_points" not in card
    assert not list((entry.folder / "plots").iterdir())
    # Points of other subnets, as of a card that something else made, only lose the prediction.
    unlike = [point | {"macs": 1} for point in told["random_points"]]
    kept = write_fit(replace(opened, card=card | {"random_points": unlike}), {})["random_points"]
    assert kept == [{k: v for k, v in point.items() if k != "top1_predicted"} for point in unlike]


@pytest.mark.parametrize(
    ("ways", "told"),
    [
        ({"images": (500,) * 30 + (2000,) * 30}, r"got subnets measured on \[500, 2000\] images"),
        ({"held_out": ("0123-96",) * 30 + ("4567-96",) * 30}, "on 2 different sets of images"),
    ],
)
def test_what_was_measured_on_other_images_or_views_is_not_mixed(
    entry: zoo.ZooEntry, ways: dict[str, Any], told: str
) -> None:
    dataset = dataset_of(entry, 60, noise=0.01)
    with pytest.raises(InvalidInput, match=told):
        fit_predictor(entry, replace(dataset, **ways), report=lambda _: None)
    assert not (entry.folder / DATASET).exists()
