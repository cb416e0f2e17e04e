"""Which limits hold an answer back: where a change of one choice would be better, what forbids it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bespoke.search.evaluator import Limits, limited_value, prices_of
from bespoke.search.neighbourhood import neighbourhood
from bespoke.search.problem import Candidate, Problem
from bespoke.supernet.architecture import Architecture, Genomes, SearchSpace, canonical


@dataclass(frozen=True)
class LimitUse:
    """How an answer stands to one limit.

    Attributes:
        name: The metric, ``latency_ms:NAME`` on a named device, or ``top1`` for a least accuracy.
        limit: What was asked for, in the metric's unit.
        confidence: Of the interval whose upper end is limited; None where the prediction is.
        used: What is limited: the prediction, or the upper end of its interval.
        binds: Whether some change of one choice would be better, and breaks this limit.
    """

    name: str
    limit: float
    confidence: float | None
    used: float
    binds: bool


def limit_uses(problem: Problem, best: Candidate) -> tuple[LimitUse, ...]:
    """How the answer to a problem stands to each of its limits, in their order.

    Every change of one choice that would be better is looked at: it is more accurate, or where the
    problem minimises a metric, smaller in that. The answer is as good as it is because each of them
    breaks a limit; those are the limits that bind.

    Args:
        problem: What was asked.
        best: The answer.
    """
    around = neighbourhood(problem, _genome(problem.space, best.architecture))
    if problem.minimise is None:
        better = around.top1 > best.top1
    else:
        price = prices_of(problem)[problem.minimise]
        better = price.of(around.changed) < price.of(around.genome[None])[0]
    broken = around.shares(Limits(problem))[1:][better] > 1
    uses = [
        LimitUse(
            name=constraint.name,
            limit=float(constraint.limit),
            confidence=constraint.confidence,
            used=limited_value(constraint, best.metrics[constraint.name], problem.pricer(constraint)),
            binds=bool(column.any()),
        )
        for constraint, column in zip(problem.constraints, broken.T, strict=True)
    ]
    if problem.min_top1 is not None:
        short = bool((around.top1[better] < problem.min_top1).any())
        uses.append(LimitUse("top1", problem.min_top1, None, best.top1, short))
    return tuple(uses)


def _genome(space: SearchSpace, architecture: Architecture) -> Genomes:
    """An architecture as a genome of a space that may be restricted, (G,).

    What does not matter in it may have a value that the restricted space lacks.
    """
    row = [
        d.choices.index(value) if value in d.choices else 0
        for d in space.dimensions
        for value in architecture[d.name]
    ]
    return canonical(space, np.array([row], np.int16))[0]
