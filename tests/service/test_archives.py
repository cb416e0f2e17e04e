"""Archives of a running service, on both databases: what they answer, and that it can be repeated."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from bespoke.search import Effort, Problem, search
from bespoke.search import archive as growing
from bespoke.service import archive, archiving, orm
from bespoke.service.app import create_app
from bespoke.service.artifacts import open_artifacts
from bespoke.service.auth import create_key
from bespoke.service.catalogue import Catalogue
from bespoke.service.dependencies import Service
from bespoke.service.improving import improved_by
from bespoke.service.migrations import upgrade
from bespoke.service.questions import ground, problem, unlimited
from bespoke.service.schemas import SearchRequest
from bespoke.service.settings import Settings
from bespoke.service.store import Store
from bespoke.service.workplace import Workplace
from bespoke.supernet import zoo
from tests.conftest import random_predictor
from tests.service.api import Api
from tests.service.tables import profiled

PATIENCE_S = 240
QUICK = {"population": 8, "generations": 1}
MORE = {"population": 24, "generations": 24}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, random_zoo: Path
) -> Iterator[tuple[Api, Service]]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgresql")()
    var = tmp_path_factory.mktemp("var")
    settings = Settings(var=var, database_url=url, zoo=random_zoo, archives=True, chores_s=1e6)
    app = create_app(settings)
    with TestClient(app) as http:
        key = create_key(app.state.service.place.store, ["search", "device:admin"]).text
        yield Api(http, {"all": key}, random_zoo), app.state.service
    shutil.rmtree(var)


@pytest.fixture(scope="module")
def api(service: tuple[Api, Service]) -> Api:
    return service[0]


@pytest.fixture(scope="module")
def searched(api: Api) -> dict[str, Any]:
    """What was answered before there was an archive."""
    return ask(api, constraints={"macs": 1.1e7})


@pytest.fixture(scope="module")
def board(
    api: Api, service: tuple[Api, Service], searched: dict[str, Any]
) -> tuple[str, tuple[float, float]]:
    """A device with a table, whose archive is there, and the range of its latencies."""
    device = str(profiled(api.client, "board", zoo.entry("tiny", api.zoo).space)["id"])
    low, high = api.client.supernet("tiny")["feasible"][device]["latency_ms"]
    until(lambda: not service[1].place.store.unfinished_jobs("grow-archive"))
    return device, (low, high)


def ask(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.request("POST", "/v1/searches", json={"supernet": "tiny", **body})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def until(holds: Callable[[], Any]) -> None:
    patience = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < patience, "it did not come to pass"
        time.sleep(0.1)


def posed(service: tuple[Api, Service], device: str, budget_ms: float) -> Problem:
    """What a plain request asks, for a search that knows of no archive."""
    request = SearchRequest(supernet="tiny", device=device, constraints={"latency_ms": budget_ms})
    place = service[1].place
    return problem(place, ground(place, request), request)


def test_a_table_that_lands_brings_an_archive_which_answers(
    api: Api, service: tuple[Api, Service], board: tuple[str, tuple[float, float]]
) -> None:
    device, (low, high) = board
    for share in (0.2, 0.5, 0.8):
        budget = low + share * (high - low)
        found = ask(api, device=device, constraints={"latency_ms": budget})
        assert found["archive"]
        assert found["subnet"]["predicted"]["latency_ms"] <= budget
        own = search(replace(posed(service, device, budget), effort=Effort(8, 1)))
        assert found["subnet"]["predicted"]["top1"] >= own.best.top1
        assert api.client.search_result(found["id"]) == found


def test_the_same_request_is_given_the_same_answer(api: Api, board: tuple[str, tuple[float, float]]) -> None:
    device, (low, high) = board
    body: dict[str, Any] = {"device": device, "constraints": {"latency_ms": (low + high) / 2}, "seed": 4}
    first = ask(api, **body)
    assert ask(api, **body) == first
    assert ask(api, **first["request"])["subnet"] == first["subnet"]
    assert ask(api, **{**body, "seed": 5})["id"] != first["id"]
    assert ask(api, **body, effort={"population": 8})["id"] != first["id"]


def test_what_was_looked_up_is_looked_up_again_by_a_replay(
    api: Api,
    service: tuple[Api, Service],
    board: tuple[str, tuple[float, float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also once the archive has grown: every generation is kept."""
    device, (low, high) = board
    found = ask(api, device=device, constraints={"latency_ms": low + 0.37 * (high - low)})
    place = service[1].place
    row = place.store.serving_state(device, "tiny")
    assert row is not None
    entry, predictor = place.catalogue.entry("tiny"), place.catalogue.predictor("tiny")
    key = archiving.key_of(entry.digest, row.revision, predictor.revision)
    assert place.store.newest_archive(key) == (0, False)
    # In this process and with little effort: the job of its own would only take the time that nobody wants.
    monkeypatch.setattr(os, "nice", lambda _: 0)
    monkeypatch.setattr(growing, "FRONTS", {"latency_ms": 0.25})
    monkeypatch.setattr(growing, "LOOKED_UP", {"latency_ms": 2})
    monkeypatch.setattr(archiving, "LEAST_GAIN", 1.0)
    grown = archiving.grow_archive(place, {"supernet": "tiny", "device_id": device})
    assert grown["settled"]
    assert place.store.newest_archive(key) == (0, True)
    monkeypatch.setattr(archiving, "LEAST_GAIN", -1.0)
    grown = archiving.grow_archive(place, {"supernet": "tiny", "device_id": device})
    assert grown["generation"] == 1
    assert place.store.newest_archive(key) == (1, False)
    time.sleep(archive.FRESH_S)
    other = ask(api, device=device, constraints={"latency_ms": low + 0.38 * (high - low)})
    assert other["archive"] not in (None, found["archive"])
    replayed = api.request("POST", f"/v1/searches/{found['id']}/replay")
    assert replayed.status_code == 200, replayed.text
    assert replayed.json()["subnet"] == found["subnet"]


