"""Timing: how long and how often an agent measures one entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from bespoke.supernet.errors import InvalidInput

LOW_QUANTILE = 0.02
"""What a run costs when nothing disturbs it: near the minimum, yet not a single sample's say.

Under load, whole subnets were predicted within 5% by minima, 7% by 10th percentiles and 12% by
medians; on a quiet device the three agree.
"""
LONGEST_MS = 60_000.0
LONGEST_COLD_MS = 3_600_000.0
"""Of loading a network and running it first: some runtimes compile it for minutes."""
MOST_RUNS = 10_000


@dataclass(frozen=True)
class Timing:
    """The stop rules of one measurement.

    Attributes:
        warm_up_ms: Run at least this long before anything is kept, and on until two windows of
            runs agree (at most ten times as long).
        min_ms: Keep samples for at least this long, and
        min_runs: for at least this many runs.
        network_ms: The same as ``min_ms`` for whole networks, if that is longer: what other work does
            to a network comes and goes more slowly than the network runs.
        max_samples: Where more samples than this would come, a sample is the mean of several runs.
        min_sample_ms: A sample lasts at least this long, so that the clock does not matter; ops
            shorter than this are timed several runs at once.
    """

    warm_up_ms: float = 5.0
    min_ms: float = 25.0
    min_runs: int = 20
    max_samples: int = 100
    min_sample_ms: float = 0.05
    network_ms: float = 0.0

    def __post_init__(self) -> None:
        for name in ("warm_up_ms", "min_ms", "min_sample_ms", "network_ms"):
            self._expect(name, 0, LONGEST_MS)
        for name in ("min_runs", "max_samples"):
            self._expect(name, 1, MOST_RUNS)

    def _expect(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise InvalidInput(f"timing field {name!r}: got {value!r}, expected {least:g} to {most:g}")

    def of(self, kind: str) -> Timing:
        """The stop rules of an entry by its kind: those of a ``subnet`` keep samples longer."""
        return replace(self, min_ms=max(self.min_ms, self.network_ms)) if kind == "subnet" else self

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads back."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Timing:
        """Read stop rules; missing ones take their default, unknown ones are newer than this code.

        Raises:
            InvalidInput: A value is out of range.
        """
        return Timing(**{f.name: data[f.name] for f in fields(Timing) if f.name in data})
