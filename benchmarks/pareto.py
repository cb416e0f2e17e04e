"""How good fronts are, against pymoo's NSGA-II with ten times the evaluations.

``python -m benchmarks.pareto --predictor FILE --table FOLDER --seeds 5``

Volumes are those that a front dominates, with every metric scaled to the range of the best front that
all runs together found, and seen from just beyond its worst corner, as a share of the whole. Of ours
only the members that are returned count, and a linearisation counts as an evaluation; of pymoo all
that it ever evaluated counts, and not only its last population.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.nsga2 import run
from benchmarks.published import add_files, problem_of
from bespoke.search import Effort, Front, Problem, hypervolume, non_dominated, pareto_front
from bespoke.search.evaluator import prices_of
from bespoke.supernet.architecture import Genomes

PAIRS = (
    "top1,latency_ms",
    "top1,macs",
    "top1,peak_memory_bytes",
    "top1,latency_ms,params",
)

_BEYOND = 1.01
"""Where the volume is seen from, in shares of the range."""


def main() -> None:
    given = _arguments()
    problem = replace(problem_of(given), effort=Effort(given.population, given.generations))
    pareto_front(replace(problem, effort=Effort(8, 2)))  # fills caches that a service keeps
    report: dict[str, Any] = {
        "space": problem.space.name,
        "resolutions": list(problem.space.dimensions[-1].choices),
        "seeds": given.seeds,
        "population": given.population,
        "generations": given.generations,
        "times": given.times,
        "metrics": {},
    }
    for metrics in given.metrics:
        report["metrics"][metrics] = _compare(problem, tuple(metrics.split(",")), given)
        if not given.json:
            _show(metrics, report["metrics"][metrics])
    if given.json:
        print(json.dumps(report))


def _compare(problem: Problem, metrics: tuple[str, ...], given: argparse.Namespace) -> dict[str, Any]:
    """One choice of metrics: volumes, ratios and CPU seconds, medians over the seeds."""
    found = [_ours(replace(problem, seed=s), metrics, given.members) for s in range(given.seeds)]
    fronts, own_s = [front for front, _ in found], [seconds for _, seconds in found]
    spent = max(front.evaluations + front.linearisations for front in fronts)
    rivals = [
        _theirs(problem, metrics, given.times * spent, s, given.rival_population) for s in range(given.seeds)
    ]
    ours = [front.values for front in fronts]
    together = np.concatenate([*ours, *(everything for _, everything, _ in rivals)])
    together = together[non_dominated(together)]
    low, high = together.min(axis=0), together.max(axis=0)

    def volume(values: NDArray[np.float64]) -> float:
        scaled = (values - low) / np.where(high > low, high - low, 1.0)
        return hypervolume(scaled, np.full(len(metrics), _BEYOND)) / _BEYOND ** len(metrics)

    own = [volume(values) for values in ours]
    last = [volume(population) for population, _, _ in rivals]
    ever = [volume(everything) for _, everything, _ in rivals]
    return {
        "hypervolume": statistics.median(own),
        "hypervolume_worst": min(own),
        "pymoo_hypervolume": statistics.median(ever),
        "pymoo_hypervolume_best": max(ever),
        "pymoo_population_hypervolume": statistics.median(last),
        "ratio": statistics.median(own) / statistics.median(ever),
        "ratio_worst": min(own) / max(ever),
        "members": statistics.median(len(values) for values in ours),
        "evaluations": statistics.median(front.evaluations for front in fronts),
        "linearisations": statistics.median(front.linearisations for front in fronts),
        "pymoo_evaluations": given.times * spent,
        "cpu_s": statistics.median(own_s),
        "pymoo_cpu_s": statistics.median(seconds for _, _, seconds in rivals),
    }


def _ours(problem: Problem, metrics: Sequence[str], members: int) -> tuple[Front, float]:
    began = time.process_time()
    front = pareto_front(problem, metrics, members)
    return front, time.process_time() - began


def _theirs(
    problem: Problem, metrics: Sequence[str], evaluations: int, seed: int, population: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    known = prices_of(problem)

    def objectives(genomes: Genomes) -> NDArray[np.float64]:
        columns = [-problem.predictor.top1(genomes) if m == "top1" else known[m].of(genomes) for m in metrics]
        return np.stack(columns, axis=1)

    began = time.process_time()
    with threadpool_limits(1):
        last, everything, _ = run(problem, objectives, len(metrics), evaluations, seed, population)
    return last, everything[non_dominated(everything)], time.process_time() - began


def _show(metrics: str, row: dict[str, Any]) -> None:
    print(
        f"{metrics}\n"
        f"  ours   {row['hypervolume']:.4f}, worst {row['hypervolume_worst']:.4f}; "
        f"{row['members']:.0f} members, {row['evaluations']:.0f} evaluations and "
        f"{row['linearisations']:.0f} linearisations, {row['cpu_s']:.2f} CPU s\n"
        f"  pymoo  {row['pymoo_hypervolume']:.4f}, best {row['pymoo_hypervolume_best']:.4f}, its population "
        f"{row['pymoo_population_hypervolume']:.4f}; {row['pymoo_evaluations']} evaluations, "
        f"{row['pymoo_cpu_s']:.1f} CPU s\n"
        f"  ratio  {row['ratio']:.4f}, our worst to pymoo's best {row['ratio_worst']:.4f}",
        flush=True,
    )


def _arguments() -> argparse.Namespace:
    default = Effort()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pareto", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_files(parser)
    parser.add_argument("--metrics", nargs="+", default=list(PAIRS), help="fronts, as top1,latency_ms")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--members", type=int, default=100, help="members of our front at most")
    parser.add_argument("--times", type=int, default=10, help="pymoo's evaluations, as a multiple of ours")
    parser.add_argument("--rival-population", type=int, default=100, help="pymoo's population")
    parser.add_argument("--population", type=int, default=default.population)
    parser.add_argument("--generations", type=int, default=default.generations)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
