"""A phase: one stretch of training as data, and the subnets that its steps train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import Architecture, SearchSpace, Slot, cardinalities, decode
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import at_resolution, largest, smallest
from bespoke.supernet.ops import Op


@dataclass(frozen=True)
class Phase:
    """One stretch of training with its own schedule.

    Attributes:
        name: Shown in the log and in the model card.
        epochs: Passes over the training images.
        learning_rate: Peak, for batches of about 64; warmed up over the first 5% of the steps (20
            at least), cosine to zero after.
        resolutions: Sides of the input in pixels; one is drawn per batch. They need not be the
            space's own.
        random_subnets: How many random subnets run in a step.
        subnets: What runs in a step. ``largest``: the largest subnet alone, on the labels.
            ``sandwich``: the largest on the labels; the smallest and random ones on these and on
            its soft answers. ``random``: random ones, on the labels and on the soft answers of a frozen
            copy of the largest, as it was when the first such phase began.
        smallest_area: Smallest share of an image that a training crop covers.
        open_choices: (dimension, how many of its largest choices may be drawn); a dimension that
            is not named is open as a whole.
        sort_channels: Whether the phase begins with bringing the most important channels of each
            block to the front, inside the widths that the phase before could draw.
    """

    name: str
    epochs: float
    learning_rate: float
    resolutions: tuple[int, ...]
    random_subnets: int = 1
    subnets: Literal["largest", "sandwich", "random"] = "sandwich"
    smallest_area: float = 0.25
    open_choices: tuple[tuple[str, int], ...] = ()
    sort_channels: bool = False

    @property
    def taught(self) -> bool:
        """Whether a frozen copy of the largest subnet teaches."""
        return self.subnets == "random"


def scaled(phases: Sequence[Phase], scale: float, rate: float = 1.0) -> list[Phase]:
    """The same phases, each ``scale`` times as long, at ``rate`` times the learning rate.

    Raises:
        InvalidInput: A factor that is not positive.
    """
    if not (scale > 0 and rate > 0):
        raise InvalidInput(f"got scale {scale}, rate {rate}; expected two positive factors")
    return [replace(p, epochs=p.epochs * scale, learning_rate=p.learning_rate * rate) for p in phases]


def with_epochs(phases: Sequence[Phase], epochs: Sequence[float]) -> list[Phase]:
    """The same phases with other lengths.

    Raises:
        InvalidInput: Not one length a phase, or a negative one.
    """
    if len(epochs) != len(phases) or min(epochs) < 0:
        names = ", ".join(phase.name for phase in phases)
        raise InvalidInput(
            f"epochs: got {list(epochs)}, expected {len(phases)} numbers from 0 on, for the phases {names}"
        )
    return [replace(phase, epochs=length) for phase, length in zip(phases, epochs, strict=True)]


def step_architectures(
    space: SearchSpace, phase: Phase, resolution: int, rng: np.random.Generator
) -> list[Architecture]:
    """The subnets of one step; where the largest is among them, it comes first."""
    known = space.dimensions[-1].choices
    nominal = resolution if resolution in known else known[0]
    found = [] if phase.subnets == "random" else [largest(space, nominal)]
    if phase.subnets == "sandwich":
        found.append(smallest(space, nominal))
    if phase.subnets != "largest":
        lowest, sizes = _lowest_open(space, phase), cardinalities(space)
        drawn = [decode(space, rng.integers(lowest, sizes)) for _ in range(phase.random_subnets)]
        found += [at_resolution(space, architecture, nominal) for architecture in drawn]
    return found


def open_ops(space: SearchSpace, slot: Slot, phase: Phase) -> list[Op]:
    """The ops that a phase's subnets may have in a slot."""
    lowest, sizes = _lowest_open(space, phase), cardinalities(space)
    if phase.subnets == "largest":
        lowest = sizes - 1
    places = np.arange(len(slot.ops)).reshape([int(sizes[gene]) for gene in slot.genes])
    open_places = places[np.ix_(*(range(int(lowest[gene]), int(sizes[gene])) for gene in slot.genes))]
    return [op for place in open_places.flat if (op := slot.ops[place]) is not None]


def _lowest_open(space: SearchSpace, phase: Phase) -> NDArray[np.int16]:
    """Index of the smallest choice that may be drawn, of each gene. Shape (G,)."""
    limits = dict(phase.open_choices)
    lowest = [
        np.full(d.count, max(0, len(d.choices) - limits.get(d.name, len(d.choices))), np.int16)
        for d in space.dimensions
    ]
    return np.concatenate(lowest)
