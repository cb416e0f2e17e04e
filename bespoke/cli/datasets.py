"""``bespoke zoo collect`` and ``zoo datasets``: data sets that a running service's workers measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bespoke.cli.asking import Json, check_seed
from bespoke.cli.devices import SERVER, Key, Server
from bespoke.cli.weights import zoo_app
from bespoke.client import Client
from bespoke.supernet.errors import NotFound
from bespoke.supernet.whole_files import write_file

Name = Annotated[str, typer.Argument(help="Name of a supernet of the service's zoo.")]


def register(app: typer.Typer) -> None:
    """Add these commands to ``bespoke zoo``."""
    zoo_app.command("collect")(zoo_collect)
    zoo_app.command("datasets")(zoo_datasets)


def zoo_collect(
    name: Name,
    key: Key,
    subnets: Annotated[int, typer.Option(help="Subnets to measure.")] = 1000,
    shards: Annotated[int, typer.Option(help="Into how many jobs each round is cut.")] = 1,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Which subnets; the training's, else 0. Of an old card: which images, too.",
            callback=check_seed,
        ),
    ] = None,
    unsure: Annotated[
        int, typer.Option(help="How many of the subnets to choose in rounds, for being unsure of them.")
    ] = 0,
    rounds: Annotated[int, typer.Option(help="In how many rounds these are chosen.")] = 2,
    views: Annotated[int, typer.Option(help="Crops of each image that are evaluated: 1 to 4.")] = 1,
    side: Annotated[
        int | None,
        typer.Option(help="Side of the kept images in pixels; as in training, or what inputs need."),
    ] = None,
    fit: Annotated[bool, typer.Option(help="Fit the predictor in the end, and serve it.")] = True,
    server: Server = SERVER,
    as_json: Json = False,
) -> None:
    """Have a service's workers measure subnets; the same command again tells how far they are."""
    with Client(server, key) as client:
        found = client.collect_dataset(
            name, subnets, shards=shards, seed=seed, unsure=unsure, rounds=rounds, views=views, side=side,
            fit=fit,
        )  # fmt: skip
    print(json.dumps(found) if as_json else _line(found))


def zoo_datasets(
    name: Name,
    key: Key,
    out: Annotated[Path | None, typer.Option(help="Write what the newest one measured here.")] = None,
    server: Server = SERVER,
    as_json: Json = False,
) -> None:
    """List a supernet's data sets, newest first, and how far they are."""
    with Client(server, key) as client:
        found = client.datasets(name)
        if out is not None:
            if not found:
                raise NotFound("data set of supernet", name)
            write_file(out, client.export_dataset(name, found[0]["id"]))
    if as_json:
        print(json.dumps({"datasets": found}))
        return
    for one in found:
        print(_line(one))


def _line(dataset: dict[str, Any]) -> str:
    progress, fitted = dataset["progress"], dataset["predictor"]
    told = f"{dataset['id']}  {dataset['state']:9}  {progress['done']}/{progress['total']} subnets"
    if fitted:
        told += (
            f"  predictor {fitted['predictor_revision'][:12]}, Kendall tau {fitted['predictor_kendall_tau']}"
        )
    return told + (f"  {dataset['error']}" if dataset["error"] else "")
