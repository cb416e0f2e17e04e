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
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.published import add_files, problem_of
from bespoke.predictors import MlpPredictor
from bespoke.predictors.blas import one_thread
from bespoke.search import Constraint, Effort, Problem, search
from bespoke.supernet.architecture import Genomes


def main() -> None:
    given = _arguments()
    problem = problem_of(given)
    effort = Effort(given.population, given.generations)
    # The first search of a process fills caches that a service keeps.
    _measure(problem, max(given.latency_ms), 1, Effort(8, 1))
    budgets = {f"{limit:g}": _measure(problem, limit, given.seeds, effort) for limit in given.latency_ms}
    rate = _operations_a_second()
    for limit, row in budgets.items():
        row["floor_s"] = _operations(problem, float(limit), effort) / rate
    report = {
        "space": problem.space.name,
        "resolutions": list(problem.space.dimensions[-1].choices),
        "seeds": given.seeds,
        "population": effort.population,
        "generations": effort.generations,
        "gflops": rate / 1e9,
        "budgets": budgets,
    }
    if given.json:
        print(json.dumps(report))
        return
    print(f"{report['space']} at {report['resolutions']} px, {given.seeds} seeds")
    print("budget ms  top1 median  top1 best  top1 worst  slowest ms  CPU s  floor s  evaluations")
    for limit, row in budgets.items():
        print(
            f"{limit:>9}  {row['top1_median']:11.5f}  {row['top1_best']:9.5f}"
            f"  {row['top1_worst']:10.5f}  {row['latency_ms']:10.3f}"
            f"  {row['cpu_s']:5.3f}  {row['floor_s']:7.3f}  {row['evaluations']:11.0f}"
        )


def _measure(problem: Problem, limit: float, seeds: int, effort: Effort) -> dict[str, Any]:
    """One budget: medians over the seeds, the slowest answer, and the CPU seconds of one search."""
    results, seconds = [], []
    for seed in range(seeds):
        asked = replace(problem, constraints=(Constraint("latency_ms", limit),), seed=seed, effort=effort)
        began = time.process_time()
        results.append(search(asked))
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


def _operations(problem: Problem, limit: float, effort: Effort) -> float:
    """Multiplications and additions in the matrix products of one search; a gradient takes them twice."""
    if not isinstance(problem.predictor, MlpPredictor):
        return math.nan
    counted = _Counted(problem.predictor)
    limits = (Constraint("latency_ms", limit),)
    search(replace(problem, predictor=counted, constraints=limits, effort=effort))
    macs = sum(layer.weight.size for network in problem.predictor.networks for layer in network)
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
    add_files(parser)
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[15, 20, 25, 30, 60])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--population", type=int, default=default.population)
    parser.add_argument("--generations", type=int, default=default.generations)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
