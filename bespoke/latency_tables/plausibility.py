"""What no latency can be: absurd values, and values in another unit than their neighbours'."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bespoke.latency_tables.timing import LONGEST_MS
from bespoke.supernet.cost import op_macs, op_weights
from bespoke.supernet.ops import Op, parse_key

SHORTEST_MS = 1e-6
"""A nanosecond: no runtime starts an op in less."""
UNIT_FACTOR = 300.0
"""Two numbers that should be alike and differ by more are in different units.

Seconds, milliseconds and microseconds are 1,000 apart; a shape's neighbours and a network's op
sum are within a factor of a few.
"""
WINDOW = 9
"""An op is compared with the median of so many ops of about as much work."""


def latency_problem(value: Any) -> str | None:
    """What is wrong with a latency in ms; None where nothing is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"got {value!r}, expected a number of ms"
    if not SHORTEST_MS <= value <= LONGEST_MS:
        return f"got {value!r}, expected ms from {SHORTEST_MS:g} to {LONGEST_MS:g}"
    return None


def odd_units(ops_ms: Mapping[str, float]) -> dict[str, float]:
    """Ops whose latency is not in the unit of the ops of about as much work.

    Args:
        ops_ms: Latencies in ms, each positive, by op key.

    Returns:
        What was expected about, in ms, by the key of each such op; ops of fewer than ``WINDOW``
        keys are not compared.
    """
    if len(ops_ms) < WINDOW:
        return {}
    keys = sorted(ops_ms, key=lambda key: (_work(parse_key(key)), key))
    logs = np.log([ops_ms[key] for key in keys])
    padded = np.pad(logs, WINDOW // 2, mode="reflect")
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, WINDOW), axis=1)
    odd = np.flatnonzero(np.abs(logs - around) > math.log(UNIT_FACTOR))
    return {keys[i]: float(np.exp(around[i])) for i in odd}


def _work(op: Op) -> int:
    """Multiply-accumulates and values moved: the order in which ops are compared."""
    return op_macs(op) + op_weights(op) + math.prod(op.in_shape) + math.prod(op.out_shape)
