"""A space small enough to be enumerated: two stages of two blocks, 864 architectures."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import Architecture, Dimension, Genomes, Plan, Slot, canonical, static_ops
from bespoke.supernet.ops import Op

SIDES, KERNELS, EXPANDS, DEPTHS = (16, 24), (3, 5, 7), (3, 6), (1, 2)


@dataclass(frozen=True)
class SmallSpace:
    name: str = "small"
    classes: int = 4

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        return (
            Dimension("kernel", KERNELS, 4),
            Dimension("expand", EXPANDS, 2),
            Dimension("depth", DEPTHS, 2),
            Dimension("resolution", SIDES, 1),
        )

    @property
    def slots(self) -> tuple[Slot, ...]:
        stem = Slot("stem", (8,), tuple(Op("conv", (r, r, 3), 8, 3, 2) for r in SIDES))
        blocks = [
            Slot(
                f"block{b}",
                (b, 4 + b // 2, 6 + b // 2, 8),
                tuple(self._block(b, *c) for c in itertools.product(KERNELS, EXPANDS, DEPTHS, SIDES)),
            )
            for b in range(4)
        ]
        return (stem, *blocks)

    @staticmethod
    def _block(block: int, kernel: int, expand: int, depth: int, side: int) -> Op | None:
        if block % 2 >= depth:
            return None
        return Op("mbconv", (side // 2, side // 2, 8), 8, kernel, 1, 8 * expand, skip=True)

    def active(self, genomes: Genomes) -> NDArray[np.bool_]:
        result = np.ones(genomes.shape, np.bool_)
        result[:, [1, 3]] = genomes[:, [6, 7]] > 0
        return result

    def plan(self, architecture: Architecture) -> Plan:
        side = architecture.resolution
        return Plan.chain((side, side, 3), tuple(static_ops(self, architecture)))

    def to_json(self) -> dict[str, Any]:
        return {"family": "small"}


def every_genome(space: SmallSpace) -> Genomes:
    """All different architectures, canonical."""
    sizes = [len(d.choices) for d in space.dimensions for _ in range(d.count)]
    genomes = np.array(list(itertools.product(*map(range, sizes))), np.int16)
    return np.unique(canonical(space, genomes), axis=0)
