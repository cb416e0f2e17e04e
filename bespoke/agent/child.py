"""The measuring child: the process that networks run in, so that none of them can end the agent.

Run as a program it reads one JSON line that sets it up and answers with what its runtime is, then one
line for each network, answered with a measurement or ``{"error": text}``. It ends with its parent.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bespoke.agent.affinity import pinned
from bespoke.agent.conditions import read_conditions
from bespoke.agent.measure import measure
from bespoke.agent.runtimes import Runtime, open_runtime
from bespoke.latency_tables import Timing
from bespoke.supernet.child_processes import answer, meet_parent
from bespoke.supernet.errors import BespokeError, InvalidInput, NotFound
from bespoke.supernet.whole_files import digest_of

__all__ = ["main"]


def main() -> None:
    """Serve one parent until it closes the pipe or ends."""
    met = meet_parent()
    if met is None:
        return
    set_up, answers = met
    # Before the runtime is imported: some count the cores at that moment.
    with pinned(set_up["threads"]) if set_up["pin"] else nullcontext(()) as cores:
        runtime, facts = _open(set_up)
        answer(answers, facts)
        if runtime is not None:
            for line in sys.stdin:
                answer(answers, _measured(runtime, json.loads(line), cores))


def _open(set_up: dict[str, Any]) -> tuple[Runtime | None, dict[str, Any]]:
    """The runtime, and what it is; or none, and why."""
    try:
        runtime = open_runtime(set_up["runtime"], set_up["threads"], set_up["provider"])
        return runtime, {"name": runtime.name, "version": runtime.version, "provider": runtime.provider}
    except NotFound as error:
        return None, {"error": str(error), "not_found": [error.kind, error.name, error.known]}
    except BespokeError as error:
        return None, {"error": str(error), "kind": type(error).__name__}


def _measured(runtime: Runtime, request: dict[str, Any], cores: tuple[int, ...]) -> dict[str, Any]:
    try:
        model = _checked(Path(request["model"]), request["sha256"])
        done = measure(lambda: runtime.load(model), Timing.from_json(request["timing"]))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    now = read_conditions(cores)
    return asdict(done) | {"frequency_mhz": now.frequency_mhz, "temperature_c": now.temperature_c}


def _checked(path: Path, sha256: str) -> Path:
    if digest_of(path) != sha256:
        raise InvalidInput(f"{path}: its sha256 is not {sha256}; it was changed since it was fetched")
    return path


if __name__ == "__main__":
    main()
