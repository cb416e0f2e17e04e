"""The Once-for-All ResNet-50 space.

Source: the Once-for-All authors' ResNet50-D: He et al., Bag of Tricks (arXiv:1812.01187), with
elastic widths, expansion ratios and depths. A stage keeps its first blocks; the stem's second
convolution, which has a residual connection, may be left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import Architecture, Dimension, Genomes, Plan, Slot, static_ops
from bespoke.supernet.ops import Op, make_divisible
from bespoke.supernet.spaces.inverted_bottlenecks import RESOLUTIONS, check_shape

STEM_DEPTHS, WIDTHS, EXPANDS, DEPTHS = (0, 1), (0.65, 0.8, 1.0), (0.2, 0.25, 0.35), (0, 1, 2)
STEM_WIDTHS = (0.65, 1.0)
"""Inside the stem: 0.8 is published too, but rounds to the same 24 channels as 0.65, and two equal
networks are one architecture here."""
STEM_CHANNELS = 64
STAGE_CHANNELS = (256, 512, 1024, 2048)
STRIDES = (1, 2, 2, 2)
SHORTEST = (2, 2, 4, 2)
"""Blocks of a stage that are always there; up to two more follow."""
PLACES = tuple((number, i) for number, least in enumerate(SHORTEST) for i in range(least + DEPTHS[-1]))
"""(stage, position in it) of each block."""
BLOCKS, STAGES = len(PLACES), len(SHORTEST)

# Genes: the stem's depth; the width inside it; widths of the stem and of each stage; an expansion
# ratio of each block; a depth of each stage; the resolution.
STEM_DEPTH_GENE, STEM_WIDTH_GENE, WIDTH_GENE = 0, 1, 2
EXPAND_GENE = WIDTH_GENE + 1 + STAGES
DEPTH_GENE = EXPAND_GENE + BLOCKS
RESOLUTION_GENE = DEPTH_GENE + STAGES


@dataclass(frozen=True)
class OfaResNet50:
    """ResNet-50 with elastic stem, widths, expansion, depth and resolution.

    Attributes:
        resolutions: Sides of the input that may be chosen, ascending.
        classes: Size of the classifier.

    Raises:
        InvalidInput: A resolution or class count that no network can have.
    """

    resolutions: tuple[int, ...] = RESOLUTIONS
    classes: int = 1000

    def __post_init__(self) -> None:
        check_shape(self.resolutions, self.classes)

    @property
    def name(self) -> str:
        """Always ``ofa-resnet50``."""
        return "ofa-resnet50"

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The stem's inner depth and width, width (5), expand (18), depth (4), resolution.

        Widths are of the stem and of each stage. A depth counts blocks beyond the shortest stage.
        """
        return (
            Dimension("stem_depth", STEM_DEPTHS, 1),
            Dimension("stem_width", STEM_WIDTHS, 1),
            Dimension("width", WIDTHS, 1 + STAGES),
            Dimension("expand", EXPANDS, BLOCKS),
            Dimension("depth", DEPTHS, STAGES),
            Dimension("resolution", self.resolutions, 1),
        )

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The stem's three convolutions and its pool, 18 blocks, pool and classifier."""
        inside, stem, last = STEM_WIDTH_GENE, WIDTH_GENE, WIDTH_GENE + STAGES
        return (
            self._slot("input_stem.0", (inside,), lambda w, r: self._stem_conv(0, 3, _inside(w), r)),
            self._slot("input_stem.1", (STEM_DEPTH_GENE, inside), self._stem_residual),
            self._slot(
                "input_stem.2", (inside, stem), lambda v, w, r: self._stem_conv(2, _inside(v), _stem(w), r)
            ),
            self._slot("max_pooling", (stem,), self._stem_pool),
            *(self._block_slot(block) for block in range(BLOCKS)),
            self._slot("global_pool", (last,), self._pool),
            self._slot("classifier", (last,), self._classifier),
        )

    def active(self, genomes: Genomes) -> NDArray[np.bool_]:
        """A skipped block's expansion does not matter; everything else does."""
        depths = np.asarray(DEPTHS)[genomes[:, DEPTH_GENE:RESOLUTION_GENE]] + np.asarray(SHORTEST)
        stage_of, position_of = np.array(PLACES).T
        result = np.ones(genomes.shape, np.bool_)
        result[:, EXPAND_GENE:DEPTH_GENE] = depths[:, stage_of] > position_of
        return result

    def plan(self, architecture: Architecture) -> Plan:
        """One segment: the ops of the filled slots, one behind the other."""
        side = architecture.resolution
        return Plan.chain((side, side, 3), tuple(static_ops(self, architecture)))

    def to_json(self) -> dict[str, Any]:
        """Everything that makes this space this space."""
        return {
            "family": "ofa_resnet50",
            "resolutions": list(self.resolutions),
            "classes": self.classes,
        }

    def _slot(self, name: str, genes: tuple[int, ...], op: Callable[..., Op | None]) -> Slot:
        """A slot decided by some genes and the resolution; ``op`` takes their values."""
        choices = [values for d in self.dimensions for values in [d.choices] * d.count]
        genes = (*genes, RESOLUTION_GENE)
        return Slot(name, genes, tuple(op(*c) for c in itertools.product(*(choices[g] for g in genes))))

    # What stands in each slot, at an input of r x r pixels. Widths are multipliers.

    def _stem_conv(self, number: int, in_channels: int, out_channels: int, r: int) -> Op:
        side, stride = (_side(r, 1), 1) if number else (r, 2)
        return Op(
            "conv", (side, side, in_channels), out_channels, kernel=3, stride=stride, activation="relu",
            name=f"input_stem.{number}",
        )  # fmt: skip

    def _stem_residual(self, depth: int, width: float, r: int) -> Op | None:
        side, inside = _side(r, 1), _inside(width)
        if not depth:
            return None
        return Op(
            "conv", (side, side, inside), inside, kernel=3, activation="relu", skip=True, name="input_stem.1"
        )

    def _stem_pool(self, width: float, r: int) -> Op:
        side, channels = _side(r, 1), _stem(width)
        return Op("maxpool", (side, side, channels), channels, kernel=3, stride=2, name="max_pooling")

    def _block_slot(self, block: int) -> Slot:
        number, position = PLACES[block]
        before, own, depth_gene = WIDTH_GENE + number, WIDTH_GENE + 1 + number, DEPTH_GENE + number
        expand = EXPAND_GENE + block
        if position == 0:
            genes = (before, own, expand)
            return self._slot(f"blocks.{block}", genes, lambda v, w, e, r: self._block(block, v, w, e, r))
        if position < SHORTEST[number]:
            return self._slot(
                f"blocks.{block}", (own, expand), lambda w, e, r: self._block(block, w, w, e, r)
            )

        def optional(width: float, expand: float, depth: int, r: int) -> Op | None:
            there = position < SHORTEST[number] + depth
            return self._block(block, width, width, expand, r) if there else None

        return self._slot(f"blocks.{block}", (own, expand, depth_gene), optional)

    def _block(self, block: int, before: float, width: float, expand: float, r: int) -> Op:
        number, position = PLACES[block]
        first, out = position == 0, _stage(number, width)
        entering = _stage(number - 1, before) if number else _stem(before)
        halvings = 2 + number - (number > 0) * first
        side = _side(r, halvings)
        return Op(
            "bottleneck",
            (side, side, entering if first else out),
            out,
            kernel=3,
            stride=STRIDES[number] if first else 1,
            mid_channels=make_divisible(round(out * expand)),
            activation="relu",
            skip=not first,
            name=f"blocks.{block}",
        )

    def _pool(self, width: float, r: int) -> Op:
        side, channels = _side(r, 1 + STAGES), _stage(STAGES - 1, width)
        return Op("pool", (side, side, channels), channels, name="global_pool")

    def _classifier(self, width: float, r: int) -> Op:
        return Op("linear", (1, 1, _stage(STAGES - 1, width)), self.classes, name="classifier")


def _stem(width: float) -> int:
    return make_divisible(STEM_CHANNELS * width)


def _inside(width: float) -> int:
    """Width of the stem's first convolutions: half of what leaves it."""
    return make_divisible(_stem(width) // 2)


def _stage(number: int, width: float) -> int:
    return make_divisible(STAGE_CHANNELS[number] * width)


def _side(resolution: int, halvings: int) -> int:
    for _ in range(halvings):
        resolution = (resolution - 1) // 2 + 1
    return resolution
