"""From a trained supernet to a zoo entry: accuracy data set, predictor, and a card of measured numbers.

Everything resumes: each measurement is appended to a file, and the rest is quick.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bespoke.predictors.accuracy import MlpPredictor, read_predictor
from bespoke.predictors.active import collect_actively
from bespoke.predictors.dataset import (
    DATASET,
    AccuracyDataset,
    Measure,
    Measurement,
    Shard,
    collect,
    measured,
    read_dataset,
    set_aside,
    write_dataset,
)
from bespoke.predictors.fitting import Learner, cross_predictions, fit, learner_of, rmse
from bespoke.predictors.gaussian import GaussianPredictor
from bespoke.predictors.selection import selection_error
from bespoke.supernet import zoo
from bespoke.supernet.agreement import kendall_tau
from bespoke.supernet.architecture import Architecture, Genomes, encode
from bespoke.supernet.cost import CostTable
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.genomes import largest, random_architecture, smallest
from bespoke.supernet.subnet import load_supernet
from bespoke.supernet.training.data import ImageSet
from bespoke.supernet.training.evaluation import (
    LabelledImages,
    calibrated_statistics,
    subnet_score,
    subnet_top1,
)
from bespoke.supernet.whole_files import write_file

RANDOM_SUBNETS, RANDOM_SEED = 50, 2026
FEWEST_TO_SELECT = 50
"""Subnets in which searches are simulated."""
FEWEST_SEARCHED, FEWEST_RANDOM = 5, 10
"""Subnets on which it is measured how much better searched ones are predicted than they are."""
OF_STATISTICS = (
    "top1_largest", "top1_smallest", "top1_mean_random", "top1_worst_random", "top1_mean_recalibrated",
    "bn_table_gap", "random_subnets", "validation_images", "random_points", "front_points",
    "predictor_search_bias",
)  # fmt: skip
"""Fields of a card that hold for one table of BN statistics."""
FRONT_DRAWN, EFFECTS_DRAWN = Path("plots", "top1_macs.png"), Path("plots", "effects.png")
"""A card's pictures, in the entry's folder."""

Report = Callable[[str], None]


def measure_subnets(
    entry: zoo.ZooEntry,
    held_out: ImageSet,
    subnets: int,
    dataset: Path,
    *,
    seed: int = 0,
    views: int = 1,
    unsure: int = 0,
    shard: Shard | None = None,
    key: str = "",
    device: torch.device | str = "cpu",
    report: Report = print,
) -> AccuracyDataset:
    """Measure subnets on held-out training images.

    Args:
        entry: A zoo entry with weights and statistics.
        held_out: Training images that the supernet never saw.
        subnets: How many to measure, of all workers together.
        dataset: JSON lines of what was measured; appended to, so that a stopped run goes on.
        seed: Of the sampling.
        views: In how many ways each image is looked at.
        unsure: How many of the subnets are chosen for a predictor being unsure of them; without
            shards only.
        shard: Which subnets are this worker's; all unless given.
        key: Names the images (``images_key``), and is written beside each measurement.
        device: Where the subnets run.
        report: Gets a line of progress now and then.

    Raises:
        FileInvalid: The file holds something else, or what was measured of another supernet, or on
            other images, or on another number of them.
    """
    images = LabelledImages(held_out, views=views)
    check_measurable(entry, dataset, key)
    score = top1_measure(entry, images, key=key, device=device)
    began, done = time.monotonic(), 0

    def measure(architecture: Architecture) -> Measurement:
        nonlocal done
        found = score(architecture)
        done += 1
        if done % 25 == 0:
            report(f"measured {done} subnets, {(time.monotonic() - began) / done:.2f} s each")
        return found

    if shard is not None or not unsure:
        return collect(entry.space, subnets, measure, dataset, seed, images=len(images), shard=shard)
    aside = set_aside(subnets - unsure)
    return collect_actively(
        entry.space, subnets, measure, dataset, seed, unsure=unsure, aside=aside, images=len(images)
    )


def check_measurable(entry: zoo.ZooEntry, dataset: Path, key: str = "") -> None:
    """See that a supernet's subnets can be measured into a file.

    Args:
        entry: A zoo entry.
        dataset: The file.
        key: Names the images (``images_key``), once they are known.

    Raises:
        StatisticsMissing: It has no BN statistics table, with which they could be cut out.
        FileInvalid: The file holds something else, or what was measured of another supernet, or on
            other images.
    """
    entry.check_measurable()
    known = read_dataset(dataset, entry.space)
    if key and set(known.held_out) - {"", key}:
        raise FileInvalid(
            dataset,
            "holds subnets measured on other images, or on images of another side: measure on those (of an "
            "import the same --seed and --side hold them out), or into another file",
        )
    if _of_others(known, entry):
        raise FileInvalid(
            dataset,
            f"holds subnets of a supernet other than {entry.name!r} as it is now: measure into another file",
        )


def top1_measure(
    entry: zoo.ZooEntry,
    images: LabelledImages,
    *,
    key: str = "",
    threads: int | None = None,
    device: torch.device | str = "cpu",
) -> Callable[[Architecture], Measurement]:
    """What measures the subnets of a supernet, whose weights are loaded once.

    Args:
        entry: A zoo entry with weights and statistics.
        images: What to measure on.
        key: Names the images (``images_key``).
        threads: Threads of the runtime; as many as torch takes unless given.
        device: Where the subnets run.
    """
    network, table = load_supernet(entry)

    def measure(architecture: Architecture) -> Measurement:
        score = subnet_score(network, architecture, table, images, threads, device)
        return Measurement(score.top1, round(score.smooth, 6), entry.digest, key)

    return measure


def fit_predictor(
    entry: zoo.ZooEntry,
    dataset: AccuracyDataset,
    *,
    seed: int = 0,
    learner: str | None = None,
    report: Report = print,
) -> dict[str, Any]:
    """Fit the predictor on measured subnets, judge it, and save it into the entry, with the data set.

    It is judged on the first subnets of the set, by a fit that never sees them: those follow from a seed
    alone, whatever rounds came later. The predictor that is saved is fitted on all of them, and so errs
    less than it was judged to.

    Args:
        entry: A zoo entry.
        dataset: Subnets measured on held-out training images.
        seed: Of the fit.
        learner: Names what makes the predictor; see ``learner_of``.
        report: Gets a line of progress.

    Returns:
        The card's fields on the predictor.

    Raises:
        NotFound: There is no such learner.
        InvalidInput: It cannot be fitted on so many; or the data set holds subnets of another supernet, or
            was measured in several ways.
    """
    own = learner_of(len(dataset), learner)
    if others := _of_others(dataset, entry):
        raise InvalidInput(
            f"data set: got {others} subnets of a supernet other than {entry.name!r} as it is now, expected "
            "none: measure its own into another file"
        )
    if len(ways := {count for count in dataset.images if count}) > 1:
        raise InvalidInput(
            f"data set: got subnets measured on {sorted(ways)} images, views counted, expected one number: "
            "top-1 of other images, or of more views, does not compare"
        )
    if len(sets := {key for key in dataset.held_out if key}) > 1:
        raise InvalidInput(
            f"data set: got subnets measured on {len(sets)} different sets of images, or sides of them, "
            "expected one: top-1 on other images does not compare"
        )
    genomes, top1 = encode(entry.space, dataset.architectures), np.array(dataset.top1)
    aside, targets = set_aside(dataset.rounds.count(0)), dataset.targets()
    unseen, seen = (genomes[:aside], top1[:aside]), (genomes[aside:], targets[aside:])
    report(f"fitting the accuracy predictor on {len(top1)} subnets")
    judged = fit(entry.space, *seen, seed=seed, held_out=unseen, learner=own)
    bias = _selection_bias(entry, genomes, targets, top1, seed, own)
    # What searches were found to promise too much is of the images: it stays until it is measured again.
    taken_off = max(bias or 0.0, entry.card.get("predictor_search_bias") or 0.0)
    saved = own(entry.space, genomes, targets, seed)
    card = {**judged.card, "fitted_on": len(top1)}
    saved = replace(saved, half_width=judged.half_width, selection_bias=taken_off, card=card)
    saved.save(entry.folder / "predictor.json")
    write_dataset(dataset, entry.folder / DATASET)
    predicted = judged.top1(unseen[0])
    soft = None if np.array_equal(targets, top1) else targets[:aside]
    return {
        "predictor_kendall_tau": round(kendall_tau(predicted, unseen[1]), 4),
        "predictor_rmse": round(rmse(predicted, unseen[1]), 5),
        "predictor_kendall_tau_smooth": round(kendall_tau(predicted, targets[:aside]), 4),
        "predictor_rmse_smooth": round(rmse(predicted, targets[:aside]), 5),
        "predictor_kendall_tau_most": None if soft is None else round(kendall_tau(soft, unseen[1]), 4),
        "predictor_rmse_least": None if soft is None else round(rmse(soft, unseen[1]), 5),
        "predictor_half_width": round(judged.half_width, 5),
        "predictor_selection_bias": None if bias is None else round(bias, 5),
        "predictor_subnets": len(seen[1]),
        "predictor_unseen_subnets": aside,
        "predictor_images": max(dataset.images),
    }


def measure_accuracy(
    entry: zoo.ZooEntry,
    validation: ImageSet,
    training: ImageSet | None = None,
    *,
    folder: Path,
    subnets: int = RANDOM_SUBNETS,
    searched: Sequence[Architecture] = (),
    device: torch.device | str = "cpu",
    report: Report = print,
) -> dict[str, Any]:
    """Top-1 on validation images: largest, smallest, random and searched subnets, and the table's gap.

    Args:
        entry: A zoo entry with weights, statistics and predictor.
        validation: Images that nothing was fitted on.
        training: The images to re-calibrate on, to measure the statistics table against that; None
            leaves the gap out.
        folder: Where each measurement is written down, so that a stopped run goes on.
        subnets: How many random subnets.
        searched: What searches found, e.g. at several limits.
        device: Where the subnets run.
        report: Gets a line of progress for each.

    Returns:
        The card's fields on accuracy; every top-1 is in [0, 1].
    """
    network, table = load_supernet(entry)
    images = LabelledImages(validation)
    there = network if torch.device(device).type == "cpu" else copy.deepcopy(network).to(device)
    drawn = _random_subnets(entry, subnets)
    ends = [largest(entry.space), smallest(entry.space)]

    def by_table(architecture: Architecture) -> float:
        return _reported(
            report, subnet_top1(network, architecture, table, images, device=device), architecture
        )

    def recalibrated(architecture: Architecture) -> float:
        assert training is not None
        own = calibrated_statistics(there, architecture, training, device=device)
        return _reported(report, subnet_top1(network, architecture, own, images, device=device), architecture)

    def taken(chosen: Sequence[Architecture], measure: Measure, *on: ImageSet) -> NDArray[np.float64]:
        digests = [digest[:12] for digest in (entry.digest, *(one.digest for one in on))]
        kind = "validation" if measure is by_table else "recalibrated"
        path = folder / f"{kind}-{'-'.join(digests)}.jsonl"
        return np.array(measured(entry.space, chosen, measure, path, images=len(images)).top1)

    top1_ends, top1 = taken(ends, by_table, validation), taken(drawn, by_table, validation)
    card: dict[str, Any] = {
        "top1_largest": round(float(top1_ends[0]), 4),
        "top1_smallest": round(float(top1_ends[1]), 4),
        "top1_mean_random": round(float(np.mean(top1)), 4),
        "top1_worst_random": round(float(np.min(top1)), 4),
        "random_subnets": subnets,
        "validation_images": len(validation),
        "random_points": _points(entry, drawn, top1),
    }
    if searched:
        card["front_points"] = _points(entry, searched, taken(searched, by_table, validation))
        card["predictor_search_bias"] = _search_bias(card["front_points"], card["random_points"])
    if training:
        gaps = (own := taken(drawn, recalibrated, validation, training)) - top1
        card["bn_table_gap"] = {"mean": round(float(gaps.mean()), 4), "worst": round(float(gaps.max()), 4)}
        card["top1_mean_recalibrated"] = round(float(np.mean(own)), 4)
    return card


def correct_for_search(entry: zoo.ZooEntry, fields: Mapping[str, Any]) -> None:
    """Have an entry's predictor take off what its searches promise too much, where that was measured.

    Args:
        entry: The entry, whose predictor is written anew.
        fields: What ``measure_accuracy`` gave.
    """
    predictor = read_predictor(entry.folder / "predictor.json", entry.space)
    assert isinstance(predictor, GaussianPredictor | MlpPredictor)
    bias = fields.get("predictor_search_bias") or 0.0
    if bias > predictor.selection_bias:
        replace(predictor, selection_bias=bias).save(entry.folder / "predictor.json")


def write_card(entry: zoo.ZooEntry, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Merge fields into an entry's card; returns the whole card."""
    return _written(entry, {**entry.card, **fields})


