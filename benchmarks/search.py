"""How good and how fast a search is, on a predictor and latency tables in files.

``python -m benchmarks.search --predictor FILE --table FOLDER --latency-ms 15 20 25 30 60 --seeds 10``

``floor_s`` is what a search cannot fall below with the predictions that it makes: the operations of
their matrix products, over the rate at which one core of this machine takes such products.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.latency_tables import TablePricer, covered_space, read_table
from bespoke.predictors import AccuracyPredictor, MlpPredictor, read_predictor
from bespoke.search import Constraint, Effort, Problem, search
from bespoke.search.blas import one_thread
from bespoke.supernet.architecture import Genomes, SearchSpace
from bespoke.supernet.spaces import space as make_space

SIDES = tuple(range(8, 513, 4))
"""Resolutions that a table is asked about; those that it covers are searched."""


def main() -> None:
    given = _arguments()
    table = read_table(given.table)
    space = covered_space(table, make_space(given.space, given.resolutions or SIDES, given.classes))
    predictor, pricer = read_predictor(given.predictor, space), table.pricer(space)
    effort = Effort(given.population, given.generations)
    # The first search of a process fills caches that a service keeps.
    _measure(space, predictor, pricer, max(given.latency_ms), 1, Effort(8, 1))
    budgets = {
        f"{limit:g}": _measure(space, predictor, pricer, limit, given.seeds, effort)
        for limit in given.latency_ms
    }
    rate = _operations_a_second()
    for limit, row in budgets.items():
        row["floor_s"] = _operations(space, predictor, pricer, float(limit), effort) / rate
    report = {
        "space": space.name,
        "resolutions": list(space.dimensions[-1].choices),
        "seeds": given.seeds,
        "population": effort.population,
        "generations": effort.generations,
        "gflops": rate / 1e9,
        "budgets": budgets,
    }
    if given.json:
        print(json.dumps(report))
        return
    print(f"{space.name} at {report['resolutions']} px, {given.seeds} seeds")
    print("budget ms  top1 median  top1 best  top1 worst  slowest ms  CPU s  floor s  evaluations")
    for limit, row in budgets.items():
        print(
            f"{limit:>9}  {row['top1_median']:11.5f}  {row['top1_best']:9.5f}"
            f"  {row['top1_worst']:10.5f}  {row['latency_ms']:10.3f}"
            f"  {row['cpu_s']:5.3f}  {row['floor_s']:7.3f}  {row['evaluations']:11.0f}"
        )


def _measure(
    space: SearchSpace,
    predictor: AccuracyPredictor,
    pricer: TablePricer,
    limit: float,
    seeds: int,
    effort: Effort,
) -> dict[str, Any]:
    """One budget: medians over the seeds, the slowest answer, and the CPU seconds of one search."""
    results, seconds = [], []
    for seed in range(seeds):
        problem = Problem(space, predictor, (Constraint("latency_ms", limit),), pricer, seed, effort)
        began = time.process_time()
        results.append(search(problem))
        seconds.append(time.process_time() - began)
    top1 = [result.best.top1 for result in results]
    return {
        "top1_median": statistics.median(top1),
        "top1_best": max(top1),
        "top1_worst": min(top1),
        "latency_ms": max(result.best.metrics["latency_ms"] for result in results),
        "cpu_s": statistics.median(seconds),
        "evaluations": statistics.median(result.evaluations for result in results),
    }


@dataclass
class _Counted:
    """A predictor that counts what it is asked."""

    inner: MlpPredictor
    predicted: int = 0
    linearised: int = 0

    @property
    def revision(self) -> str:
        return self.inner.revision

    @property
    def half_width(self) -> float:
        return self.inner.half_width

    @property
    def selection_bias(self) -> float:
        return self.inner.selection_bias

    def top1(self, genomes: Genomes) -> NDArray[np.float64]:
        self.predicted += len(genomes)
        return self.inner.top1(genomes)

    def gains(self, genomes: Genomes) -> NDArray[np.float32]:
        self.linearised += len(genomes)
        return self.inner.gains(genomes)


def _operations(
    space: SearchSpace, predictor: AccuracyPredictor, pricer: TablePricer, limit: float, effort: Effort
) -> float:
    """Multiplications and additions in the matrix products of one search; a gradient takes them twice."""
    if not isinstance(predictor, MlpPredictor):
        return math.nan
    counted = _Counted(predictor)
    search(Problem(space, counted, (Constraint("latency_ms", limit),), pricer, 0, effort))
    macs = sum(layer.weight.size for network in predictor.networks for layer in network)
    return 2.0 * macs * (counted.predicted + 2 * counted.linearised)


def _operations_a_second() -> float:
    """The best of a few runs of a product like those of a predictor, on one thread."""
    rng = np.random.default_rng(0)
    tile, weight = rng.random((64, 400), np.float32), rng.random((400, 400), np.float32)
    seconds = []
    with one_thread():
        for _ in range(20):
            began = time.process_time()
            for _ in range(50):
                tile @ weight
            seconds.append(time.process_time() - began)
    return 50 * 2 * tile.shape[0] * weight.size / min(seconds)


def _arguments() -> argparse.Namespace:
    default = Effort()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--predictor", type=Path, required=True, help="predictor.json or acc_predictor.pth")
    parser.add_argument(
        "--table", type=Path, nargs="+", required=True, help="latency tables: files or folders"
    )
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[15, 20, 25, 30, 60])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--space", default="ofa-mobilenetv3-w1.2")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--resolutions", type=int, nargs="+", help="sides in pixels; else all covered")
    parser.add_argument("--population", type=int, default=default.population)
    parser.add_argument("--generations", type=int, default=default.generations)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
