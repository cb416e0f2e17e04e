"""What each choice of an architecture does to its predicted accuracy, on average."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bespoke.predictors.accuracy import AccuracyPredictor
from bespoke.supernet.architecture import SearchSpace, canonical, cardinalities, gene_offsets

SAMPLES = 400
"""Architectures for each choice: all choices of a gene are tried on the same ones."""


def choice_effects(
    space: SearchSpace, predictor: AccuracyPredictor, *, samples: int = SAMPLES, seed: int = 0
) -> Mapping[str, NDArray[np.float64]]:
    """By how much each choice moves the predicted top-1 off the mean of its gene's choices.

    Each choice of a gene is put into the same random architectures in which that gene counts;
    everything else stays as drawn.

    Args:
        space: The space.
        predictor: Of its architectures.
        samples: How many architectures are drawn.
        seed: Decides which.

    Returns:
        By dimension, in absolute top-1, shape (genes of the dimension, its choices).
    """
    sizes, offsets = cardinalities(space), gene_offsets(space)
    # Blocks that are skipped have choices too here, which count once a depth brings them in.
    drawn = np.random.default_rng([seed, 6]).integers(0, sizes, (samples, len(sizes))).astype(np.int16)
    found: dict[str, NDArray[np.float64]] = {}
    for dimension in space.dimensions:
        first, choices = offsets[dimension.name], int(sizes[offsets[dimension.name]])
        effects = np.zeros((dimension.count, choices))
        for gene in range(first, first + dimension.count):
            base = drawn[space.active(drawn)[:, gene]]
            if not len(base):
                continue
            varied = np.repeat(base, choices, axis=0)
            varied[:, gene] = np.tile(np.arange(choices), len(base))
            top1 = predictor.top1(canonical(space, varied)).reshape(len(base), choices)
            effects[gene - first] = (top1 - top1.mean(axis=1, keepdims=True)).mean(axis=0)
        found[dimension.name] = effects
    return found
