"""What a training run keeps in its folder: a checkpoint, the teacher, and a log.

checkpoint.pt         weights, their average, the optimiser, the position, what the run was asked for
teacher.safetensors   the frozen largest network of recipes that have one
log.csv               a line a checkpoint, appended

The first two are never half-written; a run that was killed may leave half a line in the log.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bespoke.supernet.checkpoints import save_tensors
from bespoke.supernet.errors import FileInvalid
from bespoke.supernet.training.phase import Phase
from bespoke.supernet.whole_files import named, replacing

REVISION = 2
"""Raised whenever training with the same settings comes to other weights: no run of before goes on then."""
FIELDS = ("phase", "step", "loss", "learning_rate", "seconds_a_step", "images_per_s")


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands.

    Attributes:
        phase: Index of the phase that goes on.
        step: Its next step.
        network: Weights by name.
        average: Their moving average; None between phases.
        optimiser: The optimiser's state; None between phases.
    """

    phase: int
    step: int
    network: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None = None
    optimiser: dict[str, Any] | None = None


def asked_for(
    phases: Sequence[Phase], batch: int, seed: int, space: Mapping[str, Any], images: str, origin: str
) -> str:
    """What decides a run's course, as text: a checkpoint is of this run if the texts are equal.

    Args:
        phases: What is done.
        batch: Images a step.
        seed: All randomness follows from it.
        space: The supernet's, as JSON.
        images: Digest of the training images.
        origin: Digest of the weights that it starts from; empty where they are random.
    """
    own = {"revision": REVISION, "phases": [asdict(phase) for phase in phases], "batch": batch, "seed": seed}
    return json.dumps(own | {"space": space, "images": images, "origin": origin})


def save_checkpoint(folder: Path, checkpoint: Checkpoint, asked: str) -> None:
    """Replace the run's checkpoint.

    Raises:
        FileInvalid: It cannot be written; the one before stays.
    """
    path = folder / "checkpoint.pt"
    with replacing(path) as temporary, named(path), temporary.open("wb") as file:
        try:
            torch.save({"asked": asked, **vars(checkpoint)}, file)
        except RuntimeError as error:  # What torch makes of a full disk.
            raise OSError(str(error).splitlines()[0]) from error
        file.flush()
        os.fsync(file.fileno())


def clear_interrupted(folder: Path) -> None:
    """Remove the checkpoints that a run was killed in the middle of writing."""
    for left in folder.glob(".checkpoint.pt.*"):
        left.unlink(missing_ok=True)


def read_checkpoint(folder: Path, asked: str) -> Checkpoint | None:
    """Read where a run stands; None where it has not begun.

    Raises:
        FileInvalid: The checkpoint is of a run that was asked for something else, or is damaged.
    """
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    # On the CPU: the optimiser counts its steps there, and would wait for a GPU at each of them.
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # Damaged files fail in many ways, and all of them mean the same.
        raise FileInvalid(path, "is damaged; remove it to begin anew") from error
    if state.pop("asked", None) != asked:
        raise FileInvalid(
            path,
            "a run of other phases, images, space or start, of another batch or seed, or of an earlier "
            "revision of the training; give another --run folder, or the settings of this one",
        )
    return Checkpoint(**state)


def save_teacher(folder: Path, network: nn.Module) -> None:
    """Keep a network's weights as the teacher's, in full precision."""
    save_tensors(dict(network.named_parameters()), folder / "teacher.safetensors")


def load_teacher(folder: Path, network: nn.Module) -> None:
    """Read the teacher's weights into an empty network of the same space.

    Raises:
        FileInvalid: A run with a teacher goes on, but its file is gone, or is damaged.
    """
    path = folder / "teacher.safetensors"
    if not path.is_file():
        raise FileInvalid(path, "the run's teacher is gone; give another --run folder to begin anew")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise FileInvalid(path, "is damaged; give another --run folder to begin anew") from error
    network.load_state_dict(weights, assign=True)


def log_line(folder: Path, values: Sequence[object]) -> None:
    """Append a line of ``FIELDS`` to the run's log.

    Raises:
        FileInvalid: It cannot be written.
    """
    path = folder / "log.csv"
    fresh = not path.exists()
    with named(path), path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(FIELDS)
        writer.writerow(values)
