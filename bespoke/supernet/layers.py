"""Elastic blocks as functions of shared weights: a call never leaves state behind.

Shape suffixes: N batch, C channels, H and W sides; O and I are output and input channels.

Every convolution here is elastic by slicing: the first channels of each tensor. Normalisation is
an argument (``Normalise``), so that one forward pass serves training (batch statistics),
re-calibration (batch statistics that are recorded) and a table or a subnet's own statistics
(constants).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bespoke.supernet.depthwise import depthwise_conv
from bespoke.supernet.ops import Op


class Normalise(Protocol):
    """How a BN layer gets its mean and variance."""

    def __call__(self, x_NCHW: Tensor, site: str, op: Op, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        """Normalise one layer's input.

        Args:
            x_NCHW: The layer's input.
            site: The layer's name, e.g. ``blocks.3.depthwise_bn``.
            op: The block that the layer belongs to, with its local choices.
            weight_C: Scale.
            bias_C: Shift.
        """
        ...


class BatchStatistics:
    """Mean and variance of the batch at hand: training."""

    def __call__(self, x_NCHW: Tensor, site: str, op: Op, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        """Normalise one layer's input (see ``Normalise``)."""
        return F.batch_norm(x_NCHW, None, None, weight_C, bias_C, training=True, eps=op.norm_eps)


