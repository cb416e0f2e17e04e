"""Which training images a supernet never saw: what its subnets are measured on, for the predictor.

They follow from a seed and from how many images there are. A card tells a digest of their names, so that
none that was trained on is ever taken for one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet import zoo
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.training.cifar import cifar_folder
from bespoke.supernet.training.data import ImageSet, read_split
from bespoke.supernet.training.folders import list_split

HELD_OUT = 1000
"""Training images kept back for the accuracy predictor; a fifth of them where there are few."""
FEWEST_IMAGES = 5
"""Training images of which one can be held out."""


def hold_out(training: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    """Part training images: what a supernet is trained on, and what its subnets are measured on.

    Each class keeps one image at least to train on.

    Args:
        training: All of them.
        seed: The training's: the same one parts the same images.

    Raises:
        InvalidInput: There are too few to part.
    """
    if len(training) < FEWEST_IMAGES:
        raise InvalidInput(f"got {len(training)} training images, expected {FEWEST_IMAGES} or more")
    (held, kept), labels = _parted(len(training), seed), training.labels_N.numpy()
    last = [int(np.flatnonzero(labels[held] == label)[0]) for label in {*labels[held]} - {*labels[kept]}]
    held, kept = np.delete(held, last), np.concatenate([kept, held[last]])
    if not len(held):
        raise InvalidInput(
            f"got {len(training)} training images of {len(training.classes)} classes, expected more: none "
            "can be held out without leaving a class bare"
        )
    return training.subset(kept), training.subset(held)


def _parted(images: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of so many images are held out, and which are kept, while each class keeps one."""
    held, kept = np.split(np.random.default_rng(seed).permutation(images), [min(HELD_OUT, images // 5)])
    return held, kept


def read_held_out(entry: zoo.ZooEntry, root: Path, side: int, cache: Path, seed: int) -> ImageSet:
    """Read the training images that a supernet never saw.

    Where the card tells enough, only they are decoded: which ones they are follows from how many there are.

    Args:
        entry: A zoo entry.
        root: The image folder.
        side: Side of the kept squares in pixels.
        cache: Folder of the decoded images.
        seed: The training's, where the card tells none.

    Raises:
        FileInvalid: The supernet knows other classes, or by its card other images were held out.
        InvalidInput: There are too few to part.
    """
    if cifar_folder(root) is None and "held_out" in entry.card:
        listing = list_split(root, "train")
        _check_classes(entry, root, listing.classes)
        rows, kept = _parted(len(listing.paths), int(entry.card.get("seed", seed)))
        whole = len(kept) == entry.card.get("images")  # all files were read
        if whole and _names_digest([listing.paths[row] for row in rows]) == entry.card["held_out"]:
            found = read_split(root, "train", side, cache, choose=lambda _: rows)
            if len(found) == len(rows):
                return found
    return held_out_of(entry, root, read_split(root, "train", side, cache), seed)


def held_out_of(entry: zoo.ZooEntry, root: Path, training: ImageSet, seed: int) -> ImageSet:
    """The training images that a supernet never saw.

    Args:
        entry: A zoo entry.
        root: The image folder.
        training: All its training images.
        seed: The training's, where the card tells none: nothing is checked then.

    Raises:
        FileInvalid: The supernet knows other classes, or by its card other images were held out.
        InvalidInput: There are too few to part.
    """
    _check_classes(entry, root, training.classes)
    told = entry.card.get("held_out")
    _, held_out = hold_out(training, seed if told is None else int(entry.card.get("seed", seed)))
    if told is not None and which(root, held_out) != told:
        raise FileInvalid(
            root,
            f"not the training images of supernet {entry.name!r}: what would be held out of these "
            f"{len(training)} is not what was held out from its training, so that it would be measured on "
            "images that it has seen; expected the folder that it was trained on, or a copy",
        )
    return held_out


def _check_classes(entry: zoo.ZooEntry, root: Path, classes: Sequence[str]) -> None:
    """See that what a supernet answers can be compared with a folder's labels.

    Raises:
        FileInvalid: It has other classes, or another number of them where its card names none.
    """
    named = entry.card.get("classes")
    if len(classes) == entry.space.classes and list(classes) == list(named or classes):
        return
    expected = f": {few(named)}" if named else ""
    raise FileInvalid(
        root,
        f"got {len(classes)} classes: {few(classes)}; supernet {entry.name!r} knows {entry.space.classes}"
        f"{expected}; expected the folder that it was trained on, or a copy",
    )


def few(names: Sequence[str]) -> str:
    """The first names of many, as text."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def training_seed(started: zoo.ZooEntry | None, root: Path, training: ImageSet, seed: int) -> int:
    """By which seed a training holds images out.

    Args:
        started: The supernet that it starts from: of the same images, those that it never saw are held
            out again, by its own seed.
        root: The image folder.
        training: All its training images.
        seed: What was asked for.

    Raises:
        FileInvalid: The images are the same, and others would be held out now.
    """
    if started is None or "held_out" not in started.card:
        return seed
    if started.card.get("images_digest") != which(root, training):
        return seed
    held_out_of(started, root, training, seed)
    return int(started.card.get("seed", seed))


def image_fields(root: Path, training: ImageSet, held_out: ImageSet, seed: int) -> dict[str, Any]:
    """The card's fields on which images a supernet was trained on.

    Args:
        root: The image folder.
        training: All its training images.
        held_out: Those that the supernet never saw.
        seed: By which they were held out.
    """
    return {
        "side": training.side,
        "seed": seed,
        "held_out": which(root, held_out),
        "images_digest": which(root, training),
    }


def which(root: Path, images: ImageSet) -> str:
    """A digest of which training images of a folder these are; a copy of the folder has the same.

    Of the files' names in their classes' folders, or of CIFAR's indices; not of pixels.
    """
    rows = range(len(images)) if images.rows_N is None else images.rows_N.tolist()
    if cifar_folder(root) is None:
        paths = list_split(root, "train").paths
        return _names_digest([paths[row] for row in rows])
    of_each = zip(images.labels_N.tolist(), rows, strict=True)
    return _names_digest([Path(images.classes[label], str(row)) for label, row in of_each])


def _names_digest(paths: Sequence[Path]) -> str:
    """Of files' names in their classes' folders, in any order."""
    names = sorted(f"{path.parent.name}/{path.name}" for path in paths)
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()
