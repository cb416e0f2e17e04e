"""Architectures and their measured accuracy: what a predictor is fitted on.

A data set is a file of JSON lines, one measurement each, that is only ever appended to. Which
architectures belong to it follows from the space and a seed alone, so a run that stopped goes on
where it was, and a longer run contains the shorter one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bespoke.supernet.architecture import Architecture, SearchSpace, read_architecture
from bespoke.supernet.errors import ArchitectureInvalid, FileInvalid, InvalidInput
from bespoke.supernet.genomes import stratified


@dataclass(frozen=True)
class AccuracyDataset:
    """Measured architectures, in the order of the file.

    Attributes:
        architectures: Of one space, no two equal.
        top1: Measured top-1 in [0, 1], one each.
        images: How many images each was measured on; 0 where nobody said.
    """

    architectures: tuple[Architecture, ...]
    top1: tuple[float, ...]
    images: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.architectures)


def read_dataset(path: Path, space: SearchSpace) -> AccuracyDataset:
    """Read a data set; a file that does not exist is an empty one.

    A last line without its line end was cut off by a crash, and is left out.

    Raises:
        FileInvalid: A line is no measurement of an architecture of this space.
    """
    rows: dict[Architecture, tuple[float, int]] = {}
    text = path.read_text() if path.exists() else ""
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), 1):
        try:
            row = json.loads(line)
            architecture = read_architecture(space, row["architecture"])
            top1, images = float(row["top1"]), int(row.get("images", 0))
        except (ValueError, KeyError, TypeError, AttributeError, ArchitectureInvalid) as error:
            raise FileInvalid(path, f"line {number}: {error}") from error
        if not 0 <= top1 <= 1:
            raise FileInvalid(path, f"line {number}: got top1 {top1}, expected a share from 0 to 1")
        rows.setdefault(architecture, (top1, images))
    return AccuracyDataset(
        tuple(rows), tuple(top1 for top1, _ in rows.values()), tuple(images for _, images in rows.values())
    )


def collect(
    space: SearchSpace,
    count: int,
    measure: Callable[[Architecture], float],
    path: Path,
    seed: int,
    *,
    images: int = 0,
) -> AccuracyDataset:
    """Measure architectures until the file holds ``count`` of this seed's, and read it.

    Args:
        space: The space to draw from.
        count: How many architectures.
        measure: From an architecture to its top-1 in [0, 1].
        path: JSON lines; appended to after each measurement, so a stopped run loses one at most.
        seed: Decides which architectures.
        images: How many images ``measure`` uses; written beside each measurement.

    Returns:
        The first ``count`` architectures of this seed, in the order in which they were drawn.

    Raises:
        FileInvalid: The file holds something else.
        InvalidInput: ``measure`` gave no share, or the space holds fewer architectures.
    """
    known = read_dataset(path, space)
    measured = dict(zip(known.architectures, zip(known.top1, known.images, strict=True), strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    _cut_torn_line(path)
    chosen = stratified(space, count, seed)
    if len(chosen) < count:
        raise InvalidInput(f"{space.name} gave {len(chosen)} different architectures, asked for {count}")
    for architecture in chosen:
        if architecture not in measured:
            top1 = float(measure(architecture))
            if not 0 <= top1 <= 1:
                raise InvalidInput(f"measured top1 {top1} of {architecture.id}, expected a share from 0 to 1")
            measured[architecture] = (top1, images)
            _append(path, {"architecture": architecture.to_json(), "top1": top1, "images": images})
    values = [measured[architecture] for architecture in chosen]
    return AccuracyDataset(chosen, tuple(v[0] for v in values), tuple(v[1] for v in values))


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row, separators=(",", ":")) + "\n")


def _cut_torn_line(path: Path) -> None:
    """Drop a last line that a crash cut off, so that the next one starts on its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
