"""Slides along a front: jumps on which every metric has a price of its own, genome by genome.

A jump (see ``moves``) maximises the linear model's gain within limits. A slide also subtracts each
metric's price times the metric, so that its optimum is the point of the linear model's front where
the front is as steep as the price. No budget has to be bisected for it, the limits apart, and one
array expression moves points in all parts of a front at once. A maximum (peak memory) has no price:
each genome gets a cap instead.

Source: scalarisation by weighted sums as in MOEA/D (Zhang and Li, 2007), and by caps as in the
epsilon-constraint method (Haimes et al., 1971).
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from bespoke.search.evaluator import Limits
from bespoke.search.moves import Jumps, Part, _Group
from bespoke.supernet.architecture import Genomes, SearchSpace

_LOCKED = np.float32(1e3)
"""Taken off a choice above a cap: above any gain and below what a limit takes off, so that a slide
that cannot keep its cap still keeps its limits."""


class Slides(Jumps):
    """Slides of a space under limits; see the module.

    Attributes:
        sums: Which limits are on sums, as indices into the limits: those with a price.
        maxima: Which are on maxima: those with a cap.
    """

    def __init__(self, space: SearchSpace, limits: Limits) -> None:
        super().__init__(space, limits)
        self.sums = tuple(i for i, price in enumerate(limits.prices) if not price.maximum)
        self.maxima = tuple(i for i, price in enumerate(limits.prices) if price.maximum)
        self._tops = {group: [self._top(i, group) for i in self.maxima] for group in self._groups}
        self._prices = np.zeros((len(self.sums), 1), np.float32)
        self._caps = np.full((len(self.maxima), 1), np.inf, np.float32)

    def slide(
        self,
        bases: Genomes,
        gains: NDArray[np.float32],
        free: NDArray[np.bool_],
        prices: NDArray[np.float64],
        caps: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> tuple[Genomes, NDArray[np.intp]]:
        """Move private genes and switches of each base to where the front is as steep as its prices.

        Args:
            bases: (N, G), with the other shared genes as the result shall have them.
            gains: What each choice adds, (N, G, C).
            free: Which genes may change, (N, G).
            prices: What a whole limit costs, in the unit of the gains: one row a sum, (S, N).
            caps: Which share of the limit each slot may use: one row a maximum, (K, N).
            rng: Weighs several limits against each other.

        Returns:
            The genomes that meet the limits, at most N, and the rows of ``bases`` they come from.
        """
        here = copy.copy(self)
        here._prices, here._caps = prices.astype(np.float32), caps.astype(np.float32)
        return here.jump(bases, gains, free, rng)

    def _top(self, limit: int, group: _Group) -> NDArray[np.float32]:
        price = self._limits.prices[limit]
        offset = price.offset / self._limits.limits[limit]
        return (self._table(limit, group.slots.tolist()) + offset).astype(np.float32)

    def _utilities(
        self,
        group: _Group,
        bases: Genomes,
        lit: Genomes,
        gains: NDArray[np.float32],
        free: NDArray[np.bool_],
    ) -> Part:
        utility, shares = super()._utilities(group, bases, lit, gains, free)
        for price, share in zip(self._prices, shares, strict=True):
            utility -= price[:, None, None] * share
        if self.maxima:
            index = (lit.astype(np.float64) @ group.weights).astype(np.intp)
            places = np.arange(len(group.slots))
            for cap, top in zip(self._caps, self._tops[group], strict=True):
                over = top[places, index] > cap[:, None, None]
                utility -= np.where(over, _LOCKED, np.float32(0))
        return utility, shares
