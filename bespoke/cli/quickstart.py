"""``bespoke quickstart``: the main job, end to end, on this machine, through the API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bespoke.cli.devices import follow_campaign
from bespoke.cli.local import BESPOKE, LocalService, local_service
from bespoke.client import Client
from bespoke.supernet.errors import Unavailable
from bespoke.supernet.whole_files import digest_of

SCOPES = ("search", "device:admin", "agent")
DEVICE = "this-machine"
ENROL_S = 120.0
IMAGES = "imagenette2-160"


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(quickstart)


def quickstart(
    var: Annotated[Path, typer.Option(help="Folder of the service's data.")] = Path("var/quickstart"),
    supernet: Annotated[str, typer.Option(help="Name of a supernet of the zoo.")] = "ofa-mbv3-imagenette",
    effort: Annotated[str, typer.Option(help="Of the profiling: quick, standard or thorough.")] = "quick",
) -> None:
    """Profile this machine, ask for a subnet that fits a latency budget, and check what comes."""
    console = Console()
    # What is measured here shares the machine with the service: no work in idle time.
    quiet = {"BESPOKE_ARCHIVES": "false"}
    with local_service(var, quiet) as service, service.client(SCOPES, "quickstart") as client:
        console.rule("1  A service on loopback, with an API key")
        console.print(f"{service.url}   (data in {var})")

        console.rule("2  This machine, profiled through the API")
        with agent(service):
            device = _enrolled(client)
            console.print(f"device {device['id']}: {_profile_line(device['profile'])}")
            campaign = client.create_campaign(device["id"], supernet, effort)
            follow_campaign(console, client, device["id"], campaign["id"])
        table = client.latency_table(device["id"], supernet)
        _print_quality(console, table)

        console.rule("3  A latency budget in, a subnet out")
        low, high = client.supernet(supernet)["feasible"][device["id"]]["latency_ms"]
        budget_ms = round((low + high) / 2, 2)
        console.print(f"feasible here: {low:.2f} to {high:.2f} ms; asking for at most {budget_ms} ms")
        began = time.perf_counter()
        answer = client.search(supernet, {"latency_ms": budget_ms}, device["id"])
        console.print(f"answered in {1000 * (time.perf_counter() - began):.0f} ms: search {answer['id']}")
        subnet = client.subnet(answer["subnet"]["id"])
        console.print(json.dumps(subnet["architecture"]), highlight=False)

        console.rule("4  The model")
        path = var / f"{subnet['id']}.onnx"
        digest = client.download_model(subnet["id"], path)
        if digest_of(path) != digest:
            raise Unavailable(f"{path}: its sha256 is not the served {digest}; run the quickstart again")
        console.print(f"{path}  sha256 {digest}  (checked)")
        measured_ms = measured_latency_ms(path, table, effort)
        _print_result(console, subnet, path, measured_ms)
        _print_curl(console, service, supernet, device["id"], budget_ms, subnet["id"])


@contextmanager
def agent(service: LocalService) -> Iterator[None]:
    """Run the device agent on this machine until the block ends."""
    key = service.key(["agent"], "quickstart-agent")
    command = [*BESPOKE, "agent", "--server", service.url, "--name", DEVICE, "--threads", "1"]
    environment = {**service.environment, "BESPOKE_KEY": key}
    with (service.log.parent / "agent.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def measured_latency_ms(path: Path, table: dict[str, Any], effort: str) -> float:
    """Latency of a model on this machine in ms, as a campaign of that effort measures whole networks."""
    from bespoke.agent import measure, open_runtime, pinned
    from bespoke.latency_tables import EFFORTS

    profile, wanted = table["profile"], EFFORTS[effort]
    runtime = open_runtime(profile["runtime"], profile["threads"], profile["provider"])
    timing = wanted.timing.of("subnet")
    with pinned(profile["threads"]):
        rounds = [measure(lambda: runtime.load(path), timing) for _ in range(wanted.rounds)]
    if table["statistic"] == "low":
        return min(one.low_ms for one in rounds)
    return median(one.median_ms for one in rounds)


def _enrolled(client: Client) -> dict[str, Any]:
    deadline = time.monotonic() + ENROL_S
    while time.monotonic() < deadline:
        for device in client.devices():
            if device["name"] == DEVICE:
                return dict(device)
        time.sleep(0.2)
    raise Unavailable(f"the agent did not enrol within {ENROL_S:.0f} s; see agent.log in the data folder")


def _profile_line(profile: dict[str, Any]) -> str:
    runtime = f"{profile['runtime']} {profile['runtime_version']} {profile['provider']}"
    return f"{runtime}, {profile['threads']} thread, {profile['precision']}, batch {profile['batch']}"


def _print_quality(console: Console, table: dict[str, Any]) -> None:
    quality = table["quality"]
    if quality:
        console.print(
            f"latency table {table['revision'][:12]}: {len(table['stats'])} ops; "
            f"on {quality['subnets']} held-out whole subnets a mean error of {100 * quality['mape']:.1f}% "
            f"(the device's own repeat error: {100 * quality['repeat_mape']:.1f}%)"
        )


def _print_result(console: Console, subnet: dict[str, Any], path: Path, measured_ms: float) -> None:
    predicted = subnet["predicted"]
    rows = Table(title="what was promised, and what came", title_justify="left")
    for column in ("", "predicted", "measured here"):
        rows.add_column(column, justify="left" if not column else "right")
    low, high = predicted["latency_interval_ms"]
    rows.add_row(
        "latency", f"{predicted['latency_ms']:.2f} ms ({low:.2f} to {high:.2f})", f"{measured_ms:.2f} ms"
    )
    low, high = predicted["top1_interval"]
    rows.add_row(
        "top-1",
        f"{100 * predicted['top1']:.1f}% ({100 * low:.1f} to {100 * high:.1f})",
        _measured_top1(path, subnet),
    )
    rows.add_row("MACs", f"{predicted['macs'] / 1e6:.1f} M", "")
    rows.add_row("parameters", f"{predicted['params'] / 1e6:.2f} M", "")
    rows.add_row("peak memory", f"{predicted['peak_memory_bytes'] / 1e6:.2f} MB", "")
    size = path.stat().st_size
    rows.add_row("file size", f"{predicted['model_size_bytes'] / 1e6:.2f} MB", f"{size / 1e6:.2f} MB")
    console.print(rows)


def _measured_top1(path: Path, subnet: dict[str, Any]) -> str:
    """On the validation images in ``BESPOKE_DATA``, where they are at hand."""
    root = os.environ.get("BESPOKE_DATA")
    if not root:
        return "(set BESPOKE_DATA)"
    from bespoke.supernet.training.data import read_split
    from bespoke.supernet.training.evaluation import LabelledImages, model_top1

    images = LabelledImages(read_split(Path(root) / IMAGES, "val"), batch=1)
    top1 = model_top1(path.read_bytes(), images, subnet["architecture"]["resolution"])
    return f"{100 * top1:.1f}%"


def _print_curl(
    console: Console, service: LocalService, supernet: str, device: str, budget_ms: float, subnet: str
) -> None:
    body = json.dumps({"supernet": supernet, "device": device, "constraints": {"latency_ms": budget_ms}})
    key = '-H "Authorization: Bearer $KEY"'
    json_body = "-H 'Content-Type: application/json' -d '" + body + "'"
    lines = (
        f"curl {key} $URL/v1/supernets/{supernet}",
        f"curl {key} {json_body} $URL/v1/searches",
        f"curl {key} -OJ $URL/v1/subnets/{subnet}/model.onnx",
    )
    console.rule("The same by hand")
    variables = f"BESPOKE_VAR={service.environment['BESPOKE_VAR']}"
    console.print(
        f"{variables} make serve    (in another terminal)\n"
        f"URL=http://127.0.0.1:8321  KEY=$({variables} .venv/bin/bespoke keys create --scope search)",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
