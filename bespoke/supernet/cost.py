"""What an architecture costs without a device: MACs, parameters, peak memory, model size.

Each is read from the plan, op by op. ``SlotTable`` prices whole populations of one space with
array look-ups: per slot, the genes that decide it index a small table.

Bytes depend on the precision that a model is written in (see ``quantization``). In fp32 all values
take four. In INT8 an activation and a weight take one; biases stay S32, and every output channel of a
weight and of a bias has a scale and a zero point, which are stored as well. The image comes, and the
logits go, in float.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import Genomes, Plan, SearchSpace, cardinalities
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.ops import BLOCKS, IMAGE_CHANNELS, PRECISIONS, Op

BYTES_PER_VALUE = 4
"""Of a float, and of an S32: what biases and scales are in either precision."""


@dataclass(frozen=True)
class Cost:
    """The price of one plan.

    Attributes:
        macs: Multiply-accumulates of convolutions and linear layers, on the dearest route.
        params: Trainable values as they stand before BN folding, over all segments.
        peak_memory_bytes: Largest sum of activations alive at once, on the worst route.
        model_size_bytes: Bytes of the weights as exported, BN folded, over all segments.
    """

    macs: int
    params: int
    peak_memory_bytes: int
    model_size_bytes: int


def cost(plan: Plan, precision: str = "fp32") -> Cost:
    """Price a plan.

    Args:
        plan: A static or routed plan.
        precision: What its model is written in: one of ``PRECISIONS``.

    Raises:
        InvalidInput: There is no such precision.
    """
    routes = [[plan.segments[i] for i in route.segments] for route in plan.routes]
    return Cost(
        macs=max(sum(op_macs(op) for segment in route for op in segment.ops) for route in routes),
        params=sum(op_params(op) for op in plan.ops),
        peak_memory_bytes=max(_peak_bytes(plan, r.segments, precision) for r in plan.routes),
        model_size_bytes=sum(op_bytes(op, precision) for op in plan.ops),
    )


def op_macs(op: Op) -> int:
    """Multiply-accumulates of one op; BN, activations, pooling and additions count nothing."""
    (h_in, w_in, c_in), (h, w, c_out) = op.in_shape, op.out_shape
    if op.kind == "conv":
        return h * w * c_in * c_out * op.kernel**2
    if op.kind == "linear":
        return c_in * c_out
    if op.kind == "mbconv":
        mid = op.mid_channels
        expansion = h_in * w_in * c_in * mid if op.expands else 0
        return expansion + h * w * mid * (op.kernel**2 + c_out) + 2 * mid * op.se_channels
    if op.kind == "bottleneck":
        mid, shortcut = op.mid_channels, c_in * c_out if op.downsamples else 0
        return h_in * w_in * c_in * mid + h * w * (mid * mid * op.kernel**2 + mid * c_out + shortcut)
    return 0


def op_params(op: Op) -> int:
    """Trainable values of one op: weights, biases, and the scale and shift of each BN."""
    return _kernel_weights(op) + _other_biases(op) + 2 * _norm_channels(op)


def op_weights(op: Op) -> int:
    """Values of one op as exported: each BN has become a bias."""
    return _kernel_weights(op) + _other_biases(op) + _norm_channels(op)


def op_bytes(op: Op, precision: str = "fp32") -> int:
    """Bytes of one op's weights as exported.

    Args:
        op: The op.
        precision: One of ``PRECISIONS``. In INT8 a weight is S8 and has a float scale and an S8 zero
            point for each output channel; a bias is S32, as its zero points are.

    Raises:
        InvalidInput: There is no such precision.
    """
    if _is_float(precision):
        return BYTES_PER_VALUE * op_weights(op)
    biases = _other_biases(op) + _norm_channels(op)
    channels = op.out_channels if op.kind == "conv" else biases
    return _kernel_weights(op) + (BYTES_PER_VALUE + 1) * channels + 3 * BYTES_PER_VALUE * biases


def _is_float(precision: str) -> bool:
    if precision not in PRECISIONS:
        raise InvalidInput(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")
    return precision == "fp32"


def _kernel_weights(op: Op) -> int:
    c_in = op.in_shape[2]
    if op.kind == "conv":
        return c_in * op.out_channels * op.kernel**2
    if op.kind == "linear":
        return c_in * op.out_channels
    if op.kind == "mbconv":
        mid = op.mid_channels
        expansion = c_in * mid if op.expands else 0
        return expansion + mid * (op.kernel**2 + op.out_channels) + 2 * mid * op.se_channels
    if op.kind == "bottleneck":
        mid, c_out = op.mid_channels, op.out_channels
        return c_in * mid + mid * mid * op.kernel**2 + mid * c_out + (c_in * c_out if op.downsamples else 0)
    return 0


def _other_biases(op: Op) -> int:
    if op.kind == "linear":
        return op.out_channels
    return op.mid_channels + op.se_channels if op.se else 0


def _norm_channels(op: Op) -> int:
    if op.kind == "conv":
        return op.out_channels if op.norm else 0
    if op.kind == "mbconv":
        return op.mid_channels * (2 if op.expands else 1) + op.out_channels
    if op.kind == "bottleneck":
        return 2 * op.mid_channels + op.out_channels * (2 if op.downsamples else 1)
    return 0


def op_peak_values(op: Op) -> int:
    """Activations alive at once while an op runs, its input and output included.

    An inverted-bottleneck block runs as its parts: expansion, depthwise convolution, projection;
    the input stays alive for the skip. A residual bottleneck's input stays alive for its shortcut,
    which runs last. Activations, scaling and additions work in place.
    """
    (h_in, w_in, c_in), (h, w, c_out) = op.in_shape, op.out_shape
    before, after = h_in * w_in * c_in, h * w * c_out
    if op.kind not in BLOCKS:
        return before + after
    wide_in, wide_out = h_in * w_in * op.mid_channels, h * w * op.mid_channels
    if op.kind == "bottleneck":
        pooled = h * w * c_in if op.stride > 1 else 0
        shortcut = max(before + pooled, (pooled or before) + after) if op.downsamples else 0
        return max(before + wide_in, before + wide_in + wide_out, before + wide_out + after, after + shortcut)
    kept = before if op.skip else 0
    if not op.expands:
        return max(before + wide_out, kept + wide_out + after)
    return max(before + wide_in, kept + wide_in + wide_out, kept + wide_out + after)


def op_peak_bytes(op: Op, precision: str = "fp32") -> int:
    """Bytes of the activations alive at once while an op runs, its input and output included.

    Args:
        op: The op.
        precision: One of ``PRECISIONS``. In INT8 an activation takes one byte; but an image comes in
            float, and stands beside its 8-bit copy while it is quantised, and logits go in float.

    Raises:
        InvalidInput: There is no such precision.
    """
    values = op_peak_values(op)
    if _is_float(precision):
        return BYTES_PER_VALUE * values
    if op.in_shape[2] == IMAGE_CHANNELS:
        return max(values, (BYTES_PER_VALUE + 1) * math.prod(op.in_shape))
    return values - math.prod(op.out_shape) + _out_bytes(op, precision) if op.kind == "linear" else values


def _out_bytes(op: Op, precision: str) -> int:
    """Bytes of an op's result while later ops run."""
    in_float = _is_float(precision) or op.kind == "linear"
    return (BYTES_PER_VALUE if in_float else 1) * math.prod(op.out_shape)


