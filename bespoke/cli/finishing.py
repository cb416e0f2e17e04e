"""What ``bespoke train`` does with a network that is trained: it becomes an entry of a zoo. Needs torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bespoke.cli.plots import PLOTS, searched_front, write_plots
from bespoke.predictors.card import (
    correct_for_search,
    fit_predictor,
    measure_accuracy,
    measure_subnets,
    write_card,
)
from bespoke.predictors.dataset import DATASET
from bespoke.supernet.checkpoints import load_statistics, save_statistics, save_weights
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.training.collection import collect_table
from bespoke.supernet.training.data import ImageSet
from bespoke.supernet.whole_files import digest_of
from bespoke.supernet.zoo import STATISTICS, ZooEntry, entry
from bespoke.supernet.zoo.writing import publish

Report = Callable[[str], None]


def staged(
    network: ChainSupernet,
    training: ImageSet,
    run: Path,
    name: str,
    *,
    architectures: int,
    seed: int,
    device: torch.device,
    report: Report,
) -> ZooEntry:
    """A trained network as an entry in the run's folder, with its table of BN statistics.

    Args:
        network: With its weights.
        training: The training images.
        run: The run's folder.
        name: Of the entry.
        architectures: Random subnets that the table is fitted on.
        seed: Of the table.
        device: Where the network lies.
        report: Gets a line of progress now and then.
    """
    folder = run / "entry" / name
    folder.mkdir(parents=True, exist_ok=True)
    for left in ("card.json", DATASET):  # of the same run, finished with other options
        (folder / left).unlink(missing_ok=True)
    save_weights(network, weights := folder / "weights.safetensors")
    # A run that was begun anew in the same folder has other weights, and a table of its own.
    collected = run / f"statistics-{digest_of(weights)[:12]}-{architectures}-{seed}.safetensors"
    if not collected.exists():
        table = collect_table(
            network, training, architectures=architectures, seed=seed, device=device, report=report
        )
        save_statistics(table, collected)
    save_statistics(load_statistics(network.space, collected), folder / STATISTICS)
    (folder / "space.json").write_text(json.dumps(network.space.to_json(), indent=2) + "\n")
    return entry(name, folder.parent)


def predictor_fields(
    entry: ZooEntry,
    held_out: ImageSet,
    run: Path,
    *,
    subnets: int,
    unsure: int,
    views: int,
    seed: int,
    key: str,
    device: torch.device,
    report: Report,
) -> dict[str, Any]:
    """Measure subnets and fit the entry's predictor; the card's fields on it (see ``predictors/card.py``)."""
    dataset = measure_subnets(
        entry, held_out, subnets, run / f"accuracy-{entry.digest[:12]}-{views}.jsonl", seed=seed,
        views=views, unsure=unsure, key=key, device=device, report=report,
    )  # fmt: skip
    return {"subnets_seed": seed, **fit_predictor(entry, dataset, seed=seed, report=report)}


def accuracy_fields(
    entry: ZooEntry,
    validation: ImageSet,
    training: ImageSet | None,
    run: Path,
    *,
    random: int,
    device: torch.device,
    report: Report,
) -> dict[str, Any]:
    """Top-1 on validation images, of searched subnets too; the card's fields on it.

    The entry's predictor learns from it how much better searched subnets are predicted than they are.
    """
    fields = measure_accuracy(
        entry, validation, training, folder=run, subnets=random, searched=searched_front(entry),
        device=device, report=report,
    )  # fmt: skip
    correct_for_search(entry, fields)
    return fields


def published(made: ZooEntry, out: Path, fields: dict[str, Any], report: Report) -> dict[str, Any]:
    """Write the card, draw its plots, and bring the entry to its place, whole; returns the card."""
    card = write_card(made, fields)
    write_plots(entry(made.name, made.folder.parent), made.folder / PLOTS, report)
    publish(made.folder, out)
    return card
