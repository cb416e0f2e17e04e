"""DeviceProfile: what a latency table is valid for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from bespoke.latency_tables.plausibility import is_number
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.ops import PRECISIONS


@dataclass(frozen=True)
class DeviceProfile:
    """A device, and how networks run on it: the key of a latency table.

    Fronts do not transfer from one thread count, batch or precision to another, not even on the
    same chip, so each is part of the profile.

    Attributes:
        device: A label for people; not part of the digest.
        runtime: e.g. ``onnxruntime``.
        runtime_version: e.g. ``1.23.0``.
        provider: What executes the nodes, e.g. ``CPUExecutionProvider``.
        threads: Threads inside one op; 0 where nobody knows.
        precision: e.g. ``fp32``.
        batch: Images at once.
        fingerprint: Facts of the hardware and the system, by name.
    """

    device: str
    runtime: str
    runtime_version: str
    provider: str
    threads: int
    precision: str
    batch: int
    fingerprint: Mapping[str, str | int | float]

    @property
    def digest(self) -> str:
        """sha256, in hex, of the canonical JSON of everything but the label."""
        facts = {name: value for name, value in self.to_json().items() if name != "device"}
        return canonical_digest(facts)

    @property
    def model_precision(self) -> str:
        """What models for it are written in: its precision, or ``fp32`` where that cannot be written."""
        return self.precision if self.precision in PRECISIONS else PRECISIONS[0]

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads back."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {
            "fingerprint": dict(sorted(self.fingerprint.items()))
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> DeviceProfile:
        """Read a profile, whoever wrote it.

        Raises:
            InvalidInput: Names the field, what came and what was expected.
        """
        if not isinstance(data, Mapping):
            raise InvalidInput(f"device profile: got {data!r}, expected an object")
        _expect_names(data, {field.name for field in fields(DeviceProfile)})
        texts = ("device", "runtime", "runtime_version", "provider", "precision")
        for name in texts:
            _expect(_is_text(data[name]) and data[name], name, data[name], "a text")
        for name, least in (("threads", 0), ("batch", 1)):
            value = data[name]
            _expect(type(value) is int and value >= least, name, value, f"an integer of at least {least}")
        facts = data["fingerprint"]
        _expect(isinstance(facts, Mapping), "fingerprint", facts, "an object")
        for fact, value in facts.items():
            _expect(_is_text(fact), "fingerprint", fact, "names that are texts")
            _expect(_is_text(value) or is_number(value), f"fingerprint.{fact}", value, "a text or a number")
        return DeviceProfile(
            **{name: data[name] for name in data if name != "fingerprint"}, fingerprint=dict(facts)
        )


def canonical_digest(data: Any) -> str:
    """sha256, in hex, of an object's JSON with sorted keys and no spaces."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_text(value: Any) -> bool:
    """Whether a value is a text that can be sent and printed: JSON may hold halves of characters."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _expect_names(data: Mapping[str, Any], names: set[str]) -> None:
    missing, unknown = sorted(names - set(data)), sorted(set(data) - names)
    if missing or unknown:
        raise InvalidInput(f"device profile: missing fields {missing}, unknown fields {unknown}")


def _expect(holds: object, field: str, got: Any, expected: str) -> None:
    if not holds:
        raise InvalidInput(f"device profile field {field!r}: got {got!r}, expected {expected}")
