"""Moves on genomes: jumps to the optimum of a linear model, and pairs of changes.

Near a genome a predictor is nearly linear in the choices, and prices are sums over slots. Once the
genes that several slots share (depth, resolution) are fixed, the best choice of every other gene
for ``gain - multiplier * price`` follows slot by slot, and a bisection on the multiplier puts the
result on the budget: one array expression for a whole population.

Source: Lagrangian relaxation of the multiple-choice knapsack (Sinha and Zoltners, 1979). Letting
only a random part of the genes move is the trust region in which the linear model holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bespoke.search.evaluator import Limits
from bespoke.supernet.architecture import Genomes, SearchSpace, Slot, canonical, cardinalities

_LOCKED = np.float32(1e6)
"""Taken off the gain of a choice that may not be made: far above any gain, and finite."""

_MULTIPLIERS = (1e-4, 10.0)
"""Top-1 per share of a limit, between which the multiplier is searched."""

_BISECTIONS = 7

_PAIR_SLACK = 0.01
"""Two changes of one slot do not add up exactly: a pair that seems this much too dear is priced."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Slots with equally many private choices.

    Attributes:
        genes: The genes that no other slot shares, (S, P).
        digits: The choice of each of them in each combination, (C, P).
        slots: Indices of the slots, (S,).
        weights: From a genome to the index of the shared genes' combination, (G, S).
        shares: Per limit on a sum, the share of the limit that each combination uses, (S, H, C).
        locked: What is taken off combinations that exceed a limit on a maximum, (S, H, C).
    """

    genes: NDArray[np.intp]
    digits: NDArray[np.intp]
    slots: NDArray[np.intp]
    weights: NDArray[np.float64]
    shares: NDArray[np.float32]
    locked: NDArray[np.float32]


class Jumps:
    """Jumps of a space under limits; see the module.

    Attributes:
        shared: Indices of the genes that more than one slot, or none, depends on.
    """

    def __init__(self, space: SearchSpace, limits: Limits) -> None:
        self._space, self._limits = space, limits
        self._sizes = cardinalities(space)
        entries = np.zeros(len(self._sizes), np.int64)
        for slot in space.slots:
            entries[list(slot.genes)] += 1
        self.shared = np.flatnonzero(entries != 1)
        self._private = entries == 1
        self._sums = [i for i, price in enumerate(limits.prices) if not price.maximum]
        by_sizes: dict[tuple[int, ...], list[int]] = {}
        for i, slot in enumerate(space.slots):
            own = tuple(int(self._sizes[g]) for g in slot.genes if self._private[g])
            if own:
                by_sizes.setdefault(own, []).append(i)
        self._groups = tuple(self._group(sizes, slots) for sizes, slots in by_sizes.items())
        moving = {i for slots in by_sizes.values() for i in slots}
        self._still = [i for i in range(len(space.slots)) if i not in moving]

    def jump(
        self, bases: Genomes, gains: NDArray[np.float32], free: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[Genomes, NDArray[np.intp]]:
        """Move the private genes of each base to the linear model's optimum within the limits.

        Args:
            bases: (N, G), with the shared genes as the result shall have them.
            gains: What each choice adds, (N, G, C).
            free: Which genes may change, (N, G); a held choice that breaks a limit on a maximum changes too.
            rng: Weighs several limits against each other.

        Returns:
            The genomes that meet the limits, at most N, and the rows of ``bases`` they come from.
        """
        parts = [self._utilities(group, bases, gains, free) for group in self._groups]
        mix = rng.dirichlet(np.ones(len(self._sums)), len(bases)).astype(np.float32).T
        costs = [_mixed(shares, mix) for _, shares in parts]
        room = self._room(bases)
        multiplier = np.zeros(len(bases), np.float32)
        kept = self._best(parts, costs, multiplier)
        done = _fits(parts, kept, room)
        found = done.copy()
        low, high = (np.full(len(bases), np.log(bound), np.float32) for bound in _MULTIPLIERS)
        for step in range(0 if done.all() else _BISECTIONS):
            middle = (low + high) / 2 if step else high
            chosen = self._best(parts, costs, np.exp(middle))
            fits = _fits(parts, chosen, room)
            for mine, new in zip(kept, chosen, strict=True):
                np.copyto(mine, new, where=(fits & ~done)[:, None])
            found |= fits
            high, low = np.where(fits, middle, high), np.where(fits, low, middle)
        return self._assembled(bases, kept, found)

    def _group(self, sizes: tuple[int, ...], slots: Sequence[int]) -> _Group:
        chosen = [self._space.slots[i] for i in slots]
        genes = [[g for g in slot.genes if self._private[g]] for slot in chosen]
        digits = list(itertools.product(*(range(size) for size in sizes)))
        weights = np.zeros((len(self._sizes), len(slots)))
        for s, slot in enumerate(chosen):
            stride = 1
            for gene in reversed([g for g in slot.genes if not self._private[g]]):
                weights[gene, s] = stride
                stride *= int(self._sizes[gene])
        sums = [self._table(i, slots) for i in self._sums]
        tops = [
            self._table(i, slots) + p.offset / self._limits.limits[i]
            for i, p in enumerate(self._limits.prices)
            if p.maximum
        ]
        shape = self._shape(chosen, len(digits))
        locked = np.zeros(shape, np.float32)
        for table in tops:
            locked += np.where(table > 1, _LOCKED, np.float32(0))
        shares = np.stack(sums).astype(np.float32) if sums else np.zeros((0, *shape), np.float32)
        return _Group(np.array(genes), np.array(digits), np.array(slots), weights, shares, locked)

    def _shape(self, slots: Sequence[Slot], combinations: int) -> tuple[int, int, int]:
        return len(slots), max(len(slot.ops) for slot in slots) // combinations, combinations

    def _table(self, limit: int, slots: Sequence[int]) -> NDArray[np.float64]:
        """Shares of one limit, (S, H, C): shared genes' combinations first, private ones last."""
        price, bound = self._limits.prices[limit], self._limits.limits[limit]
        ends = np.cumsum([len(slot.ops) for slot in self._space.slots])
        rows = []
        for i in slots:
            slot = self._space.slots[i]
            values = price.slots.values[ends[i] - len(slot.ops) : ends[i]]
            values = values.reshape([int(self._sizes[g]) for g in slot.genes])
            private = [bool(self._private[g]) for g in slot.genes]
            order = sorted(range(len(private)), key=private.__getitem__)
            own = int(np.prod([self._sizes[g] for g in slot.genes if self._private[g]]))
            rows.append(values.transpose(order).reshape(-1, own) * price.scale / bound)
        tallest = max(len(row) for row in rows)
        return np.stack([np.pad(row, ((0, tallest - len(row)), (0, 0))) for row in rows])

    def _utilities(
        self, group: _Group, bases: Genomes, gains: NDArray[np.float32], free: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Gain of each slot's combinations, (N, S, C), and the share of each limit, (M, N, S, C)."""
        index = (bases.astype(np.float64) @ group.weights).astype(np.intp)
        places = np.arange(len(group.slots))
        utility = -group.locked[places, index]
        for p in range(group.genes.shape[1]):
            genes, digits = group.genes[:, p], group.digits[:, p]
            here = gains[:, genes].copy()
            stays = np.arange(here.shape[2]) == bases[:, genes, None]
            here[~(stays | free[:, genes, None])] -= _LOCKED
            utility += here[:, :, digits]
        return utility, group.shares[:, places, index]

    @staticmethod
    def _best(
        parts: Sequence[Part], costs: Sequence[NDArray[np.float32]], multiplier: NDArray[np.float32]
    ) -> list[NDArray[np.intp]]:
        """The combination of each slot with the highest gain less its price, (N, S) per group."""
        return [
            (utility - multiplier[:, None, None] * cost).argmax(axis=2)
            for (utility, _), cost in zip(parts, costs, strict=True)
        ]

    def _room(self, bases: Genomes) -> NDArray[np.float32]:
        """What the slots without private genes leave of each limit on a sum, (M, N)."""
        room = np.empty((len(self._sums), len(bases)), np.float32)
        for m, i in enumerate(self._sums):
            price = self._limits.prices[i]
            still = price.slots.rows(bases)[:, self._still].sum(axis=1)
            room[m] = 1 - (price.offset + price.scale * still) / self._limits.limits[i]
        return room

    def _assembled(
        self, bases: Genomes, kept: Sequence[NDArray[np.intp]], found: NDArray[np.bool_]
    ) -> tuple[Genomes, NDArray[np.intp]]:
        kids = bases.copy()
        for group, combination in zip(self._groups, kept, strict=True):
            for p in range(group.genes.shape[1]):
                kids[:, group.genes[:, p]] = group.digits[combination, p]
        kids = canonical(self._space, kids)
        rows = np.flatnonzero(found & self._limits.meets(kids))
        return kids[rows], rows


Part = tuple[NDArray[np.float32], NDArray[np.float32]]


def _mixed(shares: NDArray[np.float32], mix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shares of several limits (M, N, S, C), weighed for each genome by (M, N): (N, S, C)."""
    total = np.zeros(shares.shape[1:], np.float32)
    for share, weight in zip(shares, mix, strict=True):
        total += share if len(mix) == 1 else share * weight[:, None, None]
    return total


def _fits(
    parts: Sequence[Part], chosen: Sequence[NDArray[np.intp]], room: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Whether the chosen combinations stay within the room of every limit, (N,)."""
    used = np.zeros_like(room)
    for (_, shares), mine in zip(parts, chosen, strict=True):
        used += np.take_along_axis(shares, mine[None, :, :, None], axis=3)[..., 0].sum(axis=2)
    return np.asarray((used <= room).all(axis=0))


def pairs(
    space: SearchSpace,
    genome: Genomes,
    steps: tuple[NDArray[np.intp], Genomes],
    gain: NDArray[np.float64],
    shares: NDArray[np.float64],
    count: int,
) -> Genomes:
    """The most promising changes of two genes, if the effects of single changes simply add up.

    Args:
        space: The space.
        genome: (G,), where both changes start.
        steps: Genes and choices of single changes, both (N,), as ``neighbours`` gave them.
        gain: What each single change adds to the top-1, (N,).
        shares: Shares of the limits: of the genome in row 0, after each single change below, (1 + N, M).
        count: How many pairs at most.

    Returns:
        (at most ``count``, G), best first. A pair may still miss a limit: price it.
    """
    genes, choices = steps
    first, second = np.triu_indices(len(genes), 1)
    used = shares[1 + first] + shares[1 + second] - shares[0]
    sums = gain[first] + gain[second]
    fits = np.flatnonzero((genes[first] != genes[second]) & (used <= 1 + _PAIR_SLACK).all(axis=1))
    fits = fits[np.argsort(-sums[fits], kind="stable")[:count]]
    result = np.repeat(genome[None], len(fits), axis=0)
    for side in (first[fits], second[fits]):
        result[np.arange(len(fits)), genes[side]] = choices[side]
    return canonical(space, result)
