"""What a search is after: what is worth how much, and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bespoke.search.evaluator import Limits, Price
from bespoke.search.moves import Jumps
from bespoke.supernet.architecture import Genomes, SearchSpace, cardinalities

DIFFERENT = 0.2
"""Share of the choices that matter in which two networks differ, to be alternatives of each other."""

_POINT = 0.1
"""A top-1 that misses its least value by this much counts like a limit that is exceeded by 100%."""


class Goal(Protocol):
    """What is to be as great as possible, and under which conditions."""

    @property
    def price(self) -> Price:
        """The metric that stands against the top-1 on a front."""
        ...

    def worth(self, genomes: Genomes, top1: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is to be as great as possible, allowed or not, (N,)."""
        ...

    def shares(self, genomes: Genomes, top1: NDArray[np.float64]) -> NDArray[np.float64]:
        """How much of each limit is used, (N, M); near 1, single changes nearly add up."""
        ...

    def order(self, genomes: Genomes, top1: NDArray[np.float64]) -> NDArray[np.intp]:
        """Which is worth more, best first, (N,); of equal ones, the cheaper or more accurate one."""
        ...

    def fits(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether every condition holds that needs no prediction, exactly, (N,)."""
        ...

    def reaches(self, top1: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether a top-1 is enough, (N,)."""
        ...


@dataclass(frozen=True, eq=False)
class MostAccurate:
    """The highest predicted top-1 within the limits.

    Attributes:
        limits: The limits.
        price: What costs less, of equally accurate ones.
    """

    limits: Limits
    price: Price

    @cached_property
    def jumps(self) -> Jumps:
        """Jumps within the limits."""
        return Jumps(self.limits.space, self.limits)

    def worth(self, genomes: Genomes, top1: NDArray[np.float64]) -> NDArray[np.float64]:
        """The top-1."""
        return top1

    def shares(self, genomes: Genomes, top1: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the limits."""
        return self.limits.shares(genomes)

    def order(self, genomes: Genomes, top1: NDArray[np.float64]) -> NDArray[np.intp]:
        """By top-1, then by price."""
        return np.lexsort((self.price.of(genomes), -top1))

    def fits(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether every limit holds."""
        return self.limits.meets(genomes)

    def reaches(self, top1: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Always."""
        return np.ones(len(top1), np.bool_)


@dataclass(frozen=True, eq=False)
class Cheapest:
    """The least of one metric within the limits, of at least some top-1.

    Attributes:
        limits: The limits.
        price: The metric.
        min_top1: The least top-1.
    """

    limits: Limits
    price: Price
    min_top1: float

    def worth(self, genomes: Genomes, top1: NDArray[np.float64]) -> NDArray[np.float64]:
        """The metric, negated."""
        return -self.price.of(genomes)

    def shares(self, genomes: Genomes, top1: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the limits; behind them, of what the top-1 may fall."""
        short = 1 + (self.min_top1 - top1) / _POINT
        return np.concatenate([self.limits.shares(genomes), short[:, None]], axis=1)

    def order(self, genomes: Genomes, top1: NDArray[np.float64]) -> NDArray[np.intp]:
        """By the metric, then by top-1."""
        return np.lexsort((-top1, self.price.of(genomes)))

    def fits(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether every limit holds."""
        return self.limits.meets(genomes)

    def reaches(self, top1: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether it is the least top-1 or more."""
        return np.asarray(top1 >= self.min_top1)


@dataclass(frozen=True, eq=False)
class Apart:
    """Another goal, but different from some genomes.

    Attributes:
        goal: The other goal.
        space: The space.
        others: From which every genome shall differ in a share of ``DIFFERENT`` or more, (K, G).
    """

    goal: Goal
    space: SearchSpace
    others: Genomes

    @property
    def price(self) -> Price:
        """The other goal's."""
        return self.goal.price

    def worth(self, genomes: Genomes, top1: NDArray[np.float64]) -> NDArray[np.float64]:
        """The other goal's."""
        return self.goal.worth(genomes, top1)

    def shares(self, genomes: Genomes, top1: NDArray[np.float64]) -> NDArray[np.float64]:
        """The other goal's."""
        return self.goal.shares(genomes, top1)

    def order(self, genomes: Genomes, top1: NDArray[np.float64]) -> NDArray[np.intp]:
        """The other goal's."""
        return self.goal.order(genomes, top1)

    def fits(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether the other goal's conditions hold, and it is different."""
        fits = self.goal.fits(genomes)
        for other in self.others:
            fits &= differing(self.space, genomes, other) >= DIFFERENT
        return fits

    def reaches(self, top1: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the other goal says so."""
        return self.goal.reaches(top1)


def differing(space: SearchSpace, genomes: Genomes, other: Genomes) -> NDArray[np.float64]:
    """In which share of the choices that matter genomes differ from another one.

    A gene matters where it is active in either and has more than one choice; one that is active in
    one of them only differs.

    Args:
        space: The space.
        genomes: (N, G), canonical.
        other: (G,), canonical.

    Returns:
        (N,), in [0, 1].
    """
    mine, its = space.active(genomes), space.active(other[None])
    matter = (mine | its) & (cardinalities(space) > 1)
    differ = matter & ((mine != its) | (genomes != other))
    return np.asarray(differ.sum(axis=1) / np.maximum(matter.sum(axis=1), 1))