def _peak_bytes(plan: Plan, route: tuple[int, ...], precision: str) -> int:
    """Largest sum of activations alive at once along a route, by liveness over its ops."""
    steps = [(s, i) for s in route for i in range(len(plan.segments[s].ops))]
    sources = [_sources(plan, s, i) for s, i in steps]
    last_use = {source: step for step, inputs in enumerate(sources) for source in inputs}
    image = math.prod(plan.in_shape)
    size = {(-1, 0): BYTES_PER_VALUE * image if _is_float(precision) else image}
    alive, peak = {(-1, 0)}, 0
    for step, ((s, i), inputs) in enumerate(zip(steps, sources, strict=True)):
        op = plan.segments[s].ops[i]
        others = sum(size[value] for value in alive if value not in inputs)
        further = sum(size[value] for value in inputs[1:])
        peak = max(peak, others + further + op_peak_bytes(op, precision))
        size[s, i] = _out_bytes(op, precision)
        alive.add((s, i))
        alive = {value for value in alive if last_use.get(value, -1) > step}
    return peak


def _sources(plan: Plan, segment: int, op: int) -> list[tuple[int, int]]:
    """The values that an op reads, as (segment, op), or (-1, 0) for the image."""
    return [
        (segment, i) if i >= 0 else plan.origin(segment, ~i) for i in plan.segments[segment].ops[op].inputs
    ]


