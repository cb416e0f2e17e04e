"""The verbs that work on files alone: cost, latency, accuracy, search. JSON lines in, JSON lines out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from bespoke.cli.asking import (
    INFEASIBLE,
    LARGEST_SIDE,
    SEVERAL,
    SMALLEST_SIDE,
    Classes,
    Exclude,
    Fix,
    Json,
    Predictor,
    Resolutions,
    Seed,
    SomeTables,
    Space,
    Tables,
    candidate_json,
    choices_left,
    effort_of,
    json_lines,
    print_infeasible,
    search_parts,
)
from bespoke.supernet.errors import ArchitectureInvalid, BudgetInfeasible, InvalidInput

CHUNK = 4096
"""Lines priced at once."""


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(context_settings=SEVERAL)(search)
    app.command()(cost)
    app.command(context_settings=SEVERAL)(latency)
    app.command()(accuracy)


def cost(space: Space, classes: Classes = 1000) -> None:
    """Print MACs, parameters, peak memory and model size of each architecture on standard input."""
    from bespoke.supernet.cost import price_all

    def price(found: Any, genomes: Any) -> dict[str, list[Any]]:
        return {name: [int(v) for v in values] for name, values in price_all(found, genomes).items()}

    _each_line(space, classes, price)


def latency(context: typer.Context, space: Space, table: Tables, classes: Classes = 1000) -> None:
    """Print the latency of each architecture on standard input, by a latency table."""
    from bespoke.latency_tables import read_table

    read = read_table([*table, *map(Path, context.args)])
    _each_line(space, classes, lambda s, g: {"latency_ms": read.pricer(s).latency_ms(g).tolist()})


def accuracy(space: Space, predictor: Predictor, classes: Classes = 1000) -> None:
    """Print the predicted top-1 of each architecture on standard input."""
    from bespoke.predictors import read_predictor

    _each_line(space, classes, lambda s, g: {"top1": read_predictor(predictor, s).top1(g).tolist()})


def search(
    context: typer.Context,
    space: Space,
    predictor: Predictor,
    table: SomeTables = None,
    latency_ms: Annotated[float | None, typer.Option(help="Limit in ms.")] = None,
    macs: Annotated[float | None, typer.Option(help="Limit in multiply-accumulates.")] = None,
    flops: Annotated[float | None, typer.Option(help="Limit in 2 x multiply-accumulates.")] = None,
    params: Annotated[float | None, typer.Option(help="Limit in parameters.")] = None,
    peak_memory_bytes: Annotated[float | None, typer.Option(help="Limit in bytes.")] = None,
    model_size_bytes: Annotated[float | None, typer.Option(help="Limit in bytes.")] = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="Limit the upper end of the interval that holds this share of latencies."),
    ] = None,
    min_top1: Annotated[
        float | None, typer.Option("--min-top1", help="Least predicted top-1; the latency is then minimised.")
    ] = None,
    minimise: Annotated[str | None, typer.Option(help="With --min-top1: another metric to minimise.")] = None,
    fix: Fix = None,
    exclude: Exclude = None,
    alternatives: Annotated[int, typer.Option(help="So many different networks near the best one.")] = 0,
    resolutions: Resolutions = None,
    classes: Classes = 1000,
    seed: Seed = 0,
    population: Annotated[int | None, typer.Option(help="Effort: lineages that climb.")] = None,
    generations: Annotated[int | None, typer.Option(help="Effort: steps that they climb.")] = None,
    as_json: Json = False,
) -> None:
    """Find the most accurate architecture within limits, on files alone; exit code 3 if none fits.

    With --min-top1, find the fastest one (or the least of another metric) of that top-1 or more.
    """
    from bespoke.search import Problem, restrict
    from bespoke.search import search as run

    limits = {
        "latency_ms": latency_ms,
        "macs": macs,
        "flops": flops,
        "params": params,
        "peak_memory_bytes": peak_memory_bytes,
        "model_size_bytes": model_size_bytes,
    }
    tables = [*(table or []), *map(Path, context.args)]
    found, accuracy_predictor, pricer, precision = search_parts(
        space, classes, predictor, tables, resolutions
    )
    if min_top1 is not None and minimise is None:
        minimise = "latency_ms" if pricer else "macs"
    problem = Problem(
        space=found,
        predictor=accuracy_predictor,
        constraints=_constraints(limits, confidence),
        latency=pricer,
        seed=seed,
        effort=effort_of(population, generations),
        minimise=minimise,
        min_top1=min_top1,
        alternatives=alternatives,
        precision=precision,
    )
    try:
        result = run(restrict(problem, choices_left(found, fix, exclude)))
    except BudgetInfeasible as error:
        print_infeasible(error, as_json)
        raise typer.Exit(INFEASIBLE) from error
    answer = _told(result.best) | {"evaluations": result.evaluations, "seed": result.seed}
    if alternatives:
        answer["alternatives"] = [_told(other) for other in result.alternatives]
    _print_best(answer, as_json)


def _constraints(limits: dict[str, float | None], confidence: float | None) -> tuple[Any, ...]:
    """What limits the search; the confidence is of the latency."""
    from bespoke.search import Constraint

    if confidence is not None and limits["latency_ms"] is None:
        raise InvalidInput("--confidence: got no --latency-ms whose interval it could limit; give both")
    return tuple(
        Constraint(name, limit, confidence if name == "latency_ms" else None)
        for name, limit in limits.items()
        if limit is not None
    )


def _told(found: Any) -> dict[str, Any]:
    """A candidate as JSON; without a table the interval of its latency is null."""
    return {**candidate_json(found), "latency_interval_ms": found.latency_interval_ms}


def _print_best(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer))
        return
    for name, value in answer.items():
        print(f"{name:20} {json.dumps(value)}")


def _each_line(name: str, classes: int, price: Callable[[Any, Any], dict[str, list[Any]]]) -> None:
    """Price the architectures on standard input, and print one JSON object a line.

    Raises:
        InvalidInput: Names the line that is no architecture of the space.
    """
    from bespoke.supernet.architecture import encode, own_fields, read_architecture
    from bespoke.supernet.spaces import space as make_space

    make_space(name, [LARGEST_SIDE], classes)
    for lines in _chunks():
        sides = sorted({_side(number, data) for number, data in lines})
        found = make_space(name, sides, classes)
        architectures = []
        for number, data in lines:
            try:
                architectures.append(read_architecture(found, own_fields(found, data)))
            except ArchitectureInvalid as error:
                raise InvalidInput(f"line {number}: {error}") from error
        columns = price(found, encode(found, architectures))
        for row in zip(*columns.values(), strict=True):
            print(json.dumps(dict(zip(columns, row, strict=True))))


def _chunks() -> Iterator[list[tuple[int, Any]]]:
    """The numbered JSON values on standard input, ``CHUNK`` at a time."""
    values = json_lines("an architecture as JSON")
    while chunk := list(islice(values, CHUNK)):
        yield chunk


def _side(number: int, data: Any) -> int:
    side = data.get("resolution") if isinstance(data, dict) else None
    if not isinstance(side, int) or isinstance(side, bool) or not SMALLEST_SIDE <= side <= LARGEST_SIDE:
        raise InvalidInput(
            f"line {number}: "
            + (
                f"architecture field 'resolution': got {side!r}, allowed: {SMALLEST_SIDE} to {LARGEST_SIDE}"
                if isinstance(data, dict)
                else f"got {data!r}, expected an architecture as a JSON object"
            )
        )
    return side
