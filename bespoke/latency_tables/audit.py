"""The additivity audit: may whole networks be priced by the sum of their ops?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from bespoke.latency_tables.plausibility import is_number, short
from bespoke.supernet.errors import InvalidInput

REPEATS = 3.0
"""Sums may err by so many times the device's own repeat error,"""
TOLERANCE = 0.10
"""or by this share, whichever is larger."""
CLEARLY = 0.75
"""A model of whole networks takes over where its error is below this share of the sums' error."""


@dataclass(frozen=True)
class AdditivityAudit:
    """Op sums against whole networks, each predicted without itself (leave-one-out).

    The rule: sums fail where their error is above ``limit``; a model of whole networks then takes
    over if its error is below ``CLEARLY`` times that of the sums. Where it is not, sums go on
    pricing, and the table's interval says how far they are off.

    Attributes:
        subnets: How many whole networks were compared.
        ratio: Median of a network's latency over the plain sum of its ops.
        sums_error: Mean absolute relative error of the corrected sums.
        limit: What that may be: ``max(REPEATS * repeat error, TOLERANCE)``.
        networks_error: The same error of a model of whole networks; None where sums hold, or
            there are too few networks to fit one.
    """

    subnets: int
    ratio: float
    sums_error: float
    limit: float
    networks_error: float | None = None

    @property
    def sums_hold(self) -> bool:
        """Whether the corrected sums are within the limit."""
        return self.sums_error <= self.limit

    @property
    def additive(self) -> bool:
        """Whether sums price: they hold, or nothing is clearly better."""
        better = self.networks_error is not None and self.networks_error < CLEARLY * self.sums_error
        return self.sums_hold or not better

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        sums = f"op sums err by {self.sums_error:.1%} on {self.subnets} whole networks"
        limit = f"limit {self.limit:.1%}"
        if self.sums_hold:
            return f"{sums} ({limit}): sums price"
        if self.networks_error is None:
            return f"{sums} ({limit}); too few networks for another model: sums price, with a wide interval"
        other = f"a model of whole networks by {self.networks_error:.1%}"
        if self.additive:
            return f"{sums} ({limit}), {other}, not clearly less: sums price, with a wide interval"
        return f"{sums} ({limit}), {other}: the model of whole networks prices"

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads back."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> AdditivityAudit:
        """Read an audit.

        Raises:
            InvalidInput: Names the field, what came and what was expected.
        """
        names = {field.name for field in fields(AdditivityAudit)}
        if not isinstance(data, Mapping) or set(data) != names:
            got = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise InvalidInput(f"additivity audit: got {got}, expected the fields {sorted(names)}")
        for name, value in data.items():
            if name == "networks_error" and value is None:
                continue
            if not is_number(value, 0.0) or (name == "subnets" and not isinstance(value, int)):
                raise InvalidInput(
                    f"additivity audit, {name}: got {short(value)}, expected a number of at least 0"
                )
        return AdditivityAudit(**data)
