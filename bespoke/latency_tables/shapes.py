"""Shapes: what can be said of an op's price before anybody measured that op.

An op's price is taken for a non-negative combination of a few physical quantities (a *prior*), and
ops that are alike in some way for wrong by a like factor (*likenesses*): the blocks of one stage,
all kernels of one size, all maps of one side. Both are plain arrays over the ops of a space, and so
serve whoever fits prices, whether from whole networks or from another device's table.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bespoke.latency_tables.quality import Floats
from bespoke.supernet.architecture import Genomes, SearchSpace
from bespoke.supernet.cost import SlotTable, op_macs, op_weights
from bespoke.supernet.ops import Op, OpKey

OCTAVE_SHARE = 0.4
"""Log2 of a side over its group's mean is divided by this: 25 resolutions then span about -1 to 1."""

QUANTITIES = (
    "calls",
    "dense_macs",
    "pointwise_macs",
    "depthwise3_macs",
    "depthwise5_macs",
    "depthwise7_macs",
    "linear_macs",
    "activations",
    "wide_activations",
    "squeezed_activations",
    "squeezes",
    "hswish_values",
    "weights",
    "strided_activations",
)
"""What ``quantities`` counts of an op, in this order."""


def quantities(op: Op) -> Floats:
    """What an op computes, moves and calls, shape (Q,); a device's prices are near a sum of these."""
    (h_in, w_in, c_in), (h, w, c_out) = op.in_shape, op.out_shape
    before, after = h_in * w_in, h * w
    found = dict.fromkeys(QUANTITIES, 0.0) | {"calls": 1.0, "weights": float(op_weights(op))}
    found["activations"] = before * c_in + after * c_out
    widest = after * c_out
    if op.kind == "conv":
        found["pointwise_macs" if op.kernel == 1 else "dense_macs"] = after * c_in * c_out * op.kernel**2
    elif op.kind == "linear":
        found["linear_macs"] = c_in * c_out
    elif op.kind == "bottleneck":
        found["calls"] = 4.0 if op.downsamples else 3.0
        found["dense_macs"] = after * op.mid_channels**2 * op.kernel**2
        found["pointwise_macs"] = op_macs(op) - found["dense_macs"]
        found["activations"] += 2 * (before + after) * op.mid_channels
        widest = (before + after) * op.mid_channels
    elif op.kind == "mbconv":
        mid = op.mid_channels
        widest = (before + after) * mid
        expansion = before * mid if op.expands else 0
        found["calls"] = 3.0 if op.expands else 2.0
        found["pointwise_macs"] = expansion * c_in + after * mid * c_out
        found[_depthwise(op.kernel)] = after * mid * op.kernel**2
        found["activations"] += expansion + after * mid + (after * c_out if op.skip else 0)
        found["wide_activations"] = widest
        if op.se:
            found["squeezes"], found["squeezed_activations"] = 1.0, after * mid
    if op.activation == "hswish":
        found["hswish_values"] = widest
    if op.stride > 1:
        found["strided_activations"] = before * (op.mid_channels or c_out)
    return np.array([found[name] for name in QUANTITIES], np.float64)


def _depthwise(kernel: int) -> str:
    return f"depthwise{3 if kernel <= 3 else 5 if kernel <= 5 else 7}_macs"


class OpArrays:
    """Distinct ops, as arrays.

    Attributes:
        ops: U of them.
        keys: Their keys, in their order.
    """

    def __init__(self, ops: Sequence[Op]) -> None:
        self.ops = tuple(ops)
        self.keys = tuple(op.key for op in self.ops)

    @cached_property
    def quantities(self) -> Floats:
        """``quantities`` of each op, shape (U, Q)."""
        return np.stack([quantities(op) for op in self.ops])

    @cached_property
    def likenesses(self) -> Mapping[str, Floats]:
        """In what ways ops are alike: by name, an array (U, K), a column per trait.

        A *group* is what stands in one place whatever is chosen there: kernel, expansion and
        resolution aside. ``_side`` columns grow with the log of the map's side within the group.
        """
        ops = self.ops
        groups = [_group(op) for op in ops]
        kernels = [(op.kind, op.kernel) for op in ops]
        widths = [(op.kind, round(op.mid_channels / op.in_shape[2])) for op in ops]
        by_kernel = _one_hot([(group, op.kernel) for group, op in zip(groups, ops, strict=True)])
        by_width = _one_hot([(group, op.mid_channels) for group, op in zip(groups, ops, strict=True)])
        group = _one_hot(groups)
        x = self._side_in_group(group)
        return {
            "group": group,
            "group_side": np.concatenate([group * x, group * (x**2 - 1) / 2], axis=1),
            "kernel": _one_hot(kernels),
            "kernel_side": _one_hot(kernels) * x,
            "width": _one_hot(widths),
            "group_kernel": by_kernel,
            "group_width": by_width,
            "choice_side": np.concatenate([by_kernel * x, by_width * x], axis=1),
            "choice": _one_hot([(g, op.kernel, op.mid_channels) for g, op in zip(groups, ops, strict=True)]),
            "map": _one_hot([(op.in_shape[0], op.out_shape[0]) for op in ops]),
            "op": np.eye(len(ops)),
        }

    def _side_in_group(self, group: NDArray[np.float64]) -> Floats:
        """Log of each op's side over its group's mean, in ``OCTAVE_SHARE``, shape (U, 1)."""
        logs = np.log2([op.in_shape[0] for op in self.ops])
        means = group.T @ logs / group.sum(axis=0)
        return np.asarray(((logs - group @ means) / OCTAVE_SHARE)[:, None])


class SpaceOps(OpArrays):
    """The distinct ops of a space, in its order.

    Attributes:
        space: The space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        found: dict[OpKey, Op] = {}
        for slot in space.slots:
            for op in slot.ops:
                if op is not None:
                    found.setdefault(op.key, op)
        super().__init__(tuple(found.values()))
        # From 1, since a SlotTable holds 0 for skipped slots.
        numbers = {key: number for number, key in enumerate(found, 1)}
        self._numbers = SlotTable(space, lambda op: float(numbers[op.key]))

    def counts(self, genomes: Genomes) -> Floats:
        """How often each op stands in each network, shape (N, U), of genomes of shape (N, G)."""
        numbers = self._numbers.rows(genomes).astype(np.int64)
        found = np.zeros((len(genomes), len(self.ops) + 1))
        np.add.at(found, (np.arange(len(genomes))[:, None], numbers), 1.0)
        return found[:, 1:]


def _group(op: Op) -> Hashable:
    kernel = 0 if op.kind == "mbconv" else op.kernel
    return (
        *(op.kind, op.in_shape[2], op.out_channels, kernel, op.stride),
        *(op.se, op.activation, op.skip, op.norm, op.expands),
    )


def _one_hot(labels: Sequence[Hashable]) -> Floats:
    """A column per distinct label, in the order of their first appearance, shape (U, K)."""
    columns = {label: column for column, label in enumerate(dict.fromkeys(labels))}
    found = np.zeros((len(labels), len(columns)))
    found[np.arange(len(labels)), [columns[label] for label in labels]] = 1.0
    return found
