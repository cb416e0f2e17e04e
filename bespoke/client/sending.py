"""How a call is sent: over httpx, again where that does no harm.

A call that can be repeated without harm is retried, with growing pauses, when the connection fails
or a gateway answers 502, 503 or 504. A call that cannot is retried only where the request provably
never left (the connection could not be made). Every other failure is raised at once.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import quote

import httpx

from bespoke import __version__
from bespoke.supernet.errors import ApiError, InvalidInput, Unavailable

__all__ = ["Json", "Sender", "check_digest", "part", "pause_s", "read_json"]

Json = dict[str, Any]

RETRIED_STATUS = frozenset({502, 503, 504})
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0
PIECE_BYTES = 2**16
TIMEOUT = httpx.Timeout(30.0, connect=5.0)


class Call(TypedDict, total=False):
    """What a call may say beside its method and path.

    Attributes:
        body: Sent as JSON.
        query: Behind the path.
        idempotent: Whether it can be repeated without harm, though it is no GET.
    """

    body: Json | None
    query: Mapping[str, str] | None
    idempotent: bool


class Sender:
    """Connections to a service, and its API key. Safe to use from several threads."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8321",
        key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        http: httpx.Client | None = None,
        attempts: int = 5,
        timeout: httpx.Timeout | float = TIMEOUT,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open a client; use it as a context manager, or ``close`` it.

        Args:
            base_url: Where the service is; ignored where ``http`` is given.
            key: API key, ``bsp_<prefix>_<secret>``.
            transport: Replaces the network, e.g. ``httpx.MockTransport``.
            http: A whole client to send with, e.g. Starlette's ``TestClient``; stays the caller's
                to close.
            attempts: How often a call is tried in all; at least 1.
            timeout: Of one try, in seconds.
            sleep: Called with the seconds to pause between tries.

        Raises:
            InvalidInput: The address is none, or the key cannot be one.
        """
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise InvalidInput(
                "API key: got characters that no key has, such as a space or the end of a line; expected "
                "bsp_<prefix>_<secret>"
            )
        if http is None:
            _check_address(base_url)
        self._http = http or httpx.Client(base_url=base_url, transport=transport, timeout=timeout)
        self._owned = http is None
        self._headers = {"User-Agent": f"bespoke-client/{__version__}"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._attempts = max(1, attempts)
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the connections."""
        if self._owned:
            self._http.close()

    def _json(self, method: str, path: str, **call: Unpack[Call]) -> Json:
        return read_json(self._send(method, path, **call))

    def _events(self, path: str) -> Iterator[tuple[str, Json]]:
        """The events of one stream (``text/event-stream``), each with its JSON."""
        headers = self._headers | {"Accept": "text/event-stream"}
        try:
            with self._http.stream("GET", path, headers=headers) as answer:
                if not answer.is_success:
                    answer.read()
                    _checked(answer)
                event, data = "message", ""
                for line in answer.iter_lines():
                    name, _, value = line.partition(":")
                    if name == "event":
                        event = value.strip()
                    elif name == "data":
                        data += value.removeprefix(" ")
                    elif not line and data:
                        yield event, json.loads(data)
                        event, data = "message", ""
        except httpx.TransportError as error:
            raise Unavailable(f"GET {path}: the stream broke ({type(error).__name__}: {error})") from error

    def _send(self, method: str, path: str, **call: Unpack[Call]) -> httpx.Response:
        body, query = call.get("body"), call.get("query")
        try:
            request = self._http.build_request(method, path, json=body, params=query, headers=self._headers)
        except ValueError as error:
            raise InvalidInput(
                f"{method} {path}: got what JSON cannot say ({error}), expected finite numbers and plain text"
            ) from error
        repeatable = call.get("idempotent", False) or method == "GET"
        return self._tried(method, path, lambda: self._http.send(request), repeatable)

    def _stream_into(self, file: Path, address: str) -> httpx.Response:
        """Write an answer's content to a file, unless it is an error."""
        with self._http.stream("GET", address, headers=self._headers) as answer:
            if not answer.is_success:
                answer.read()
                return answer
            with file.open("wb") as target:
                for piece in answer.iter_bytes(PIECE_BYTES):
                    target.write(piece)
        return answer

    def _tried(
        self, method: str, path: str, send: Callable[[], httpx.Response], repeatable: bool = True
    ) -> httpx.Response:
        """Send until it succeeds, or as often as it may be."""
        for attempt in range(1, self._attempts + 1):
            last = attempt == self._attempts
            try:
                answer = send()
            except httpx.TransportError as error:
                never_left = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if last or not (repeatable or never_left):
                    raise Unavailable(
                        f"{method} {path}: the service at {self._http.base_url} did not answer "
                        f"({type(error).__name__}: {error}); is it running, and the address right?"
                    ) from error
            else:
                if last or not repeatable or answer.status_code not in RETRIED_STATUS:
                    return _checked(answer)
            self._sleep(pause_s(attempt))
        raise AssertionError("unreachable: the last attempt returns or raises")


def pause_s(attempt: int) -> float:
    """Doubling pauses with jitter, so that a fleet of agents does not come back at one instant."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
    return longest * random.Random().uniform(0.5, 1.0)


def part(text: str) -> str:
    """One path segment, whatever the caller put into it.

    Raises:
        InvalidInput: No segment can say it: it would name something else, or nothing.
    """
    try:
        quoted = quote(text, safe="")
    except UnicodeEncodeError:
        quoted = ""
    if quoted in ("", ".", ".."):
        raise InvalidInput(f"id or name: got {text!r}, expected one that the service knows")
    return quoted


def _check_address(base_url: str) -> None:
    """Refuse what is no address of a service, before it is tried in vain."""
    why = "it lacks http:// or https://, or a host"
    try:
        address = httpx.URL(base_url)
        address.raw_host.decode().encode("idna")
        if address.scheme in ("http", "https") and address.host:
            return
    except (httpx.InvalidURL, UnicodeError) as error:
        why = str(error)
    raise InvalidInput(f"server: got {base_url!r}, expected an address such as http://127.0.0.1:8321; {why}")


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": answer.reason_phrase, "detail": " ".join(answer.text[:500].split())}
        if answer.has_redirect_location:
            problem["detail"] = f"moved to {answer.headers['Location']}: give the address of that server"
    raise ApiError(answer.status_code, problem)


def read_json(answer: httpx.Response) -> Json:
    """The answer's JSON. Lists come as they are; their endpoints say so."""
    try:
        content: Json = answer.json()
    except ValueError as error:
        address = answer.request.url
        raise Unavailable(
            f"{address} answered {answer.status_code} without JSON; is this Bespoke?"
        ) from error
    return content


def check_digest(got: str, expected: str, what: str) -> None:
    """Raise ``Unavailable`` where bytes are not those that were expected."""
    if got != expected:
        raise Unavailable(f"{what}: the bytes have sha256 {got}, expected {expected or 'an ETag'}; try again")
