"""One training loop for all phases: it reads from top to bottom, and resumes to the step.

Randomness is a function of (seed, phase, step); a checkpoint holds the weights, the optimiser and
the position, and is never half-written.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bespoke.supernet.errors import FileInvalid
from bespoke.supernet.networks.chain import ChainSupernet, no_decay
from bespoke.supernet.training.data import ImageSet, augmented, normalised, training_batch
from bespoke.supernet.training.recipe import Phase, accumulate_gradients, step_architectures

WARM_UP_SHARE = 0.05
WEIGHT_DECAY = 0.02
GRADIENT_NORM = 1.0


def train(
    network: ChainSupernet,
    images: ImageSet,
    phases: Sequence[Phase],
    folder: Path,
    *,
    batch: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    checkpoint_every: int = 100,
    report: Callable[[str], None] = print,
) -> None:
    """Train a supernet through all phases, resuming from ``folder`` where a run was cut off.

    Args:
        network: Freshly made; its weights are replaced when a run resumes.
        images: The training images.
        phases: What to do, in order.
        folder: Where ``checkpoint.pt`` and ``log.csv`` stand.
        batch: Images a step.
        seed: All randomness follows from it.
        device: Where to train.
        checkpoint_every: Steps between checkpoints.
        report: Gets a line of progress now and then.

    Raises:
        FileInvalid: The folder holds a checkpoint of other phases.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = [math.ceil(phase.epochs * (len(images) // batch)) for phase in phases]
    start_phase, start_step, optimiser_state = _resume(network, phases, folder)
    for number, phase in enumerate(phases):
        if number < start_phase:
            continue
        optimiser = _optimiser(network)
        first = start_step if number == start_phase else 0
        if first and optimiser_state:
            optimiser.load_state_dict(optimiser_state)
        began, losses = time.monotonic(), []
        for step in range(first, steps[number]):
            rate = _learning_rate(phase, step, steps[number])
            for group in optimiser.param_groups:
                group["lr"] = rate
            x_NHWC, labels_N, rng = training_batch(images, batch, step, seed * 1000 + number)
            resolution = int(rng.choice(phase.resolutions))
            x_NCHW = normalised(augmented(x_NHWC, resolution, rng, phase.smallest_area), device)
            architectures = step_architectures(network, phase, resolution, rng)
            loss = accumulate_gradients(network, x_NCHW, labels_N.to(device), architectures)
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
            if torch.isfinite(norm):
                optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            losses.append(loss)
            if (step + 1) % checkpoint_every == 0 or step + 1 == steps[number]:
                done = step + 1 == steps[number]
                position = (number + 1, 0) if done else (number, step + 1)
                _save(network, None if done else optimiser, phases, position, folder)
                seconds = (time.monotonic() - began) / (step + 1 - first)
                mean = float(np.mean(losses[-checkpoint_every:]))
                report(
                    f"{phase.name}: step {step + 1}/{steps[number]} loss {mean:.3f} {seconds:.2f} s a step"
                )
                _log(folder, phase, step + 1, mean, rate, seconds)


def _learning_rate(phase: Phase, step: int, steps: int) -> float:
    warm_up = max(1, int(WARM_UP_SHARE * steps))
    if step < warm_up:
        return phase.learning_rate * (step + 1) / warm_up
    return phase.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def _optimiser(network: ChainSupernet) -> torch.optim.Optimizer:
    named = list(network.named_parameters())
    groups = [
        {"params": [p for n, p in named if not no_decay(n)], "weight_decay": WEIGHT_DECAY},
        {"params": [p for n, p in named if no_decay(n)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3)


def _save(
    network: ChainSupernet,
    optimiser: torch.optim.Optimizer | None,
    phases: Sequence[Phase],
    position: tuple[int, int],
    folder: Path,
) -> None:
    state = {
        "phases": [_plain(phase) for phase in phases],
        "position": list(position),
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict() if optimiser else None,
    }
    partial = folder / "checkpoint.partial"
    torch.save(state, partial)
    partial.replace(folder / "checkpoint.pt")


def _resume(
    network: ChainSupernet, phases: Sequence[Phase], folder: Path
) -> tuple[int, int, dict[str, Any] | None]:
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0, 0, None
    state = torch.load(path, weights_only=True, map_location=next(network.parameters()).device)
    if state["phases"] != [_plain(phase) for phase in phases]:
        raise FileInvalid(path, "a run of other phases; give another folder, or the phases of this run")
    network.load_state_dict(state["network"])
    return state["position"][0], state["position"][1], state["optimiser"]


def _plain(phase: Phase) -> dict[str, Any]:
    return asdict(phase) | {"resolutions": list(phase.resolutions)}


def _log(folder: Path, phase: Phase, step: int, loss: float, rate: float, seconds: float) -> None:
    path = folder / "log.csv"
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["phase", "step", "loss", "learning_rate", "seconds_a_step"])
        writer.writerow([phase.name, step, f"{loss:.5f}", f"{rate:.3e}", f"{seconds:.3f}"])
