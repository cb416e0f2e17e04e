"""Which size images are kept at. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bespoke.supernet.zoo import ZooEntry

CROP_SHARE = 0.875
"""Of the side of a kept image, what an evaluated crop shows of it."""

SIDE = 160
"""Of the squares that are kept, in pixels, unless inputs need more."""


def side_for(resolutions: Sequence[int]) -> int:
    """The least side at which no crop of these resolutions has to be enlarged; ``SIDE`` at least."""
    return max(SIDE, *(math.ceil(resolution / CROP_SHARE) for resolution in resolutions))


def side_of(entry: ZooEntry) -> int:
    """The side at which a supernet's images are kept: as in its training, or as its inputs need."""
    told = entry.card.get("side")
    return side_for(entry.space.dimensions[-1].choices) if told is None else int(told)
