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
from bespoke.cli.asking import INFEASIBLE
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

EXTRAS = {
    **dict.fromkeys(("torch", "PIL", "onnx"), "train"),
    **dict.fromkeys(("sklearn", "yaml"), "tables"),
    **dict.fromkeys(("onnxruntime", "psutil"), "agent"),
    **dict.fromkeys(("alembic", "dbos", "fastapi", "obstore", "pydantic"), "service"),
    **dict.fromkeys(("pydantic_settings", "sqlalchemy", "uvicorn"), "service"),
    "matplotlib": "plots",
    "openvino": "openvino",
}
"""What has to be installed for a module to be there."""


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
    """Run the command line.

    An error raised on purpose is one line on stderr and exit code 2, and so is a file that cannot be
    read or written, and a library that is not installed.
    """
    try:
        app()
    except BespokeError as error:
        told = str(error)
    except OSError as error:
        if error.filename is None:
            raise
        told = f"{error.filename}: {error.strerror}; expected a path that can be read and written"
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        told = f"this needs {missing}: pip install 'bespoke-search[{EXTRAS[missing]}]'"
    else:
        return
    print(f"bespoke: {told}", file=sys.stderr)
    sys.exit(ERROR)
