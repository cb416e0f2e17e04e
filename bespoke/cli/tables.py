"""``bespoke tables``: latency tables as files: made from networks' latencies, shown, exchanged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bespoke.cli.asking import (
    LARGEST_SIDE,
    SEVERAL,
    SMALLEST_SIDE,
    Classes,
    Json,
    Space,
    check_seed,
    input_lines,
    read_sides,
    sides_in,
)
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.whole_files import write_file

tables_app = typer.Typer(help="Latency tables: fit, show, import, export.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Where the table is written, as JSON.")]
Resolutions = Annotated[
    str | None,
    typer.Option(help="Sides in pixels that the table covers; else the published ones and those that came."),
]
Label = Annotated[str, typer.Option(help="What the device is called.")]
References = Annotated[
    list[Path], typer.Option("--reference", help="Table of another device: file or folder; may be repeated.")
]
OneTable = Annotated[list[Path], typer.Argument(help="Files or folders of one table.")]

EXPORTS = ("json", "csv", "ofa")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    tables_app.command()(fit)
    tables_app.command("few-shot", context_settings=SEVERAL)(few_shot)
    tables_app.command(context_settings=SEVERAL)(choose)
    tables_app.command()(show)
    tables_app.command("import")(import_table)
    tables_app.command()(export)
    app.add_typer(tables_app, name="tables")


def fit(
    space: Space,
    out: Out,
    classes: Classes = 1000,
    resolutions: Resolutions = None,
    device: Label = "unknown",
    seed: Annotated[int, typer.Option(help="Of the cross-validation's folds.", callback=check_seed)] = 0,
    as_json: Json = False,
) -> None:
    """Fit a table to measured networks: a line each, an architecture's JSON with latency_ms beside."""
    from bespoke.latency_tables import fit_table, read_samples

    lines = list(input_lines())
    found = _space(space, classes, resolutions, _sides_of(lines))
    table = fit_table(found, read_samples(lines, found), _profile(device, "networks"), seed)
    table.save(out)
    _print(table, as_json)


def few_shot(
    context: typer.Context,
    space: Space,
    reference: References,
    out: Out,
    classes: Classes = 1000,
    resolutions: Resolutions = None,
    device: Label = "unknown",
    as_json: Json = False,
) -> None:
    """Make a provisional table from about ten networks (lines as for fit) and other devices' tables."""
    from bespoke.latency_tables import few_shot_table, read_samples

    lines = list(input_lines())
    references = _references([*reference, *map(Path, context.args)])
    found = _space(space, classes, resolutions, _sides_of(lines))
    samples = read_samples(lines, found)
    table = few_shot_table(found, references, samples, _profile(device, "few-shot"))
    table.save(out)
    _print(table, as_json)


def choose(
    context: typer.Context,
    space: Space,
    reference: References,
    count: Annotated[int, typer.Option(help="How many.")] = 10,
    classes: Classes = 1000,
    resolutions: Resolutions = None,
    seed: Annotated[int, typer.Option(help="Of the candidates.", callback=check_seed)] = 0,
) -> None:
    """Print the networks to measure for few-shot, the most telling first, one JSON object a line."""
    from bespoke.latency_tables import choose_networks

    references = _references([*reference, *map(Path, context.args)])
    found = _space(space, classes, resolutions, ())
    for architecture in choose_networks(found, references, count, seed):
        print(json.dumps(architecture.to_json()))


