"""Raw samples as bytes."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

__all__ = ["pack", "unpack"]


def pack(samples_ms: Sequence[float]) -> bytes:
    """Milliseconds as little-endian float64, compressed."""
    return zlib.compress(np.asarray(samples_ms, "<f8").tobytes())


def unpack(samples: bytes | None) -> tuple[float, ...]:
    """What ``pack`` took."""
    return tuple(np.frombuffer(zlib.decompress(samples), "<f8").tolist()) if samples else ()
