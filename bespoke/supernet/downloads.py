"""Downloading a file: with progress, taken up where it stopped, and checked against its digest.

What has come so far stands in ``NAME.partial``; beside it, ``NAME.partial.json`` says of which
address and version it is. A server that has another version now, or cannot resume, sends the whole
file again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from bespoke.supernet.errors import FileInvalid, InvalidInput, Unavailable
from bespoke.supernet.whole_files import digest_of

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0
Progress = Callable[[int, int | None], None]
"""Gets the bytes that are there, and the bytes that there will be, where the server tells."""


def is_url(text: str) -> bool:
    """Whether a text is an address that can be downloaded."""
    return text.startswith(("http://", "https://"))


def check_digest(path: Path, sha256: str | None) -> None:
    """Compare a file with the digest that it should have; None compares nothing.

    Raises:
        InvalidInput: The digest is no sha256 in hex.
        FileInvalid: The file has another digest, or cannot be read.
    """
    if sha256 is None:
        return
    _check_is_digest(sha256)
    found = digest_of(path)
    if found != sha256.lower():
        raise FileInvalid(path, f"has the sha256 {found}, expected {sha256.lower()}: nothing of it is used")


def _check_is_digest(sha256: str) -> None:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise InvalidInput(f"sha256: got {sha256!r}, expected 64 hexadecimal digits")


def download(url: str, target: Path, *, sha256: str | None = None, progress: Progress | None = None) -> Path:
    """Download a file, or go on with a download that was cut off.

    Args:
        url: An http or https address; redirects are followed.
        target: Where the file goes. It appears whole, or not at all.
        sha256: Digest of the whole file in hex; None checks nothing.
        progress: Is told how far it is.

    Returns:
        The target.

    Raises:
        InvalidInput: The address or the digest is none.
        FileInvalid: What came has another digest; it is deleted.
        Unavailable: The server did not answer, answered with an error, or stopped, or the disk is full;
            what came is kept, and the next call goes on from there.
    """
    if not is_url(url):
        raise InvalidInput(f"address: got {url!r}, expected one that begins with http:// or https://")
    if sha256 is not None:
        _check_is_digest(sha256)
    partial = target.with_name(f"{target.name}.partial")
    note = target.with_name(f"{target.name}.partial.json")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, partial, note, resumable=sha256 is not None, progress=progress or (lambda *_: None))
    except OSError as error:
        raise Unavailable(
            f"{partial}: cannot be written: {error}; run the same command again when it can, and it goes on "
            "with what is there"
        ) from error
    try:
        check_digest(partial, sha256)
    except FileInvalid as error:
        partial.unlink()
        note.unlink(missing_ok=True)
        raise FileInvalid(url, error.reason) from error
    partial.replace(target)
    note.unlink(missing_ok=True)
    return target


def _fetch(url: str, partial: Path, note: Path, *, resumable: bool, progress: Progress) -> None:
    """Bring the partial file to its full length."""
    there, version = _so_far(url, partial, note, resumable)
    headers = {"Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
        if version:
            headers["If-Range"] = version
    try:
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT_S) as answer:
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and there:
                whole = answer.headers.get("Content-Range", "").rpartition("/")[2] == str(there)
                if whole:
                    return
                there = -1
            elif answer.status_code == httpx.codes.PARTIAL_CONTENT and _version(answer) not in ("", version):
                there = -1  # the rest of another version: the server did not heed If-Range
            else:
                _write(answer, partial, note, url, there, progress)
    except (httpx.InvalidURL, UnicodeError) as error:  # the latter where a host's name is none
        raise InvalidInput(f"address: got {url!r}, which is none: {error}") from error
    except httpx.HTTPError as error:
        kept = partial.stat().st_size if partial.is_file() else 0
        raise Unavailable(
            f"{url}: the download stopped after {kept} bytes ({type(error).__name__}: {error}): run the same "
            "command again, and it goes on from there"
        ) from error
    if there < 0:
        partial.unlink()
        _fetch(url, partial, note, resumable=resumable, progress=progress)


def _so_far(url: str, partial: Path, note: Path, resumable: bool) -> tuple[int, str]:
    """How many bytes of this address are there, and of which version; 0 where they are not to be trusted."""
    try:
        told: Any = json.loads(note.read_text())
        version = str(told["version"])
        if told["url"] == url and (version or resumable):
            return partial.stat().st_size, version
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, ""


def _write(
    answer: httpx.Response, partial: Path, note: Path, url: str, there: int, progress: Progress
) -> None:
    if answer.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        raise Unavailable(f"{url}: got status {answer.status_code} {answer.reason_phrase}, expected 200")
    if answer.status_code == httpx.codes.PARTIAL_CONTENT:
        if not answer.headers.get("Content-Range", "").startswith(f"bytes {there}-"):
            raise Unavailable(f"{url}: asked for the bytes from {there}, got {answer.headers!r}")
    else:
        there = 0
    version = _version(answer)
    length = answer.headers.get("Content-Length")
    total = there + int(length) if length and length.isdigit() else None
    with partial.open("ab" if there else "wb") as file:
        # Not before the bytes of another version are gone: the note would take them for this one's.
        note.write_text(json.dumps({"url": url, "version": version}))
        progress(there, total)
        for chunk in answer.iter_raw(CHUNK_BYTES):
            file.write(chunk)
            there += len(chunk)
            progress(there, total)
    if total is not None and there != total:
        raise Unavailable(
            f"{url}: got {there} of {total} bytes: run the same command again, and it goes on from there"
        )


def _version(answer: httpx.Response) -> str:
    """What names the version of a file; empty where the server names none that bytes can be held to."""
    etag: str = answer.headers.get("ETag", "")
    last: str = answer.headers.get("Last-Modified", "")
    return last if etag.startswith("W/") or not etag else etag
