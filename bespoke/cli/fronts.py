"""``bespoke pareto`` and ``bespoke fleet``: more than one architecture from one question, on files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bespoke.cli.asking import (
    INFEASIBLE,
    SEVERAL,
    Classes,
    Exclude,
    Fix,
    Predictor,
    Resolutions,
    Seed,
    SomeTables,
    Space,
    candidate_json,
    choices_left,
    effort_of,
    json_lines,
    print_infeasible,
    read_limit,
    read_sides,
    search_parts,
    sides_in,
)
from bespoke.supernet.errors import BudgetInfeasible, InvalidInput

_FIELDS = ("name", "table", "weight")
"""What a line of a fleet tells beside its limits."""

Population = Annotated[int | None, typer.Option(help="Effort: architectures side by side.")]
Generations = Annotated[int | None, typer.Option(help="Effort: steps that they take.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(context_settings=SEVERAL)(pareto)
    app.command()(fleet)


def pareto(
    context: typer.Context,
    space: Space,
    predictor: Predictor,
    table: SomeTables = None,
    metrics: Annotated[
        str, typer.Option(help="Two or three of top1, latency_ms, macs, flops, params, ...")
    ] = "top1,latency_ms",
    limit: Annotated[
        list[str] | None,
        typer.Option(help="A limit, e.g. latency_ms=30, or latency_ms=30@0.95; may be repeated."),
    ] = None,
    fix: Fix = None,
    exclude: Exclude = None,
    members: Annotated[int, typer.Option(help="How many architectures at most.")] = 100,
    resolutions: Resolutions = None,
    classes: Classes = 1000,
    seed: Seed = 0,
    population: Population = None,
    generations: Generations = None,
) -> None:
    """Print the front of two or three metrics, one architecture a line with what the next step buys."""
    from bespoke.search import Constraint, Problem, pareto_front, restrict

    tables = [*(table or []), *map(Path, context.args)]
    found, accuracy, pricer, precision = search_parts(space, classes, predictor, tables, resolutions)
    limits = tuple(Constraint(*_limit(text)) for text in limit or ())
    effort = effort_of(population, generations)
    problem = Problem(found, accuracy, limits, pricer, seed, effort, precision=precision)
    problem = restrict(problem, choices_left(found, fix, exclude))
    try:
        front = pareto_front(problem, [name.strip() for name in metrics.split(",")], members)
    except BudgetInfeasible as error:
        print_infeasible(error, as_json=True)
        raise typer.Exit(INFEASIBLE) from error
    steps = front.marginal_prices()
    for i, member in enumerate(front.members):
        buys = [step for step in steps if step["member"] == i]
        print(json.dumps({**candidate_json(member), "marginal_prices": buys}))


def fleet(
    space: Space,
    predictor: Predictor,
    subnets: Annotated[int, typer.Option(help="How many architectures at most; 1 is one for all.")] = 1,
    resolutions: Resolutions = None,
    classes: Classes = 1000,
    seed: Seed = 0,
    population: Population = None,
    generations: Generations = None,
) -> None:
    """Cover a fleet with few architectures: one member a line on standard input, as JSON.

    A member has a name, a table (a file or a folder, or a list of them), limits (latency_ms, macs, ...)
    and, if it counts more or less than others, a weight.
    """
    from bespoke.latency_tables import covered_space, read_table
    from bespoke.predictors import read_predictor
    from bespoke.search import Constraint, Problem
    from bespoke.search import fleet as cover
    from bespoke.supernet.spaces import space as make_space

    rows = [_member(number, row) for number, row in json_lines("a member as JSON")]
    names = [row["name"] for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(
                f"fleet: got {names.count(name)} members named {name!r}, expected different names"
            )
    tables = {row["name"]: read_table(list(map(Path, row["table"]))) for row in rows if row["table"]}
    asked = [s for table in tables.values() for s in sides_in(table)]
    if resolutions is not None:
        asked = read_sides(resolutions)
    found = make_space(space, sorted(set(asked)), classes) if asked else make_space(space, classes=classes)
    # What is searched is what every table covers.
    for table in () if resolutions is not None else tables.values():
        found = covered_space(table, found)
    accuracy = read_predictor(predictor, found)
    effort = effort_of(population, generations)
    problems = {
        row["name"]: Problem(
            found,
            accuracy,
            tuple(Constraint(name, limit) for name, limit in row["limits"].items()),
            tables[row["name"]].pricer(found) if row["name"] in tables else None,
            seed,
            effort,
            precision=tables[row["name"]].profile.model_precision if row["name"] in tables else "fp32",
        )
        for row in rows
    }
    try:
        result = cover(problems, subnets, {row["name"]: row["weight"] for row in rows})
    except BudgetInfeasible as error:
        print_infeasible(error, as_json=True)
        raise typer.Exit(INFEASIBLE) from error
    for i, subnet in enumerate(result.subnets):
        served = [member.name for member in result.members if member.subnet == i]
        print(json.dumps({"subnet": i, "serves": served, **candidate_json(subnet)}))
    print(
        json.dumps(
            {
                "mean_top1": result.mean_top1,
                "by_subnets": list(result.by_subnets),
                "costs": list(result.costs),
                "alone_top1": {member.name: member.alone_top1 for member in result.members},
                "exact": result.exact,
                "searches": result.searches,
                "evaluations": result.evaluations,
                "seed": result.seed,
            }
        )
    )


def _limit(text: str) -> tuple[str, float, float | None]:
    """Metric, limit and confidence of ``METRIC=LIMIT`` or ``METRIC=LIMIT@CONFIDENCE``."""
    name, _, value = text.partition("=")
    expected = "a metric and a number, as latency_ms=30 or latency_ms=30@0.95"
    return name.strip(), *read_limit("--limit", text, value, expected)


def _member(number: int, row: Any) -> dict[str, Any]:
    """A line of a fleet: its name, tables, limits and weight."""
    if not isinstance(row, Mapping) or not isinstance(row.get("name"), str) or not row["name"]:
        raise InvalidInput(
            f"line {number}: got {json.dumps(row)[:60]}, expected a member with a name, a table, limits"
        )
    table = row.get("table", [])
    table = [table] if isinstance(table, str) else table
    if not isinstance(table, list) or not all(isinstance(file, str) for file in table):
        raise InvalidInput(
            f"line {number}: table: got {table!r}, expected a file or a folder, or a list of them"
        )
    weight = row.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise InvalidInput(f"line {number}: weight: got {weight!r}, expected a positive number")
    limits = {name: value for name, value in row.items() if name not in _FIELDS}
    return {"name": row["name"], "table": table, "weight": float(weight), "limits": limits}
