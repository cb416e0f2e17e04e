"""BN statistics of subnets: a table that ships with the supernet, and re-calibration on images.

What a BN layer sees depends on every choice before it: on the kernel and expansion ratio of its own
block, and, through the residual stream, on those of all blocks before. A *statistics table* is
additive in them: for each BN layer it holds, per channel, a base and one effect for each choice that
may stand before it, of the mean and of the logarithm of the variance. The statistics of a subnet are
sums of rows, so that it is cut out in milliseconds and without data.

The effects are fitted by ridge regression on the batch statistics of random subnets
(``training/collection.py``). A table of the local choices alone, with nothing of the blocks before,
lost about five times as much top-1, and training on its constants did not make up for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bespoke.supernet.architecture import (
    Architecture,
    Genomes,
    SearchSpace,
    cardinalities,
    encode,
)
from bespoke.supernet.errors import StatisticsMissing
from bespoke.supernet.layers import RecordedStatistics
from bespoke.supernet.networks.chain import ChainSupernet, norm_sites

Statistics = dict[str, tuple[Tensor, Tensor]]

RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Strengths to choose from, channel by channel, by the leave-one-out error."""
FEWEST_SAMPLES = 5
SMALLEST_VARIANCE = 1e-6

_OWN_CHOICES: Mapping[str, tuple[str, ...]] = {
    "expansion_bn": ("resolution",),
    "depthwise_bn": ("resolution", "kernel"),
}
_ALL_OWN = ("resolution", "kernel", "expand", "width", "stem_width")


@dataclass(frozen=True)
class SiteLayout:
    """What one BN layer depends on.

    Attributes:
        choices: Indices into ``indicators``: one for each choice that may stand before the layer.
        channels: Channels at full width.
    """

    choices: tuple[int, ...]
    channels: int

    @property
    def rows(self) -> int:
        """Rows of the layer's table: the base, then one effect a choice."""
        return 1 + len(self.choices)


def table_layout(space: SearchSpace) -> dict[str, SiteLayout]:
    """The layout of a space's statistics table, by BN layer, in the order in which they run."""
    names = [d.name for d in space.dimensions for _ in range(d.count)]
    sizes, offsets = cardinalities(space), _offsets(space)
    layout: dict[str, SiteLayout] = {}
    before: set[int] = set()
    for slot in space.slots:
        widest = max((op for op in slot.ops if op), key=lambda op: (op.mid_channels, op.out_channels))
        for site, channels in norm_sites(widest):
            own = _OWN_CHOICES.get(site.rpartition(".")[2], _ALL_OWN)
            # How many blocks of its own stage come after it does not concern a layer.
            genes = before.difference(slot.genes) | {g for g in slot.genes if names[g] in own}
            choices = [int(offsets[g]) + c for g in sorted(genes) for c in range(int(sizes[g]))]
            layout[site] = SiteLayout(tuple(choices), channels)
        before |= set(slot.genes)
    return layout


def indicators(space: SearchSpace, genomes: Genomes) -> NDArray[np.float32]:
    """Which choices architectures make: 1 where they do, 0 elsewhere and in skipped blocks.

    Args:
        space: The space.
        genomes: Shape (N, G).

    Returns:
        Shape (N, total number of choices).
    """
    sizes, offsets = cardinalities(space), _offsets(space)
    made = np.zeros((len(genomes), int(sizes.sum())), np.float32)
    rows, genes = np.nonzero(space.active(genomes))
    made[rows, offsets[genes] + genomes[rows, genes]] = 1
    return made


def _offsets(space: SearchSpace) -> NDArray[np.int64]:
    """Index of each gene's first choice among all genes' choices, shape (G,)."""
    sizes = cardinalities(space).astype(np.int64)
    return np.cumsum(sizes) - sizes


