"""``bespoke devices``: what the service knows of enrolled devices, and their tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bespoke.cli.asking import Json, json_lines
from bespoke.cli.devices import (
    DEFAULT_SUPERNET,
    SERVER,
    Key,
    Server,
    SupernetName,
    card_line,
    find_device,
    follow_campaign,
    verdict,
)
from bespoke.client import Client
from bespoke.supernet.errors import InvalidInput, Unavailable
from bespoke.supernet.whole_files import write_file

devices_app = typer.Typer(help="Enrolled devices and their latency tables.", no_args_is_help=True)

FORMATS = ("json", "csv", "ofa")

Device = Annotated[str, typer.Argument(help="Id or name of an enrolled device.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(devices_app, name="devices")


@devices_app.command("list")
def list_devices(key: Key, server: Server = SERVER, as_json: Json = False) -> None:
    """Show all devices, and for which supernets they are profiled."""
    with Client(server, key) as client:
        found = client.devices()
    if as_json:
        print(json.dumps({"devices": found}))
        return
    for device in found:
        profile = device["profile"]
        runtime = f"{profile['runtime']} {profile['precision']} x{profile['threads']}"
        print(f"{device['id']}  {device['name']:20} {runtime:24} {', '.join(device['profiled']) or '-'}")


@devices_app.command("tables")
def tables(
    key: Key,
    device: Device,
    supernet: Annotated[str | None, typer.Option(help="Of this supernet only.")] = None,
    server: Server = SERVER,
    as_json: Json = False,
) -> None:
    """Show all revisions of a device's latency tables with their quality, newest first."""
    with Client(server, key) as client:
        found = client.latency_tables(find_device(client, device), supernet)
    if as_json:
        print(json.dumps({"tables": found}))
        return
    for table in found:
        marks = [mark for mark in ("current", "provisional", "stale") if table[mark]]
        print(f"{table['revision'][:12]}  {table['supernet']:24} {table['source']:10} {' '.join(marks)}")
        print(f"{'':14}{card_line(table['quality'])}")


@devices_app.command("export")
def export(
    key: Key,
    device: Device,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    revision: Annotated[str, typer.Option(help="First digits of a revision; else the current one.")] = "",
    supernet: SupernetName = DEFAULT_SUPERNET,
    form: Annotated[
        str, typer.Option("--format", help="json, csv, ofa (a zip of YAML), or png: its plot.")
    ] = "json",
    server: Server = SERVER,
) -> None:
    """Write a latency table, or the plot of its quality, into a file."""
    if form not in (*FORMATS, "png"):
        raise InvalidInput(f"--format: got {form!r}, expected one of {', '.join(FORMATS)}, png")
    with Client(server, key) as client:
        device_id = find_device(client, device)
        whole = _revision(client, device_id, supernet, revision)
        if form == "png":
            content = client.quality_plot(device_id, whole)
        else:
            content = client.export_latency_table(device_id, whole, form)
    write_file(out, content)
    print(f"{out}: {len(content)} bytes of revision {whole[:12]}")


@devices_app.command("import")
def import_table(
    key: Key,
    device: Device,
    table: Annotated[Path, typer.Argument(help="A latency table: ours (.json) or CSV.")],
    supernet: SupernetName = DEFAULT_SUPERNET,
    server: Server = SERVER,
    as_json: Json = False,
) -> None:
    """Have the service keep a latency table that was made elsewhere for this very device profile."""
    from bespoke.latency_tables import read_table

    content = read_table([table]).to_json()
    with Client(server, key) as client:
        kept = client.import_latency_table(find_device(client, device), supernet, content)
    print(json.dumps(kept) if as_json else f"latency table {kept['revision']}")


@devices_app.command("check")
def check(
    key: Key,
    device: Device,
    supernet: SupernetName = DEFAULT_SUPERNET,
    server: Server = SERVER,
    as_json: Json = False,
) -> None:
    """Have a device's sentinels measured again, and say whether its latency table is stale."""
    console = Console(stderr=as_json, markup=False)
    with Client(server, key) as client:
        device_id = find_device(client, device)
        started = client.create_check(device_id, supernet)
        done = follow_campaign(console, client, device_id, started["id"])
    print(json.dumps(done) if as_json else verdict(device, done))


@devices_app.command("choose")
def choose(
    key: Key,
    device: Device,
    supernet: SupernetName = DEFAULT_SUPERNET,
    count: Annotated[int, typer.Option(help="How many.")] = 10,
    server: Server = SERVER,
) -> None:
    """Write the networks to measure on a new device, one a line, for `bespoke devices few-shot`."""
    with Client(server, key) as client:
        for architecture in client.few_shot_choice(find_device(client, device), supernet, count):
            print(json.dumps(architecture))


@devices_app.command("few-shot")
def few_shot(
    key: Key,
    device: Device,
    supernet: SupernetName = DEFAULT_SUPERNET,
    server: Server = SERVER,
    as_json: Json = False,
) -> None:
    """Make a provisional table: one measured network a line on standard input, with its `latency_ms`."""
    samples = [_sample(number, value) for number, value in json_lines("one JSON object a line")]
    with Client(server, key) as client:
        kept = client.few_shot(find_device(client, device), supernet, samples)
    print(json.dumps(kept) if as_json else f"provisional latency table {kept['revision']}")


def _sample(number: int, sample: Any) -> dict[str, Any]:
    if not isinstance(sample, dict):
        raise InvalidInput(f"line {number}: got {type(sample).__name__}, expected a JSON object")
    return sample


def _revision(client: Client, device_id: str, supernet: str, start: str) -> str:
    """The one revision that begins so, or the current one where nothing is asked for."""
    found = [
        table["revision"]
        for table in client.latency_tables(device_id, supernet)
        if (table["revision"].startswith(start) if start else table["current"])
    ]
    if len(found) != 1:
        what = f"of supernet {supernet!r} begin with {start!r}" if start else f"serve supernet {supernet!r}"
        raise Unavailable(
            f"{len(found)} revisions of this device {what}, expected one: `bespoke devices tables` shows them"
        )
    return str(found[0])
