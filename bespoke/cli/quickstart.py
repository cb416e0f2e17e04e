"""``bespoke quickstart``: the main job, end to end, on this machine, through the API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bespoke.cli.devices import DEFAULT_SUPERNET, OVER, SupernetName, follow_campaign
from bespoke.cli.local import BESPOKE, LocalService, local_service
from bespoke.client import Client
from bespoke.supernet.errors import Unavailable
from bespoke.supernet.whole_files import digest_of

SCOPES = ("search", "device:admin", "agent")
DEVICE = "this-machine"
ENROL_S = 120.0


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(quickstart)


def quickstart(
    var: Annotated[Path, typer.Option(help="Folder of the service's data.")] = Path("var/quickstart"),
    supernet: SupernetName = DEFAULT_SUPERNET,
    effort: Annotated[str, typer.Option(help="Of the profiling: quick, standard or thorough.")] = "quick",
) -> None:
    """Profile this machine, ask for a subnet that fits a latency budget, and check what comes."""
    console = Console(markup=False)
    # What is measured here shares the machine with the service: no work in idle time.
    quiet = {"BESPOKE_ARCHIVES": "false"}
    with local_service(var, quiet) as service, service.client(SCOPES, "quickstart") as client:
        console.rule("1  A service on loopback, with an API key")
        console.print(f"{service.url}   (data in {var})")

        console.rule("2  This machine, profiled through the API")
        with agent(service) as running:
            device = client.device(running.device_id())
            console.print(f"device {device['id']}: {_profile_line(device['profile'])}")
            campaign = begun(client, device["id"], supernet) or client.create_campaign(
                device["id"], supernet, effort
            )
            follow_campaign(console, client, device["id"], campaign["id"], running.check)
        table = client.latency_table(device["id"], supernet)
        _print_quality(console, table)

        console.rule("3  A latency budget in, a subnet out")
        described = client.supernet(supernet)
        low, high = described["feasible"][device["id"]]["latency_ms"]
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
        top1 = measured_top1(path, subnet, described["card"].get("classes"))
        _print_result(console, subnet, path, measured_ms, top1)
        _print_curl(console, service, supernet, device["id"], budget_ms, subnet["id"])


@dataclass(frozen=True)
class LocalAgent:
    """A device agent in a process of its own.

    Attributes:
        process: The process.
        log: Its events, a JSON object a line, and whatever else it says.
    """

    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise ``Unavailable`` where it has ended; the message ends with its log's last lines."""
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
            raise Unavailable(f"the agent on this machine has ended; {self.log} ends:\n{tail}")

    def device_id(self) -> str:
        """What it enrolled as: with another runtime or kernel, a machine is another device than before.

        Raises:
            Unavailable: It has ended, or has not enrolled within ``ENROL_S``.
        """
        deadline = time.monotonic() + ENROL_S
        while time.monotonic() < deadline:
            for line in self.log.read_text(errors="replace").splitlines():
                if line.startswith('{"event": "enrolled"'):
                    return str(json.loads(line)["detail"])
            self.check()
            time.sleep(0.2)
        raise Unavailable(f"the agent did not enrol within {ENROL_S:.0f} s; see {self.log}")


@contextmanager
def agent(service: LocalService) -> Iterator[LocalAgent]:
    """Run the device agent on this machine until the block ends."""
    key, folder = service.key(["agent"], "quickstart-agent"), service.log.parent
    command = [*BESPOKE, "agent", "--server", service.url, "--name", DEVICE, "--threads", "1", "--json"]
    command += ["--cache", str(folder / "agent")]
    environment = {**service.environment, "BESPOKE_KEY": key}
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield LocalAgent(process, folder / "agent.log")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def begun(client: Client, device_id: str, supernet: str) -> dict[str, Any] | None:
    """The campaign that an earlier quickstart began and did not end: it goes on, and no other may."""
    for one in client.campaigns(device_id):
        if one["supernet"] == supernet and one["purpose"] == "table" and one["state"] not in OVER:
            return one
    return None


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


def _print_result(
    console: Console, subnet: dict[str, Any], path: Path, measured_ms: float, top1: str
) -> None:
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
        top1,
    )
    rows.add_row("MACs", f"{predicted['macs'] / 1e6:.1f} M", "")
    rows.add_row("parameters", f"{predicted['params'] / 1e6:.2f} M", "")
    rows.add_row("peak memory", f"{predicted['peak_memory_bytes'] / 1e6:.2f} MB", "")
    size = path.stat().st_size
    rows.add_row("file size", f"{predicted['model_size_bytes'] / 1e6:.2f} MB", f"{size / 1e6:.2f} MB")
    console.print(rows)


def measured_top1(path: Path, subnet: dict[str, Any], classes: list[str] | None) -> str:
    """On the validation images in ``BESPOKE_DATA``, where those of the supernet's classes are at hand."""
    root = os.environ.get("BESPOKE_DATA")
    if not root:
        return "(set BESPOKE_DATA)"
    from bespoke.supernet.training.data import read_split
    from bespoke.supernet.training.evaluation import LabelledImages, model_top1
    from bespoke.supernet.training.folders import class_names

    data = Path(root)
    folders = [data, *sorted(data.iterdir())] if data.is_dir() else []
    known = [one for one in folders if (one / "val").is_dir() and list(class_names(one / "val")) == classes]
    if not known:
        return "(no images of its classes in BESPOKE_DATA)"
    images = LabelledImages(read_split(known[0], "val"), batch=1)
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
