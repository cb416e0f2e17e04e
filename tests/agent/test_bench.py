"""The measuring child: dies without harm, ends with its parent, answers like the runtime itself."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bespoke.agent import ChildBench
from bespoke.latency_tables import Timing
from bespoke.supernet.errors import InvalidInput, NotFound, TaskFailed, Unavailable
from bespoke.supernet.onnx import op_plan, random_weights, write_onnx
from bespoke.supernet.ops import Op

QUICK = Timing(warm_up_ms=0, min_ms=0, min_runs=3)
ENDLESS = Timing(warm_up_ms=0, min_ms=60_000)
SOON_S = 30.0


@pytest.fixture(scope="module")
def bench() -> Iterator[ChildBench]:
    with ChildBench(pin=False) as bench:
        yield bench


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, str]:
    plan = op_plan(Op("linear", (1, 1, 8), 4))
    return stored(tmp_path / "model.onnx", write_onnx(plan, random_weights(plan)))


def stored(path: Path, content: bytes) -> tuple[Path, str]:
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def test_it_measures_in_another_process(bench: ChildBench, model: tuple[Path, str]) -> None:
    measured = bench.measure(*model, QUICK)
    assert len(measured.samples_ms) >= 1 and min(measured.samples_ms) > 0
    assert bench.pid not in (None, os.getpid())
    assert (bench.name, bench.threads, bench.provider) == ("onnxruntime", 1, "CPUExecutionProvider")


def test_one_child_measures_everything(bench: ChildBench, model: tuple[Path, str]) -> None:
    bench.measure(*model, QUICK)
    before = bench.pid
    bench.measure(*model, QUICK)
    assert bench.pid == before


def test_what_is_no_network_is_told_and_harms_nothing(
    bench: ChildBench, model: tuple[Path, str], tmp_path: Path
) -> None:
    broken = stored(tmp_path / "broken.onnx", b"this is no network")
    with pytest.raises(TaskFailed, match="does not take this network"):
        bench.measure(*broken, QUICK)
    bench.measure(*model, QUICK)


def test_a_file_that_was_changed_is_not_run(bench: ChildBench, model: tuple[Path, str]) -> None:
    path, sha256 = model
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(TaskFailed, match="its sha256 is not"):
        bench.measure(path, sha256, QUICK)


def test_a_network_that_kills_its_process_is_told_and_the_next_one_is_measured(
    bench: ChildBench, model: tuple[Path, str]
) -> None:
    bench.measure(*model, QUICK)
    child = bench.pid
    assert child is not None
    killed = False

    def kill() -> bool:
        nonlocal killed
        if not killed:
            os.kill(child, signal.SIGSEGV)
            killed = True
        return False

    with pytest.raises(TaskFailed, match=r"ended its process.*SIGSEGV"):
        bench.measure(*model, ENDLESS, kill)
    assert bench.measure(*model, QUICK).samples_ms
    assert bench.pid != child and bench.crashes == 1


def test_a_network_that_hangs_is_given_up(model: tuple[Path, str]) -> None:
    with ChildBench(pin=False, deadline_s=0.3) as bench:
        child = bench.pid
        assert child is not None
        with pytest.raises(TaskFailed, match="longer than"):
            bench.measure(*model, ENDLESS)
        assert not psutil.pid_exists(child)


def test_a_stop_ends_a_long_measurement(
    bench: ChildBench, model: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bespoke.agent.bench.GRACE_S", 0.1)
    with pytest.raises(Unavailable, match="stopped"):
        bench.measure(*model, ENDLESS, lambda: True)


def test_errors_of_the_runtime_come_through() -> None:
    with pytest.raises(NotFound, match=r"'Abacus'.*CPUExecutionProvider"):
        ChildBench(provider="Abacus")
    with pytest.raises(NotFound, match="no runtime named 'tvm'"):
        ChildBench("tvm")
    with pytest.raises(InvalidInput, match="at least 1"):
        ChildBench(threads=0)
    with pytest.raises(InvalidInput, match="got -10000, expected at least 1"):
        ChildBench(threads=-10_000)


def test_a_child_that_dies_before_it_is_asked_is_told(
    model: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ChildBench(pin=False) as bench:
        assert bench.pid is not None
        # It dies right after it was looked at.
        monkeypatch.setattr(ChildBench, "pid", child := bench.pid)
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        with pytest.raises(TaskFailed, match=r"ended its process.*SIGKILL"):
            bench.measure(*model, QUICK)


def test_a_machine_without_memory_for_a_child_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises(Unavailable, match=r"cannot be started: .*Cannot allocate memory"):
        ChildBench()


def test_another_runtime_does_not_take_the_place_of_the_one_that_crashed(model: tuple[Path, str]) -> None:
    with ChildBench(pin=False) as bench:
        bench._facts["version"] = "0.1"
        bench.close()
        with pytest.raises(Unavailable, match=r"now and was onnxruntime 0\.1"):
            bench.measure(*model, QUICK)
        assert bench.pid is None


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel cannot")
def test_the_child_ends_with_an_agent_that_is_killed() -> None:
    code = "from bespoke.agent import ChildBench; b = ChildBench(); print(b.pid, flush=True); input()"
    agent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert agent.stdout is not None and agent.stdin is not None
    child = int(agent.stdout.readline())
    assert psutil.pid_exists(child)
    agent.kill()
    agent.wait()
    until = time.monotonic() + SOON_S
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "the child has outlived its parent"
        time.sleep(0.05)
    agent.stdin.close()
    agent.stdout.close()
