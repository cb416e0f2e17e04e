"""``bespoke train``, ``extract`` and ``zoo``: everything that touches weights."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from bespoke.cli.asking import EntryName, Json, check_seed, progress, read_number, read_sides, zoo_entry
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.whole_files import write_file
from bespoke.supernet.zoo import ZooEntry

DEFAULT_SPACE, DEFAULT_SIDES = "ofa-mobilenetv3-w1.0", (96, 112, 128)
FEWEST_DRAWN = 3
"""Subnets that follow from the seed alone: a third of them judges the predictor."""

DEFAULT_RUNS = Path("var/train")

OtherZoo = Annotated[
    Path | None,
    typer.Option("--zoo", envvar="BESPOKE_ZOO", help="A zoo's folder; the bundled one otherwise."),
]

zoo_app = typer.Typer(help="The pre-trained supernets.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(train)
    app.command()(extract)
    app.add_typer(zoo_app, name="zoo")


def train(
    data: Annotated[
        Path, typer.Option(help="Image folder: train/<class>/* and val/<class>/*, or <class>/*; or CIFAR's.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new zoo entry; its name is the supernet's.")],
    space: Annotated[
        str | None, typer.Option(help="Search space; ofa-mobilenetv3-w1.0, or that of --start.")
    ] = None,
    resolutions: Annotated[
        str | None, typer.Option(help="Sides of the input, in pixels; 96,112,128, or those of --start.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="sandwich or progressive_shrinking.")] = "sandwich",
    scale: Annotated[float, typer.Option(help="Factor on the length of every phase.")] = 1.0,
    epochs: Annotated[
        str | None, typer.Option(help="Of each phase of the recipe, before --scale; the sandwich has two.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Factor on the learning rates, made for batches of 64.")] = 1.0,
    batch: Annotated[int, typer.Option(help="Images a step, of all processes together.")] = 64,
    side: Annotated[
        int | None,
        typer.Option(help="Side of the kept images; 160 px by default, or what inputs need."),
    ] = None,
    bf16: Annotated[
        bool | None, typer.Option(help="Compute in half precision where that is safe; on a GPU by default.")
    ] = None,
    statistics: Annotated[
        int, typer.Option(help="Random subnets that the table of BN statistics is fitted on.")
    ] = 1200,
    subnets: Annotated[int, typer.Option(help="Subnets to measure for the accuracy predictor.")] = 1000,
    unsure: Annotated[
        int, typer.Option(help="How many of them to choose in rounds, for being unsure of them.")
    ] = 0,
    views: Annotated[
        int, typer.Option(help="Crops of each image that are evaluated for the predictor: 1 to 4.")
    ] = 1,
    random: Annotated[int, typer.Option(help="Random subnets whose top-1 the card tells.")] = 50,
    run: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; the same folder resumes it. var/train/NAME by default."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="All randomness follows from it.", callback=check_seed)] = 0,
    start: Annotated[
        str | None,
        typer.Option(help="Supernet of the zoo to start from; other classes get a new classifier."),
    ] = None,
    zoo_folder: OtherZoo = None,
    gap: Annotated[bool, typer.Option(help="Measure the statistics table against re-calibration.")] = True,
) -> None:
    """Train a supernet on your images, fit its accuracy predictor, and write its model card."""
    from bespoke.cli.finishing import accuracy_fields, predictor_fields, published, staged
    from bespoke.predictors.dataset import FEWEST_SUBNETS, drawn, images_key
    from bespoke.predictors.held_out import few, hold_out, image_fields, training_seed
    from bespoke.supernet import zoo
    from bespoke.supernet.spaces import space as make_space
    from bespoke.supernet.statistics import check_covered
    from bespoke.supernet.training.collection import table_architectures
    from bespoke.supernet.training.data import read_splits
    from bespoke.supernet.training.fine_tuning import check_head_is_trained, like, start_from
    from bespoke.supernet.training.initialisation import initialised
    from bespoke.supernet.training.loop import check_batch
    from bespoke.supernet.training.loop import train as run_phases
    from bespoke.supernet.training.phase import Phase, scaled, with_epochs
    from bespoke.supernet.training.processes import join, leave
    from bespoke.supernet.training.recipes import recipe as recipe_phases
    from bespoke.supernet.training.sides import side_for
    from bespoke.supernet.zoo.writing import NAME, check_target

    # All that can be refused is refused here, and not when the images are read or the hours are spent.
    counts = {"batch": batch, "random": random, "statistics": statistics, "side": side}
    for option, count in counts.items():
        if count is not None and count < 1:
            raise InvalidInput(f"--{option}: got {count}, expected 1 or more")
    for option, factor in {"scale": scale, "rate": rate}.items():
        if not 0 < factor < math.inf:
            raise InvalidInput(f"--{option}: got {factor}, expected a positive factor")
    if subnets < FEWEST_SUBNETS:
        raise InvalidInput(f"--subnets: got {subnets}, expected {FEWEST_SUBNETS} at least to fit a predictor")
    check_measuring(subnets, unsure, views)
    check_target(out)
    if not (out / "space.json").is_file() and not NAME.fullmatch(out.name):  # entries stay what they are
        raise InvalidInput(
            f"--out: got a folder named {out.name!r}, expected at most 100 letters, digits, '.', '_' or '-', "
            "the first one a letter or a digit: it is the supernet's name"
        )
    run = run or DEFAULT_RUNS / out.name
    if (out / "space.json").is_file() and not (run / "checkpoint.pt").is_file():
        raise InvalidInput(
            f"--out: {out} is a supernet already, and {run} holds no training to go on with: give another "
            "--out, or remove it first"
        )
    started = None if start is None else zoo_entry(start, zoo_folder or zoo.ROOT)
    if started and space not in (None, started.space.name):
        raise InvalidInput(
            f"--space: got {space!r}, and --start is of space {started.space.name!r}: leave --space out, or "
            "start from another supernet"
        )
    sides, lengths = _sides(resolutions, space, started), None if epochs is None else _lengths(epochs)

    def chosen_of(classes: int) -> SearchSpace:
        if started:
            return like(started.space, sides, classes)
        return make_space(space or DEFAULT_SPACE, sides, classes)

    def phases_of(chosen: SearchSpace) -> list[Phase]:
        phases = recipe_phases(recipe, chosen)
        return scaled(with_epochs(phases, lengths) if lengths else phases, scale, rate)

    any_classes = chosen_of(classes=2)
    phases_of(any_classes)
    drawn(any_classes, subnets - unsure, seed)
    check_covered(any_classes, table_architectures(any_classes, statistics, seed))
    group, own_device = join(device)
    check_batch(batch, group)
    report = progress if group.leads else _silent
    side = side or side_for(sides)
    images, validation = read_splits(data, side=side, cache=run / "images", group=group)
    if group.leads:
        _tell_skipped((*images.skipped, *validation.skipped), run, report)
    held_by = training_seed(started, data, images, seed)
    training, held_out = hold_out(images, held_by)
    report(
        f"{len(images.classes)} classes: {few(images.classes)}; {len(training)} images to train on, "
        f"{len(held_out)} held out for the accuracy predictor, {len(validation)} for validation"
    )
    seen = image_fields(data, images, held_out, held_by)  # before hours in which files may come and go
    chosen = chosen_of(len(images.classes))
    phases = phases_of(chosen)
    network = initialised(chosen, seed)
    if started:
        new_head = start_from(network, started, images.classes)
        if new_head:
            check_head_is_trained(phases)
        report(f"starts from {started.name}" + (f", with a new head of {chosen.classes}" if new_head else ""))
    run_phases(
        network, training, phases, run, batch=batch, seed=seed, device=own_device, bf16=bf16, group=group,
        origin=started.digest if started else "", report=report, bar=sys.stderr.isatty(),
    )  # fmt: skip
    leave(group)
    if not group.leads:
        return
    # The entry is made in the run's folder: it comes to its place, where it may be served, when whole.
    entry = staged(
        network, training, run, out.name, architectures=statistics, seed=seed, device=own_device,
        report=report,
    )  # fmt: skip
    command = ["bespoke", "train", "--space", chosen.name, "--data", data.absolute().name, "--recipe", recipe]
    command += ["--resolutions", ",".join(map(str, sides)), "--scale", f"{scale:g}"]
    command += [*(["--epochs", epochs] if epochs else []), "--rate", f"{rate:g}", "--batch", str(batch)]
    command += ["--side", str(side), "--statistics", str(statistics), "--subnets", str(subnets)]
    command += ["--unsure", str(unsure), "--views", str(views), "--random", str(random), "--seed", str(seed)]
    command += [] if bf16 is None else ["--bf16" if bf16 else "--no-bf16"]
    command += [*(["--device", device] if device != "cpu" else []), *([] if gap else ["--no-gap"])]
    command += ["--start", start] if start else []
    command += ["--zoo", zoo_folder.absolute().name] if start and zoo_folder else []
    command += ["--out", out.name]
    epochs_before = float(started.card.get("epochs", 0)) if started else 0.0
    shown = f"{sides[0]} to {sides[-1]} px" if len(sides) > 1 else f"{sides[0]} px"
    fields: dict[str, Any] = {
        "summary": f"{chosen.name} on {data.absolute().name}, {chosen.classes} classes, {shown}",
        "classes": list(images.classes),
        "images": len(training),
        "epochs": round(epochs_before + sum(phase.epochs for phase in phases), 2),
        "recipe": recipe,
        "phases": {phase.name: round(phase.epochs, 2) for phase in phases},
        "resolutions": list(sides),
        "command": shlex.join(command),
        **({"start": {"name": started.name, "digest": started.digest}} if started else {}),
        **seen,
    }
    fields |= predictor_fields(
        entry, held_out, run, subnets=subnets, unsure=unsure, views=views, seed=seed,
        key=images_key(seen["held_out"], seen["side"]), device=own_device, report=report,
    )  # fmt: skip
    fields |= accuracy_fields(
        entry, validation, training if gap else None, run, random=random, device=own_device, report=report
    )
    print(json.dumps(published(entry, out, fields, report), indent=2))


def extract(
    architecture: Annotated[
        Path, typer.Option(help="File of the architecture's JSON; - reads standard input.")
    ],
    out: Annotated[Path, typer.Option(help="Where the ONNX model goes.")],
    supernet: Annotated[str, typer.Option(help="Name of a supernet of the zoo.")] = "ofa-mbv3-imagenette",
    zoo_folder: OtherZoo = None,
    images: Annotated[
        Path | None, typer.Option(help="Image folder to re-calibrate BN on; the statistics table otherwise.")
    ] = None,
    dynamic_batch: Annotated[bool, typer.Option(help="Leave the batch open.")] = False,
    as_json: Json = False,
) -> None:
    """Cut a subnet out of a supernet, as ONNX with its weights."""
    from bespoke.supernet.architecture import read_architecture
    from bespoke.supernet.subnet import load_network, materialise
    from bespoke.supernet.training.data import evenly, read_split
    from bespoke.supernet.training.evaluation import CALIBRATION_IMAGES, calibrated_statistics
    from bespoke.supernet.training.sides import side_for
    from bespoke.supernet.zoo import ROOT

    opened = zoo_entry(supernet, zoo_folder or ROOT)
    try:
        fields = json.loads(sys.stdin.read() if str(architecture) == "-" else architecture.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{architecture}: no JSON ({error}); expected an architecture's JSON") from error
    chosen = read_architecture(opened.space, fields)
    statistics = None
    if images:
        network = load_network(opened)
        few = read_split(images, "train", side_for([chosen.resolution]), choose=evenly(CALIBRATION_IMAGES))
        statistics = calibrated_statistics(network, chosen, few)
    model = materialise(opened, chosen, statistics=statistics, dynamic_batch=dynamic_batch)
    write_file(out, model)
    sha256 = hashlib.sha256(model).hexdigest()
    told = {"file": str(out), "sha256": sha256, "size": len(model), "architecture": chosen.to_json()}
    print(json.dumps(told) if as_json else f"{out}  {len(model)} bytes  sha256 {sha256}")


@zoo_app.command("list")
def zoo_list(
    zoo_folder: OtherZoo = None,
    as_json: Json = False,
) -> None:
    """Name the supernets of the zoo."""
    from bespoke.supernet.zoo import ROOT, names

    found = names(zoo_folder or ROOT)
    print(json.dumps({"supernets": list(found)}) if as_json else "\n".join(found))


@zoo_app.command("show")
def zoo_show(
    name: EntryName,
    zoo_folder: OtherZoo = None,
    plots: Annotated[Path | None, typer.Option(help="Folder to draw the card's plots into, as PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Show a supernet's model card."""
    from bespoke.cli.plots import write_plots
    from bespoke.supernet.zoo import ROOT

    opened = zoo_entry(name, zoo_folder or ROOT)
    told = {"name": name, "digest": opened.digest, "space": opened.space.to_json(), **opened.card}
    if plots:
        told["plots"] = [str(path) for path in write_plots(opened, plots, progress)]
    if as_json:
        print(json.dumps(told))
        return
    for field, value in told.items():
        if field.endswith("_points"):
            value = f"{len(value)} subnets (--json tells them, --plots draws them)"
        print(f"{field:38} {value if isinstance(value, str | int | float) else json.dumps(value)}")


