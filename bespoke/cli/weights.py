"""``bespoke train``, ``extract`` and ``zoo``: everything that touches weights."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bespoke.supernet.errors import InvalidInput

HELD_OUT = 1000

zoo_app = typer.Typer(help="The pre-trained supernets.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(train)
    app.command()(extract)
    app.add_typer(zoo_app, name="zoo")


def train(
    data: Annotated[Path, typer.Option(help="Image folder: train/<class>/* and val/<class>/*.")],
    out: Annotated[Path, typer.Option(help="Folder of the new zoo entry; its name is the supernet's.")],
    space: Annotated[str, typer.Option(help="Search space.")] = "ofa-mobilenetv3-w1.0",
    resolutions: Annotated[str, typer.Option(help="Sides of the input, in pixels.")] = "96,112,128",
    epochs: Annotated[
        str, typer.Option(help="Of the phases: largest, sandwich, full size.")
    ] = "10,20,5",
    batch: Annotated[int, typer.Option(help="Images a step.")] = 64,
    subnets: Annotated[int, typer.Option(help="Subnets to measure for the accuracy predictor.")] = 620,
    run: Annotated[Path, typer.Option(help="Folder of the run; the same folder resumes it.")] = Path(
        "var/train"
    ),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="All randomness follows from it.")] = 0,
    start: Annotated[
        str | None, typer.Option(help="Supernet of the zoo to start from, of the same space.")
    ] = None,
    zoo_folder: Annotated[Path | None, typer.Option("--zoo", help="Another zoo's folder.")] = None,
    gap: Annotated[bool, typer.Option(help="Measure the statistics table against re-calibration.")] = True,
) -> None:
    """Train a supernet on your images, fit its accuracy predictor, and write its model card."""
    import torch

    from bespoke.predictors.card import fit_predictor, measure_accuracy, write_card
    from bespoke.supernet import zoo
    from bespoke.supernet.checkpoints import load_statistics, load_weights, save_statistics, save_weights
    from bespoke.supernet.networks.chain import ChainSupernet
    from bespoke.supernet.spaces import space as make_space
    from bespoke.supernet.training.collection import collect_table
    from bespoke.supernet.training.data import read_split
    from bespoke.supernet.training.loop import train as run_phases
    from bespoke.supernet.training.recipe import plain_recipe

    sides, lengths = tuple(_integers("resolutions", resolutions)), _numbers("epochs", epochs, 3)
    images, validation = (read_split(data, split, cache=run / "images") for split in ("train", "val"))
    training, held_out = images.split(HELD_OUT, seed)
    chosen = make_space(space, sides, len(images.classes))
    torch.manual_seed(seed)
    network = ChainSupernet(chosen)
    epochs_before = 0.0
    if start:
        started = zoo.entry(start, zoo_folder or zoo.ROOT)
        load_weights(network, started.folder / "weights.safetensors")
        epochs_before = float(started.card.get("epochs", 0))
    phases = plain_recipe(sides, (lengths[0], lengths[1], lengths[2]))
    run_phases(network, training, phases, run, batch=batch, seed=seed, device=device, report=_progress)
    collected = run / "statistics.safetensors"
    if not collected.exists():
        save_statistics(
            collect_table(network, training, seed=seed, device=device, report=_progress), collected
        )

    out.mkdir(parents=True, exist_ok=True)
    save_weights(network, out / "weights.safetensors")
    save_statistics(load_statistics(chosen, collected), out / "statistics.safetensors")
    (out / "space.json").write_text(json.dumps(chosen.to_json(), indent=2) + "\n")
    entry = zoo.entry(out.name, out.parent)
    command = ["bespoke", "train", "--space", space, "--data", data.name, "--resolutions", resolutions]
    command += ["--epochs", epochs, "--batch", str(batch), "--subnets", str(subnets), "--seed", str(seed)]
    command += [*(["--start", start] if start else []), "--out", out.name]
    fields: dict[str, Any] = {
        "classes": list(images.classes),
        "images": len(training),
        "epochs": round(epochs_before + sum(lengths), 2),
        "resolutions": list(sides),
        "command": shlex.join(command),
    }
    fields |= fit_predictor(
        entry, held_out, subnets, run / f"accuracy-{entry.digest[:12]}.jsonl", seed=seed, report=_progress
    )
    fields |= measure_accuracy(entry, validation, training if gap else None, report=_progress)
    print(json.dumps(write_card(entry, fields), indent=2))


def extract(
    architecture: Annotated[
        Path, typer.Option(help="File of the architecture's JSON; - reads standard input.")
    ],
    out: Annotated[Path, typer.Option(help="Where the ONNX model goes.")],
    supernet: Annotated[str, typer.Option(help="Name of a supernet of the zoo.")] = "ofa-mbv3-imagenette",
    zoo_folder: Annotated[Path | None, typer.Option("--zoo", help="Another zoo's folder.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Image folder to re-calibrate BN on; the statistics table otherwise.")
    ] = None,
    dynamic_batch: Annotated[bool, typer.Option(help="Leave the batch open.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Cut a subnet out of a supernet, as ONNX with its weights."""
    from bespoke.supernet.architecture import read_architecture
    from bespoke.supernet.subnet import load_network, materialise
    from bespoke.supernet.training.data import read_split
    from bespoke.supernet.training.evaluation import calibrated_statistics
    from bespoke.supernet.zoo import ROOT, entry

    opened = entry(supernet, zoo_folder or ROOT)
    text = sys.stdin.read() if str(architecture) == "-" else architecture.read_text()
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{architecture}: no JSON ({error}); expected an architecture's JSON") from error
    chosen = read_architecture(opened.space, fields)
    statistics = None
    if images:
        network = load_network(opened)
        statistics = calibrated_statistics(network, chosen, read_split(images, "train"))
    model = materialise(opened, chosen, statistics=statistics, dynamic_batch=dynamic_batch)
    out.write_bytes(model)
    sha256 = hashlib.sha256(model).hexdigest()
    told = {"file": str(out), "sha256": sha256, "size": len(model), "architecture": chosen.to_json()}
    print(json.dumps(told) if as_json else f"{out}  {len(model)} bytes  sha256 {sha256}")


@zoo_app.command("list")
def zoo_list(
    zoo_folder: Annotated[Path | None, typer.Option("--zoo", help="Another zoo's folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Name the supernets of the zoo."""
    from bespoke.supernet.zoo import ROOT, names

    found = names(zoo_folder or ROOT)
    print(json.dumps({"supernets": list(found)}) if as_json else "\n".join(found))


@zoo_app.command("show")
def zoo_show(
    name: Annotated[str, typer.Argument(help="Name of a supernet of the zoo.")],
    zoo_folder: Annotated[Path | None, typer.Option("--zoo", help="Another zoo's folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a supernet's model card."""
    from bespoke.supernet.zoo import ROOT, entry

    opened = entry(name, zoo_folder or ROOT)
    told = {"name": name, "digest": opened.digest, "space": opened.space.to_json(), **opened.card}
    if as_json:
        print(json.dumps(told))
        return
    for field, value in told.items():
        print(f"{field:38} {value if isinstance(value, str | int | float) else json.dumps(value)}")


def _integers(field: str, text: str) -> list[int]:
    return [int(number) for number in _numbers(field, text)]


def _numbers(field: str, text: str, count: int | None = None) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidInput(f"--{field}: got {text!r}, expected numbers with commas between") from error
    if count is not None and len(numbers) != count:
        raise InvalidInput(f"--{field}: got {len(numbers)} numbers, expected {count}")
    return numbers


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
