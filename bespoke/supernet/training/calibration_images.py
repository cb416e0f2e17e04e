"""A few training images: for ranges of INT8 activations, and for BN statistics of one subnet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bespoke.supernet.errors import FileInvalid
from bespoke.supernet.training.cifar import cifar_folder
from bespoke.supernet.training.data import (
    ImageSet,
    decode_into,
    evaluation_pixels,
    normalised,
    read_split,
    side_for,
)
from bespoke.supernet.training.folders import list_split


def calibration_images(
    root: Path, resolution: int, count: int = 64, batch: int = 8
) -> list[NDArray[np.float32]]:
    """Training images of all classes alike; only these are decoded.

    Args:
        root: The image folder (see ``folders``), or CIFAR's.
        resolution: Side in pixels.
        count: How many.
        batch: How many in one array.

    Returns:
        Arrays of shape (batch, 3, resolution, resolution), the last one possibly smaller.

    Raises:
        FileInvalid: There is no such folder, or none of the images can be read.
    """
    images = few_images(root, count, side_for([resolution]))
    parts = evaluation_pixels(images, resolution, batch)
    return [np.ascontiguousarray(normalised(pixels).numpy()) for pixels, _ in parts]


def few_images(root: Path, count: int, side: int) -> ImageSet:
    """Training images of all classes alike; only these are decoded.

    Args:
        root: The image folder (see ``folders``), or CIFAR's.
        count: How many at most.
        side: Of the kept squares in pixels.

    Raises:
        FileInvalid: There is no such folder, or none of the images can be read.
    """
    if cifar_folder(root) is not None:
        every = read_split(root, "train")
        return every.subset(_even(len(every), count))
    listing = list_split(root, "train")
    chosen = _even(len(listing.paths), count)
    images = np.empty((len(chosen), side, side, 3), np.uint8)
    good = np.flatnonzero(decode_into(images, tuple(listing.paths[i] for i in chosen)))
    if not len(good):
        raise FileInvalid(root, f"not one of {len(chosen)} images could be decoded")
    labels = torch.tensor([listing.labels[chosen[i]] for i in good])
    return ImageSet(torch.from_numpy(images[good]), labels, listing.classes)


def _even(length: int, count: int) -> NDArray[np.intp]:
    """So many places, evenly over a list: a listing goes class by class."""
    return np.unique(np.linspace(0, length - 1, count).round().astype(np.intp))
