"""What was evaluated, so that nothing is evaluated twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import Genomes

Evaluate = Callable[[Genomes], NDArray[np.float64]]
"""From genomes (N, G) to their values (N, M)."""


class Known:
    """Every genome that was evaluated, in order, with its values.

    Attributes:
        genomes: (N, G).
        values: (N, M).
    """

    def __init__(self, evaluate: Evaluate, genes: int, objectives: int) -> None:
        self._evaluate = evaluate
        self._rows: dict[bytes, int] = {}
        self.genomes: Genomes = np.zeros((0, genes), np.int16)
        self.values: NDArray[np.float64] = np.zeros((0, objectives))

    def __len__(self) -> int:
        return len(self._rows)

    def rows_of(self, genomes: Genomes) -> NDArray[np.intp]:
        """The row of each canonical genome, (N,); those that are new are evaluated, together and once."""
        keys = [genome.tobytes() for genome in genomes]
        new = {key: i for i, key in reversed(list(enumerate(keys))) if key not in self._rows}
        if new:
            fresh = sorted(new, key=new.__getitem__)
            chosen = genomes[[new[key] for key in fresh]]
            self._rows.update(zip(fresh, range(len(self._rows), len(self._rows) + len(fresh)), strict=True))
            self.genomes = np.concatenate([self.genomes, chosen])
            self.values = np.concatenate([self.values, self._evaluate(chosen)])
        return np.array([self._rows[key] for key in keys], np.intp)

    def values_of(self, genomes: Genomes) -> NDArray[np.float64]:
        """The values of canonical genomes, (N, M); those that are new are evaluated, together and once."""
        rows = self.rows_of(genomes)
        return self.values[rows]

    def unknown(self, genomes: Genomes) -> NDArray[np.intp]:
        """Indices of the genomes that were not evaluated yet, each different one once."""
        new: dict[bytes, int] = {}
        for i, genome in enumerate(genomes):
            key = genome.tobytes()
            if key not in self._rows:
                new.setdefault(key, i)
        return np.array(list(new.values()), np.intp)
