"""The fingerprint: stable, telling, and anonymous."""

import json
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bespoke.agent import OnnxRuntime, device_profile, fingerprint
from bespoke.latency_tables import DeviceProfile
from bespoke.supernet.errors import InvalidInput

module = sys.modules["bespoke.agent.fingerprint"]

RUNTIME = OnnxRuntime(threads=1)


def test_it_says_what_decides_speed() -> None:
    facts = fingerprint(RUNTIME)
    assert {"machine", "system", "kernel", "cores", "agent"} <= set(facts)
    assert facts["machine"] == platform.machine()


def test_it_is_the_same_each_time() -> None:
    assert device_profile("a", RUNTIME).digest == device_profile("b", RUNTIME).digest


def test_threads_and_pinning_make_another_device() -> None:
    one = device_profile("a", RUNTIME)
    assert device_profile("a", OnnxRuntime(threads=2)).digest != one.digest
    assert device_profile("a", RUNTIME, pinned=False).digest != one.digest


def test_precisions_are_devices_of_their_own() -> None:
    assert device_profile("a", RUNTIME, precision="int8").digest != device_profile("a", RUNTIME).digest
    with pytest.raises(InvalidInput, match=r"fp16.*fp32, int8"):
        device_profile("a", RUNTIME, precision="fp16")


def test_boards_are_told_by_their_device_tree_or_their_firmware(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "device-tree"
    tree.mkdir()
    (tree / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
    (tree / "compatible").write_bytes(b"raspberrypi,4-model-b\0brcm,bcm2711\0")
    monkeypatch.setattr(module, "_DEVICE_TREE", tree)
    facts = fingerprint(RUNTIME)
    assert (facts["board"], facts["soc"]) == ("Raspberry Pi 4 Model B Rev 1.4", "brcm,bcm2711")
    board = tmp_path / "dmi"
    board.mkdir()
    (board / "board_vendor").write_text("Framework\n")
    (board / "board_name").write_text("FRANMECP06\n")
    monkeypatch.setattr(module, "_DEVICE_TREE", tmp_path / "none")
    monkeypatch.setattr(module, "_BOARD", board)
    facts = fingerprint(RUNTIME)
    assert facts["board"] == "Framework FRANMECP06" and "soc" not in facts


def test_what_changes_from_minute_to_minute_stays_out() -> None:
    facts = " ".join(fingerprint(RUNTIME))
    assert not [word for word in ("load", "temperature", "current", "free") if word in facts]


def test_it_names_neither_host_nor_user() -> None:
    text = json.dumps(fingerprint(RUNTIME)).lower()
    host = socket.gethostname().lower()
    assert len(host) < 4 or host not in text
    assert not {"hostname", "node", "serial", "user", "mac"} & set(fingerprint(RUNTIME))


def test_a_profile_of_this_machine_can_be_sent() -> None:
    profile = device_profile("laptop", RUNTIME)
    assert DeviceProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_the_agent_imports_neither_a_runtime_nor_onnx_nor_torch() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['onnxruntime', 'onnx', 'torch', 'psutil']));"
        "import bespoke.agent, bespoke.client, bespoke.latency_tables; print('ok')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n", done.stderr
