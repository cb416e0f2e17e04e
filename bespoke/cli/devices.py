"""``bespoke agent`` and ``bespoke profile``: devices and their latency tables."""

from __future__ import annotations

import json
import platform
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bespoke.client import Client
from bespoke.supernet.errors import InvalidInput, Unavailable

OVER = ("succeeded", "failed", "cancelled")
POLL_S = 0.5
SERVER = "http://127.0.0.1:8321"
DEFAULT_SUPERNET = "ofa-mbv3-imagenette"

Server = Annotated[str, typer.Option(envvar="BESPOKE_SERVER", help="Where the service is.")]
Key = Annotated[str, typer.Option(envvar="BESPOKE_KEY", help="API key.")]
SupernetName = Annotated[str, typer.Option(help="Name of a supernet of the zoo.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(agent)
    app.command()(profile)


def agent(
    key: Key,
    server: Server = SERVER,
    name: Annotated[
        str, typer.Option(help="A label for people; with the profile it tells devices apart.")
    ] = "",
    threads: Annotated[int, typer.Option(help="Threads of the runtime.")] = 1,
    runtime: Annotated[str, typer.Option(help="onnxruntime or openvino.")] = "onnxruntime",
    provider: Annotated[str | None, typer.Option(help="Execution provider of the runtime.")] = None,
    precision: Annotated[str, typer.Option(help="Of the networks: fp32 or int8.")] = "fp32",
    cache: Annotated[Path, typer.Option(help="Folder for networks and results that wait.")] = Path(
        "var/agent"
    ),
    once: Annotated[bool, typer.Option(help="Stop when work has come and run out.")] = False,
    force: Annotated[bool, typer.Option(help="Measure even where the pre-flight refuses.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line for each event.")] = False,
) -> None:
    """Measure on this device what the service asks for; needs a key of scope agent."""
    from bespoke.agent import AgentEvent, AgentSettings, ChildBench, device_profile, run_agent
    from bespoke.agent.preflight import judge_here

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())

    def tell(event: AgentEvent) -> None:
        line = {"event": event.kind, "detail": event.detail, "measured": event.measured}
        print(json.dumps(line) if as_json else f"{event.kind:10} {event.detail}", flush=True)

    def wait(seconds: float) -> None:
        stopped.wait(seconds)

    found = judge_here(threads)
    for kind, reasons in (("refused", found.refused), ("degraded", found.degraded)):
        for reason in reasons:
            tell(AgentEvent(kind, reason, 0))
    if found.refused and not force:
        raise Unavailable(
            f"this machine is not fit to measure now: {'; '.join(found.refused)}. Mend that, or measure "
            "all the same with --force; the results will be marked as degraded"
        )
    label = name or platform.machine()
    own = f"{label}@{platform.node()}"
    with ChildBench(runtime, threads, provider) as bench, Client(server, key) as client:
        done = run_agent(
            client,
            device_profile(label, bench, precision=precision),
            bench=bench,
            settings=AgentSettings(name=own, cache=cache, once=once, longest_poll_s=5.0),
            stop=stopped.is_set,
            progress=tell,
            sleep=wait,
            watch=lambda: judge_here(threads, measuring=True).reasons,
        )
    told = {"device_id": done.device_id, "measured": done.measured, "failed": done.failed}
    told |= {"windows": done.windows, "repeats": done.repeats}
    print(json.dumps({"event": "stopped", **told}) if as_json else f"measured {done.measured} entries")


def profile(
    key: Key,
    device: Annotated[str, typer.Option(help="Id or name of an enrolled device.")],
    supernet: SupernetName = DEFAULT_SUPERNET,
    effort: Annotated[str, typer.Option(help="quick, standard or thorough.")] = "quick",
    remeasure: Annotated[bool, typer.Option(help="Measure also the ops that the present table has.")] = False,
    resume: Annotated[str, typer.Option(help="Id of a cancelled or failed campaign to take up.")] = "",
    server: Server = SERVER,
    as_json: Annotated[bool, typer.Option("--json", help="Print the campaign as one JSON object.")] = False,
) -> None:
    """Make a device's latency table: post a campaign and follow it; needs a key of scope device:admin."""
    console = Console(stderr=as_json, markup=False)
    with Client(server, key) as client:
        device_id = find_device(client, device)
        if resume:
            campaign = client.resume_campaign(device_id, resume)
        else:
            campaign = client.create_campaign(device_id, supernet, effort, remeasure=remeasure)
        campaign = follow_campaign(console, client, device_id, campaign["id"])
        if campaign["purpose"] == "check":
            print(json.dumps(campaign) if as_json else verdict(device, campaign))
            return
        table = client.latency_table_revision(device_id, campaign["table_revision"])
    if as_json:
        print(json.dumps(campaign))
    else:
        print(f"latency table {campaign['table_revision']}")
        print(card_line(table["quality"]))


def find_device(client: Client, device: str) -> str:
    """The id of a device by its id or its name.

    Raises:
        InvalidInput: Several devices have this name: one machine is many profiles.
    """
    found = [one["id"] for one in client.devices() if device in (one["id"], one["name"])]
    if len(found) > 1:
        raise InvalidInput(
            f"device: {len(found)} are named {device!r}; give one of the ids {', '.join(found)}"
        )
    return str(found[0]) if found else device


def verdict(device: str, campaign: dict[str, Any]) -> str:
    """What a check of a device's sentinels found, and what to do then."""
    found = campaign["check"]
    told = (
        f"latency table {found['table_revision'][:12]} {'stale' if found['stale'] else 'holds'}: "
        f"{found['drift']:+.1%}, limit {found['limit']:.1%}"
    )
    if not found["stale"]:
        return told
    body = found["proposal"]["body"]
    again = f"--device {device} --supernet {body['supernet']} --effort {body['effort']} --remeasure"
    return f"{told}\n{found['searches']} searches used it; run `bespoke profile {again}`"


def card_line(card: dict[str, Any] | None) -> str:
    """A quality card in one line."""
    if not card:
        return "no quality card: nobody compared it with whole networks"
    repeat = card["repeat_mape"]
    told = "unknown" if repeat is None else f"{repeat:.1%}"
    return (
        f"{card['subnets']} held-out networks: mean error {card['mape']:.1%}, p95 {card['p95_error']:.1%}, "
        f"worst {card['worst_error']:.1%}; within 10%: {card['within_10pct']:.0%}; "
        f"Spearman {card['spearman']:.3f}; repeat error {told}"
    )


def follow_campaign(
    console: Console,
    client: Client,
    device_id: str,
    campaign_id: str,
    watch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Show a campaign's progress until it is over.

    Args:
        console: Where it is shown.
        client: With a key of scope ``device:admin``.
        device_id: The device.
        campaign_id: The campaign.
        watch: Called now and then; raises what ends the waiting.

    Returns:
        The campaign, which has succeeded.

    Raises:
        Unavailable: It failed or was cancelled.
    """
    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("preparing", total=None)
        told: set[str] = set()
        while True:
            campaign = client.campaign(device_id, campaign_id)
            done = campaign["progress"]
            total = done["total"] or None
            progress.update(task, description=campaign["state"], completed=done["done"], total=total)
            for held in (one for one in campaign["agents"] if one["state"] == "quarantined"):
                if held["name"] not in told:
                    told.add(held["name"])
                    console.print(f"agent {held['name']} is quarantined: {held['reason']}")
            if campaign["state"] in OVER:
                break
            watch()
            time.sleep(POLL_S)
    if campaign["state"] != "succeeded":
        raise Unavailable(
            f"campaign {campaign_id} {campaign['state']}: {campaign['error'] or 'no reason given'}"
        )
    return campaign
