"""The gradient of depthwise convolutions on small maps, against torch's own."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from bespoke.supernet.depthwise import depthwise_conv, weight_gradient

CASES = [
    (kernel, stride, height, width)
    for kernel, stride in itertools.product((3, 5, 7), (1, 2))
    for height, width in ((1, 1), (2, 2), (3, 5), (7, 4), (9, 8))
]


def drawn(height: int, width: int, kernel: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_NCHW = torch.randn(3, 6, height, width, generator=generator).to(memory_format=torch.channels_last)
    return x_NCHW.requires_grad_(), torch.randn(6, 1, kernel, kernel, generator=generator).requires_grad_()


@pytest.mark.parametrize(("kernel", "stride", "height", "width"), CASES)
def test_outputs_and_both_gradients_are_those_of_torch(
    kernel: int, stride: int, height: int, width: int
) -> None:
    found = []
    for convolve in (
        lambda x, k: depthwise_conv(x, k, stride),
        lambda x, k: F.conv2d(x, k, stride=stride, padding=kernel // 2, groups=6),
    ):
        x_NCHW, kernel_C1KK = drawn(height, width, kernel)
        y_NCHW = convolve(x_NCHW, kernel_C1KK)
        slopes = torch.autograd.grad((y_NCHW * y_NCHW.detach().cos()).sum(), (x_NCHW, kernel_C1KK))
        found.append((y_NCHW, *slopes))
    for own, expected in zip(*found, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "height", "width"), CASES)
def test_each_weight_has_the_slope_of_the_pixels_that_it_met(
    kernel: int, stride: int, height: int, width: int
) -> None:
    x_NCHW, kernel_C1KK = drawn(height, width, kernel)
    y_NCHW = F.conv2d(x_NCHW, kernel_C1KK, stride=stride, padding=kernel // 2, groups=6)
    slope_NCHW = y_NCHW.detach().cos()
    (expected,) = torch.autograd.grad((y_NCHW * slope_NCHW).sum(), kernel_C1KK)
    found = weight_gradient(x_NCHW.detach(), slope_NCHW, kernel, stride)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("side", "kernel", "own"), [(6, 7, True), (4, 5, True), (7, 7, False), (5, 5, False), (2, 3, False)]
)
def test_the_own_gradient_is_taken_where_it_is_faster(side: int, kernel: int, own: bool) -> None:
    x_NCHW, kernel_C1KK = drawn(side, side, kernel)
    taken = depthwise_conv(x_NCHW, kernel_C1KK, 1).grad_fn
    assert ("SmallMaps" in type(taken).__name__) == own


def test_only_the_gradient_that_is_asked_for_is_made() -> None:
    x_NCHW, kernel_C1KK = drawn(4, 4, 7)
    depthwise_conv(x_NCHW.detach(), kernel_C1KK, 1).sum().backward()
    assert x_NCHW.grad is None
    assert kernel_C1KK.grad is not None
    with torch.no_grad():
        assert not depthwise_conv(x_NCHW, kernel_C1KK, 1).requires_grad


def test_half_precision_is_left_to_torch() -> None:
    x_NCHW, kernel_C1KK = drawn(4, 4, 7)
    with torch.autocast("cpu", torch.bfloat16):
        y_NCHW = depthwise_conv(x_NCHW, kernel_C1KK, 1)
    assert y_NCHW.dtype == torch.bfloat16
    y_NCHW.float().sum().backward()
    assert kernel_C1KK.grad is not None
    assert kernel_C1KK.grad.dtype == torch.float32
