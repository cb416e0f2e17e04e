"""A progress bar over all phases, for people at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bespoke.supernet.training.phase import Phase

Advance = Callable[[int, int, float], None]
"""Told the phase's index, the steps that it has done, and the last step's loss."""


@contextmanager
def progress_bar(phases: Sequence[Phase], steps: Sequence[int], shown: bool) -> Iterator[Advance]:
    """Show a bar on standard error while the block runs, one line a phase.

    Args:
        phases: What is done.
        steps: Steps of each.
        shown: Whether to show it at all.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown, refresh_per_second=2) as bars:
        tasks = [
            bars.add_task(phase.name, total=total, start=False, loss=float("nan"))
            for phase, total in zip(phases, steps, strict=True)
        ]

        def advance(phase: int, done: int, loss: float) -> None:
            bars.start_task(tasks[phase])
            bars.update(tasks[phase], completed=done, loss=loss)

        yield advance
