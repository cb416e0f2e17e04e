"""What the verbs on files share: their options, what is read for a search, and how an answer is told."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from bespoke.supernet.errors import BudgetInfeasible, InvalidInput, NotFound
from bespoke.supernet.zoo import ZooEntry

SMALLEST_SIDE, LARGEST_SIDE = 8, 2048

INFEASIBLE = 3
"""Exit code of a search whose limits no architecture meets."""

LARGEST_SEED = 2**63 - 1
"""Of the service's searches too; torch takes no larger one."""


def check_seed(seed: int | None) -> int | None:
    """Of an option: a seed that every generator of random numbers takes.

    Raises:
        InvalidInput: It is negative, or too large.
    """
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise InvalidInput(f"--seed: got {seed}, expected 0 or more, at most {LARGEST_SEED}")
    return seed


Space = Annotated[str, typer.Option(help="Search space, e.g. ofa-mobilenetv3-w1.2.")]
Classes = Annotated[int, typer.Option(help="Size of the classifier.")]
Tables = Annotated[
    list[Path], typer.Option("--table", help="Latency table: a file or a folder; may be repeated.")
]
SomeTables = Annotated[
    list[Path] | None, typer.Option("--table", help="Latency table: a file or a folder; may be repeated.")
]
Resolutions = Annotated[str | None, typer.Option(help="Sides in pixels, e.g. 160,192,224.")]
Fix = Annotated[
    list[str] | None, typer.Option(help="Allow this choice only, e.g. resolution=128; may be repeated.")
]
Exclude = Annotated[
    list[str] | None, typer.Option(help="Leave this choice out, e.g. kernel=7; may be repeated.")
]
Seed = Annotated[int, typer.Option(help="Same seed, same answer.", callback=check_seed)]
Predictor = Annotated[Path, typer.Option(help="Accuracy predictor: predictor.json or acc_predictor.pth.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
EntryName = Annotated[str, typer.Argument(help="Name of a supernet of the zoo.")]

SEVERAL = {"allow_extra_args": True, "ignore_unknown_options": False}
"""What stands alone is one more table: ``--table A B`` is read like ``--table A --table B``, so that a
shell's globs work, and so is ``--reference A B``."""


def progress(line: str) -> None:
    """A line of progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


def zoo_entry(name: str, folder: Path) -> ZooEntry:
    """A supernet of a zoo's folder.

    Raises:
        NotFound: Names the folder too; ``supernet.zoo.entry`` tells of other errors.
    """
    from bespoke.supernet import zoo

    try:
        return zoo.entry(name, folder)
    except NotFound as error:
        where = "the bundled zoo" if folder == zoo.ROOT else str(folder)
        raise NotFound(f"supernet in {where} (see --zoo)", name, error.known) from error


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
        found = make_space(name, read_sides(resolutions), classes)
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
    """Sides in pixels of ``--resolutions``, each once, the smallest first.

    Raises:
        InvalidInput: They are no whole numbers.
    """
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise InvalidInput(f"--resolutions: got {text!r}, expected pixels such as 160,192,224") from None


def read_number(option: str, given: str, text: str, expected: str) -> float:
    """A number in what an option was given.

    Args:
        option: As it is written.
        given: All that it was given.
        text: The part of it that should be a number.
        expected: What it should have been given, in words.

    Raises:
        InvalidInput: The text is no finite number.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidInput(f"{option}: got {given!r}, expected {expected}")
    return number


def read_limit(option: str, given: str, text: str, expected: str) -> tuple[float, float | None]:
    """Limit and confidence, if there is one, of ``LIMIT`` or ``LIMIT@CONFIDENCE``; see ``read_number``."""
    limit, at, confidence = text.partition("@")
    number = read_number(option, given, limit, expected)
    return number, read_number(option, given, confidence, expected) if at else None


def choices_left(space: Any, fix: list[str] | None, exclude: list[str] | None) -> dict[str, list[float]]:
    """The choices that ``--fix`` and ``--exclude`` leave, by dimension.

    Raises:
        InvalidInput: An option is no name and number, or names no choice of the space.
    """
    allowed: dict[str, list[float]] = {}
    known = {d.name: list(d.choices) for d in space.dimensions}
    for option, given in (("--fix", fix), ("--exclude", exclude)):
        for text in given or ():
            name, _, number = text.partition("=")
            value = read_number(option, text, number, "a name and a number, e.g. resolution=128")
            if value not in known.get(name, []):
                raise InvalidInput(f"{option}: got {text!r}, expected one of the choices {known}")
            if option == "--fix":
                allowed.setdefault(name, []).append(value)
            else:
                allowed[name] = [v for v in allowed.get(name, known[name]) if v != value]
    return allowed


def input_lines() -> Iterator[str]:
    """The lines of standard input.

    Raises:
        InvalidInput: It is no text.
    """
    try:
        yield from sys.stdin
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"standard input: got what is no text, expected JSON lines in UTF-8; {error}"
        ) from error


def json_lines(expected: str) -> Iterator[tuple[int, Any]]:
    """The numbered JSON values on standard input, one a line; empty lines are passed over.

    Args:
        expected: What each line should hold, in words.

    Raises:
        InvalidInput: Names the line that is no JSON.
    """
    for number, line in enumerate(input_lines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"line {number}: expected {expected}; {error}") from error
        yield number, value


def sides_in(table: Any) -> list[int]:
    """Sides of the images that a table's first convolutions read: the only ones it can cover."""
    from bespoke.supernet.ops import parse_key

    shapes = {parse_key(key).in_shape for key in table.stats}
    return sorted({h for h, w, c in shapes if c == 3 and h == w and SMALLEST_SIDE <= h <= LARGEST_SIDE})


def candidate_json(candidate: Any) -> dict[str, Any]:
    """A candidate as JSON, with the intervals of latencies."""
    intervals = {name: list(ends) if ends else None for name, ends in candidate.latency_intervals_ms.items()}
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
