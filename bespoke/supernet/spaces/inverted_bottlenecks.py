"""Stages of inverted-bottleneck blocks: what the MobileNet families of Once-for-All have in common.

Source: Cai et al., Once-for-All (ICLR 2020): stages of two to four blocks, each block with its own
kernel and expansion ratio, at any set of resolutions. Elastic depth keeps the first blocks of a
stage.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import Dimension, Genomes, Slot
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.ops import Op, make_divisible

KERNELS, EXPANDS, DEPTHS = (3, 5, 7), (3, 4, 6), (2, 3, 4)
RESOLUTIONS = tuple(range(128, 225, 4))


def check_shape(resolutions: tuple[int, ...], classes: int) -> None:
    """Refuse what no network can have.

    Args:
        resolutions: Sides of the input in pixels.
        classes: Size of the classifier.

    Raises:
        InvalidInput: Resolutions that are not ascending or out of range, or no class at all.
    """
    ordered = tuple(sorted(set(resolutions)))
    if not ordered or ordered != tuple(resolutions) or not 8 <= ordered[0] <= ordered[-1] <= 2048:
        raise InvalidInput(
            f"resolutions: got {resolutions!r}, expected distinct ascending pixels from 8 to 2048"
        )
    if classes < 1:
        raise InvalidInput(f"classes: got {classes!r}, expected at least one")


@dataclass(frozen=True)
class Stage:
    """What all blocks of one stage share.

    Attributes:
        out_channels: Width between its blocks.
        stride: Of its first block.
        activation: One of ``ops.ACTIVATIONS``.
        se: Whether its blocks have squeeze-and-excitation.
        elastic: Whether its depth is chosen; otherwise it is a single block.
    """

    out_channels: int
    stride: int
    activation: str
    se: bool = False
    elastic: bool = True


@dataclass(frozen=True)
class Trunk:
    """All elastic blocks of a network, and the genes that choose among them.

    Genes are kernels, expansion ratios, depths and the resolution, in this order.

    Attributes:
        in_channels: Width of what enters the first stage.
        stem_stride: How far the image was reduced before.
        stages: In order; those that are not elastic stand at the end.
        resolutions: Sides of the input that may be chosen, ascending.
        norm_eps: Of every BN layer.
    """

    in_channels: int
    stem_stride: int
    stages: tuple[Stage, ...]
    resolutions: tuple[int, ...]
    norm_eps: float = 1e-5

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """(stage, position in it) of each block."""
        sizes = [DEPTHS[-1] if stage.elastic else 1 for stage in self.stages]
        return tuple((number, i) for number, size in enumerate(sizes) for i in range(size))

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Kernel and expand of each block, depth of each elastic stage, resolution."""
        blocks = len(self.places)
        return (
            Dimension("kernel", KERNELS, blocks),
            Dimension("expand", EXPANDS, blocks),
            Dimension("depth", DEPTHS, sum(stage.elastic for stage in self.stages)),
            Dimension("resolution", self.resolutions, 1),
        )

    def active(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Kernel and expansion matter in the first ``depth`` blocks of each stage only."""
        blocks, elastic = len(self.places), self.dimensions[2].count
        depths = np.ones((len(genomes), len(self.stages)), np.int64)
        depths[:, :elastic] = np.asarray(DEPTHS)[genomes[:, 2 * blocks : 2 * blocks + elastic]]
        stage_of, position_of = self._places
        used = depths[:, stage_of] > position_of
        rest = np.ones((len(genomes), elastic + 1), np.bool_)
        return np.concatenate([used, used, rest], axis=1)

    @cached_property
    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        stage_of, position_of = np.array(self.places).T
        return stage_of, position_of

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """One for each block, ``blocks.1`` and on: the ``blocks.0`` before them is not elastic."""
        return tuple(self._slot(block) for block in range(len(self.places)))

    def fixed_slot(self, name: str, op: Callable[[int], Op]) -> Slot:
        """A slot whose op follows from the resolution alone."""
        return Slot(name, (self._resolution_gene,), tuple(op(r) for r in self.resolutions))

    def side(self, resolution: int, stage: int) -> int:
        """Side of the map that enters a stage; one more than the last one is the head."""
        side = (resolution - 1) // self.stem_stride + 1
        for before in self.stages[:stage]:
            side = (side - 1) // before.stride + 1
        return side

    @property
    def _resolution_gene(self) -> int:
        return sum(dimension.count for dimension in self.dimensions[:-1])

    def _slot(self, block: int) -> Slot:
        blocks, (number, position) = len(self.places), self.places[block]
        elastic = self.stages[number].elastic
        depth_genes, depths = ((2 * blocks + number,), DEPTHS) if elastic else ((), (1,))
        genes = (block, blocks + block, *depth_genes, self._resolution_gene)
        ops = tuple(
            self._op(block, kernel, expand, resolution) if position < depth else None
            for kernel, expand, depth, resolution in itertools.product(
                KERNELS, EXPANDS, depths, self.resolutions
            )
        )
        return Slot(f"blocks.{block + 1}", genes, ops)

    def _op(self, block: int, kernel: int, expand: int, resolution: int) -> Op:
        number, position = self.places[block]
        stage, first = self.stages[number], position == 0
        before = self.stages[number - 1].out_channels if number else self.in_channels
        side = self.side(resolution, number if first else number + 1)
        width = before if first else stage.out_channels
        return Op(
            "mbconv",
            (side, side, width),
            stage.out_channels,
            kernel=kernel,
            stride=stage.stride if first else 1,
            mid_channels=make_divisible(width * expand),
            se=stage.se,
            activation=stage.activation,
            skip=not first,
            name=f"blocks.{block + 1}",
            norm_eps=self.norm_eps,
        )
