"""The Once-for-All MobileNetV3 space.

Source: Cai et al., Once-for-All (ICLR 2020): five stages of two to four inverted-bottleneck
blocks, each with its own kernel and expansion ratio, at any set of resolutions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import Architecture, Dimension, Genomes, Plan, Slot, static_ops
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.ops import Op, make_divisible
from bespoke.supernet.spaces.inverted_bottlenecks import RESOLUTIONS, Stage, Trunk, check_shape


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
        check_shape(self.resolutions, self.classes)
        if self.stem not in ("imagenet", "cifar") or not 0.1 <= self.width <= 8:
            raise InvalidInput(
                f"got width {self.width!r}, stem {self.stem!r}; expected a width from 0.1 to 8, and the stem "
                "'imagenet' or 'cifar'"
            )

    @property
    def name(self) -> str:
        """e.g. ``ofa-mobilenetv3-w1.0``; with ``-cifar`` behind it for the other stem."""
        return f"ofa-mobilenetv3-w{self.width:.1f}" + ("-cifar" if self.stem == "cifar" else "")

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Kernel (20), expand (20), depth (5), resolution."""
        return self.trunk.dimensions

    @cached_property
    def stem_channels(self) -> int:
        """Width of the first convolution and of the fixed block."""
        return make_divisible(16 * self.width)

    @cached_property
    def trunk(self) -> Trunk:
        """The five elastic stages."""
        widths = [make_divisible(w * self.width) for w in (24, 40, 80, 112, 160)]
        halves = 2 if self.stem == "imagenet" else 1
        strides = (halves, 2, 2, 1, 2)
        activations = ("relu", "relu", "hswish", "hswish", "hswish")
        ses = (False, True, False, True, True)
        stages = tuple(itertools.starmap(Stage, zip(widths, strides, activations, ses, strict=True)))
        return Trunk(self.stem_channels, halves, stages, self.resolutions)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Stem, fixed block, 20 elastic blocks, and the head's four ops."""
        trunk = self.trunk
        return (
            trunk.fixed_slot("first_conv", self._first_conv),
            trunk.fixed_slot("blocks.0", self._fixed_block),
            *trunk.slots,
            trunk.fixed_slot("final_expand_layer", self._final_expand),
            trunk.fixed_slot("global_pool", self._pool),
            trunk.fixed_slot("feature_mix_layer", self._feature_mix),
            trunk.fixed_slot("classifier", self._classifier),
        )

    def active(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Kernel and expansion matter in the first ``depth`` blocks of each stage only."""
        return self.trunk.active(genomes)

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

    # What stands in the slots around the trunk, at an input of r x r pixels

    def _first_conv(self, r: int) -> Op:
        return Op(
            "conv", (r, r, 3), self.stem_channels, kernel=3, stride=self.trunk.stem_stride,
            activation="hswish", name="first_conv",
        )  # fmt: skip

    def _fixed_block(self, r: int) -> Op:
        side, width = self.trunk.side(r, 0), self.stem_channels
        return Op(
            "mbconv", (side, side, width), width, kernel=3, mid_channels=width, activation="relu", skip=True,
            name="blocks.0",
        )  # fmt: skip

    @cached_property
    def _head_channels(self) -> tuple[int, int]:
        return make_divisible(960 * self.width), make_divisible(1280 * self.width)

    def _last_side(self, r: int) -> int:
        return self.trunk.side(r, len(self.trunk.stages))

    def _final_expand(self, r: int) -> Op:
        side, width = self._last_side(r), self.trunk.stages[-1].out_channels
        return Op(
            "conv", (side, side, width), self._head_channels[0], activation="hswish",
            name="final_expand_layer",
        )  # fmt: skip

    def _pool(self, r: int) -> Op:
        side, width = self._last_side(r), self._head_channels[0]
        return Op("pool", (side, side, width), width, name="global_pool")

    def _feature_mix(self, r: int) -> Op:
        wide, mixed = self._head_channels
        return Op("conv", (1, 1, wide), mixed, activation="hswish", norm=False, name="feature_mix_layer")

    def _classifier(self, r: int) -> Op:
        return Op("linear", (1, 1, self._head_channels[1]), self.classes, name="classifier")
