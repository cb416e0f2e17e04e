"""The plain recipe: largest first, then sandwich sampling, then sandwich sampling at full size.

Each phase is a few lines of data; one loop (``loop.py``) runs them all. In a sandwich step the
largest subnet learns from the labels and the others from its soft answers (in-place distillation);
gradients are summed and one optimiser step follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bespoke.supernet.architecture import Architecture
from bespoke.supernet.genomes import at_resolution, largest, random_architecture, smallest
from bespoke.supernet.networks.chain import ChainSupernet

LABEL_SMOOTHING = 0.1


@dataclass(frozen=True)
class Phase:
    """One stretch of training with its own schedule.

    Attributes:
        name: Shown in the log and in the model card.
        epochs: Passes over the training images.
        learning_rate: Peak; warmed up over the first 5% of the steps, cosine to zero after.
        resolutions: Sides of the input in pixels; one is drawn per batch. They need not be the
            space's own.
        random_subnets: How many random subnets run in a step, beside the largest and the smallest.
        subnets: ``largest`` alone, or the ``sandwich``.
        smallest_area: Smallest share of an image that a training crop covers.
    """

    name: str
    epochs: float
    learning_rate: float
    resolutions: tuple[int, ...]
    random_subnets: int = 1
    subnets: Literal["largest", "sandwich"] = "sandwich"
    smallest_area: float = 0.25


def plain_recipe(resolutions: tuple[int, ...], epochs: tuple[float, float, float]) -> list[Phase]:
    """Largest subnet, sandwich, sandwich at full size.

    The first two phases train at two thirds of the smallest resolution, which is cheap and, since
    random crops enlarge what they show, close to what the network sees later at full size.

    Args:
        resolutions: The space's own, ascending.
        epochs: Of the three phases.
    """
    low, middle = (max(32, round(resolutions[0] * share / 16) * 16) for share in (2 / 3, 5 / 6))
    return [
        Phase("largest", epochs[0], 2e-3, (low,), subnets="largest"),
        Phase("sandwich", epochs[1], 1.5e-3, (low, low, middle)),
        Phase("full size", epochs[2], 5e-4, (resolutions[0], *resolutions), smallest_area=0.35),
    ]


def step_architectures(
    network: ChainSupernet, phase: Phase, resolution: int, rng: np.random.Generator
) -> list[Architecture]:
    """The subnets of one step, the largest first."""
    space = network.space
    known = space.dimensions[-1].choices
    nominal = resolution if resolution in known else known[0]
    found = [largest(space, nominal)]
    if phase.subnets == "sandwich":
        found.append(smallest(space, nominal))
        drawn = [random_architecture(space, rng) for _ in range(phase.random_subnets)]
        found += [at_resolution(space, a, nominal) for a in drawn]
    return found


def accumulate_gradients(
    network: ChainSupernet, x_NCHW: Tensor, labels_N: Tensor, architectures: list[Architecture]
) -> float:
    """Run each subnet forward and backward; gradients are summed.

    Args:
        network: The supernet.
        x_NCHW: Normalised images.
        labels_N: Their classes.
        architectures: The largest first; the others learn from its answers.

    Returns:
        The largest subnet's loss.
    """
    soft_NC: Tensor | None = None
    first_loss = 0.0
    for architecture in architectures:
        with torch.autocast(x_NCHW.device.type, torch.bfloat16, enabled=x_NCHW.is_cuda):
            logits_NC = network(x_NCHW, architecture)
        logits_NC = logits_NC.float()
        if soft_NC is None:
            loss = F.cross_entropy(logits_NC, labels_N, label_smoothing=LABEL_SMOOTHING)
            soft_NC, first_loss = logits_NC.detach().softmax(1), float(loss.detach())
        else:
            loss = F.cross_entropy(logits_NC, soft_NC)
        loss.backward()
    return first_loss
