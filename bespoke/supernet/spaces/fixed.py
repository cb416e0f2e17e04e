"""A network without choices: a specialised network as it was published, or any chain of ops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import Architecture, Dimension, Genomes, Plan, Slot
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.ops import Op, parse_key


@dataclass(frozen=True)
class FixedNetwork:
    """A space of one network, whose only dimension is a resolution of one choice.

    Attributes:
        name: What the network is called.
        chain: Its ops, named, each taking what the one before gives; the last one is linear.

    Raises:
        InvalidInput: Ops that do not follow from one another.
    """

    name: str
    chain: tuple[Op, ...]

    def __post_init__(self) -> None:
        # Where the ops were placed before is no part of the network.
        object.__setattr__(self, "chain", tuple(op.placed(~0) for op in self.chain))
        if not self.chain or self.chain[-1].kind != "linear" or self.chain[0].in_shape[2] != 3:
            raise InvalidInput(f"network {self.name!r}: expected ops from an image to a linear layer")
        for before, after in pairwise(self.chain):
            flat = after.kind == "linear" and math.prod(before.out_shape) == math.prod(after.in_shape)
            if before.out_shape != after.in_shape and not flat:
                raise InvalidInput(
                    f"network {self.name!r}: {before.name} gives {before.out_shape}, "
                    f"but {after.name} takes {after.in_shape}"
                )
        if len({op.name for op in self.chain}) < len(self.chain):
            raise InvalidInput(f"network {self.name!r}: expected a name of its own for each op")

    @property
    def classes(self) -> int:
        """How many classes the classifier tells apart."""
        return self.chain[-1].out_channels

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The resolution, of which there is one."""
        return (Dimension("resolution", (self.chain[0].in_shape[0],), 1),)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """One for each op."""
        return tuple(Slot(op.name, (0,), (op,)) for op in self.chain)

    def active(self, genomes: Genomes) -> NDArray[np.bool_]:
        """The resolution matters, if there is anything to choose."""
        return np.ones(genomes.shape, np.bool_)

    def plan(self, architecture: Architecture) -> Plan:
        """The network."""
        return Plan.chain(self.chain[0].in_shape, self.chain)

    def to_json(self) -> dict[str, Any]:
        """Everything that makes this network this network."""
        ops = [{"name": op.name, "key": op.key, "norm_eps": op.norm_eps} for op in self.chain]
        return {
            "family": "fixed",
            "name": self.name,
            "resolutions": [self.chain[0].in_shape[0]],
            "ops": ops,
        }

    @staticmethod
    def from_fields(name: str, resolutions: Sequence[int], ops: Sequence[Mapping[str, Any]]) -> FixedNetwork:
        """Read the fields that ``to_json`` wrote.

        Raises:
            InvalidInput: A field is missing or wrong.
        """
        try:
            chain = [
                replace(parse_key(op["key"]), name=str(op["name"]), norm_eps=float(op["norm_eps"]))
                for op in ops
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"network {name!r}: expected ops of name, key and norm_eps: {error}"
            ) from error
        network = FixedNetwork(str(name), tuple(chain))
        if list(resolutions) != [network.chain[0].in_shape[0]]:
            raise InvalidInput(
                f"network {name!r} takes images of {network.chain[0].in_shape[0]} pixels, "
                f"got the resolutions {list(resolutions)}"
            )
        return network