def show(
    table: OneTable,
    plot: Annotated[Path | None, typer.Option(help="Write predicted against measured here, as PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a table is of, how it was made and how good it is."""
    from bespoke.latency_tables import read_table

    read = read_table(table)
    if plot is not None:
        _plot(read, plot)
    _print(read, as_json)


def import_table(
    table: OneTable,
    out: Out,
    device: Annotated[str | None, typer.Option(help="Call the device so.")] = None,
    as_json: Json = False,
) -> None:
    """Read a table in any known format (JSON, CSV, published YAML), check it, and write it as JSON."""
    from bespoke.latency_tables import read_table

    read = read_table(table)
    if device is not None:
        read = replace(read, profile=replace(read.profile, device=device))
    read.save(out)
    _print(read, as_json)


def export(
    table: OneTable,
    out: Annotated[Path, typer.Option(help="File; for ofa, a folder with one file a resolution.")],
    to: Annotated[str, typer.Option("--format", help=f"One of {', '.join(EXPORTS)}.")] = "csv",
    space: Annotated[str | None, typer.Option(help="Search space; for ofa only.")] = None,
    classes: Classes = 1000,
    as_json: Json = False,
) -> None:
    """Write a table as JSON, as CSV, or as the authors of Once-for-All published theirs."""
    from bespoke.latency_tables import read_table, write_csv, write_official
    from bespoke.supernet.spaces import space as make_space

    if to not in EXPORTS or (to == "ofa" and space is None):
        raise InvalidInput(f"--format: got {to!r}, expected one of {', '.join(EXPORTS)}; ofa takes --space")
    read, written = read_table(table), [out]
    if to == "ofa":
        written = write_official(read, make_space(space or "", sides_in(read), classes), out)
    elif to == "csv":
        write_csv(read, out)
    else:
        read.save(out)
    print(json.dumps({"files": [str(path) for path in written]}) if as_json else "\n".join(map(str, written)))


def _space(name: str, classes: int, resolutions: str | None, seen: Iterable[int]) -> Any:
    """The space to price: at the sides that were asked for, or the published ones and those seen."""
    from bespoke.supernet.spaces import space as make_space

    published = make_space(name, classes=classes).dimensions[-1].choices
    asked = published if resolutions is None else read_sides(resolutions)
    return make_space(name, sorted({*asked, *seen}), classes)


def _sides_of(lines: Sequence[str]) -> set[int]:
    """Sides of the architectures on some lines; lines that are wrong are for the reader to complain of."""
    found = set()
    for line in lines:
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            continue
        side = data.get("resolution") if isinstance(data, dict) else None
        if type(side) is int and SMALLEST_SIDE <= side <= LARGEST_SIDE:
            found.add(side)
    return found


def _references(paths: Sequence[Path]) -> list[Any]:
    """One table a path; several published files without a folder are one table."""
    from bespoke.latency_tables import read_table

    published = [path for path in paths if path.suffix in (".yaml", ".yml")]
    found = [read_table([path]) for path in paths if path not in published]
    return [*found, *([read_table(published)] if published else [])]


def _profile(device: str, source: str) -> Any:
    from bespoke.latency_tables import DeviceProfile

    return DeviceProfile(
        device=device,
        runtime="unknown",
        runtime_version="unknown",
        provider="unknown",
        threads=0,
        precision="unknown",
        batch=1,
        fingerprint={"name": device, "source": source},
    )


def _plot(table: Any, path: Path) -> None:
    from bespoke.latency_tables.plot import plot_quality

    if table.quality is None:
        raise InvalidInput("this table has no quality card, so there is nothing to plot")
    write_file(path, plot_quality(table.quality, table.label, table.interval))


def _print(table: Any, as_json: bool) -> None:
    summary = _summary(table)
    if as_json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        if isinstance(value, dict):
            for part, number in value.items():
                print(f"{name + '.' + part:24} {number if number is not None else 'unknown'}")
        else:
            print(f"{name:24} {value if value is not None else 'unknown'}")


def _summary(table: Any) -> dict[str, Any]:
    """What people want to know of a table; None where nobody measured it."""
    card = None
    if table.quality is not None:
        card = {name: value for name, value in table.quality.to_json().items() if name != "points"}
        if table.source in ("networks", "few-shot"):
            # A log does not tell how long it took, nor how well networks repeat that came only once.
            card |= {"duration_s": None, "drift": None, "repeat_mape": card["repeat_mape"] or None}
    return {
        "device": table.profile.device,
        "source": table.source,
        "provisional": table.provisional,
        "ops": len(table.stats),
        "resolutions": sides_in(table),
        "interval": table.interval or None,
        "audit": table.audit.verdict if table.audit else None,
        "revision": table.revision,
        "quality": card,
    }
