"""Top-1 of subnets, measured on the exported ONNX: what is measured is what is shipped.

On a GPU the extracted subnet is run in torch instead, which a test holds to the ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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

KEPT_BYTES = 4 * 2**30
"""Scaled evaluation images that are kept; resolutions beyond that are scaled each time."""

CALIBRATION_IMAGES = 2000
"""As Once-for-All re-calibrates."""

VIEWS = (View(), View(mirrored=True), View(0.25, 0.25), View(0.75, 0.75, mirrored=True))
"""In the order in which they are taken. The first is the one that top-1 is reported on; the others are
of the same images, so that top-1 over several of them says less of single pixels."""


class LabelledImages:
    """Evaluation images, scaled once per resolution and kept, as bytes, as many as ``KEPT_BYTES`` hold.

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
        self._room = KEPT_BYTES

    def __len__(self) -> int:
        """How many answers a top-1 is a share of."""
        return len(self.images) * self.views

    def at(self, resolution: int, device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (N, 3, R, R) normalised images and (N,) labels, view after view."""
        size = len(self) * 3 * resolution**2
        if resolution not in self._prepared and self._room >= size:
            self._room -= size
            self._prepared[resolution] = list(self._scaled(resolution))
        for x_NHWC, labels_N in self._prepared.get(resolution) or self._scaled(resolution):
            yield normalised(x_NHWC, device), labels_N

    def _scaled(self, resolution: int) -> Iterator[tuple[Tensor, Tensor]]:
        for view in VIEWS[: self.views]:
            yield from evaluation_pixels(self.images, resolution, self._batch, view)


@dataclass(frozen=True)
class Score:
    """How well a network answers.

    Attributes:
        top1: Share of right answers.
        smooth: The same with soft edges: the mean over the images of sigmoid(margin), where the margin
            is how far the right class's logit is above the highest other one. Of few images it
            says more of top-1 on others than top-1 itself does: it does not jump where an answer turns.
    """

    top1: float
    smooth: float


def model_top1(model: bytes, images: LabelledImages, resolution: int, threads: int | None = None) -> float:
    """Top-1 of an ONNX model with an open batch, in [0, 1]."""
    return model_score(model, images, resolution, threads).top1


def model_score(model: bytes, images: LabelledImages, resolution: int, threads: int | None = None) -> Score:
    """How well an ONNX model with an open batch answers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def logits(x_NCHW: Tensor) -> Tensor:
        (logits_NC,) = session.run(None, {INPUT: x_NCHW.contiguous().numpy()})
        return torch.from_numpy(logits_NC)

    return _score(logits, images, resolution, "cpu")


def module_score(
    module: torch.nn.Module, images: LabelledImages, resolution: int, device: torch.device | str
) -> Score:
    """How well a torch module that gives logits answers; the module lies on the device."""
    return _score(module, images, resolution, device)


@torch.no_grad()
def _score(
    logits: Callable[[Tensor], Tensor], images: LabelledImages, resolution: int, device: torch.device | str
) -> Score:
    right = torch.zeros((), dtype=torch.int64, device=device)
    smooth = torch.zeros((), dtype=torch.float64, device=device)
    for x_NCHW, labels_N in images.at(resolution, device):
        logits_NC, known_N1 = logits(x_NCHW).float(), labels_N.to(device)[:, None]
        right += (logits_NC.argmax(1) == known_N1[:, 0]).sum()
        own_N = logits_NC.gather(1, known_N1)[:, 0]
        other_N = logits_NC.scatter(1, known_N1, -torch.inf).amax(1)
        smooth += torch.sigmoid((own_N - other_N).double()).sum()
    return Score(int(right) / len(images), float(smooth) / len(images))


def subnet_top1(
    network: ChainSupernet,
    architecture: Architecture,
    statistics: Statistics | StatisticsTable,
    images: LabelledImages,
    threads: int | None = None,
    device: torch.device | str = "cpu",
) -> float:
    """Top-1 of one subnet of a supernet, in [0, 1]; see ``subnet_score``."""
    return subnet_score(network, architecture, statistics, images, threads, device).top1


def subnet_score(
    network: ChainSupernet,
    architecture: Architecture,
    statistics: Statistics | StatisticsTable,
    images: LabelledImages,
    threads: int | None = None,
    device: torch.device | str = "cpu",
) -> Score:
    """How well one subnet of a supernet answers.

    Args:
        network: The supernet.
        architecture: The subnet.
        statistics: Its own BN statistics, or the supernet's table.
        images: What to measure on.
        threads: Threads of the runtime; as many as torch takes unless given.
        device: ``cpu``: its ONNX is run; elsewhere the subnet itself.
    """
    own = statistics.lookup(architecture) if isinstance(statistics, StatisticsTable) else statistics
    subnet = extract(network, architecture, own)
    if torch.device(device).type != "cpu":
        return module_score(subnet.to(device), images, architecture.resolution, device)
    model = write_onnx(subnet.plan, fold(subnet), dynamic_batch=True)
    return model_score(model, images, architecture.resolution, threads)


def calibrated_statistics(
    network: ChainSupernet,
    architecture: Architecture,
    images: ImageSet,
    seed: int = 0,
    batch: int = 200,
    device: torch.device | str = "cpu",
) -> Statistics:
    """BN statistics of one subnet over about 2,000 augmented training images.

    Source: Once-for-All's re-calibration, a fixed random subset with training-time augmentation.

    Args:
        network: The supernet, on the device.
        architecture: The subnet.
        images: Training images.
        seed: Which images, and how they are cropped.
        batch: Images at a time.
        device: Where the network lies; what comes back is on the CPU.
    """
    rng = np.random.default_rng([seed, 3])
    chosen = rng.permutation(len(images))[:CALIBRATION_IMAGES]
    parts = np.array_split(chosen, max(1, len(chosen) // batch))

    picked = (images.pixels(torch.from_numpy(part)) for part in parts)
    crops = (augmented(x_NHWC, architecture.resolution, rng) for x_NHWC in picked)
    found = recalibrate(network, architecture, (normalised(x_NHWC, device) for x_NHWC in crops))
    return {site: (mean_C.cpu(), var_C.cpu()) for site, (mean_C, var_C) in found.items()}
