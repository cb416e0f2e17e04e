"""Several limits on sums at once, exactly: which of them can be met together, and by what.

One weighted sum of all limits (see ``feasibility``) decides most questions. Where it leaves one open, what a
part of the network may use of each limit is enumerated: a **label** is such a vector of shares, and one that
uses no less of any limit than another of the same part is dropped. Parts are joined gene by gene, as in
``elimination``, one resolution after the other. A label is also dropped where even the cheapest rest would
exceed a limit, or the weighted sum of all: close to what limits allow together, few are left.

Source: multi-objective bucket elimination (Rollon and Larrosa, 2006), with the bounds of a Lagrangian dual.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from bespoke.search.elimination import Factor
from bespoke.search.pareto import non_dominated
from bespoke.supernet.architecture import Genomes, SearchSpace, canonical, cardinalities

MOST_LABELS, MOST_SUMS, MOST_WIDE = 20_000, 400_000, 4_000
"""Of one part; of two while they are joined; and of these where there are more than three sums, when each is
compared with each. Beyond that a question stays open."""

_FAST_SUMS = 4
"""Up to three sums, and their weighted one: who dominates whom is then found in order."""

_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class _Labels:
    """What parts of a network may use.

    Attributes:
        shares: Of each limit, (N, M).
        genomes: The choices that were made, and 0 for all others, (N, G).
    """

    shares: NDArray[np.float64]
    genomes: Genomes

    def where(self, kept: NDArray[np.bool_] | NDArray[np.intp]) -> _Labels:
        return _Labels(self.shares[kept], self.genomes[kept])


@dataclass(frozen=True, eq=False)
class _Part:
    """What stands for several slots once their other genes are eliminated.

    Attributes:
        genes: Those that it still depends on.
        cells: Its labels by the choices of these; what cannot be has none.
    """

    genes: tuple[int, ...]
    cells: Mapping[tuple[int, ...], _Labels]


class _TooMany(Exception):
    """There is too much to enumerate."""


def meeting_all(
    space: SearchSpace,
    factors: Sequence[Sequence[Factor]],
    forbidden: Sequence[NDArray[np.float64]],
    offsets: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> tuple[Genomes | None, bool]:
    """A genome whose sums all stay within 1, if there is one.

    Args:
        space: The space.
        factors: Of each sum, one a slot: the share of its limit that each combination uses.
        forbidden: Of each slot, infinite where a combination may not be.
        offsets: What every genome uses of each limit, (M,).
        weights: Of the limits, (M,), not negative: those under which the least weighted sum is greatest.

    Returns:
        Its genes, (G,), or None; and whether that is settled, or there was too much to enumerate.
    """
    last = len(cardinalities(space)) - 1
    limit = np.append(1 - offsets, weights.sum() - weights @ offsets) + _ROUNDING
    for resolution in range(int(cardinalities(space)[last])):
        parts = [
            _part(space, [own[slot] for own in factors], forbidden[slot], (last, resolution), weights)
            for slot in range(len(factors[0]))
        ]
        try:
            found = _joined(space, parts, limit)
        except _TooMany:
            return None, False
        if found is not None:
            found[last] = resolution
            return np.asarray(canonical(space, found[None])[0]), True
    return None, True


def _part(
    space: SearchSpace,
    factors: Sequence[Factor],
    forbidden: NDArray[np.float64],
    held: tuple[int, int],
    weights: NDArray[np.float64],
) -> _Part:
    """A slot at one resolution; the last share of a label is the weighted sum of the others."""
    genes, count = factors[0].genes, len(cardinalities(space))
    free = tuple(gene for gene in genes if gene != held[0])
    cells: dict[tuple[int, ...], _Labels] = {}
    for place in np.ndindex(factors[0].values.shape):
        at = dict(zip(genes, place, strict=True))
        # A slot that does not depend on the resolution is the same at each.
        if at.get(*held) != held[1] or not np.isfinite(forbidden[place]):
            continue
        shares = np.array([factor.values[place] for factor in factors])
        own = np.append(shares, weights @ shares)[None]
        cells[tuple(at[gene] for gene in free)] = _Labels(own, np.zeros((1, count), np.int16))
    return _Part(free, cells)


def _joined(space: SearchSpace, parts: Sequence[_Part], limit: NDArray[np.float64]) -> Genomes | None:
    """Eliminate gene by gene, those of few parts first; what is left is a genome, or nothing."""
    left = list(parts)
    entered = [gene for part in parts for gene in part.genes]
    for gene in sorted(set(entered), key=lambda one: (entered.count(one), one)):
        here = [part for part in left if gene in part.genes]
        left = [part for part in left if gene not in part.genes]
        left.append(_without(space, gene, here, limit - _least(left, limit)))
    end = _Labels(np.zeros((1, len(limit))), np.zeros((1, len(cardinalities(space))), np.int16))
    for number, part in enumerate(left):
        if () not in part.cells:
            return None
        end = _kept(_sum(end, part.cells[()]), limit - _least(left[number + 1 :], limit))
    return end.genomes[0].copy() if len(end.shares) else None


def _without(space: SearchSpace, gene: int, parts: Sequence[_Part], limit: NDArray[np.float64]) -> _Part:
    """Parts joined, with the best choices of a gene for each choice of all others."""
    genes = tuple(sorted({g for part in parts for g in part.genes} - {gene}))
    sizes = cardinalities(space)
    cells: dict[tuple[int, ...], _Labels] = {}
    for place in itertools.product(*(range(int(sizes[g])) for g in genes)):
        found: list[_Labels] = []
        for choice in range(int(sizes[gene])):
            at = {gene: choice, **dict(zip(genes, place, strict=True))}
            places = [tuple(at[g] for g in part.genes) for part in parts]
            if any(own not in part.cells for own, part in zip(places, parts, strict=True)):
                continue
            first, *others = (part.cells[own] for own, part in zip(places, parts, strict=True))
            joined = reduce(lambda one, other: _kept(_sum(one, other), limit), others, first)
            genomes = joined.genomes.copy()
            genomes[:, gene] = choice
            found.append(_Labels(joined.shares, genomes))
        if found:
            shares = np.concatenate([labels.shares for labels in found])
            together = _kept(_Labels(shares, np.concatenate([labels.genomes for labels in found])), limit)
            if len(together.shares):
                cells[place] = together
    return _Part(genes, cells)


def _sum(one: _Labels, other: _Labels) -> _Labels:
    """Each of one part with each of another; they chose different genes.

    Raises:
        _TooMany: There are more than ``MOST_SUMS``.
    """
    if len(one.shares) * len(other.shares) > MOST_SUMS:
        raise _TooMany
    shares = one.shares[:, None] + other.shares
    genomes = one.genomes[:, None] + other.genomes
    return _Labels(shares.reshape(-1, shares.shape[2]), genomes.reshape(-1, genomes.shape[2]))


def _kept(labels: _Labels, limit: NDArray[np.float64]) -> _Labels:
    """Those within a limit of which none is better in every share.

    Raises:
        _TooMany: There are too many to compare, or to go on with.
    """
    inside = labels.where(np.asarray((labels.shares <= limit).all(axis=1)))
    if len(inside.shares) < 2:
        return inside
    inside = inside.where(np.unique(inside.shares, axis=0, return_index=True)[1])
    if len(inside.shares) > (MOST_SUMS if inside.shares.shape[1] <= _FAST_SUMS else MOST_WIDE):
        raise _TooMany
    inside = inside.where(non_dominated(inside.shares[:, :-1]))
    if len(inside.shares) > MOST_LABELS:
        raise _TooMany
    return inside


def _least(parts: Sequence[_Part], limit: NDArray[np.float64]) -> NDArray[np.float64]:
    """What parts use of each limit at least, each by itself, (M,)."""
    total = np.zeros(len(limit))
    for part in parts:
        if not part.cells:
            return np.full(len(limit), np.inf)
        total += np.min([labels.shares.min(axis=0) for labels in part.cells.values()], axis=0)
    return total
