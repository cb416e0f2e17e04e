"""What a user would pick instead of a search: hand-made networks for phones, and a ResNet-18.

The mobile ones are plans of the same ops as our own subnets, so that the same loop trains them, the
same writer exports them and the same runtime times them. A ResNet-18 has blocks of another kind: it is
a plain torch module.

Sources: Sandler et al., MobileNetV2 (CVPR 2018), table 2; Howard et al., Searching for MobileNetV3
(ICCV 2019), tables 1 and 2; Tan & Le, EfficientNet (ICML 2019), table 1, with the changes of the Lite
variants (no squeeze-and-excitation, ReLU6, a stem and a head that keep their width); He et al., ResNet
(CVPR 2016), table 1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.onnx import INPUT, OUTPUT
from bespoke.supernet.ops import Op, make_divisible
from bespoke.supernet.spaces import FixedNetwork

V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, width, blocks, stride of the first."""

V3_LARGE = (
    (3, 16, 16, False, "relu", 1), (3, 64, 24, False, "relu", 2), (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2), (5, 120, 40, True, "relu", 1), (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hswish", 2), (3, 200, 80, False, "hswish", 1), (3, 184, 80, False, "hswish", 1),
    (3, 184, 80, False, "hswish", 1), (3, 480, 112, True, "hswish", 1), (3, 672, 112, True, "hswish", 1),
    (5, 672, 160, True, "hswish", 2), (5, 960, 160, True, "hswish", 1), (5, 960, 160, True, "hswish", 1),
)  # fmt: skip
V3_SMALL = (
    (3, 16, 16, True, "relu", 2), (3, 72, 24, False, "relu", 2), (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hswish", 2), (5, 240, 40, True, "hswish", 1), (5, 240, 40, True, "hswish", 1),
    (5, 120, 48, True, "hswish", 1), (5, 144, 48, True, "hswish", 1), (5, 288, 96, True, "hswish", 2),
    (5, 576, 96, True, "hswish", 1), (5, 576, 96, True, "hswish", 1),
)  # fmt: skip
"""Kernel, inner width, width, squeeze-and-excitation, activation, stride."""

LITE0_STAGES = (
    (3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (5, 6, 40, 2, 2), (3, 6, 80, 3, 2), (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2), (3, 6, 320, 1, 1),
)  # fmt: skip
"""Kernel, expansion, width, blocks, stride of the first."""


class _Chain:
    """Ops that follow one another, while they are being listed."""

    def __init__(self, side: int) -> None:
        self.shape, self.ops = (side, side, 3), list[Op]()

    def conv(self, width: int, kernel: int, stride: int, activation: str, norm: bool = True) -> None:
        self._add(Op("conv", self.shape, width, kernel, stride, activation=activation, norm=norm))

    def block(
        self, mid: int, width: int, kernel: int, stride: int, activation: str, se: bool = False
    ) -> None:
        skip = stride == 1 and width == self.shape[2]
        self._add(Op("mbconv", self.shape, width, kernel, stride, mid, se, activation, skip))

    def pool(self) -> None:
        self._add(Op("pool", self.shape, self.shape[2]))

    def network(self, name: str, classes: int) -> FixedNetwork:
        self._add(Op("linear", self.shape, classes))
        named = (replace(op, name=f"ops.{number}") for number, op in enumerate(self.ops))
        return FixedNetwork(name, tuple(named))

    def _add(self, op: Op) -> None:
        self.ops.append(op)
        self.shape = op.out_shape


def mobilenet_v2(width: float, side: int, classes: int) -> FixedNetwork:
    chain = _Chain(side)
    chain.conv(make_divisible(32 * width), 3, 2, "relu6")
    for expand, channels, blocks, first in V2_STAGES:
        for number in range(blocks):
            mid = chain.shape[2] * expand
            chain.block(mid, make_divisible(channels * width), 3, first if number == 0 else 1, "relu6")
    chain.conv(make_divisible(1280 * max(1.0, width)), 1, 1, "relu6")
    chain.pool()
    return chain.network(f"mobilenet-v2-w{width:g}", classes)


def mobilenet_v3(size: str, width: float, side: int, classes: int) -> FixedNetwork:
    chain, head = _Chain(side), (960, 1280)
    blocks: Sequence[tuple[int, int, int, bool, str, int]] = V3_LARGE
    if size == "small":
        blocks, head = V3_SMALL, (576, 1024)
    chain.conv(make_divisible(16 * width), 3, 2, "hswish")
    for kernel, mid, channels, se, activation, stride in blocks:
        inner = make_divisible(mid * width)
        chain.block(inner, make_divisible(channels * width), kernel, stride, activation, se)
    chain.conv(make_divisible(head[0] * width), 1, 1, "hswish")
    chain.pool()
    chain.conv(make_divisible(head[1] * max(1.0, width)), 1, 1, "hswish", norm=False)
    return chain.network(f"mobilenet-v3-{size}-w{width:g}", classes)


def efficientnet_lite0(side: int, classes: int) -> FixedNetwork:
    chain = _Chain(side)
    chain.conv(32, 3, 2, "relu6")
    for kernel, expand, channels, blocks, first in LITE0_STAGES:
        for number in range(blocks):
            stride = first if number == 0 else 1
            chain.block(chain.shape[2] * expand, channels, kernel, stride, "relu6")
    chain.conv(1280, 1, 1, "relu6")
    chain.pool()
    return chain.network("efficientnet-lite0", classes)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and the sum with the input."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out))
        norm = nn.BatchNorm2d(out)
        nn.init.zeros_(norm.weight)  # what the supernet's own blocks begin with
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), norm)
        same = stride == 1 and width == out
        shortcut = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.shortcut: nn.Module = nn.Identity() if same else shortcut

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The block's output, (N, C, H, W)."""
        return F.relu(self.second(F.relu(self.first(x_NCHW))) + self.shortcut(x_NCHW))


def resnet18(classes: int) -> nn.Module:
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks: list[nn.Module] = []
    width = 64
    for stage, out in enumerate((64, 128, 256, 512)):
        for number in range(2):
            blocks.append(BasicBlock(width, out, 2 if stage and number == 0 else 1))
            width = out
    network = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return network


def module_onnx(module: nn.Module, side: int) -> bytes:
    """A plain module as ONNX of batch 1, for timing and for measuring its top-1."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "module.onnx"
        torch.onnx.export(
            module.eval().cpu(), (torch.zeros(1, 3, side, side),), file, dynamo=False, opset_version=17,
            input_names=[INPUT], output_names=[OUTPUT],
        )  # fmt: skip
        return file.read_bytes()


def check_plain(ops: Sequence[Op]) -> None:
    """Refuse a plan that ``StaticNetwork`` cannot build.

    Raises:
        InvalidInput: It has ops of other kinds, as ResNet-50 has.
    """
    unknown = sorted({op.kind for op in ops} - _LAYERS.keys())
    if unknown:
        raise InvalidInput(
            f"got a network with ops of kind {', '.join(unknown)}, expected {', '.join(_LAYERS)}: training "
            "throughput (item 4) is compared for supernets of these; leave the item out, or take another "
            "--supernet"
        )


class StaticNetwork(nn.Module):
    """The network of a plan as anyone would write it in torch: ``nn.Conv2d``, ``nn.BatchNorm2d``."""

    def __init__(self, ops: Sequence[Op]) -> None:
        super().__init__()
        check_plain(ops)
        self.layers = nn.Sequential(*(_LAYERS[op.kind](op) for op in ops))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits of shape (N, classes)."""
        logits: Tensor = self.layers(x_NCHW)
        return logits


_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "hswish": lambda: nn.Hardswish(inplace=True),
}


