"""Depthwise convolutions whose gradient on small maps is not what a CPU waits for.

On a CPU torch takes up to a hundred times as long for the weight gradient of a wide kernel on a small map
(7 x 7 on 4 x 4, say) as for the output: it walks over the padding too. Here each of the kernel's weights is
one product over the pixels that it really met.

    python -m benchmarks.depthwise
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

WIDE_KERNEL = 5
"""Kernels from this side on, on maps smaller than themselves: there it is faster, on larger ones no more."""


def depthwise_conv(x_NCHW: Tensor, kernel_C1KK: Tensor, stride: int) -> Tensor:
    """Convolve each channel by its own kernel, padded by half of it.

    Args:
        x_NCHW: The maps, fastest in channels-last memory.
        kernel_C1KK: A square kernel of odd side for each channel.
        stride: Of both sides.

    Returns:
        Of shape (N, C, ceil(H / stride), ceil(W / stride)).
    """
    if _waits_for_padding(x_NCHW, kernel_C1KK):
        y_NCHW: Tensor = _SmallMaps.apply(x_NCHW, kernel_C1KK, stride)  # type: ignore[no-untyped-call]
        return y_NCHW
    return _conv(x_NCHW, kernel_C1KK, stride)


def weight_gradient(x_NCHW: Tensor, slope_NCHW: Tensor, side: int, stride: int) -> Tensor:
    """How a loss changes with each weight of the kernel.

    Args:
        x_NCHW: What was convolved.
        slope_NCHW: How the loss changes with the output.
        side: Of the kernel.
        stride: Of the convolution.

    Returns:
        Of shape (C, 1, side, side).
    """
    x_NHWC, slope_NHWC = x_NCHW.permute(0, 2, 3, 1), slope_NCHW.permute(0, 2, 3, 1)
    height, width = ((n, m) for n, m in zip(x_NHWC.shape[1:3], slope_NHWC.shape[1:3], strict=True))
    gradient_KKC = x_NCHW.new_zeros(side, side, x_NCHW.shape[1])
    for i in range(side):
        rows_in, rows_out = _met(i - side // 2, *height, stride)
        for j in range(side):
            columns_in, columns_out = _met(j - side // 2, *width, stride)
            products = x_NHWC[:, rows_in, columns_in] * slope_NHWC[:, rows_out, columns_out]
            gradient_KKC[i, j] = products.sum((0, 1, 2))
    return gradient_KKC.permute(2, 0, 1).unsqueeze(1)


def _met(offset: int, inputs: int, outputs: int, stride: int) -> tuple[slice, slice]:
    """Which inputs a weight at an offset from the kernel's centre met, and for which outputs."""
    first = max(0, -(offset // stride))
    last = min(outputs - 1, (inputs - 1 - offset) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first * stride + offset, last * stride + offset + 1, stride), slice(first, last + 1)


def _waits_for_padding(x_NCHW: Tensor, kernel_C1KK: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and kernel_C1KK.requires_grad
        and x_NCHW.device.type == "cpu"
        and x_NCHW.dtype == kernel_C1KK.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and kernel_C1KK.shape[-1] >= WIDE_KERNEL
        and max(x_NCHW.shape[2:]) < kernel_C1KK.shape[-1]
    )


def _conv(x_NCHW: Tensor, kernel_C1KK: Tensor, stride: int) -> Tensor:
    channels, side = kernel_C1KK.shape[0], kernel_C1KK.shape[-1]
    return F.conv2d(x_NCHW, kernel_C1KK, stride=stride, padding=side // 2, groups=channels)


class _SmallMaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, kernel_C1KK: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x_NCHW, kernel_C1KK)
        ctx.stride = stride
        return _conv(x_NCHW, kernel_C1KK, stride)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, slope_NCHW: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_NCHW, kernel_C1KK = ctx.saved_tensors
        channels, side, stride = kernel_C1KK.shape[0], kernel_C1KK.shape[-1], ctx.stride
        x_slope = kernel_slope = None
        if ctx.needs_input_grad[0]:
            x_slope, _, _ = torch.ops.aten.convolution_backward(
                slope_NCHW, x_NCHW, kernel_C1KK, None, [stride] * 2, [side // 2] * 2, [1, 1], False, [0, 0],
                channels, [True, False, False],
            )  # fmt: skip
        if ctx.needs_input_grad[1]:
            kernel_slope = weight_gradient(x_NCHW, slope_NCHW, side, stride)
        return x_slope, kernel_slope, None
