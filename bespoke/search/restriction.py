"""Fixed dimensions and excluded choices: a smaller space, searched as exactly as a whole one.

A restricted space has fewer choices in some dimensions, and so other genomes. What the base space
knows (slots, latencies, predictions) is read through the places of the choices that are left, so
that ranges, verdicts and moves hold for what is allowed and for nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.predictors.accuracy import AccuracyPredictor, LinearisedPredictor
from bespoke.search.problem import HeadStart, LatencyPricer, Problem
from bespoke.supernet.agreement import COVERAGE
from bespoke.supernet.architecture import (
    Architecture,
    Dimension,
    Genomes,
    Plan,
    SearchSpace,
    Slot,
    canonical,
    cardinalities,
    encode,
)
from bespoke.supernet.cost import SlotTable
from bespoke.supernet.errors import ArchitectureInvalid


@dataclass(frozen=True)
class RestrictedSpace:
    """A space with fewer choices.

    Attributes:
        base: The whole space.
        places: Per dimension, the indices of the choices that are left, ascending.
    """

    base: SearchSpace
    places: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """The base's: its architectures are those of the base."""
        return self.base.name

    @property
    def classes(self) -> int:
        """How many classes the classifier tells apart."""
        return self.base.classes

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Those of the base, with the choices that are left."""
        return tuple(
            Dimension(d.name, tuple(d.choices[i] for i in places), d.count)
            for d, places in zip(self.base.dimensions, self.places, strict=True)
        )

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Those of the base, with the ops that are left."""
        return tuple(
            Slot(slot.name, slot.genes, tuple(slot.ops[i] for i in entries), slot.segment)
            for slot, entries in zip(self.base.slots, self._entries, strict=True)
        )

    def active(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Which genes matter, (N, G)."""
        return self.base.active(self._placed(genomes))

    def plan(self, architecture: Architecture) -> Plan:
        """Lower an architecture to what runs."""
        return self.base.plan(architecture)

    def to_json(self) -> dict[str, Any]:
        """The base's JSON, and the choices that are left by dimension."""
        return self.base.to_json() | {"allowed": {d.name: list(d.choices) for d in self.dimensions}}

    def widened(self, genomes: Genomes) -> Genomes:
        """The same architectures as canonical genomes of the base, (N, G)."""
        return canonical(self.base, self._placed(genomes))

    def narrowed(self, genomes: Genomes) -> tuple[Genomes, NDArray[np.intp]]:
        """Those of the base's canonical genomes that are allowed, as this space's genomes, and their rows."""
        places = self._own_places[np.arange(genomes.shape[1]), genomes]
        rows = np.flatnonzero(((places >= 0) | ~self.base.active(genomes)).all(axis=1))
        return canonical(self, np.maximum(places[rows], 0)), rows

    def entries_of(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of a number for each entry of the base's slots, those of the entries that are left."""
        starts = np.cumsum([0, *(len(slot.ops) for slot in self.base.slots)])[:-1]
        return np.concatenate(
            [values[start + entries] for start, entries in zip(starts, self._entries, strict=True)]
        )

    def choices_of(self, gains: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of a number for each choice of the base, (N, G, C), those of the choices that are left."""
        genes = np.arange(gains.shape[1])[:, None]
        taken: NDArray[np.float32] = gains[:, genes, self._table]
        return taken

    @cached_property
    def _table(self) -> NDArray[np.int16]:
        """The base's choice of each gene's choice, (G, C); filled up with the first one."""
        rows = [p for d, p in zip(self.base.dimensions, self.places, strict=True) for _ in range(d.count)]
        width = max(map(len, rows))
        return np.array([[*row, *[row[0]] * (width - len(row))] for row in rows], np.int16)

    @cached_property
    def _own_places(self) -> NDArray[np.int16]:
        """Where each choice of the base is among those that are left, (G, C); -1 where it is none of them."""
        wide = [d for d in self.base.dimensions for _ in range(d.count)]
        found = np.full((len(wide), max(len(d.choices) for d in wide)), -1, np.int16)
        own = cardinalities(self)
        for gene, left in enumerate(self._table):
            found[gene, left[: own[gene]]] = np.arange(own[gene])
        return found

    @cached_property
    def _entries(self) -> tuple[NDArray[np.intp], ...]:
        sizes, own = cardinalities(self.base), cardinalities(self)
        found = []
        for slot in self.base.slots:
            index = np.arange(len(slot.ops)).reshape([int(sizes[g]) for g in slot.genes])
            found.append(index[np.ix_(*(self._table[g, : own[g]] for g in slot.genes))].ravel())
        return tuple(found)

    def _placed(self, genomes: Genomes) -> Genomes:
        return self._table[np.arange(genomes.shape[1]), genomes]


@dataclass(frozen=True, eq=False)
class _Latency:
    """A latency pricer of the base, for a restricted space."""

    base: LatencyPricer
    space: RestrictedSpace

    @property
    def additive(self) -> bool:
        return self.base.additive

    @cached_property
    def slots(self) -> SlotTable:
        table = SlotTable(self.space, lambda op: 0.0)
        table.values = self.space.entries_of(self.base.slots.values)
        return table

    @property
    def overhead_ms(self) -> float:
        return self.base.overhead_ms

    def latency_ms(self, genomes: Genomes) -> NDArray[np.float64]:
        return self.base.latency_ms(self.space.widened(genomes))

    def interval_ms(
        self, latency_ms: NDArray[np.float64], confidence: float = COVERAGE
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.base.interval_ms(latency_ms, confidence)


@dataclass(frozen=True, eq=False)
class _Predictor:
    """A predictor of the base, for a restricted space."""

    base: AccuracyPredictor
    space: RestrictedSpace

    @property
    def revision(self) -> str:
        return self.base.revision

    @property
    def half_width(self) -> float:
        return self.base.half_width

    @property
    def selection_bias(self) -> float:
        return self.base.selection_bias

    def top1(self, genomes: Genomes) -> NDArray[np.float64]:
        return self.base.top1(self.space.widened(genomes))


@dataclass(frozen=True, eq=False)
class _Linearised(_Predictor):
    """A predictor of the base that tells gains, for a restricted space."""

    base: LinearisedPredictor

    def gains(self, genomes: Genomes) -> NDArray[np.float32]:
        return self.space.choices_of(self.base.gains(self.space.widened(genomes)))


def restrict(problem: Problem, allowed: Mapping[str, Sequence[float]]) -> Problem:
    """The same question over fewer choices.

    Args:
        problem: Over a whole space.
        allowed: The choices that are left of some dimensions, e.g. ``{"resolution": (192,),
            "kernel": (3, 5)}``.

    Returns:
        A problem whose answers are architectures of the whole space.

    Raises:
        ArchitectureInvalid: There is no such dimension or choice, or none is left.
    """
    if not allowed:
        return problem
    known = {d.name: d for d in problem.space.dimensions}
    for name, values in allowed.items():
        if name not in known:
            raise ArchitectureInvalid(name, list(values), f"one of the dimensions {sorted(known)}")
        choices = known[name].choices
        wrong = [v for v in values if isinstance(v, bool) or v not in choices]
        if wrong or not len(values):
            raise ArchitectureInvalid(name, wrong[0] if wrong else [], f"one or more of {list(choices)}")
    places = tuple(
        tuple(i for i, choice in enumerate(d.choices) if choice in allowed.get(d.name, d.choices))
        for d in problem.space.dimensions
    )
    space = RestrictedSpace(problem.space, places)
    own = problem.predictor
    return replace(
        problem,
        space=space,
        predictor=_Linearised(own, space) if isinstance(own, LinearisedPredictor) else _Predictor(own, space),
        latency=_Latency(problem.latency, space) if problem.latency else None,
        devices={name: _Latency(pricer, space) for name, pricer in problem.devices.items()},
        head_start=_narrowed(space, problem.head_start),
    )


def _narrowed(space: RestrictedSpace, known: HeadStart | None) -> HeadStart | None:
    if known is None:
        return None
    genomes, rows = space.narrowed(known.genomes)
    return HeadStart(genomes, known.top1[rows])


def of_base(space: SearchSpace, genomes: Genomes) -> tuple[SearchSpace, Genomes]:
    """The whole space, and the same architectures as its genomes: restricted or not."""
    if isinstance(space, RestrictedSpace):
        return of_base(space.base, space.widened(genomes))
    return space, genomes


def from_base(space: SearchSpace, genomes: Genomes) -> tuple[Genomes, NDArray[np.intp]]:
    """Those of the whole space's canonical genomes that a space allows, as its own, and their rows."""
    if not isinstance(space, RestrictedSpace):
        return genomes, np.arange(len(genomes))
    wider, rows = from_base(space.base, genomes)
    own, left = space.narrowed(wider)
    return own, rows[left]


def encoded(space: SearchSpace, architectures: Sequence[Architecture]) -> Genomes:
    """Those of the whole space's architectures that a space allows, as its genomes, (N, G)."""
    whole = space
    while isinstance(whole, RestrictedSpace):
        whole = whole.base
    return from_base(space, encode(whole, architectures))[0]
