"""The losses of one step: labels, and the soft answers of a teacher, half of each.

All subnets learn from the labels. In a sandwich the largest subnet of the step teaches the others
(in-place distillation); elsewhere a frozen network teaches all. Every subnet counts as much as the
largest one, which has no teacher in a sandwich: with weights of one the others would count twice.

Source: Once-for-All (ICLR 2020); its authors run the teacher on the batch's own BN statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bespoke.supernet.architecture import Architecture
from bespoke.supernet.layers import BatchStatistics, Normalise
from bespoke.supernet.networks.chain import ChainSupernet

LABEL_SMOOTHING = 0.1

NormaliseFor = Callable[[Architecture], Normalise]


def batch_statistics(architecture: Architecture) -> Normalise:
    """Every subnet is normalised by the batch at hand."""
    return BatchStatistics()


@torch.no_grad()
def soft_answers(
    teacher: ChainSupernet,
    x_NCHW: Tensor,
    architecture: Architecture,
    *,
    normalise: NormaliseFor = batch_statistics,
    bf16: bool = False,
) -> Tensor:
    """What a teacher says: probabilities of shape (N, classes)."""
    with torch.autocast(x_NCHW.device.type, torch.bfloat16, enabled=bf16):
        logits_NC = teacher(x_NCHW, architecture, normalise(architecture))
    return logits_NC.float().softmax(1)


def accumulate_gradients(
    network: ChainSupernet,
    x_NCHW: Tensor,
    labels_N: Tensor,
    architectures: Sequence[Architecture],
    *,
    soft_NC: Tensor | None = None,
    normalise: NormaliseFor = batch_statistics,
    bf16: bool = False,
) -> float:
    """Run each subnet forward and backward; gradients are summed.

    Args:
        network: The supernet.
        x_NCHW: Normalised images.
        labels_N: Their classes.
        architectures: What runs. All learn from the labels; without a teacher's answers the first
            one teaches the others.
        soft_NC: A teacher's answers.
        normalise: Where each subnet's BN gets its statistics.
        bf16: Whether to compute in half precision where that is safe.

    Returns:
        The first subnet's loss on the labels.
    """
    first_loss, in_place_NC = 0.0, soft_NC
    for number, architecture in enumerate(architectures):
        with torch.autocast(x_NCHW.device.type, torch.bfloat16, enabled=bf16):
            logits_NC = network(x_NCHW, architecture, normalise(architecture))
        # Half precision ends here: small probabilities would be lost in it.
        logits_NC = logits_NC.float()
        loss = F.cross_entropy(logits_NC, labels_N, label_smoothing=LABEL_SMOOTHING)
        if number == 0:
            first_loss = float(loss.detach())
        if in_place_NC is not None:
            loss = (loss + F.cross_entropy(logits_NC, in_place_NC)) / 2
        else:
            in_place_NC = logits_NC.detach().softmax(1)
        loss.backward()
    return first_loss
