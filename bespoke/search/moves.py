"""Moves on genomes: jumps to the optimum of a linear model, and pairs of changes.

Near a genome a predictor is nearly linear in the choices, and prices are sums over slots. Once the
genes that shape several slots (resolution, width) are fixed, the best choice of every other gene
for ``gain - multiplier * price`` follows slot by slot; a gene that only turns slots on and off (a
stage's depth) then follows from the sums of what its slots are worth; and a bisection on the
multiplier puts the result on the budget: one array expression for a whole population.

Source: Lagrangian relaxation of the multiple-choice knapsack (Sinha and Zoltners, 1979). Letting
only a random part of the genes move is the trust region in which the linear model holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
class _Roles:
    """What each gene of a space decides.

    Attributes:
        private: Genes of one slot only, (G,).
        switches: Genes that turn slots on and off and nothing else, (W,).
        lit: Of each switch, a choice that turns all its slots on, (W,).
        moving: Indices of the slots with private genes, by the sizes of these.
        still: Indices of the other slots, (Z,).
        on: Whether a switch's choice leaves a moving slot on, (slots in the order of ``moving``, W, D).
        sums: 1 where a switch's choice leaves a slot of its own on, (S, W * D): makes sums over these.
        always: 1 for the moving slots without a switch, (S,).
    """

    private: NDArray[np.bool_]
    switches: NDArray[np.intp]
    lit: NDArray[np.int16]
    moving: dict[tuple[int, ...], list[int]]
    still: NDArray[np.intp]
    on: NDArray[np.float32]
    sums: NDArray[np.float32]
    always: NDArray[np.float32]


# Spaces are frozen dataclasses, so hashable; their protocol cannot say so.
@lru_cache(maxsize=16)
def _roles(space: SearchSpace) -> _Roles:
    sizes = cardinalities(space)
    entries = np.zeros(len(sizes), np.int64)
    for slot in space.slots:
        entries[list(slot.genes)] += 1
    private = entries == 1
    moving: dict[tuple[int, ...], list[int]] = {}
    for i, slot in enumerate(space.slots):
        own = tuple(int(sizes[g]) for g in slot.genes if private[g])
        if own:
            moving.setdefault(own, []).append(i)
    order = [i for slots in moving.values() for i in slots]
    found: dict[int, NDArray[np.bool_]] = {}
    taken: set[int] = set()
    for gene in np.flatnonzero(entries > 1).tolist():
        mine = [i for i, slot in enumerate(space.slots) if gene in slot.genes]
        if taken.isdisjoint(mine) and set(mine) <= set(order):
            known = [_switched(space.slots[i], gene, sizes) for i in mine]
            masks = [mask for mask in known if mask is not None]
            if len(masks) == len(mine) and np.all(masks, axis=0).any():
                found[gene] = np.ones((len(order), int(sizes[gene])), np.bool_)
                found[gene][[order.index(i) for i in mine]] = masks
                taken.update(mine)
    on = np.zeros((len(order), len(found), max([int(sizes[g]) for g in found], default=0)), np.float32)
    for w, (gene, mask) in enumerate(found.items()):
        mine = [order.index(i) for i in order if gene in space.slots[i].genes]
        on[mine, w, : mask.shape[1]] = mask[mine]
    lit = np.array([mask.all(axis=0).argmax() for mask in found.values()], np.int16)
    still = np.array([i for i in range(len(space.slots)) if i not in set(order)], np.intp)
    always = np.array([i not in taken for i in order], np.float32)
    sums = on.reshape(len(order), -1)
    return _Roles(private, np.array(list(found), np.intp), lit, moving, still, on, sums, always)


def _switched(slot: Slot, gene: int, sizes: NDArray[np.int16]) -> NDArray[np.bool_] | None:
    """Which choices of a gene leave a slot on; None where the gene decides anything else."""
    keys = np.array(["" if op is None else op.key for op in slot.ops], object)
    axis = slot.genes.index(gene)
    table = np.moveaxis(keys.reshape([int(sizes[g]) for g in slot.genes]), axis, 0)
    table = table.reshape(len(table), -1)
    off = (table == "").all(axis=1)
    lit = table[~off]
    return ~off if len(lit) and (lit == lit[0]).all() and (lit != "").all() else None


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


Part = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Gain of each slot's combinations, (N, S, C), and the share of each limit, (M, N, S, C)."""


@dataclass(frozen=True, eq=False)
class _Model:
    """The linear model of a group's slots, combinations first: a maximum over them is then fast.

    Attributes:
        gains: (C, N, S).
        costs: The shares of the limits, weighed into one, (C, N, S).
        shares: Per limit on a sum, (C, N, S).
    """

    gains: NDArray[np.float32]
    costs: NDArray[np.float32]
    shares: list[NDArray[np.float32]]

    def values(self, multiplier: NDArray[np.float32]) -> NDArray[np.float32]:
        """Gains less what they cost at a price for each genome, (C, N, S)."""
        values = self.costs * -multiplier[:, None]
        values += self.gains
        return values


