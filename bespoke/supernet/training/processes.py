"""Several processes that train one supernet, each on its share of every batch (``torchrun``).

All processes draw the same subnets and crops, since these follow from (seed, phase, step), and
take the mean of their gradients before each optimiser step, so that their weights stay equal.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bespoke.supernet.errors import InvalidInput

LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True)
class Group:
    """The processes of one run.

    Attributes:
        rank: Number of this process; 0 writes the files.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes checkpoints, logs and results."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """Which images of a whole batch are this process's own.

        Raises:
            InvalidInput: The batch cannot be shared out evenly.
        """
        if batch % self.size:
            raise InvalidInput(f"a batch of {batch} for {self.size} processes; expected a multiple of them")
        own = batch // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def agree(self, value: object) -> bool:
        """Whether all processes came here with the same value."""
        if self.size == 1:
            return True
        values: list[object] = [None] * self.size
        dist.all_gather_object(values, value)
        return all(other == values[0] for other in values)

    def average_gradients(self, network: nn.Module) -> None:
        """Replace each gradient by its mean over the processes."""
        found = [p.grad for p in network.parameters() if p.grad is not None]
        if self.size == 1 or not found:
            return
        flat = torch.cat([gradient.flatten() for gradient in found])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(found, flat.split([g.numel() for g in found]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def same_weights(self, network: nn.Module) -> None:
        """Take over the first process's weights."""
        if self.size > 1:
            for parameter in network.parameters():
                dist.broadcast(parameter.data, 0)

    def mean(self, value: float, device: torch.device | str) -> float:
        """Mean of a number over the processes."""
        if self.size == 1:
            return value
        total: Tensor = torch.tensor(value, device=device)
        dist.all_reduce(total)
        return float(total) / self.size


def device_of(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: ``cpu``, ``cuda`` or, of several GPUs, e.g. ``cuda:1``.

    Raises:
        InvalidInput: There is no such device here.
    """
    try:
        found = torch.device(name)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise InvalidInput(f"device: got {name!r}, expected cpu or cuda")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InvalidInput(
            f"device: got {name!r}, but torch sees {torch.cuda.device_count()} GPUs here: take cpu, or a "
            "torch that is built for the GPUs of this machine"
        )
    return found


def join(device: str = "cpu") -> tuple[Group, torch.device]:
    """Join the run that ``torchrun`` started, or be its only process.

    Args:
        device: ``cpu``, or ``cuda``: then each process takes the GPU of its local rank.

    Returns:
        The group, and the device of this process.

    Raises:
        InvalidInput: There is no such device here, or there are more processes than GPUs.
    """
    own = device_of(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group(), own
    if own.type == "cuda":
        own = device_of(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(own)
    if not dist.is_initialized():
        # One process decodes a large data set while the others wait: longer than they would by default.
        dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    return Group(dist.get_rank(), dist.get_world_size()), own


def leave(group: Group) -> None:
    """Let go of the other processes; call it once, at the end."""
    if group.size > 1 and dist.is_initialized():
        dist.destroy_process_group()
