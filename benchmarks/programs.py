"""What benchmarks are as programs: options in; out comes one JSON object, or lines for people."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

from bespoke.supernet.errors import BespokeError


def run(
    about: str | None,
    add_options: Callable[[argparse.ArgumentParser], None],
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    lines: Callable[[dict[str, Any]], Iterable[str]] | None = None,
) -> None:
    """Measure what the command line asks for, and print it; a bad request is one line, without a trace.

    Args:
        about: The module's docstring.
        add_options: Adds what can be asked for, beside ``--json``.
        measure: Gives what ``--json`` prints.
        lines: What is printed of that for people; the same, indented, unless given.
    """
    main = sys.modules["__main__"].__spec__
    name = main.name.removesuffix(".__main__") if main else None
    parser = argparse.ArgumentParser(
        f"python -m {name}" if name else None,
        description=about,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_options(parser)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        result = measure(options)
    except BespokeError as error:
        raise SystemExit(f"{name or parser.prog}: {error}") from error
    if options.json:
        print(json.dumps(result))
    else:
        print(*(lines(result) if lines else [json.dumps(result, indent=2)]), sep="\n")