def _unit(
    inputs: int,
    outputs: int,
    op: Op,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: str = "none",
) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs, eps=op.norm_eps), _ACTIVATIONS[activation]()]


class _Attention(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 1), nn.Hardsigmoid(),
        )  # fmt: skip

    def forward(self, x_NCHW: Tensor) -> Tensor:
        scaled: Tensor = x_NCHW * self.gate(x_NCHW)
        return scaled


class _Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x_NCHW: Tensor) -> Tensor:
        total: Tensor = x_NCHW + self.inner(x_NCHW)
        return total


def _block(op: Op) -> nn.Module:
    width, mid = op.in_shape[2], op.mid_channels
    layers = _unit(width, mid, op, activation=op.activation) if op.expands else []
    layers += _unit(mid, mid, op, op.kernel, op.stride, mid, op.activation)
    layers += [_Attention(mid, op.se_channels)] if op.se else []
    layers += _unit(mid, op.out_channels, op)
    return _Residual(nn.Sequential(*layers)) if op.skip else nn.Sequential(*layers)


def _conv(op: Op) -> nn.Module:
    if not op.norm:
        conv = nn.Conv2d(op.in_shape[2], op.out_channels, op.kernel, op.stride, op.kernel // 2, bias=False)
        return nn.Sequential(conv, _ACTIVATIONS[op.activation]())
    return nn.Sequential(*_unit(op.in_shape[2], op.out_channels, op, op.kernel, op.stride, 1, op.activation))


_LAYERS: Mapping[str, Callable[[Op], nn.Module]] = {
    "conv": _conv,
    "mbconv": _block,
    "pool": lambda op: nn.AdaptiveAvgPool2d(1),
    "linear": lambda op: nn.Sequential(nn.Flatten(), nn.Linear(op.in_shape[2], op.out_channels)),
}
