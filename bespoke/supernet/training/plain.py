"""The plain recipe: largest first, then sandwich sampling, then sandwich sampling at full size.

In a sandwich step the largest subnet, the smallest and a random one learn from the labels, and the
two others from the largest one's soft answers too. It is the baseline that progressive shrinking is
measured against.

Source: Yu & Huang, Universally Slimmable Networks (ICCV 2019): sandwich rule, in-place
distillation; there the smaller subnets see no labels, and in short trainings learn less.
"""

from __future__ import annotations

from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.training.phase import Phase


def plain(space: SearchSpace) -> list[Phase]:
    """Largest subnet, sandwich, sandwich at full size.

    The first two phases train at two thirds of the smallest resolution, which is cheap and, since
    random crops enlarge what they show, close to what the network sees later at full size.
    """
    resolutions = space.dimensions[-1].choices
    low, middle = (
        max(min(32, resolutions[0]), round(resolutions[0] * share / 16) * 16) for share in (2 / 3, 5 / 6)
    )
    return [
        Phase("largest", 10, 2e-3, (low,), subnets="largest"),
        Phase("sandwich", 20, 1.5e-3, (low, low, middle)),
        Phase("full size", 5, 5e-4, (resolutions[0], *resolutions), smallest_area=0.35),
    ]
