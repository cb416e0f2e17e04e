"""Predicting accuracy by what like architectures have: the mean of a Gaussian process, in numpy.

    top-1(x) = mean + sum over measured j of weight_j * exp(-distance(x, j) / RATE)

where the distance is the sum of the rates of the one-hot features that differ. Rates are whole numbers,
and so is the distance: the exponentials are a short table, and a prediction is the same wherever a genome
stands in its batch, on every machine.

Source: Rasmussen & Williams, Gaussian Processes for Machine Learning (2006), eq. 2.25, with a length of
its own for each feature (section 5.1): its rate is ``RATE / (2 * length^2)``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from bespoke.predictors.accuracy import Encoding, one_hot, write_predictor
from bespoke.supernet.architecture import Genomes, SearchSpace
from bespoke.supernet.errors import InvalidInput

FORMAT = "bespoke-gaussian-predictor-2"

RATE = 8192
"""Of a feature over whose difference similarity falls by a factor of e."""

MOST_EXAMPLES = 3000
"""Measured architectures. The work of a fit grows with their cube, that of a prediction with their number: so
many take most of an hour to fit and judge on one core, and more slow down every search."""

_CHUNK = 256
"""Rows at a time: their similarities to 1,000 measured architectures take 2 MB."""


@dataclass(frozen=True, eq=False)
class GaussianPredictor:
    """A Gaussian process on the choices of architectures, bound to a search space.

    Attributes:
        space: The space whose genomes are predicted.
        encoding: From genomes to features.
        centres: Features of the measured architectures, 0 or 1, shape (M, F), uint8.
        weights: What each adds where it stands, in absolute top-1, shape (M,).
        rates: How much a difference in each feature makes two unlike, (F,), uint16 (see ``RATE``).
        mean: Of top-1 far from all of them.
        half_width: 90% conformal half width, in absolute top-1.
        card: How good it is and where it comes from: plain JSON.
        selection_bias: By how much searched architectures are predicted too high on average, in
            absolute top-1; 0 where nobody measured it.

    Raises:
        InvalidInput: Shapes that do not fit the encoding or one another, or numbers that are none.
    """

    space: SearchSpace
    encoding: Encoding
    centres: NDArray[np.uint8]
    weights: NDArray[np.float64]
    rates: NDArray[np.uint16]
    mean: float
    half_width: float
    card: Mapping[str, Any] = field(default_factory=dict)
    selection_bias: float = 0.0

    def __post_init__(self) -> None:
        _, features = self.encoding.features(self.space)
        shapes = self.centres.shape, self.weights.shape, self.rates.shape
        measured = len(self.weights)
        if shapes != ((measured, features), (measured,), (features,)) or not measured:
            raise InvalidInput(
                f"accuracy predictor: got {shapes}, expected (M, {features}), (M,) and ({features},)"
            )
        finite = np.isfinite([*self.weights, self.mean]).all()
        if not (finite and self.half_width >= 0 and self.selection_bias >= 0):
            raise InvalidInput(
                f"accuracy predictor: got mean {self.mean}, half width {self.half_width} and selection bias "
                f"{self.selection_bias}; expected finite numbers, the last two 0 or more"
            )

    @cached_property
    def revision(self) -> str:
        """sha256 of everything that decides a prediction or its interval, in hex."""
        told = [self.encoding.to_json(), self._numbers]
        text = json.dumps(told, sort_keys=True)
        return hashlib.sha256(text.encode() + save_tensors(self._tensors())).hexdigest()

    def top1(self, genomes: Genomes) -> NDArray[np.float64]:
        """Predict the top-1 in [0, 1] of each genome, shape (N,)."""
        parts = [self._shares(self._rows(genomes[i : i + _CHUNK])) for i in range(0, len(genomes), _CHUNK)]
        sums = [part.sum(axis=1) for part in parts]
        return self.mean + (np.concatenate(sums) if sums else np.zeros(0))

    def gains(self, genomes: Genomes) -> NDArray[np.float32]:
        """What each choice adds to the prediction, to first order (see ``LinearisedPredictor``).

        A feature that is set brings an architecture nearer to those that have it by one, and further
        from those that have not.

        Returns:
            Shape (N, G, C), where C is the largest number of choices of a gene.
        """
        table, count = self._feature_table
        slopes = np.zeros((len(genomes), count + 1), np.float32)
        for start in range(0, len(genomes), _CHUNK):
            shares = self._shares(self._rows(genomes[start : start + _CHUNK])).astype(np.float32)
            near = shares @ self._centres - 0.5 * shares.sum(axis=1, keepdims=True)
            slopes[start : start + _CHUNK, :count] = near * (2 * self._rates / RATE)
        result: NDArray[np.float32] = slopes[:, table]
        return result

    def corrected(self, top1: NDArray[np.float64]) -> NDArray[np.float64]:
        """What predictions of searched architectures mean: less the selection bias, shape (N,)."""
        return np.asarray(top1) - self.selection_bias

    def save(self, path: Path) -> None:
        """Write ``predictor.json`` at ``path`` and the tensors beside it, as ``.safetensors``."""
        header = {"format": FORMAT, "space": self.space.to_json(), "encoding": self.encoding.to_json()}
        write_predictor(path, header | self._numbers | {"card": dict(self.card)}, self._tensors())

    @property
    def _numbers(self) -> dict[str, float]:
        return {name: float(getattr(self, name)) for name in _NUMBERS}

    def _tensors(self) -> dict[str, NDArray[Any]]:
        names = ("centres", "weights", "rates")
        return {name: np.ascontiguousarray(getattr(self, name)) for name in names}

    @cached_property
    def _feature_table(self) -> tuple[NDArray[np.int64], int]:
        return self.encoding.features(self.space)

    @cached_property
    def _centres(self) -> NDArray[np.float32]:
        return self.centres.astype(np.float32)

    @cached_property
    def _rates(self) -> NDArray[np.float32]:
        return self.rates.astype(np.float32)

    @cached_property
    def _similarities(self) -> NDArray[np.float64]:
        """By distance, up to that of two that differ in everything."""
        return np.asarray(np.exp(-np.arange(int(self.rates.sum(dtype=np.int64)) + 1) / RATE))

    def _rows(self, genomes: Genomes) -> NDArray[np.float32]:
        """Features, (N, F)."""
        return one_hot(self.space, self._feature_table, genomes, len(genomes))[:, :-1]

    def _shares(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """What each measured architecture adds to each prediction, (N, M)."""
        # Sums of whole numbers are exact in single precision, in whatever order a BLAS takes them.
        differ = distances(rows, self._centres, self._rates)
        shares = self._similarities.take(differ.astype(np.intp))
        shares *= self.weights
        return np.asarray(shares)


_NUMBERS = ("mean", "half_width", "selection_bias")


def distances(
    rows: NDArray[np.floating], others: NDArray[np.floating], rates: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Sums of the rates (F,) of the features, 0 or 1, in which rows and others, (M, F), differ, (N, M)."""
    weighed = others * rates
    differ = rows @ weighed.T
    differ *= -2
    differ += (rows @ rates)[:, None]
    differ += weighed.sum(axis=1)
    return np.asarray(differ)


def from_parts(
    space: SearchSpace, header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]
) -> GaussianPredictor:
    """What ``GaussianPredictor.save`` wrote, for a space that differs in its resolutions at most.

    Raises:
        KeyError, ValueError, TypeError: Something is missing or of another kind.
        InvalidInput: The parts do not fit one another.
    """
    numbers = {name: float(header[name]) for name in _NUMBERS}
    return GaussianPredictor(
        space,
        Encoding.from_json(header["encoding"]),
        np.asarray(tensors["centres"], np.uint8),
        np.asarray(tensors["weights"], np.float64),
        np.asarray(tensors["rates"], np.uint16),
        card=dict(header["card"]),
        **numbers,
    )
