"""The service as processes: it starts from nothing, ends when told, and leaves nobody behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from bespoke.client import Client
from bespoke.service import models
from bespoke.service.children import Child
from bespoke.service.settings import Settings
from bespoke.service.workplace import open_workplace
from bespoke.supernet.errors import BespokeError
from tests.service.agents import PROFILE

BESPOKE = (sys.executable, "-m", "bespoke.cli")
PATIENCE_S = 240


@pytest.fixture
def var(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "var"
    shutil.rmtree(tmp_path / "var", ignore_errors=True)  # a campaign's models are some 400 MB


def environment(var: Path, **settings: str) -> dict[str, str]:
    own = {f"BESPOKE_{name.upper()}": value for name, value in settings.items()}
    return {**os.environ, "BESPOKE_VAR": str(var), "BESPOKE_PORT": "0", **own}


@contextmanager
def process(env: dict[str, str], *words: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [*BESPOKE, *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def served(running: subprocess.Popen[str], env: dict[str, str]) -> Client:
    """A client of a `bespoke serve --json` with a key for everything, once it is ready."""
    assert running.stdout is not None
    url = json.loads(running.stdout.readline())["url"]
    words = ("keys", "create", "--json", "--scope", "search", "--scope", "device:admin", "--scope", "agent")
    made = subprocess.run([*BESPOKE, *words], env=env, capture_output=True, text=True, check=True)
    client = Client(url, json.loads(made.stdout)["key"])
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.readyz()
            return client
        except BespokeError:
            assert time.monotonic() < until
            time.sleep(0.1)


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_service(how: signal.Signals, var: Path, random_zoo: Path) -> None:
    env = environment(var, zoo=str(random_zoo))
    with process(env, "serve", "--json") as running:
        client = served(running, env)
        device = client.create_device("board", PROFILE)
        client.create_campaign(device["id"], "tiny")
        until = time.monotonic() + PATIENCE_S
        # One child holds the weights, another one prepares the campaign.
        while len(children := psutil.Process(running.pid).children(recursive=True)) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        running.send_signal(how)
        assert running.wait(20) == (-signal.SIGKILL if how == signal.SIGKILL else 0)
        wait_until_gone(children)


def test_a_campaign_goes_on_after_the_service_was_killed(var: Path, random_zoo: Path) -> None:
    env = environment(var, zoo=str(random_zoo), entries_per_step="8")
    with process(env, "serve", "--json") as running:
        client = served(running, env)
        device = client.create_device("board", PROFILE)
        campaign = client.create_campaign(device["id"], "tiny", "quick")
        until = time.monotonic() + PATIENCE_S
        while client.job(campaign["job_id"])["progress"] < 0.1:
            assert time.monotonic() < until
            time.sleep(0.05)
        running.kill()
        running.wait()
    with process(env, "serve", "--json") as running:
        client = served(running, env)
        until = time.monotonic() + PATIENCE_S
        while client.campaign(device["id"], campaign["id"])["state"] == "preparing":
            assert time.monotonic() < until
            time.sleep(0.1)
        assert client.campaign(device["id"], campaign["id"])["state"] == "measuring"
        lease = client.lease(device["id"], "agent", 1)
        assert lease is not None
        client.artifact(lease["entries"][0]["sha256"])


def test_a_worker_beside_the_service_makes_its_models(
    postgresql: object, var: Path, random_zoo: Path
) -> None:
    assert callable(postgresql)
    env = environment(var, zoo=str(random_zoo), database_url=postgresql(), embedded_worker="false")
    with process(env, "serve", "--json") as api, process(env, "worker", "--name", "beside") as worker:
        client = served(api, env)
        subnet = client.search("tiny", {"macs": 1e7})["subnet"]
        model = client.model(subnet["id"])
        assert len(model) == client.manifest(subnet["id"])["size"]
        assert not psutil.Process(api.pid).children()
        children = psutil.Process(worker.pid).children(recursive=True)
        assert children
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
        wait_until_gone(children)


def test_a_supernet_whose_child_dies_does_not_keep_the_others_from_being_loaded(
    var: Path, random_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fragile(Child):
        def call(self, task: str, arguments: dict[str, Any], *stop: Callable[[], bool]) -> dict[str, Any]:
            if arguments["supernet"] == "too large":
                os.kill(self.pid, signal.SIGKILL)
            return super().call(task, arguments, *stop)

    monkeypatch.setattr(models, "Child", Fragile)
    place = open_workplace(Settings(var=var, zoo=random_zoo))
    warm = models.WarmModels(place.settings, place.store, ("too large", "none"))
    try:
        until = time.monotonic() + PATIENCE_S
        while not warm.warm:
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        warm.stop()


def test_the_api_process_never_imports_torch() -> None:
    code = "import sys, bespoke.service.app; sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_keys_are_made_listed_and_revoked_on_the_command_line(var: Path) -> None:
    env = environment(var)

    def keys(*words: str) -> str:
        return subprocess.run(
            [*BESPOKE, "keys", *words], env=env, capture_output=True, text=True, check=True
        ).stdout

    text = keys("create", "--scope", "search", "--name", "laptop").strip()
    brand, prefix, _ = text.split("_")
    assert brand == "bsp"
    (listed,) = json.loads(keys("list", "--json"))
    assert (listed["prefix"], listed["name"], listed["scopes"], listed["revoked_at"]) == (
        prefix,
        "laptop",
        ["search"],
        None,
    )
    assert text not in keys("list")
    assert json.loads(keys("revoke", f"bsp_{prefix}", "--json"))["revoked_at"]
    wrong = subprocess.run([*BESPOKE, "keys", "create", "--scope", "root"], env=env, capture_output=True)
    assert wrong.returncode == 2
    assert b"root" in wrong.stderr
