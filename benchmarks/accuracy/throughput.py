"""Item 4: training a sampled subnet against plain torch training of the same network."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.setup import Setup
from benchmarks.baselines import StaticNetwork
from benchmarks.plain_training import optimiser_of, plain_step
from bespoke.supernet.architecture import Architecture
from bespoke.supernet.genomes import random_architecture
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.training import loop
from bespoke.supernet.training.averaging import WeightAverage
from bespoke.supernet.training.data import augmented, normalised, training_batch
from bespoke.supernet.training.distillation import accumulate_gradients
from bespoke.supernet.training.processes import Group


def training_throughput(setup: Setup) -> dict[str, Any]:
    """Images/s of both, and their ratio, over random subnets: medians of interleaved steps.

    Wall time and CPU time: on a machine that does other work only the latter's ratio counts.
    """
    options, space = setup.options, setup.space
    device, rng = torch.device(options.device), np.random.default_rng(0)
    batch = min(options.batch, len(setup.training))
    network = ChainSupernet(space).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser, average = loop.optimiser_of(network), WeightAverage(network, 1000)
    rows = []
    for number in range(options.throughput_subnets):
        architecture = random_architecture(space, rng)
        module = StaticNetwork(space.plan(architecture).ops).train()
        module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        plain = optimiser_of(module)
        x_NHWC, labels_N, crops = training_batch(setup.training, batch, number, 0)
        x_NCHW = normalised(augmented(x_NHWC.to(device), architecture.resolution, crops), device)
        labels_N = labels_N.to(device)

        def ours(a: Architecture = architecture, x: Any = x_NCHW, y: Any = labels_N) -> None:
            accumulate_gradients(network, x, y, [a], bf16=device.type == "cuda")
            loop.optimiser_step(network, optimiser, Group())
            average.update(network, 0)

        def theirs(m: Any = module, o: Any = plain, x: Any = x_NCHW, y: Any = labels_N) -> None:
            plain_step(m, o, x, y, bf16=device.type == "cuda")

        rows.append(_interleaved(ours, theirs, options.steps, device))
    own, other = np.array(rows).transpose(1, 2, 0)
    return {
        "images_per_s": round(float(batch / np.mean(own[0])), 1),
        "plain_images_per_s": round(float(batch / np.mean(other[0])), 1),
        "ratio": round(float(np.mean(other[0]) / np.mean(own[0])), 3),
        "ratio_cpu": round(float(np.mean(other[1]) / np.mean(own[1])), 3),
        "worst_ratio_cpu": round(float((other[1] / own[1]).min()), 3),
        "batch": batch,
        "subnets": len(rows),
        "torch_threads": torch.get_num_threads(),
        "device": options.device,
    }


def _interleaved(
    ours: Callable[[], None], theirs: Callable[[], None], steps: int, device: torch.device
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Median wall and CPU seconds of one step of each."""
    times: tuple[list[tuple[float, float]], ...] = ([], [])
    for _ in range(steps + 1):
        for work, found in zip((ours, theirs), times, strict=True):
            began, began_cpu = time.perf_counter(), time.process_time()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            found.append((time.perf_counter() - began, time.process_time() - began_cpu))
    first, second = (np.median(found[1:], axis=0).tolist() for found in times)
    return tuple(first), tuple(second)
