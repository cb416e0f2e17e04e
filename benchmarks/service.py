"""How quickly a service answers searches over HTTP, under an open load.

    python -m benchmarks.service [--rate 100] [--seconds 20] [--json]

A real service runs on loopback with an embedded worker and SQLite. A device is enrolled and a latency
table imported that says of each op ``0.002 ms + MACs / 1e7 ms``: as far as the service can tell, any
device's. Once the archive of that table is there, requests leave at a fixed rate, whether or not earlier
ones were answered, and a latency counts from the moment at which its request was due.

Loads, by their names in the JSON: ``different`` (each request another random budget over the feasible
range), ``identical`` (one request, again and again), ``health`` (``GET /healthz``: the floor of the HTTP
stack under the same load). Of each: ``p50_ms``, ``p99_ms``, ``rate`` (answers a second), ``failed`` and
``cpu_s`` (CPU seconds a request of the API process; ``children_cpu_s`` of its children, which write
models). ``archive_s`` is how long the archive took to be there. ``quality`` compares answers with whole
searches of the same requests: ``top1_gap_mean`` and ``top1_gap_worst`` (search less answer, in top-1),
``from_archive`` (share of the answers).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bespoke.cli.local import LocalService, local_service
from bespoke.client import Client
from bespoke.latency_tables import DeviceProfile, LatencyStat, LatencyTable
from bespoke.predictors import read_predictor
from bespoke.search import Constraint, Problem, search
from bespoke.supernet import zoo
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.cost import op_macs

SCOPES = ("search", "device:admin")
PATIENCE_S, ANSWER_S = 600.0, 60.0
PROFILE = DeviceProfile(
    device="synthetic",
    runtime="none",
    runtime_version="1",
    provider="arithmetic",
    threads=1,
    precision="fp32",
    batch=1,
    fingerprint={},
)

Json = dict[str, Any]
Ask = Callable[[int], tuple[str, str, Json | None]]
"""From the number of a request to its method, path and body."""


def main() -> None:
    options = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), options)
    if options.json:
        print(json.dumps(report))
        return
    print(f"archive after {report['archive_s']:.1f} s")
    print("load        p50 ms   p99 ms  answers/s  failed  API CPU ms  children CPU ms")
    for name, row in report["loads"].items():
        print(
            f"{name:10}  {row['p50_ms']:6.2f}  {row['p99_ms']:7.2f}  {row['rate']:9.1f}  {row['failed']:6}"
            f"  {1e3 * row['cpu_s']:10.2f}  {1e3 * row['children_cpu_s']:15.2f}"
        )
    print("answers against whole searches:", report["quality"])


def measure(folder: Path, options: argparse.Namespace) -> Json:
    """Start a service, load it, and compare its answers."""
    entry = zoo.entry(options.supernet)
    table = synthetic_table(entry.space)
    with local_service(folder / "var") as service:
        key = service.key(SCOPES, "benchmark")
        client = Client(service.url, key)
        device = client.create_device("synthetic", PROFILE.to_json())["id"]
        began = time.monotonic()
        client.import_latency_table(device, options.supernet, table.to_json())
        low, high = client.supernet(options.supernet)["feasible"][device]["latency_ms"]
        rng = np.random.default_rng(options.seed)
        _wait_for_archive(client, options.supernet, device, rng.uniform(low, high, 1000))
        archive_s = time.monotonic() - began
        count = round(options.rate * options.seconds)
        budgets = rng.uniform(low, high, count).tolist()

        def different(number: int) -> tuple[str, str, Json | None]:
            return "POST", "/v1/searches", _body(options.supernet, device, budgets[number])

        def identical(number: int) -> tuple[str, str, Json | None]:
            return "POST", "/v1/searches", _body(options.supernet, device, budgets[0])

        def health(number: int) -> tuple[str, str, Json | None]:
            return "GET", "/healthz", None

        loads: dict[str, Ask] = {"different": different, "identical": identical, "health": health}
        rows = {name: _loaded(service, key, ask, options) for name, ask in loads.items()}
        answers = [
            client.search(options.supernet, {"latency_ms": budget}, device)
            for budget in budgets[: options.compared]
        ]
    return {
        "supernet": options.supernet,
        "rate": options.rate,
        "seconds": options.seconds,
        "archive_s": archive_s,
        "loads": rows,
        "quality": _quality(entry, table, budgets[: options.compared], answers),
    }


def synthetic_table(space: SearchSpace) -> LatencyTable:
    """A table by the rule of this benchmark."""
    ops = {op.key: op for slot in space.slots for op in slot.ops if op is not None}
    stats = {}
    for key, op in ops.items():
        ms = 0.002 + op_macs(op) / 1e7
        stats[key] = LatencyStat(ms, ms, ms, 1, 0)
    return LatencyTable(PROFILE, stats)


def _body(supernet: str, device: str, budget_ms: float) -> Json:
    return {"supernet": supernet, "device": device, "constraints": {"latency_ms": budget_ms}}


def _wait_for_archive(client: Client, supernet: str, device: str, budgets: np.ndarray[Any, Any]) -> None:
    until = time.monotonic() + PATIENCE_S
    for budget in budgets.tolist():
        if client.search(supernet, {"latency_ms": budget}, device)["archive"] is not None:
            return
        if time.monotonic() > until:
            break
        time.sleep(0.5)
    raise SystemExit("no archive came")


def _loaded(service: LocalService, key: str, ask: Ask, options: argparse.Namespace) -> Json:
    """One load: how long answers took, and what they cost."""
    process = psutil.Process(service.pid)
    before, children_before = _cpu_s(process)
    began = time.monotonic()
    took = asyncio.run(_open_loop(service.url, key, ask, options.rate, options.seconds))
    wall_s = time.monotonic() - began
    after, children_after = _cpu_s(process)
    answered = np.array([one for one in took if one is not None])
    return {
        "p50_ms": float(1e3 * np.quantile(answered, 0.5)),
        "p99_ms": float(1e3 * np.quantile(answered, 0.99)),
        "rate": len(answered) / wall_s,
        "failed": len(took) - len(answered),
        "cpu_s": (after - before) / len(took),
        "children_cpu_s": (children_after - children_before) / len(took),
    }


async def _open_loop(url: str, key: str, ask: Ask, rate: float, seconds: float) -> Sequence[float | None]:
    """Seconds from when each request was due to its answer; None where that was an error."""
    http = _Connections(url, key)
    await asyncio.gather(*(http.send("GET", "/healthz") for _ in range(8)))  # a few connections are open
    first = time.perf_counter() + 0.1

    async def one(number: int) -> float | None:
        due = first + number / rate
        await asyncio.sleep(due - time.perf_counter())
        try:
            async with asyncio.timeout(ANSWER_S):
                status = await http.send(*ask(number))
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return None
        return time.perf_counter() - due if status < 300 else None

    return await asyncio.gather(*(one(number) for number in range(round(rate * seconds))))


class _Connections:
    """Connections that are kept open, and nothing else of a client: what it takes, the service lacks."""

    def __init__(self, url: str, key: str) -> None:
        self._address = urllib.parse.urlsplit(url)
        self._key = key
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, method: str, path: str, body: Json | None = None) -> int:
        """Send a request, read its answer, and give the status."""
        host, port = self._address.hostname, self._address.port
        while self._free and self._free[-1][0].at_eof():
            self._free.pop()  # the service closes what lies idle
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection(host, port)
        content = b"" if body is None else json.dumps(body).encode()
        lines = (
            f"{method} {path} HTTP/1.1",
            f"host: {host}:{port}",
            f"authorization: Bearer {self._key}",
            "content-type: application/json",
            f"content-length: {len(content)}",
        )
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        self._free.append((reader, writer))
        return int(head.split()[1])


def _cpu_s(process: psutil.Process) -> tuple[float, float]:
    """CPU seconds of a process so far, and of its children."""

    def spent(one: psutil.Process) -> float:
        times = one.cpu_times()
        return float(times.user + times.system)

    return spent(process), sum(spent(child) for child in process.children(recursive=True))


def _quality(entry: zoo.ZooEntry, table: LatencyTable, budgets: list[float], answers: list[Json]) -> Json:
    """Answers beside whole searches."""
    predictor, pricer = (
        read_predictor(entry.folder / "predictor.json", entry.space),
        table.pricer(entry.space),
    )
    gaps = []
    for budget, answer in zip(budgets, answers, strict=True):
        predicted = answer["subnet"]["predicted"]
        assert predicted["latency_ms"] <= budget
        problem = Problem(entry.space, predictor, (Constraint("latency_ms", budget),), pricer)
        gaps.append(search(problem).best.top1 - predicted["top1"])
    return {
        "answers": len(gaps),
        "top1_gap_mean": float(np.mean(gaps)),
        "top1_gap_worst": float(np.max(gaps)),
        "from_archive": float(np.mean([answer["archive"] is not None for answer in answers])),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--supernet", default="ofa-mbv3-imagenette", help="of the bundled ones")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--compared", type=int, default=50, help="answers that are compared with searches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
