"""What the agent takes on a device: disk of its install, memory while it measures.

    python -m benchmarks.agent_footprint [--runtime onnxruntime] [--precision fp32] [--json]

``pip install '.[agent]'`` goes into an empty environment. The agent of that environment then measures
for a service in a temporary folder until it has measured ``--entries`` networks, ops and whole ones,
or has run out of work. The peak is the sum of the peaks of its two processes (the agent, and the child
that measures), as the kernel keeps them.

JSON: ``install_mb`` (what pip added to the environment), ``environment_mb`` (all of it, pip itself among
it), ``peak_memory_mb``, ``agent_peak_mb`` and ``child_peak_mb`` (of each process), ``measured`` (entries).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bespoke.cli.local import LocalService, local_service

REPOSITORY = Path(__file__).parents[1]
POLL_S = 0.05
LONGEST_S = 1200.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--supernet", default="ofa-mbv3-imagenette")
    parser.add_argument("--entries", type=int, default=200)
    parser.add_argument("--environment", type=Path, help="An environment that has the agent already.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        result: dict[str, float] = {}
        environment = options.environment
        if environment is None:
            environment = root / "environment"
            result = install(environment, options.runtime)
        result |= run(environment, root / "service", options)
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:16} {value:.4g}")


def install(environment: Path, runtime: str) -> dict[str, float]:
    """Install the agent, and nothing else, into an environment of its own; sizes in MB."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    before_mb = size_mb(environment)
    extras = "agent" if runtime == "onnxruntime" else f"agent,{runtime}"
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"{REPOSITORY}[{extras}]"], check=True, stdout=sys.stderr)
    after_mb = size_mb(environment)
    return {"install_mb": round(after_mb - before_mb, 1), "environment_mb": round(after_mb, 1)}


def size_mb(folder: Path) -> float:
    """Bytes on disk (whole blocks, as ``du`` counts), in millions."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sum(512 * file.lstat().st_blocks for file in files) / 1e6


def run(environment: Path, var: Path, options: argparse.Namespace) -> dict[str, float]:
    """Have the environment's agent measure for a service; peaks of its processes in MB."""
    with local_service(var) as service, service.client(["device:admin"]) as client:
        agent = start_agent(environment, service, options)
        peaks_mb: dict[int, float] = {}
        entries, began, campaign = 0, time.monotonic(), None
        try:
            while entries < options.entries and time.monotonic() - began < LONGEST_S:
                if agent.poll() is not None:
                    raise SystemExit(f"the agent ended with code {agent.returncode}")
                if campaign is None and (devices := client.devices()):
                    campaign = client.create_campaign(devices[0]["id"], options.supernet, "quick")
                for process in (psutil.Process(agent.pid), *psutil.Process(agent.pid).children()):
                    peaks_mb[process.pid] = max(peaks_mb.get(process.pid, 0), peak_mb(process.pid))
                entries = (var / "agent.log").read_text().count('"event": "measured"')
                time.sleep(POLL_S)
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.wait(60)
    own_mb = peaks_mb.pop(agent.pid, 0.0)
    child_mb = max(peaks_mb.values(), default=0.0)
    return {
        "peak_memory_mb": round(own_mb + child_mb, 1),
        "agent_peak_mb": round(own_mb, 1),
        "child_peak_mb": round(child_mb, 1),
        "measured": entries,
    }


def start_agent(
    environment: Path, service: LocalService, options: argparse.Namespace
) -> subprocess.Popen[bytes]:
    folder = service.log.parent
    command = [str(environment / "bin" / "bespoke"), "agent", "--server", service.url, "--json", "--force"]
    command += ["--runtime", options.runtime, "--precision", options.precision]
    command += ["--cache", str(folder / "agent")]
    variables = {**os.environ, "BESPOKE_KEY": service.key(["agent"], "footprint")}
    variables.pop("PYTHONPATH", None)
    with (folder / "agent.log").open("wb") as log:
        # Elsewhere than in the repository, so that what runs is what was installed.
        return subprocess.Popen(command, env=variables, cwd=folder, stdout=log)


def peak_mb(pid: int) -> float:
    """The most memory that a process ever held, in MB; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), 0.0)


if __name__ == "__main__":
    main()
