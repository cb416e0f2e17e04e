"""How fast images come: JPEG decoding once, then augmentation for every batch.

    python -m benchmarks.input_pipeline --data FOLDER
    python -m benchmarks.input_pipeline --device cuda --batch 256

Without --data, JPEG files of 500 x 375 pixels are made up. Decoding is paid once, not every epoch. Reading
a batch overlaps with training: it is waited for only where its images/s are below what the network trains
at. Crops, scaling and normalising are part of each training step, and their time adds to it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image

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


def images_per_s(count: int, work: Callable[[], object], device: str, seconds: float) -> float:
    """Median over repeats within some seconds, the first one left out."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return count / float(np.median(times[1:]))


def main(
    data: Annotated[Path | None, typer.Option(help="Image folder.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda: where batches are augmented.")] = "cpu",
    threads: Annotated[str, typer.Option(help="Threads to decode with.")] = "1,2",
    images: Annotated[int, typer.Option(help="How many to decode.")] = 512,
    side: Annotated[int, typer.Option(help="Side of the kept squares.")] = 160,
    resolution: Annotated[int, typer.Option(help="Side of the crops.")] = 128,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 64,
    seconds: Annotated[float, typer.Option(help="For each row.")] = 5.0,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = list_split(data, "train").paths[:images] if data else made_up(Path(folder), images)
        kept = np.zeros((len(paths), side, side, 3), np.uint8)
        rows: dict[str, Any] = {}
        for count in (int(part) for part in threads.split(",")):

            def decode(count: int = count) -> object:
                return decode_into(kept, paths, count)

            rows[f"decode, {count} threads"] = images_per_s(len(paths), decode, "cpu", seconds)
    stored_NHWC = torch.from_numpy(kept)
    batch = min(batch, len(paths))

    def gather(step: int = 0) -> torch.Tensor:
        return stored_NHWC[batch_indices(len(paths), batch, step, 0)]

    rows["read a batch"] = images_per_s(batch, gather, "cpu", seconds)
    x_NHWC, crops = gather().to(device), draw_crops(batch, side, np.random.default_rng(0))
    for name, way in WAYS.items():

        def augment(way: Any = way) -> object:
            return normalised(way(x_NHWC, crops, resolution), device)

        rows[f"augment, {name}"] = images_per_s(batch, augment, device, seconds)
    settings = {"device": device, "torch_threads": torch.get_num_threads(), "side": side}
    settings |= {"resolution": resolution, "batch": batch, "images": len(paths)}
    print(json.dumps({"images_per_s": {k: round(v, 1) for k, v in rows.items()}, **settings}, indent=2))


if __name__ == "__main__":
    typer.run(main)
