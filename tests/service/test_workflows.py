"""Workflows without an engine: no campaign and no check is left waiting for what never comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from bespoke.latency_tables import ProfilingEntry, ProfilingPlan
from bespoke.service.checking import start_check, start_due_checks
from bespoke.service.children import Stopped
from bespoke.service.engines.protocol import Json, Run
from bespoke.service.migrations import upgrade
from bespoke.service.orm import ArtifactRow, Campaign, Job, open_database
from bespoke.service.settings import Settings
from bespoke.service.store import EntryModel, MeasuredEntry, Store, TableToKeep
from bespoke.service.workflows import materialise, prepare_campaign
from bespoke.service.workplace import Workplace, open_workplace
from bespoke.supernet.errors import Conflict, InvalidInput, Unavailable
from tests.service.clocks import Clock

OP, SENTINEL = ProfilingEntry("op-1", "op"), ProfilingEntry("sentinel:a", "sentinel")


def hours_ago(hours: float) -> datetime:
    return datetime.now(UTC) - timedelta(hours=hours)


@dataclass
class Submitted:
    """A job engine that only remembers what it was given."""

    jobs: list[Job] = field(default_factory=list)

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def cancel(self, job_id: str) -> None: ...

    def rescue(self, job: Job) -> None: ...


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime.now(UTC))


@pytest.fixture
def place(settings: Settings, clock: Clock) -> Iterator[Workplace]:
    engine = open_database(settings.database)
    upgrade(engine)
    hourly = settings.model_copy(update={"check_hours": 1.0})
    yield replace(open_workplace(hourly), store=Store(engine, clock))
    engine.dispose()


def run_of(arguments: Json, engine: Submitted, stopped: Callable[[], bool] = lambda: False) -> Run:
    return Run("job_0", arguments, lambda _name, work: work(), stopped, lambda _fraction: None, engine)


def prepared(store: Store, *entries: ProfilingEntry) -> Campaign:
    """A campaign of a new device whose models are all written, not open to agents yet."""
    device, _ = store.add_device("board", {"threads": 1}, "digest")
    campaign, _ = store.add_campaign(device.id, "tiny", "quick")
    store.set_plan(campaign.id, ProfilingPlan(entries, 1, "quick", 0).to_json())
    for entry in entries:
        store.add_artifact(f"sha-{entry.id}", 7, "application/onnx")
    store.add_entries(campaign.id, [EntryModel(one.id, one.kind, f"sha-{one.id}") for one in entries])
    return campaign


def kept(revision: str) -> TableToKeep:
    return TableToKeep(revision, "ops", False, {"quality": None})


def test_results_that_come_while_a_resumed_campaign_is_prepared_have_it_fitted(place: Workplace) -> None:
    store, engine = place.store, Submitted()
    campaign = prepared(store, OP, SENTINEL)
    run = run_of({"campaign_id": campaign.id}, engine)
    prepare_campaign(place, run)
    held = store.lease(campaign.device_id, "one", 10, 60.0)
    assert held is not None
    store.cancel_campaign(campaign.id)
    store.resume_campaign(campaign.id)
    late = [MeasuredEntry(entry.entry_id, entry.round, (1.0,), 9.0, None) for entry in held[2]]
    assert store.report(held[0].id, late).job is None
    assert engine.jobs == []
    prepare_campaign(place, run)
    (job,) = engine.jobs
    after = store.campaign(campaign.id)
    assert (after.state, after.job_id, job.kind) == ("fitting", job.id, "fit-campaign")


def test_a_campaign_with_nothing_to_measure_is_not_opened(place: Workplace) -> None:
    campaign = prepared(place.store)
    with pytest.raises(InvalidInput, match="nothing to measure"):
        prepare_campaign(place, run_of({"campaign_id": campaign.id}, Submitted()))
    assert place.store.campaign(campaign.id).state == "preparing"


def test_a_table_that_learned_without_sentinels_cannot_be_checked(place: Workplace, clock: Clock) -> None:
    store = place.store
    device, _ = store.add_device("board", {"threads": 1}, "digest")
    imported, _ = store.add_table(device.id, "tiny", kept("imported"))
    for revision, entries in (("without", (OP,)), ("with", (OP, SENTINEL))):
        clock.now += timedelta(seconds=1)
        base = store.latest_table(device.id, "tiny")
        assert base is not None
        plan = ProfilingPlan(entries, 1, "quick", 0).to_json()
        campaign = store.add_verify_campaign(device.id, "tiny", "quick", revision, base.id, plan)
        assert store.keep_learned(campaign.id, kept(revision))
        store.fail_campaign(campaign.id, "the next one may start")
        if revision == "without":
            with pytest.raises(Conflict, match="no sentinels"):
                start_check(place, Submitted(), device.id, "tiny")
    assert start_check(place, Submitted(), device.id, "tiny").base_table != imported.id


def test_a_due_check_that_came_to_nothing_is_not_due_again_at_once(place: Workplace, clock: Clock) -> None:
    store, engine = place.store, Submitted()
    clock.now = hours_ago(3)
    campaign = prepared(store, SENTINEL)
    prepare_campaign(place, run_of({"campaign_id": campaign.id}, engine))
    held = store.lease(campaign.device_id, "one", 1, 60.0)
    assert held is not None
    store.report(held[0].id, [MeasuredEntry(SENTINEL.id, 0, (1.0,), 9.0, None)])
    store.finish_campaign(campaign.id, kept("rev"))
    for hours, checks in ((2, 1), (0.5, 2), (0, 2)):
        clock.now = hours_ago(hours)
        start_due_checks(place, engine)
        begun = [one for one in store.campaigns(campaign.device_id) if one.purpose == "check"]
        assert len(begun) == len(engine.jobs) == checks
        store.cancel_campaign(begun[0].id)


def test_a_model_that_takes_long_is_waited_for_until_the_job_is_to_stop() -> None:
    row, asked = ArtifactRow(sha256="sha", size=7), []

    class Slow:
        def ask(self, subnet_id: str, dynamic_batch: bool = False) -> None: ...

        def wait(self, subnet_id: str, dynamic_batch: bool, timeout_s: float) -> ArtifactRow:
            asked.append(subnet_id)
            if len(asked) < 3:
                raise Unavailable("it is being made")
            return row

    arguments = {"subnet_id": "sub_1", "dynamic_batch": False}
    with pytest.raises(Stopped):
        materialise(Slow(), run_of(arguments, Submitted(), lambda: len(asked) == 1))
    assert materialise(Slow(), run_of(arguments, Submitted())) == {"sha256": "sha", "size": 7}
    assert asked == ["sub_1"] * 3
