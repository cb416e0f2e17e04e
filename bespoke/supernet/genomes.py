"""Populations: sampling, mutation and crossover of genomes, all in numpy calls.

Randomness is always an argument. Results are canonical.
"""

from __future__ import annotations

import numpy as np

from bespoke.supernet.architecture import (
    Architecture,
    Genomes,
    SearchSpace,
    canonical,
    cardinalities,
    decode,
    read_architecture,
)


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


def extremes(space: SearchSpace) -> Genomes:
    """The smallest and the largest genome: first and last choice of every gene. Shape (2, G)."""
    limits = cardinalities(space)
    return canonical(space, np.stack([np.zeros_like(limits), limits - 1]))


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


def _extreme(space: SearchSpace, which: int, resolution: int | None) -> Architecture:
    architecture = decode(space, extremes(space)[which])
    return architecture if resolution is None else at_resolution(space, architecture, resolution)
