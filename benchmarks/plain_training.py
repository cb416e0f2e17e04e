"""Training one plain torch module, as anyone would: what the training of supernets is compared with.

Images, crops, losses, rates, clipping and the averaging of weights are those of
``bespoke.supernet.training``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from bespoke.supernet.training.averaging import WeightAverage
from bespoke.supernet.training.data import ImageSet, augmented, normalised, prefetched, training_batch
from bespoke.supernet.training.distillation import LABEL_SMOOTHING
from bespoke.supernet.training.loop import GRADIENT_NORM, WEIGHT_DECAY, learning_rate
from bespoke.supernet.training.run_files import REVISION, Checkpoint, read_checkpoint, save_checkpoint

CALIBRATION_BATCHES = 30
CHECKPOINT_STEPS = 100


def train_module(
    module: nn.Module,
    images: ImageSet,
    folder: Path,
    *,
    resolution: int,
    epochs: float,
    rate: float = 2e-3,
    batch: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    bf16: bool = False,
) -> None:
    """Train in place; the module ends with averaged weights and BN statistics of their own.

    A run that was stopped goes on from the last checkpoint in its folder.

    Raises:
        FileInvalid: The folder's run is another one.
    """
    batch = min(batch, len(images))
    steps = math.ceil(epochs * (len(images) // batch))
    module.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser, average = optimiser_of(module), WeightAverage(module, steps)
    course = {"revision": REVISION, "epochs": epochs, "rate": rate, "resolution": resolution}
    asked = json.dumps(course | {"batch": batch, "seed": seed, "images": images.digest, "bf16": bf16})
    before = read_checkpoint(folder, asked)
    if before is not None and before.average is not None and before.optimiser is not None:
        module.load_state_dict(before.network)
        average.load(before.average)
        optimiser.load_state_dict(before.optimiser)
    left = range(before.step if before else 0, steps)
    batches = _batches(images, resolution, batch, left, seed, device)
    for step, (x_NCHW, labels_N) in zip(left, batches, strict=True):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(rate, step, steps)
        plain_step(module, optimiser, x_NCHW, labels_N, bf16=bf16)
        average.update(module, step)
        if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 == steps:
            folder.mkdir(parents=True, exist_ok=True)
            state = module.state_dict(), average.tensors, optimiser.state_dict()
            save_checkpoint(folder, Checkpoint(0, step + 1, *state), asked)
    average.move_into(module)
    seen = range(steps, steps + CALIBRATION_BATCHES)
    update_bn((x for x, _ in _batches(images, resolution, batch, seen, seed, device)), module)


def plain_step(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    x_NCHW: Tensor,
    labels_N: Tensor,
    *,
    bf16: bool = False,
) -> None:
    """Forward, loss, backward, step on clipped gradients."""
    with torch.autocast(x_NCHW.device.type, torch.bfloat16, enabled=bf16):
        logits_NC = module(x_NCHW)
    F.cross_entropy(logits_NC.float(), labels_N, label_smoothing=LABEL_SMOOTHING).backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), GRADIENT_NORM)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def optimiser_of(module: nn.Module) -> torch.optim.Optimizer:
    """AdamW that spares BN and biases its decay."""
    weights = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3)


def _batches(
    images: ImageSet, resolution: int, batch: int, steps: range, seed: int, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    def read(step: int) -> tuple[Tensor, Tensor]:
        x_NHWC, labels_N, rng = training_batch(images, batch, step, seed)
        x_NHWC = augmented(x_NHWC.to(device), resolution, rng)
        return normalised(x_NHWC, device), labels_N.to(device)

    yield from prefetched(read, steps)