class SlotTable:
    """One number per slot and local choice, so that populations are priced by look-ups.

    Attributes:
        values: (T,) numbers of all slots behind each other; skipped slots hold 0.
    """

    def __init__(self, space: SearchSpace, price: Callable[[Op], float]) -> None:
        """Price every op of a space once.

        Args:
            space: The space.
            price: From an op to its number.
        """
        sizes = cardinalities(space).astype(np.int64)
        known: dict[str, float] = {}
        values: list[float] = []
        self._weights = np.zeros((len(sizes), len(space.slots)), np.int64)
        self._starts = np.zeros(len(space.slots), np.int64)
        for s, slot in enumerate(space.slots):
            stride = 1
            for gene in reversed(slot.genes):
                self._weights[gene, s] = stride
                stride *= int(sizes[gene])
            self._starts[s] = len(values)
            for op in slot.ops:
                if op is None:
                    values.append(0.0)
                    continue
                if op.key not in known:
                    known[op.key] = price(op)
                values.append(known[op.key])
        self.values: NDArray[np.float64] = np.array(values)

    def rows(self, genomes: Genomes) -> NDArray[np.float64]:
        """The number of each slot, shape (N, S)."""
        index = genomes.astype(np.float64) @ self._weights.astype(np.float64)
        return self.values[index.astype(np.int64) + self._starts]

    def total(self, genomes: Genomes) -> NDArray[np.float64]:
        """Sum over the slots, shape (N,)."""
        return self.rows(genomes).sum(axis=1)

    def largest(self, genomes: Genomes) -> NDArray[np.float64]:
        """Maximum over the slots, shape (N,)."""
        return self.rows(genomes).max(axis=1)


class CostTable:
    """The costs of a static space, vectorised: those of ``cost(space.plan(a), precision)``."""

    def __init__(self, space: SearchSpace, precision: str = "fp32") -> None:
        self._macs = SlotTable(space, op_macs)
        self._params = SlotTable(space, op_params)
        self._weights = SlotTable(space, partial(op_bytes, precision=precision))
        self._peak = SlotTable(space, partial(op_peak_bytes, precision=precision))

    def macs(self, genomes: Genomes) -> NDArray[np.float64]:
        """Multiply-accumulates, shape (N,)."""
        return self._macs.total(genomes)

    def params(self, genomes: Genomes) -> NDArray[np.float64]:
        """Trainable values, shape (N,)."""
        return self._params.total(genomes)

    def peak_memory_bytes(self, genomes: Genomes) -> NDArray[np.float64]:
        """Peak activation memory in bytes, shape (N,); in a chain nothing else is alive."""
        return self._peak.largest(genomes)

    def model_size_bytes(self, genomes: Genomes) -> NDArray[np.float64]:
        """Bytes of the exported weights, shape (N,)."""
        return self._weights.total(genomes)


def price_all(space: SearchSpace, genomes: Genomes) -> dict[str, NDArray[Any]]:
    """All four costs of many genomes: ``macs``, ``params``, ``peak_memory_bytes``, ``model_size_bytes``."""
    table = CostTable(space)
    return {
        "macs": table.macs(genomes),
        "params": table.params(genomes),
        "peak_memory_bytes": table.peak_memory_bytes(genomes),
        "model_size_bytes": table.model_size_bytes(genomes),
    }
