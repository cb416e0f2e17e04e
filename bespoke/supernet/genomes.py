"""Populations: sampling, mutation and crossover of genomes, all in numpy calls.

Randomness is always an argument. Results are canonical.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import (
    Architecture,
    Genomes,
    SearchSpace,
    canonical,
    cardinalities,
    decode,
    read_architecture,
)

_MAX_TILT = 2.0
"""How far a draw leans to small or large choices: at 2 the outer choice of three is about seven
times as likely as the middle one, so that the extremes of the space are covered too."""


def sample(space: SearchSpace, count: int, rng: np.random.Generator) -> Genomes:
    """Draw genomes, each gene uniform and independent. Shape (count, G)."""
    limits = cardinalities(space)
    genomes = rng.integers(0, limits, (count, len(limits)))
    return canonical(space, genomes.astype(np.int16))


def mutate(space: SearchSpace, parents: Genomes, probability: float, rng: np.random.Generator) -> Genomes:
    """Re-draw each gene with a probability. Shape as ``parents``."""
    drawn = rng.integers(0, cardinalities(space), parents.shape)
    changed = rng.random(parents.shape, np.float32) < probability
    return canonical(space, np.where(changed, drawn, parents).astype(np.int16))


def crossover(space: SearchSpace, mothers: Genomes, fathers: Genomes, rng: np.random.Generator) -> Genomes:
    """Take each gene from one of two parents. Shape as ``mothers``."""
    from_mother = rng.random(mothers.shape, np.float32) < 0.5
    return canonical(space, np.where(from_mother, mothers, fathers).astype(np.int16))


def neighbours(space: SearchSpace, genome: Genomes) -> tuple[Genomes, NDArray[np.intp], Genomes]:
    """All genomes that differ in the choice of one active gene.

    Args:
        space: The space.
        genome: (G,), canonical.

    Returns:
        The neighbours (N, G), the gene that differs (N,), and its new choice (N,).
    """
    genes, choices = every_choice(space)  # type: ignore[arg-type]
    moves = space.active(genome[None])[0][genes] & (choices != genome[genes])
    genes, choices = genes[moves], choices[moves]
    result = np.repeat(genome[None], len(genes), axis=0)
    result[np.arange(len(genes)), genes] = choices
    return canonical(space, result), genes, choices


# Spaces are frozen dataclasses, so hashable; their protocol cannot say so.
@lru_cache(maxsize=64)
def every_choice(space: SearchSpace) -> tuple[NDArray[np.intp], Genomes]:
    """Each choice of each gene: the genes (C,) and the choices (C,)."""
    sizes = cardinalities(space)
    genes = np.repeat(np.arange(len(sizes)), sizes)
    return genes, np.concatenate([np.arange(size, dtype=np.int16) for size in sizes])


def extremes(space: SearchSpace) -> Genomes:
    """The smallest and the largest genome: first and last choice of every gene. Shape (2, G)."""
    limits = cardinalities(space)
    return canonical(space, np.stack([np.zeros_like(limits), limits - 1]))


def stratified(space: SearchSpace, count: int, seed: int) -> tuple[Architecture, ...]:
    """Draw different architectures that cover resolutions and sizes evenly.

    Resolutions take turns. Each draw leans to small or to large choices by its own random amount,
    since independent uniform choices all but never make a small or a large network. A longer draw
    begins with the shorter one of the same seed.

    Args:
        space: The space to draw from.
        count: How many are wanted.
        seed: Decides which.

    Returns:
        ``count`` architectures; fewer where the space hardly holds as many.
    """
    rng = np.random.default_rng(seed)
    resolutions = int(cardinalities(space)[-1])
    found: dict[Architecture, None] = {}
    turn = 0
    while len(found) < count and turn - len(found) <= 1000 + 10 * count:
        genome = _leaning(space, rng)
        genome[0, -1] = turn % resolutions
        found.setdefault(decode(space, genome[0]))
        turn += 1
    return tuple(found)


def random_architecture(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """One architecture, each choice uniform and independent."""
    return decode(space, sample(space, 1, rng)[0])


def smallest(space: SearchSpace, resolution: int | None = None) -> Architecture:
    """The smallest architecture, at the given resolution or the smallest one."""
    return _extreme(space, 0, resolution)


def largest(space: SearchSpace, resolution: int | None = None) -> Architecture:
    """The largest architecture, at the given resolution or the largest one."""
    return _extreme(space, 1, resolution)


def at_resolution(space: SearchSpace, architecture: Architecture, resolution: int) -> Architecture:
    """The same network at another resolution of the space."""
    return read_architecture(space, architecture.to_json() | {"resolution": resolution})


def _leaning(space: SearchSpace, rng: np.random.Generator) -> Genomes:
    """One genome whose choices lean to one end. Shape (1, G)."""
    sizes = cardinalities(space)
    tilt = rng.uniform(-_MAX_TILT, _MAX_TILT)
    place = rng.random((1, len(sizes))) ** np.exp(-tilt)
    return canonical(space, np.minimum(place * sizes, sizes - 1).astype(np.int16))


def _extreme(space: SearchSpace, which: int, resolution: int | None) -> Architecture:
    architecture = decode(space, extremes(space)[which])
    return architecture if resolution is None else at_resolution(space, architecture, resolution)