def test_an_archive_without_a_device_is_built_once_it_is_missed(
    api: Api, service: tuple[Api, Service], searched: dict[str, Any]
) -> None:
    assert searched["archive"] is None
    place, engine = service[1].place, service[1].engine
    until(lambda: not place.store.unfinished_jobs("grow-archive"))
    time.sleep(archive.FRESH_S)
    assert ask(api, constraints={"macs": 1.3e7})["archive"]
    archiving.build_missing(place, engine)
    assert not place.store.unfinished_jobs("grow-archive")
    assert ask(api, constraints={"macs": 1.1e7}) == searched


def test_an_answer_that_is_beaten_by_now_says_by_how_much(
    api: Api, service: tuple[Api, Service], board: tuple[str, tuple[float, float]]
) -> None:
    device, (low, high) = board
    budget = {"latency_ms": low + 0.6 * (high - low)}
    best = ask(api, device=device, constraints=budget)
    assert api.client.search_result(best["id"])["improved_by"] is None
    row, subnet = service[1].place.store.search(best["id"])
    told = {column.name: getattr(subnet, column.name) for column in orm.StoredSubnet.__table__.columns}
    worse = {**subnet.predicted, "top1": subnet.predicted["top1"] - 0.0123}
    beaten = orm.StoredSubnet(**{**told, "predicted": worse})
    assert improved_by(service[1].place, row, beaten) == pytest.approx(1.23, abs=1e-3)
    elsewhere = orm.StoredSubnet(**{**told, "predicted": worse, "predictor_revision": "0" * 64})
    assert improved_by(service[1].place, row, elsewhere) is None
    narrow = ask(api, device=device, constraints=budget, restrict={"resolution": 32})
    assert narrow["archive"] is None
    assert api.client.search_result(narrow["id"])["improved_by"] is None


def within(found: dict[str, Any], limits: dict[str, float]) -> bool:
    return all(found["predicted"][metric] <= limit for metric, limit in limits.items())


