"""The agent's loop: enrol, lease, measure, report; through cut lines and restarts.

The agent only ever dials out. Between leases it asks again with growing pauses; while it measures,
a thread in the background keeps the lease. A lease that was lost stops the measuring, but what was
measured is still reported: the service takes it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from bespoke.agent.affinity import pinned
from bespoke.agent.cache import ModelCache, Spool
from bespoke.agent.measure import measure
from bespoke.agent.runtimes import Runtime
from bespoke.client import ApiError, Client
from bespoke.latency_tables import DeviceProfile, Timing
from bespoke.supernet.errors import BespokeError, Unavailable

T = TypeVar("T")

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
LONGEST_ERROR = 500
TEMPORARY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class AgentEvent:
    """Something that happened, for progress bars and logs.

    Attributes:
        kind: ``enrolled``, ``idle``, ``leased``, ``measured``, ``reported``, ``lost`` (the lease)
            or ``offline``.
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
    """

    device_id: str
    measured: int = 0
    failed: int = 0
    leases: int = 0


@dataclass(frozen=True)
class AgentSettings:
    """How the loop behaves.

    Attributes:
        name: The agent's name in leases.
        cache: Folder for networks and for results that wait.
        entries: How many entries to lease at once.
        report_every: Results are handed in by this many.
        poll_s: Pause after the first answer that there is no work; it grows from there.
        longest_poll_s: The longest such pause.
        pin: Keep to as many cores as the runtime has threads.
        once: Return when work has come and run out; otherwise go on until ``stop``.
    """

    name: str
    cache: Path
    entries: int = 32
    report_every: int = 8
    poll_s: float = SHORTEST_PAUSE_S
    longest_poll_s: float = LONGEST_PAUSE_S
    pin: bool = True
    once: bool = False


def run_agent(
    client: Client,
    profile: DeviceProfile,
    *,
    runtime: Runtime,
    settings: AgentSettings,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[AgentEvent], None] = lambda event: None,
    sleep: Callable[[float], None] = time.sleep,
) -> AgentSummary:
    """Enrol this device and measure what the service asks for, until told to stop.

    Args:
        client: With a key of scope ``agent``.
        profile: This device; enrolling it again gives the same device.
        runtime: What runs the networks; the same as in the profile.
        settings: How the loop behaves.
        stop: Asked between entries and between leases.
        progress: Called on every event, in this thread.
        sleep: Called with the seconds of each pause.

    Returns:
        What was done.

    Raises:
        ApiError: The service refuses this agent (key, scope, an unknown device); what a retry can
            mend is retried.
    """
    agent = _Agent(client, runtime, settings, stop, progress, sleep)
    return agent.run(profile)


@dataclass
class _Agent:
    """One run of the loop: its parts, and what it did so far."""

    client: Client
    runtime: Runtime
    settings: AgentSettings
    stop: Callable[[], bool]
    progress: Callable[[AgentEvent], None]
    sleep: Callable[[float], None]
    summary: AgentSummary = field(default_factory=lambda: AgentSummary(""))
    rng: random.Random = field(default_factory=random.Random)

    def run(self, profile: DeviceProfile) -> AgentSummary:
        device = self._persist(lambda: self.client.create_device(profile.device, profile.to_json()))
        if device is None:
            return self.summary
        self.summary = replace(self.summary, device_id=device["id"])
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
        """Measure a lease's entries in random order and hand the results in, a few at a time."""
        lease_id, entries = lease["lease_id"], list(lease["entries"])
        timing = Timing.from_json(lease.get("measure") or {})
        self.rng.shuffle(entries)
        self.summary = replace(self.summary, leases=self.summary.leases + 1)
        self._tell("leased", f"{len(entries)} entries")
        waiting: list[dict[str, Any]] = []
        with _heartbeat(self.client, lease_id, float(lease.get("ttl_s") or 60)) as lost:
            for entry in entries:
                if self.stop() or lost.is_set():
                    break
                waiting.append(self._measure(entry, timing))
                if len(waiting) >= self.settings.report_every:
                    waiting = self._hand_in(lease_id, waiting)
        if lost.is_set():
            self._tell("lost", lease_id)
        self._hand_in(lease_id, waiting)

    def _measure(self, entry: Mapping[str, Any], timing: Timing) -> dict[str, Any]:
        """One result. Whatever a network does to the runtime, the agent lives on and says so."""
        result: dict[str, Any] = {"entry_id": entry["entry_id"], "round": entry["round"]}
        cache = ModelCache(self.settings.cache / "models")
        try:
            model = cache.get(entry["sha256"], self._fetch)
            # Pinned here only: the heartbeat's thread must not inherit the core.
            with pinned(self.runtime.threads) if self.settings.pin else nullcontext():
                measured = measure(lambda: self.runtime.load(model), timing)
            result |= {
                "samples_ms": [round(sample, 6) for sample in measured.samples_ms],
                "cold_ms": measured.cold_ms,
                "error": None,
            }
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
            result |= {"samples_ms": [], "cold_ms": None, "error": text}
        failed = result["error"] is not None
        summary = self.summary
        self.summary = replace(summary, measured=summary.measured + 1, failed=summary.failed + int(failed))
        self._tell("measured", f"{entry['entry_id']}" + (f": {result['error']}" if failed else ""))
        return result

    def _fetch(self, sha256: str) -> bytes:
        content = self._persist(lambda: self.client.artifact(sha256))
        if content is None:
            raise Unavailable("stopped while the service could not be reached")
        return content

    def _hand_in(self, lease_id: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Report until it is taken; returns what was not, because ``stop`` came first.

        Results that nobody will ever take (the campaign is gone) are dropped.
        """
        if not results:
            return []
        spool = Spool(self.settings.cache / "results")
        spool.keep(lease_id, results)
        try:
            answer = self._persist(lambda: self.client.report(lease_id, results))
        except ApiError as error:
            if error.status in (401, 403):
                raise
            answer = {"accepted": 0, "refused": str(error)}
        if answer is None:
            return results
        spool.keep(lease_id, [])
        self._tell("reported", str(answer))
        return []

    def _hand_in_waiting(self) -> None:
        for lease_id, results in Spool(self.settings.cache / "results").waiting():
            self._hand_in(lease_id, results)

    def _persist(self, call: Callable[[], T]) -> T | None:
        """Call until the service answers, with growing pauses; None where ``stop`` came first."""
        pause_s = SHORTEST_PAUSE_S
        while True:
            try:
                return call()
            except ApiError as error:
                if error.status not in TEMPORARY_STATUS:
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


@contextmanager
def _heartbeat(client: Client, lease_id: str, ttl_s: float) -> Iterator[threading.Event]:
    """Keep a lease in the background; the event is set once it is lost."""
    lost, done = threading.Event(), threading.Event()

    def beat() -> None:
        while not done.wait(max(0.05, ttl_s / 3)):
            try:
                client.heartbeat(lease_id)
            except ApiError as error:
                if error.status not in TEMPORARY_STATUS:
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
