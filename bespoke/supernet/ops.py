"""Op and OpKey: the unit that is measured, priced and exported.

An op is one fused block as a runtime executes it after BN folding: a convolution with its
activation, a whole inverted-bottleneck block, a whole residual bottleneck block, a pool, a linear
layer. Shapes are H, W, C in that order, without the batch.

A ``bottleneck`` is the block of residual networks: a 1x1 convolution to ``mid_channels``, a dense
k x k one with the stride, a 1x1 one to the output width, the sum with the shortcut, and the
activation (also behind the first two). Where it has no ``skip``, its shortcut is an average over
stride x stride pixels and a 1x1 convolution, as in ResNet-D (He et al., arXiv:1812.01187).

A key is the canonical text of an op, with neither its name nor its inputs, since two blocks of
one shape cost the same wherever they stand:

    v1:mbconv:k5:in28x28x40:mid160:out40:s1:se:hswish:skip
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NewType

from bespoke.supernet.errors import OpKeyInvalid

OpKey = NewType("OpKey", str)

KINDS = ("conv", "mbconv", "bottleneck", "pool", "maxpool", "linear")
WINDOWED = ("conv", "mbconv", "bottleneck", "maxpool")
"""Kinds with a kernel and a stride."""
BLOCKS = ("mbconv", "bottleneck")
"""Kinds with a width of their own inside."""
ACTIVATIONS = ("none", "relu", "relu6", "hswish")
PRECISIONS = ("fp32", "int8")
"""What ops are computed in: float, or 8-bit integers (U8 activations, S8 weights)."""

IMAGE_CHANNELS = 3
"""No op but the first of a network reads so few: it reads the image."""


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round a channel count to a multiple of ``divisor``, never below 90% of it.

    Source: papers of the MobileNet family; Once-for-All uses it for every width.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True, slots=True)
class Op:
    """One fused block.

    Attributes:
        kind: One of ``KINDS``.
        in_shape: (height, width, channels) of the first input.
        out_channels: Channels (or features) of the output.
        kernel: Side of the window: of the (depthwise) convolution or of the maximum; 1 for pool
            (which averages the whole map) and linear.
        stride: Stride of that window.
        mid_channels: Width between a block's outer convolutions; 0 unless ``mbconv`` or
            ``bottleneck``. An ``mbconv`` whose ``mid_channels`` equals its input width has no
            expansion convolution.
        se: Whether a squeeze-and-excitation follows the depthwise convolution.
        activation: One of ``ACTIVATIONS``.
        skip: Whether the input itself is added to the output: of a ``bottleneck`` before its last
            activation, of others after it.
        norm: Whether the convolution carries a (folded) BN, and so a bias.
        inputs: Where the inputs come from: an index of an op of the same segment, or ``~k`` for
            the segment's k-th input. Not part of the key.
        name: Where the weights come from in the supernet, e.g. ``blocks.3``. Not part of the key.
        norm_eps: What its BN layers add to the variance. Folding leaves nothing of it, so it is not
            part of the key.
    """

    kind: str
    in_shape: tuple[int, int, int]
    out_channels: int
    kernel: int = 1
    stride: int = 1
    mid_channels: int = 0
    se: bool = False
    activation: str = "none"
    skip: bool = False
    norm: bool = True
    inputs: tuple[int, ...] = (~0,)
    name: str = ""
    norm_eps: float = 1e-5

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the output; padding is kernel // 2."""
        if self.kind in ("pool", "linear"):
            return (1, 1, self.out_channels)
        height, width, _ = self.in_shape
        return ((height - 1) // self.stride + 1, (width - 1) // self.stride + 1, self.out_channels)

    @property
    def se_channels(self) -> int:
        """Width inside the squeeze-and-excitation; 0 without one."""
        return make_divisible(self.mid_channels // 4) if self.se else 0

    @property
    def expands(self) -> bool:
        """Whether an ``mbconv`` has its expansion convolution."""
        return self.kind == "mbconv" and self.mid_channels != self.in_shape[2]

    @property
    def downsamples(self) -> bool:
        """Whether a ``bottleneck`` has a convolution on its shortcut."""
        return self.kind == "bottleneck" and not self.skip

    @property
    def key(self) -> OpKey:
        """The canonical text."""
        height, width, channels = self.in_shape
        parts = ["v1", self.kind]
        if self.kind in WINDOWED:
            parts.append(f"k{self.kernel}")
        parts.append(f"in{height}x{width}x{channels}")
        if self.kind in BLOCKS:
            parts.append(f"mid{self.mid_channels}")
        parts.append(f"out{self.out_channels}")
        if self.kind in WINDOWED:
            parts.append(f"s{self.stride}")
        parts += [word for word, on in (("se", self.se), ("plain", not self.norm)) if on]
        if self.activation != "none":
            parts.append(self.activation)
        if self.skip:
            parts.append("skip")
        return OpKey(":".join(parts))

    def placed(self, *inputs: int) -> Op:
        """The same op with its inputs bound to these indices."""
        return replace(self, inputs=inputs)


_KEY = re.compile(
    r"v1:(?P<kind>[a-z]+)(?::k(?P<kernel>\d+))?:in(?P<h>\d+)x(?P<w>\d+)x(?P<c>\d+)(?::mid(?P<mid>\d+))?"
    r":out(?P<out>\d+)(?::s(?P<stride>\d+))?(?P<se>:se)?(?P<plain>:plain)?"
    r"(?::(?P<activation>relu6|relu|hswish))?(?P<skip>:skip)?"
)


def is_possible(op: Op) -> bool:
    """Whether every size, kernel and stride is 1 or more."""
    middle = [op.mid_channels] if op.kind in BLOCKS else []
    return min(*op.in_shape, op.out_channels, op.kernel, op.stride, *middle) > 0


def parse_key(text: str) -> Op:
    """Read a canonical key back into an op (without name and inputs).

    Raises:
        OpKeyInvalid: The text is no key, or is not its op's canonical text.
    """
    match = _KEY.fullmatch(text)
    if match is None:
        raise OpKeyInvalid(text, "expected e.g. v1:mbconv:k5:in28x28x40:mid160:out40:s1:se:hswish:skip")
    part = match.groupdict()
    if part["kind"] not in KINDS:
        raise OpKeyInvalid(text, f"unknown kind {part['kind']!r}; known: {', '.join(KINDS)}")
    op = Op(
        kind=part["kind"],
        in_shape=(int(part["h"]), int(part["w"]), int(part["c"])),
        out_channels=int(part["out"]),
        kernel=int(part["kernel"] or 1),
        stride=int(part["stride"] or 1),
        mid_channels=int(part["mid"] or 0),
        se=bool(part["se"]),
        activation=part["activation"] or "none",
        skip=bool(part["skip"]),
        norm=not part["plain"],
    )
    if not is_possible(op):
        raise OpKeyInvalid(text, "expected sizes, kernels and strides of 1 or more")
    if op.key != text:
        raise OpKeyInvalid(text, f"the canonical text of this op is {op.key!r}")
    return op