def test_an_archive_without_a_device_counts_bytes_of_fp32_whatever_devices_are_asked_for(
    service: tuple[Api, Service],
) -> None:
    place = service[1].place
    base = ground(place, SearchRequest(supernet="tiny"))
    assert unlimited(place, replace(base, precision="int8")).precision == "fp32"


def test_questions_that_are_not_plain_are_searched_from_what_the_archive_knows(
    api: Api, board: tuple[str, tuple[float, float]]
) -> None:
    device, (low, high) = board
    limits = {"latency_ms": low + 0.55 * (high - low)}
    plain = ask(api, device=device, constraints=limits)
    assert plain["archive"]
    assert plain["head_start"] is None
    for further in ({"alternatives": 1}, {"pareto": True}, {"restrict": {"resolution": [32, 48]}}):
        found = ask(api, device=device, constraints=limits, **further)
        assert (found["archive"], found["head_start"]) == (None, plain["archive"])
        assert found["subnet"]["predicted"]["top1"] >= plain["subnet"]["predicted"]["top1"]
        members = found["front"]["members"] if found["front"] else []
        tops = [one["predicted"]["top1"] for one in members if within(one, limits)]
        assert found["subnet"]["predicted"]["top1"] >= max(tops, default=0)
        replayed = api.request("POST", f"/v1/searches/{found['id']}/replay")
        assert replayed.status_code == 200, replayed.text
        assert ask(api, **found["request"])["subnet"] == found["subnet"]
    least = ask(api, device=device, devices={}, min_top1=plain["subnet"]["predicted"]["top1"])
    assert least["head_start"] == plain["archive"]
    assert least["subnet"]["predicted"]["latency_ms"] <= plain["subnet"]["predicted"]["latency_ms"]


@pytest.mark.parametrize("further", [{}, {"alternatives": 2}, {"pareto": True}])
def test_to_name_an_effort_never_gives_a_worse_subnet_than_to_name_less_or_none(
    api: Api, board: tuple[str, tuple[float, float]], further: dict[str, Any]
) -> None:
    device, (low, high) = board
    for share in (0.15, 0.4, 0.7):
        body = {"device": device, "constraints": {"latency_ms": low + share * (high - low)}, "seed": 3}
        found = [
            ask(api, **body),
            *(ask(api, **body, **further, effort=effort) for effort in (QUICK, MORE, {"population": 96})),
        ]
        tops = [one["subnet"]["predicted"]["top1"] for one in found]
        assert tops == sorted(tops)
        for one in found[1:]:
            assert (one["archive"], one["head_start"]) == (None, found[0]["archive"])
            assert one["request"]["effort"]["population"] in (8, 24, 96)
            assert api.request("POST", f"/v1/searches/{one['id']}/replay").status_code == 200


def test_a_fleet_that_began_with_archives_does_so_when_it_is_asked_again(
    api: Api, board: tuple[str, tuple[float, float]]
) -> None:
    body: dict[str, Any] = {"supernet": "tiny", "members": [{"device": board[0]}], "subnets": 1}
    asked = [api.request("POST", "/v1/fleets", json=one).json() for one in (body, body | {"effort": QUICK})]
    assert [one["request"]["effort"] for one in asked] == [{}, QUICK]
    again = api.request("POST", "/v1/fleets", json=asked[0]["request"]).json()
    assert again["members"] == asked[0]["members"]


