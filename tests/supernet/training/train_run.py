"""A short training run in a process of its own: ``python -m tests.supernet.training.train_run``.

Arguments: the run's folder, ``batch`` or ``frozen`` (BN statistics), and where the weights go; with
``apart``, each process has a folder of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from bespoke.supernet.training import loop
from bespoke.supernet.training.phase import Phase
from bespoke.supernet.training.processes import join, leave
from tests.supernet.training.tiny import any_statistics, fresh, two_colours

PHASES = (
    Phase("largest", 2, 1e-3, (32,), subnets="largest"),
    Phase("depth", 2, 1e-3, (32, 24), 2, "random", open_choices=(("expand", 1),)),
    Phase("expand", 4, 1e-3, (32, 24), 2, "random", sort_channels=True),
)


def main(folder: Path, statistics: str, out: Path, report: Callable[[str], None] | None = None) -> None:
    group, _ = join()
    # Different weights in each process: they have to become those of the first one.
    network = fresh(seed=group.rank)
    table = any_statistics() if statistics == "frozen" else None
    if statistics == "apart":
        folder /= str(group.rank)
    options = {"batch": 4, "frozen": table, "group": group, "checkpoint_every": 2}
    loop.train(network, two_colours(), PHASES, folder, report=report or _print, **options)
    save_file({n: p.detach().contiguous() for n, p in network.named_parameters()}, f"{out}.{group.rank}")
    leave(group)


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
