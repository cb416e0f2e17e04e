"""Which images a folder holds, their classes, and which of them are for validation.

Read are ``ROOT/train/<class>/<image>`` or ``ROOT/<class>/<image>``, with ``ROOT/val/<class>/<image>``
beside them. Where there is no validation folder every tenth image of each class is for validation,
chosen by a hash of its name, so that the same folder is always split in the same way, on every machine.
``train`` and ``val`` are splits where class folders stand in them, and names of classes like any other
where they hold images. A folder without an image in it is no class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
        passed_over: What else stands in the folders of classes, and folders that are none.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    passed_over: tuple[Path, ...] = ()

    def subset(self, rows: Sequence[int]) -> Listing:
        """These of the images."""
        paths, labels = tuple(self.paths[row] for row in rows), tuple(self.labels[row] for row in rows)
        return replace(self, paths=paths, labels=labels)


def list_split(root: Path, split: str) -> Listing:
    """List the images of ``train`` or ``val``.

    Args:
        root: The image folder.
        split: ``train`` or ``val``.

    Raises:
        FileInvalid: There is no such folder, no image in it, or a validation class that has no
            folder among the training images, or validation images without class folders.
    """
    if not root.is_dir():
        raise FileInvalid(root, "no such folder; expected ROOT/train/<class>/*.jpg or ROOT/<class>/*.jpg")
    training, validation = _found(root, TRAIN), _found(root, VALIDATION)
    folder = training or root
    if training is not None and validation is None:
        _check_no_flat_validation(root)
    classes = class_names(folder)
    if training is None and not set(classes) - _SPLITS:
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
    found = everything.subset(kept)
    return found if split == "train" else replace(found, passed_over=())


def class_names(folder: Path) -> tuple[str, ...]:
    """Names of a folder's classes, sorted: those of its folders that hold images, without hidden ones."""
    return tuple(p.name for p in _folders(folder) if _is_class(p))


def _is_class(folder: Path) -> bool:
    is_split = folder.name in VALIDATION and _folders(folder)
    return not is_split and any(_is_image(path) for path in folder.iterdir())


def _found(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first of these folders that is a split: a class of that name holds no folders."""
    return next((root / name for name in names if (root / name).is_dir() and _folders(root / name)), None)


def _check_no_flat_validation(root: Path) -> None:
    """See that no validation images are passed over for want of their classes, as ImageNet's come."""
    for folder in (root / name for name in VALIDATION):
        if folder.is_dir() and _is_class(folder):
            raise FileInvalid(
                folder,
                f"got images without class folders; expected {folder.name}/<class>/*: sort them into the "
                "classes of the training images, or rename the folder to leave them out",
            )


def _folders(folder: Path) -> list[Path]:
    found = (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(found, key=lambda p: p.name)


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if _is_image(p))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


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
    passed_over += [p for p in _folders(folder) if not _is_class(p) and p.name not in {*TRAIN, *VALIDATION}]
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
    of_class: list[list[int]] = [[] for _ in listing.classes]
    for number, label in enumerate(listing.labels):
        of_class[label].append(number)
    held: set[int] = set()
    for found in of_class:
        own = sorted(found, key=keys.__getitem__)
        count = max(1, round(VALIDATION_SHARE * len(own))) if len(own) > 1 else 0
        held.update(own[:count])
    return held
