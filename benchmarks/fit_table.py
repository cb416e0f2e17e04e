"""How well a table that was fitted to whole networks prices networks, and resolutions, that it never saw.

    python -m benchmarks.fit_table --table note10/ [--counts 50 100 300 1000] [--json]

The given table is the truth: networks of random architectures at all its resolutions get its latency, with
noise (3%), and where asked with a share of gross outliers. Fitted is ``fit_table`` and, to compare it, ridge
regression on the one-hot choices (each times 1 and times the input's area; strength by cross-validation) and
shapes alone (non-negative least squares on an op's quantities). All are judged by 1,000 unseen networks
without noise: once with a log at all resolutions, once at resolutions that are left out of the log.

JSON: by number of networks, ``seen`` and ``unseen`` (resolutions), each ``fit``, ``ridge`` and ``shapes``
with ``mape`` and ``spearman``; ``rejected`` and ``interval`` of the fit.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from bespoke.latency_tables import LatencyTable, NetworkSample, covered_space, fit_table, read_table
from bespoke.latency_tables.quality import Floats
from bespoke.latency_tables.regression import shape_prior
from bespoke.latency_tables.shapes import SpaceOps
from bespoke.supernet.agreement import spearman
from bespoke.supernet.architecture import Genomes, SearchSpace, cardinalities, decode
from bespoke.supernet.genomes import sample
from bespoke.supernet.spaces import space as make_space

SIDES = tuple(range(8, 513, 4))
UNSEEN = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--table", type=Path, nargs="+", required=True)
    parser.add_argument("--space", default="ofa-mobilenetv3-w1.2")
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 100, 300, 1000])
    parser.add_argument("--noise", type=float, default=0.03)
    parser.add_argument("--outliers", type=float, default=0.0, help="share of latencies that are grossly off")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    truth = read_table(options.table)
    space = covered_space(truth, make_space(options.space, SIDES, 1000))
    result = {str(count): _one(truth, space, count, options) for count in options.counts}
    if options.json:
        print(json.dumps(result))
        return
    for count, rows in result.items():
        print(f"{count} networks, interval {rows['interval']:.1%}, {rows['rejected']} rejected")
        for where in ("seen", "unseen"):
            for name, row in rows[where].items():
                print(f"  {where:7} {name:7} MAPE {row['mape']:7.2%}  Spearman {row['spearman']:.4f}")


def _one(truth: LatencyTable, space: SearchSpace, count: int, options: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng([options.seed, count])
    sides = len(space.dimensions[-1].choices)
    fit = _judged(truth, space, _draw(space, count, rng, range(sides)), range(sides), rng, options)
    if sides < 3:
        return fit
    middle = range(1, sides, 2)
    inside = _draw(space, count, rng, range(0, sides, 2))
    unseen = _judged(truth, space, inside, middle, rng, options)
    return fit | {"unseen": unseen["seen"], "unseen_interval": unseen["interval"]}


def _draw(space: SearchSpace, count: int, rng: np.random.Generator, sides: range) -> Genomes:
    genomes = sample(space, count, rng)
    genomes[:, -1] = rng.choice(list(sides), count)
    return genomes


def _judged(
    truth: LatencyTable,
    space: SearchSpace,
    log: Genomes,
    sides: range,
    rng: np.random.Generator,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Errors of the three families on unseen networks at some resolutions."""
    pricer = truth.pricer(space)
    latency_ms = pricer.latency_ms(log) * (1 + options.noise * rng.standard_normal(len(log)))
    wrong = rng.random(len(log)) < options.outliers
    latency_ms[wrong] *= rng.choice([0.2, 2.0, 5.0, 30.0], wrong.sum())
    unseen = _draw(space, UNSEEN, rng, sides)
    expected = pricer.latency_ms(unseen)
    samples = [NetworkSample(decode(space, g), float(ms)) for g, ms in zip(log, latency_ms, strict=True)]
    table = fit_table(space, samples, truth.profile)
    ops = SpaceOps(space)
    shapes, _ = shape_prior(ops.quantities, ops.counts(log), latency_ms)
    predictions = {
        "fit": table.pricer(space).latency_ms(unseen),
        "ridge": _ridge(space, log, latency_ms, unseen),
        "shapes": ops.counts(unseen) @ shapes,
    }
    return {
        "seen": {
            name: {
                "mape": float(np.abs(predicted / expected - 1).mean()),
                "spearman": spearman(predicted, expected),
            }
            for name, predicted in predictions.items()
        },
        "interval": table.interval,
        "rejected": table.quality.rejected if table.quality else 0,
    }


def _ridge(space: SearchSpace, log: Genomes, latency_ms: Floats, unseen: Genomes) -> Floats:
    from sklearn.linear_model import RidgeCV

    inside, outside = _one_hot(space, log), _one_hot(space, unseen)
    spread = inside.std(axis=0) + 1e-9
    model = RidgeCV(np.logspace(-4, 3, 15)).fit(inside / spread, latency_ms, sample_weight=latency_ms**-2)
    return np.asarray(model.predict(outside / spread))


def _one_hot(space: SearchSpace, genomes: Genomes) -> Floats:
    """Each active choice, times 1 and times the area of the input."""
    active, sizes = space.active(genomes), cardinalities(space)
    area = (np.array(space.dimensions[-1].choices, np.float64)[genomes[:, -1]] / 176) ** 2
    chosen = [
        (genomes[:, gene] == choice) & active[:, gene]
        for gene, size in enumerate(sizes[:-1])
        for choice in range(size)
    ]
    plain = np.stack([np.ones(len(genomes)), *chosen], axis=1).astype(np.float64)
    return np.concatenate([plain, plain * area[:, None]], axis=1)


if __name__ == "__main__":
    main()
