"""What each choice adds near a genome: from the predictor where it tells, else fitted to what was seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bespoke.predictors.accuracy import AccuracyPredictor, LinearisedPredictor
from bespoke.search.known import Known
from bespoke.supernet.architecture import Genomes, SearchSpace, cardinalities

_RIDGE = 1e-2
"""Added to the squares of a fit: choices that were hardly seen add nothing."""


class Linear:
    """Linear models of one objective at genomes that are known.

    Attributes:
        linearisations: How many genomes the predictor was linearised at.
    """

    def __init__(
        self, space: SearchSpace, known: Known, predictor: AccuracyPredictor | None, objective: int
    ) -> None:
        """Make no model yet.

        Args:
            space: The space.
            known: What was evaluated.
            predictor: Of the objective; without one every gain is 0.
            objective: Column of the known values that is the negated prediction.
        """
        self._space, self._known = space, known
        self._predictor, self._objective = predictor, objective
        self._gains: dict[int, NDArray[np.float32]] = {}
        sizes = cardinalities(space)
        self._shape = (len(sizes), int(sizes.max()))

    @property
    def linearisations(self) -> int:
        """How many genomes the predictor was linearised at."""
        return len(self._gains)

    def at(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """What each choice adds at known genomes, (N, G, C)."""
        if self._predictor is None:
            return np.zeros((len(rows), *self._shape), np.float32)
        if not isinstance(self._predictor, LinearisedPredictor):
            return np.repeat(self._fitted()[None], len(rows), axis=0)
        new = np.unique([row for row in rows.tolist() if row not in self._gains]).astype(np.intp)
        if len(new):
            found = self._predictor.gains(self._known.genomes[new])
            self._gains.update(zip(new.tolist(), found, strict=True))
        return np.stack([self._gains[row] for row in rows.tolist()])

    def _fitted(self) -> NDArray[np.float32]:
        """Ridge regression of all known values on the choices, (G, C)."""
        genomes = self._known.genomes
        genes, choices = self._shape
        features = np.zeros((len(genomes), genes, choices))
        active = self._space.active(genomes)
        rows, columns = np.nonzero(active)
        features[rows, columns, genomes[rows, columns]] = 1.0
        flat = features.reshape(len(genomes), -1)
        mean = flat.mean(axis=0)
        centred = flat - mean
        top1 = -self._known.values[:, self._objective]
        squares = centred.T @ centred + _RIDGE * len(genomes) * np.eye(flat.shape[1])
        effects = np.linalg.solve(squares, centred.T @ (top1 - top1.mean()))
        return effects.reshape(self._shape).astype(np.float32)


def worth(
    space: SearchSpace, genomes: Genomes, gains: NDArray[np.float32], owners: NDArray[np.intp]
) -> NDArray[np.float64]:
    """What the choices of each genome add up to in a linear model.

    Args:
        space: The space.
        genomes: (N, G).
        gains: Of each model, (P, G, C).
        owners: Which model each genome belongs to, (N,).

    Returns:
        Shape (N,).
    """
    chosen = gains[owners[:, None], np.arange(genomes.shape[1]), genomes]
    total: NDArray[np.float64] = np.where(space.active(genomes), chosen, 0).sum(axis=1, dtype=np.float64)
    return total
