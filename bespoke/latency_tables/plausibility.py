"""What no latency can be: absurd values, and values in another unit than their neighbours'."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bespoke.latency_tables.timing import LONGEST_MS
from bespoke.supernet.cost import op_macs, op_weights
from bespoke.supernet.ops import Op, OpKey, parse_key

SHORTEST_MS = 1e-6
"""A nanosecond: no runtime starts an op in less."""
UNIT_FACTOR = 300.0
"""Two numbers that should be alike and differ by more are in different units.

Seconds, milliseconds and microseconds are 1,000 apart; a shape's neighbours and a network's op
sum are within a factor of a few.
"""
WINDOW = 9
"""An op is compared with the median of so many ops of about as much work."""


HUGE = 1e15
MOST_KEY = 200
"""Characters of an op key; real ones have fewer than 60."""


def is_number(value: Any, least: float = -HUGE, most: float = HUGE) -> bool:
    """Whether a value that came from outside is a number between two others, and so finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def latency_problem(value: Any, longest_ms: float = LONGEST_MS) -> str | None:
    """What is wrong with a latency in ms; None where nothing is."""
    if is_number(value, SHORTEST_MS, longest_ms):
        return None
    return f"got {short(value)}, expected ms from {SHORTEST_MS:g} to {longest_ms:g}"


def short(value: Any) -> str:
    """A value as messages show it."""
    text = repr(value) if not isinstance(value, int) or abs(value) < HUGE else "a huge number"
    return text if len(text) <= 100 else f"{text[:100]}..."


def odd_units(ops_ms: Mapping[OpKey, float]) -> dict[OpKey, float]:
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
