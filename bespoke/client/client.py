"""Client: the service's REST API as methods, over httpx.

A call that can be repeated without harm is retried, with growing pauses, when the connection fails
or a gateway answers 502, 503 or 504. A call that cannot is retried only where the request provably
never left (the connection could not be made). Every other failure is raised at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from bespoke import __version__
from bespoke.supernet.errors import ApiError, Unavailable

Json = dict[str, Any]

RETRIED_STATUS = frozenset({502, 503, 504})
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0
PIECE_BYTES = 2**16
TIMEOUT = httpx.Timeout(30.0, connect=5.0)


class Client:
    """One method per endpoint of the service.

    Methods return the answer's JSON as it came. They raise ``ApiError`` when the service answers
    with an error, and ``Unavailable`` when it cannot be reached or a download arrives broken.
    Safe to use from several threads.
    """

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
        """
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

    # Health

    def healthz(self) -> Json:
        """Whether the process lives."""
        return self._json("GET", "/healthz")

    def readyz(self) -> Json:
        """Whether the service can answer: database, artifacts, worker."""
        return self._json("GET", "/readyz")

    # Supernets

    def supernets(self) -> list[Json]:
        """All supernets of the zoo."""
        return list(self._json("GET", "/v1/supernets")["items"])

    def supernet(self, name: str) -> Json:
        """One supernet: its space, its card, and what is feasible on each profiled device."""
        return self._json("GET", f"/v1/supernets/{_part(name)}")

    # Data sets

    def collect_dataset(
        self,
        supernet: str,
        subnets: int = 1000,
        *,
        shards: int = 1,
        seed: int = 0,
        unsure: int = 0,
        rounds: int = 2,
        views: int = 1,
        side: int = 160,
        fit: bool = True,
    ) -> Json:
        """Have subnets measured on held-out training images, and the accuracy predictor fitted on them.

        The same call again gives the data set that there is, and takes it up where it failed.

        Args:
            supernet: The supernet.
            subnets: How many to measure.
            shards: Into how many jobs each round is cut.
            seed: The training's: it decides which images were held out, and which subnets are drawn.
            unsure: How many of the subnets are chosen for the predictor being unsure of them.
            rounds: In how many rounds these are chosen.
            views: Crops of each image that are evaluated.
            side: Of the kept images in pixels, as in training.
            fit: Whether the predictor is fitted and served in the end.
        """
        body: Json = {"subnets": subnets, "shards": shards, "seed": seed, "views": views, "side": side}
        active = {"subnets": unsure, "rounds": rounds} if unsure else None
        return self._json("POST", _datasets(supernet), body=body | {"active": active, "fit": fit})

    def datasets(self, supernet: str) -> list[Json]:
        """A supernet's data sets, newest first."""
        return list(self._json("GET", _datasets(supernet))["items"])

    def dataset(self, supernet: str, dataset_id: str) -> Json:
        """One data set: progress, shards, and in the end the predictor."""
        return self._json("GET", f"{_datasets(supernet)}/{_part(dataset_id)}")

    def export_dataset(self, supernet: str, dataset_id: str) -> bytes:
        """What was measured so far, as JSON lines."""
        return self._send("GET", f"{_datasets(supernet)}/{_part(dataset_id)}/accuracy.jsonl").content

    def cancel_dataset(self, supernet: str, dataset_id: str) -> Json:
        """Stop a data set; what was measured is kept."""
        return self._json("POST", f"{_datasets(supernet)}/{_part(dataset_id)}/cancel", idempotent=True)

    # Devices and campaigns

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
        return self._json("GET", f"/v1/devices/{_part(device_id)}")

    def latency_table(self, device_id: str, supernet: str) -> Json:
        """The table that serves a device for a supernet, with its ``revision`` and whether it is ``stale``.

        ``LatencyTable.from_json`` reads it.
        """
        return self._json(
            "GET", f"/v1/devices/{_part(device_id)}/latency-table", query={"supernet": supernet}
        )

    def latency_tables(self, device_id: str, supernet: str | None = None) -> list[Json]:
        """All revisions of a device's tables, newest first: source, quality card, whether stale."""
        query = None if supernet is None else {"supernet": supernet}
        return list(self._json("GET", f"{_device(device_id)}/latency-tables", query=query)["items"])

    def latency_table_revision(self, device_id: str, revision: str) -> Json:
        """One revision; ``LatencyTable.from_json`` reads it."""
        return self._json("GET", f"{_device(device_id)}/latency-tables/{_part(revision)}")

    def export_latency_table(self, device_id: str, revision: str, form: str) -> bytes:
        """One revision as a file.

        Args:
            device_id: The device.
            revision: Its digest.
            form: ``json``, ``csv``, or ``ofa``: a zip file of published Once-for-All YAML.
        """
        path = f"{_device(device_id)}/latency-tables/{_part(revision)}"
        return self._send("GET", path, query={"format": form}).content

    def quality_plot(self, device_id: str, revision: str) -> bytes:
        """A PNG of predicted against measured latencies of the networks that a table was judged by."""
        path = f"{_device(device_id)}/latency-tables/{_part(revision)}/quality.png"
        return self._send("GET", path).content

    def import_latency_table(self, device_id: str, supernet: str, table: Mapping[str, Any]) -> Json:
        """Keep a table that was made elsewhere for this very device profile; the same one again is it.

        Args:
            device_id: The device.
            supernet: The supernet whose ops it holds.
            table: ``LatencyTable.to_json()``.
        """
        path, query = f"{_device(device_id)}/latency-tables", {"supernet": supernet}
        return self._json("POST", path, body=dict(table), query=query, idempotent=True)

    def few_shot_choice(self, device_id: str, supernet: str, count: int = 10) -> list[Json]:
        """Which networks to measure whole on a new device, as architectures."""
        query = {"supernet": supernet, "count": str(count)}
        return list(self._json("GET", f"{_device(device_id)}/few-shot", query=query)["architectures"])

    def few_shot(self, device_id: str, supernet: str, samples: Sequence[Mapping[str, Any]]) -> Json:
        """Make a provisional table that serves at once, of a few measured networks.

        Args:
            device_id: The new device.
            supernet: The supernet.
            samples: Architectures, each with its ``latency_ms`` beside its other fields.
        """
        body = {"supernet": supernet, "samples": [dict(sample) for sample in samples]}
        return self._json("POST", f"{_device(device_id)}/few-shot", body=body, idempotent=True)

    def create_campaign(
        self,
        device_id: str,
        supernet: str,
        effort: str = "quick",
        *,
        base: bool | None = None,
        remeasure: bool | None = None,
    ) -> Json:
        """Start profiling a device for a supernet.

        Args:
            device_id: The device.
            supernet: Whose ops are to be measured.
            effort: ``quick``, ``standard`` or ``thorough``.
            base: Whether ops that the serving table measured are taken from it; so they are unless
                it is stale.
            remeasure: Whether all ops are measured again.
        """
        optional = {"base": base, "remeasure": remeasure}
        body: Json = {"supernet": supernet, "effort": effort}
        body |= {name: value for name, value in optional.items() if value is not None}
        return self._json("POST", f"{_device(device_id)}/campaigns", body=body)

    def create_check(self, device_id: str, supernet: str) -> Json:
        """Have the sentinels of a device's table measured again: a small campaign.

        Once it has succeeded, its ``check`` says whether the table is ``stale``.
        """
        return self._json("POST", f"{_device(device_id)}/checks", body={"supernet": supernet})

    def campaigns(self, device_id: str) -> list[Json]:
        """A device's campaigns and checks, newest first."""
        return list(self._json("GET", f"{_device(device_id)}/campaigns")["items"])

    def campaign(self, device_id: str, campaign_id: str) -> Json:
        """One campaign and its progress."""
        return self._json("GET", f"/v1/devices/{_part(device_id)}/campaigns/{_part(campaign_id)}")

    def campaign_events(self, device_id: str, campaign_id: str) -> Iterator[Json]:
        """One campaign each time that it changes, until it is over; the last one is its end.

        A stream that breaks or is closed is opened again, with growing pauses.
        """
        path = f"{_device(device_id)}/campaigns/{_part(campaign_id)}/events"
        attempt = 0
        while True:
            try:
                for event, data in self._events(path):
                    attempt = 0
                    yield data
                    if event == "done":
                        return
            except Unavailable:
                if attempt >= self._attempts:
                    raise
            attempt += 1
            self._sleep(_pause_s(attempt))

    def resume_campaign(self, device_id: str, campaign_id: str) -> Json:
        """Take up a cancelled or failed campaign: only what is missing is measured."""
        path = f"{_device(device_id)}/campaigns/{_part(campaign_id)}/resume"
        return self._json("POST", path)

    def cancel_campaign(self, device_id: str, campaign_id: str) -> Json:
        """Stop a campaign; what was measured is kept."""
        path = f"/v1/devices/{_part(device_id)}/campaigns/{_part(campaign_id)}/cancel"
        return self._json("POST", path, idempotent=True)

    # The agent's calls

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
        answer = self._send("POST", f"/v1/devices/{_part(device_id)}/lease", body=body)
        return None if answer.status_code == httpx.codes.NO_CONTENT else _object(answer)

    def heartbeat(self, lease_id: str) -> Json:
        """Keep a lease. Raises ``ApiError`` with slug ``lease-lost`` where it went to someone else."""
        return self._json("POST", f"/v1/leases/{_part(lease_id)}/heartbeat", idempotent=True)

    def report(self, lease_id: str, results: Sequence[Mapping[str, Any]]) -> Json:
        """Hand in results; the same ones again count as duplicates and do no harm.

        Args:
            lease_id: The lease under which they were measured, be it lost by now.
            results: ``{entry_id, round, samples_ms, cold_ms, error}`` each.
        """
        body = {"results": [dict(result) for result in results]}
        return self._json("POST", f"/v1/leases/{_part(lease_id)}/report", body=body, idempotent=True)

    def artifact(self, sha256: str) -> bytes:
        """A stored file by its digest, checked against it."""
        answer = self._send("GET", f"/v1/artifacts/{_part(sha256)}")
        _check_digest(hashlib.sha256(answer.content).hexdigest(), sha256, f"artifact {sha256}")
        return answer.content

    def download_artifact(self, sha256: str, path: Path) -> None:
        """Write a stored file, piece by piece: it is never whole in memory.

        Args:
            sha256: Its digest, in hex.
            path: The file to write; nothing is left there unless it arrived whole.
        """
        address = f"/v1/artifacts/{_part(sha256)}"
        with _replacing(path) as temporary:
            self._tried("GET", address, lambda: self._stream_into(temporary, address))
            with temporary.open("rb") as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
            _check_digest(got, sha256, f"artifact {sha256}")

    # Searches and subnets

    def search(
        self,
        supernet: str,
        constraints: Mapping[str, float | Mapping[str, float]],
        device: str | None = None,
        *,
        devices: Mapping[str, Mapping[str, Any]] | None = None,
        restrict: Mapping[str, Any] | None = None,
        min_top1: float | None = None,
        minimise: str | None = None,
        alternatives: int | None = None,
        pareto: bool | Sequence[str] = False,
        verify: str | None = None,
        seed: int | None = None,
        effort: Mapping[str, int] | None = None,
    ) -> Json:
        """Search the subnet with the best predicted top-1 within limits.

        Args:
            supernet: Name in the zoo.
            constraints: Upper limits by metric: ``latency_ms``, ``macs``, ``flops`` (2 x MACs),
                ``params``, ``peak_memory_bytes``, ``model_size_bytes``. A latency's may be
                ``{"limit": ms, "confidence": 0.95}``, which limits the interval's upper end.
            device: Id of a profiled device, the main one; needed for ``latency_ms``.
            devices: Limits of further devices by their ids, e.g. ``{"dev_1": {"latency_ms": 9}}``.
            restrict: The choices that are left, e.g. ``{"resolution": 160, "kernel": [3, 5]}``.
            min_top1: Least predicted top-1; then ``minimise`` is made as small as can be.
            minimise: A metric; the latency of ``device`` unless given.
            alternatives: How many other subnets near the optimum.
            pareto: Whether to find the whole front as well, or which two or three metrics it trades.
            verify: ``measured`` or ``accuracy``: measure the best few as well.
            seed: One seed, one answer.
            effort: ``{"population": ..., "generations": ...}``.

        Raises:
            ApiError: Among others with slug ``budget-infeasible``; its problem carries
                ``feasible``, ``nearest``, ``conflicts`` and ``relax``.
        """
        front = pareto if isinstance(pareto, bool) else {"metrics": list(pareto)}
        optional = {
            "device": device,
            "devices": devices,
            "restrict": restrict,
            "min_top1": min_top1,
            "minimise": minimise,
            "alternatives": alternatives,
            "pareto": front or None,
            "verify": verify,
            "seed": seed,
            "effort": effort,
        }
        # An empty mapping says what its absence says; a seed of 0 is told as it came.
        body: Json = {"supernet": supernet, "constraints": dict(constraints)}
        body |= {name: value for name, value in optional.items() if value not in (None, {})}
        return self._json("POST", "/v1/searches", body=body)

    def search_result(self, search_id: str) -> Json:
        """One earlier search."""
        return self._json("GET", f"/v1/searches/{_part(search_id)}")

    def replay(self, search_id: str) -> Json:
        """Search again on exactly the revisions of then: the same answer.

        Raises:
            ApiError: Among others with slug ``replay-differs``; its problem's ``changed`` says what.
        """
        return self._json("POST", f"/v1/searches/{_part(search_id)}/replay", idempotent=True)

    def fleet(
        self,
        supernet: str,
        members: Sequence[Mapping[str, Any]],
        subnets: int = 1,
        *,
        seed: int | None = None,
        effort: Mapping[str, int] | None = None,
    ) -> Json:
        """Find the few architectures that together serve several devices best.

        Args:
            supernet: Name in the zoo.
            members: ``{"device": id, "constraints": limits}`` each; ``weight`` where one counts more.
            subnets: How many different architectures at most; 1 is one for all.
            seed: One seed, one answer.
            effort: ``{"population": ..., "generations": ...}``.

        Raises:
            ApiError: Among others with slug ``budget-infeasible``.
        """
        optional = {"seed": seed, "effort": effort}
        body: Json = {"supernet": supernet, "members": list(members), "subnets": subnets}
        body |= {name: value for name, value in optional.items() if value is not None}
        return self._json("POST", "/v1/fleets", body=body)

    def fleet_result(self, fleet_id: str) -> Json:
        """What was answered for a fleet."""
        return self._json("GET", f"/v1/fleets/{_part(fleet_id)}")

    def subnet(self, subnet_id: str) -> Json:
        """One subnet: architecture, predicted figures, links."""
        return self._json("GET", f"/v1/subnets/{_part(subnet_id)}")

    def model(self, subnet_id: str, *, dynamic_batch: bool = False) -> bytes:
        """A subnet's ONNX file in memory, checked against the digest in its ETag."""
        answer = self._send("GET", f"/v1/subnets/{_part(subnet_id)}/model.onnx", query=_batch(dynamic_batch))
        _check_digest(hashlib.sha256(answer.content).hexdigest(), _etag(answer), f"model of {subnet_id}")
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
        with _replacing(path) as temporary:
            temporary.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    def manifest(self, subnet_id: str) -> Json:
        """What a subnet's model was made of: digests, revisions, predicted figures."""
        return self._json("GET", f"/v1/subnets/{_part(subnet_id)}/manifest")

    # Jobs

    def job(self, job_id: str) -> Json:
        """One job: state, progress, result or error."""
        return self._json("GET", f"/v1/jobs/{_part(job_id)}")

    # How a call is sent

    def _json(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        idempotent: bool = False,
    ) -> Json:
        return _object(self._send(method, path, body=body, query=query, idempotent=idempotent))

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

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        idempotent: bool = False,
    ) -> httpx.Response:

        def send() -> httpx.Response:
            return self._http.request(method, path, json=body, params=query, headers=self._headers)

        return self._tried(method, path, send, idempotent or method == "GET")

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
            self._sleep(_pause_s(attempt))
        raise AssertionError("unreachable: the last attempt returns or raises")


