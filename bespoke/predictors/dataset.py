"""Architectures and their measured accuracy: what a predictor is fitted on.

A data set is a file of JSON lines, one measurement each, that is only ever appended to. Which
architectures belong to it follows from the space and a seed alone, so a run that stopped goes on
where it was, a longer run contains the shorter one, and several workers share one out by number
(``Shard``), each with a file of its own. Rounds of architectures that a predictor is unsure of come
after that (``active.py``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import Architecture, SearchSpace, read_architecture
from bespoke.supernet.errors import ArchitectureInvalid, FileInvalid, InvalidInput
from bespoke.supernet.genomes import stratified
from bespoke.supernet.whole_files import named, write_file

DATASET = "accuracy.jsonl"
"""The data set, kept in a zoo entry beside the predictor that was fitted on it."""

FEWEST_SUBNETS = 30
"""A third of them judges the predictor, and it is fitted on 20 at least."""
UNSEEN = 200
"""Subnets of the data set that the predictor never sees, a third of small sets: for tau, RMSE, interval."""


@dataclass(frozen=True)
class Measurement:
    """What is measured of an architecture.

    Attributes:
        top1: In [0, 1].
        smooth: Top-1 with soft edges (``training/evaluation.py``), if it was measured.
        supernet: Digest of the zoo entry that it was measured of; empty where nobody said.
        held_out: On which images, as ``images_key`` names them; empty where nobody said.
    """

    top1: float
    smooth: float | None = None
    supernet: str = ""
    held_out: str = ""


Measure = Callable[[Architecture], float | Measurement]
"""From an architecture to its top-1 in [0, 1], alone or with what else was measured."""


@dataclass(frozen=True)
class AccuracyDataset:
    """Measured architectures, in the order of the file.

    Attributes:
        architectures: Of one space, no two equal.
        top1: Measured top-1 in [0, 1], one each.
        images: On how many images each was measured, every view of one counted; 0 where nobody said.
        rounds: The round that chose each: 0 for those that follow from the seed.
        smooth: Top-1 with soft edges of each; None where it was not measured.
        supernets: Digest of the zoo entry that each was measured of; empty where nobody said.
        held_out: On which images each was, as ``images_key`` names them; empty where nobody said.
    """

    architectures: tuple[Architecture, ...]
    top1: tuple[float, ...]
    images: tuple[int, ...]
    rounds: tuple[int, ...]
    smooth: tuple[float | None, ...] = ()
    supernets: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "smooth", self.smooth or (None,) * len(self.top1))
        object.__setattr__(self, "supernets", self.supernets or ("",) * len(self.top1))
        object.__setattr__(self, "held_out", self.held_out or ("",) * len(self.top1))

    def __len__(self) -> int:
        return len(self.architectures)

    def targets(self) -> NDArray[np.float64]:
        """What a predictor is fitted on, shape (N,): top-1, without much of the noise of few images.

        Where all were measured with soft edges: the straight line through top-1 over that, at each.
        """
        top1, smooth = np.array(self.top1), np.array(self.smooth, np.float64)
        if not len(smooth) or np.isnan(smooth).any() or smooth.std() == 0:
            return top1
        slope, base = np.polyfit(smooth, top1, 1)
        return np.asarray(np.clip(base + slope * smooth, 0.0, 1.0))

    def where(self, chosen: NDArray[np.bool_]) -> AccuracyDataset:
        """Only those architectures, shape (N,)."""
        return _dataset([row for row, kept in zip(_rows(self), chosen, strict=True) if kept])


@dataclass(frozen=True)
class Shard:
    """A worker's share of a data set.

    Attributes:
        number: Which worker, from 0.
        count: How many there are.

    Raises:
        InvalidInput: There is no such worker.
    """

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise InvalidInput(f"shard {self.number}/{self.count}: expected one from 0 to below the count")


def read_dataset(path: Path, space: SearchSpace) -> AccuracyDataset:
    """Read a data set; a file that does not exist is an empty one.

    A last line without its line end was cut off by a crash, and is left out.

    Raises:
        FileInvalid: It is no text, or a line is no measurement of an architecture of this space.
    """
    rows: dict[Architecture, _Row] = {}
    try:
        text = path.read_text() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise FileInvalid(path, f"cannot be read ({error}); expected the JSON lines of a data set") from error
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), 1):
        try:
            row = json.loads(line)
            architecture = read_architecture(space, row["architecture"])
            smooth = float(row["smooth"]) if "smooth" in row else None
            numbers = float(row["top1"]), int(row.get("images", 0)), int(row.get("round", 0))
            texts = str(row.get("supernet", "")), str(row.get("held_out", ""))
            found = _Row(architecture, *numbers, smooth, *texts)
        except (ValueError, KeyError, TypeError, AttributeError, ArchitectureInvalid) as error:
            raise FileInvalid(path, f"line {number}: {error}") from error
        if not 0 <= found.top1 <= 1:
            raise FileInvalid(path, f"line {number}: got top1 {found.top1}, expected a share from 0 to 1")
        rows.setdefault(architecture, found)
    return _dataset(list(rows.values()))


def merge_datasets(paths: Sequence[Path], space: SearchSpace) -> AccuracyDataset:
    """Read the files of several workers as one data set; of one architecture the first line counts.

    The order is that of the rounds, and inside a round that of the files, whose lines take turns, so
    that shards come out in the order in which their architectures were drawn.

    Raises:
        FileInvalid: A file is missing, or a line is no measurement of an architecture of this space.
    """
    rows: dict[Architecture, _Row] = {}
    for path in paths:
        if not path.is_file():
            raise FileInvalid(path, "no such file; expected the JSON lines of an accuracy data set")
    files = [_rows(read_dataset(path, space)) for path in paths]
    for number in range(max((len(file) for file in files), default=0)):
        for file in files:
            if number < len(file):
                rows.setdefault(file[number].architecture, file[number])
    return _dataset(sorted(rows.values(), key=lambda row: row.round))


def write_dataset(dataset: AccuracyDataset, path: Path) -> None:
    """Replace a file by a data set; where it held more than that, what it was stays beside it."""
    text = dataset_text(dataset)
    if path.is_file():
        before = path.read_bytes()
        if set(before.splitlines()) - set(text.encode().splitlines()):
            kept = f"{path.stem}-{hashlib.sha256(before).hexdigest()[:8]}{path.suffix}"
            write_file(path.with_name(kept), before)
    write_file(path, text)


def dataset_text(dataset: AccuracyDataset) -> str:
    """A data set as its JSON lines."""
    return "".join(_line(row) for row in _rows(dataset))


def collect(
    space: SearchSpace,
    count: int,
    measure: Measure,
    path: Path,
    seed: int,
    *,
    images: int = 0,
    shard: Shard | None = None,
) -> AccuracyDataset:
    """Measure architectures until the file holds ``count`` of this seed's, and read it.

    Args:
        space: The space to draw from.
        count: How many architectures, of all workers together.
        measure: What measures an architecture.
        path: JSON lines; appended to after each measurement, so a stopped run loses one at most.
        seed: Decides which architectures.
        images: How many images ``measure`` uses; written beside each measurement.
        shard: Which of them are this worker's; all unless given.

    Returns:
        The first ``count`` architectures of this seed (those of the shard), in the order in which
        they were drawn.

    Raises:
        FileInvalid: The file holds something else.
        InvalidInput: ``measure`` gave no share, or the space holds fewer architectures.
    """
    own = shard or Shard()
    return measured(space, drawn(space, count, seed)[own.number :: own.count], measure, path, images=images)


def drawn(space: SearchSpace, count: int, seed: int) -> tuple[Architecture, ...]:
    """The first architectures of a seed's data set.

    Args:
        space: The space to draw from.
        count: How many.
        seed: Decides which.

    Raises:
        InvalidInput: The space holds fewer.
    """
    if len(found := stratified(space, count, seed)) < count:
        raise InvalidInput(f"{space.name} gave {len(found)} different architectures, asked for {count}")
    return found


def images_key(held_out: str, side: int) -> str:
    """A short name of what subnets are measured on: top-1 on other images does not compare.

    Args:
        held_out: Digest of the images' names, as a card tells it.
        side: Side of the kept squares in pixels.
    """
    return f"{held_out[:12]}-{side}"


def subnets_seed(card: Mapping[str, Any]) -> int:
    """The seed by which a training drew the subnets that it measured; 0 where the card tells none."""
    return int(card.get("subnets_seed", card.get("seed", 0)))


def set_aside(drawn: int) -> int:
    """How many subnets of a data set judge its predictor, which never sees them: its first ones.

    Args:
        drawn: How many of the set follow from its seed.
    """
    return min(UNSEEN, drawn // 3)


def measured(
    space: SearchSpace,
    chosen: Sequence[Architecture],
    measure: Measure,
    path: Path,
    *,
    images: int = 0,
    number: int = 0,
) -> AccuracyDataset:
    """Measure those of some architectures that a file lacks.

    Args:
        space: Of the architectures.
        chosen: What to measure.
        measure: What measures an architecture.
        path: JSON lines; appended to.
        images: How many images ``measure`` uses.
        number: The round that chose them.

    Returns:
        The chosen architectures, in their order.

    Raises:
        FileInvalid: The file holds something else, or what was measured on another number of images.
        InvalidInput: ``measure`` gave no share.
    """
    known = {row.architecture: row for row in _rows(read_dataset(path, space))}
    others = {row.images for row in known.values() if row.images} - {images}
    if images and others:
        raise FileInvalid(
            path,
            f"holds subnets measured on {min(others)} images, and here are {images}: measure on those, or "
            "into another file",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    _cut_torn_line(path)
    for architecture in chosen:
        if architecture not in known:
            found = measure(architecture)
            found = found if isinstance(found, Measurement) else Measurement(float(found))
            if not 0 <= found.top1 <= 1:
                raise InvalidInput(
                    f"measured top1 {found.top1} of {architecture.id}, expected a share from 0 to 1"
                )
            known[architecture] = _Row(
                architecture, found.top1, images, number, found.smooth, found.supernet, found.held_out
            )  # fmt: skip
            with named(path), path.open("a") as file:
                file.write(_line(known[architecture]))
    return _dataset([known[architecture] for architecture in chosen])


@dataclass(frozen=True)
class _Row:
    architecture: Architecture
    top1: float
    images: int
    round: int
    smooth: float | None
    supernet: str
    held_out: str


def _rows(dataset: AccuracyDataset) -> list[_Row]:
    of_each = (dataset.architectures, dataset.top1, dataset.images, dataset.rounds, dataset.smooth)
    return [_Row(*row) for row in zip(*of_each, dataset.supernets, dataset.held_out, strict=True)]


def _dataset(rows: Sequence[_Row]) -> AccuracyDataset:
    return AccuracyDataset(
        tuple(row.architecture for row in rows),
        tuple(row.top1 for row in rows),
        tuple(row.images for row in rows),
        tuple(row.round for row in rows),
        tuple(row.smooth for row in rows),
        tuple(row.supernet for row in rows),
        tuple(row.held_out for row in rows),
    )


def _line(row: _Row) -> str:
    told: dict[str, Any] = {"architecture": row.architecture.to_json(), "top1": row.top1}
    told |= {"images": row.images} | ({"round": row.round} if row.round else {})
    told |= {"smooth": row.smooth} if row.smooth is not None else {}
    told |= {"supernet": row.supernet} if row.supernet else {}
    told |= {"held_out": row.held_out} if row.held_out else {}
    return json.dumps(told, separators=(",", ":")) + "\n"


def _cut_torn_line(path: Path) -> None:
    """Drop a last line that a crash cut off, so that the next one starts on its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
