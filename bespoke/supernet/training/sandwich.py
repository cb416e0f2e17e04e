"""The sandwich recipe: the largest subnet, then steps of the largest, the smallest and a random one.

In a sandwich step all three learn from the labels, and the two smaller ones from the largest one's soft
answers too. It is the baseline that progressive shrinking is measured against.

Source: Yu & Huang, Universally Slimmable Networks (ICCV 2019): sandwich rule, in-place
distillation; there the smaller subnets see no labels, and in short trainings learn less.
"""

from __future__ import annotations

from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.training.phase import Phase


def sandwich(space: SearchSpace) -> list[Phase]:
    """Largest subnet at the smallest resolution, then the sandwich at all of them."""
    sides = space.dimensions[-1].choices
    return [
        Phase("largest", 5, 2e-3, sides[:1], subnets="largest"),
        Phase("sandwich", 30, 2e-3, sides),
    ]
