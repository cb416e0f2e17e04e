"""Data sets of a running service: cut into shards, measured for real, and never measured twice."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from bespoke.cli import app as command_line
from bespoke.cli import datasets as commands
from bespoke.client import Client
from bespoke.predictors.active import choose_round
from bespoke.predictors.card import top1_measure
from bespoke.predictors.dataset import DATASET, Measurement, read_dataset, set_aside
from bespoke.predictors.held_out import hold_out, image_fields
from bespoke.service import collecting
from bespoke.service.app import create_app
from bespoke.service.auth import create_key
from bespoke.service.catalogue import Catalogue
from bespoke.service.collecting import draw_round, measure_shard
from bespoke.service.datasets import collect_dataset, images_folder, measured_so_far, start
from bespoke.service.engines.distributed import DistributedEngine
from bespoke.service.engines.protocol import Run
from bespoke.service.orm import Job
from bespoke.service.settings import Settings
from bespoke.service.store import EntryModel, MeasuredEntry, Store
from bespoke.service.store import datasets as store_datasets
from bespoke.service.store.jobs import new_job
from bespoke.service.tasks import measure_top1
from bespoke.service.workplace import Workplace, open_workplace
from bespoke.supernet import zoo
from bespoke.supernet.architecture import Architecture, read_architecture
from bespoke.supernet.errors import BespokeError, Conflict, FileInvalid, TaskFailed
from bespoke.supernet.genomes import smallest, stratified
from bespoke.supernet.training import data
from bespoke.supernet.training.data import ImageSet, read_split
from bespoke.supernet.training.evaluation import LabelledImages
from tests.service.api import Api, problem_of

PATIENCE_S = 240
CLASSES = ("ant", "bee", "cat", "dog")
SIDE, SUBNETS = 48, 30
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


# A service


@pytest.fixture
def api(database_url: str, own_zoo: Path, images: Path, tmp_path: Path) -> Iterator[Api]:
    """A service without a worker: what is asked of it stays queued until a test starts one."""
    settings = Settings(
        var=tmp_path / "var",
        database_url=database_url,
        zoo=own_zoo,
        data=images,
        embedded_worker=False,
        archives=True,
    )
    app = create_app(settings)
    with TestClient(app) as http:
        store = app.state.service.place.store
        scopes = ["search", "device:admin", "agent"]
        keys = {"all": create_key(store, scopes).text, "search": create_key(store, ["search"]).text}
        yield Api(http, keys, own_zoo)


@pytest.fixture
def place(api: Api) -> Workplace:
    """What the service works with."""
    app: Any = api.http.app
    found: Workplace = app.state.service.place
    return found


def post(api: Api, scope: str = "all", **body: Any) -> Any:
    return api.request("POST", "/v1/supernets/tiny/datasets", scope, json={"side": SIDE, **body})


# Measured for real


@contextmanager
def worker(place: Workplace) -> Iterator[subprocess.Popen[str]]:
    """A worker process that is ready; in the end it is killed, as its children are with it."""
    command = [sys.executable, "-m", "tests.service.dataset_process"]
    own = place.settings.to_json() | {"worker_id": "one"}
    process = subprocess.Popen(
        [*command, json.dumps(own)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_killed_worker_goes_on_behind_the_last_subnet_and_what_it_fits_is_served(
    api: Api, place: Workplace, images: Path
) -> None:
    made, store = post(api, subnets=SUBNETS, shards=2).json()["id"], place.store
    with worker(place):
        until(lambda: api.client.dataset("tiny", made)["progress"]["done"] >= 3)
    before = {row.position: row.measured_at for row in store.dataset_subnets(made) if row.measured_at}
    assert 3 <= len(before) < SUBNETS / 2  # in the middle of the first shard
    old = place.catalogue.predictor("tiny").revision
    with worker(place):
        until(lambda: api.client.dataset("tiny", made)["state"] not in ("queued", "running"))
        assert [job.arguments["supernet"] for job in store.unfinished_jobs("grow-archive")] == ["tiny"]
    done = api.client.dataset("tiny", made)
    assert (done["state"], done["progress"]["done"], done["error"]) == ("succeeded", SUBNETS, None)
    assert [(one["number"], one["done"], one["state"], one["worker"]) for one in done["shards"]] == [
        (0, SUBNETS / 2, "succeeded", "one"), (1, SUBNETS / 2, "succeeded", "one"),
    ]  # fmt: skip
    assert predictor(api.client) == done["predictor"]["predictor_revision"] != old
    # Nothing is lost, and nothing was measured again.
    rows, entry = store.dataset_subnets(made), zoo.entry("tiny", api.zoo)
    assert {row.position: row.measured_at for row in rows if row.position in before} == before
    assert len({row.measured_at for row in rows} - {None}) == len(rows) == SUBNETS
    lines = api.client.export_dataset("tiny", made)
    assert (entry.folder / DATASET).read_bytes() == lines
    assert read_dataset(entry.folder / DATASET, entry.space).architectures == stratified(
        entry.space, SUBNETS, 0
    )
    _, held_out = hold_out(read_split(images, "train", SIDE), 0)
    assert api.client.supernet("tiny")["card"]["predictor_images"] == len(held_out)
    measure = top1_measure(entry, LabelledImages(held_out))
    measured = measure(read_architecture(entry.space, rows[7].architecture))
    assert (rows[7].top1, rows[7].smooth) == (measured.top1, measured.smooth)


def test_a_shard_measures_on_what_was_held_out_from_training_alone(
    place: Workplace, images: Path, own_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.nice", lambda _: None)
    every = read_split(images, "train", 40)
    card = {"classes": CLASSES, **image_fields(images, every, hold_out(every, 7)[1], 7)}
    (own_zoo / "tiny" / "card.json").write_text(json.dumps(card))
    row, _ = place.store.start_dataset("tiny", place.catalogue.entry("tiny").digest, REQUEST)
    draw_round(place, {"dataset_id": row.id, "round": 0})
    seen = list[ImageSet]()

    def stop(entry: zoo.ZooEntry, found: LabelledImages, **_: Any) -> None:
        seen.append(found.images)
        raise TimeoutError

    monkeypatch.setattr("bespoke.predictors.card.top1_measure", stop)
    shard = {"dataset_id": row.id, "round": 0, "shard": 0}
    with pytest.raises(TimeoutError):
        measure_shard(place, shard)
    assert seen[0].digest == hold_out(every, 7)[1].digest  # of the card's seed and side
    (images / "train" / "ant" / "3.png").unlink()
    with pytest.raises(FileInvalid, match="not the training images of supernet 'tiny'"):
        measure_shard(place, shard)


@pytest.mark.parametrize(
    ("card", "body", "seed", "side"),
    [
        ({"side": 40, "seed": 7}, {}, 7, 40),
        ({"side": 40, "seed": 7, "subnets_seed": 9}, {}, 9, 40),
        ({"side": 40, "seed": 7}, {"seed": 3, "side": 64}, 3, 40),  # the images are those of the training
        ({}, {}, 0, 160),
        ({}, {"side": 64}, 0, 64),
    ],
)
def test_what_a_request_leaves_open_is_as_in_training(
    api: Api, own_zoo: Path, card: dict[str, Any], body: dict[str, Any], seed: int, side: int
) -> None:
    (own_zoo / "tiny" / "card.json").write_text(json.dumps({"classes": CLASSES} | card))
    path = "/v1/supernets/tiny/datasets"
    made = api.request("POST", path, "all", json={"fit": False, **body}).json()
    assert (made["request"]["seed"], made["request"]["side"]) == (seed, side)
    again = api.request("POST", path, "all", json={"seed": seed, "side": side, "fit": False}).json()
    assert again["id"] == made["id"]


def counted(monkeypatch: pytest.MonkeyPatch, events: list[str]) -> None:
    """Have shards measure nothing, and tell each subnet that they would have."""
    monkeypatch.setattr("os.nice", lambda _: None)

    def measure(architecture: Architecture) -> Measurement:
        events.append("measured")
        return Measurement(0.75, 0.5)

    monkeypatch.setattr("bespoke.predictors.card.top1_measure", lambda *_, **__: measure)


def test_a_larger_data_set_measures_only_what_no_smaller_one_has(
    place: Workplace, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, digest, measured = place.store, place.catalogue.entry("tiny").digest, list[str]()
    counted(monkeypatch, measured)
    held_out = len(hold_out(read_split(images, "train", SIDE), 0)[1])
    smaller = (
        (10, {}, held_out, 0.25),
        (30, {"subnets": 31}, held_out - 1, 0.5),
        (30, {"views": 2}, held_out, 0.5),
    )
    for subnets, other, seen, top1 in smaller:
        small, _ = store.start_dataset("tiny", digest, {**REQUEST, "subnets": 30, **other})
        draw_round(place, {"dataset_id": small.id, "round": 0})
        for row in store.dataset_subnets(small.id)[:subnets]:
            store.keep_measured(small.id, row.position, top1, 0.125, seen)
    large, _ = store.start_dataset("tiny", digest, REQUEST)
    draw_round(place, {"dataset_id": large.id, "round": 0})
    shard = {"dataset_id": large.id, "round": 0, "shard": 0}
    for left in (15, 0):
        assert measure_shard(place, shard) == {"measured": left}
    rows = [row for row in store.dataset_subnets(large.id) if row.shard == 0]
    assert [(row.top1, row.smooth, row.images) for row in rows] == (
        [(0.25, 0.125, held_out)] * 5 + [(0.75, 0.5, held_out)] * 15
    )
    assert len(measured) == 15
    assert set(measured_so_far(place, large).supernets) == {digest}


def test_a_shard_begins_no_subnet_while_a_device_is_measured(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, events = place.store, list[str]()
    row, _ = store.start_dataset("tiny", place.catalogue.entry("tiny").digest, REQUEST)
    draw_round(place, {"dataset_id": row.id, "round": 0})
    counted(monkeypatch, events)
    device, _ = store.add_device("board", {}, "digest")
    campaign, _ = store.add_campaign(device.id, "tiny", "quick")
    store.add_artifact("sha", 1, "application/onnx")
    store.add_entries(campaign.id, [EntryModel("op", "op", "sha")])
    store.start_measuring(campaign.id, [("op", 0)])
    leased = store.lease(device.id, "agent", 1, 60.0)
    assert leased is not None

    def sleep(_: float) -> None:
        """First the lease is handed in, then no other one is taken for long."""
        if events:
            monkeypatch.setattr(collecting, "BETWEEN_LEASES_S", 0.0)
        else:
            store.report(leased[0].id, [MeasuredEntry("op", 0, (1.0,), 1.0, None)])
        events.append("slept")

    monkeypatch.setattr(collecting.time, "sleep", sleep)
    assert measure_shard(place, {"dataset_id": row.id, "round": 0, "shard": 0}) == {"measured": 20}
    assert events == ["slept"] * 2 + ["measured"] * 20


def test_top1_is_measured_at_the_side_of_the_training_on_images_that_are_decoded_once(
    own_zoo: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "train").rename(images / "val")
    (own_zoo / "tiny" / "card.json").write_text(json.dumps({"classes": CLASSES, "side": 40}))
    entry, sides = zoo.entry("tiny", own_zoo), list[int]()
    architecture = smallest(entry.space).to_json()
    subnet = SimpleNamespace(id="a", supernet="tiny", supernet_digest=entry.digest, architecture=architecture)
    store: Any = SimpleNamespace(subnet=lambda _: subnet)
    place: Any = SimpleNamespace(
        store=store,
        catalogue=Catalogue(store, own_zoo),
        settings=Settings(var=tmp_path / "var", data=images, child_threads=1),
    )

    def top1(*given: Any) -> float:
        sides.append(given[3].images.side)
        return 0.5

    monkeypatch.setattr("bespoke.supernet.training.evaluation.subnet_top1", top1)
    assert measure_top1(place, {"subnet_ids": ["a"]})["top1"] == {"a": 0.5}
    monkeypatch.setattr(data, "decode_into", lambda *_: pytest.fail("decoded again"))
    measure_top1(place, {"subnet_ids": ["a"]})
    assert sides == [40, 40]
    subnet.supernet_digest = "of what it was trained to be before"
    with pytest.raises(BespokeError, match="has changed"):
        measure_top1(place, {"subnet_ids": ["a"]})


def predictor(client: Client) -> str:
    """The revision of the predictor that answers; a search with an effort of its own asks for no archive."""
    found = client.search("tiny", {"macs": 1.1e7}, effort={"population": 8, "generations": 1})
    return str(found["subnet"]["revisions"]["predictor"])


def test_a_round_is_chosen_by_what_was_measured_before_it(place: Workplace) -> None:
    entry = place.catalogue.entry("tiny")
    request = {**REQUEST, "active": {"subnets": 5, "rounds": 2}}
    row, _ = place.store.start_dataset("tiny", entry.digest, request)
    for number in (0, 1):
        for _ in range(2):  # a step that is done again draws nothing more
            draw_round(place, {"dataset_id": row.id, "round": number})
        for one in place.store.dataset_subnets(row.id):
            top1 = 0.5 + one.architecture["resolution"] / 1000
            place.store.keep_measured(row.id, one.position, top1, None, 10)
    draw_round(place, {"dataset_id": row.id, "round": 2})
    rows = place.store.dataset_subnets(row.id)
    assert [one.round for one in rows] == [0] * 35 + [1] * 2 + [2] * 3
    assert [one.shard for one in rows[34:]] == [0, 0, 1, 0, 1, 0]
    chosen = [read_architecture(entry.space, one.architecture) for one in rows]
    assert len(set(chosen)) == 40
    assert chosen[:35] == list(stratified(entry.space, 35, 0))
    known = measured_so_far(place, row)
    seen = known.architectures[set_aside(35) : 35], known.targets()[set_aside(35) : 35]
    taken = frozenset(chosen[:35])
    assert tuple(chosen[35:37]) == choose_round(entry.space, *seen, 2, [0, 1], taken)


# What can be asked for


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


def test_what_cannot_be_measured_is_refused_at_once(api: Api, images: Path) -> None:
    problem_of(post(api, "search"), 403, "forbidden")
    refused = problem_of(post(api, subnets=40, active={"subnets": 20}), 422, "request-invalid")
    assert "30" in refused["detail"]
    problem_of(post(api, subnets=10), 422, "request-invalid")
    shutil.copytree(api.zoo / "tiny", api.zoo / "other")
    made = post(api).json()["id"]
    (images / "train").rename(images / "val")  # validation images alone are none to fit on
    problem_of(post(api, seed=1), 409, "conflict")
    problem_of(api.request("GET", f"/v1/supernets/other/datasets/{made}"), 404, "not-found")
    problem_of(api.request("GET", "/v1/supernets/none/datasets"), 404, "supernet-unknown")
    (api.zoo / "tiny" / "card.json").write_text(json.dumps({"classes": ["ant", "bee"]}))
    assert "BESPOKE_DATA" in problem_of(post(api), 409, "conflict")["detail"]
    (api.zoo / "other" / zoo.STATISTICS).unlink()
    unmeasurable = api.request("POST", "/v1/supernets/other/datasets", json={})
    assert "calibrate" in problem_of(unmeasurable, 409, "statistics-missing")["detail"]


def test_a_shard_that_fails_ends_the_data_set_and_stops_the_others(place: Workplace) -> None:
    row, job = place.store.start_dataset("tiny", place.catalogue.entry("tiny").digest, REQUEST)
    assert job is not None
    place.store.start_job(job.id, "one")
    cancelled: list[str] = []

    class Failing:
        """An engine that fails at the first shard, and never comes to the second one."""

        def submit(self, job: Job) -> None:
            if job.arguments["shard"] == 0:
                place.store.fail_job(job.id, {"detail": "its disk is full"})

        def cancel(self, job_id: str) -> None:
            cancelled.append(job_id)

    run = Run(job.id, job.arguments, lambda _, work: work(), lambda: False, lambda _: None, Failing())  # type: ignore[arg-type]
    with pytest.raises(TaskFailed, match="shard 0 of round 0: its disk is full"):
        collect_dataset(place, run)
    first, second = place.store.shards(row.id)
    assert (first.job.state, second.job.state) == ("failed", "cancelled")
    assert cancelled == [second.job.id]


def test_the_command_line_asks_for_every_field(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "Client", lambda _server, key: Client(http=api.http, key=key))

    def run(command: str, *arguments: object) -> str:
        words = ["zoo", command, "tiny", *map(str, arguments), "--key", api.keys["all"]]
        result = CliRunner().invoke(command_line, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    options = ("--subnets", 50, "--shards", 3, "--seed", 7, "--unsure", 10, "--rounds", 1, "--views", 2)
    made = json.loads(run("collect", *options, "--side", 96, "--no-fit", "--json"))
    assert made["request"] == {
        "subnets": 50, "shards": 3, "seed": 7, "active": {"subnets": 10, "rounds": 1},
        "views": 2, "side": 96, "fit": False,
    }  # fmt: skip
    line = f"{made['id']}  queued     0/50 subnets\n"
    assert run("collect", *options, "--side", 96, "--no-fit") == line
    assert run("datasets", "--out", tmp_path / "set.jsonl") == line
    assert (tmp_path / "set.jsonl").read_text() == ""
    assert api.client.cancel_dataset("tiny", made["id"])["state"] == "cancelled"
    (listed,) = json.loads(run("datasets", "--json"))["datasets"]
    assert (listed["id"], listed["state"]) == (made["id"], "cancelled")


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


def test_the_same_data_set_asked_for_twice_at_once_is_started_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)

    def slow_job(*arguments: Any) -> Job:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # Until the other one is here as well, had it not to wait.
        return new_job(*arguments)

    monkeypatch.setattr(store_datasets, "new_job", slow_job)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(store.start_dataset, "tiny", "digest", REQUEST) for _ in range(2)]
    rows, jobs = zip(*(one.result() for one in asked), strict=True)
    assert rows[0].id == rows[1].id
    assert jobs[0].id == jobs[1].id
    assert len(store.datasets("tiny")) == 1


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


def test_files_of_cifar_are_found_by_the_classes_that_they_name(own_zoo: Path, tmp_path: Path) -> None:
    place = open_workplace(Settings(var=tmp_path / "var", zoo=own_zoo, data=tmp_path))
    entry = place.catalogue.entry("tiny")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASSES)}))
    assert images_folder(place, entry) == tmp_path
    folder.rename(tmp_path / "tiny-cifar")
    assert images_folder(place, entry) == tmp_path / "tiny-cifar"
    for content in (pickle.dumps({"label_names": ["plane"]}), b"cut off"):
        (tmp_path / "tiny-cifar" / "batches.meta").write_bytes(content)
        assert images_folder(place, entry) is None
    place.store.engine.dispose()


def test_hidden_folders_and_a_validation_split_hide_no_training_images(
    own_zoo: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = open_workplace(Settings(var=tmp_path / "var", zoo=own_zoo, data=images))
    entry = place.catalogue.entry("tiny")
    (images / "train" / ".thumbnails").mkdir()
    assert images_folder(place, entry) == images
    (images / "train").rename(images / "mixed")
    (images / "mixed" / "val" / CLASSES[0]).mkdir(parents=True)
    assert images_folder(place, entry) == images / "mixed"
    (images / "lost+found").mkdir()
    is_dir = Path.is_dir

    def refused(path: Path) -> bool:
        if path.parent.name == "lost+found":
            raise PermissionError(path)
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refused)
    assert images_folder(place, entry) == images / "mixed"
    place.store.engine.dispose()
