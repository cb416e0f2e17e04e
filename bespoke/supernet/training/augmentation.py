"""Random resized crops and flips of a whole batch.

Two ways to the same pixels, both with a triangle filter that widens where the crop shrinks: one
image at a time, which is what a CPU does fastest, and two matrix products for the whole batch, which
is what a GPU does fastest (``benchmarks/input_pipeline.py`` measures both).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SMALLEST_AREA = 0.25


@dataclass(frozen=True)
class Crops:
    """One crop an image.

    Attributes:
        boxes: Top, left, height and width in pixels, shape (N, 4).
        flipped: Whether the crop is mirrored, shape (N,).
    """

    boxes: NDArray[np.int64]
    flipped: NDArray[np.bool_]

    def part(self, which: slice) -> Crops:
        """The crops of some of the images."""
        return Crops(self.boxes[which], self.flipped[which])


def draw_crops(
    count: int, side: int, rng: np.random.Generator, smallest_area: float = SMALLEST_AREA
) -> Crops:
    """Draw crops that cover from ``smallest_area`` to all of an image, 3:4 to 4:3.

    Args:
        count: How many.
        side: Of the square images, in pixels.
        rng: Where they come from.
        smallest_area: Smallest share of an image that a crop covers.
    """
    area = side**2 * rng.uniform(smallest_area, 1, count)
    ratio = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), count))
    width = np.minimum(side, np.rint(np.sqrt(area * ratio))).astype(np.int64)
    height = np.minimum(side, np.rint(np.sqrt(area / ratio))).astype(np.int64)
    top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
    return Crops(np.stack([top, left, height, width], axis=1), rng.random(count) < 0.5)


def resampled(x_NHWC: Tensor, crops: Crops, resolution: int) -> Tensor:
    """Cut the crops out and scale them, where the images lie.

    Args:
        x_NHWC: 8-bit squares.
        crops: One an image.
        resolution: Side of the result in pixels.

    Returns:
        8-bit images of shape (N, resolution, resolution, 3).
    """
    one_by_one = x_NHWC.device.type == "cpu"
    return (resampled_one_by_one if one_by_one else resampled_by_products)(x_NHWC, crops, resolution)


def resampled_one_by_one(x_NHWC: Tensor, crops: Crops, resolution: int) -> Tensor:
    """``resampled``, image after image."""
    made = []
    for image_HWC, (top, left, height, width), flipped in zip(
        x_NHWC, crops.boxes.tolist(), crops.flipped.tolist(), strict=True
    ):
        crop = image_HWC[top : top + height, left : left + width].permute(2, 0, 1)[None]
        crop = F.interpolate(crop, (resolution, resolution), mode="bilinear", antialias=True)
        made.append(crop.flip(3) if flipped else crop)
    return torch.cat(made).permute(0, 2, 3, 1)


def resampled_by_products(x_NHWC: Tensor, crops: Crops, resolution: int) -> Tensor:
    """``resampled``, as rows x image x columns, batched."""
    side, device = x_NHWC.shape[1], x_NHWC.device
    boxes = torch.as_tensor(crops.boxes, dtype=torch.float32, device=device)
    rows_NRS = _filter(boxes[:, 0], boxes[:, 2], side, resolution)
    columns_NRS = _filter(boxes[:, 1], boxes[:, 3], side, resolution)
    flipped_N = torch.as_tensor(crops.flipped, device=device)
    columns_NRS = torch.where(flipped_N[:, None, None], columns_NRS.flip(1), columns_NRS)
    x_NCHW = x_NHWC.permute(0, 3, 1, 2).float()
    y_NCHW = rows_NRS[:, None] @ x_NCHW @ columns_NRS[:, None].transpose(2, 3)
    return y_NCHW.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _filter(start_N: Tensor, length_N: Tensor, side: int, resolution: int) -> Tensor:
    """Weights of ``side`` pixels in each of ``resolution`` ones, shape (N, resolution, side)."""
    scale_N11 = (length_N / resolution)[:, None, None]
    support_N11 = scale_N11.clamp(min=1)
    made_R1 = torch.arange(resolution, device=start_N.device)[:, None] + 0.5
    pixel_S = torch.arange(side, device=start_N.device) + 0.5
    start_N11, end_N11 = start_N[:, None, None], (start_N + length_N)[:, None, None]
    distance_NRS = (pixel_S - start_N11 - made_R1 * scale_N11).abs()
    weights_NRS = (1 - distance_NRS / support_N11).clamp(min=0)
    weights_NRS = weights_NRS * ((pixel_S > start_N11) & (pixel_S < end_N11))
    return weights_NRS / weights_NRS.sum(2, keepdim=True)
