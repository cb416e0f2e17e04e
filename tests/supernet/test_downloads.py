"""Downloads against a server on this machine that can stop, forget, or change its mind."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bespoke.supernet.downloads import download
from bespoke.supernet.errors import FileInvalid, InvalidInput, Unavailable

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    etag: str = '"one"'
    ranges: bool = True
    heeds_if_range: bool = True
    stop_after: int | None = None
    status: int = 200
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append(asked)
            start = 0
            same = self.headers.get("If-Range", state.etag) == state.etag
            if asked and state.ranges and (same or not state.heeds_if_range):
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            whole = len(state.content)
            if start >= whole:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{whole}")
                self.end_headers()
                return
            self.send_response(206 if start else state.status)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            if state.etag:
                self.send_header("ETag", state.etag)
            self.send_header("Content-Length", str(whole - start))
            self.end_headers()
            stop = whole if state.stop_after is None else start + state.stop_after
            self.wfile.write(state.content[start:stop])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/files/net"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_whole_and_tells_its_progress(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    target = tmp_path / "deep" / "net"
    found = download(
        server.url, target, sha256=DIGEST.upper(), progress=lambda done, total: told.append((done, total))
    )
    assert found.read_bytes() == CONTENT
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert leftovers(target.parent) == ["net"]


def test_a_download_that_stopped_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.stop_after = 600_000
    with pytest.raises(Unavailable, match="goes on from there"):
        download(server.url, tmp_path / "net")
    assert leftovers(tmp_path) == ["net.partial", "net.partial.json"]
    kept = (tmp_path / "net.partial").stat().st_size
    assert 0 < kept <= 600_000
    server.stop_after = None
    assert download(server.url, tmp_path / "net").read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={kept}-"]
    assert leftovers(tmp_path) == ["net"]


@pytest.mark.parametrize("what", ["another version", "another version unasked", "no ranges"])
def test_what_cannot_be_continued_comes_again_from_its_start(
    server: Server, tmp_path: Path, what: str
) -> None:
    server.stop_after = 600_000
    with pytest.raises(Unavailable):
        download(server.url, tmp_path / "net")
    server.stop_after = None
    if what.startswith("another version"):
        server.etag, server.content = '"two"', CONTENT[::-1]
        server.heeds_if_range = "unasked" not in what
    else:
        server.ranges = False
    assert download(server.url, tmp_path / "net").read_bytes() == server.content


def test_without_a_version_only_a_digest_lets_it_go_on(server: Server, tmp_path: Path) -> None:
    server.etag, server.stop_after = "", 600_000
    for folder, sha256 in (("plain", None), ("checked", DIGEST)):
        server.stop_after = 600_000
        with pytest.raises(Unavailable):
            download(server.url, tmp_path / folder / "net", sha256=sha256)
        server.stop_after = None
        server.asked.clear()
        assert download(server.url, tmp_path / folder / "net", sha256=sha256).read_bytes() == CONTENT
        assert (server.asked != [None]) == (sha256 is not None)


def test_all_bytes_that_were_there_already_are_used(server: Server, tmp_path: Path) -> None:
    server.stop_after = 600_000
    with pytest.raises(Unavailable):
        download(server.url, tmp_path / "net")
    (tmp_path / "net.partial").write_bytes(CONTENT)
    assert download(server.url, tmp_path / "net", sha256=DIGEST).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={len(CONTENT)}-"


def test_more_bytes_than_there_are_make_it_start_again(server: Server, tmp_path: Path) -> None:
    server.stop_after = 600_000
    with pytest.raises(Unavailable):
        download(server.url, tmp_path / "net")
    server.stop_after = None
    (tmp_path / "net.partial").write_bytes(CONTENT + b"x")
    assert download(server.url, tmp_path / "net").read_bytes() == CONTENT


def test_another_digest_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FileInvalid, match=f"has the sha256 {DIGEST}, expected {'0' * 64}"):
        download(server.url, tmp_path / "net", sha256="0" * 64)
    assert leftovers(tmp_path) == []


def test_an_error_of_the_server_is_told(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(Unavailable, match="status 404"):
        download(server.url, tmp_path / "net")
    assert leftovers(tmp_path) == []
    with pytest.raises(Unavailable, match="the download stopped after 0 bytes"):
        download("http://127.0.0.1:1/net", tmp_path / "net")


def test_a_place_that_cannot_be_written_is_told_and_what_came_is_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Unavailable, match=r"net\.partial: cannot be written"):
        download(server.url, tmp_path / "file" / "net")

    def full(done: int, total: int | None) -> None:
        if done:
            raise OSError(28, "No space left on device")

    with pytest.raises(Unavailable, match="No space left"):
        download(server.url, tmp_path / "net", progress=full)
    assert (tmp_path / "net.partial").stat().st_size > 0


def test_an_address_or_digest_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="file:///etc/passwd"):
        download("file:///etc/passwd", tmp_path / "net")
    for url in ("http://[::1/net", f"http://{'a' * 70}/net"):
        with pytest.raises(InvalidInput, match="address: got 'http"):
            download(url, tmp_path / "net")
    with pytest.raises(InvalidInput, match="64 hexadecimal"):
        download("http://127.0.0.1:1/net", tmp_path / "net", sha256="abc")
