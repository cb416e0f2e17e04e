"""Collecting a supernet's statistics table from training images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from bespoke.supernet.architecture import Architecture, SearchSpace, canonical, decode
from bespoke.supernet.genomes import sample
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.statistics import StatisticsTable, check_covered, fit_table, recalibrate
from bespoke.supernet.training.data import ImageSet, augmented, normalised, training_batch

ARCHITECTURES = 1200
BATCH = 64
_SEED = 999
"""Kept apart from the phases' seeds, which end in their number."""


@torch.no_grad()
def collect_table(
    network: ChainSupernet,
    images: ImageSet,
    *,
    architectures: int = ARCHITECTURES,
    batch: int = BATCH,
    seed: int = 0,
    device: torch.device | str = "cpu",
    report: Callable[[str], None] = print,
) -> StatisticsTable:
    """Fit a statistics table on random architectures, each on another batch of augmented images.

    Args:
        network: The supernet, trained with batch statistics.
        images: The training images.
        architectures: How many random architectures.
        batch: Images for each.
        seed: All randomness follows from it.
        device: Where the network runs.
        report: Gets a line of progress now and then.

    Raises:
        StatisticsMissing: So few architectures do not cover every choice.
    """
    network.to(device)
    size = min(batch, len(images))
    chosen = table_architectures(network.space, architectures, seed)
    check_covered(network.space, chosen)
    samples = []
    for number, architecture in enumerate(chosen):
        x_NHWC, _, crops = training_batch(images, size, number, seed * 1000 + _SEED)
        x_NHWC = augmented(x_NHWC, architecture.resolution, crops)
        seen = recalibrate(network, architecture, [normalised(x_NHWC, device)])
        samples.append((architecture, {site: (mean.cpu(), var.cpu()) for site, (mean, var) in seen.items()}))
        if (number + 1) % 100 == 0:
            report(f"statistics of {number + 1}/{architectures} architectures")
    return fit_table(network.space, samples)


def table_architectures(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """The random architectures that a table is fitted on.

    Args:
        space: The supernet's.
        count: How many.
        seed: The table's.
    """
    return [_drawn(space, number, np.random.default_rng([seed, _SEED, number])) for number in range(count)]


def _drawn(space: SearchSpace, number: int, rng: np.random.Generator) -> Architecture:
    """A random architecture; each second one is larger, as only those show all blocks and channels."""
    genomes = sample(space, 1 + number % 2, rng)
    return decode(space, canonical(space, genomes.max(0, keepdims=True))[0])
