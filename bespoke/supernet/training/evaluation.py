"""Top-1 of subnets, measured on the exported ONNX: what is measured is what is shipped.

On a GPU the extracted subnet is run in torch instead, which a test holds to the ONNX.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from bespoke.supernet.architecture import Architecture
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.onnx import INPUT, write_onnx
from bespoke.supernet.statistics import Statistics, StatisticsTable, recalibrate
from bespoke.supernet.subnet import extract, fold
from bespoke.supernet.training.data import ImageSet, View, augmented, evaluation_pixels, normalised

CALIBRATION_IMAGES = 2000
"""As Once-for-All re-calibrates."""

VIEWS = (View(), View(mirrored=True), View(0.25, 0.25), View(0.75, 0.75, mirrored=True))
"""In the order in which they are taken. The first is the one that top-1 is reported on; the others are
of the same images, so that top-1 over several of them says less of single pixels."""


class LabelledImages:
    """Evaluation images, scaled once per resolution and kept, as bytes.

    Attributes:
        images: Where they come from.
        views: In how many ways each image is looked at; top-1 is the mean over all of them.
    """

    def __init__(self, images: ImageSet, batch: int = 64, views: int = 1) -> None:
        """Keep images of a set.

        Args:
            images: Where they come from.
            batch: How many are evaluated at a time.
            views: How many of ``VIEWS`` are taken.

        Raises:
            InvalidInput: More views than there are, or none.
        """
        if not 1 <= views <= len(VIEWS):
            raise InvalidInput(f"views: got {views}, expected 1 to {len(VIEWS)}")
        self.images, self.views = images, views
        self._batch = batch
        self._prepared: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def __len__(self) -> int:
        """How many answers a top-1 is a share of."""
        return len(self.images) * self.views

    def at(self, resolution: int, device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (N, 3, R, R) normalised images and (N,) labels, view after view."""
        if resolution not in self._prepared:
            self._prepared[resolution] = [
                batch
                for view in VIEWS[: self.views]
                for batch in evaluation_pixels(self.images, resolution, self._batch, view)
            ]
        for x_NHWC, labels_N in self._prepared[resolution]:
            yield normalised(x_NHWC, device), labels_N


def model_top1(model: bytes, images: LabelledImages, resolution: int, threads: int = 2) -> float:
    """Top-1 of an ONNX model with an open batch, in [0, 1]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    right = 0
    for x_NCHW, labels_N in images.at(resolution):
        (logits_NC,) = session.run(None, {INPUT: x_NCHW.contiguous().numpy()})
        right += int((logits_NC.argmax(1) == labels_N.numpy()).sum())
    return right / len(images)


@torch.no_grad()
def module_top1(
    module: torch.nn.Module, images: LabelledImages, resolution: int, device: torch.device | str
) -> float:
    """Top-1 of a torch module that gives logits, in [0, 1]; the module lies on the device."""
    right = torch.zeros((), dtype=torch.int64, device=device)
    for x_NCHW, labels_N in images.at(resolution, device):
        right += (module(x_NCHW).argmax(1) == labels_N.to(device)).sum()
    return int(right) / len(images)


def subnet_top1(
    network: ChainSupernet,
    architecture: Architecture,
    statistics: Statistics | StatisticsTable,
    images: LabelledImages,
    threads: int = 2,
    device: torch.device | str = "cpu",
) -> float:
    """Top-1 of one subnet of a supernet, in [0, 1].

    Args:
        network: The supernet.
        architecture: The subnet.
        statistics: Its own BN statistics, or the supernet's table.
        images: What to measure on.
        threads: Threads of the runtime.
        device: ``cpu``: its ONNX is run; elsewhere the subnet itself.
    """
    own = statistics.lookup(architecture) if isinstance(statistics, StatisticsTable) else statistics
    subnet = extract(network, architecture, own)
    if torch.device(device).type != "cpu":
        return module_top1(subnet.to(device), images, architecture.resolution, device)
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
