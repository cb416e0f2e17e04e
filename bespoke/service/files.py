"""Stored files over HTTP: strong ETags, conditional requests and byte ranges (RFC 9110, RFC 9530)."""

from __future__ import annotations

import base64
import re
from typing import Any

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from bespoke.service.artifacts import ArtifactStore
from bespoke.service.orm import ArtifactRow
from bespoke.service.problems import responses

__all__ = ["FILE_RESPONSES", "file_response"]

# Thousands of digits are no number to Python.
_RANGE = re.compile(r"bytes=([0-9]{0,100})-([0-9]{0,100})")
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}

FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"application/onnx": _BINARY}},
    206: {"description": "The part that Range asked for.", "content": {"application/onnx": _BINARY}},
    304: {"description": "If-None-Match names this very file."},
    **responses(416),
}


def file_response(
    request: Request, artifacts: ArtifactStore, artifact: ArtifactRow, filename: str | None = None
) -> Response:
    """Answer with a file, a part of it, or the news that the caller has it already.

    Args:
        request: Its ``If-None-Match``, ``Range`` and ``If-Range`` are honoured; of several ranges
            none is, which the standard allows.
        artifacts: Where the bytes are.
        artifact: What to send.
        filename: What a browser should call it.
    """
    etag = f'"{artifact.sha256}"'
    digest = base64.b64encode(bytes.fromhex(artifact.sha256)).decode()
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable" if filename is None else "private, no-cache",
        "Repr-Digest": f"sha-256=:{digest}:",
    }
    if filename is not None:
        headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    if _has(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    span = _span(request, etag, artifact.size)
    start, stop = span or (0, artifact.size)
    headers["Content-Length"] = str(stop - start)
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{artifact.size}"
    return StreamingResponse(
        artifacts.read(artifact.sha256, start, stop),
        status_code=206 if span else 200,
        headers=headers,
        media_type=artifact.media_type,
    )


def _has(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags


def _span(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """The part that is asked for, as (start, stop); None for the whole."""
    match = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if match is None or request.headers.get("if-range", etag) != etag:
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        raise HTTPException(
            416, f"the file has {size} bytes: ask for a part of them", {"Content-Range": f"bytes */{size}"}
        )
    return start, stop
