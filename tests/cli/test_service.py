"""``bespoke serve`` and ``keys`` where they cannot do their work, and a service of one's own."""

from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bespoke.cli import devices, local, service
from bespoke.cli import fleet as device_commands
from bespoke.cli.local import local_service
from bespoke.cli.quickstart import LocalAgent, begun, measured_top1
from bespoke.client import Client
from bespoke.supernet.errors import Unavailable
from tests.cli.test_offline import bespoke


def test_a_port_that_is_taken_is_told_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # What a server changes of its process stays out of this one.
    for module, name in (
        (gc, "freeze"),
        (gc, "set_threshold"),
        (sys, "setswitchinterval"),
        (service, "_log"),
    ):
        monkeypatch.setattr(module, name, lambda *_: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = bespoke("serve", "--port", port, "--var", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"bespoke: cannot listen on 127.0.0.1, port {port}" in done.stderr


def test_a_database_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bespoke.sqlite").write_text("no database\n" * 200)
    done = bespoke("keys", "list", "--var", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "bespoke.sqlite cannot be opened (file is not a database)" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_service_of_ones_own_is_not_what_the_environment_says_of_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BESPOKE_HOST", "192.0.2.1")
    monkeypatch.setenv("BESPOKE_DATABASE_URL", "postgresql://production/bespoke")
    monkeypatch.setenv("BESPOKE_EMBEDDED_WORKER", "false")
    monkeypatch.setenv("BESPOKE_CHECK_HOURS", "3")
    quiet = SimpleNamespace(pid=1, terminate=lambda: None, wait=lambda _: 0)
    monkeypatch.setattr(local, "_wait_until_ready", lambda *_: None)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: quiet)
    with local_service(tmp_path, {"BESPOKE_ARCHIVES": "false"}) as running:
        found = running.environment
    assert (found["BESPOKE_HOST"], found["BESPOKE_DATABASE_URL"]) == ("127.0.0.1", "")
    assert (found["BESPOKE_EMBEDDED_WORKER"], found["BESPOKE_VAR"]) == ("true", str(tmp_path))
    assert (found["BESPOKE_CHECK_HOURS"], found["BESPOKE_ARCHIVES"]) == ("3", "false")


def test_the_quickstart_knows_its_own_agent_and_does_not_wait_for_a_dead_one(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    dead = LocalAgent(process, log)
    log.write_text('{"event": "refused", "detail": "memory", "measured": 0}\nnot fit to measure\n')
    for waiting in (dead.check, dead.device_id):
        with pytest.raises(Unavailable, match="not fit to measure"):
            waiting()
    log.write_text('{"event": "enrolled", "detail": "dev_now", "measured": 0}\n')
    assert dead.device_id() == "dev_now"


def test_a_quickstart_that_was_stopped_goes_on_with_its_campaign(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = {"id": "cmp_1", "supernet": "tiny", "purpose": "table", "state": "succeeded"}
    others = [
        ended | {"state": "measuring", "purpose": "check"},
        ended | {"supernet": "x", "state": "fitting"},
    ]
    own = ended | {"id": "cmp_0", "state": "measuring"}
    for listed, expected in (([*others, own, ended], own), ([*others, ended], None)):
        monkeypatch.setattr(Client, "campaigns", lambda self, device, listed=listed: listed)
        assert begun(Client(), "dev_0", "tiny") == expected


def test_the_quickstart_measures_top1_on_images_of_the_supernets_classes_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "photos" / "val" / "cat").mkdir(parents=True)
    for data, classes in ((tmp_path, ["dog"]), (tmp_path, None), (tmp_path / "nothing here", ["cat"])):
        monkeypatch.setenv("BESPOKE_DATA", str(data))
        assert measured_top1(tmp_path / "m.onnx", {}, classes) == "(no images of its classes in BESPOKE_DATA)"


def test_what_was_measured_is_written_into_a_new_folder_and_nothing_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    progress = {"done": 1, "total": 30}
    newest = {"id": "set_1", "state": "running", "progress": progress, "predictor": None, "error": None}
    found = [newest]
    monkeypatch.setattr(Client, "datasets", lambda *_: found)
    monkeypatch.setattr(Client, "export_dataset", lambda *_: b"{}\n")
    command = ("zoo", "datasets", "tiny", "--key", "k", "--out", tmp_path / "new" / "set.jsonl")
    assert "1/30 subnets" in bespoke(*command).stdout
    assert (tmp_path / "new" / "set.jsonl").read_bytes() == b"{}\n"
    found.clear()
    done = bespoke(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no data set of supernet named 'tiny'" in done.stderr


def test_names_and_reasons_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = {"name": "pi[/]@host", "state": "quarantined", "reason": "[bold] samples"}
    campaign = {"id": "cmp_0", "agents": [agent], "state": "succeeded", "progress": {"done": 1, "total": 1}}

    class Answers:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def devices(self) -> list[Any]:
            return []

        def create_check(self, *_: object) -> Any:
            return campaign

        def campaign(self, *_: object) -> Any:
            return campaign

    monkeypatch.setattr(device_commands, "Client", lambda *_: Answers())
    monkeypatch.setattr(devices, "POLL_S", 0)
    device_commands.check("key", "board", as_json=True)
    told = capsys.readouterr()
    assert json.loads(told.out) == campaign
    assert "agent pi[/]@host is quarantined: [bold] samples" in told.err
