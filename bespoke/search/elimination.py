"""Exact extremes over a space: variable elimination on its slots.

A metric of a static space is the sum, or the maximum, of one number per slot, and each slot is
decided by a few genes. Genes are eliminated one by one: the factors that a gene enters are joined,
and the gene is minimised out. Most genes enter one slot only, so this takes milliseconds.

Source: Dechter, Bucket elimination: a unifying framework for reasoning (1999).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import Genomes, SearchSpace, canonical, cardinalities
from bespoke.supernet.cost import SlotTable

Join = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""How factors are joined: ``np.add`` or ``np.maximum``."""


@dataclass(frozen=True, eq=False)
class Factor:
    """A number for each combination of a few genes' choices.

    Attributes:
        genes: Indices into the genome, ascending.
        values: One axis per gene.
    """

    genes: tuple[int, ...]
    values: NDArray[np.float64]


def slot_factors(space: SearchSpace, table: SlotTable) -> list[Factor]:
    """One factor per slot of a table."""
    sizes = cardinalities(space)
    factors, start = [], 0
    for slot in space.slots:
        values = table.values[start : start + len(slot.ops)]
        factors.append(Factor(slot.genes, values.reshape([int(sizes[g]) for g in slot.genes])))
        start += len(slot.ops)
    return factors


def minimise(space: SearchSpace, factors: Sequence[Factor], join: Join) -> tuple[float, Genomes]:
    """The smallest value in the space, and a genome that has it.

    Args:
        space: Whose genomes are searched, all of them.
        factors: What is joined; infinite where a combination is forbidden.
        join: ``np.add`` for sums, ``np.maximum`` for maxima.

    Returns:
        The value, and a genome of shape (G,). Where everything is forbidden the value is infinite.
    """
    left = list(factors)
    choices: list[tuple[int, tuple[int, ...], NDArray[np.intp]]] = []
    for gene in _order(left):
        here = [factor for factor in left if gene in factor.genes]
        left = [factor for factor in left if gene not in factor.genes]
        joined = _join(here, join)
        axis = joined.genes.index(gene)
        rest = joined.genes[:axis] + joined.genes[axis + 1 :]
        choices.append((gene, rest, joined.values.argmin(axis=axis)))
        left.append(Factor(rest, joined.values.min(axis=axis)))
    genome = np.zeros(len(cardinalities(space)), np.int16)
    for gene, rest, best in reversed(choices):
        genome[gene] = best[tuple(genome[g] for g in rest)]
    value = float(_join(left, join).values) if left else 0.0
    return value, canonical(space, genome[None])[0]


def _order(factors: Sequence[Factor]) -> list[int]:
    """Genes by how many factors they enter: those of one slot first."""
    counts: dict[int, int] = {}
    for factor in factors:
        for gene in factor.genes:
            counts[gene] = counts.get(gene, 0) + 1
    return sorted(counts, key=lambda gene: (counts[gene], gene))


def _join(factors: Sequence[Factor], join: Join) -> Factor:
    genes = tuple(sorted({gene for factor in factors for gene in factor.genes}))
    result: Any = None
    for factor in factors:
        shape = [1] * len(genes)
        for gene, size in zip(factor.genes, factor.values.shape, strict=True):
            shape[genes.index(gene)] = size
        spread = factor.values.reshape(shape)
        result = spread if result is None else join(result, spread)
    sizes = {g: n for factor in factors for g, n in zip(factor.genes, factor.values.shape, strict=True)}
    return Factor(genes, np.broadcast_to(result, [sizes[gene] for gene in genes]))
