"""How good the answers out of an archive are, as it grows, on a predictor and latency tables in files.

``python -m benchmarks.archive --predictor FILE --table FOLDER --generations 12``

A service grows an archive in idle time; an answer is then a look-up, whose median milliseconds over 200
limits are told too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.published import add_files, problem_of
from bespoke.search import Constraint, Problem, feasible_ranges
from bespoke.search.archive import Archive, grow, look_up

LOOKED_UP = 200


def main() -> None:
    given = _arguments()
    problem = problem_of(given)
    archive: Archive | None = None
    generations: list[dict[str, Any]] = []
    for _ in range(given.generations):
        began = time.process_time()
        archive = grow(problem, archive)
        assert archive is not None  # nothing stops it
        seconds = time.process_time() - began
        answers = [_answered(problem, archive, limit) for limit in given.latency_ms]
        generations.append(
            {
                "members": len(archive),
                "cpu_s": seconds,
                "look_up_ms": _look_up_ms(problem, archive),
                "top1": {f"{limit:g}": top1 for limit, top1 in zip(given.latency_ms, answers, strict=True)},
            }
        )
    if given.json:
        print(json.dumps({"space": problem.space.name, "generations": generations}))
        return
    print(
        "generation  members  CPU s  look-up ms  "
        + "  ".join(f"{limit:>5g} ms" for limit in given.latency_ms)
    )
    for number, row in enumerate(generations):
        told = "  ".join("       -" if top1 is None else f"{top1:8.5f}" for top1 in row["top1"].values())
        print(f"{number:>10}  {row['members']:7}  {row['cpu_s']:5.2f}  {row['look_up_ms']:10.2f}  {told}")


def _answered(problem: Problem, archive: Archive, limit: float) -> float | None:
    found = look_up(replace(problem, constraints=(Constraint("latency_ms", limit),)), archive)
    return found.best.top1 if found else None


def _look_up_ms(problem: Problem, archive: Archive) -> float:
    low, high = feasible_ranges(problem.space, problem.latency)["latency_ms"]
    seconds = []
    for limit in np.random.default_rng(0).uniform(low, high, LOOKED_UP).tolist():
        began = time.perf_counter()
        _answered(problem, archive, limit)
        seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.archive",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_files(parser)
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[15, 20, 25, 30, 60])
    parser.add_argument("--generations", type=int, default=12)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
