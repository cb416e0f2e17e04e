"""The archive: the living front of a space, and answers out of it.

Whoever has searched a space at many limits has the answer to most further limits, or a neighbour of
it. An archive keeps what such searches found: architectures of which each is the best known within
some limits. A request is then answered by a look-up, and a short climb from the best members that
fit, and from the nearest one that does not: changes of one gene and of two, ranked by the
predictor's linear model and by exact prices, of which the most promising are predicted.

An answer is never over a limit, and never worse than the best member within the limits. Neither
the look-up nor the climb draws at random, so an archive and a request decide the answer.

An archive grows by generations: each climbs the fronts of top-1 with some metrics, from starts of its
own, and then looks limits up that lie between those before it. Fronts that know nothing of each other
end in different optima, and the best of several is better than one that was climbed for longer. A
generation never loses anything: what an older one would answer, a newer one beats or equals, but for
members that are left out where there are too many.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bespoke.predictors.accuracy import LinearisedPredictor
from bespoke.predictors.blas import one_thread
from bespoke.search.evaluator import Limits, candidates, prices_of, ranges_of
from bespoke.search.front import TOP1, front_genomes
from bespoke.search.moves import pairs
from bespoke.search.neighbourhood import Neighbourhood, neighbourhood
from bespoke.search.pareto import evenly, non_dominated
from bespoke.search.problem import (
    MOST_POPULATION,
    Candidate,
    Constraint,
    Effort,
    HeadStart,
    Problem,
    SearchResult,
)
from bespoke.search.restriction import encoded, from_base
from bespoke.supernet.architecture import Genomes, cardinalities
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import extremes

__all__ = ["Archive", "begin_from", "begin_with", "gain", "grow", "look_up", "merge"]

MOST_MEMBERS = 2048
CHUNK = 256

FRONTS = {"latency_ms": 1.5, "macs": 0.75, "params": 0.75, "peak_memory_bytes": 0.25}
"""The fronts with top-1 that each generation climbs, and their share of the effort's population. Model
size hardly differs from ``params``: look-ups settle the rest."""

LOOKED_UP = {"latency_ms": 96, "macs": 16, "params": 16, "peak_memory_bytes": 6, "model_size_bytes": 8}
"""How many limits on each metric it then looks up; what is found fills the gaps."""

STARTS, NEAR_MISSES, CLIMBS = 1, 1, 3
"""Members that a look-up climbs from, within the limits and just beyond them, and climbs at most."""

SINGLES, PAIRS = 16, 16
"""Changes of one gene and of two that are predicted around one genome: of two genomes one tile of rows."""

CONFLICT = 0.001
"""Top-1 by which the best member may lie under what the tightest limit alone allows."""


@dataclass(frozen=True, eq=False)
class Archive:
    """Architectures of one space, priced by one table and predicted by one predictor.

    Attributes:
        genomes: (N, G), canonical, different, the most accurate first.
        top1: (N,) predicted.
        values: By metric, (N,), as ``evaluator.prices`` counts.
        generation: How often it grew; the first one is 0.
        gains: What each choice adds at each member, (N, G, C), as ``LinearisedPredictor.gains`` says; None
            where the predictor cannot tell.
    """

    genomes: Genomes
    top1: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float64]]
    generation: int
    gains: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.genomes)

    def gains_at(self, member: int) -> NDArray[np.float32] | None:
        """What each choice adds at a member, (G, C); None where the predictor cannot tell."""
        return None if self.gains is None else self.gains[member]

    @cached_property
    def digest(self) -> str:
        """sha256 of generation and members, in hex."""
        members = np.ascontiguousarray(self.genomes, "<i2").tobytes()
        return hashlib.sha256(f"{self.generation} {self.genomes.shape}\n".encode() + members).hexdigest()

    def to_bytes(self) -> bytes:
        """The members and the generation, as npz; prices and predictions follow from them."""
        file = io.BytesIO()
        np.savez_compressed(file, genomes=self.genomes.astype(np.int16), generation=self.generation)
        return file.getvalue()

    @staticmethod
    def from_bytes(problem: Problem, data: bytes) -> Archive:
        """Read what ``to_bytes`` wrote, and price it.

        Args:
            problem: Its space, predictor and pricer.
            data: The bytes.

        Raises:
            InvalidInput: The members are none of this space.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            genomes, generation = file["genomes"], int(file["generation"])
        sizes = cardinalities(problem.space)
        inside = genomes.ndim == 2 and genomes.shape[1] == len(sizes)
        if not inside or (genomes < 0).any() or (genomes >= sizes).any():
            raise InvalidInput(f"archive: got genomes of shape {genomes.shape}, expected those of the space")
        return _with_gains(problem, _priced(problem, genomes, generation))


