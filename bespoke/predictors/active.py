"""Active rounds: after a draw that covers the space, measure what a predictor is unsure of.

Each round fits a Gaussian process on what there is, draws fresh architectures, and takes those whose
top-1 it is least sure of, as many at each resolution and of each size: what is unsure is not all of
one kind then.

Source: MacKay, Information-based objective functions for active data selection (1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bespoke.predictors.dataset import AccuracyDataset, Measure, collect, measured, read_dataset
from bespoke.predictors.kriging import uncertainty
from bespoke.supernet.architecture import Architecture, Genomes, SearchSpace, encode
from bespoke.supernet.cost import CostTable
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import stratified

ROUNDS = 2
SIZES = 3
"""Classes of size at each resolution."""
POOL = 20
"""Architectures drawn for each one that is chosen."""


def collect_actively(
    space: SearchSpace,
    count: int,
    measure: Measure,
    path: Path,
    seed: int,
    *,
    unsure: int,
    rounds: int = ROUNDS,
    aside: int = 0,
    images: int = 0,
) -> AccuracyDataset:
    """Measure architectures until the file holds ``count``, the last ones chosen for being unsure.

    A run that stopped goes on where it was. What a round chooses follows from what is in the file
    before it, so that all that belongs to the rounds before has to be there first.

    Args:
        space: The space to draw from.
        count: How many architectures, the unsure ones included.
        measure: From an architecture to its top-1 in [0, 1].
        path: JSON lines; appended to after each measurement.
        seed: Decides which architectures.
        unsure: How many of them are chosen for being unsure, over all rounds.
        rounds: In how many rounds these are chosen.
        aside: How many of the first ones no choice here may see, since a predictor will be judged on
            them.
        images: How many images ``measure`` uses.

    Returns:
        First what follows from the seed, then round after round.

    Raises:
        FileInvalid: The file holds something else.
        InvalidInput: ``measure`` gave no share, or the numbers do not go together.
    """
    if not (0 <= unsure < count - aside and rounds > 0 and aside >= 0):
        raise InvalidInput(
            f"got {count} architectures, {unsure} of them unsure in {rounds} rounds, {aside} set aside; "
            "expected some that are neither, and one round or more"
        )
    first = collect(space, count - unsure, measure, path, seed, images=images)
    found = list(first.architectures)
    for number, size in enumerate(round_sizes(unsure, rounds), 1):
        known = read_dataset(path, space)
        of_round = zip(known.architectures, known.rounds, strict=True)
        own = [a for a, r in of_round if r == number and a not in found][:size]
        if len(own) < size:
            # Not of what the round itself measured already: it chooses what it chose before it stopped.
            before = known.where(np.array(known.rounds) < number)
            targets = dict(zip(before.architectures, before.targets(), strict=True))
            seen = found[aside:]
            top1 = np.array([targets[a] for a in seen])
            taken = frozenset(before.architectures)
            chosen = choose_round(space, seen, top1, size, [seed, number], taken)
            own = list(measured(space, chosen, measure, path, images=images, number=number).architectures)
        found += own
    return measured(space, found, _nothing_left, path)


def choose_round(
    space: SearchSpace,
    seen: Sequence[Architecture],
    top1: NDArray[np.float64],
    count: int,
    seed: Sequence[int],
    taken: frozenset[Architecture],
) -> tuple[Architecture, ...]:
    """Choose what a round measures, out of a fresh draw.

    Args:
        space: The space of all of them.
        seen: What the choice may go by.
        top1: What was measured of these, in [0, 1], (N,).
        count: How many the round has.
        seed: Of the draw.
        taken: What is measured already, and so is not chosen.
    """
    pool = _fresh(space, count * POOL, seed, taken)
    return most_unsure(space, encode(space, seen), top1, pool, count)


def round_sizes(total: int, rounds: int) -> list[int]:
    """How many architectures each of some rounds chooses.

    Args:
        total: How many all of them choose.
        rounds: How many there are.
    """
    return [total * (i + 1) // rounds - total * i // rounds for i in range(rounds)]


def most_unsure(
    space: SearchSpace,
    genomes: Genomes,
    top1: NDArray[np.float64],
    pool: Sequence[Architecture],
    count: int,
) -> tuple[Architecture, ...]:
    """Choose what a predictor is unsure of, as many at each resolution and of each size.

    Args:
        space: The space of all of them.
        genomes: What was measured, (N, G).
        top1: Measured top-1 in [0, 1], (N,).
        pool: What may be chosen.
        count: How many are wanted.
    """
    among = encode(space, pool)
    spread = uncertainty(space, genomes, top1, among)
    cells = _cells(space, among)
    # Their rank inside each cell decides: first the most unsure of every cell, then the second.
    ranks = np.empty(len(pool), np.int64)
    for cell in np.unique(cells):
        members = np.flatnonzero(cells == cell)
        ranks[members[np.argsort(-spread[members], kind="stable")]] = np.arange(len(members))
    return tuple(pool[i] for i in np.lexsort((-spread, ranks))[:count])


def _cells(space: SearchSpace, genomes: Genomes) -> NDArray[np.int64]:
    """A number for each resolution and class of size, (N,)."""
    macs, sides = CostTable(space).macs(genomes), genomes[:, -1].astype(np.int64)
    cells = np.zeros(len(genomes), np.int64)
    for side in np.unique(sides):
        own = np.flatnonzero(sides == side)
        order = macs[own].argsort(kind="stable").argsort(kind="stable")
        cells[own] = side * SIZES + order * SIZES // len(own)
    return cells


def _fresh(
    space: SearchSpace, count: int, seed: Sequence[int], taken: frozenset[Architecture]
) -> tuple[Architecture, ...]:
    """Architectures that are not measured yet."""
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return tuple(a for a in stratified(space, count, number) if a not in taken)


def _nothing_left(architecture: Architecture) -> float:
    raise AssertionError(f"{architecture.id} was to be measured by now")
