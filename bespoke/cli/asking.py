"""What the verbs on files share: their options, what is read for a search, and how an answer is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bespoke.supernet.errors import BudgetInfeasible, InvalidInput

SMALLEST_SIDE, LARGEST_SIDE = 8, 2048

Space = Annotated[str, typer.Option(help="Search space, e.g. ofa-mobilenetv3-w1.2.")]
Classes = Annotated[int, typer.Option(help="Size of the classifier.")]
Tables = Annotated[
    list[Path], typer.Option("--table", help="Latency table: a file or a folder; may be repeated.")
]
SomeTables = Annotated[
    list[Path] | None, typer.Option("--table", help="Latency table: a file or a folder; may be repeated.")
]
Resolutions = Annotated[str | None, typer.Option(help="Sides in pixels, e.g. 160,192,224.")]
Seed = Annotated[int, typer.Option(help="Same seed, same answer.")]
Predictor = Annotated[Path, typer.Option(help="Accuracy predictor: predictor.json or acc_predictor.pth.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

SEVERAL = {"allow_extra_args": True, "ignore_unknown_options": False}
"""``--table A B`` is read like ``--table A --table B``, so that a shell's globs work; so are other
options that may be repeated."""


def effort_of(population: int | None, generations: int | None) -> Any:
    """What is given of it, and else what is usual."""
    from bespoke.search import Effort

    given = {"population": population, "generations": generations}
    return Effort(**{name: value for name, value in given.items() if value is not None})


def search_parts(
    name: str, classes: int, predictor: Path, tables: list[Path], resolutions: str | None
) -> tuple[Any, Any, Any, str]:
    """Space, predictor, pricer and precision of a search; the resolutions are the table's unless given."""
    from bespoke.latency_tables import covered_space, read_table
    from bespoke.predictors import read_predictor
    from bespoke.supernet.spaces import space as make_space

    if resolutions is not None:
        found = make_space(name, sorted(set(read_sides(resolutions))), classes)
        table = read_table(tables) if tables else None
    elif tables:
        table = read_table(tables)
        found = covered_space(table, make_space(name, sides_in(table), classes))
    else:
        table, found = None, make_space(name, classes=classes)
    accuracy = read_predictor(predictor, found)
    if table is None:
        return found, accuracy, None, "fp32"
    return found, accuracy, table.pricer(found), table.profile.model_precision


def read_sides(text: str) -> list[int]:
    """Sides in pixels of ``--resolutions``.

    Raises:
        InvalidInput: They are no whole numbers.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput(f"--resolutions: got {text!r}, expected pixels such as 160,192,224") from None


def sides_in(table: Any) -> list[int]:
    """Sides of the images that a table's first convolutions read: the only ones it can cover."""
    from bespoke.supernet.ops import parse_key

    shapes = {parse_key(key).in_shape for key in table.stats}
    return sorted({h for h, w, c in shapes if c == 3 and h == w and SMALLEST_SIDE <= h <= LARGEST_SIDE})


def candidate_json(candidate: Any) -> dict[str, Any]:
    """A candidate as JSON, with the intervals of latencies."""
    intervals = {name: list(ends) for name, ends in candidate.latency_intervals_ms.items()}
    own = candidate.latency_interval_ms
    return {
        "architecture": candidate.architecture.to_json(),
        "top1": candidate.top1,
        "top1_interval": list(candidate.top1_interval),
        **{
            name: value if name.startswith("latency_ms") else int(value)
            for name, value in candidate.metrics.items()
        },
        **({"latency_interval_ms": list(own)} if own else {}),
        **({"latency_intervals_ms": intervals} if intervals else {}),
    }


def print_infeasible(error: BudgetInfeasible, as_json: bool) -> None:
    """The refusal: a document on standard output, or a line on standard error."""
    if as_json:
        from bespoke.search.feasibility import infeasible_document

        print(json.dumps(infeasible_document(error)))
    else:
        print(f"bespoke: {error}", file=sys.stderr)