@dataclass(frozen=True)
class StatisticsTable:
    """Means and log variances of every BN layer, additive in the choices before it.

    Attributes:
        space: The space whose layers these are.
        means: By layer, shape (rows, channels): the base, then the effects (``SiteLayout``).
        log_variances: The same of the variance's natural logarithm.
    """

    space: SearchSpace
    means: Mapping[str, Tensor]
    log_variances: Mapping[str, Tensor]

    @cached_property
    def layout(self) -> Mapping[str, SiteLayout]:
        """``table_layout`` of the space."""
        return table_layout(self.space)

    def lookup(self, architecture: Architecture) -> Statistics:
        """The statistics of one architecture's layers: (mean, variance), each of shape (C,)."""
        made_C = torch.from_numpy(indicators(self.space, encode(self.space, [architecture]))[0])
        found: Statistics = {}
        for op in self.space.plan(architecture).ops:
            for site, width in norm_sites(op):
                means, log_variances = self.means[site], self.log_variances[site]
                chosen = made_C[list(self.layout[site].choices)].to(means.device)
                weights = torch.cat([torch.ones_like(chosen[:1]), chosen])
                found[site] = (weights @ means[:, :width], (weights @ log_variances[:, :width]).exp())
        return found

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds: ``{site}.mean`` and ``{site}.log_var``."""
        parts = {"mean": self.means, "log_var": self.log_variances}
        return {f"{site}.{part}": values[site] for part, values in parts.items() for site in self.means}

    @staticmethod
    def from_tensors(space: SearchSpace, tensors: Mapping[str, Tensor]) -> StatisticsTable:
        """Read what ``tensors`` gave, in any precision.

        Raises:
            StatisticsMissing: A layer is missing or has another shape.
        """
        parts: dict[str, dict[str, Tensor]] = {"mean": {}, "log_var": {}}
        for site, layout in table_layout(space).items():
            expected = (layout.rows, layout.channels)
            for part, target in parts.items():
                tensor = tensors.get(f"{site}.{part}")
                if tensor is None or tuple(tensor.shape) != expected:
                    got = None if tensor is None else tuple(tensor.shape)
                    raise StatisticsMissing(f"statistics table: {site}.{part} is {got}, expected {expected}")
                target[site] = tensor.float()
        return StatisticsTable(space, parts["mean"], parts["log_var"])


def check_covered(space: SearchSpace, architectures: Sequence[Architecture]) -> None:
    """Refuse architectures that are too few to fit a statistics table on.

    Raises:
        StatisticsMissing: A choice that a layer depends on never stood before it, or hardly one of them
            has a layer at its full width.
    """
    made = indicators(space, encode(space, architectures)) > 0
    widths = [dict(of for op in space.plan(a).ops for of in norm_sites(op)) for a in architectures]
    for site, layout in table_layout(space).items():
        seen = [i for i, of in enumerate(widths) if site in of]
        full = sum(widths[i][site] == layout.channels for i in seen)
        if full < FEWEST_SAMPLES or not made[seen][:, list(layout.choices)].any(0).all():
            raise StatisticsMissing(
                f"statistics table: {len(architectures)} architectures do not cover the choices before "
                f"{site}, or its full width: give more of them (see --statistics of train, or "
                "--architectures of calibrate)"
            )


def fit_table(space: SearchSpace, samples: Sequence[tuple[Architecture, Statistics]]) -> StatisticsTable:
    """Fit a statistics table on the recorded statistics of random architectures.

    Channels that only wide architectures have are fitted on those alone.

    Args:
        space: The space.
        samples: Architectures and what ``recalibrate`` gave for them; some hundreds.

    Raises:
        StatisticsMissing: A choice that a layer depends on never stood before it.
    """
    architectures = [architecture for architecture, _ in samples]
    check_covered(space, architectures)
    made = indicators(space, encode(space, architectures))
    means: dict[str, Tensor] = {}
    log_variances: dict[str, Tensor] = {}
    for site, layout in table_layout(space).items():
        seen = [i for i, (_, statistics) in enumerate(samples) if site in statistics]
        widths = np.array([len(samples[i][1][site][0]) for i in seen], np.int64)
        made_before = made[seen][:, list(layout.choices)].astype(np.float64)
        columns: list[NDArray[np.float64]] = []
        for start, stop in itertools.pairwise(sorted({0, *widths.tolist()})):
            wide = np.flatnonzero(widths >= stop)
            moments = [_moments(samples[seen[i]][1][site], start, stop) for i in wide]
            columns.append(_ridge(made_before[wide], np.stack(moments)))
        halves = [np.hsplit(fitted.astype(np.float32), 2) for fitted in columns]
        means[site], log_variances[site] = (
            torch.from_numpy(np.concatenate(parts, 1)) for parts in zip(*halves, strict=True)
        )
    return StatisticsTable(space, means, log_variances)


def _moments(statistics: tuple[Tensor, Tensor], start: int, stop: int) -> NDArray[np.float64]:
    """Means, then log variances, of some channels."""
    mean_C, var_C = (tensor[start:stop].double().cpu() for tensor in statistics)
    return torch.cat([mean_C, var_C.clamp(min=SMALLEST_VARIANCE).log()]).numpy()


def _ridge(made: NDArray[np.float64], seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """Base and effects, shape (1 + F, C), of indicators (N, F) and values (N, C)."""
    from sklearn.linear_model import RidgeCV

    fitted = RidgeCV(alphas=RIDGES, alpha_per_target=True).fit(made, seen)
    return np.vstack([fitted.intercept_, fitted.coef_.T])


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
