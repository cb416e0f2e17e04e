"""Architectures, search spaces and plans: an architecture is data.

A *genome* is an architecture as small integers: one index into the choices of its dimension per
gene, all dimensions behind each other in their order. Arrays of genomes have shape (N, G) and an
integer dtype. Each *slot* of a space holds at most one op, which a handful of genes decide; that
is what makes pricing a table look-up (see ``cost.py``) and keeps the price and the plan one truth.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.errors import ArchitectureInvalid
from bespoke.supernet.ops import Op

Genomes = NDArray[np.int16]


@dataclass(frozen=True)
class Dimension:
    """One kind of choice.

    Attributes:
        name: Its field in an architecture's JSON, e.g. ``kernel``.
        choices: The allowed numbers, ascending. Typed loosely, since ratios are floats and all else
            (kernels, depths, pixels) are ints.
        count: How many genes choose among them; ``resolution`` has one and is a bare number.
    """

    name: str
    choices: tuple[Any, ...]
    count: int

    @property
    def scalar(self) -> bool:
        """Whether the JSON value is a bare number and not a list."""
        return self.name == "resolution"


@dataclass(frozen=True)
class Architecture:
    """Frozen choices in canonical form: two equal networks are equal, and have one digest.

    Make one with ``space.architecture(json)`` or ``space.decode(genome)``, which validate and
    canonicalise: a choice of a block that is skipped is set to its dimension's first value.

    Attributes:
        space: Name of the search space.
        choices: (dimension, values) in the space's order.
    """

    space: str
    choices: tuple[tuple[str, tuple[float, ...]], ...]

    def __getitem__(self, dimension: str) -> tuple[float, ...]:
        return dict(self.choices)[dimension]

    @property
    def resolution(self) -> int:
        """Side of the square input, in pixels."""
        return int(self["resolution"][0])

    def to_json(self) -> dict[str, Any]:
        """``{"kernel": [...], "expand": [...], "depth": [...], "resolution": r}``."""
        return {name: values[0] if name == "resolution" else list(values) for name, values in self.choices}

    @cached_property
    def digest(self) -> str:
        """sha256 of the space's name and the canonical choices, in hex."""
        text = json.dumps([self.space, self.to_json()], separators=(",", ":"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def id(self) -> str:
        """The digest's first 16 characters: enough to tell architectures apart in lists."""
        return self.digest[:16]


@dataclass(frozen=True)
class Segment:
    """Ops that always run together, in topological order.

    Attributes:
        name: Unique within the plan.
        ops: Each op's inputs are indices of earlier ops, or ``~k`` for ``inputs[k]``.
        inputs: Where the segment's inputs come from: (segment index, output number), or (-1, 0)
            for the image.
        outputs: Indices of the ops whose results leave the segment; -1 is the last op.
    """

    name: str
    ops: tuple[Op, ...]
    inputs: tuple[tuple[int, int], ...] = ((-1, 0),)
    outputs: tuple[int, ...] = (-1,)


@dataclass(frozen=True)
class Route:
    """One way through a plan: indices of the segments that run, in order."""

    name: str
    segments: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What runs: one segment for a static network, several with routes for a routed one.

    Attributes:
        in_shape: (height, width, channels) of the image.
        segments: In topological order.
        routes: At least one; static networks have exactly one.
    """

    in_shape: tuple[int, int, int]
    segments: tuple[Segment, ...]
    routes: tuple[Route, ...]

    @staticmethod
    def chain(in_shape: tuple[int, int, int], ops: Sequence[Op]) -> Plan:
        """A static plan whose ops follow one another."""
        placed = tuple(op.placed(i - 1 if i else ~0) for i, op in enumerate(ops))
        return Plan(in_shape, (Segment("network", placed),), (Route("static", (0,)),))

    def origin(self, segment: int, number: int) -> tuple[int, int]:
        """Which op makes a segment's input: (segment, op), or (-1, 0) for the image."""
        source, output = self.segments[segment].inputs[number]
        if source < 0:
            return (-1, 0)
        made_by = self.segments[source].outputs[output]
        return source, made_by % len(self.segments[source].ops)

    @property
    def ops(self) -> tuple[Op, ...]:
        """The ops of all segments, segment after segment."""
        return tuple(op for segment in self.segments for op in segment.ops)


@dataclass(frozen=True)
class Slot:
    """A place in the network that holds at most one op, decided by a few genes.

    Attributes:
        name: Name of the weights, e.g. ``blocks.3``.
        genes: Indices into the genome, ascending.
        ops: One entry per combination of these genes' choices, in C order; None where the slot is
            skipped.
        segment: Index of the plan's segment that the op belongs to.
    """

    name: str
    genes: tuple[int, ...]
    ops: tuple[Op | None, ...]
    segment: int = 0


class SearchSpace(Protocol):
    """Dimensions, and the lowering of an architecture to a plan.

    A space is immutable and cheap to compare. ``slots`` is the whole description: the plan, every
    price and every op to profile are read from it.
    """

    @property
    def name(self) -> str:
        """Unique name, e.g. ``ofa-mobilenetv3-w1.0``."""
        ...

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """In genome order; the last one is ``resolution``."""
        ...

    @property
    def slots(self) -> tuple[Slot, ...]:
        """In topological order."""
        ...

    @property
    def classes(self) -> int:
        """How many classes the classifier tells apart."""
        ...

    def active(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Which genes matter: False for the choices of skipped blocks. Shape (N, G)."""
        ...

    def plan(self, architecture: Architecture) -> Plan:
        """Lower an architecture to what runs."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What ``spaces.space_from_json`` reads back."""
        ...


def gene_offsets(space: SearchSpace) -> dict[str, int]:
    """Index of each dimension's first gene."""
    counts = [dimension.count for dimension in space.dimensions]
    starts = itertools.accumulate([0, *counts[:-1]])
    return {d.name: start for d, start in zip(space.dimensions, starts, strict=True)}


def cardinalities(space: SearchSpace) -> NDArray[np.int16]:
    """Number of choices of each gene, shape (G,)."""
    return np.concatenate([np.full(d.count, len(d.choices), np.int16) for d in space.dimensions])


def canonical(space: SearchSpace, genomes: Genomes) -> Genomes:
    """Set the genes of skipped blocks to 0, so that equal networks have equal genomes."""
    return np.where(space.active(genomes), genomes, 0).astype(np.int16)


def decode(space: SearchSpace, genome: NDArray[np.integer[Any]]) -> Architecture:
    """Turn one genome of shape (G,) into an architecture.

    Raises:
        ArchitectureInvalid: An index is outside its dimension's choices.
    """
    limits = cardinalities(space)
    if genome.shape != limits.shape:
        raise ArchitectureInvalid("genome", list(genome.shape), f"shape ({len(limits)},)")
    return decode_all(space, genome[None])[0]


def decode_all(space: SearchSpace, genomes: NDArray[np.integer[Any]]) -> tuple[Architecture, ...]:
    """Turn genomes of shape (N, G) into architectures, in their order.

    Raises:
        ArchitectureInvalid: An index is outside its dimension's choices.
    """
    limits = cardinalities(space)
    for row, gene in np.argwhere((genomes < 0) | (genomes >= limits)):
        raise ArchitectureInvalid(f"genome[{gene}]", int(genomes[row, gene]), f"0 to {limits[gene] - 1}")
    rows = canonical(space, genomes.astype(np.int16)).tolist()
    starts = itertools.accumulate([0, *(d.count for d in space.dimensions)])
    parts = [
        (d.name, d.choices, start, start + d.count)
        for d, start in zip(space.dimensions, starts, strict=False)
    ]
    return tuple(
        Architecture(
            space.name,
            tuple((name, tuple([choices[i] for i in row[start:end]])) for name, choices, start, end in parts),
        )
        for row in rows
    )


def encode(space: SearchSpace, architectures: Sequence[Architecture]) -> Genomes:
    """Turn architectures of this space into genomes of shape (N, G).

    Raises:
        ArchitectureInvalid: One is of another space, or has a value that this space lacks.
    """
    genomes = np.zeros((len(architectures), int(sum(d.count for d in space.dimensions))), np.int16)
    for row, architecture in zip(genomes, architectures, strict=True):
        if architecture.space != space.name:
            raise ArchitectureInvalid("space", architecture.space, space.name)
        start = 0
        for d in space.dimensions:
            values = architecture[d.name]
            row[start : start + d.count] = [_index(d, i, value) for i, value in enumerate(values)]
            start += d.count
    return genomes


def read_architecture(space: SearchSpace, data: Mapping[str, Any]) -> Architecture:
    """Validate an architecture's JSON against a space and bring it to canonical form.

    Args:
        space: The space whose dimensions the fields must name.
        data: e.g. ``{"kernel": [20 numbers], ..., "resolution": 160}``.

    Raises:
        ArchitectureInvalid: Names the field, what came and what is allowed.
    """
    if not isinstance(data, Mapping):
        raise ArchitectureInvalid("architecture", data, f"an object with {_fields(space)}")
    unknown = sorted(set(data) - {d.name for d in space.dimensions})
    if unknown:
        raise ArchitectureInvalid(unknown[0], data[unknown[0]], f"only the fields {_fields(space)}")
    genome: list[int] = []
    for d in space.dimensions:
        if d.name not in data:
            raise ArchitectureInvalid(d.name, None, f"a value; the fields are {_fields(space)}")
        values = [data[d.name]] if d.scalar else data[d.name]
        if not isinstance(values, list | tuple) or len(values) != d.count:
            raise ArchitectureInvalid(d.name, data[d.name], f"a list of {d.count} numbers")
        genome += [_index(d, i, value) for i, value in enumerate(values)]
    return decode(space, np.array(genome, np.int16))


def own_fields(space: SearchSpace, data: Any) -> Any:
    """The architecture's fields of a line of a log, which may tell more beside them."""
    names = {d.name for d in space.dimensions}
    return {name: data[name] for name in data if name in names} if isinstance(data, Mapping) else data


def _index(dimension: Dimension, position: int, value: Any) -> int:
    if isinstance(value, bool) or value not in dimension.choices:
        field = dimension.name if dimension.scalar else f"{dimension.name}[{position}]"
        raise ArchitectureInvalid(field, value, f"one of {list(dimension.choices)}")
    return dimension.choices.index(value)


def _fields(space: SearchSpace) -> str:
    return ", ".join(d.name for d in space.dimensions)


def static_ops(space: SearchSpace, architecture: Architecture) -> Iterator[Op]:
    """The ops of the slots that this architecture fills, in order."""
    genome = encode(space, [architecture])[0]
    sizes = cardinalities(space)
    for slot in space.slots:
        index = np.ravel_multi_index(
            [int(genome[g]) for g in slot.genes], [int(sizes[g]) for g in slot.genes]
        )
        op = slot.ops[int(index)]
        if op is not None:
            yield op
