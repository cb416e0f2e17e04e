"""The main job over HTTP with the real parts: service, worker, agent and onnxruntime in their processes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bespoke.cli.local import BESPOKE, local_service
from bespoke.client import ApiError, Client
from bespoke.supernet.onnx import read_metadata


@dataclass(frozen=True)
class Quickstart:
    """What the quickstart left: a service's folder with this machine profiled, and what it said."""

    var: Path
    told: str


@pytest.fixture(scope="module")
def quickstart(random_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    var = tmp_path_factory.mktemp("e2e") / "var"
    environment = {**os.environ, "BESPOKE_ZOO": str(random_zoo), "COLUMNS": "200"}
    environment.pop("BESPOKE_DATA", None)
    command = [*BESPOKE, "quickstart", "--supernet", "tiny", "--var", str(var)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Quickstart(var, done.stdout)


@pytest.fixture(scope="module")
def client(quickstart: Quickstart, random_zoo: Path) -> Iterator[Client]:
    """A client of a service that goes on with what the quickstart left."""
    with (
        local_service(quickstart.var, {"BESPOKE_ZOO": str(random_zoo)}) as running,
        running.client(("search", "device:admin"), "e2e") as made,
    ):
        yield made


@pytest.fixture(scope="module")
def device(client: Client) -> dict[str, Any]:
    """This machine, enrolled and profiled through the API by the agent's own command."""
    (found,) = client.devices()
    return dict(found)


def middle_budget_ms(client: Client, device: dict[str, Any]) -> float:
    low, high = client.supernet("tiny")["feasible"][device["id"]]["latency_ms"]
    assert 0 < low < high
    return (low + high) / 2


def test_the_quickstart_does_the_main_job_and_ends_with_three_curl_lines(quickstart: Quickstart) -> None:
    for row in ("latency", "top-1", "MACs", "parameters", "peak memory", "file size", "(checked)"):
        assert row in quickstart.told
    curls = [line for line in quickstart.told.splitlines() if line.startswith("curl ")]
    assert len(curls) == 3
    assert curls[2].endswith("/model.onnx")
    assert len(list(quickstart.var.glob("sub_*.onnx"))) == 1


def test_the_profiled_table_has_every_op_and_a_quality_card(client: Client, device: dict[str, Any]) -> None:
    table = client.latency_table(device["id"], "tiny")
    assert len(table["stats"]) > 100
    assert table["quality"]["subnets"] > 0
    assert table["revision"] == device["profiled"]["tiny"]


def test_a_budget_gives_a_model_that_fits_runs_and_says_what_it_is(
    client: Client, device: dict[str, Any], tmp_path: Path
) -> None:
    budget_ms = middle_budget_ms(client, device)
    answer = client.search("tiny", {"latency_ms": budget_ms}, device["id"])
    subnet = client.subnet(answer["subnet"]["id"])
    assert subnet["predicted"]["latency_ms"] <= budget_ms
    assert subnet["predicted"]["flops"] == 2 * subnet["predicted"]["macs"]

    path = tmp_path / "model.onnx"
    digest = client.download_model(subnet["id"], path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    onnx.checker.check_model(str(path), full_check=True)
    side = subnet["architecture"]["resolution"]
    (logits,) = ort.InferenceSession(path).run(None, {"image": np.zeros((1, 3, side, side), np.float32)})
    assert logits.shape == (1, 4)
    metadata = read_metadata(path.read_bytes())
    assert json.loads(metadata["architecture"]) == subnet["architecture"]
    assert metadata["supernet_digest"] == subnet["revisions"]["supernet"]
    assert metadata["bn_statistics"] == "table"


def test_the_same_request_gives_the_same_bytes(client: Client, device: dict[str, Any]) -> None:
    request = ("tiny", {"latency_ms": middle_budget_ms(client, device), "params": 5e6}, device["id"])
    first, second = (client.search(*request, seed=7) for _ in range(2))
    assert first["subnet"]["architecture"] == second["subnet"]["architecture"]
    assert client.model(first["subnet"]["id"]) == client.model(second["subnet"]["id"])


def test_an_infeasible_budget_is_told_with_what_would_do(client: Client, device: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        client.search("tiny", {"latency_ms": 1e-6}, device["id"])
    problem = caught.value.problem
    assert caught.value.status == 422
    assert problem["type"].endswith("/budget-infeasible")
    low = problem["feasible"]["latency_ms"][0]
    assert problem["relax"]["latency_ms"] >= low > 1e-6
    assert problem["nearest"]


def test_an_open_batch_is_given_on_request(client: Client, device: dict[str, Any]) -> None:
    subnet = client.search("tiny", {"latency_ms": middle_budget_ms(client, device)}, device["id"])["subnet"]
    session = ort.InferenceSession(client.model(subnet["id"], dynamic_batch=True))
    side = client.subnet(subnet["id"])["architecture"]["resolution"]
    (logits,) = session.run(None, {"image": np.zeros((3, 3, side, side), np.float32)})
    assert logits.shape == (3, 4)
