"""The images that networks are trained on and judged by, where a benchmark trains any."""

from __future__ import annotations

import argparse

from bespoke.predictors.held_out import hold_out
from bespoke.supernet.training.data import ImageSet, read_splits
from bespoke.supernet.training.processes import Group


def read_images(options: argparse.Namespace, side: int, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Training images, without those that a supernet of this seed was not trained on, and validation images.

    Args:
        options: ``data``, the image folder; ``run``, where decoded images are kept; ``images``, how many
            of each split are taken at most, or None.
        side: Side of the kept squares, in pixels.
        seed: The supernet's.
    """
    splits = read_splits(options.data, side, options.run / "images", Group())
    if options.images:
        splits = tuple(s.split(min(options.images, len(s)))[1] for s in splits)  # type: ignore[assignment]
    return hold_out(splits[0], seed)[0], splits[1]