def check_measuring(subnets: int, unsure: int, views: int) -> None:
    """Refuse options with which no subnets can be measured.

    Raises:
        InvalidInput: One of them is out of range, or they do not go together.
    """
    from bespoke.predictors.gaussian import MOST_EXAMPLES
    from bespoke.supernet.training.evaluation import VIEWS

    if subnets < 1:
        raise InvalidInput(f"--subnets: got {subnets}, expected 1 or more")
    if unsure and not 0 < unsure <= subnets - FEWEST_DRAWN:
        raise InvalidInput(
            f"--unsure: got {unsure} of {subnets} subnets, expected 0 to {max(0, subnets - FEWEST_DRAWN)}: "
            f"{FEWEST_DRAWN} at least have to follow from the seed alone"
        )
    if unsure and subnets > MOST_EXAMPLES:
        raise InvalidInput(
            f"--unsure: got {unsure} of {subnets} subnets, expected {MOST_EXAMPLES} at most, since the "
            "work of choosing them grows with their cube: leave it out"
        )
    if not 1 <= views <= len(VIEWS):
        raise InvalidInput(f"--views: got {views}, expected 1 to {len(VIEWS)}")


def _sides(resolutions: str | None, space: str | None, started: ZooEntry | None) -> tuple[int, ...]:
    """The resolutions that were asked for, else those of the supernet to start from, else our own."""
    if resolutions is not None:
        return tuple(read_sides(resolutions))
    if started:
        return tuple(started.space.dimensions[-1].choices)
    return (32,) if (space or "").endswith("-cifar") else DEFAULT_SIDES


def _tell_skipped(skipped: tuple[str, ...], run: Path, report: Callable[[str], None]) -> None:
    """List the files that could not be read as images, in a file beside the run's others."""
    if skipped:
        names = "\n".join(skipped) + "\n"
        (run / "skipped.txt").write_text(names, errors="surrogateescape")
        report(
            f"skipped {len(skipped)} files that are no images or cannot be read: see {run / 'skipped.txt'}"
        )


def _lengths(text: str) -> list[float]:
    """Of each phase, in epochs."""
    expected = "numbers with commas between"
    return [read_number("--epochs", text, part, expected) for part in text.split(",")]


def _silent(line: str) -> None:
    """What the processes say that do not lead."""
