"""A worker process for the engine tests: ``python -m tests.service.engine_process``.

Reads its settings as JSON from its first argument, and runs workflows that write what they do into
the file that the job names.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from bespoke.service.engines.embedded import EmbeddedEngine
from bespoke.service.engines.protocol import Json, Run, Workflows
from bespoke.service.orm import open_database
from bespoke.service.settings import Settings
from bespoke.service.store import Store

STEPS = 6


def count(run: Run) -> Json:
    """Six steps that each write a line and take a while."""
    for number in range(STEPS):
        run.step(f"count {number}", lambda number=number: _write(run, number))  # type: ignore[misc]
        run.progress((number + 1) / STEPS)
    return {"steps": STEPS}


def fail(run: Run) -> Json:
    """A step that goes wrong."""
    return run.step("divide", lambda: {"answer": 1 / run.arguments["by"]})


WORKFLOWS: Workflows = {"count": count, "fail": fail}


def _write(run: Run, number: int) -> Json:
    with Path(run.arguments["file"]).open("a") as file:
        file.write(f"{number} {os.getpid()}\n")
    time.sleep(run.arguments["step_s"])
    return {"number": number}


if __name__ == "__main__":
    chosen = Settings(**json.loads(sys.argv[1]))
    engine = EmbeddedEngine(chosen, Store(open_database(chosen.database)), WORKFLOWS)
    engine.start()
    print("ready", flush=True)
    sys.stdin.read()  # until the test closes it
    engine.stop()
