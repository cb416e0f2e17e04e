"""Subnets and their models."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx

from bespoke.client.sending import Json, Sender, check_digest, part
from bespoke.supernet.whole_files import write_file

__all__ = ["Subnets"]


class Subnets(Sender):
    """Subnets and their models."""

    def subnet(self, subnet_id: str) -> Json:
        """One subnet: architecture, predicted figures, links."""
        return self._json("GET", f"/v1/subnets/{part(subnet_id)}")

    def model(self, subnet_id: str, *, dynamic_batch: bool = False) -> bytes:
        """A subnet's ONNX file in memory, checked against the digest in its ETag."""
        answer = self._send("GET", f"/v1/subnets/{part(subnet_id)}/model.onnx", query=_batch(dynamic_batch))
        check_digest(hashlib.sha256(answer.content).hexdigest(), _etag(answer), f"model of {subnet_id}")
        return answer.content

    def download_model(self, subnet_id: str, path: Path, *, dynamic_batch: bool = False) -> str:
        """Write a subnet's ONNX file; nothing is left at ``path`` unless it arrived whole.

        Args:
            subnet_id: The subnet.
            path: The file to write; an existing one is replaced.
            dynamic_batch: Ask for an open batch dimension.

        Returns:
            The file's sha256, in hex.

        Raises:
            Unavailable: The bytes do not match the digest in the ETag.
        """
        content = self.model(subnet_id, dynamic_batch=dynamic_batch)
        write_file(path, content)
        return hashlib.sha256(content).hexdigest()

    def manifest(self, subnet_id: str) -> Json:
        """What a subnet's model was made of: digests, revisions, predicted figures."""
        return self._json("GET", f"/v1/subnets/{part(subnet_id)}/manifest")


def _batch(dynamic: bool) -> dict[str, str] | None:
    return {"dynamic_batch": "true"} if dynamic else None


def _etag(answer: httpx.Response) -> str:
    return answer.headers.get("ETag", "").removeprefix("W/").strip('"')
