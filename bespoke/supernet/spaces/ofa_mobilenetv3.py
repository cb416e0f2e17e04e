"""The Once-for-All MobileNetV3 space.

Source: Cai et al., Once-for-All (ICLR 2020): five stages of two to four inverted-bottleneck
blocks, each with its own kernel and expansion ratio, at any set of resolutions. Elastic depth
keeps the first blocks of a stage.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import (
    Architecture,
    Dimension,
    Genomes,
    Plan,
    Slot,
    static_ops,
)
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.ops import Op, make_divisible

KERNELS, EXPANDS, DEPTHS = (3, 5, 7), (3, 4, 6), (2, 3, 4)
STAGES, BLOCKS = len("12345"), 20
BLOCKS_A_STAGE = BLOCKS // STAGES
RESOLUTIONS = tuple(range(128, 225, 4))


@dataclass(frozen=True)
class Stage:
    """What all blocks of one stage share."""

    out_channels: int
    stride: int
    activation: str
    se: bool


@dataclass(frozen=True)
class OfaMobileNetV3:
    """MobileNetV3 with elastic kernel, expansion, depth and resolution.

    Attributes:
        width: Width multiplier of the whole network; 1.0 and 1.2 are the published ones.
        resolutions: Sides of the input that may be chosen, ascending.
        classes: Size of the classifier.
        stem: ``imagenet`` halves the image in the stem and in stage 1; ``cifar`` does neither, for
            images of about 32 pixels.

    Raises:
        InvalidInput: A resolution, width or class count that no network can have.
    """

    width: float = 1.0
    resolutions: tuple[int, ...] = RESOLUTIONS
    classes: int = 1000
    stem: Literal["imagenet", "cifar"] = "imagenet"

    def __post_init__(self) -> None:
        ordered = tuple(sorted(set(self.resolutions)))
        if not ordered or ordered != tuple(self.resolutions) or not 8 <= ordered[0] <= ordered[-1] <= 2048:
            raise InvalidInput(
                f"resolutions: got {self.resolutions!r}, expected distinct ascending pixels from 8 to 2048"
            )
        if self.classes < 1 or self.stem not in ("imagenet", "cifar") or not 0.1 <= self.width <= 8:
            raise InvalidInput(
                f"got width {self.width!r}, classes {self.classes!r}, stem {self.stem!r}; expected a width "
                "from 0.1 to 8, at least one class, and the stem 'imagenet' or 'cifar'"
            )

    @property
    def name(self) -> str:
        """e.g. ``ofa-mobilenetv3-w1.0``; with ``-cifar`` behind it for the other stem."""
        return f"ofa-mobilenetv3-w{self.width:.1f}" + ("-cifar" if self.stem == "cifar" else "")

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Kernel (20), expand (20), depth (5), resolution."""
        return (
            Dimension("kernel", KERNELS, BLOCKS),
            Dimension("expand", EXPANDS, BLOCKS),
            Dimension("depth", DEPTHS, STAGES),
            Dimension("resolution", self.resolutions, 1),
        )

    @cached_property
    def stem_channels(self) -> int:
        """Width of the first convolution and of the fixed block."""
        return make_divisible(16 * self.width)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The five elastic stages."""
        widths = [make_divisible(w * self.width) for w in (24, 40, 80, 112, 160)]
        first_stride = 2 if self.stem == "imagenet" else 1
        strides = (first_stride, 2, 2, 1, 2)
        activations = ("relu", "relu", "hswish", "hswish", "hswish")
        ses = (False, True, False, True, True)
        return tuple(itertools.starmap(Stage, zip(widths, strides, activations, ses, strict=True)))

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Stem, fixed block, 20 elastic blocks, and the head's four ops."""
        resolution_gene = 2 * BLOCKS + STAGES
        slots = [
            self._fixed_slot("first_conv", self._first_conv, resolution_gene),
            self._fixed_slot("blocks.0", self._fixed_block, resolution_gene),
        ]
        for block in range(BLOCKS):
            genes = (block, BLOCKS + block, 2 * BLOCKS + block // BLOCKS_A_STAGE, resolution_gene)
            combinations = itertools.product(KERNELS, EXPANDS, DEPTHS, self.resolutions)
            slots.append(
                Slot(f"blocks.{block + 1}", genes, tuple(self._block(block, *c) for c in combinations))
            )
        slots.append(self._fixed_slot("final_expand_layer", self._final_expand, resolution_gene))
        slots.append(self._fixed_slot("global_pool", self._pool, resolution_gene))
        slots.append(self._fixed_slot("feature_mix_layer", self._feature_mix, resolution_gene))
        slots.append(self._fixed_slot("classifier", self._classifier, resolution_gene))
        return tuple(slots)

    def active(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Kernel and expansion matter in the first ``depth`` blocks of each stage only."""
        depths = np.asarray(DEPTHS)[genomes[:, 2 * BLOCKS : 2 * BLOCKS + STAGES]]
        used = np.arange(BLOCKS_A_STAGE) < depths[:, :, None]
        blocks = used.reshape(len(genomes), BLOCKS)
        rest = np.ones((len(genomes), STAGES + 1), np.bool_)
        return np.concatenate([blocks, blocks, rest], axis=1)

    def plan(self, architecture: Architecture) -> Plan:
        """One segment: the ops of the filled slots, one behind the other."""
        side = architecture.resolution
        return Plan.chain((side, side, 3), tuple(static_ops(self, architecture)))

    def to_json(self) -> dict[str, Any]:
        """Everything that makes this space this space."""
        return {
            "family": "ofa_mobilenetv3",
            "width": self.width,
            "resolutions": list(self.resolutions),
            "classes": self.classes,
            "stem": self.stem,
        }

    # What stands in each slot. Sides are those of the feature maps, by the strides before them.

    def _fixed_slot(self, name: str, op: Callable[[int], Op], resolution_gene: int) -> Slot:
        return Slot(name, (resolution_gene,), tuple(op(r) for r in self.resolutions))

    def _side(self, resolution: int, stage: int) -> int:
        """Side of the map that enters a stage (0 to 4); stage 5 is the head."""
        strides = (2 if self.stem == "imagenet" else 1, *(s.stride for s in self.stages[:stage]))
        side = resolution
        for stride in strides:
            side = (side - 1) // stride + 1
        return side

    def _first_conv(self, r: int) -> Op:
        stride = 2 if self.stem == "imagenet" else 1
        return Op(
            "conv",
            (r, r, 3),
            self.stem_channels,
            kernel=3,
            stride=stride,
            activation="hswish",
            name="first_conv",
        )

    def _fixed_block(self, r: int) -> Op:
        side, width = self._side(r, 0), self.stem_channels
        return Op(
            "mbconv", (side, side, width), width, kernel=3, mid_channels=width, activation="relu", skip=True,
            name="blocks.0",
        )  # fmt: skip

    def _block(self, block: int, kernel: int, expand: int, depth: int, r: int) -> Op | None:
        number, position = divmod(block, BLOCKS_A_STAGE)
        if position >= depth:
            return None
        stage = self.stages[number]
        first = position == 0
        before = self.stages[number - 1].out_channels if number else self.stem_channels
        side = self._side(r, number) if first else self._side(r, number + 1)
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
        )

    @cached_property
    def _head_channels(self) -> tuple[int, int]:
        return make_divisible(960 * self.width), make_divisible(1280 * self.width)

    def _final_expand(self, r: int) -> Op:
        side = self._side(r, STAGES)
        return Op(
            "conv", (side, side, self.stages[-1].out_channels), self._head_channels[0], activation="hswish",
            name="final_expand_layer",
        )  # fmt: skip

    def _pool(self, r: int) -> Op:
        side, width = self._side(r, STAGES), self._head_channels[0]
        return Op("pool", (side, side, width), width, name="global_pool")

    def _feature_mix(self, r: int) -> Op:
        wide, mixed = self._head_channels
        return Op("conv", (1, 1, wide), mixed, activation="hswish", norm=False, name="feature_mix_layer")

    def _classifier(self, r: int) -> Op:
        return Op("linear", (1, 1, self._head_channels[1]), self.classes, name="classifier")
