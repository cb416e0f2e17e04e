"""How good accuracy predictors are by their number of examples: ours against ridge and RBF-SVR.

    python -m benchmarks.predictor --dataset FILE --space space.json [--json]
    python -m benchmarks.predictor --supernet ofa-mbv3-imagenette --counts 100 300 800 --unseen 200

The same examples and the same unseen ones for all learners, drawn anew for each seed; ridge and SVR get
the one-hot features of ours, and choose their strengths by cross-validation. Fitted and judged on is
top-1 with soft edges where the set has it, as ``bespoke zoo fit`` does; ``--raw`` takes top-1 as
measured. ``--active`` adds a row in which half of our examples were chosen in rounds, out of those that
are left, for being unsure. All on one thread.

JSON: ``learners`` with ``kendall_tau``, ``rmse`` (absolute top-1) and their standard deviations over the
seeds, ``kendall_tau_across`` (of the pairs whose resolutions differ) and ``fit_cpu_s``, by learner and
count; ``selection_error`` (predicted less measured of the winners of simulated searches, cross-fitted, by
number of candidates); ``mean_top1`` and ``sd_top1`` of the set.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVR
from threadpoolctl import threadpool_limits

from benchmarks import programs
from bespoke.predictors.accuracy import default_encoding, one_hot
from bespoke.predictors.active import most_unsure
from bespoke.predictors.dataset import DATASET, AccuracyDataset, merge_datasets
from bespoke.predictors.fitting import LEARNER, LEARNERS, cross_predictions, rmse
from bespoke.predictors.selection import selection_error
from bespoke.supernet import zoo
from bespoke.supernet.agreement import kendall_tau
from bespoke.supernet.architecture import Genomes, SearchSpace, decode, encode
from bespoke.supernet.cost import CostTable
from bespoke.supernet.json_files import read_object
from bespoke.supernet.spaces import space_from_json

Values = NDArray[np.float64]
Guess = Callable[[SearchSpace, Genomes, Values, Genomes, int], Values]
"""From a space, examples, unseen genomes and a seed to predictions of the unseen ones."""


def ridge(space: SearchSpace, genomes: Genomes, top1: Values, unseen: Genomes, seed: int) -> Values:
    model = RidgeCV(alphas=np.logspace(-2, 3, 16))
    return np.asarray(model.fit(features(space, genomes), top1).predict(features(space, unseen)))


def svr(space: SearchSpace, genomes: Genomes, top1: Values, unseen: Genomes, seed: int) -> Values:
    centre, spread = top1.mean(), top1.std() or 1.0
    grid = {
        "C": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
        "gamma": (0.001, 0.003, 0.01, 0.03, 0.1),
        "epsilon": (0.03, 0.1, 0.3),
    }
    model = GridSearchCV(SVR(kernel="rbf"), grid, scoring="neg_mean_squared_error", cv=4)
    model.fit(features(space, genomes), (top1 - centre) / spread)
    return np.asarray(centre + spread * model.predict(features(space, unseen)))


GUESSES: Mapping[str, Guess] = {"ridge": ridge, "svr": svr}
"""Beside our own learners."""


def features(space: SearchSpace, genomes: Genomes) -> NDArray[np.float32]:
    """The one-hot features of our predictor, (N, F)."""
    table = default_encoding(space).features(space)
    return one_hot(space, table, genomes, len(genomes))[:, : table[1]]


def actively(space: SearchSpace, genomes: Genomes, top1: Values, count: int) -> NDArray[np.intp]:
    """Which examples two active rounds choose out of a pool: half of them at random first."""
    chosen = list(range(count // 2))
    pool = [decode(space, genome) for genome in genomes]
    places = {architecture: number for number, architecture in enumerate(pool)}
    for size in (count // 4, count - count // 2 - count // 4):
        left = [pool[i] for i in range(len(pool)) if i not in set(chosen)]
        found = most_unsure(space, genomes[chosen], top1[chosen], left, size)
        chosen += [places[architecture] for architecture in found]
    return np.array(chosen)


def measure(space: SearchSpace, dataset: AccuracyDataset, options: argparse.Namespace) -> dict[str, Any]:
    genomes = encode(space, dataset.architectures)
    top1 = np.array(dataset.top1) if options.raw else dataset.targets()
    counts = [count for count in options.counts if count <= len(top1) - options.unseen]
    rows: dict[str, dict[int, list[tuple[float, float, float, float]]]] = {}
    for seed in range(options.seeds):
        order = np.random.default_rng([seed, 7]).permutation(len(top1))
        unseen, rest = order[: options.unseen], order[options.unseen :]
        for count in counts:
            chosen = dict.fromkeys(options.learners, rest[:count])
            if options.active and count < len(rest):
                chosen[f"{LEARNER}, active"] = rest[actively(space, genomes[rest], top1[rest], count)]
            for name, seen in chosen.items():
                began = time.process_time()
                predicted = _predicted(name, space, (genomes[seen], top1[seen]), genomes[unseen], seed)
                spent = time.process_time() - began
                across = _tau_across(predicted, top1[unseen], genomes[unseen, -1])
                row = (kendall_tau(predicted, top1[unseen]), rmse(predicted, top1[unseen]), across, spent)
                rows.setdefault(name, {}).setdefault(count, []).append(row)
    return {
        "learners": {name: {n: _summary(runs) for n, runs in by.items()} for name, by in rows.items()},
        "selection_error": _selection(space, genomes, top1, options),
        "left_out": [count for count in options.counts if count not in counts],
        "subnets": len(top1),
        "unseen": options.unseen,
        "seeds": options.seeds,
        "mean_top1": float(top1.mean()),
        "sd_top1": float(top1.std()),
    }


def _predicted(
    name: str, space: SearchSpace, seen: tuple[Genomes, Values], unseen: Genomes, seed: int
) -> Values:
    learner = name.partition(",")[0]
    if learner in LEARNERS:
        return LEARNERS[learner](space, *seen, seed).top1(unseen)
    return GUESSES[learner](space, *seen, unseen, seed)


def _tau_across(predicted: Values, top1: Values, resolutions: Genomes) -> float:
    """Kendall's tau of the pairs that are not of one resolution."""
    first, second = np.nonzero(np.triu(resolutions[:, None] != resolutions))
    return float(np.mean(np.sign(predicted[first] - predicted[second]) * np.sign(top1[first] - top1[second])))


