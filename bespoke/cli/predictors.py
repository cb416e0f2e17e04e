"""``bespoke zoo measure`` and ``zoo fit``: the accuracy predictor apart from training, by several workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bespoke.cli.asking import EntryName, check_seed, progress, zoo_entry
from bespoke.cli.weights import check_measuring, zoo_app
from bespoke.cli.zoo import ZooFolder
from bespoke.supernet.errors import InvalidInput


def register(app: typer.Typer) -> None:
    """Add these commands to ``bespoke zoo``."""
    zoo_app.command("measure")(zoo_measure)
    zoo_app.command("fit")(zoo_fit)


def zoo_measure(
    name: EntryName,
    images: Annotated[Path, typer.Option(help="The image folder that it was trained on.")],
    dataset: Annotated[Path, typer.Option(help="File to append to: one measured subnet a line.")],
    subnets: Annotated[int, typer.Option(help="Subnets to measure, of all workers together.")] = 1000,
    shard: Annotated[str, typer.Option(help="Which of several workers this is, e.g. 0/4.")] = "0/1",
    unsure: Annotated[
        int, typer.Option(help="How many of the subnets to choose in rounds, for being unsure of them.")
    ] = 0,
    views: Annotated[int, typer.Option(help="Crops of each image that are evaluated: 1 to 4.")] = 1,
    side: Annotated[
        int | None,
        typer.Option(help="Side of the kept images in pixels; as in training, or what inputs need."),
    ] = None,
    cache: Annotated[Path, typer.Option(help="Folder of the decoded images.")] = Path("var/images"),
    seed: Annotated[
        int | None,
        typer.Option(
            help="Which subnets; the training's, else 0. Of an old card: which images, too.",
            callback=check_seed,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    zoo_folder: ZooFolder = Path("var/zoo"),
) -> None:
    """Measure subnets on held-out training images; the same command with the same file goes on."""
    from bespoke.predictors.card import check_measurable, measure_subnets
    from bespoke.predictors.dataset import Shard, images_key, subnets_seed
    from bespoke.predictors.held_out import read_held_out, which
    from bespoke.supernet.training.processes import device_of
    from bespoke.supernet.training.sides import side_of

    opened, own = zoo_entry(name, zoo_folder), Shard(*_shard(shard))
    check_measuring(subnets, unsure, views)
    check_measurable(opened, dataset)
    if own.number >= subnets:
        raise InvalidInput(
            f"--shard: got {shard} of {subnets} subnets, which leaves none for this worker; expected as many "
            "--subnets as workers, or more"
        )
    if unsure and own.count > 1:
        raise InvalidInput("--unsure: rounds need all that was measured; choose them without --shard")
    if side is not None and side < 1:
        raise InvalidInput(f"--side: got {side}, expected 1 or more")
    device_of(device)
    side = side_of(opened) if side is None else side
    seed = subnets_seed(opened.card) if seed is None else seed
    held_out = read_held_out(opened, images, side, cache, seed)
    told = opened.card.get("held_out") or which(images, held_out)  # what is told was compared
    measured = measure_subnets(
        opened, held_out, subnets, dataset, seed=seed, views=views, unsure=unsure,
        shard=own if own.count > 1 else None, key=images_key(told, held_out.side), device=device,
        report=progress,
    )  # fmt: skip
    print(f"{dataset}: {len(measured)} subnets, mean top-1 {sum(measured.top1) / len(measured):.4f}")


def zoo_fit(
    name: EntryName,
    dataset: Annotated[list[Path], typer.Option(help="What was measured; several files are merged.")],
    learner: Annotated[
        str | None,
        typer.Option(help="What is fitted: gaussian or mlp; gaussian unless there are too many subnets."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the fit.", callback=check_seed)] = 0,
    zoo_folder: ZooFolder = Path("var/zoo"),
) -> None:
    """Fit a supernet's accuracy predictor on measured subnets; a running service takes it up."""
    from bespoke.cli.plots import PLOTS, write_plots
    from bespoke.predictors.card import fit_predictor, write_fit
    from bespoke.predictors.dataset import FEWEST_SUBNETS, merge_datasets
    from bespoke.predictors.fitting import learner_of

    learner_of(0, learner)  # before files are read
    opened = zoo_entry(name, zoo_folder)
    merged = merge_datasets(dataset, opened.space)
    if len(merged) < FEWEST_SUBNETS:
        raise InvalidInput(f"--dataset: got {len(merged)} subnets, expected {FEWEST_SUBNETS} at least")
    fields = fit_predictor(opened, merged, seed=seed, learner=learner, report=progress)
    drawn = (opened.folder / PLOTS).is_dir()
    write_fit(opened, fields)
    if drawn:
        write_plots(zoo_entry(name, zoo_folder), opened.folder / PLOTS, progress)
    print(json.dumps(fields, indent=2))


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise InvalidInput(f"--shard: got {text!r}, expected which one/of how many, e.g. 0/4")
    return int(number), int(count)
