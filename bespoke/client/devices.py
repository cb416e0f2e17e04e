"""Devices and their latency tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bespoke.client.sending import Json, Sender, part

__all__ = ["Devices", "device_path"]


class Devices(Sender):
    """Devices, and the latency tables that serve them."""

    def create_device(self, name: str, profile: Mapping[str, Any]) -> Json:
        """Enrol a device; the same name and profile again give the device that is there.

        Args:
            name: A label for people.
            profile: ``DeviceProfile.to_json()``.
        """
        body = {"name": name, "profile": dict(profile)}
        return self._json("POST", "/v1/devices", body=body, idempotent=True)

    def devices(self) -> list[Json]:
        """All devices, oldest first."""
        return list(self._json("GET", "/v1/devices")["items"])

    def device(self, device_id: str) -> Json:
        """One device."""
        return self._json("GET", device_path(device_id))

    def latency_table(self, device_id: str, supernet: str) -> Json:
        """The table that serves a device for a supernet, with its ``revision`` and whether it is ``stale``.

        ``LatencyTable.from_json`` reads it.
        """
        return self._json("GET", f"{device_path(device_id)}/latency-table", query={"supernet": supernet})

    def latency_tables(self, device_id: str, supernet: str | None = None) -> list[Json]:
        """All revisions of a device's tables, newest first: source, quality card, whether stale."""
        query = None if supernet is None else {"supernet": supernet}
        return list(self._json("GET", f"{device_path(device_id)}/latency-tables", query=query)["items"])

    def latency_table_revision(self, device_id: str, revision: str) -> Json:
        """One revision; ``LatencyTable.from_json`` reads it."""
        return self._json("GET", f"{device_path(device_id)}/latency-tables/{part(revision)}")

    def export_latency_table(self, device_id: str, revision: str, form: str) -> bytes:
        """One revision as a file.

        Args:
            device_id: The device.
            revision: Its digest.
            form: ``json``, ``csv``, or ``ofa``: a zip file of published Once-for-All YAML.
        """
        path = f"{device_path(device_id)}/latency-tables/{part(revision)}"
        return self._send("GET", path, query={"format": form}).content

    def quality_plot(self, device_id: str, revision: str) -> bytes:
        """A PNG of predicted against measured latencies of the networks that a table was judged by."""
        path = f"{device_path(device_id)}/latency-tables/{part(revision)}/quality.png"
        return self._send("GET", path).content

    def import_latency_table(self, device_id: str, supernet: str, table: Mapping[str, Any]) -> Json:
        """Keep a table that was made elsewhere for this very device profile; the same one again is it.

        Args:
            device_id: The device.
            supernet: The supernet whose ops it holds.
            table: ``LatencyTable.to_json()``.
        """
        path, query = f"{device_path(device_id)}/latency-tables", {"supernet": supernet}
        return self._json("POST", path, body=dict(table), query=query, idempotent=True)

    def few_shot_choice(self, device_id: str, supernet: str, count: int = 10) -> list[Json]:
        """Which networks to measure whole on a new device, as architectures."""
        query = {"supernet": supernet, "count": str(count)}
        return list(self._json("GET", f"{device_path(device_id)}/few-shot", query=query)["architectures"])

    def few_shot(self, device_id: str, supernet: str, samples: Sequence[Mapping[str, Any]]) -> Json:
        """Make a provisional table that serves at once, of a few measured networks.

        Args:
            device_id: The new device.
            supernet: The supernet.
            samples: Architectures, each with its ``latency_ms`` beside its other fields.
        """
        body = {"supernet": supernet, "samples": [dict(sample) for sample in samples]}
        return self._json("POST", f"{device_path(device_id)}/few-shot", body=body, idempotent=True)


def device_path(device_id: str) -> str:
    """Where a device is."""
    return f"/v1/devices/{part(device_id)}"