def _summary(runs: list[tuple[float, float, float, float]]) -> dict[str, float]:
    tau, error, across, seconds = np.array(runs).T
    return {
        "kendall_tau": round(float(tau.mean()), 4),
        "kendall_tau_sd": round(float(tau.std()), 4),
        "rmse": round(float(error.mean()), 5),
        "rmse_sd": round(float(error.std()), 5),
        "kendall_tau_across": round(float(across.mean()), 4),
        "fit_cpu_s": round(float(np.median(seconds)), 2),
    }


def _selection(
    space: SearchSpace, genomes: Genomes, top1: Values, options: argparse.Namespace
) -> dict[int, float]:
    """Mean over the seeds, by number of candidates of a simulated search."""
    macs, found = CostTable(space).macs(genomes), {}
    crossed = [cross_predictions(space, genomes, top1, seed) for seed in range(options.seeds)]
    for candidates in (1, 5, 25, 100):
        errors = [
            selection_error(macs, predicted, top1, seed, candidates=candidates)
            for seed, predicted in enumerate(crossed)
        ]
        found[candidates] = round(float(np.mean(errors)), 5)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset", type=Path, nargs="+", help="accuracy.jsonl; that of --supernet unless given"
    )
    parser.add_argument("--space", type=Path, help="space.json; that of --supernet unless given")
    parser.add_argument("--supernet", default="ofa-mbv3-imagenette", help="of the zoo")
    parser.add_argument("--zoo", type=Path, default=zoo.ROOT)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 300, 500, 1000])
    parser.add_argument("--unseen", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learners", nargs="+", default=[*LEARNERS, *GUESSES])
    parser.add_argument("--raw", action="store_true", help="top-1 as measured, also where it has soft edges")
    parser.add_argument("--active", action="store_true", help="with active rounds out of the set, too")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """What the learners make of the data set."""
    if options.space:
        space = space_from_json(read_object(options.space))
    else:
        space = zoo.entry(options.supernet, options.zoo).space
    files = options.dataset or [options.zoo / options.supernet / DATASET]
    torch.set_num_threads(1)  # threads that wait for one another would count as work
    with threadpool_limits(limits=1):
        return measure(space, merge_datasets(files, space), options)


def lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"{result['subnets']} subnets, top-1 {result['mean_top1']:.4f} (sd {result['sd_top1']:.4f})"
    yield "learner        examples    tau   (sd)   across     RMSE    (sd)  CPU s"
    for name, by in result["learners"].items():
        for count, row in by.items():
            yield (
                f"{name:14} {count:8}  {row['kendall_tau']:.3f} ({row['kendall_tau_sd']:.3f})"
                f"   {row['kendall_tau_across']:.3f}  {row['rmse']:.5f} ({row['rmse_sd']:.5f})"
                f"  {row['fit_cpu_s']:5.1f}"
            )
    yield f"selection error by candidates: {result['selection_error']}"
    if result["left_out"]:
        enough = max(result["left_out"]) + result["unseen"]
        yield f"left out: {result['left_out']} examples, for which the set would need {enough} subnets"


if __name__ == "__main__":
    programs.run(__doc__, add_options, run, lines)
