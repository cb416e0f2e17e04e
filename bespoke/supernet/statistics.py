"""BN statistics of subnets: a table that ships with the supernet, and re-calibration on images.

A *statistics table* holds, for each BN layer and each combination of the local choices that its
input depends on, one mean and one variance. With it, a subnet is cut out in milliseconds and
without data. Which genes condition a layer:

    expansion   resolution
    depthwise   resolution, kernel
    projection  resolution, kernel, expand
    and every layer of a stage's first block: the depth of the stage before.

The residual stream also depends on all the blocks before, so a plain table does not fit a network
that was trained with batch statistics: the supernet is fine-tuned with the table's constants in
force (the last phase of ``training/recipe.py``). The constants stay as they were collected, so that
the gradient knows what will be in force; a running average was tried at a higher learning rate only,
at which constants failed as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bespoke.supernet.architecture import (
    Architecture,
    SearchSpace,
    Slot,
    cardinalities,
    encode,
)
from bespoke.supernet.errors import StatisticsMissing
from bespoke.supernet.layers import RecordedStatistics
from bespoke.supernet.networks.chain import ChainSupernet, norm_sites

Statistics = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class SiteLayout:
    """Which genes condition one BN layer.

    Attributes:
        genes: Indices into the genome.
        sizes: Number of choices of each.
        channels: Channels at full width.
    """

    genes: tuple[int, ...]
    sizes: tuple[int, ...]
    channels: int

    def row(self, genome: np.ndarray[Any, Any]) -> int:
        """The table's row for a genome of shape (G,)."""
        return int(np.ravel_multi_index([int(genome[g]) for g in self.genes], self.sizes))


def table_layout(space: SearchSpace) -> dict[str, SiteLayout]:
    """The layout of a space's statistics table, by BN layer, in the order in which they run."""
    sizes = cardinalities(space)
    names = _gene_names(space)
    layout: dict[str, SiteLayout] = {}
    before: Slot | None = None
    for slot in space.slots:
        context = _context(slot, before, names)
        widest = max((op for op in slot.ops if op), key=lambda op: (op.mid_channels, op.out_channels))
        for site, channels in norm_sites(widest):
            wanted = {"expansion_bn": ("resolution",), "depthwise_bn": ("resolution", "kernel")}.get(
                site.rpartition(".")[2], ("resolution", "kernel", "expand")
            )
            genes = (*context, *(g for g in slot.genes if names[g] in wanted))
            layout[site] = SiteLayout(genes, tuple(int(sizes[g]) for g in genes), channels)
        before = slot
    return layout


def _gene_names(space: SearchSpace) -> list[str]:

    return [d.name for d in space.dimensions for _ in range(d.count)]


def _context(slot: Slot, before: Slot | None, names: list[str]) -> tuple[int, ...]:
    """The depth genes of the slot before that are not this slot's own: a stage has ended there."""
    if before is None:
        return ()
    return tuple(g for g in before.genes if names[g] == "depth" and g not in slot.genes)


class StatisticsTable:
    """Means and variances of every BN layer, conditioned on local choices.

    Attributes:
        space: The space whose layers these are.
        layout: Which genes condition which layer.
        means: By layer, shape (rows, channels).
        variances: By layer, shape (rows, channels).
        counts: By layer, how often each row's channels were seen, shape (rows, channels).
    """

    def __init__(self, space: SearchSpace, device: torch.device | str = "cpu") -> None:
        self.space = space
        self.layout = table_layout(space)
        shapes = {site: (int(np.prod(at.sizes)), at.channels) for site, at in self.layout.items()}
        self.means = {site: torch.zeros(shape, device=device) for site, shape in shapes.items()}
        self.variances = {site: torch.ones(shape, device=device) for site, shape in shapes.items()}
        self.counts = {site: torch.zeros(shape, device=device) for site, shape in shapes.items()}

    def update(self, architecture: Architecture, statistics: Statistics, momentum: float) -> None:
        """Move the rows of one architecture towards what was seen.

        Args:
            architecture: Which rows.
            statistics: Mean and variance by layer, as recorded while it ran.
            momentum: Weight of the new value; rows seen n times so far use at least 1 / (n + 1),
                so that the first values average.
        """
        genome = encode(self.space, [architecture])[0]
        for site, (mean_C, var_C) in statistics.items():
            row, width = self.layout[site].row(genome), len(mean_C)
            count = self.counts[site][row, :width]
            weight = torch.clamp(1 / (count + 1), min=momentum)
            self.means[site][row, :width].lerp_(mean_C, weight)
            self.variances[site][row, :width].lerp_(var_C, weight)
            count += 1

    def lookup(self, architecture: Architecture) -> Statistics:
        """The statistics of one architecture's layers.

        Raises:
            StatisticsMissing: A row of this architecture was never seen.
        """
        genome = encode(self.space, [architecture])[0]
        found: Statistics = {}
        for op in self.space.plan(architecture).ops:
            for site, width in norm_sites(op):
                row = self.layout[site].row(genome)
                if not bool(self.counts[site][row, :width].all()):
                    raise StatisticsMissing(
                        f"the statistics table has no entry for {site} of {architecture.to_json()}: "
                        "collect the table over more architectures, or re-calibrate on images"
                    )
                found[site] = (self.means[site][row, :width], self.variances[site][row, :width])
        return found

    def unseen(self, architecture: Architecture) -> int:
        """How many of an architecture's entries were never seen."""
        genome = encode(self.space, [architecture])[0]
        missing = 0
        for op in self.space.plan(architecture).ops:
            for site, width in norm_sites(op):
                row = self.layout[site].row(genome)
                missing += int((self.counts[site][row, :width] == 0).sum())
        return missing

    def coverage(self) -> float:
        """Share of the entries that were seen at least once, in [0, 1]."""
        seen = sum(float((count > 0).sum()) for count in self.counts.values())
        return seen / sum(count.numel() for count in self.counts.values())

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds: ``{site}.mean``, ``{site}.var`` and ``{site}.count``."""
        parts = {"mean": self.means, "var": self.variances, "count": self.counts}
        return {f"{site}.{part}": values[site] for part, values in parts.items() for site in self.layout}

    @staticmethod
    def from_tensors(space: SearchSpace, tensors: Mapping[str, Tensor]) -> StatisticsTable:
        """Read what ``tensors`` gave.

        Raises:
            StatisticsMissing: A layer is missing or has another shape.
        """
        table = StatisticsTable(space)
        for site, layout in table.layout.items():
            expected = (int(np.prod(layout.sizes)), layout.channels)
            for part, target in (("mean", table.means), ("var", table.variances), ("count", table.counts)):
                tensor = tensors.get(f"{site}.{part}")
                if tensor is None or tuple(tensor.shape) != expected:
                    got = None if tensor is None else tuple(tensor.shape)
                    raise StatisticsMissing(f"statistics table: {site}.{part} is {got}, expected {expected}")
                target[site] = tensor.float()
        return table


@torch.no_grad()
def recalibrate(network: ChainSupernet, architecture: Architecture, batches: Iterable[Tensor]) -> Statistics:
    """Statistics of one subnet, averaged over batches of images at its resolution.

    Args:
        network: The supernet.
        architecture: The subnet.
        batches: Images of shape (N, 3, R, R), about 2,000 in all, normalised as in training.

    Raises:
        StatisticsMissing: There was no batch.
    """
    recorded = RecordedStatistics()
    for x_NCHW in batches:
        network(x_NCHW, architecture, recorded)
    statistics = recorded.averages()
    if not statistics:
        raise StatisticsMissing("re-calibration got no images; give at least one batch")
    return statistics
