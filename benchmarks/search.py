"""How good and how fast a search is, on a predictor and latency tables in files.

``python -m benchmarks.search --predictor FILE --table FOLDER --latency-ms 15 20 25 30 60 --seeds 10``

``floor_s`` is what a search cannot fall below with the predictions that it makes: the operations of
their matrix products, over the rate at which one core of this machine takes such products.

``--enumerated 100`` also solves so many random problems on parts of the space that can be enumerated (one
depth, all resolutions, two values of one other dimension and one of the rest), and tells how often the
search found the true optimum. Fronts are measured by ``python -m benchmarks.pareto``, archives by
``python -m benchmarks.archive``.
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
from bespoke.search import Constraint, Effort, Problem, restrict, search
from bespoke.supernet.architecture import Genomes, SearchSpace, cardinalities


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
    report: dict[str, Any] = {
        "space": problem.space.name,
        "resolutions": list(problem.space.dimensions[-1].choices),
        "seeds": given.seeds,
        "population": effort.population,
        "generations": effort.generations,
        "gflops": rate / 1e9,
        "budgets": budgets,
    }
    if given.enumerated:
        report["enumerated"] = _enumerated(problem, given.enumerated)
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
    if given.enumerated:
        told = report["enumerated"]
        print(
            f"true optimum of {told['solved']} of {told['problems']} enumerated problems, each of "
            f"{told['architectures']:.0f} architectures"
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


def _enumerated(problem: Problem, count: int) -> dict[str, float]:
    """How many of so many random problems are solved, and how many architectures each has, as a median."""
    rng, solved, sizes = np.random.default_rng(0), 0, []
    for seed in range(count):
        part = restrict(problem, _few_choices(problem.space, rng))
        genomes = _every_genome(part.space)
        assert part.latency is not None
        latency_ms, top1 = part.latency.latency_ms(genomes), part.predictor.top1(genomes)
        limit = float(np.quantile(latency_ms, rng.uniform(0.02, 0.98)))
        asked = replace(part, constraints=(Constraint("latency_ms", limit),), seed=seed)
        solved += search(asked).best.top1 >= top1[latency_ms <= limit].max()
        sizes.append(len(genomes))
    return {"problems": count, "solved": solved, "architectures": statistics.median(sizes)}


def _few_choices(space: SearchSpace, rng: np.random.Generator) -> dict[str, tuple[float, ...]]:
    """One value of each dimension but the resolution, and two of one that is no depth."""
    *dimensions, _ = space.dimensions
    wide = str(rng.choice([d.name for d in dimensions if "depth" not in d.name]))
    return {
        d.name: tuple(rng.choice(d.choices, 2 if d.name == wide else 1, replace=False).tolist())
        for d in dimensions
        if "depth" not in d.name
    } | {d.name: (d.choices[0],) for d in dimensions if "depth" in d.name}


def _every_genome(space: SearchSpace) -> Genomes:
    """All of a space whose depths are fixed, (N, G)."""
    sizes = cardinalities(space)
    free = np.flatnonzero((sizes > 1) & space.active(np.zeros((1, len(sizes)), np.int16))[0])
    places = np.indices([int(sizes[gene]) for gene in free]).reshape(len(free), -1)
    genomes = np.zeros((places.shape[1], len(sizes)), np.int16)
    genomes[:, free] = places.T
    return genomes


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
    parser.add_argument("--enumerated", type=int, default=0, help="problems on parts that can be enumerated")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
