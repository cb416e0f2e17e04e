"""The published networks once more, straight from their tensors: what importers are checked against.

Written from the published descriptions, with none of the project's layers.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def published_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a keys file."""
    lines = (line.split(" ", 1) for line in path.read_text().splitlines() if line)
    return {name: ast.literal_eval(shape) for name, shape in lines}


def random_state(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> State:
    """Tensors of these shapes, with which activations neither vanish nor overflow."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("_matrix"):
            state[name] = torch.eye(shape[0]) + 0.05 * noise
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = 1 + 0.2 * noise.clamp(-2, 2)
        elif len(shape) == 1:
            state[name] = 0.1 * noise
        else:
            state[name] = noise * math.sqrt(2 / math.prod(shape[1:]))
    return state


def divisible(value: float) -> int:
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def act(x: Tensor, name: str | None) -> Tensor:
    if name == "h_swish":
        return x * F.relu6(x + 3) / 6
    return {"relu": F.relu, "relu6": F.relu6, None: lambda y: y}[name](x)


class Reference:
    """Evaluates a state dict; every channel count it needs beyond the tensors' is an argument."""

    def __init__(self, state: Mapping[str, Tensor], eps: float) -> None:
        self.state, self.eps = state, eps

    def get(self, *names: str) -> Tensor:
        return next(self.state[name] for name in names if name in self.state)

    def norm(self, x: Tensor, unit: str) -> Tensor:
        c = x.shape[1]
        mean, var, weight, bias = (
            self.get(f"{unit}.bn.bn.{part}", f"{unit}.bn.{part}")[:c].view(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + self.eps) * weight + bias

    def conv(self, x: Tensor, unit: str, out: int | None = None, stride: int = 1) -> Tensor:
        weight = self.get(f"{unit}.conv.conv.weight", f"{unit}.conv.weight")[:out, : x.shape[1]]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def depthwise(self, x: Tensor, unit: str, kernel: int | None, stride: int) -> Tensor:
        c = x.shape[1]
        weight = self.get(f"{unit}.conv.conv.weight", f"{unit}.conv.weight")[:c]
        while kernel and weight.shape[-1] > kernel:
            side = weight.shape[-1]
            matrix = self.state[f"{unit}.conv.{side}to{side - 2}_matrix"]
            centre = weight[:, 0, 1:-1, 1:-1].reshape(c, -1)
            weight = (centre @ matrix.T).view(c, 1, side - 2, side - 2)
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=c)

    def squeeze(self, x: Tensor, se: str) -> Tensor:
        c = x.shape[1]
        inner = divisible(c // 4)
        s, state = x.mean((2, 3), keepdim=True), self.state
        s = F.relu(F.conv2d(s, state[f"{se}.reduce.weight"][:inner, :c], state[f"{se}.reduce.bias"][:inner]))
        s = F.conv2d(s, state[f"{se}.expand.weight"][:c, :inner], state[f"{se}.expand.bias"][:c])
        return x * F.relu6(s + 3) / 6

    def mb(
        self, x: Tensor, block: str, activation: str, stride: int, mid: int | None = None,
        kernel: int | None = None, residual: bool = False,
    ) -> Tensor:  # fmt: skip
        old = any(name.startswith(f"{block}.mobile_inverted_conv.") for name in self.state)
        path = f"{block}.mobile_inverted_conv" if old else f"{block}.conv"
        y = x
        if any(name.startswith(f"{path}.inverted_bottleneck.") for name in self.state):
            unit = f"{path}.inverted_bottleneck"
            y = act(self.norm(self.conv(y, unit, mid), unit), activation)
        unit = f"{path}.depth_conv"
        y = act(self.norm(self.depthwise(y, unit, kernel, stride), unit), activation)
        if f"{unit}.se.fc.reduce.weight" in self.state:
            y = self.squeeze(y, f"{unit}.se.fc")
        unit = f"{path}.point_linear"
        y = self.norm(self.conv(y, unit), unit)
        return x + y if residual else y

    def classify(self, x: Tensor) -> Tensor:
        weight, bias = (
            self.get(f"classifier.linear.linear.{p}", f"classifier.linear.{p}") for p in ("weight", "bias")
        )
        return F.linear(x.flatten(1), weight[:, : x.shape[1]], bias)


Pairs = Sequence[Sequence[int]]
STRIDES = {"mbv3": (2, 2, 2, 1, 2), "proxyless": (2, 2, 2, 1, 2, 1)}
ACTS = {"mbv3": ("relu", "relu", *["h_swish"] * 3), "proxyless": ("relu6",) * 6}


def mobile_forward(state: State, family: str, stages: Sequence[Pairs], x: Tensor, elastic: bool) -> Tensor:
    """MobileNetV3 or ProxylessNAS; ``stages`` has the [kernel, expand] of each block that runs.

    An elastic state dict has four blocks a stage, a static one those that run.
    """
    net = Reference(state, 1e-5 if family == "mbv3" else 1e-3)
    first = "h_swish" if family == "mbv3" else "relu6"
    x = act(net.norm(net.conv(x, "first_conv", stride=2), "first_conv"), first)
    x = net.mb(x, "blocks.0", "relu" if family == "mbv3" else "relu6", 1, residual=family == "mbv3")
    number = 1
    for stage, (blocks, stride, name) in enumerate(zip(stages, STRIDES[family], ACTS[family], strict=True)):
        if elastic:
            number = 1 + 4 * stage
        for i, (kernel, expand) in enumerate(blocks):
            sizes = {"mid": divisible(round(x.shape[1] * expand)), "kernel": kernel} if elastic else {}
            x = net.mb(x, f"blocks.{number}", name, 1 if i else stride, residual=i > 0, **sizes)
            number += 1
    if family == "mbv3":
        x = act(net.norm(net.conv(x, "final_expand_layer"), "final_expand_layer"), "h_swish")
        x = x.mean((2, 3), keepdim=True)
        return net.classify(act(net.conv(x, "feature_mix_layer"), "h_swish"))
    x = act(net.norm(net.conv(x, "feature_mix_layer"), "feature_mix_layer"), "relu6")
    return net.classify(x.mean((2, 3)))


def resnet_forward(
    state: State, x: Tensor, residual_stem: bool, stem: Sequence[int], widths: Sequence[int],
    expands: Sequence[Sequence[float]],
) -> Tensor:  # fmt: skip
    """ResNet50-D; widths in channels, one list of expansion ratios a stage for the blocks that run."""
    net = Reference(state, 1e-5)

    def unit(y: Tensor, name: str, out: int, stride: int = 1) -> Tensor:
        return net.norm(net.conv(y, name, out, stride), name)

    x = F.relu(unit(x, "input_stem.0", stem[0], 2))
    if residual_stem:
        x = x + F.relu(unit(x, "input_stem.1.conv", stem[0]))
    x = F.relu(unit(x, "input_stem.2", stem[1]))
    x = F.max_pool2d(x, 3, 2, 1)
    for start, stride, width, ratios in zip((0, 4, 8, 14), (1, 2, 2, 2), widths, expands, strict=True):
        for i, ratio in enumerate(ratios):
            block, mid = f"blocks.{start + i}", divisible(round(width * ratio))
            shortcut = x
            if i == 0:
                pooled = F.avg_pool2d(x, stride, stride, 0, ceil_mode=True)
                shortcut = unit(pooled, f"{block}.downsample", width)
            y = F.relu(unit(x, f"{block}.conv1", mid))
            y = F.relu(unit(y, f"{block}.conv2", mid, 1 if i else stride))
            x = F.relu(unit(y, f"{block}.conv3", width) + shortcut)
    return net.classify(x.mean((2, 3)))


def convolution(cin: int, cout: int, kernel: int, stride: int, activation: str | None, **more: Any) -> Any:
    """A convolution's configuration, as the authors' code writes it."""
    return {
        "name": "ConvLayer", "kernel_size": kernel, "stride": stride, "dilation": 1, "groups": 1,
        "bias": False, "has_shuffle": False, "use_se": False, "in_channels": cin, "out_channels": cout,
        "use_bn": True, "act_func": activation, "dropout_rate": 0, "ops_order": "weight_bn_act", **more,
    }  # fmt: skip


def linear(cin: int, cout: int) -> dict[str, Any]:
    return {
        "name": "LinearLayer", "in_features": cin, "out_features": cout, "bias": True, "use_bn": False,
        "act_func": None, "dropout_rate": 0, "ops_order": "weight_bn_act",
    }  # fmt: skip


def mobile_config(family: str, first: int, stages: Iterable[Pairs], classes: int) -> dict[str, Any]:
    """The ``net.config`` of a specialised network, with the names of the first release."""
    width = {16: 1.0, 24: 1.2, 40: 1.3}[first]
    base = (24, 40, 80, 112, 160) if family == "mbv3" else (24, 40, 80, 96, 192, 320)
    ses = (False, True, False, True, True) if family == "mbv3" else (False,) * 6

    def block(cin: int, cout: int, k: int, e: int, stride: int, activation: str, se: bool, skip: bool) -> Any:
        inner = {
            "name": "MBInvertedConvLayer", "in_channels": cin, "out_channels": cout, "kernel_size": k,
            "stride": stride, "expand_ratio": e, "act_func": activation, "use_se": se,
            "mid_channels": None if (cin * e) % 8 == 0 else divisible(cin * e),
        }  # fmt: skip
        shortcut = {"name": "IdentityLayer", "in_channels": [cin], "out_channels": [cin]} if skip else None
        name = "MobileInvertedResidualBlock"
        return {"name": name, "mobile_inverted_conv": inner, "shortcut": shortcut}

    low = "relu" if family == "mbv3" else "relu6"
    cin = first if family == "mbv3" else divisible(16 * width)
    blocks = [block(first, cin, 3, 1, 1, low, False, family == "mbv3")]
    for channels, stride, name, se, stage in zip(
        base, STRIDES[family], ACTS[family], ses, stages, strict=True
    ):
        cout = divisible(channels * width)
        for i, (k, e) in enumerate(stage):
            blocks.append(block(cin, cout, k, e, 1 if i else stride, name, se, i > 0))
            cin = cout
    bn = {"momentum": 0.1, "eps": 1e-5 if family == "mbv3" else 1e-3}
    mixed = divisible(1280 * width)
    if family == "proxyless":
        return {
            "name": "ProxylessNASNets", "bn": bn, "first_conv": convolution(3, first, 3, 2, "relu6"),
            "blocks": blocks, "feature_mix_layer": convolution(cin, mixed, 1, 1, "relu6"),
            "classifier": linear(mixed, classes),
        }  # fmt: skip
    wide = divisible(960 * width)
    return {
        "name": "MobileNetV3", "bn": bn, "first_conv": convolution(3, first, 3, 2, "h_swish"),
        "blocks": blocks, "final_expand_layer": convolution(cin, wide, 1, 1, "h_swish"),
        "feature_mix_layer": convolution(wide, mixed, 1, 1, "h_swish", use_bn=False),
        "classifier": linear(mixed, classes),
    }  # fmt: skip


def resnet_config(classes: int) -> dict[str, Any]:
    """The ``net.config`` of the largest network of the ResNet-50 space."""
    identity = {"name": "IdentityLayer", "in_channels": 32, "out_channels": 32}
    inner = convolution(32, 32, 3, 1, "relu")
    stem = [
        convolution(3, 32, 3, 2, "relu"),
        {"name": "ResidualBlock", "conv": inner, "shortcut": identity},
        convolution(32, 64, 3, 1, "relu"),
    ]
    blocks, cin = [], 64
    for depth, cout, stride in zip((4, 4, 6, 4), (256, 512, 1024, 2048), (1, 2, 2, 2), strict=True):
        for i in range(depth):
            blocks.append(
                {"name": "ResNetBottleneckBlock", "in_channels": cin, "out_channels": cout, "kernel_size": 3,
                 "stride": 1 if i else stride, "expand_ratio": 0.35, "mid_channels": None,
                 "act_func": "relu", "groups": 1, "downsample_mode": "avgpool_conv"}
            )  # fmt: skip
            cin = cout
    bn = {"momentum": 0.1, "eps": 1e-5}
    return {
        "name": "ResNets",
        "bn": bn,
        "input_stem": stem,
        "blocks": blocks,
        "classifier": linear(cin, classes),
    }