class FixedStatistics:
    """Constants: a subnet's own statistics."""

    def __init__(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take the mean and the variance of each site, each of shape (C,)."""
        self._statistics = statistics

    def __call__(self, x_NCHW: Tensor, site: str, op: Op, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        """Normalise one layer's input (see ``Normalise``)."""
        mean_C, var_C = self._statistics[site]
        return F.batch_norm(x_NCHW, mean_C, var_C, weight_C, bias_C, training=False, eps=op.norm_eps)


class RecordedStatistics:
    """Batch statistics, recorded: averages over batches, weighted by their size.

    Source: Once-for-All's re-calibration: the mean of per-batch means and of per-batch *biased*
    variances; what varies between batches is not added.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, Tensor, Tensor]] = {}

    def __call__(self, x_NCHW: Tensor, site: str, op: Op, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        """Normalise one layer's input (see ``Normalise``)."""
        # One pass gives the output and both moments; torch.var_mean is several times slower here.
        y_NCHW, mean_C, inverse_std_C = torch.native_batch_norm(
            x_NCHW, weight_C, bias_C, None, None, True, 0.0, op.norm_eps
        )
        mean_C, var_C = mean_C.detach(), (inverse_std_C.detach().pow(-2) - op.norm_eps).clamp(min=0)
        size = float(len(x_NCHW))
        count, mean_sum, var_sum = self._sums.get(site, (0.0, 0.0, 0.0))
        self._sums[site] = (count + size, mean_sum + size * mean_C, var_sum + size * var_C)
        return y_NCHW

    def averages(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and variance of each site seen so far, each of shape (C,)."""
        return {site: (m / n, v / n) for site, (n, m, v) in self._sums.items()}


def activate(x: Tensor, activation: str) -> Tensor:
    """Apply one of ``ops.ACTIVATIONS``."""
    if activation == "relu":
        return F.relu(x)
    if activation == "relu6":
        return F.relu6(x)
    return F.hardswish(x) if activation == "hswish" else x


def _initialise(weight: Tensor) -> None:
    """Random values; a weight without memory is about to be assigned, and torch takes 2 ms to skip it."""
    if not weight.is_meta:
        nn.init.kaiming_normal_(weight, mode="fan_out")


class Norm(nn.Module):
    """Scale and shift of a BN layer at full width; its statistics live elsewhere."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_NCHW: Tensor, op: Op, part: str, normalise: Normalise) -> Tensor:
        """Normalise what a part of an op gives; the first channels are used."""
        channels = x_NCHW.shape[1]
        return normalise(x_NCHW, f"{op.name}.{part}", op, self.weight[:channels], self.bias[:channels])


class Conv(nn.Module):
    """A convolution with an optional BN and an optional skip, sliced to the op's channels."""

    def __init__(self, op: Op) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(op.out_channels, op.in_shape[2], op.kernel, op.kernel))
        self.bn = Norm(op.out_channels) if op.norm else None
        _initialise(self.weight)

    def forward(self, x_NCHW: Tensor, op: Op, normalise: Normalise) -> Tensor:
        """Convolve, normalise, activate, add the input."""
        weight = self.weight[: op.out_channels, : op.in_shape[2]]
        y_NCHW = F.conv2d(x_NCHW, weight, stride=op.stride, padding=op.kernel // 2)
        if self.bn is not None:
            y_NCHW = self.bn(y_NCHW, op, "bn", normalise)
        y_NCHW = activate(y_NCHW, op.activation)
        return x_NCHW + y_NCHW if op.skip else y_NCHW


class SqueezeExcite(nn.Module):
    """Channel attention: pool, reduce, ReLU, expand, hard sigmoid, scale."""

    def __init__(self, op: Op) -> None:
        super().__init__()
        mid, inner = op.mid_channels, op.se_channels
        self.reduce = nn.Conv2d(mid, inner, 1)
        self.expand = nn.Conv2d(inner, mid, 1)

    def weights(self, op: Op) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reduction (I, C, 1, 1), its bias (I,), expansion (C, I, 1, 1), its bias (C,)."""
        mid, inner = op.mid_channels, op.se_channels
        assert self.reduce.bias is not None and self.expand.bias is not None
        return (
            self.reduce.weight[:inner, :mid],
            self.reduce.bias[:inner],
            self.expand.weight[:mid, :inner],
            self.expand.bias[:mid],
        )

    def forward(self, x_NCHW: Tensor, op: Op) -> Tensor:
        """Scale each channel by its attention."""
        reduce, reduce_bias, expand, expand_bias = self.weights(op)
        gate_NC11 = F.relu(F.conv2d(x_NCHW.mean((2, 3), keepdim=True), reduce, reduce_bias))
        return x_NCHW * F.hardsigmoid(F.conv2d(gate_NC11, expand, expand_bias))


class InvertedBottleneck(nn.Module):
    """An elastic inverted-bottleneck block.

    The largest kernel is stored; a smaller one is the centre of the next larger one, multiplied by
    a trained matrix that all channels share (the kernel transform, identity at first).
    """

    def __init__(self, largest: Op, elastic: bool = True) -> None:
        """Allocate the weights of the largest op that stands in this block's slot.

        Args:
            largest: Its channels and kernel are the full size.
            elastic: Whether smaller kernels will be asked for; a static block has no transforms.
        """
        super().__init__()
        mid, width, out = largest.mid_channels, largest.in_shape[2], largest.out_channels
        self.expansion = nn.Parameter(torch.empty(mid, width, 1, 1)) if largest.expands else None
        self.expansion_bn = Norm(mid) if largest.expands else None
        self.depthwise = nn.Parameter(torch.empty(mid, 1, largest.kernel, largest.kernel))
        self.depthwise_bn = Norm(mid)
        self.se = SqueezeExcite(largest) if largest.se else None
        self.projection = nn.Parameter(torch.empty(out, mid, 1, 1))
        self.projection_bn = Norm(out)
        smaller = range(largest.kernel - 2, 2, -2) if elastic else ()
        self.transforms = nn.ParameterDict({f"{k + 2}to{k}": torch.eye(k * k) for k in smaller})
        for weight in (self.expansion, self.depthwise, self.projection):
            if weight is not None:
                _initialise(weight)

    def kernel(self, op: Op) -> Tensor:
        """The depthwise kernel of an op, shape (C, 1, k, k)."""
        kernel = self.depthwise[: op.mid_channels]
        for k in range(kernel.shape[-1] - 2, op.kernel - 1, -2):
            centre = kernel[:, :, 1:-1, 1:-1].flatten(2)
            kernel = F.linear(centre, self.transforms[f"{k + 2}to{k}"]).unflatten(2, (k, k))
        return kernel

    def forward(self, x_NCHW: Tensor, op: Op, normalise: Normalise) -> Tensor:
        """Expand, convolve each channel, attend, project, add the input."""
        mid, width = op.mid_channels, op.in_shape[2]
        y = x_NCHW
        if self.expansion is not None and self.expansion_bn is not None:
            y = self.expansion_bn(F.conv2d(y, self.expansion[:mid, :width]), op, "expansion_bn", normalise)
            y = activate(y, op.activation)
        y = depthwise_conv(y, self.kernel(op), op.stride)
        y = activate(self.depthwise_bn(y, op, "depthwise_bn", normalise), op.activation)
        if self.se is not None:
            y = self.se(y, op)
        y = F.conv2d(y, self.projection[: op.out_channels, :mid])
        y = self.projection_bn(y, op, "projection_bn", normalise)
        return x_NCHW + y if op.skip else y


class Bottleneck(nn.Module):
    """An elastic residual bottleneck block, every width of it sliced.

    Source: He et al., ResNet (CVPR 2016), with the shortcut of ResNet-D (arXiv:1812.01187).
    """

    def __init__(self, largest: Op) -> None:
        super().__init__()
        mid, width, out, k = largest.mid_channels, largest.in_shape[2], largest.out_channels, largest.kernel
        self.reduction = nn.Parameter(torch.empty(mid, width, 1, 1))
        self.reduction_bn = Norm(mid)
        self.spatial = nn.Parameter(torch.empty(mid, mid, k, k))
        self.spatial_bn = Norm(mid)
        self.projection = nn.Parameter(torch.empty(out, mid, 1, 1))
        self.projection_bn = Norm(out)
        self.shortcut = nn.Parameter(torch.empty(out, width, 1, 1)) if largest.downsamples else None
        self.shortcut_bn = Norm(out) if largest.downsamples else None
        for weight in (self.reduction, self.spatial, self.projection, self.shortcut):
            if weight is not None:
                _initialise(weight)

    def forward(self, x_NCHW: Tensor, op: Op, normalise: Normalise) -> Tensor:
        """Reduce, convolve, project, add the shortcut, activate."""
        mid, width, out = op.mid_channels, op.in_shape[2], op.out_channels
        y = F.conv2d(x_NCHW, self.reduction[:mid, :width])
        y = activate(self.reduction_bn(y, op, "reduction_bn", normalise), op.activation)
        y = F.conv2d(y, self.spatial[:mid, :mid], stride=op.stride, padding=op.kernel // 2)
        y = activate(self.spatial_bn(y, op, "spatial_bn", normalise), op.activation)
        y = F.conv2d(y, self.projection[:out, :mid])
        y = self.projection_bn(y, op, "projection_bn", normalise)
        shortcut = x_NCHW
        if self.shortcut is not None and self.shortcut_bn is not None:
            if op.stride > 1:
                shortcut = F.avg_pool2d(shortcut, op.stride, ceil_mode=True)
            shortcut = F.conv2d(shortcut, self.shortcut[:out, :width])
            shortcut = self.shortcut_bn(shortcut, op, "shortcut_bn", normalise)
        return activate(y + shortcut, op.activation)


class Classifier(nn.Module):
    """The last linear layer."""

    def __init__(self, op: Op) -> None:
        super().__init__()
        self.linear = nn.Linear(op.in_shape[2], op.out_channels)
        if not self.linear.weight.is_meta:
            nn.init.normal_(self.linear.weight, std=0.01)
            nn.init.zeros_(self.linear.bias)

    def forward(self, x_NC: Tensor, op: Op) -> Tensor:
        """Logits of shape (N, classes)."""
        return F.linear(x_NC, self.linear.weight[:, : op.in_shape[2]], self.linear.bias)
