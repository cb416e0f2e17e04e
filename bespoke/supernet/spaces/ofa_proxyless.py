"""The Once-for-All ProxylessNAS space.

Source: Cai et al., Once-for-All (ICLR 2020), its space for GPUs and CPUs, after ProxylessNAS (Cai et
al., ICLR 2019): five elastic stages and a sixth of one block, ReLU6 everywhere, no
squeeze-and-excitation, and a BN epsilon of 1e-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import Architecture, Dimension, Genomes, Plan, Slot, static_ops
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.ops import Op, make_divisible
from bespoke.supernet.spaces.inverted_bottlenecks import RESOLUTIONS, Stage, Trunk, check_shape

ACTIVATION = "relu6"
NORM_EPS = 1e-3


@dataclass(frozen=True)
class OfaProxyless:
    """ProxylessNAS with elastic kernel, expansion, depth and resolution.

    Attributes:
        width: Width multiplier of the whole network; 1.3 is the published one.
        resolutions: Sides of the input that may be chosen, ascending.
        classes: Size of the classifier.

    Raises:
        InvalidInput: A resolution, width or class count that no network can have.
    """

    width: float = 1.3
    resolutions: tuple[int, ...] = RESOLUTIONS
    classes: int = 1000

    def __post_init__(self) -> None:
        check_shape(self.resolutions, self.classes)
        if not 0.1 <= self.width <= 8:
            raise InvalidInput(f"width: got {self.width!r}, expected a number from 0.1 to 8")

    @property
    def name(self) -> str:
        """e.g. ``ofa-proxyless-w1.3``."""
        return f"ofa-proxyless-w{self.width:.1f}"

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Kernel (21), expand (21), depth (5: the sixth stage has one block), resolution."""
        return self.trunk.dimensions

    @cached_property
    def stem_channels(self) -> int:
        """Width of the first convolution."""
        return make_divisible(32 * self.width)

    @cached_property
    def trunk(self) -> Trunk:
        """The six stages."""
        widths = [make_divisible(w * self.width) for w in (24, 40, 80, 96, 192, 320)]
        strides = (2, 2, 2, 1, 2, 1)
        stages = tuple(
            Stage(width, stride, ACTIVATION, elastic=number < 5)
            for number, (width, stride) in enumerate(zip(widths, strides, strict=True))
        )
        return Trunk(make_divisible(16 * self.width), 2, stages, self.resolutions, NORM_EPS)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Stem, fixed block, 21 elastic blocks, and the head's three ops."""
        trunk = self.trunk
        return (
            trunk.fixed_slot("first_conv", self._first_conv),
            trunk.fixed_slot("blocks.0", self._fixed_block),
            *trunk.slots,
            trunk.fixed_slot("feature_mix_layer", self._feature_mix),
            trunk.fixed_slot("global_pool", self._pool),
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
            "family": "ofa_proxyless",
            "width": self.width,
            "resolutions": list(self.resolutions),
            "classes": self.classes,
        }

    # What stands in the slots around the trunk, at an input of r x r pixels

    def _first_conv(self, r: int) -> Op:
        return Op(
            "conv", (r, r, 3), self.stem_channels, kernel=3, stride=self.trunk.stem_stride,
            activation=ACTIVATION, name="first_conv", norm_eps=NORM_EPS,
        )  # fmt: skip

    def _fixed_block(self, r: int) -> Op:
        side, width = self.trunk.side(r, 0), self.stem_channels
        return Op(
            "mbconv", (side, side, width), self.trunk.in_channels, kernel=3, mid_channels=width,
            activation=ACTIVATION, name="blocks.0", norm_eps=NORM_EPS,
        )  # fmt: skip

    @cached_property
    def _head_channels(self) -> int:
        return make_divisible(1280 * self.width)

    def _last_side(self, r: int) -> int:
        return self.trunk.side(r, len(self.trunk.stages))

    def _feature_mix(self, r: int) -> Op:
        side, width = self._last_side(r), self.trunk.stages[-1].out_channels
        return Op(
            "conv", (side, side, width), self._head_channels, activation=ACTIVATION,
            name="feature_mix_layer", norm_eps=NORM_EPS,
        )  # fmt: skip

    def _pool(self, r: int) -> Op:
        side, width = self._last_side(r), self._head_channels
        return Op("pool", (side, side, width), width, name="global_pool")

    def _classifier(self, r: int) -> Op:
        return Op("linear", (1, 1, self._head_channels), self.classes, name="classifier")
