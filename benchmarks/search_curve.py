"""Quality against evaluations: our search, random search and pymoo on one latency limit, as a picture.

``python -m benchmarks.search_curve --predictor FILE --table FOLDER --latency-ms 25 --out docs/search.png``

Each of ours is a search with an effort of its own, of pymoo's genetic algorithm and of random search
the best so far. Random search draws architectures of all sizes (each leans to small or to large
choices) and evaluates those within the limit; pymoo's evaluations beyond the limit count, since it
predicts them too. Linearisations of the predictor are not evaluations, and take about three times
their CPU; ``--json`` tells the CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.nsga2 import run
from benchmarks.published import add_files, problem_of
from bespoke.search import Constraint, Effort, Problem, search
from bespoke.search.evaluator import Limits
from bespoke.search.lineages import leaning
from bespoke.supernet.architecture import Genomes
from bespoke.supernet.whole_files import replacing

EFFORTS = ((4, 1), (4, 4), (8, 6), (16, 8), (24, 14), (32, 20), (64, 28), (128, 40), (256, 60), (512, 60))
"""Population and generations of our searches."""

POINTS, FIRST = 60, 100
"""Points of a curve, and where it begins: pymoo knows nothing before its first population."""

INK, OURS, RANDOM, PYMOO = "#1f2933", "#2563ab", "#9aa5b1", "#b4541a"

Curve = list[tuple[float, float]]
"""Evaluations so far, and the best top-1 so far."""


def main() -> None:
    given = _arguments()
    problem = problem_of(given)
    problem = replace(problem, constraints=(Constraint("latency_ms", given.latency_ms),))
    search(replace(problem, effort=Effort(8, 1)))  # fills caches that a service keeps
    curves = {
        "bespoke": _ours(problem, given.seeds),
        "pymoo": _sampled([_pymoo(problem, given.evaluations, seed) for seed in range(given.seeds)]),
        "random": _sampled([_random(problem, given.evaluations, seed) for seed in range(given.seeds)]),
    }
    if given.out:
        _draw(curves, given)
    report = {
        "latency_ms": given.latency_ms,
        "seeds": given.seeds,
        "default": _ours(problem, given.seeds, True),
    }
    if given.json:
        print(json.dumps({**report, "curves": curves}))
        return
    for name, points in curves.items():
        last = points[-1]
        print(
            f"{name:8} {last['evaluations']:9.0f} evaluations  {last['top1']:.5f}  {last['cpu_s']:.2f} CPU s"
        )
    own = report["default"][0]
    print(f"{'default':8} {own['evaluations']:9.0f} evaluations  {own['top1']:.5f}  {own['cpu_s']:.2f} CPU s")


def _ours(problem: Problem, seeds: int, default: bool = False) -> list[dict[str, float]]:
    """Medians over the seeds at each effort."""
    points = []
    for effort in [Effort()] if default else [Effort(*effort) for effort in EFFORTS]:
        top1, evaluations, seconds = [], [], []
        for seed in range(seeds):
            began = time.process_time()
            found = search(replace(problem, effort=effort, seed=seed))
            seconds.append(time.process_time() - began)
            top1.append(found.best.top1)
            evaluations.append(found.evaluations)
        points.append(_point(evaluations, top1, seconds))
    return points


def _random(problem: Problem, count: int, seed: int) -> tuple[Curve, float]:
    """The best of architectures within the limit, drawn one after another."""
    limits, rng = Limits(problem), np.random.default_rng(seed)
    way: Curve = []
    began, drawn, best = time.process_time(), 0, -np.inf
    with threadpool_limits(1):
        while drawn < count:
            genomes = leaning(problem.space, 4096, rng)
            genomes = genomes[limits.meets(genomes)][: count - drawn]
            top1 = np.maximum(np.maximum.accumulate(problem.predictor.top1(genomes)), best)
            way += list(zip(range(drawn + 1, drawn + 1 + len(top1)), top1.tolist(), strict=True))
            drawn, best = drawn + len(top1), way[-1][1] if way else best
    return way, time.process_time() - began


def _pymoo(problem: Problem, count: int, seed: int) -> tuple[Curve, float]:
    """The best within the limit after each generation of pymoo's genetic algorithm."""
    limits = Limits(problem)

    def objective(genomes: Genomes) -> NDArray[np.float64]:
        return -problem.predictor.top1(genomes)[:, None]

    began = time.process_time()
    with threadpool_limits(1):
        _, _, way = run(problem, objective, 1, count, seed, excess=lambda genomes: limits.shares(genomes) - 1)
    return [(made, -value) for made, value in way if np.isfinite(value)], time.process_time() - began


def _sampled(runs: list[tuple[Curve, float]]) -> list[dict[str, float]]:
    """Medians over the runs, at the same evaluations."""
    first, last = max(FIRST, *(way[0][0] for way, _ in runs)), min(way[-1][0] for way, _ in runs)
    points = []
    for at in np.unique(np.geomspace(first, last, POINTS).round()):
        best = [max(top1 for made, top1 in way if made <= at) for way, _ in runs]
        points.append(_point([at], best, [seconds * at / way[-1][0] for way, seconds in runs]))
    return points


def _point(evaluations: Sequence[float], top1: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    return {
        "evaluations": float(statistics.median(evaluations)),
        "top1": statistics.median(top1),
        "top1_worst": min(top1),
        "top1_best": max(top1),
        "cpu_s": statistics.median(seconds),
    }


def _draw(curves: dict[str, list[dict[str, float]]], given: argparse.Namespace) -> None:
    """Write the picture: medians as lines, from the worst to the best seed as bands."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = {"bespoke": "Bespoke", "pymoo": "pymoo, genetic algorithm", "random": "random search"}
    for (name, points), colour in zip(curves.items(), (OURS, PYMOO, RANDOM), strict=True):
        x = [point["evaluations"] for point in points]
        low, high = ([100 * point[key] for point in points] for key in ("top1_worst", "top1_best"))
        axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        style: dict[str, Any] = {"marker": "o", "ms": 4} if name == "bespoke" else {}
        axes.plot(
            x, [100 * point["top1"] for point in points], color=colour, lw=1.8, label=names[name], **style
        )
    axes.set_xscale("log")
    axes.set_xlabel("architectures evaluated", color=INK)
    axes.set_ylabel("predicted top-1, %", color=INK)
    title = f"The best within {given.latency_ms:g} ms: median, worst and best of {given.seeds} seeds"
    axes.set_title(title, loc="left", color=INK, fontsize=12)
    axes.grid(color=RANDOM, alpha=0.3, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, labelcolor=INK)
    with replacing(given.out) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search_curve",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_files(parser)
    parser.add_argument("--latency-ms", type=float, default=25.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=50_000, help="of pymoo and of random search")
    parser.add_argument("--out", type=Path, help="a PNG to write")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