def merge(problem: Problem, found: Genomes, archive: Archive | None = None) -> Archive:
    """An archive with further architectures; what others beat in everything is left out.

    Args:
        problem: Space, predictor and pricer; its limits do not matter.
        found: (N, G) genomes, canonical.
        archive: What to start from; its generation is kept, and it is not changed.
    """
    generation = archive.generation if archive else 0
    together = found if archive is None else np.concatenate([archive.genomes, found])
    merged = _priced(problem, np.unique(together, axis=0), generation)
    kept = np.flatnonzero(non_dominated(_objectives(merged)))
    if len(kept) > MOST_MEMBERS:
        kept = _thinned(merged, kept)
    return _with_gains(problem, _taken(merged, kept))


def grow(
    problem: Problem,
    archive: Archive | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Archive | None:
    """The next generation of an archive.

    Args:
        problem: Space, predictor, pricer and effort; nothing else of it matters.
        archive: The generation before; None for the first one.
        stop: Asked before each step of a front and each look-up.

    Returns:
        The generation; None where ``stop`` said yes.
    """
    generation = archive.generation + 1 if archive else 0
    unlimited = replace(problem, constraints=(), minimise=None, min_top1=None, head_start=None)
    found = [extremes(problem.space)]
    for metric in [metric for metric in ranges_of(problem) if metric in FRONTS]:
        effort = replace(problem.effort, population=_population(problem.effort, metric, generation))
        asked = replace(unlimited, seed=generation, effort=effort)
        front = front_genomes(asked, (TOP1, metric), MOST_MEMBERS, stop)
        if front is None:
            return None
        found.append(front)
    grown = merge(problem, np.concatenate(found), archive)
    found = [grown.genomes[:1]]
    with one_thread():
        for metric, limit in _limits(problem, LOOKED_UP, generation):
            if stop():
                return None
            answer = _best(replace(unlimited, constraints=(Constraint(metric, limit),)), grown)
            found += [answer.genome[None]] if answer else []
    return replace(merge(problem, np.concatenate(found), grown), generation=generation)


def look_up(problem: Problem, archive: Archive) -> SearchResult | None:
    """Answer a request out of an archive.

    Args:
        problem: Over the whole space that the archive is of; most accurate within limits.
        archive: Of the problem's space, predictor and pricer.

    Returns:
        The answer, the same one each time; None where no member is within the limits, or where
        limits are in each other's way so that no member is near what is possible, or one is on a
        metric that the archive does not know: then search.
    """
    with one_thread():
        best = _best(problem, archive)
        if best is None:
            return None
        (answer,) = candidates(problem, best.genome[None], np.array([best.top1]))
    return SearchResult(answer, (answer,), best.predicted, best.climbs, problem.seed)


def begin_from(problem: Problem, archive: Archive) -> Problem:
    """The same question with a head start: what an archive knows.

    Args:
        problem: Of the archive's space, whole or restricted, and its predictor; any limits and devices.
        archive: The archive.
    """
    genomes, rows = from_base(problem.space, archive.genomes)
    return replace(problem, head_start=HeadStart(genomes, archive.top1[rows]))


def begin_with(problem: Problem, known: Candidate) -> Problem:
    """The same question, whose search also knows an architecture.

    Args:
        problem: The question.
        known: Of the problem's space, predicted by its predictor.
    """
    genomes = encoded(problem.space, [known.architecture])
    further = HeadStart(genomes, problem.predictor.top1(genomes))
    return replace(problem, head_start=HeadStart.together([problem.head_start, further]))


def gain(before: Archive, after: Archive) -> float:
    """The most top-1 that a later archive gains on an earlier one, over all limits on one metric."""
    most = 0.0
    for metric, values in after.values.items():
        order = np.argsort(before.values[metric], kind="stable")
        best = np.maximum.accumulate(before.top1[order])
        place = np.searchsorted(before.values[metric][order], values, side="right")
        known = place > 0
        if known.any():
            most = max(most, float((after.top1[known] - best[place[known] - 1]).max()))
    return most


# Members


def _priced(problem: Problem, genomes: Genomes, generation: int) -> Archive:
    top1 = problem.predictor.top1(genomes)
    order = np.lexsort((*genomes.T[::-1], -top1))
    genomes, top1 = np.ascontiguousarray(genomes[order]), top1[order]
    priced = prices_of(problem)
    values = {name: price.of(genomes) for name, price in priced.items()}
    return Archive(genomes, top1, values, generation)


def _with_gains(problem: Problem, archive: Archive) -> Archive:
    if not isinstance(problem.predictor, LinearisedPredictor):
        return archive
    parts = np.array_split(archive.genomes, -(-len(archive) // CHUNK))
    with one_thread():  # with more, the last bits of large products are others, and gains decide climbs
        gains = np.concatenate([problem.predictor.gains(part) for part in parts])
    return replace(archive, gains=gains)


def _taken(archive: Archive, rows: NDArray[np.intp]) -> Archive:
    values = {name: column[rows] for name, column in archive.values.items()}
    return Archive(archive.genomes[rows], archive.top1[rows], values, archive.generation)


def _objectives(archive: Archive) -> NDArray[np.float64]:
    """(N, M), smaller is better; ``flops`` says what ``macs`` says."""
    return np.stack([-archive.top1, *(v for name, v in archive.values.items() if name != "flops")], axis=1)


def _thinned(archive: Archive, kept: NDArray[np.intp]) -> NDArray[np.intp]:
    """So many of these members as there may be: those on a front with one metric, then the others evenly."""
    columns = _objectives(archive)[kept]
    first = np.zeros(len(kept), np.bool_)
    for metric in range(1, columns.shape[1]):
        first |= non_dominated(columns[:, [0, metric]])
    fronts, others = kept[first], kept[~first]
    fronts = evenly(fronts, MOST_MEMBERS)
    return np.sort(np.concatenate([fronts, evenly(others, MOST_MEMBERS - len(fronts))]))


def _limits(problem: Problem, counts: Mapping[str, int], generation: int) -> list[tuple[str, float]]:
    """Limits over the whole range of each metric, evenly in their logarithms, others each generation."""
    ranges = ranges_of(problem)
    shift = _radical_inverse(generation)
    return [
        (metric, low * (high / low) ** ((i - shift) / count))
        for metric, count in counts.items()
        if metric in ranges
        for low, high in [ranges[metric]]
        if low < high
        for i in range(1, count + 1)
    ]


def _population(effort: Effort, metric: str, generation: int) -> int:
    """Of the front of a metric; half of it at first, since the first generation is waited for."""
    share = FRONTS[metric] / (1 if generation else 2)
    return min(MOST_POPULATION, max(4, round(share * effort.population)))


def _radical_inverse(number: int) -> float:
    """Van der Corput's sequence in base 2: 0, 1/2, 1/4, 3/4, ...: each falls into the widest gap."""
    return int(f"{number:b}"[::-1], 2) / 2 ** len(f"{number:b}")


# A look-up


@dataclass(frozen=True, eq=False)
class _Answer:
    genome: Genomes
    top1: float
    predicted: int
    climbs: int


def _best(problem: Problem, archive: Archive) -> _Answer | None:
    limits = Limits(problem)
    inside = np.ones(len(archive), np.bool_)
    excess = np.zeros(len(archive))
    reachable = math.inf
    if not {constraint.name for constraint in limits.constraints} <= archive.values.keys():
        return None
    for constraint, limit in zip(limits.constraints, limits.limits, strict=True):
        column = archive.values[constraint.metric]
        alone = column <= limit
        if not alone.any():
            return None
        reachable = min(reachable, float(archive.top1[alone.argmax()]))
        inside &= alone
        excess = np.maximum(excess, column / limit)
    members = np.flatnonzero(inside)[:STARTS]
    if not len(members) or archive.top1[members[0]] < reachable - CONFLICT:
        return None
    beyond = np.flatnonzero(~inside & (archive.top1 > archive.top1[members[0]]))
    missed = beyond[np.argsort(excess[beyond], kind="stable")[:NEAR_MISSES]]
    return _climbed(problem, limits, archive, members, missed)


def _climbed(
    problem: Problem,
    limits: Limits,
    archive: Archive,
    members: NDArray[np.intp],
    missed: NDArray[np.intp],
) -> _Answer:
    best, top1 = archive.genomes[members[0]], float(archive.top1[members[0]])
    if not limits.prices:
        return _Answer(best, top1, 0, 0)
    predicted = 0
    starts = [
        _promising(limits, neighbourhood(problem, archive.genomes[row]), archive.gains_at(row))
        for row in np.concatenate([members, missed]).tolist()
    ]
    for climb in range(1, CLIMBS + 1):
        around = np.concatenate(starts)
        around = around[limits.meets(around)]
        if not len(around):
            return _Answer(best, top1, predicted, climb)
        values = problem.predictor.top1(around)
        predicted += len(around)
        row = int(values.argmax())
        if values[row] <= top1:
            return _Answer(best, top1, predicted, climb)
        best, top1 = around[row], float(values[row])
        if climb < CLIMBS:
            starts = [_promising(limits, neighbourhood(problem, best))]
    return _Answer(best, top1, predicted, CLIMBS)


def _promising(limits: Limits, around: Neighbourhood, gains: NDArray[np.float32] | None = None) -> Genomes:
    """The changes of one gene and of two that promise most, and seem to fit.

    Args:
        limits: What they are to fit into.
        around: The neighbourhood.
        gains: What each choice adds, (G, C), where it is known already.
    """
    gain = around.gain if gains is None else around.gain_by(gains)
    shares = around.shares(limits)
    fits = np.flatnonzero((shares[1:] <= 1).all(axis=1))
    single = around.changed[fits[np.argsort(-gain[fits], kind="stable")[:SINGLES]]]
    steps = around.genes, around.choices
    return np.concatenate([single, pairs(limits.space, around.genome, steps, gain, shares, PAIRS)])
