"""Data sets of a running service: cut into shards, measured for real, and never measured twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from bespoke.cli import app as command_line
from bespoke.cli.local import LocalService, local_service
from bespoke.client import Client
from bespoke.predictors.card import hold_out, top1_measure
from bespoke.predictors.dataset import DATASET, read_dataset
from bespoke.service.app import create_app
from bespoke.service.auth import create_key
from bespoke.service.datasets import start
from bespoke.service.engines.distributed import DistributedEngine
from bespoke.service.orm import open_database
from bespoke.service.settings import Settings
from bespoke.service.store import Store
from bespoke.service.workplace import open_workplace
from bespoke.supernet import zoo
from bespoke.supernet.architecture import read_architecture
from bespoke.supernet.errors import Conflict
from bespoke.supernet.genomes import stratified
from bespoke.supernet.training.data import read_split
from bespoke.supernet.training.evaluation import LabelledImages
from tests.service.api import Api, problem_of

PATIENCE_S = 240
CLASSES = ("ant", "bee", "cat", "dog")
SIDE, DRAWN, UNSURE = 48, 32, 4
REQUEST = {"subnets": 40, "shards": 2, "seed": 0, "active": None, "views": 1, "side": SIDE, "fit": False}


@pytest.fixture
def own_zoo(random_zoo: Path, tmp_path: Path) -> Path:
    """A zoo that a test may change, whose supernet knows its classes."""
    root = Path(shutil.copytree(random_zoo, tmp_path / "zoo"))
    (root / "tiny" / "card.json").write_text(json.dumps({"classes": CLASSES}))
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of training images, of each class some."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        folder = tmp_path / "data" / "train" / name
        folder.mkdir(parents=True)
        for number in range(20):
            Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "data"


def until(holds: Callable[[], bool]) -> None:
    patience = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < patience, "it did not come to pass"
        time.sleep(0.05)


# Measured for real


def test_a_killed_service_goes_on_behind_the_last_subnet_and_serves_what_it_fits(
    database_url: str, own_zoo: Path, images: Path, tmp_path: Path
) -> None:
    var, entry = tmp_path / "var", zoo.entry("tiny", own_zoo)
    settings = {"BESPOKE_ZOO": own_zoo, "BESPOKE_DATA": images, "BESPOKE_DATABASE_URL": database_url}
    # No chore builds archives here: what is built is built because of the new predictor.
    settings |= {"BESPOKE_ARCHIVES": "true", "BESPOKE_CHORES_S": 1e6}
    environment = {name: str(value) for name, value in settings.items()}
    with local_service(var, environment) as service:
        key = service.key(("search", "device:admin"), "test")
        made = told(service, key, "collect", "--subnets", DRAWN + UNSURE, "--shards", 2, "--side", SIDE,
                    "--unsure", UNSURE, "--rounds", 1)  # fmt: skip
        client = Client(service.url, key)
        until(lambda: client.dataset("tiny", made["id"])["progress"]["done"] >= 5)
        kill(service)
    store = Store(open_database(database_url))
    before = {row.position: row.measured_at for row in store.dataset_subnets(made["id"]) if row.measured_at}
    assert 5 <= len(before) < DRAWN
    with local_service(var, environment) as service:
        client = Client(service.url, key)
        old = predictor(client)
        until(lambda: client.dataset("tiny", made["id"])["state"] not in ("queued", "running"))
        assert [job.arguments["supernet"] for job in store.unfinished_jobs("grow-archive")] == ["tiny"]
        (done,) = told(service, key, "datasets", "--out", tmp_path / "set.jsonl")["datasets"]
        assert predictor(client) == done["predictor"]["predictor_revision"] != old
    assert (done["state"], done["progress"]["done"], done["error"]) == ("succeeded", DRAWN + UNSURE, None)
    assert [(one["round"], one["number"], one["total"]) for one in done["shards"]] == [
        (0, 0, DRAWN / 2), (0, 1, DRAWN / 2), (1, 0, UNSURE / 2), (1, 1, UNSURE / 2),
    ]  # fmt: skip
    rows = store.dataset_subnets(made["id"])
    # Nothing is lost, and nothing was measured again.
    assert {row.position: row.measured_at for row in rows if row.position in before} == before
    assert len({row.measured_at for row in rows} - {None}) == len(rows) == DRAWN + UNSURE
    found = read_dataset(tmp_path / "set.jsonl", entry.space)
    assert found.architectures[:DRAWN] == stratified(entry.space, DRAWN, 0)
    assert found.rounds == (0,) * DRAWN + (1,) * UNSURE
    assert (entry.folder / DATASET).read_bytes() == (tmp_path / "set.jsonl").read_bytes()
    _, held_out = hold_out(read_split(images, "train", SIDE), 0)
    measured = top1_measure(entry, LabelledImages(held_out))(
        read_architecture(entry.space, rows[7].architecture)
    )
    assert (rows[7].top1, rows[7].smooth, rows[7].images) == (measured.top1, measured.smooth, len(held_out))
    store.engine.dispose()


def told(service: LocalService, key: str, command: str, *arguments: object) -> Any:
    """What a command of ``bespoke zoo`` says."""
    access = ("--server", service.url, "--key", key, "--json")
    words = ["zoo", command, "tiny", *map(str, arguments), *access]
    result = CliRunner().invoke(command_line, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def kill(service: LocalService) -> None:
    """End a service without a warning, and wait until its children have ended with it."""
    children = psutil.Process(service.pid).children(recursive=True)
    os.kill(service.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def predictor(client: Client) -> str:
    """The revision of the predictor that answers; a search with an effort of its own asks for no archive."""
    found = client.search("tiny", {"macs": 1.1e7}, effort={"population": 8, "generations": 1})
    return str(found["subnet"]["revisions"]["predictor"])


# What can be asked for


@pytest.fixture
def api(database_url: str, own_zoo: Path, images: Path, tmp_path: Path) -> Iterator[Api]:
    """A service without a worker: what is asked of it stays queued."""
    settings = Settings(
        var=tmp_path / "var", database_url=database_url, zoo=own_zoo, data=images, embedded_worker=False
    )
    app = create_app(settings)
    with TestClient(app) as http:
        store = app.state.service.place.store
        scopes = ["search", "device:admin", "agent"]
        keys = {"all": create_key(store, scopes).text, "search": create_key(store, ["search"]).text}
        yield Api(http, keys, own_zoo)


def post(api: Api, scope: str = "all", **body: Any) -> Any:
    return api.request("POST", "/v1/supernets/tiny/datasets", scope, json={"side": SIDE, **body})


def test_what_is_asked_for_again_is_taken_up(api: Api) -> None:
    first = post(api, subnets=40)
    assert first.status_code == 202
    here = first.headers["Location"]
    told = first.json()
    assert (told["state"], told["progress"]) == ("queued", {"done": 0, "total": 40, "fraction": 0})
    assert told["request"] == {**REQUEST, "shards": 1, "fit": True}
    assert post(api, subnets=40, shards=3).json() == told
    other = post(api, subnets=40, seed=1).json()
    assert [one["id"] for one in api.client.datasets("tiny")] == [other["id"], told["id"]]
    for _ in range(2):
        cancelled = api.request("POST", f"{here}/cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    again = post(api, subnets=40, shards=3).json()
    assert (again["id"], again["state"], again["request"]["shards"]) == (told["id"], "queued", 3)
    assert again["job_id"] != told["job_id"]
    assert api.client.job(again["job_id"])["state"] == "queued"


def test_what_cannot_be_measured_is_refused_at_once(api: Api) -> None:
    problem_of(post(api, "search"), 403, "forbidden")
    refused = problem_of(post(api, subnets=40, active={"subnets": 20}), 422, "request-invalid")
    assert "30" in refused["detail"]
    problem_of(post(api, subnets=10), 422, "request-invalid")
    shutil.copytree(api.zoo / "tiny", api.zoo / "other")
    made = post(api).json()["id"]
    problem_of(api.request("GET", f"/v1/supernets/other/datasets/{made}"), 404, "not-found")
    problem_of(api.request("GET", "/v1/supernets/none/datasets"), 404, "supernet-unknown")
    (api.zoo / "tiny" / "card.json").write_text(json.dumps({"classes": ["ant", "bee"]}))
    assert "BESPOKE_DATA" in problem_of(post(api), 409, "conflict")["detail"]
    (api.zoo / "other" / zoo.STATISTICS).unlink()
    unmeasurable = api.request("POST", "/v1/supernets/other/datasets", json={})
    assert "calibrate" in problem_of(unmeasurable, 409, "statistics-missing")["detail"]


# How it is kept


def test_a_shard_is_opened_once_and_again_only_for_what_it_lacks(store: Store) -> None:
    row, job = store.start_dataset("tiny", "digest", REQUEST)
    assert job is not None
    for _ in range(2):
        store.add_round(row.id, 0, 2, [{"number": number} for number in range(5)])
    first = store.open_shards(row.id, 0, job.id)
    assert [one.arguments["shard"] for one in first] == [0, 1]
    assert [one.id for one in store.open_shards(row.id, 0, job.id)] == [one.id for one in first]
    for position in (0, 1, 2, 4):
        store.keep_measured(row.id, position, 0.5, 0.4, 10)
    assert [(one.done, one.total, one.over) for one in store.shards(row.id)] == [(3, 3, False), (1, 2, False)]
    for one in first:
        store.fail_job(one.id, {"detail": "its worker was unplugged"})
    (again,) = store.open_shards(row.id, 0, job.id)
    assert (again.arguments["shard"], again.id in {one.id for one in first}) == (1, False)
    assert [one.job.id for one in store.shards(row.id)] == [first[0].id, again.id]
    left = [one for one in store.dataset_subnets(row.id) if one.measured_at is None]
    assert [(one.position, one.architecture, one.top1) for one in left] == [(3, {"number": 3}, None)]
    store.add_round(row.id, 1, 2, [{"number": 5}])
    assert [(one.position, one.round, one.shard) for one in store.dataset_subnets(row.id)][-1] == (5, 1, 0)


def test_a_data_set_that_was_stopped_opens_no_shard(store: Store) -> None:
    row, job = store.start_dataset("tiny", "digest", REQUEST)
    assert job is not None
    store.add_round(row.id, 0, 2, [{}])
    store.cancel_job(job.id)
    assert store.open_shards(row.id, 0, job.id) == []
    _, later = store.start_dataset("tiny", "digest", REQUEST)
    assert later is not None
    assert store.open_shards(row.id, 0, job.id) == []
    assert len(store.open_shards(row.id, 0, later.id)) == 1


def test_what_is_measured_is_fitted_later_without_measuring_it_again(store: Store) -> None:
    row, job = store.start_dataset("tiny", "digest", REQUEST)
    assert job is not None
    store.succeed_job(job.id, {})
    assert store.start_dataset("tiny", "digest", REQUEST)[1] is None
    same, fitting = store.start_dataset("tiny", "digest", {**REQUEST, "fit": True})
    assert fitting is not None
    assert (same.id, same.request["fit"]) == (row.id, True)
    store.finish_dataset(row.id, {"predictor_revision": "new"})
    store.succeed_job(fitting.id, {})
    assert store.start_dataset("tiny", "digest", {**REQUEST, "fit": True})[1] is None
    for name, digest, request in (
        ("tiny", "digest", {**REQUEST, "views": 2}), ("tiny", "other", REQUEST), ("big", "digest", REQUEST),
    ):  # fmt: skip
        assert store.start_dataset(name, digest, request)[0].id != row.id


def test_no_predictor_is_written_into_the_bundled_zoo(images: Path, tmp_path: Path) -> None:
    place = open_workplace(Settings(var=tmp_path / "var", data=images))
    engine = DistributedEngine(place.settings.database, place.store)
    with pytest.raises(Conflict, match="BESPOKE_ZOO"):
        start(place, engine, zoo.names()[0], {**REQUEST, "fit": True})
    place.store.engine.dispose()
