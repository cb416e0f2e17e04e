"""Sentinels: networks measured again and again, to see whether the device itself has changed.

The rule. A sentinel is measured before and after every window of entries. It is expected to take the
median of what it took at the last ``REMEMBERED`` ends of windows; it has *drifted* where it is off by
more than ``DRIFT`` or three standard deviations (estimated by the median absolute deviation) of those
ends, whichever is more. A window with a drifted sentinel at either end is measured again; after
``MOST_REPEATS`` times its results count as degraded, and the new level as the expected one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bespoke.latency_tables.building import SIGMA_PER_MAD

DRIFT = 0.05
REMEMBERED = 8
LEAST_FOR_NOISE = 3
"""Fewer ends than this say nothing about noise."""
SIGMAS = 3.0
MOST_REPEATS = 2
"""Of one window."""
FIRST_REPEATS, WINDOWS_PER_REPEAT = 2, 4
"""Of all windows together: two, and a further one for every four windows that were measured."""


@dataclass(frozen=True)
class SentinelHistory:
    """What one sentinel took at the ends of the last windows.

    Attributes:
        seen_ms: Oldest first.
    """

    seen_ms: tuple[float, ...] = ()

    @property
    def expected_ms(self) -> float:
        """The median."""
        return float(np.median(self.seen_ms))

    @property
    def tolerance(self) -> float:
        """How far off, relative to the expected, is no drift."""
        if len(self.seen_ms) < LEAST_FOR_NOISE:
            return DRIFT
        deviation = np.median(np.abs(np.array(self.seen_ms) - self.expected_ms))
        return max(DRIFT, SIGMAS * SIGMA_PER_MAD * float(deviation) / self.expected_ms)

    def drift(self, *now_ms: float) -> float:
        """How far off the worst of these is, relative to the expected; 0 where that is no drift.

        The first one is the expectation where nothing was seen before.
        """
        known = self if self.seen_ms else SentinelHistory(now_ms[:1])
        worst = max((value / known.expected_ms - 1 for value in now_ms), key=abs)
        return worst if abs(worst) > known.tolerance else 0.0

    def after(self, ms: float) -> SentinelHistory:
        """The history with one end more."""
        return replace(self, seen_ms=(*self.seen_ms, ms)[-REMEMBERED:])


def may_repeat(of_window: int, of_all: int, windows: int) -> bool:
    """Whether a window may be measured once more.

    Args:
        of_window: How often it was repeated.
        of_all: How often windows were repeated so far.
        windows: How many windows were measured so far.
    """
    return of_window < MOST_REPEATS and of_all < FIRST_REPEATS + windows // WINDOWS_PER_REPEAT
