"""Narrow supernets and images of two colours: what the tests here train."""

from __future__ import annotations

import numpy as np
import torch

from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.spaces import OfaMobileNetV3, OfaProxyless, OfaResNet50
from bespoke.supernet.statistics import StatisticsTable, table_layout
from bespoke.supernet.training.data import ImageSet

NARROW = OfaMobileNetV3(0.2, (32,), 2)
SPACES: tuple[SearchSpace, ...] = (
    OfaMobileNetV3(0.4, (32,), 3),
    OfaProxyless(0.4, (32,), 3),
    OfaResNet50((32,), 3),
)


def fresh(space: SearchSpace = NARROW, seed: int = 0) -> ChainSupernet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ChainSupernet(space)


def two_colours(count: int = 12) -> ImageSet:
    """Reddish images are class 0, bluish ones class 1."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = rng.integers(0, 60, (count, 40, 40, 3)).astype(np.uint8)
    images[np.arange(count), :, :, 2 * labels] += 150
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), ("red", "blue"))


def any_statistics(space: SearchSpace = NARROW) -> StatisticsTable:
    """A statistics table that no image was looked at for."""
    rng = torch.Generator().manual_seed(0)
    layout = table_layout(space).items()
    means = {site: torch.randn(at.rows, at.channels, generator=rng) * 0.05 for site, at in layout}
    log_variances = {site: torch.randn(at.rows, at.channels, generator=rng) * 0.05 for site, at in layout}
    return StatisticsTable(space, means, log_variances)
