"""The conformance suite of runtimes: every one in the registry loads, runs and refuses alike."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from bespoke.agent import RUNTIMES, OnnxRuntime, Runtime, measure, open_runtime
from bespoke.latency_tables import Timing
from bespoke.supernet.errors import InvalidInput, NotFound, Unavailable
from bespoke.supernet.onnx import op_plan, random_weights, write_onnx
from bespoke.supernet.ops import Op

OPS = {
    "conv": Op("conv", (16, 16, 3), 8, kernel=3, stride=2, activation="hswish"),
    "mbconv": Op("mbconv", (8, 8, 16), 16, kernel=5, mid_channels=48, se=True, activation="relu", skip=True),
    "pool": Op("pool", (4, 4, 32), 32),
    "linear": Op("linear", (1, 1, 32), 10),
}


def network(op: Op, precision: str = "fp32", *, inner: bool = False) -> bytes:
    plan = op_plan(op)
    return write_onnx(plan, random_weights(plan), precision=precision, inner=inner)


@pytest.fixture(scope="module", params=sorted(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return open_runtime(request.param)


def test_it_tells_what_it_is(runtime: Runtime) -> None:
    assert RUNTIMES[runtime.name](1, None).name == runtime.name
    assert runtime.version[0].isdigit() and " " not in runtime.version
    assert runtime.provider and runtime.threads == 1
    assert RUNTIMES[runtime.name](2, None).threads == 2


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("kind", OPS)
def test_it_measures_every_kind_of_op(runtime: Runtime, kind: str, precision: str) -> None:
    model = network(OPS[kind], precision, inner=True)
    measured = measure(lambda: runtime.load(model), Timing(warm_up_ms=0, min_ms=0, min_runs=3))
    assert measured.cold_ms > 0
    assert min(measured.samples_ms) > 0 and np.isfinite(measured.samples_ms).all()


@pytest.mark.parametrize("kind", OPS)
def test_it_computes_what_the_reference_computes(runtime: Runtime, kind: str) -> None:
    op = OPS[kind]
    height, width, channels = op.in_shape
    x = np.random.default_rng(1).standard_normal((1, channels, height, width), np.float32)
    (expected,) = OnnxRuntime().infer(network(op), [x])
    (got,) = runtime.infer(network(op), [x])
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
    (rough,) = runtime.infer(network(op, "int8"), [x])
    cosine = (rough * expected).sum() / np.linalg.norm(rough) / np.linalg.norm(expected)
    assert cosine > 0.98


@pytest.mark.parametrize("model", [b"", b"this is no network", b"\x00" * 64])
def test_what_is_no_network_is_refused_with_its_name(runtime: Runtime, model: bytes) -> None:
    for call in (lambda: runtime.load(model), lambda: runtime.infer(model, [])):
        with pytest.raises(InvalidInput, match=f"{runtime.name} does not take this network"):
            call()


def test_it_takes_what_threads_and_providers_there_are(runtime: Runtime) -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        open_runtime(runtime.name, threads=0)
    with pytest.raises(NotFound, match=runtime.provider):
        open_runtime(runtime.name, provider="Abacus")


class WithoutDriver:
    """ONNX Runtime for GPUs on a machine without a driver: it knows the provider, and starts without it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, model: bytes, options: Any, providers: list[str]) -> Any:
        return onnxruntime.InferenceSession(model, options, providers=providers[1:])


def test_a_provider_that_does_not_start_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bespoke.agent.runtimes._onnxruntime", WithoutDriver)
    with pytest.raises(Unavailable, match="CUDAExecutionProvider, which does not start here"):
        open_runtime("onnxruntime", provider="CUDAExecutionProvider")


BUSY = """
import os, sys
from pathlib import Path
from bespoke.agent import open_runtime
run = open_runtime(sys.argv[1], int(sys.argv[2])).load(Path(sys.argv[3]).read_bytes())
def busy_ns():
    tasks = Path("/proc/self/task").iterdir()
    return {task.name: int((task / "schedstat").read_text().split()[0]) for task in tasks}
run()
before = busy_ns()
for _ in range(150):
    run()
spent = [ns - before.get(name, 0) for name, ns in busy_ns().items()]
print(sum(ns > 0.2 * max(spent) for ns in spent))
"""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not tell")
def test_one_thread_is_one_thread(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(
        network(Op("conv", (28, 28, 128), 128, kernel=3, activation="relu"))
    )
    command = [sys.executable, "-c", BUSY, runtime.name, "1", str(tmp_path / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.stdout.split() == ["1"], done.stderr


def test_unknown_runtimes_are_named() -> None:
    with pytest.raises(NotFound, match=r"no runtime named 'tvm'; known: onnxruntime, openvino"):
        open_runtime("tvm")
