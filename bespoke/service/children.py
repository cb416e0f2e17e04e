"""Child processes for heavy work: hard to crash the service with, and stopped at once.

A child is a fresh Python that runs ``tasks``. Requests go in and answers come out as JSON lines.
It ends with its parent, whatever happens to the parent.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from bespoke.service.settings import Settings
from bespoke.supernet.errors import TaskFailed

__all__ = ["Child", "Stopped"]

POLL_S = 0.2
READ_BYTES = 2**16
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Stopped(BaseException):
    """The work was stopped from outside. No ``Exception``: a job that is stopped has not failed."""


class Child:
    """A child process that does one task at a time; not for use from several threads at once.

    The kernel ends a child when the *thread* that started it ends, so that thread must outlive it.
    """

    def __init__(self, settings: Settings) -> None:
        """Start the process; its imports take a second or two, which the first call waits for."""
        environment = os.environ | {name: str(settings.child_threads) for name in _THREADS}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bespoke.service.tasks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=0,
        )
        self._rest = b""
        self._send({"parent": os.getpid(), "settings": settings.to_json()})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def call(
        self, task: str, arguments: dict[str, Any], stop: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """Do a task.

        Args:
            task: A key of ``tasks.TASKS``.
            arguments: What it needs, as JSON.
            stop: Asked five times a second; the child is killed when it says yes.

        Raises:
            TaskFailed: The task raised, or the child died.
            Stopped: ``stop`` said yes.
        """
        self._send({"task": task, "arguments": arguments})
        try:
            line = self._receive(stop)
        except Stopped:
            self.kill()
            raise
        if line is None:
            self.kill()
            raise TaskFailed(task, f"its process ended with code {self._process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise TaskFailed(task, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def kill(self) -> None:
        """End the process now."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        rest = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._process.stdin.write(rest) or 0 :]
        except BrokenPipeError:
            pass  # the child has died, which ``_receive`` finds out and tells

    def _receive(self, stop: Callable[[], bool]) -> bytes | None:
        """One line, or None where the child has died."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            asked_at = time.monotonic()
            while b"\n" not in self._rest:
                ready = selector.select(POLL_S)
                if time.monotonic() - asked_at >= POLL_S:
                    asked_at = time.monotonic()
                    if stop():
                        raise Stopped
                if ready:
                    chunk = os.read(self._process.stdout.fileno(), READ_BYTES)
                    if not chunk:
                        return None
                    self._rest += chunk
        line, self._rest = self._rest.split(b"\n", 1)
        return line
