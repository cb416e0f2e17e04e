"""The agent's loop: enrol, lease, measure, report; through cut lines and restarts.

The agent only ever dials out. Between leases it asks again with growing pauses; while it measures,
a thread in the background keeps the lease. A lease that was lost stops the measuring, but what was
measured is still reported: the service takes it.

A lease is measured in *windows* of some entries, a sentinel before and after each (``sentinels``).
Every result lies on disk from the moment it was measured until the service has taken it.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from bespoke.agent.bench import Bench
from bespoke.agent.cache import ModelCache, Spool, plain_id
from bespoke.agent.measure import Measurement
from bespoke.agent.sentinels import SentinelHistory, may_repeat
from bespoke.client import ApiError, Client
from bespoke.latency_tables import DeviceProfile, Timing
from bespoke.supernet.errors import BespokeError, Unavailable

T = TypeVar("T")

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
LONGEST_ERROR = 500
SHORTEST_SAMPLE_MS = 1e-6
FRESH_S = 10.0
"""A sentinel measured longer ago says nothing of the window that begins now."""
UNCLOSED = "the window has no closing sentinel"
TEMPORARY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
NO_ENTRY_STATUS = frozenset({401, 403})
"""The key is not taken: nothing that a retry, or another entry, can mend."""


@dataclass(frozen=True)
class AgentEvent:
    """Something that happened, for progress bars and logs.

    Attributes:
        kind: ``enrolled``, ``idle``, ``leased``, ``measured``, ``drifted`` (a sentinel),
            ``reported``, ``lost`` (the lease) or ``offline``.
        detail: The entry, the lease or the error.
        measured: Entries measured so far by this run.
    """

    kind: str
    detail: str
    measured: int


@dataclass(frozen=True)
class AgentSummary:
    """What one run of the agent did.

    Attributes:
        device_id: The device it measured on.
        measured: Entries measured, failed ones among them.
        failed: Entries that could not be measured.
        leases: Leases taken.
        windows: Windows measured, repeats not among them.
        repeats: How often a window was measured again because a sentinel had drifted.
    """

    device_id: str
    measured: int = 0
    failed: int = 0
    leases: int = 0
    windows: int = 0
    repeats: int = 0


@dataclass(frozen=True)
class AgentSettings:
    """How the loop behaves.

    Attributes:
        name: The agent's name in leases.
        cache: Folder for networks and for results that wait.
        entries: How many entries to lease at once.
        window: How many entries are measured between two sentinels; they are handed in together.
        poll_s: Pause after the first answer that there is no work; it grows from there.
        longest_poll_s: The longest such pause.
        degraded: Why all results are worse than they could be (``preflight``); goes with each.
        once: Return when work has come and run out; otherwise go on until ``stop``.
    """

    name: str
    cache: Path
    entries: int = 32
    window: int = 16
    poll_s: float = SHORTEST_PAUSE_S
    longest_poll_s: float = LONGEST_PAUSE_S
    degraded: tuple[str, ...] = ()
    once: bool = False


def run_agent(
    client: Client,
    profile: DeviceProfile,
    *,
    bench: Bench,
    settings: AgentSettings,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[AgentEvent], None] = lambda event: None,
    sleep: Callable[[float], None] = time.sleep,
    watch: Callable[[], Sequence[str]] = lambda: (),
) -> AgentSummary:
    """Enrol this device and measure what the service asks for, until told to stop.

    Args:
        client: With a key of scope ``agent``.
        profile: This device; enrolling it again gives the same device.
        bench: What measures the networks; its runtime is that of the profile.
        settings: How the loop behaves.
        stop: Asked between entries and between leases.
        progress: Called on every event, in this thread.
        sleep: Called with the seconds of each pause.
        watch: Asked after each window: why its results are worse than they could be.

    Returns:
        What was done.

    Raises:
        ApiError: The service refuses this agent (key, scope, an unknown device); what a retry can
            mend is retried.
        Unavailable: The bench cannot measure anything any more, or networks cannot be kept on disk.
    """
    agent = _Agent(client, bench, settings, stop, progress, sleep, watch)
    return agent.run(profile)


@dataclass
class _Agent:
    """One run of the loop: its parts, and what it did so far."""

    client: Client
    bench: Bench
    settings: AgentSettings
    stop: Callable[[], bool]
    progress: Callable[[AgentEvent], None]
    sleep: Callable[[float], None]
    watch: Callable[[], Sequence[str]]
    sentinels: dict[str, _Sentinel] = field(default_factory=dict)
    summary: AgentSummary = field(default_factory=lambda: AgentSummary(""))
    rng: random.Random = field(default_factory=random.Random)

    @property
    def spool(self) -> Spool:
        """Of this device on this service: agents of other ones may keep theirs beside it."""
        return Spool(self.settings.cache / "results" / self.summary.device_id)

    def run(self, profile: DeviceProfile) -> AgentSummary:
        device = self._persist(lambda: self.client.create_device(profile.device, profile.to_json()))
        if device is None:
            return self.summary
        self.summary = replace(self.summary, device_id=plain_id("device", device["id"]))
        self._tell("enrolled", device["id"])
        self._hand_in_waiting()
        pause_s = self.settings.poll_s
        while not self.stop():
            lease = self._persist(self._lease)
            if lease:
                self._work(lease)
                pause_s = self.settings.poll_s
            elif self.settings.once and self.summary.leases:
                break
            elif not self.stop():
                self._tell("idle", f"no work; asking again in {pause_s:.1f} s")
                self.sleep(pause_s)
                pause_s = min(pause_s * 1.5, self.settings.longest_poll_s)
        return self.summary

    def _lease(self) -> dict[str, Any]:
        lease = self.client.lease(self.summary.device_id, self.settings.name, self.settings.entries)
        return lease or {}

    def _work(self, lease: Mapping[str, Any]) -> None:
        """Measure a lease's entries in random order, window by window, and hand the results in."""
        lease_id, entries = lease["lease_id"], list(lease["entries"])
        timing = Timing.from_json(lease.get("measure") or {})
        self.rng.shuffle(entries)
        self.summary = replace(self.summary, leases=self.summary.leases + 1)
        self._tell("leased", f"{len(entries)} entries")
        with _heartbeat(self.client, lease_id, float(lease.get("ttl_s") or 60)) as lost:

            def ended() -> bool:
                return self.stop() or lost.is_set()

            sentinel = self._sentinel(str(lease.get("campaign_id", "")), entries)
            for first in range(0, len(entries), self.settings.window):
                if ended():
                    break
                window = _Window(lease_id, timing, entries[first : first + self.settings.window])
                self._measure_window(window, sentinel, ended)
                self._hand_in(lease_id, window.done)
        if lost.is_set():
            self._tell("lost", lease_id)

    def _measure_window(self, window: _Window, sentinel: _Sentinel, ended: Callable[[], bool]) -> None:
        """Measure a window until its sentinel stands still, or as often as it may be."""
        while True:
            # What it took when it had drifted is nothing to hold the repeat against.
            fresh_s = 0.0 if window.repeated else FRESH_S
            before = self._look_at(sentinel, window.timing, at_most_s=fresh_s)
            self._measure_entries(window, ended)
            if ended():
                return self._close(window, [UNCLOSED])
            after = self._look_at(sentinel, window.timing)
            now_ms = [value for value in (before, after) if value is not None]
            drift = sentinel.history.drift(*now_ms) if now_ms else 0.0
            if not drift or not may_repeat(window.repeated, self.summary.repeats, self.summary.windows):
                break
            self._tell("drifted", f"the sentinel by {100 * drift:+.1f}%: measuring the window again")
            window.repeated += 1
            self.summary = replace(self.summary, repeats=self.summary.repeats + 1)
        if after is not None:
            sentinel.history = SentinelHistory((after,)) if drift else sentinel.history.after(after)
        reasons = [f"drift: the sentinel by {100 * drift:+.1f}%"] if drift else []
        return self._close(window, reasons if after is not None else [*reasons, UNCLOSED])

    def _measure_entries(self, window: _Window, ended: Callable[[], bool]) -> None:
        """Measure every entry of a window once; those that failed before are not tried again."""
        for entry in window.entries:
            key = (entry["entry_id"], entry["round"])
            earlier = window.results.get(key)
            if earlier is not None and earlier["error"] is not None:
                continue
            result = None if ended() else self._measure(entry, window.timing, again=earlier is not None)
            if result is None:
                return
            window.results[key] = result
            self.spool.keep(window.lease_id, [_marked(r, (UNCLOSED,)) for r in window.done])
            error = result["error"]
            self._tell("measured", entry["entry_id"] if error is None else f"{entry['entry_id']}: {error}")

    def _close(self, window: _Window, reasons: Sequence[str]) -> None:
        """Write what is known now of a window's results into them."""
        self.summary = replace(self.summary, windows=self.summary.windows + 1)
        marks = tuple(dict.fromkeys([*self.settings.degraded, *reasons, *self.watch()]))
        for key, result in window.results.items():
            window.results[key] = _marked(result | {"repeated": window.repeated}, marks)

    def _measure(self, entry: Mapping[str, Any], timing: Timing, *, again: bool) -> dict[str, Any] | None:
        """One result, or None where ``stop`` came first.

        Whatever a network does to the runtime, the agent lives on and says so. What is no network's fault
        is not written down as one: it is raised.
        """
        result: dict[str, Any] = {"entry_id": entry["entry_id"], "round": entry["round"]}
        result["started_at"] = datetime.now(UTC).isoformat()
        try:
            result |= _fields(self._run(entry["sha256"], timing.of(entry.get("kind", "op"))))
        except Unavailable:
            if self.stop():
                return None
            raise
        except Exception as error:
            if isinstance(error, ApiError) and error.status in NO_ENTRY_STATUS:
                raise
            text = f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
            result |= {"samples_ms": [], "cold_ms": None, "error": text}
        failed = result["error"] is not None
        summary = self.summary
        self.summary = replace(
            summary, measured=summary.measured + int(not again), failed=summary.failed + int(failed)
        )
        return result

    def _run(self, sha256: str, timing: Timing) -> Measurement:
        model = ModelCache(self.settings.cache / "models").get(sha256, self._fetch)
        return self.bench.measure(model, sha256, timing, self.stop)

    def _sentinel(self, campaign: str, entries: Sequence[Mapping[str, Any]]) -> _Sentinel:
        """The sentinel of a campaign, the same one for as long as this agent runs.

        Of the campaign's own sentinels in its first lease the one of middling size; where there is
        none, any other entry of middling size.
        """
        if campaign not in self.sentinels:
            own = [entry for entry in entries if entry.get("kind") == "sentinel"] or list(entries)
            by_size = sorted(own, key=lambda entry: (entry.get("size", 0), entry["entry_id"]))
            self.sentinels[campaign] = _Sentinel(by_size[len(by_size) // 2]["sha256"])
        return self.sentinels[campaign]

    def _look_at(self, sentinel: _Sentinel, timing: Timing, at_most_s: float = 0.0) -> float | None:
        """What a sentinel takes now, in ms; what it took, if that is this fresh; None if it fails."""
        if time.monotonic() - sentinel.at_s < at_most_s:
            return sentinel.last_ms
        try:
            sentinel.last_ms, sentinel.at_s = self._run(sentinel.sha256, timing).low_ms, time.monotonic()
        except Exception:
            # One that cannot be run is not tried again: it may end the child each time.
            sentinel.last_ms, sentinel.at_s = None, math.inf
        return sentinel.last_ms

    def _fetch(self, sha256: str, path: Path) -> None:
        def fetched() -> bool:
            self.client.download_artifact(sha256, path)
            return True

        if not self._persist(fetched):
            raise Unavailable("stopped while the service could not be reached")

    def _hand_in(self, lease_id: str, results: list[dict[str, Any]]) -> None:
        """Report until it is taken; what ``stop`` comes before stays on disk for the next run.

        Results that nobody will ever take (the campaign is gone) are dropped.
        """
        if not results:
            return
        self.spool.keep(lease_id, results)
        try:
            answer = self._persist(lambda: self.client.report(lease_id, results))
        except ApiError as error:
            if error.status in NO_ENTRY_STATUS:
                raise
            answer = {"accepted": 0, "refused": str(error)}
        if answer is not None:
            self.spool.keep(lease_id, [])
            self._tell("reported", str(answer))

    def _hand_in_waiting(self) -> None:
        for lease_id, results in self.spool.waiting():
            self._hand_in(lease_id, results)

    def _persist(self, call: Callable[[], T]) -> T | None:
        """Call until the service answers, with growing pauses; None where ``stop`` came first."""
        pause_s = SHORTEST_PAUSE_S
        while True:
            try:
                return call()
            except ApiError as error:
                if not _may_pass(error, known=bool(self.summary.device_id)):
                    raise
                self._tell("offline", str(error))
            except Unavailable as error:
                self._tell("offline", str(error))
            if self.stop():
                return None
            self.sleep(pause_s * self.rng.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _tell(self, kind: str, detail: str) -> None:
        self.progress(AgentEvent(kind, detail, self.summary.measured))


@dataclass
class _Window:
    """Some entries of a lease, measured between two sentinels.

    Attributes:
        lease_id: The lease.
        timing: The stop rules.
        entries: In the order of measuring.
        results: By entry id and round, of which a lease may hold two.
        repeated: How often all of it was measured again.
    """

    lease_id: str
    timing: Timing
    entries: Sequence[Mapping[str, Any]]
    results: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    repeated: int = 0

    @property
    def done(self) -> list[dict[str, Any]]:
        """The results so far."""
        return list(self.results.values())


@dataclass
class _Sentinel:
    """A campaign's sentinel, and what it took."""

    sha256: str
    history: SentinelHistory = field(default_factory=SentinelHistory)
    last_ms: float | None = None
    at_s: float = -math.inf


def _may_pass(error: ApiError, *, known: bool) -> bool:
    """Whether an error may be gone in a while.

    Args:
        error: The answer.
        known: Whether the service has answered before. Then an error that is none of its own problems
            comes from something in front of it, which finds no service there while that restarts.
    """
    foreign = known and not error.slug and error.status not in NO_ENTRY_STATUS
    return foreign or error.status in TEMPORARY_STATUS


def _fields(measured: Measurement) -> dict[str, Any]:
    """A measurement as a report tells it."""
    return {
        "samples_ms": [max(SHORTEST_SAMPLE_MS, round(sample, 6)) for sample in measured.samples_ms],
        "cold_ms": measured.cold_ms,
        "error": None,
        "frequency_mhz": measured.frequency_mhz,
        "temperature_c": measured.temperature_c,
        "rejected": measured.rejected,
    }


def _marked(result: Mapping[str, Any], reasons: Sequence[str]) -> dict[str, Any]:
    return {**result, "degraded": list(reasons)}


@contextmanager
def _heartbeat(client: Client, lease_id: str, ttl_s: float) -> Iterator[threading.Event]:
    """Keep a lease in the background; the event is set once it is lost."""
    lost, done = threading.Event(), threading.Event()

    def beat() -> None:
        while not done.wait(max(0.05, ttl_s / 3)):
            try:
                client.heartbeat(lease_id)
            except ApiError as error:
                if not _may_pass(error, known=True):
                    lost.set()
                    return
            except BespokeError:
                continue

    thread = threading.Thread(target=beat, name="bespoke-heartbeat", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        done.set()
        thread.join(timeout=5)
