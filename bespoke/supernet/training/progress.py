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
def progress_bar(
    phases: Sequence[Phase], steps: Sequence[int], shown: bool, finished: int = 0
) -> Iterator[Advance]:
    """Show a bar on standard error while the block runs, one line a phase.

    Args:
        phases: What is done.
        steps: Steps of each.
        shown: Whether to show it at all.
        finished: How many of the phases were done before.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown, refresh_per_second=2) as bars:
        tasks = [
            bars.add_task(
                phase.name, total=total, completed=total if number < finished else 0, start=False, loss=""
            )
            for number, (phase, total) in enumerate(zip(phases, steps, strict=True))
        ]

        def advance(phase: int, done: int, loss: float) -> None:
            bars.start_task(tasks[phase])
            bars.update(tasks[phase], completed=done, loss=f"loss {loss:.3f}")

        yield advance
