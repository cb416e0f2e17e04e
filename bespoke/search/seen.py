"""What a search has predicted so far, so that nothing is predicted twice."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bespoke.search.problem import Problem
from bespoke.supernet.architecture import Genomes, cardinalities

_FIRST_ROWS = 4096


class Seen:
    """Every genome that was predicted, with its top-1."""

    def __init__(self, problem: Problem) -> None:
        self._predictor = problem.predictor
        genes = len(cardinalities(problem.space))
        # Odd random multipliers make a 64-bit hash; two genomes that meet by chance cost one try.
        self._mix = np.random.default_rng(0).integers(0, 2**63, genes, dtype=np.uint64) * 2 + 1
        self._rows: dict[int, int] = {}
        self._genomes = np.empty((_FIRST_ROWS, genes), np.int16)
        self._top1 = np.empty(_FIRST_ROWS)
        self._told = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def evaluations(self) -> int:
        """How many genomes were predicted."""
        return len(self._rows) - self._told

    @property
    def genomes(self) -> Genomes:
        """All of them, in order, (N, G)."""
        return self._genomes[: len(self._rows)]

    @property
    def top1(self) -> NDArray[np.float64]:
        """Their predicted top-1, (N,)."""
        return self._top1[: len(self._rows)]

    def tell(self, genomes: Genomes, top1: NDArray[np.float64]) -> None:
        """Remember what was predicted before, (N, G) and (N,); it counts as no evaluation."""
        new = self._unknown(self._keys(genomes))
        rows = list(new.values())
        self._keep(new, genomes[rows], top1[rows])
        self._told += len(new)

    def top1_of(self, genomes: Genomes) -> NDArray[np.float64]:
        """Predicted top-1, shape (N,); only genomes that are new are predicted."""
        keys = self._keys(genomes)
        rows = list(map(self._rows.get, keys))
        if None in rows:
            new = self._unknown(keys)
            fresh = genomes[list(new.values())]
            self._keep(new, fresh, self._predictor.top1(fresh))
            rows = list(map(self._rows.get, keys))
        return self._top1[np.array(rows, np.intp)]

    def _keys(self, genomes: Genomes) -> list[int]:
        keys: list[int] = (genomes.astype(np.uint64) * self._mix).sum(axis=1, dtype=np.uint64).tolist()
        return keys

    def _unknown(self, keys: list[int]) -> dict[int, int]:
        """Keys that are new, and where each of them comes first."""
        new: dict[int, int] = {}
        for i, key in enumerate(keys):
            if key not in self._rows:
                new.setdefault(key, i)
        return new

    def _keep(self, new: Iterable[int], genomes: Genomes, top1: NDArray[np.float64]) -> None:
        begin, end = len(self._rows), len(self._rows) + len(genomes)
        if end > len(self._top1):
            room = max(end, 2 * len(self._top1))
            self._genomes = np.resize(self._genomes, (room, self._genomes.shape[1]))
            self._top1 = np.resize(self._top1, room)
        self._genomes[begin:end], self._top1[begin:end] = genomes, top1
        self._rows.update(zip(new, range(begin, end), strict=True))
