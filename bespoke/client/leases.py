"""Leases: an agent's calls."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from bespoke.client.devices import device_path
from bespoke.client.sending import Json, Sender, check_digest, part, read_json
from bespoke.supernet.whole_files import digest_of, replacing

__all__ = ["Leases"]


class Leases(Sender):
    """Work for an agent, and what it measures."""

    def lease(self, device_id: str, agent: str, entries: int) -> Json | None:
        """Ask for work.

        Args:
            device_id: The device that this agent measures on.
            agent: The agent's name.
            entries: How many entries at most.

        Returns:
            The lease, or None where there is nothing to do now.
        """
        body = {"agent": agent, "entries": entries}
        answer = self._send("POST", f"{device_path(device_id)}/lease", body=body)
        return None if answer.status_code == httpx.codes.NO_CONTENT else read_json(answer)

    def heartbeat(self, lease_id: str) -> Json:
        """Keep a lease. Raises ``ApiError`` with slug ``lease-lost`` where it went to someone else."""
        return self._json("POST", f"/v1/leases/{part(lease_id)}/heartbeat", idempotent=True)

    def report(self, lease_id: str, results: Sequence[Mapping[str, Any]]) -> Json:
        """Hand in results; the same ones again count as duplicates and do no harm.

        Args:
            lease_id: The lease under which they were measured, be it lost by now.
            results: ``{entry_id, round, samples_ms, cold_ms, error}`` each.
        """
        body = {"results": [dict(result) for result in results]}
        return self._json("POST", f"/v1/leases/{part(lease_id)}/report", body=body, idempotent=True)

    def artifact(self, sha256: str) -> bytes:
        """A stored file by its digest, checked against it."""
        answer = self._send("GET", f"/v1/artifacts/{part(sha256)}")
        check_digest(hashlib.sha256(answer.content).hexdigest(), sha256, f"artifact {sha256}")
        return answer.content

    def download_artifact(self, sha256: str, path: Path) -> None:
        """Write a stored file, piece by piece: it is never whole in memory.

        Args:
            sha256: Its digest, in hex.
            path: The file to write; nothing is left there unless it arrived whole.
        """
        address = f"/v1/artifacts/{part(sha256)}"
        with replacing(path) as temporary:
            self._tried("GET", address, lambda: self._stream_into(temporary, address))
            check_digest(digest_of(temporary), sha256, f"artifact {sha256}")
