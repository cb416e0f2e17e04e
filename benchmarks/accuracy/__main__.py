"""What training a supernet is worth, in four items, as one command that resumes.

    python -m benchmarks.accuracy --data imagenette2-160 --run RUN [--items 1 2 3 4] [--json]

1  Progressive shrinking against the sandwich recipe, as many epochs each, against training the same
   subnets alone for as many epochs: largest, smallest, mean of random ones, and three searched ones.
2  What a search returns at latency budgets on this CPU, against what a user would pick instead, trained
   from scratch for ``--epochs`` on the same images: the best of those within the same measured latency.
3  BN statistics of random subnets: the supernet's table against re-calibration.
4  Training throughput of a sampled subnet against plain torch training of the same network.

Items 2 and 3 are about ``--supernet``, a finished one; 1 and 4 take its space. Every number that took long
stands in a file under RUN, and is not made again; what decides it stands in settings.json there, and a run
that was asked for something else is refused. ``--items``, ``--seeds``, ``--random``, ``--alone-random``,
``--budgets``, ``--baselines`` and ``--baseline-sides`` only add work, and may change. Top-1 is on the
validation images; of the networks of item 1 and of the baselines it is with re-calibrated BN statistics.

JSON: ``item_1`` ... ``item_4``; see the modules beside this one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import programs
from benchmarks.accuracy.at_latency import RESNET, against_baselines, baselines
from benchmarks.accuracy.bn_statistics import table_against_recalibration
from benchmarks.accuracy.recipes import recipes_against_alone
from benchmarks.accuracy.setup import Setup
from benchmarks.accuracy.throughput import training_throughput
from benchmarks.baselines import check_plain
from benchmarks.images import read_images
from bespoke.supernet import zoo
from bespoke.supernet.genomes import largest
from bespoke.supernet.training.evaluation import LabelledImages
from bespoke.supernet.training.processes import device_of

ITEMS: Mapping[int, Callable[[Setup], dict[str, Any]]] = {
    1: recipes_against_alone,
    2: against_baselines,
    3: table_against_recalibration,
    4: training_throughput,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="image folder")
    parser.add_argument("--run", type=Path, required=True, help="folder of what was measured: resumes")
    parser.add_argument("--items", type=int, nargs="+", default=[1, 2, 3, 4], choices=list(ITEMS))
    parser.add_argument("--supernet", default="ofa-mbv3-imagenette")
    parser.add_argument("--zoo", type=Path, default=zoo.ROOT)
    parser.add_argument("--epochs", type=float, default=60, help="of each training of items 1 and 2")
    parser.add_argument("--seeds", type=int, default=1, help="of item 1")
    parser.add_argument("--random", type=int, default=50, help="random subnets of items 1 and 3")
    parser.add_argument("--alone-random", type=int, default=3, help="of these, how many are trained alone")
    parser.add_argument("--budgets", type=int, default=5, help="of item 2")
    names = [*(space.name for space in baselines(32, 2)), RESNET]
    parser.add_argument("--baselines", nargs="+", default=names, choices=names, help="of item 2; all of them")
    parser.add_argument("--resnet-bf16", action="store_true", help="on a CPU too: faster where it has AMX")
    parser.add_argument("--baseline-sides", type=int, nargs="+", help="the space's largest unless given")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=160, help="side of the kept images")
    parser.add_argument("--images", type=int, help="of each split, at most: for trying the command out")
    parser.add_argument("--device", default="cpu", help="cpu or cuda: where networks are trained")
    parser.add_argument("--throughput-subnets", type=int, default=8, help="of item 4")
    parser.add_argument("--steps", type=int, default=7, help="of each of them")
    parser.add_argument("--runtime", default="onnxruntime", help="that times item 2")
    parser.add_argument("--threads", type=int, default=1, help="of that runtime")
    parser.add_argument("--precision", default="fp32", choices=["fp32"])
    parser.add_argument("--effort", default="standard", choices=["quick", "standard", "thorough"])


def run(options: argparse.Namespace) -> dict[str, Any]:
    """What the items found, each under its name."""
    device_of(options.device)
    entry = zoo.entry(options.supernet, options.zoo)
    if 4 in options.items:
        check_plain(entry.space.plan(largest(entry.space)).ops)
    training, validation = read_images(options, options.side, int(entry.card.get("seed", 0)))
    setup = Setup(options, entry, training, LabelledImages(validation))
    setup.claim(options.items)
    return {f"item_{item}": ITEMS[item](setup) for item in options.items}


if __name__ == "__main__":
    programs.run(__doc__, add_options, run)
