"""The command line: parse, one public call, print.

Commands import what they need when they run, so that ``bespoke --help`` is instant everywhere.
"""

from __future__ import annotations

import sys

import typer

from bespoke.cli import (
    datasets,
    devices,
    fleet,
    fronts,
    offline,
    predictors,
    quickstart,
    searches,
    service,
    tables,
    weights,
    zoo,
)
from bespoke.supernet.errors import BespokeError

__all__ = ["ERROR", "INFEASIBLE", "app", "main"]

MODULES = (
    offline,
    fronts,
    tables,
    weights,
    zoo,
    predictors,
    datasets,
    devices,
    fleet,
    searches,
    service,
    quickstart,
)
"""Every module that brings commands, in the order of the help."""

ERROR = 2
"""Exit code of every error that Bespoke raises on purpose."""

INFEASIBLE = 3
"""Exit code of a search whose limits no architecture meets."""


def _assemble() -> typer.Typer:
    assembled = typer.Typer(
        name="bespoke",
        help="Hardware-aware architecture search: a latency budget in, the network that fits out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for module in MODULES:
        module.register(assembled)
    return assembled


app = _assemble()


def main() -> None:
    """Run the command line; an error raised on purpose is one line on stderr and exit code 2."""
    try:
        app()
    except BespokeError as error:
        print(f"bespoke: {error}", file=sys.stderr)
        sys.exit(ERROR)
