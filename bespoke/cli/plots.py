"""A model card's pictures: what searches find, and what each choice does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bespoke.predictors.accuracy import read_predictor
from bespoke.predictors.dataset import DATASET, read_dataset
from bespoke.predictors.effects import choice_effects
from bespoke.predictors.plot import plot_effects, plot_front
from bespoke.search import Constraint, Problem, feasible_ranges, search
from bespoke.supernet.architecture import Architecture, encode
from bespoke.supernet.cost import CostTable
from bespoke.supernet.errors import InvalidInput, Unavailable
from bespoke.supernet.whole_files import write_file
from bespoke.supernet.zoo import ZooEntry

PLOTS = "plots"
"""Folder of an entry."""
LIMITS = 10
"""Searches behind a card's front."""


def searched_front(entry: ZooEntry, limits: int = LIMITS) -> list[Architecture]:
    """The best by the entry's predictor within evenly spaced limits of MACs, cheapest first."""
    predictor = read_predictor(entry.folder / "predictor.json", entry.space)
    low, high = feasible_ranges(entry.space, None)["macs"]
    found = [
        search(Problem(entry.space, predictor, (Constraint("macs", float(limit)),))).best.architecture
        for limit in np.linspace(low, high, limits + 1)[1:]
    ]
    return list(dict.fromkeys(found))


def write_plots(entry: ZooEntry, folder: Path, report: Callable[[str], None]) -> list[Path]:
    """Draw top-1 against MACs, and the effect of each choice.

    What the card does not tell as measured is predicted.

    Args:
        entry: A zoo entry with its predictor.
        folder: Where the PNG go; made where there is none.
        report: Told what cannot be drawn, and why.

    Raises:
        InvalidInput: The entry has no predictor.
        FileInvalid: A picture cannot be written.
    """
    if not (entry.folder / "predictor.json").is_file():
        raise InvalidInput(
            f"supernet {entry.name!r} has no accuracy predictor to draw: fit one first, with `bespoke zoo "
            "measure` and `bespoke zoo fit`"
        )
    predictor = read_predictor(entry.folder / "predictor.json", entry.space)
    (random, images), front = _random_points(entry), entry.card.get("front_points") or _predicted_front(entry)
    drawings: Mapping[str, Callable[[], bytes]] = {
        "top1_macs.png": lambda: plot_front(random, front, f"{entry.name}: top-1 against MACs", images),
        "effects.png": lambda: plot_effects(
            entry.space,
            choice_effects(entry.space, predictor),
            f"{entry.name}: what each choice does to the predicted top-1",
        ),
    }
    written = []
    for name, draw in drawings.items():
        try:
            png = draw()
        except (InvalidInput, Unavailable) as error:
            report(f"{name} is not drawn: {error}")
            continue
        write_file(folder / name, png)
        written.append(folder / name)
    return written


def _random_points(entry: ZooEntry) -> tuple[list[Mapping[str, Any]], str]:
    """Of the card, on validation images; else the predictor's data set. And of which images they are."""
    if "random_points" in entry.card:
        return list(entry.card["random_points"]), "validation images"
    held_out = "held-out training images"
    known = read_dataset(entry.folder / DATASET, entry.space)
    if not len(known):
        return [], held_out
    macs = CostTable(entry.space).macs(encode(entry.space, known.architectures))
    found: list[Mapping[str, Any]] = [
        {"resolution": a.resolution, "macs": float(m), "top1": t}
        for a, m, t in zip(known.architectures, macs, known.top1, strict=True)
    ]
    return found, held_out


def _predicted_front(entry: ZooEntry) -> list[Mapping[str, Any]]:
    found = searched_front(entry)
    genomes = encode(entry.space, found)
    macs = CostTable(entry.space).macs(genomes)
    top1 = read_predictor(entry.folder / "predictor.json", entry.space).top1(genomes)
    return [
        {"resolution": a.resolution, "macs": float(macs[i]), "top1_predicted": float(top1[i])}
        for i, a in enumerate(found)
    ]