def test_archives_grow_only_where_nobody_asks_for_anything(
    api: Api,
    service: tuple[Api, Service],
    board: tuple[str, tuple[float, float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, engine = service[1].place, service[1].engine
    ask(api, constraints={"macs": 1.2e7}, effort={"population": 8, "generations": 1}, seed=7)
    archiving.refine(place, engine)
    assert not place.store.unfinished_jobs("grow-archive")
    monkeypatch.setattr(archiving, "IDLE_S", 0.0)
    archiving.refine(place, engine)
    (job,) = place.store.unfinished_jobs("grow-archive")
    assert job.arguments["supernet"] == "tiny"
    place.store.cancel_job(job.id)
    engine.cancel(job.id)


# After a failure


class Submitted(list[orm.Job]):
    """An engine that runs nothing."""

    def submit(self, job: orm.Job) -> None:
        self.append(job)


@pytest.fixture
def idle(tmp_path: Path, database_url: str, random_zoo: Path) -> Iterator[tuple[Workplace, list[datetime]]]:
    """A workplace whose store's clock a test sets, with a zoo of its own."""
    shutil.copytree(random_zoo, tmp_path / "zoo")
    settings = Settings(var=tmp_path, database_url=database_url, zoo=tmp_path / "zoo", archives=True)
    engine, now = orm.open_database(settings.database), [datetime(2026, 1, 1, tzinfo=UTC)]
    upgrade(engine)
    store = Store(engine, lambda: now[0])
    catalogue, archives = Catalogue(store, settings.zoo), archive.Archives(store)
    yield Workplace(settings, store, open_artifacts(settings), catalogue, archives), now
    engine.dispose()


def waited_s(now: list[datetime], start: Callable[[], bool]) -> int:
    """How long it takes until something starts, in half minutes."""
    began = now[0]
    while not start():
        now[0] += timedelta(seconds=30)
    return int((now[0] - began).total_seconds())


def test_a_build_that_fails_is_waited_after_twice_as_long_each_time_up_to_an_hour(
    idle: tuple[Workplace, list[datetime]],
) -> None:
    (place, now), engine = idle, Submitted()

    def start() -> bool:
        return archiving.start_build(place, engine, "tiny", None)

    assert waited_s(now, start) == 0
    assert not start()  # it is being built
    waits = []
    for _ in range(9):
        place.store.fail_job(engine[-1].id, {"detail": "no room"})
        waits.append(waited_s(now, start))
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert [job.arguments["attempt"] for job in engine] == list(range(1, 11))
    place.store.fail_job(engine[-1].id, {"detail": "no room"})
    now[0] += timedelta(hours=3)  # what was long ago does not matter
    assert start()
    assert engine[-1].arguments["attempt"] == 1


def test_a_damaged_supernet_keeps_no_other_from_its_archive_and_from_the_list(
    idle: tuple[Workplace, list[datetime]],
) -> None:
    (place, _), engine = idle, Submitted()
    assert place.settings.zoo is not None
    (place.settings.zoo / "damaged").mkdir()
    (place.settings.zoo / "damaged" / "space.json").write_text("{")
    archiving.build_missing(place, engine)
    assert [job.arguments["supernet"] for job in engine] == ["tiny"]
    assert [entry.name for entry in place.catalogue.entries()] == ["tiny"]
    archiving.refine(place, engine)


def test_another_revision_is_built_at_once_whatever_failed_before(
    idle: tuple[Workplace, list[datetime]],
) -> None:
    (place, _), engine = idle, Submitted()
    assert archiving.start_build(place, engine, "tiny", None)
    place.store.fail_job(engine[0].id, {"detail": "no room"})
    assert not archiving.start_build(place, engine, "tiny", None)
    random_predictor(place.catalogue.entry("tiny").space, seed=5).save(
        place.settings.zoo / "tiny" / "predictor.json"
    )
    assert archiving.start_build(place, engine, "tiny", None)
    assert engine[0].arguments["key"] != engine[1].arguments["key"]


def test_a_further_generation_that_fails_is_waited_after_too(idle: tuple[Workplace, list[datetime]]) -> None:
    (place, now), engine = idle, Submitted()
    entry, predictor = place.catalogue.entry("tiny"), place.catalogue.predictor("tiny")
    place.store.add_archive(archiving.key_of(entry.digest, None, predictor.revision), 0, "0" * 64, b"")

    def start() -> bool:
        before = len(engine)
        archiving.refine(place, engine)
        return len(engine) > before

    assert waited_s(now, start) == 0
    for wait_s in (60, 120):
        place.store.fail_job(engine[-1].id, {"detail": "no room"})
        assert waited_s(now, start) == wait_s
    place.store.succeed_job(engine[-1].id, {})
    assert start()
