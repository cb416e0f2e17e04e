"""Neighbourhoods: what is known of every change of one choice of a genome, whatever the limits are.

Requests come back to the same genomes again and again: to the members of an archive, and to what is
best within limits of some width. So what does not depend on the limits is made once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from bespoke.predictors.accuracy import AccuracyPredictor, LinearisedPredictor
from bespoke.search.evaluator import Limits, Price
from bespoke.search.problem import Problem
from bespoke.supernet.architecture import Genomes, SearchSpace
from bespoke.supernet.cost import SlotTable
from bespoke.supernet.genomes import neighbours

KEPT = 1024
"""Neighbourhoods that are remembered, each of about 20 kB."""


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Every change of one choice of a genome.

    Attributes:
        predictor: Of their accuracy.
        genome: What is changed, (G,), canonical.
        changed: With one choice changed, (N, G), as ``neighbours`` gives them.
        genes: The gene that differs, (N,).
        choices: Its new choice, (N,).
    """

    predictor: AccuracyPredictor
    genome: Genomes
    changed: Genomes
    genes: NDArray[np.intp]
    choices: Genomes
    _priced: dict[tuple[str, SlotTable], NDArray[np.float64]] = field(default_factory=dict, repr=False)

    @cached_property
    def top1(self) -> NDArray[np.float64]:
        """Predicted with each change, (N,)."""
        return self.predictor.top1(self.changed)

    @cached_property
    def gain(self) -> NDArray[np.float64]:
        """What each change seems to add to the top-1, (N,): to first order where the predictor tells."""
        if isinstance(self.predictor, LinearisedPredictor):
            return self.gain_by(self.predictor.gains(self.genome[None])[0])
        return self.top1 - self.predictor.top1(self.genome[None])[0]

    def gain_by(self, gains: NDArray[np.float32]) -> NDArray[np.float64]:
        """What each change seems to add to the top-1, (N,), by what each choice does, (G, C)."""
        here = gains[self.genes, self.genome[self.genes]]
        return np.asarray(gains[self.genes, self.choices].astype(np.float64) - here)

    def shares(self, limits: Limits) -> NDArray[np.float64]:
        """How much of each limit is used: by the genome in row 0, with each change below, (1 + N, M)."""
        if not limits.prices:
            return np.zeros((1 + len(self.changed), 0))
        used = [self._values(p) / limit for p, limit in zip(limits.prices, limits.limits, strict=True)]
        return np.stack(used, axis=1)

    def _values(self, price: Price) -> NDArray[np.float64]:
        """The metric of the genome and with each change, (1 + N,)."""
        key = price.metric, price.slots
        if key not in self._priced:
            self._priced[key] = np.concatenate([price.of(self.genome[None]), price.of(self.changed)])
        return self._priced[key]


def neighbourhood(problem: Problem, genome: Genomes) -> Neighbourhood:
    """What surrounds a genome.

    Args:
        problem: Its space and predictor; its limits do not matter.
        genome: (G,), canonical.
    """
    row = np.ascontiguousarray(genome, np.int16).tobytes()
    return _neighbourhood(problem.space, problem.predictor, row)  # type: ignore[arg-type]


# Spaces are frozen dataclasses, so hashable; their protocol cannot say so.
@lru_cache(maxsize=KEPT)
def _neighbourhood(space: SearchSpace, predictor: AccuracyPredictor, row: bytes) -> Neighbourhood:
    genome = np.frombuffer(row, np.int16)
    return Neighbourhood(predictor, genome, *neighbours(space, genome))
