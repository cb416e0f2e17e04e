"""Whether the networks that a search returns are as fast as it was promised.

    python -m benchmarks.delivered [--budgets 30] [--runtime onnxruntime] [--threads 1] [--json]

This machine is profiled as a campaign profiles it. Budgets are drawn over the feasible range; each is
searched with the supernet's own predictor, and what comes is cut out of the supernet, written as ONNX,
and measured whole, by the table's statistic, in rounds that are interleaved over all networks and spread
over as long as the profile took: a machine has quiet and busy minutes, and both see as many of them.

JSON: ``budgets``, ``over_interval`` (how many networks are over their budget by more than the interval that
came with them), ``over_budget`` (by anything), ``worst_excess`` (of the measured latency over the budget,
relative), ``inside_interval`` (share), ``mape`` (predicted against measured), ``interval`` (relative, 90%),
``table_mape`` and ``repeat_mape`` (of the table's quality card), ``pace`` (what a few ops take now, over what
they took while the machine was profiled; median), ``profile_s``, and ``networks`` with
``budget_ms``, ``predicted_ms``, ``upper_ms`` and ``measured_ms`` of each.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency_table import add_options, profile_here, subnet_entry
from benchmarks.programs import run
from bespoke.agent import ChildBench
from bespoke.latency_tables import (
    EFFORTS,
    LatencyTable,
    ProfilingEntry,
    ProfilingPlan,
    Report,
    entry_onnx,
    plan_profiling,
)
from bespoke.latency_tables.learning import measured_ms
from bespoke.latency_tables.timing import LOW_QUANTILE
from bespoke.predictors import read_predictor
from bespoke.search import Candidate, Constraint, Problem, feasible_ranges, search, table_plan
from bespoke.supernet import zoo
from bespoke.supernet.architecture import Architecture
from bespoke.supernet.onnx import write_onnx
from bespoke.supernet.subnet import extract, fold, load_supernet


def main() -> None:
    run(__doc__, _add_options, measure, _lines)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.add_argument("--supernet", default="ofa-mbv3-imagenette", help="of the zoo; replaces --space")
    parser.add_argument("--budgets", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--confidence", type=float, help="limit this end of the interval, not the prediction")


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield "budget ms  predicted  at most  measured"
    for row in result["networks"]:
        yield "{budget_ms:9.2f}  {predicted_ms:9.2f}  {upper_ms:7.2f}  {measured_ms:8.2f}".format(**row)
    for name, value in result.items():
        if name != "networks":
            yield f"{name:16} {value:.4g}"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Profile, search and measure."""
    entry = zoo.entry(options.supernet)
    began = time.perf_counter()
    predictor = read_predictor(entry.folder / "predictor.json", entry.space)
    table = profile_here(entry.space, options, table_plan(entry.space, predictor, options.effort))
    profile_s = time.perf_counter() - began
    low, high = feasible_ranges(entry.space, table.pricer(entry.space))["latency_ms"]
    budgets_ms = np.sort(np.random.default_rng(options.seed).uniform(low, high, options.budgets)).tolist()
    problem = Problem(entry.space, predictor, latency=table.pricer(entry.space), seed=options.seed)
    chosen = [_searched(problem, budget, options.confidence) for budget in budgets_ms]
    measured_ms, pace = _measured(entry, table, chosen, options, profile_s)
    rows = []
    for budget, best, seen in zip(budgets_ms, chosen, measured_ms, strict=True):
        assert best.latency_interval_ms is not None
        rows.append(
            {
                "budget_ms": budget,
                "predicted_ms": best.metrics["latency_ms"],
                "lower_ms": best.latency_interval_ms[0],
                "upper_ms": best.latency_interval_ms[1],
                "measured_ms": seen,
            }
        )
    return _summary(rows, table) | {"pace": pace, "profile_s": profile_s, "networks": rows}


def _searched(problem: Problem, budget_ms: float, confidence: float | None) -> Candidate:
    limit = Constraint("latency_ms", budget_ms, confidence)
    return search(replace(problem, constraints=(limit,))).best


def _measured(
    entry: zoo.ZooEntry,
    table: LatencyTable,
    chosen: list[Candidate],
    options: argparse.Namespace,
    span_s: float,
) -> tuple[list[float], float]:
    """Latency of each network in ms, by the table's statistic; and the pace of the machine's sentinels."""
    distinct = {one.architecture.id: one.architecture for one in chosen}
    effort = EFFORTS[options.effort]
    sentinels = [e.key for e in plan_profiling(entry.space).entries if e.kind == "sentinel" and e.key]
    networks = [subnet_entry(a.to_json(), name) for name, a in distinct.items()]
    ops = [ProfilingEntry(key, "op", key=key) for key in sentinels]
    plan = ProfilingPlan((*networks, *ops), effort.rounds, options.effort, options.seed, effort.timing)
    reports = []
    with tempfile.TemporaryDirectory() as folder, ChildBench(options.runtime, options.threads) as bench:
        files = _files(entry, distinct, Path(folder), options.precision)
        for one in ops:
            files[one.id] = _written(Path(folder), entry_onnx(one, entry.space, options.precision))
        began = time.monotonic()
        for number in range(plan.rounds):
            time.sleep(max(0.0, began + number * span_s / plan.rounds - time.monotonic()))
            for one in plan.order(number):
                path, sha256 = files[one.id]
                done = bench.measure(path, sha256, plan.timing.of(one.kind))
                reports.append(Report(one.id, number, done.samples_ms, done.cold_ms))
    found = measured_ms(table, plan, reports)
    pace = []
    for key in sentinels:
        lows = [np.quantile(r.samples_ms, LOW_QUANTILE) for r in reports if r.entry_id == key]
        pace.append(float(min(lows)) / table.stats[key].low_ms)
    return [found[f"subnet:{one.architecture.id}"] for one in chosen], float(np.median(pace))


def _files(
    entry: zoo.ZooEntry, architectures: Mapping[str, Architecture], folder: Path, precision: str
) -> dict[str, tuple[Path, str]]:
    """Each network cut out and written, with its digest, by the id of its entry."""
    network, statistics = load_supernet(entry)
    files = {}
    for name, architecture in architectures.items():
        subnet = extract(network, architecture, statistics.lookup(architecture))
        files[f"subnet:{name}"] = _written(folder, write_onnx(subnet.plan, fold(subnet), precision=precision))
    return files


def _written(folder: Path, model: bytes) -> tuple[Path, str]:
    sha256 = hashlib.sha256(model).hexdigest()
    path = folder / f"{sha256}.onnx"
    path.write_bytes(model)
    return path, sha256


def _summary(rows: list[dict[str, float]], table: LatencyTable) -> dict[str, Any]:
    budget, predicted, lower, upper, seen = (
        np.array([row[name] for row in rows])
        for name in ("budget_ms", "predicted_ms", "lower_ms", "upper_ms", "measured_ms")
    )
    assert table.quality is not None
    return {
        "budgets": len(rows),
        "over_interval": int((seen > budget + (upper - predicted)).sum()),
        "over_budget": int((seen > budget).sum()),
        "worst_excess": float((seen / budget - 1).max()),
        "inside_interval": float(((lower <= seen) & (seen <= upper)).mean()),
        "mape": float((np.abs(predicted - seen) / seen).mean()),
        "interval": table.interval,
        "table_mape": table.quality.mape,
        "repeat_mape": table.quality.repeat_mape,
    }


if __name__ == "__main__":
    main()
