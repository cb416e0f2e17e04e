from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.training.processes import Group, join
from tests.supernet.training import train_run

REPOSITORY = Path(__file__).parents[3]


def torchrun(*arguments: object) -> list[str]:
    """A training by two processes."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return [sys.executable, *launcher, "-m", train_run.__name__, *map(str, arguments)]


def test_a_run_that_is_killed_ends_with_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    train_run.main(tmp_path / "unbroken", "batch", tmp_path / "a")
    command = [sys.executable, "-m", train_run.__name__, tmp_path / "killed", "batch", tmp_path / "b"]
    # In the last phase, where there are a teacher, sorted channels, an average and an optimiser.
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "expand: step 6/12" not in next(process.stdout):
            pass
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "b.0").exists()
    lines: list[str] = []
    train_run.main(tmp_path / "killed", "batch", tmp_path / "b", report=lines.append)
    assert "expand: step 8/12" in lines[0]
    unbroken, resumed = load_file(tmp_path / "a.0"), load_file(tmp_path / "b.0")
    for name, tensor in unbroken.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)


def test_two_processes_with_half_the_batch_give_the_weights_of_one(tmp_path: Path) -> None:
    train_run.main(tmp_path / "one", "frozen", tmp_path / "one-weights")
    command = torchrun(tmp_path / "two", "frozen", tmp_path / "two-weights")
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL, timeout=300)
    one = load_file(tmp_path / "one-weights.0")
    for rank in (0, 1):
        two = load_file(tmp_path / f"two-weights.{rank}")
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5)


def test_processes_that_see_other_files_are_refused_before_they_go_apart(tmp_path: Path) -> None:
    train_run.main(tmp_path / "run" / "0", "batch", tmp_path / "weights")
    command = torchrun(tmp_path / "run", "apart", tmp_path / "other")
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert ended.returncode != 0
    assert "got processes that do not see the same images, or the same files" in ended.stderr
    assert not list(tmp_path.glob("other*"))


def test_shares_of_a_batch_cover_it_without_overlap() -> None:
    batch = list(range(6))
    assert [batch[Group(rank, 3).share(6)] for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(InvalidInput, match="multiple"):
        Group(0, 2).share(5)


@pytest.mark.parametrize(
    ("device", "told"),
    [("gpu", "expected cpu or cuda"), ("meta", "expected cpu or cuda"), ("cuda", "0 GPUs")],
)
def test_a_device_that_is_not_here_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, told: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InvalidInput, match=f"got '{device}'.*{told}"):
        join(device)
    assert join("cpu") == (Group(), torch.device("cpu"))
