"""A few training images: for ranges of INT8 activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.training.data import evaluation_pixels, evenly, normalised, read_split
from bespoke.supernet.training.sides import side_for


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
    images = read_split(root, "train", side_for([resolution]), choose=evenly(count))
    parts = evaluation_pixels(images, resolution, batch)
    return [np.ascontiguousarray(normalised(pixels).numpy()) for pixels, _ in parts]
