"""One training loop for all recipes: it reads from top to bottom, and resumes to the step.

Randomness is a function of (seed, phase, step); a checkpoint holds the weights, their average, the
optimiser and the position. A phase ends with the averaged weights, and the next one begins on them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bespoke.supernet.architecture import Architecture
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import largest
from bespoke.supernet.layers import FixedStatistics, Normalise
from bespoke.supernet.networks.chain import ChainSupernet, no_decay
from bespoke.supernet.statistics import StatisticsTable
from bespoke.supernet.training.augmentation import draw_crops, resampled
from bespoke.supernet.training.averaging import WeightAverage
from bespoke.supernet.training.channel_sorting import sort_channels
from bespoke.supernet.training.data import ImageSet, batch_indices, normalised, prefetched, step_rng
from bespoke.supernet.training.distillation import (
    NormaliseFor,
    accumulate_gradients,
    batch_statistics,
    soft_answers,
)
from bespoke.supernet.training.phase import Phase, step_architectures
from bespoke.supernet.training.processes import Group
from bespoke.supernet.training.progress import Advance, progress_bar
from bespoke.supernet.training.run_files import (
    Checkpoint,
    asked_for,
    clear_interrupted,
    load_teacher,
    log_line,
    read_checkpoint,
    save_checkpoint,
    save_teacher,
)

WARM_UP_SHARE, WARM_UP_STEPS = 0.05, 20
"""Of a phase's steps, and how many it is at least: the first steps of AdamW move every weight by the rate."""
WEIGHT_DECAY = 0.02
GRADIENT_NORM = 1.0
MOST_LOST = 50
"""Steps in a row whose gradients are no finite numbers: a single one is chance, so many are the end."""
FEWEST_IMAGES = 2
"""Of each process in a step: where a layer's output is 1 x 1, one image alone has no BN statistics."""


