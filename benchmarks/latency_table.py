"""How well a table of op times predicts whole networks on this machine.

    python -m benchmarks.latency_table [--runtime onnxruntime] [--threads 1] [--precision fp32] [--json]

Ops and whole subnets of an OFA-MobileNetV3 space are measured as the agent measures them (a child process
pinned to as many cores as threads, rounds interleaved over all entries in random order), and a table is
fitted as a campaign fits it. Two fifths of the subnets fit the correction; the others are held out.

JSON: ``mape``, ``p95_error``, ``worst_error``, ``within_5pct``, ``within_10pct``, ``spearman``, ``kendall``
(on held-out subnets), ``repeat_mape`` (the machine's own, of the same run), ``subnets`` (held out), ``ops``,
``interval`` (relative, 90%), ``drift`` (of the sentinels), ``profile_s``, and the ``profile`` itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bespoke.agent import ChildBench, device_profile
from bespoke.latency_tables import (
    LatencyTable,
    ProfilingEntry,
    ProfilingPlan,
    Report,
    build_table,
    entry_onnx,
    plan_profiling,
)
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import TaskFailed
from bespoke.supernet.genomes import stratified
from bespoke.supernet.spaces import space as make_space

SUBNETS = 100
"""Two fifths of them fit the correction; 60 are held out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    parser.add_argument("--subnets", type=int, default=SUBNETS, help="fitted and held-out ones together")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    space = space_of(options)
    began = time.perf_counter()
    table = profile_here(space, options, plan_with(space, options.effort, options.subnets))
    result = summary(table) | {"profile_s": time.perf_counter() - began}
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:16} {value:.4g}" if isinstance(value, int | float) else f"{name:16} {value}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every benchmark of tables takes."""
    parser.add_argument("--space", default="ofa-mobilenetv3-w1.0")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[160, 224])
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "int8"])
    parser.add_argument("--effort", default="standard", choices=["quick", "standard", "thorough"])


def space_of(options: argparse.Namespace) -> SearchSpace:
    """The space that the options name."""
    return make_space(options.space, tuple(options.resolutions), 1000)


def plan_with(space: SearchSpace, effort: str, subnets: int) -> ProfilingPlan:
    """What a campaign measures, with so many random subnets in place of its own."""
    plan = plan_profiling(space, effort=effort)
    kept = [entry for entry in plan.entries if entry.kind != "subnet"]
    chosen = [subnet_entry(a.to_json(), a.id) for a in stratified(space, subnets, seed=1)]
    return replace(plan, entries=(*kept, *chosen))


def profile_here(space: SearchSpace, options: argparse.Namespace, plan: ProfilingPlan) -> LatencyTable:
    """Measure a plan's entries on this machine, and fit a table."""
    with ChildBench(options.runtime, options.threads) as bench:
        profile = device_profile("this machine", bench, precision=options.precision)
        reports = list(measure_plan(bench, plan, space, options.precision))
    return build_table(profile, plan, reports, space)


def subnet_entry(architecture: dict[str, Any], name: str) -> ProfilingEntry:
    """A whole subnet as an entry of a plan."""
    return ProfilingEntry(f"subnet:{name}", "subnet", architecture=architecture)


def measure_plan(
    bench: ChildBench, plan: ProfilingPlan, space: SearchSpace, precision: str
) -> Iterator[Report]:
    """Measure all entries of a plan, round by round."""
    with tempfile.TemporaryDirectory() as folder:
        models: dict[str, tuple[Path, str]] = {}
        for entry in plan.entries:
            model = entry_onnx(entry, space, precision)
            sha256 = hashlib.sha256(model).hexdigest()
            path = Path(folder) / sha256
            path.write_bytes(model)
            models[entry.id] = path, sha256
        for number in range(plan.rounds):
            for entry in plan.order(number):
                path, sha256 = models[entry.id]
                try:
                    done = bench.measure(path, sha256, plan.timing.of(entry.kind))
                except TaskFailed as error:
                    yield Report(entry.id, number, (), error=str(error))
                    continue
                yield Report(entry.id, number, done.samples_ms, done.cold_ms)


def summary(table: LatencyTable) -> dict[str, Any]:
    """A table's quality card in brief."""
    card = table.quality
    assert card is not None
    names: tuple[str, ...] = ("mape", "p95_error", "worst_error", "within_5pct", "within_10pct")
    names += ("spearman", "kendall")
    found: dict[str, Any] = {
        name: getattr(card, name) for name in (*names, "repeat_mape", "subnets", "drift")
    }
    audit = table.audit.to_json() if table.audit else None
    profile = table.profile
    return found | {
        "ops": len(table.stats),
        "interval": table.interval,
        "statistic": table.statistic,
        "audit": audit,
        "profile": f"{profile.runtime} {profile.runtime_version} {profile.provider}, "
        f"{profile.threads} thread(s), {profile.precision}",
    }


if __name__ == "__main__":
    main()
