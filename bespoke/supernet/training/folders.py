"""Which images a folder holds, their classes, and which of them are for validation.

Read are ``ROOT/train/<class>/<image>`` or ``ROOT/<class>/<image>``, with ``ROOT/val/<class>/<image>``
beside them. Where there is no validation folder every tenth image of each class is for validation,
chosen by a hash of its name, so that the same folder is always split in the same way, on every machine.
``train`` and ``val`` are splits where class folders stand in them, and names of classes like any other
where they hold images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from bespoke.supernet.errors import FileInvalid

SUFFIXES = {
    *(".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".bmp", ".webp"),
    *(".tif", ".tiff", ".gif", ".ppm", ".pgm"),
}
TRAIN, VALIDATION = ("train",), ("val", "valid", "validation")
VALIDATION_SHARE = 0.1

_SPLITS = {*TRAIN, *VALIDATION, "test"}
"""Where nothing else holds images, folders of these names are splits that lack their class folders."""


@dataclass(frozen=True)
class Listing:
    """The images of one split.

    Attributes:
        paths: In a fixed order.
        labels: Index of each one's class.
        classes: Names of the classes.
        passed_over: What else stands in the folders of classes: other files, and folders.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    passed_over: tuple[Path, ...] = ()


def list_split(root: Path, split: str) -> Listing:
    """List the images of ``train`` or ``val``.

    Args:
        root: The image folder.
        split: ``train`` or ``val``.

    Raises:
        FileInvalid: There is no such folder, no image in it, or a validation class that has no
            folder among the training images.
    """
    if not root.is_dir():
        raise FileInvalid(root, "no such folder; expected ROOT/train/<class>/*.jpg or ROOT/<class>/*.jpg")
    training, validation = _found(root, TRAIN), _found(root, VALIDATION)
    folder = training or root
    classes = class_names(folder)
    if training is None and not any(_images(root / name) for name in classes if name not in _SPLITS):
        if split == "val" and validation is not None:
            return _listed(validation, class_names(validation))
        raise _no_image(root)
    if validation is not None:
        if split == "train":
            return _listed(folder, classes)
        unknown = sorted(set(class_names(validation)) - set(classes))
        if unknown:
            raise FileInvalid(
                validation / unknown[0],
                f"a class that {folder} lacks; expected {classes}: rename it, or add images to train on",
            )
        return _listed(validation, classes)
    everything = _listed(folder, classes)
    held = _held_out(everything, folder)
    kept = [i for i in range(len(everything.paths)) if (i in held) == (split == "val")]
    if not kept:
        raise FileInvalid(folder, "too few images to hold some out; expected two or more of a class")
    paths, labels = everything.paths, everything.labels
    passed_over = everything.passed_over if split == "train" else ()
    return Listing(tuple(paths[i] for i in kept), tuple(labels[i] for i in kept), classes, passed_over)


def class_names(folder: Path) -> tuple[str, ...]:
    """Names of a folder's classes, sorted: its folders, without hidden ones and a validation split."""
    return tuple(p.name for p in _folders(folder) if p.name not in VALIDATION or not _folders(p))


def _found(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first of these folders that is a split: a class of that name holds no folders."""
    return next((root / name for name in names if (root / name).is_dir() and _folders(root / name)), None)


def _folders(folder: Path) -> list[Path]:
    found = (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(found, key=lambda p: p.name)


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)


def _listed(folder: Path, classes: tuple[str, ...]) -> Listing:
    paths: list[Path] = []
    labels: list[int] = []
    passed_over: list[Path] = []
    for label, name in enumerate(classes):
        if (folder / name).is_dir():
            found = _images(folder / name)
            paths += found
            labels += [label] * len(found)
            passed_over += sorted({p for p in (folder / name).iterdir() if p.name[0] != "."} - set(found))
    if not paths:
        raise _no_image(folder)
    return Listing(tuple(paths), tuple(labels), classes, tuple(passed_over))


def _no_image(folder: Path) -> FileInvalid:
    return FileInvalid(
        folder,
        "no image in any class folder; expected ROOT/train/<class>/* or ROOT/<class>/*, "
        f"read suffixes: {sorted(SUFFIXES)}",
    )


def _name(path: Path, folder: Path) -> bytes:
    """A path as it stands on the disk; old archives hold names that are no UTF-8."""
    return path.relative_to(folder).as_posix().encode(errors="surrogateescape")


def _held_out(listing: Listing, folder: Path) -> set[int]:
    """Every tenth image of each class, at least one where it has two."""
    keys = [hashlib.sha256(_name(p, folder)).digest() for p in listing.paths]
    held: set[int] = set()
    for label in range(len(listing.classes)):
        own = sorted((i for i, at in enumerate(listing.labels) if at == label), key=keys.__getitem__)
        count = max(1, round(VALIDATION_SHARE * len(own))) if len(own) > 1 else 0
        held.update(own[:count])
    return held
