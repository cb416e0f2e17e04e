"""The bench: where networks are put to be measured, a process of its own that may die without harm."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from bespoke.agent.measure import Measurement
from bespoke.agent.runtimes import RuntimeIdentity
from bespoke.latency_tables import Timing
from bespoke.supernet.errors import BespokeError, InvalidInput, NotFound, TaskFailed, Unavailable

START_S = 120.0
"""How long a runtime may take to be imported: minutes on a small board under load."""
DEADLINE_S = 120.0
"""How long one network may take, from loading to the last sample."""
GRACE_S = 5.0
"""How long a measurement may still go on once the agent was told to stop."""
POLL_S = 0.2
READ_BYTES = 2**16
TASK = "measure"


class Bench(RuntimeIdentity, Protocol):
    """Measures networks, and says with what."""

    def measure(
        self, model: Path, sha256: str, timing: Timing, stop: Callable[[], bool] = lambda: False
    ) -> Measurement:
        """Measure one network.

        Args:
            model: The ONNX file.
            sha256: Its digest, in hex.
            timing: The stop rules.
            stop: Asked now and then; the measurement is given up soon after it says yes.

        Raises:
            TaskFailed: The network cannot be run, crashed its process, or took too long.
            Unavailable: Stopped; or nothing can be measured any more.
        """
        ...


class ChildBench:
    """One long-lived child process, started again when it has died or hung."""

    def __init__(
        self,
        runtime: str = "onnxruntime",
        threads: int = 1,
        provider: str | None = None,
        *,
        pin: bool = True,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Start the child; use the bench as a context manager, or ``close`` it.

        Args:
            runtime: Key of ``RUNTIMES``.
            threads: Threads inside one op.
            provider: Execution provider; the runtime's plain one where it is None.
            pin: Keep the child to as many cores as it has threads.
            deadline_s: How long one network may take.

        Raises:
            NotFound: There is no such runtime, or it lacks the provider.
            InvalidInput: There must be at least one thread.
            Unavailable: The runtime is not installed, or the child does not start.
        """
        self.threads = threads
        self._set_up = {"runtime": runtime, "threads": threads, "provider": provider, "pin": pin}
        self._deadline_s = deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self.crashes = 0
        self._facts = self._start()

    @property
    def name(self) -> str:
        """Of the runtime."""
        return str(self._facts["name"])

    @property
    def version(self) -> str:
        """Of the runtime's package."""
        return str(self._facts["version"])

    @property
    def provider(self) -> str:
        """What executes the nodes."""
        return str(self._facts["provider"])

    @property
    def pid(self) -> int | None:
        """Of the child, while it lives."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what a dead child was not told any more
                    pipe.close()
        self._process, self._rest = None, b""

    def measure(
        self, model: Path, sha256: str, timing: Timing, stop: Callable[[], bool] = lambda: False
    ) -> Measurement:
        """Measure one network in the child; see ``Bench.measure``."""
        if self.pid is None:
            self.close()
            self._start_again()
        self._send({"model": str(model.absolute()), "sha256": sha256, "timing": timing.to_json()})
        try:
            answer = self._receive(self._deadline_s, stop)
        except BaseException:
            self.close()
            raise
        if answer is None:
            raise TaskFailed(TASK, f"the network ended its process ({self._bury()})")
        if "error" in answer:
            raise TaskFailed(TASK, answer["error"])
        return Measurement(**answer | {"samples_ms": tuple(answer["samples_ms"])})

    def _start(self) -> dict[str, Any]:
        """Start the child; what its runtime is."""
        command = [sys.executable, "-m", "bespoke.agent.child"]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise Unavailable(f"the measuring process cannot be started: {error}") from error
        self._send(self._set_up | {"parent": os.getpid()})
        try:
            answer = self._receive(START_S, lambda: False)
        except TaskFailed as error:
            self.close()
            raise Unavailable(f"the measuring process did not start within {START_S:.0f} s") from error
        if answer is None:
            raise Unavailable(f"the measuring process did not start ({self._bury()})")
        if "error" in answer:
            self.close()
            raise _error(answer)
        return answer

    def _start_again(self) -> None:
        """Start a child in the place of one that has died, with the same runtime."""
        try:
            facts = self._start()
        except (InvalidInput, NotFound) as error:
            raise Unavailable(f"the runtime was there, and is no more: {error}") from error
        if facts != self._facts:
            self.close()
            was, now = (f"{one['name']} {one['version']}" for one in (self._facts, facts))
            raise Unavailable(f"the runtime is {now} now and was {was}: start again, as another device")

    def _bury(self) -> str:
        """Put a dead child away; how it died, in words."""
        assert self._process is not None
        code = self._process.wait()
        self.crashes += 1
        self.close()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the child has died, which ``_receive`` finds out and tells

    def _receive(self, deadline_s: float, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """One answer, or None where the child has died."""
        assert self._process is not None and self._process.stdout is not None
        end, stopping = time.monotonic() + deadline_s, False
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if selector.select(POLL_S):
                    chunk = os.read(self._process.stdout.fileno(), READ_BYTES)
                    if not chunk:
                        return None
                    self._rest += chunk
                elif time.monotonic() > end:
                    if stopping:
                        raise Unavailable("stopped while a network was being measured")
                    raise TaskFailed(TASK, f"the network took longer than {deadline_s:.0f} s")
                elif not stopping and stop():
                    end, stopping = min(end, time.monotonic() + GRACE_S), True
        line, self._rest = self._rest.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer


def _error(answer: dict[str, Any]) -> BespokeError:
    """The error that the child raised, raised again here."""
    if "not_found" in answer:
        return NotFound(*answer["not_found"])
    if answer["kind"] == InvalidInput.__name__:
        return InvalidInput(answer["error"])
    return Unavailable(answer["error"])
