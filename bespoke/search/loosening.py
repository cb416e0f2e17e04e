"""Loosening: how a genome is made ready for a jump or a slide.

Some of its genes are a mate's, some of those that shape several slots are drawn anew, and of all
others a part is let go: it goes where the linear model is best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import Genomes, SearchSpace

__all__ = ["Draws", "loosened"]

SHARED_CHANGES = 0.12
"""Chance of each shared gene but the resolution to be drawn anew."""

RESOLUTION_CHANGES = 0.05

MATES_SHARE = 0.5
"""Share of a mate's genes in what is crossed with it."""


@dataclass(frozen=True, eq=False)
class Draws:
    """What is random about N genomes of G genes; real numbers are uniform in [0, 1).

    Attributes:
        changed: (N, G): a shared gene below its chance is drawn anew.
        choices: (N, G): what it then is.
        taken: (N, G): a gene below ``MATES_SHARE`` is the mate's.
        crossed: (N, 1): whether anything is the mate's.
        freed: (N, G): a gene below its genome's share may move.
        share: (N, 1): that share.
    """

    changed: NDArray[np.float32]
    choices: NDArray[np.int64]
    taken: NDArray[np.float32]
    crossed: NDArray[np.bool_]
    freed: NDArray[np.float32]
    share: NDArray[np.float64]


def loosened(
    space: SearchSpace, shared: NDArray[np.intp], parents: Genomes, mates: Genomes, draws: Draws
) -> tuple[Genomes, NDArray[np.bool_]]:
    """Parents, some crossed or with shared genes drawn anew, and which of the other genes may move.

    Args:
        space: The space.
        shared: The genes that shape several slots.
        parents: (N, G).
        mates: (N, G).
        draws: What is random about it.
    """
    chance = np.zeros(parents.shape[1])
    chance[shared] = SHARED_CHANGES
    chance[-1] = RESOLUTION_CHANGES
    crossed = (draws.taken < MATES_SHARE) & draws.crossed
    bases = np.where(crossed, mates, parents)
    bases = np.where(draws.changed < chance, draws.choices, bases).astype(np.int16)
    return bases, (draws.freed < draws.share) | ~space.active(parents) | crossed
