"""The fingerprint: stable, telling, and anonymous."""

import json
import platform
import socket
import subprocess
import sys

from bespoke.agent import OnnxRuntime, device_profile, fingerprint
from bespoke.latency_tables import DeviceProfile

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
