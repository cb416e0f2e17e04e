"""What INT8 costs in top-1, with ranges that follow from the weights and with ranges seen on images.

    python -m benchmarks.int8 --data imagenette2-160 [--subnets 5] [--images 1000] [--json]

Subnets of all sizes are cut out of a supernet and written in fp32 and twice in INT8; all are run on the
same validation images. On x86 without VNNI, U8 times S8 products may saturate; see docs/agent.md.

JSON: ``images``, and ``subnets`` with ``macs``, ``fp32``, ``expected`` and ``observed`` (top-1) of each;
``expected_loss`` and ``observed_loss``, means over the subnets.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.programs import run
from bespoke.supernet import zoo
from bespoke.supernet.architecture import Architecture
from bespoke.supernet.cost import cost
from bespoke.supernet.genomes import stratified
from bespoke.supernet.subnet import materialise
from bespoke.supernet.training.calibration_images import calibration_images
from bespoke.supernet.training.data import read_split
from bespoke.supernet.training.evaluation import LabelledImages, model_top1


def main() -> None:
    run(__doc__, _add_options, measure, _lines)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--supernet", default="ofa-mbv3-imagenette")
    parser.add_argument("--subnets", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield "million MACs    fp32  expected  observed"
    for row in result["subnets"]:
        yield "{:12.0f}  {fp32:.4f}    {expected:.4f}    {observed:.4f}".format(row["macs"] / 1e6, **row)
    yield f"mean loss: expected {result['expected_loss']:.4f}, observed {result['observed_loss']:.4f}"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Write and run every subnet three times."""
    entry = zoo.entry(options.supernet)
    every = read_split(options.data, "val")
    some = np.sort(np.random.default_rng(options.seed).permutation(len(every))[: options.images])
    images = LabelledImages(every.subset(some))
    chosen = stratified(entry.space, options.subnets, options.seed)
    rows = [_row(entry, architecture, images, options.data) for architecture in chosen]
    losses = {
        f"{name}_loss": float(np.mean([row["fp32"] - row[name] for row in rows]))
        for name in ("expected", "observed")
    }
    return {"images": len(images), "subnets": rows, **losses}


def _row(
    entry: zoo.ZooEntry, architecture: Architecture, images: LabelledImages, data: Path
) -> dict[str, float]:
    side = architecture.resolution
    models = {
        "fp32": materialise(entry, architecture, dynamic_batch=True),
        "expected": materialise(entry, architecture, dynamic_batch=True, precision="int8"),
        "observed": materialise(
            entry, architecture, dynamic_batch=True, precision="int8", images=calibration_images(data, side)
        ),
    }
    found = {name: model_top1(model, images, side) for name, model in models.items()}
    return {"macs": cost(entry.space.plan(architecture)).macs, **found}


if __name__ == "__main__":
    main()