class Jumps:
    """Jumps of a space under limits; see the module.

    Attributes:
        shared: Indices of the genes that more than one slot, or none, depends on.
        switches: Those of them that a jump decides.
    """

    def __init__(self, space: SearchSpace, limits: Limits) -> None:
        self._space, self._limits = space, limits
        self._sizes = cardinalities(space)
        self._roles = _roles(space)  # type: ignore[arg-type]
        self.shared = np.flatnonzero(~self._roles.private)
        self.switches = self._roles.switches
        self._sums = [i for i, price in enumerate(limits.prices) if not price.maximum]
        self._groups = tuple(self._group(sizes, slots) for sizes, slots in self._roles.moving.items())

    def jump(
        self, bases: Genomes, gains: NDArray[np.float32], free: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[Genomes, NDArray[np.intp]]:
        """Move private genes and switches of each base to the linear model's optimum within the limits.

        Args:
            bases: (N, G), with the other shared genes as the result shall have them.
            gains: What each choice adds, (N, G, C).
            free: Which genes may change, (N, G); a held choice that breaks a limit on a maximum changes too.
            rng: Weighs several limits against each other.

        Returns:
            The genomes that meet the limits, at most N, and the rows of ``bases`` they come from.
        """
        lit = bases.copy()
        lit[:, self.switches] = self._roles.lit
        parts = [self._utilities(group, bases, lit, gains, free) for group in self._groups]
        model = self._model(parts, len(bases), rng)
        switching = _freed(gains[:, self.switches], bases[:, self.switches], free[:, self.switches])
        for w, gene in enumerate(self.switches):
            switching[:, w, self._sizes[gene] :] = -np.inf
        switching = switching[:, :, : self._roles.on.shape[2]]
        room = self._room(lit)
        kept = np.zeros(len(bases), np.float32)
        done = self._fits(model, switching, kept, room)
        found = done.copy()
        low, high = (np.full(len(bases), np.log(bound), np.float32) for bound in _MULTIPLIERS)
        for step in range(0 if done.all() else _BISECTIONS):
            middle = (low + high) / 2 if step else high
            multiplier = np.exp(middle)
            fits = self._fits(model, switching, multiplier, room)
            np.copyto(kept, multiplier, where=fits & ~done)
            found |= fits
            high, low = np.where(fits, middle, high), np.where(fits, low, middle)
        return self._assembled(bases, self._best(model, switching, kept), found)

    def _group(self, sizes: tuple[int, ...], slots: Sequence[int]) -> _Group:
        chosen = [self._space.slots[i] for i in slots]
        genes = [[g for g in slot.genes if self._roles.private[g]] for slot in chosen]
        digits = list(itertools.product(*(range(size) for size in sizes)))
        weights = np.zeros((len(self._sizes), len(slots)))
        for s, slot in enumerate(chosen):
            stride = 1
            for gene in reversed([g for g in slot.genes if not self._roles.private[g]]):
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
            private = [bool(self._roles.private[g]) for g in slot.genes]
            order = sorted(range(len(private)), key=private.__getitem__)
            own = int(np.prod([self._sizes[g] for g in slot.genes if self._roles.private[g]]))
            rows.append(values.transpose(order).reshape(-1, own) * price.scale / bound)
        tallest = max(len(row) for row in rows)
        return np.stack([np.pad(row, ((0, tallest - len(row)), (0, 0))) for row in rows])

    def _utilities(
        self,
        group: _Group,
        bases: Genomes,
        lit: Genomes,
        gains: NDArray[np.float32],
        free: NDArray[np.bool_],
    ) -> Part:
        index = (lit.astype(np.float64) @ group.weights).astype(np.intp)
        places = np.arange(len(group.slots))
        utility = -group.locked[places, index]
        for p in range(group.genes.shape[1]):
            genes, digits = group.genes[:, p], group.digits[:, p]
            utility += _freed(gains[:, genes], bases[:, genes], free[:, genes])[:, :, digits]
        return utility, group.shares[:, places, index]

    def _model(self, parts: Sequence[Part], count: int, rng: np.random.Generator) -> list[_Model]:
        mix = rng.dirichlet(np.ones(len(self._sums)), count).astype(np.float32).T
        result = []
        for utility, shares in parts:
            placed = [np.ascontiguousarray(np.moveaxis(share, 2, 0)) for share in shares]
            gains = np.ascontiguousarray(np.moveaxis(utility, 2, 0))
            costs = _mixed(placed, mix) if placed else np.zeros_like(gains)
            result.append(_Model(gains, costs, placed))
        return result

    def _best(
        self, model: Sequence[_Model], switching: NDArray[np.float32], multiplier: NDArray[np.float32]
    ) -> list[NDArray[np.intp]]:
        """What has the highest gain less its price: (N, S) combinations per group, (N, W) choices."""
        values = [part.values(multiplier) for part in model]
        worth = [value.max(axis=0) for value in values]
        return [*(value.argmax(axis=0) for value in values), self._switch(worth, switching)]

    def _switch(
        self, worth: Sequence[NDArray[np.float32]], switching: NDArray[np.float32]
    ) -> NDArray[np.intp]:
        """The best choice of each switch, by what its slots are worth, (N, W)."""
        if not len(self.switches):
            return np.zeros((len(switching), 0), np.intp)
        return np.asarray((switching + self._switched(worth)).argmax(axis=2))

    def _switched(self, worth: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The sum over the slots that each choice of a switch leaves on, (N, W, D)."""
        together = np.concatenate(worth, axis=1) if len(worth) > 1 else worth[0]
        return (together @ self._roles.sums).reshape(len(together), *self._roles.on.shape[1:])

    def _fits(
        self,
        model: Sequence[_Model],
        switching: NDArray[np.float32],
        multiplier: NDArray[np.float32],
        room: NDArray[np.float32],
    ) -> NDArray[np.bool_]:
        """Whether what has the highest gain less its price stays within the room of every limit, (N,)."""
        if not len(room):
            return np.ones(len(multiplier), np.bool_)
        worth: list[NDArray[np.float32]] = []
        used: list[list[NDArray[np.float32]]] = []
        for part in model:
            values = part.values(multiplier)
            worth.append(values.max(axis=0))
            best = values == worth[-1]
            # Of two combinations that are worth the same, this takes the cheaper one.
            used.append([np.where(best, share, np.float32(np.inf)).min(axis=0) for share in part.shares])
        choices = self._switch(worth, switching)
        rows, columns = np.arange(len(choices))[:, None], np.arange(choices.shape[1])
        fits = np.ones(len(multiplier), np.bool_)
        for m, left in enumerate(room):
            shares = [part[m] for part in used]
            total = np.concatenate(shares, axis=1) @ self._roles.always if shares else np.zeros_like(left)
            if len(self.switches):
                total += self._switched(shares)[rows, columns, choices].sum(axis=1)
            fits &= total <= left
        return fits

    def _room(self, lit: Genomes) -> NDArray[np.float32]:
        """What the slots without private genes leave of each limit on a sum, (M, N)."""
        room = np.empty((len(self._sums), len(lit)), np.float32)
        for m, i in enumerate(self._sums):
            price = self._limits.prices[i]
            still = price.slots.rows(lit)[:, self._roles.still].sum(axis=1)
            room[m] = 1 - (price.offset + price.scale * still) / self._limits.limits[i]
        return room

    def _assembled(
        self, bases: Genomes, kept: Sequence[NDArray[np.intp]], found: NDArray[np.bool_]
    ) -> tuple[Genomes, NDArray[np.intp]]:
        kids = bases.copy()
        for group, combination in zip(self._groups, kept, strict=False):
            for p in range(group.genes.shape[1]):
                kids[:, group.genes[:, p]] = group.digits[combination, p]
        kids[:, self.switches] = kept[-1]
        kids = canonical(self._space, kids)
        rows = np.flatnonzero(found & self._limits.meets(kids))
        return kids[rows], rows


def _freed(gains: NDArray[np.float32], here: Genomes, free: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Gains (N, G, C) of some genes, with every choice but the present one locked where not free."""
    stays = np.arange(gains.shape[2]) == here[:, :, None]
    return gains - np.where(stays | free[:, :, None], np.float32(0), _LOCKED)


def _mixed(shares: Sequence[NDArray[np.float32]], mix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shares of several limits, each (C, N, S), weighed for each genome by (M, N): (C, N, S)."""
    if len(shares) == 1:
        return shares[0]
    return np.sum([share * weight[:, None] for share, weight in zip(shares, mix, strict=True)], axis=0)


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
    fits = _each_pair(len(genes)) & (genes[:, None] != genes)
    for own, used in zip(shares[0], shares[1:].T, strict=True):
        fits &= used[:, None] + used - own <= 1 + _PAIR_SLACK
    places = np.flatnonzero(fits)
    sums = (gain[:, None] + gain).ravel()[places]
    if len(places) > count:
        most = np.sort(np.argpartition(-sums, count)[:count])
        places, sums = places[most], sums[most]
    places = places[np.argsort(-sums, kind="stable")]
    result = np.repeat(genome[None], len(places), axis=0)
    for side in np.divmod(places, len(genes)):
        result[np.arange(len(places)), genes[side]] = choices[side]
    return canonical(space, result)


@lru_cache(maxsize=256)
def _each_pair(count: int) -> NDArray[np.bool_]:
    """Each two of so many changes once, (N, N)."""
    return np.triu(np.ones((count, count), np.bool_), 1)
