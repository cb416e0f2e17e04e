"""How fast images come: JPEG decoding once, then augmentation for every batch.

    python -m benchmarks.input_pipeline [--data FOLDER] [--device cpu] [--batch 64] [--json]

Without --data, JPEG files of 500 x 375 pixels are made up. Decoding is paid once, not every epoch. Reading
a batch, other images each time and out of a file that is mapped into memory, overlaps with training: it is
waited for only where its images/s are below what the network trains at. Crops, scaling and normalising are
part of each training step, and their time adds to it.

JSON: ``images_per_s`` of each part, and the settings.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.programs import run
from bespoke.supernet.training.augmentation import (
    Crops,
    draw_crops,
    resampled_by_products,
    resampled_one_by_one,
)
from bespoke.supernet.training.data import batch_indices, decode_into, normalised
from bespoke.supernet.training.folders import list_split


def one_by_one(x_NHWC: torch.Tensor, crops: Crops, resolution: int) -> torch.Tensor:
    """``resampled_one_by_one`` on any device, 8-bit in and out."""
    if x_NHWC.device.type == "cpu":
        return resampled_one_by_one(x_NHWC, crops, resolution)
    return through_floats(x_NHWC, crops, resolution)


def through_floats(x_NHWC: torch.Tensor, crops: Crops, resolution: int) -> torch.Tensor:
    """The same through floats: a GPU scales no bytes with antialiasing."""
    made_NHWC = resampled_one_by_one(x_NHWC.float(), crops, resolution)
    return made_NHWC.round_().clamp_(0, 255).to(torch.uint8)


WAYS = {"one by one": one_by_one, "two products": resampled_by_products}


def made_up(folder: Path, count: int) -> tuple[Path, ...]:
    """JPEG files with structure at several scales, about as large as photographs of their size."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).resize((500, 375))
        grain = rng.normal(0, 8, (375, 500, 3))
        pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return tuple(paths)


def images_per_s(images: int, work: Callable[[], object], device: str, seconds: float) -> float:
    """Median over repeats within some seconds, the first one left out."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return images / float(np.median(times[1:]))


def main() -> None:
    run(__doc__, _add_options, measure, _lines)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="image folder")
    parser.add_argument("--device", default="cpu", help="cpu or cuda: where batches are augmented")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="to decode with")
    parser.add_argument("--images", type=int, default=512, help="how many to decode")
    parser.add_argument("--side", type=int, default=160, help="of the kept squares")
    parser.add_argument("--resolution", type=int, default=128, help="side of the crops")
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row")


def _lines(result: dict[str, Any]) -> Iterator[str]:
    for name, rate in result["images_per_s"].items():
        yield f"{name:22s} {rate:9.0f} images/s"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Images/s of each part."""
    device, seconds, side = options.device, options.seconds, options.side
    rows: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        listed = list_split(options.data, "train").paths if options.data else None
        paths = listed[: options.images] if listed else made_up(Path(folder), options.images)
        shape = (len(paths), side, side, 3)
        kept = np.lib.format.open_memmap(Path(folder) / "kept.npy", "w+", np.uint8, shape)
        for threads in options.threads:
            decode = partial(decode_into, kept, paths, threads)
            rows[f"decode, {threads} threads"] = images_per_s(len(paths), decode, "cpu", seconds)
        stored_NHWC, batch, steps = torch.from_numpy(kept), min(options.batch, len(paths)), count()

        def gather() -> torch.Tensor:
            return stored_NHWC[batch_indices(len(paths), batch, next(steps), 0)]

        rows["read a batch"] = images_per_s(batch, gather, "cpu", seconds)
        x_NHWC, crops = gather().to(device), draw_crops(batch, side, np.random.default_rng(0))
        for name, way in WAYS.items():

            def augment(way: Any = way) -> object:
                return normalised(way(x_NHWC, crops, options.resolution), device)

            rows[f"augment, {name}"] = images_per_s(batch, augment, device, seconds)
    return {
        "images_per_s": {name: round(rate, 1) for name, rate in rows.items()},
        "device": device,
        "torch_threads": torch.get_num_threads(),
        "side": side,
        "resolution": options.resolution,
        "batch": batch,
        "images": len(paths),
    }


if __name__ == "__main__":
    main()
