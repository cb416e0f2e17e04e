"""The child's end of a pipe: JSON lines from its parent and answers back, and an end with the parent."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import IO, Any

__all__ = ["answer", "meet_parent"]

PR_SET_PDEATHSIG = 1


def meet_parent() -> tuple[dict[str, Any], IO[str]] | None:
    """Take over standard input and output for a parent, and end with it.

    Returns:
        The parent's first line, which names its process in ``parent``, and where answers go; None where the
        pipe was closed without a word. Whatever else prints then goes to standard error.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # Anything that a library prints must not get between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    first = sys.stdin.readline()
    if not first:
        return None
    set_up: dict[str, Any] = json.loads(first)
    _end_with(set_up["parent"])
    return set_up, answers


def answer(answers: IO[str], message: dict[str, Any]) -> None:
    """Write one line, and send it off."""
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, where the kernel can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the parent process has ended already")