@dataclass(frozen=True)
class _Run:
    """What all phases of a run have in common; ``train`` tells what each is."""

    network: ChainSupernet
    images: ImageSet
    phases: Sequence[Phase]
    folder: Path
    batch: int
    seed: int
    device: torch.device
    bf16: bool
    normalise: NormaliseFor
    group: Group
    checkpoint_every: int
    report: Callable[[str], None]
    origin: str

    @property
    def asked(self) -> str:
        space = self.network.space.to_json()
        return asked_for(self.phases, self.batch, self.seed, space, self.images.digest, self.origin)

    def steps(self, phase: Phase) -> int:
        return math.ceil(phase.epochs * (len(self.images) // self.batch))

    def save(self, *position: Any) -> None:
        if self.group.leads:
            save_checkpoint(self.folder, Checkpoint(*position), self.asked)


def train(
    network: ChainSupernet,
    images: ImageSet,
    phases: Sequence[Phase],
    folder: Path,
    *,
    batch: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    bf16: bool | None = None,
    frozen: StatisticsTable | None = None,
    origin: str = "",
    group: Group | None = None,
    checkpoint_every: int = 100,
    report: Callable[[str], None] = print,
    bar: bool = False,
) -> None:
    """Train a supernet through all phases, resuming from ``folder`` where a run was cut off.

    Args:
        network: Freshly made, or another's weights to start from; a run that resumes replaces them.
            It ends with the averaged weights.
        images: The training images.
        phases: What to do, in order.
        folder: Where the run's files stand (``run_files.py``); all processes see the same one.
        batch: Images a step, of all processes together; fewer where there are fewer images.
        seed: All randomness follows from it.
        device: Where to train.
        bf16: Whether to compute in half precision where that is safe; None means on a GPU only.
        frozen: BN statistics to train on as constants; the batch's own where none are given.
        origin: Digest of the weights that ``network`` starts from; empty where they are random.
        group: The processes that share the work.
        checkpoint_every: Steps between checkpoints.
        report: Gets a line of progress at each checkpoint.
        bar: Whether to show a progress bar too.

    Raises:
        FileInvalid: The folder holds a checkpoint of another run.
        InvalidInput: See ``check_batch``; or there are fewer images than each process needs, the processes
            do not see the same files, or the training diverges.
    """
    group, device = group or Group(), torch.device(device)
    check_batch(batch, group)
    if len(images) < FEWEST_IMAGES * group.size:
        raise InvalidInput(
            f"got {len(images)} training images for {group.size} processes, expected {FEWEST_IMAGES} or more "
            "for each"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if group.leads:
        clear_interrupted(folder)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = _Run(
        network,
        images,
        phases,
        folder,
        min(batch, len(images) // group.size * group.size),
        seed,
        device,
        device.type == "cuda" if bf16 is None else bf16,
        _normalise(frozen, device),
        group,
        checkpoint_every,
        report,
        origin,
    )
    start = read_checkpoint(folder, run.asked)
    if not group.agree((run.asked, start and (start.phase, start.step))):
        raise InvalidInput(
            f"got processes that do not see the same images, or the same files in {folder}; expected folders "
            "that all of them share"
        )
    if start:
        network.load_state_dict(start.network)
    group.same_weights(network)
    finished = start.phase if start else 0
    lengths = [run.steps(phase) for phase in phases]
    with progress_bar(phases, lengths, bar and group.leads, finished) as advance:
        for number in range(finished, len(phases)):
            goes_on = start if start and start.phase == number and start.step else None
            _train_phase(run, number, goes_on, advance)


def check_batch(batch: int, group: Group) -> None:
    """Refuse batches that a run's processes cannot train on.

    Args:
        batch: Images a step, of all processes together.
        group: The processes.

    Raises:
        InvalidInput: There are fewer than ``FEWEST_IMAGES`` for each process, or they cannot be shared
            out evenly.
    """
    if batch < FEWEST_IMAGES * group.size:
        raise InvalidInput(
            f"--batch: got {batch} images for {group.size} processes, expected {FEWEST_IMAGES} or more for "
            "each: one image has no BN statistics"
        )
    group.share(batch)


def _train_phase(run: _Run, number: int, start: Checkpoint | None, advance: Advance) -> None:
    """One phase, from its beginning or from a checkpoint inside it."""
    network, phase, steps = run.network, run.phases[number], run.steps(run.phases[number])
    before = [done for done in run.phases[:number] if run.steps(done)]
    # Not what another run left: narrow subnets are trained there already, and would lose their channels.
    if start is None and phase.sort_channels and steps and before and not run.origin:
        sort_channels(network, before[-1])
    teacher = _teacher(run, number, begins=start is None) if phase.taught else None
    optimiser, average = optimiser_of(network), WeightAverage(network, steps)
    if start and start.optimiser is not None and start.average is not None:
        optimiser.load_state_dict(start.optimiser)
        average.load(start.average)
    todo = range(start.step if start else 0, steps)
    began, losses, lost = time.monotonic(), [], 0
    share, phase_seed = run.group.share(run.batch), run.seed * 1000 + number

    def read(step: int) -> tuple[Tensor, Tensor]:
        at = batch_indices(len(run.images), run.batch, step, phase_seed)[share]
        return _ready(run.images.pixels(at), run.device), _ready(run.images.labels_N[at], run.device)

    for step, (x_NHWC, labels_N) in zip(todo, prefetched(read, todo), strict=True):
        rate = learning_rate(phase.learning_rate, step, steps)
        for parameters in optimiser.param_groups:
            parameters["lr"] = rate
        losses.append(_gradients(run, phase, x_NHWC, labels_N, step_rng(step, phase_seed), teacher))
        lost = 0 if optimiser_step(network, optimiser, run.group) else lost + 1
        if lost == MOST_LOST:
            raise InvalidInput(
                f"phase {phase.name!r}: the gradients of {lost} steps in a row are no finite numbers: the "
                f"training has diverged, at a learning rate of {rate:g}; expected a smaller --rate"
            )
        average.update(network, step)
        advance(number, step + 1, losses[-1])
        last = step + 1 == steps
        if (step + 1) % run.checkpoint_every == 0 and not last:
            state = (number, step + 1, network.state_dict(), average.tensors, optimiser.state_dict())
            run.save(*state)
        if (step + 1) % run.checkpoint_every == 0 or last:
            seconds = (time.monotonic() - began) / (step + 1 - todo.start)
            _tell(run, phase, step + 1, losses[-run.checkpoint_every :], rate, seconds)
    average.move_into(network)
    run.save(number + 1, 0, network.state_dict())
    run.group.wait()


def _gradients(
    run: _Run,
    phase: Phase,
    x_NHWC: Tensor,
    labels_N: Tensor,
    rng: np.random.Generator,
    teacher: ChainSupernet | None,
) -> float:
    """Sum up the gradients of one step's subnets on this process's images; returns the loss.

    Every process draws the same: the resolution, the crops of the whole batch, the subnets.
    """
    resolution = int(rng.choice(phase.resolutions))
    crops = draw_crops(run.batch, run.images.side, rng, phase.smallest_area)
    architectures = step_architectures(run.network.space, phase, resolution, rng)
    x_NHWC = x_NHWC.to(run.device, non_blocking=True)
    x_NCHW = normalised(resampled(x_NHWC, crops.part(run.group.share(run.batch)), resolution), run.device)
    labels_N = labels_N.to(run.device, non_blocking=True)
    soft_NC = None
    if teacher is not None:
        best = largest(run.network.space, architectures[0].resolution)
        soft_NC = soft_answers(teacher, x_NCHW, best, normalise=run.normalise, bf16=run.bf16)
    return accumulate_gradients(
        run.network,
        x_NCHW,
        labels_N,
        architectures,
        soft_NC=soft_NC,
        normalise=run.normalise,
        bf16=run.bf16,
    )


def _tell(run: _Run, phase: Phase, step: int, losses: list[float], rate: float, seconds: float) -> None:
    loss, steps = run.group.mean(float(np.mean(losses)), run.device), run.steps(phase)
    if run.group.leads:
        values = (f"{loss:.5f}", f"{rate:.3e}", f"{seconds:.3f}", f"{run.batch / seconds:.1f}")
        log_line(run.folder, (phase.name, step, *values))
        run.report(f"{phase.name}: step {step}/{steps} loss {loss:.3f} {seconds:.2f} s a step")


def _teacher(run: _Run, number: int, begins: bool) -> ChainSupernet:
    """A frozen copy of the largest network, as it was when the first phase with a teacher began."""
    if begins and run.group.leads and not any(phase.taught for phase in run.phases[:number]):
        save_teacher(run.folder, run.network)
    run.group.wait()
    teacher = ChainSupernet.empty(run.network.space)
    load_teacher(run.folder, teacher)
    return teacher.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _normalise(frozen: StatisticsTable | None, device: torch.device) -> NormaliseFor:
    if frozen is None:
        return batch_statistics

    def constants(architecture: Architecture) -> Normalise:
        own = frozen.lookup(architecture)
        return FixedStatistics({site: (m.to(device), v.to(device)) for site, (m, v) in own.items()})

    return constants


def _ready(tensor: Tensor, device: torch.device) -> Tensor:
    """Pinned memory, out of which a GPU copies while it computes."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def learning_rate(peak: float, step: int, steps: int) -> float:
    """The rate of one step: a linear warm-up, at most a quarter of the steps long, then a cosine to zero."""
    warm_up = max(1, min(max(WARM_UP_STEPS, int(WARM_UP_SHARE * steps)), steps // 4))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def optimiser_of(network: ChainSupernet) -> torch.optim.Optimizer:
    """AdamW that spares BN, biases and kernel transforms its decay."""
    named = list(network.named_parameters())
    groups = [
        {"params": [p for n, p in named if not no_decay(n)], "weight_decay": WEIGHT_DECAY},
        {"params": [p for n, p in named if no_decay(n)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3)


def optimiser_step(network: ChainSupernet, optimiser: torch.optim.Optimizer, group: Group) -> bool:
    """One step on the gradients of all processes, clipped; left out, and False, where they are no numbers."""
    group.average_gradients(network)
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
    finite = bool(torch.isfinite(norm))
    if finite:
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return finite
