"""What the weight gradient of a depthwise convolution on a small map costs a CPU, by torch and here.

    python -m benchmarks.depthwise [--batch 64] [--json]

The shapes are those of an OFA-MobileNetV3 at 64 to 128 px, and its whole training step. On one thread;
CPU milliseconds, medians of interleaved runs.

JSON: ``gradients`` (by shape: ``torch_ms``, ``own_ms``, ``ratio``), ``steps`` (by resolution, of the largest
subnet: the same), ``batch``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from unittest import mock

import numpy as np
import torch

from bespoke.supernet import depthwise
from bespoke.supernet.genomes import largest
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.spaces import space as make_space
from bespoke.supernet.training import loop
from bespoke.supernet.training.distillation import accumulate_gradients
from bespoke.supernet.training.processes import Group

SHAPES = (
    (960, 2, 7, 1), (960, 3, 7, 1), (960, 4, 7, 1), (672, 4, 7, 2), (672, 6, 7, 1), (480, 4, 5, 1),
    (480, 6, 5, 1), (672, 7, 7, 1),
)  # fmt: skip
"""Channels, side, kernel, stride; the last two are left to torch."""

SIDES = (64, 96, 112, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5, help="of each")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "gradients": {
            f"{c} channels, {side} x {side}, kernel {k}, stride {s}": _gradient(
                options.batch, c, side, k, s, options.runs
            )
            for c, side, k, s in SHAPES
        },
        "steps": {f"{side} px": _step(options.batch, side, options.runs) for side in SIDES},
        "batch": options.batch,
    }
    if options.json:
        print(json.dumps(found))
        return
    for name in ("gradients", "steps"):
        print(f"{name:44} torch ms    own ms  ratio")
        for case, row in found[name].items():  # type: ignore[union-attr]
            print(f"{case:44} {row['torch_ms']:8.2f}  {row['own_ms']:8.2f}  {row['ratio']:5.2f}")


def _gradient(batch: int, channels: int, side: int, kernel: int, stride: int, runs: int) -> dict[str, float]:
    x_NCHW = torch.randn(batch, channels, side, side).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, kernel, kernel)
    slope_NCHW = torch.randn_like(depthwise.depthwise_conv(x_NCHW, weight, stride))

    def by_torch() -> None:
        torch.ops.aten.convolution_backward(
            slope_NCHW, x_NCHW, weight, None, [stride] * 2, [kernel // 2] * 2, [1, 1], False, [0, 0],
            channels, [False, True, False],
        )  # fmt: skip

    def own() -> None:
        depthwise.weight_gradient(x_NCHW, slope_NCHW, kernel, stride)

    return _compared({"torch_ms": by_torch, "own_ms": own}, runs)


def _step(batch: int, side: int, runs: int) -> dict[str, float]:
    space = make_space("ofa-mobilenetv3-w1.0", (side,), 10)
    network = ChainSupernet(space).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser, subnet = loop.optimiser_of(network), largest(space)
    x_NCHW = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    labels_N = torch.randint(0, 10, (batch,))

    def own() -> None:
        accumulate_gradients(network, x_NCHW, labels_N, [subnet])
        loop.optimiser_step(network, optimiser, Group())

    def by_torch() -> None:
        with mock.patch.object(depthwise, "WIDE_KERNEL", 99):
            own()

    return _compared({"torch_ms": by_torch, "own_ms": own}, runs)


def _compared(ways: Mapping[str, Callable[[], None]], runs: int) -> dict[str, float]:
    """Median CPU milliseconds of each of two ways, and how many times as long the first one takes."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs + 1):
        for name, work in ways.items():
            began = time.process_time()
            work()
            taken[name].append(1e3 * (time.process_time() - began))
    medians = {name: float(np.median(found[1:])) for name, found in taken.items()}
    first, second = medians.values()
    return {name: round(value, 3) for name, value in medians.items()} | {"ratio": round(first / second, 2)}


if __name__ == "__main__":
    main()
