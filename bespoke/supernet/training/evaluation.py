"""Top-1 of subnets, measured on the exported ONNX: what is measured is what is shipped."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from bespoke.supernet.architecture import Architecture
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.onnx import INPUT, write_onnx
from bespoke.supernet.statistics import Statistics, StatisticsTable, recalibrate
from bespoke.supernet.subnet import extract, fold
from bespoke.supernet.training.data import ImageSet, augmented, evaluation_batches, normalised

CALIBRATION_IMAGES = 2000
"""As Once-for-All re-calibrates."""


class LabelledImages:
    """Evaluation images, scaled once per resolution and kept.

    Attributes:
        images: Where they come from.
    """

    def __init__(self, images: ImageSet, batch: int = 64) -> None:
        self.images = images
        self._batch = batch
        self._prepared: dict[int, list[tuple[NDArray[np.float32], NDArray[np.int64]]]] = {}

    def at(self, resolution: int) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Batches of (N, 3, R, R) images and (N,) labels."""
        if resolution not in self._prepared:
            batches = evaluation_batches(self.images, resolution, self._batch)
            self._prepared[resolution] = [(np.ascontiguousarray(x.numpy()), y.numpy()) for x, y in batches]
        return self._prepared[resolution]


def model_top1(model: bytes, images: LabelledImages, resolution: int, threads: int = 2) -> float:
    """Top-1 of an ONNX model with an open batch, in [0, 1]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    right = 0
    for x_NCHW, labels_N in images.at(resolution):
        (logits_NC,) = session.run(None, {INPUT: x_NCHW})
        right += int((logits_NC.argmax(1) == labels_N).sum())
    return right / len(images.images)


def subnet_top1(
    network: ChainSupernet,
    architecture: Architecture,
    statistics: Statistics | StatisticsTable,
    images: LabelledImages,
    threads: int = 2,
) -> float:
    """Top-1 of one subnet of a supernet, in [0, 1].

    Args:
        network: The supernet.
        architecture: The subnet.
        statistics: Its own BN statistics, or the supernet's table.
        images: What to measure on.
        threads: Threads of the runtime.
    """
    own = statistics.lookup(architecture) if isinstance(statistics, StatisticsTable) else statistics
    subnet = extract(network, architecture, own)
    model = write_onnx(subnet.plan, fold(subnet), dynamic_batch=True)
    return model_top1(model, images, architecture.resolution, threads)


def calibrated_statistics(
    network: ChainSupernet, architecture: Architecture, images: ImageSet, seed: int = 0, batch: int = 200
) -> Statistics:
    """BN statistics of one subnet over about 2,000 augmented training images.

    Source: Once-for-All's re-calibration, a fixed random subset with training-time augmentation.
    """
    rng = np.random.default_rng([seed, 3])
    chosen = rng.permutation(len(images))[:CALIBRATION_IMAGES]
    parts = np.array_split(chosen, max(1, len(chosen) // batch))

    def batches() -> list[torch.Tensor]:
        resolution = architecture.resolution
        picked = (images.pixels(torch.from_numpy(part)) for part in parts)
        return [normalised(augmented(x_NHWC, resolution, rng)) for x_NHWC in picked]

    return recalibrate(network, architecture, batches())
