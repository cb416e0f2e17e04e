"""What benchmarks are as programs: options in; out comes one JSON object, or lines for people."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any


def run(
    about: str | None,
    add_options: Callable[[argparse.ArgumentParser], None],
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    lines: Callable[[dict[str, Any]], Iterable[str]],
) -> None:
    """Measure what the command line asks for, and print it.

    Args:
        about: The module's docstring.
        add_options: Adds what can be asked for, beside ``--json``.
        measure: Gives what ``--json`` prints.
        lines: What is printed of that for people.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options)
    for line in [json.dumps(result)] if options.json else lines(result):
        print(line)
