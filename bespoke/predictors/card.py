"""From a trained supernet to a zoo entry: accuracy data set, predictor, and a card of measured numbers.

Everything resumes: the data set is appended to, and the rest is quick.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bespoke.predictors.dataset import collect
from bespoke.predictors.mlp import fit, rmse
from bespoke.supernet import zoo
from bespoke.supernet.agreement import kendall_tau
from bespoke.supernet.architecture import Architecture, encode
from bespoke.supernet.genomes import largest, random_architecture, smallest
from bespoke.supernet.subnet import load_supernet
from bespoke.supernet.training.data import ImageSet
from bespoke.supernet.training.evaluation import LabelledImages, calibrated_statistics, subnet_top1

RANDOM_SUBNETS, RANDOM_SEED = 50, 2026
UNSEEN = 100
"""Subnets of the data set that the predictor never sees, a third of small sets: for tau, RMSE, interval."""


def fit_predictor(
    entry: zoo.ZooEntry,
    held_out: ImageSet,
    subnets: int,
    dataset: Path,
    *,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure subnets on held-out training images, fit the predictor, and save it into the entry.

    Args:
        entry: A zoo entry with weights and statistics.
        held_out: Training images that the supernet never saw.
        subnets: How many to measure, the unseen ones included.
        dataset: JSON lines of what was measured; appended to, so that a stopped run goes on.
        seed: Of the sampling and of the fit.
        report: Gets a line of progress now and then.

    Returns:
        The card's fields on the predictor.
    """
    network, table = load_supernet(entry)
    images = LabelledImages(held_out)
    began, done = time.monotonic(), 0

    def measure(architecture: Architecture) -> float:
        nonlocal done
        value = subnet_top1(network, architecture, table, images)
        done += 1
        if done % 25 == 0:
            report(f"measured {done} subnets, {(time.monotonic() - began) / done:.2f} s each")
        return value

    measured = collect(entry.space, subnets, measure, dataset, seed, images=len(held_out))
    genomes, top1 = encode(entry.space, measured.architectures), np.array(measured.top1)
    order = np.random.default_rng(seed).permutation(len(top1))
    aside = min(UNSEEN, len(order) // 3)
    unseen, seen = order[:aside], order[aside:]
    predictor = fit(
        entry.space, genomes[seen], top1[seen], seed=seed, held_out=(genomes[unseen], top1[unseen])
    )
    predictor.save(entry.folder / "predictor.json")
    predicted = predictor.top1(genomes[unseen])
    return {
        "predictor_kendall_tau": round(kendall_tau(predicted, top1[unseen]), 4),
        "predictor_rmse": round(rmse(predicted, top1[unseen]), 5),
        "predictor_half_width": round(predictor.half_width, 5),
        "predictor_subnets": len(seen),
        "predictor_unseen_subnets": len(unseen),
        "predictor_images": len(held_out),
    }


def measure_accuracy(
    entry: zoo.ZooEntry,
    validation: ImageSet,
    training: ImageSet | None = None,
    *,
    subnets: int = RANDOM_SUBNETS,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Top-1 on validation images: largest, smallest, random subnets, and the table's gap.

    Args:
        entry: A zoo entry with weights and statistics.
        validation: Images that nothing was fitted on.
        training: The images to re-calibrate on, to measure the statistics table against that; None
            leaves the gap out.
        subnets: How many random subnets.
        report: Gets a line of progress for each.

    Returns:
        The card's fields on accuracy; every top-1 is in [0, 1].
    """
    network, table = load_supernet(entry)
    images = LabelledImages(validation)
    rng = np.random.default_rng(RANDOM_SEED)
    drawn = [random_architecture(entry.space, rng) for _ in range(subnets)]
    by_table = [_reported(report, subnet_top1(network, a, table, images), a) for a in drawn]
    card: dict[str, Any] = {
        "top1_largest": round(subnet_top1(network, largest(entry.space), table, images), 4),
        "top1_smallest": round(subnet_top1(network, smallest(entry.space), table, images), 4),
        "top1_mean_random": round(float(np.mean(by_table)), 4),
        "top1_worst_random": round(min(by_table), 4),
        "random_subnets": subnets,
        "validation_images": len(validation),
    }
    if training:
        own = [calibrated_statistics(network, architecture, training) for architecture in drawn]
        recalibrated = [
            _reported(report, subnet_top1(network, architecture, statistics, images), architecture)
            for architecture, statistics in zip(drawn, own, strict=True)
        ]
        gaps = np.array(recalibrated) - np.array(by_table)
        card["bn_table_gap"] = {"mean": round(float(gaps.mean()), 4), "worst": round(float(gaps.max()), 4)}
        card["top1_mean_recalibrated"] = round(float(np.mean(recalibrated)), 4)
    return card


def write_card(entry: zoo.ZooEntry, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Merge fields into an entry's card; returns the whole card."""
    card = {**entry.card, **fields}
    partial = entry.folder / "card.partial"
    partial.write_text(json.dumps(card, indent=2) + "\n")
    partial.replace(entry.folder / "card.json")
    return card


def _reported(report: Callable[[str], None], top1: float, architecture: Architecture) -> float:
    report(f"top-1 {top1:.4f} of {architecture.id} at {architecture.resolution} px")
    return top1