def write_fit(entry: zoo.ZooEntry, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a new predictor's fields into an entry's card; returns the whole card.

    What the predictor before it said goes: random subnets are predicted again, and what it found in
    searches and the pictures are dropped.

    Args:
        entry: An entry with the new predictor.
        fields: What ``fit_predictor`` gave.
    """
    card = {**entry.card, **fields}
    card.pop("front_points", None)
    if points := card.get("random_points"):
        drawn = _random_subnets(entry, len(points))
        again = _points(entry, drawn, np.array([point["top1"] for point in points]))
        same = all(p["macs"] == a["macs"] for p, a in zip(points, again, strict=True))
        bare = [{k: v for k, v in point.items() if k != "top1_predicted"} for point in points]
        card["random_points"] = again if same else bare
    _drop(entry, FRONT_DRAWN, EFFECTS_DRAWN)
    return _written(entry, card)


def write_calibration(entry: zoo.ZooEntry, statistics: str) -> dict[str, Any]:
    """Tell of new BN statistics on an entry's card, without what held for others; returns the whole card.

    Args:
        entry: The entry.
        statistics: What its table was made of.
    """
    card = {name: value for name, value in entry.card.items() if name not in OF_STATISTICS}
    _drop(entry, FRONT_DRAWN)
    return _written(entry, {**card, "bn_statistics": statistics})


def _written(entry: zoo.ZooEntry, card: dict[str, Any]) -> dict[str, Any]:
    write_file(entry.folder / "card.json", json.dumps(card, indent=2) + "\n")
    return card


def _drop(entry: zoo.ZooEntry, *pictures: Path) -> None:
    for picture in pictures:
        (entry.folder / picture).unlink(missing_ok=True)


def _of_others(dataset: AccuracyDataset, entry: zoo.ZooEntry) -> int:
    """How many subnets of a data set were measured of another supernet."""
    return sum(digest not in ("", entry.digest) for digest in dataset.supernets)


def _random_subnets(entry: zoo.ZooEntry, count: int) -> list[Architecture]:
    """The random subnets whose top-1 a card tells."""
    rng = np.random.default_rng(RANDOM_SEED)
    return [random_architecture(entry.space, rng) for _ in range(count)]


def _selection_bias(
    entry: zoo.ZooEntry,
    genomes: Genomes,
    targets: NDArray[np.float64],
    top1: NDArray[np.float64],
    seed: int,
    learner: Learner,
) -> float | None:
    """See ``selection.py``; None where there are too few subnets to tell."""
    if len(top1) < FEWEST_TO_SELECT:
        return None
    crossed = cross_predictions(entry.space, genomes, targets, seed, learner=learner)
    return max(0.0, selection_error(CostTable(entry.space).macs(genomes), crossed, top1, seed))


def _search_bias(searched: Sequence[Mapping[str, Any]], random: Sequence[Mapping[str, Any]]) -> float | None:
    """By how much more than random subnets searched ones are predicted above top-1 on validation images.

    Not below 0; None of too few to tell. What both have in common is no matter of the search: validation
    images may be harder than held-out ones.
    """
    if len(searched) < FEWEST_SEARCHED or len(random) < FEWEST_RANDOM:
        return None
    over = [np.mean([p["top1_predicted"] - p["top1"] for p in points]) for points in (searched, random)]
    return round(max(0.0, float(over[0] - over[1])), 5)


def _points(
    entry: zoo.ZooEntry, architectures: Sequence[Architecture], top1: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Price, predicted and measured top-1 of each, for the card and its plots."""
    genomes = encode(entry.space, architectures)
    macs = CostTable(entry.space).macs(genomes)
    predicted = read_predictor(entry.folder / "predictor.json", entry.space).top1(genomes)
    return [
        {
            "resolution": architecture.resolution,
            "macs": int(macs[i]),
            "top1": round(float(top1[i]), 4),
            "top1_predicted": round(float(predicted[i]), 4),
        }
        for i, architecture in enumerate(architectures)
    ]


def _reported(report: Report, top1: float, architecture: Architecture) -> float:
    report(f"top-1 {top1:.4f} of {architecture.id} at {architecture.resolution} px")
    return top1
