"""Wall 4: imports run down, and the paper wing, the client, the agent and the API need no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAPER_WING = (
    "bespoke.supernet",
    "bespoke.supernet.onnx",
    "bespoke.supernet.zoo",
    "bespoke.latency_tables",
    "bespoke.latency_tables.profiling",
    "bespoke.predictors",
    "bespoke.predictors.accuracy",
    "bespoke.search",
    "bespoke.client",
    "bespoke.agent",
    "bespoke.service.app",
    "bespoke.cli",
)
AGENT_ONLY = ("bespoke.client", "bespoke.agent", "bespoke.cli")
NOT_ON_A_DEVICE = ("torch", "fastapi", "sqlalchemy", "dbos", "onnx")


def import_with_blocked(module: str, blocked: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    code = f"""
import sys, importlib.abc
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Block())
import {module}
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", PAPER_WING)
def test_the_paper_wing_imports_without_torch(module: str) -> None:
    result = import_with_blocked(module, ("torch",))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", AGENT_ONLY)
def test_what_runs_on_a_device_imports_without_the_service(module: str) -> None:
    result = import_with_blocked(module, NOT_ON_A_DEVICE)
    assert result.returncode == 0, result.stderr


def test_importing_the_ground_floor_is_quiet_and_reads_no_environment() -> None:
    code = (
        "import sys; import bespoke.supernet; print(sorted(m for m in sys.modules if m in ('torch', 'onnx')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert result.stderr == ""
