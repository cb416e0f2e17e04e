from __future__ import annotations

import numpy as np
import pytest
import torch

from bespoke.supernet.training.augmentation import (
    Crops,
    draw_crops,
    resampled_by_products,
    resampled_one_by_one,
)

WAYS = (resampled_one_by_one, resampled_by_products)


def some_images(side: int = 40) -> torch.Tensor:
    """Smooth images: neighbouring pixels resemble each other, as in photographs."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(6, 3, 8, 8, generator=rng) * 255
    x_NCHW = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 255)
    return x_NCHW.to(torch.uint8).permute(0, 2, 3, 1)


@pytest.mark.parametrize("resolution", [16, 40, 56])
def test_both_ways_give_the_same_pixels(resolution: int) -> None:
    x_NHWC = some_images()
    crops = draw_crops(len(x_NHWC), 40, np.random.default_rng(0))
    made = [way(x_NHWC, crops, resolution).int() for way in WAYS]
    assert made[0].shape == (6, resolution, resolution, 3)
    assert (made[0] - made[1]).abs().max() <= 2


@pytest.mark.parametrize("way", WAYS)
def test_a_whole_crop_at_the_same_size_changes_nothing_and_a_flip_mirrors(way) -> None:  # type: ignore[no-untyped-def]
    x_NHWC = some_images()[:2]
    crops = Crops(np.array([[0, 0, 40, 40]] * 2), np.array([False, True]))
    y_NHWC = way(x_NHWC, crops, 40)
    assert torch.equal(y_NHWC[0], x_NHWC[0])
    assert torch.equal(y_NHWC[1], x_NHWC[1].flip(1))


def test_crops_lie_inside_and_are_no_smaller_than_asked() -> None:
    crops = draw_crops(500, 40, np.random.default_rng(0), smallest_area=0.3)
    top, left, height, width = crops.boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 40).all() and (left + width <= 40).all()
    assert (height * width >= 0.25 * 40**2).all()
    assert 0.4 < crops.flipped.mean() < 0.6


def test_a_part_of_a_batch_is_cropped_as_in_the_whole() -> None:
    x_NHWC, crops = some_images(), draw_crops(6, 40, np.random.default_rng(0))
    whole = resampled_one_by_one(x_NHWC, crops, 24)
    part = resampled_one_by_one(x_NHWC[2:4], crops.part(slice(2, 4)), 24)
    assert torch.equal(part, whole[2:4])
