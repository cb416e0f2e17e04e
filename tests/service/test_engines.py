"""Every job engine passes this suite, on both databases: jobs end once, over crashes of any worker."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from bespoke.service.engines import runtime
from bespoke.service.engines.distributed import DistributedEngine
from bespoke.service.engines.embedded import EmbeddedEngine
from bespoke.service.engines.protocol import JobEngine, Json, Run
from bespoke.service.orm import Job
from bespoke.service.settings import Settings
from bespoke.service.store import Store
from tests.service.engine_process import STEPS, WORKFLOWS

PATIENCE_S = 240


@contextmanager
def worker(settings: Settings, **changed: Any) -> Iterator[subprocess.Popen[str]]:
    """A worker process that is ready; it is killed in the end unless it has ended."""
    command = [sys.executable, "-m", "tests.service.engine_process", json.dumps(settings.to_json() | changed)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(params=["embedded", "distributed"])
def engine(request: pytest.FixtureRequest, settings: Settings, store: Store) -> Iterator[JobEngine]:
    """An engine that has somewhere to run jobs."""
    if request.param == "embedded":
        embedded = EmbeddedEngine(settings, store, WORKFLOWS)
        embedded.start()
        yield embedded
        embedded.stop()
        return
    distributed = DistributedEngine(settings.database, store)
    distributed.start()
    with worker(settings, embedded_worker=False):
        yield distributed
    distributed.stop()


def until(holds: Callable[[], bool]) -> None:
    patience = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < patience, "it did not come to pass"
        time.sleep(0.05)


def ended(store: Store, job: Job) -> Job:
    until(lambda: store.job(job.id).state in ("succeeded", "failed", "cancelled"))
    return store.job(job.id)


def counting(store: Store, file: Path, step_s: float = 0.0) -> Job:
    return store.add_job("count", {"file": str(file), "step_s": step_s})


def lines(file: Path) -> list[tuple[int, int]]:
    """(step, process id) of each line."""
    pairs = (line.split() for line in file.read_text().splitlines()) if file.exists() else ()
    return [(int(number), int(pid)) for number, pid in pairs]


def test_a_job_runs_once_and_leaves_its_result(engine: JobEngine, store: Store, tmp_path: Path) -> None:
    job = counting(store, tmp_path / "lines")
    engine.submit(job)
    engine.submit(job)
    done = ended(store, job)
    assert (done.state, done.result, done.progress, done.error) == ("succeeded", {"steps": STEPS}, 1.0, None)
    assert done.started_at is not None
    assert done.finished_at is not None
    assert [number for number, _ in lines(tmp_path / "lines")] == list(range(STEPS))


def test_a_job_that_goes_wrong_fails_and_the_next_one_runs(
    engine: JobEngine, store: Store, tmp_path: Path
) -> None:
    wrong, right = store.add_job("fail", {"by": 0}), counting(store, tmp_path / "lines")
    engine.submit(wrong)
    engine.submit(right)
    assert ended(store, right).state == "succeeded"
    failed = store.job(wrong.id)
    assert (failed.state, failed.result) == ("failed", None)
    assert failed.error is not None


def test_a_cancelled_job_stops_at_its_next_step(engine: JobEngine, store: Store, tmp_path: Path) -> None:
    job, file = counting(store, tmp_path / "lines", step_s=0.5), tmp_path / "lines"
    engine.submit(job)
    until(lambda: len(lines(file)) > 0)
    store.cancel_job(job.id)
    engine.cancel(job.id)
    time.sleep(1.5)
    seen = len(lines(file))
    assert seen < STEPS
    assert store.job(job.id).state == "cancelled"
    # The queue is free again.
    other = counting(store, tmp_path / "others")
    engine.submit(other)
    assert ended(store, other).state == "succeeded"
    assert len(lines(file)) == seen


def test_a_worker_that_restarts_after_kill_goes_on_where_it_was(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "lines"
    with worker(settings) as first:
        job = counting(store, file, step_s=0.4)
        door = DistributedEngine(settings.database, store)
        door.start()
        door.submit(job)
        until(lambda: len(lines(file)) >= 3)
        first.kill()
        first.wait()
    with worker(settings) as second:
        done = ended(store, job)
    door.stop()
    steps = [number for number, _ in lines(file)]
    assert done.state == "succeeded"
    assert steps in ([0, 1, 2, 2, 3, 4, 5], [0, 1, 2, 3, 3, 4, 5])  # the step that was going on ran twice
    assert {pid for number, pid in lines(file) if number > 3} == {second.pid}


def test_another_worker_takes_over_the_job_of_a_dead_one(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "lines"
    door = DistributedEngine(settings.database, store)
    with worker(settings, worker_id="one") as one, worker(settings, worker_id="two") as two:
        job = counting(store, file, step_s=0.4)
        door.start()
        door.submit(job)
        until(lambda: len(lines(file)) >= 3)
        busy, other, name = (one, two, "two") if lines(file)[0][1] == one.pid else (two, one, "one")
        busy.kill()
        busy.wait()
        done = ended(store, job)
    door.stop()
    assert (done.state, done.worker_id) == ("succeeded", name)
    assert sorted({number for number, _ in lines(file)}) == list(range(STEPS))
    assert len(lines(file)) <= STEPS + 2
    assert lines(file)[-1] == (STEPS - 1, other.pid)


def test_a_job_that_never_reached_the_queue_is_found(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    job = counting(store, tmp_path / "lines")
    with worker(settings):
        assert ended(store, job).state == "succeeded"


def test_an_orderly_stop_leaves_the_job_to_the_next_start(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "lines"
    with worker(settings) as first:
        job = counting(store, file, step_s=0.4)
        door = DistributedEngine(settings.database, store)
        door.start()
        door.submit(job)
        until(lambda: len(lines(file)) >= 2)
        first.communicate("")
        assert first.returncode == 0
        assert store.job(job.id).state == "running"
    with worker(settings):
        assert ended(store, job).state == "succeeded"
    door.stop()
    assert len(lines(file)) <= STEPS + 1


def test_a_job_whose_end_cannot_be_written_is_not_left_running(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, late = counting(store, tmp_path / "lost"), counting(store, tmp_path / "late")
    refused: list[str] = []
    write = store.succeed_job

    def succeed(job_id: str, result: dict[str, Any]) -> None:
        refused.append(job_id)
        if job_id == lost.id or refused.count(job_id) == 1:
            raise OSError("the database is away")
        write(job_id, result)

    monkeypatch.setattr(store, "succeed_job", succeed)
    monkeypatch.setattr(runtime, "AGAIN_AFTER_S", (0.01,))
    quick = settings.model_copy(update={"heartbeat_s": 0.2, "worker_dead_s": 2.0})
    engine = EmbeddedEngine(quick, store, WORKFLOWS)
    engine.start()
    try:
        engine.submit(lost)
        engine.submit(late)
        assert ended(store, late).state == "succeeded"
        failed = ended(store, lost)
    finally:
        engine.stop()
    assert (failed.state, failed.error) == ("failed", {"detail": "the job engine ended it: ERROR"})
    assert refused.count(lost.id) == 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_step_that_finds_the_database_away_for_a_moment_is_done_again(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "AGAIN_AFTER_S", (0.01,))
    looks: list[str] = []

    def look(run: Run) -> Json:
        def step() -> Json:
            looks.append(run.job_id)
            if looks.count(run.job_id) <= run.arguments["away"]:
                raise OperationalError("SELECT 1", {}, OSError("the server restarts"))
            return {"looks": looks.count(run.job_id)}

        return run.step("look", step)

    engine = EmbeddedEngine(settings, store, {"look": look})
    engine.start()
    try:
        jobs = [store.add_job("look", {"away": away}) for away in (1, 2)]
        for job in jobs:
            engine.submit(job)
        moment, longer = (ended(store, job) for job in jobs)
    finally:
        engine.stop()
    assert (moment.state, moment.result) == ("succeeded", {"looks": 2})
    assert (longer.state, looks.count(longer.id)) == ("failed", 2)


def test_a_worker_lives_while_a_chore_takes_long_and_though_another_goes_wrong(
    settings: Settings, store: Store
) -> None:
    begun, over = threading.Event(), threading.Event()

    def wrong(_engine: JobEngine) -> None:
        raise OSError("the database is away")

    def long(_engine: JobEngine) -> None:
        begun.set()
        over.wait(PATIENCE_S)

    quick = settings.model_copy(update={"heartbeat_s": 0.1, "chores_s": 0.1})
    engine = EmbeddedEngine(quick, store, WORKFLOWS, (wrong, long))
    engine.start()
    try:
        assert begun.wait(10)
        store.remove_worker(quick.worker)
        until(lambda: quick.worker in store.live_workers(60))
    finally:
        over.set()
        engine.stop()


def test_embedded_workers_of_several_hosts_that_share_a_database_differ_in_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = Settings(database_url="postgresql+psycopg://db/bespoke")
    names = []
    for host in ("alpha", "beta", "alpha"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        names.append(shared.worker)
    assert names[0] == names[2] != names[1]
    assert shared.model_copy(update={"worker_id": "mine"}).worker == "mine"