def _pause_s(attempt: int) -> float:
    """Doubling pauses with jitter, so that a fleet of agents does not come back at one instant."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
    return longest * random.Random().uniform(0.5, 1.0)


def _part(text: str) -> str:
    """One path segment, whatever the caller put into it."""
    return quote(text, safe="")


def _datasets(supernet: str) -> str:
    return f"/v1/supernets/{_part(supernet)}/datasets"


def _device(device_id: str) -> str:
    return f"/v1/devices/{_part(device_id)}"


def _batch(dynamic: bool) -> dict[str, str] | None:
    return {"dynamic_batch": "true"} if dynamic else None


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": answer.reason_phrase, "detail": answer.text[:500]}
    raise ApiError(answer.status_code, problem)


def _object(answer: httpx.Response) -> Json:
    """The answer's JSON. Lists come as they are; their endpoints say so."""
    try:
        content: Json = answer.json()
    except ValueError as error:
        address = answer.request.url
        raise Unavailable(
            f"{address} answered {answer.status_code} without JSON; is this Bespoke?"
        ) from error
    return content


def _etag(answer: httpx.Response) -> str:
    return answer.headers.get("ETag", "").removeprefix("W/").strip('"')


def _check_digest(got: str, expected: str, what: str) -> None:
    if got != expected:
        raise Unavailable(f"{what}: the bytes have sha256 {got}, expected {expected or 'an ETag'}; try again")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
