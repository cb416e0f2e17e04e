"""The store on both databases: agents in quarantine, resumed campaigns, time at work, pruned files."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from bespoke.service import migrations
from bespoke.service.orm import Campaign, open_database
from bespoke.service.quarantine import REFUSALS_IN_A_ROW
from bespoke.service.store import EntryModel, MeasuredEntry, Store, TableToKeep
from bespoke.supernet.errors import AgentQuarantined, Conflict, LeaseLost, NotFound
from tests.service.clocks import Clock

TTL_S = 30.0
SENTINELS = ("sentinel:a", "sentinel:b", "sentinel:c")
OPS = ("op-1", "op-2")
ENTRIES = (*SENTINELS, *OPS)
ROUNDS = 3
QUARANTINE_S = 100.0


@pytest.fixture
def store(timed: Store) -> Store:
    return timed


def measuring(store: Store) -> tuple[str, Campaign]:
    device, _ = store.add_device("board", {"threads": 1}, "digest")
    campaign, _ = store.add_campaign(device.id, "tiny", "quick")
    prepare(store, campaign.id)
    return device.id, store.campaign(campaign.id)


def prepare(store: Store, campaign_id: str) -> None:
    for entry in ENTRIES:
        store.add_artifact(f"sha-{entry}", 7, "application/onnx")
    kinds = {entry: "sentinel" if entry in SENTINELS else "op" for entry in ENTRIES}
    store.add_entries(campaign_id, [EntryModel(e, kinds[e], f"sha-{e}") for e in ENTRIES])
    store.start_measuring(campaign_id, [(e, r) for r in range(ROUNDS) for e in ENTRIES])


def work(store: Store, device_id: str, agent: str, entries: int, factor: float = 1.0) -> int:
    """Lease, measure and report; how many results were taken."""
    given = store.lease(device_id, agent, entries, TTL_S)
    if given is None:
        return 0
    results = [MeasuredEntry(e.entry_id, e.round, (factor, 1.1 * factor), 9.0, None) for e in given[2]]
    return store.report(given[0].id, results, QUARANTINE_S).accepted


def kept(revision: str, *, provisional: bool = False) -> TableToKeep:
    source = "few-shot" if provisional else "ops"
    return TableToKeep(revision, source, provisional, {"quality": {"mape": 0.01}})


# Quarantine


def test_an_agent_whose_sentinels_disagree_is_quarantined_and_its_work_done_again(
    store: Store, clock: Clock
) -> None:
    device_id, campaign = measuring(store)
    assert work(store, device_id, "good", len(ENTRIES)) == len(ENTRIES)
    held = store.lease(device_id, "bad", 1, TTL_S)
    assert held is not None
    assert work(store, device_id, "bad", 4, factor=2.0) == 4  # two of its sentinels fail, that is not enough
    assert store.campaign(campaign.id).done == 9
    late = MeasuredEntry("sentinel:a", 1, (2.0,), 9.0, None)
    assert store.report(held[0].id, [late], QUARANTINE_S).accepted == 1
    bad, good = sorted(store.agents(campaign.id), key=lambda agent: agent.agent)
    assert (good.quarantined_until, good.reason) == (None, None)
    assert bad.quarantined_until == clock.now + timedelta(seconds=QUARANTINE_S)
    assert "2.00 times" in str(bad.reason)
    assert store.campaign(campaign.id).done == len(ENTRIES)
    assert {report.samples_ms[0] for report in store.reports(campaign.id)} == {1.0}
    assert store.lease(device_id, "bad", 10, TTL_S) is None
    with pytest.raises(AgentQuarantined, match="'bad' is quarantined"):
        store.report(held[0].id, [MeasuredEntry("op-1", 1, (2.0,), 9.0, None)], QUARANTINE_S)
    assert work(store, device_id, "good", 100) == len(ENTRIES) * (ROUNDS - 1)
    assert store.campaign(campaign.id).state == "fitting"


def test_what_a_quarantined_agent_had_leased_goes_to_others_at_once(store: Store) -> None:
    device_id, campaign = measuring(store)
    held = store.lease(device_id, "bad", len(ENTRIES) * ROUNDS, TTL_S)
    assert held is not None
    assert store.lease(device_id, "good", 1, TTL_S) is None
    for _ in range(REFUSALS_IN_A_ROW):
        store.refuse_report(held[0].id, "entry 'op-1': got -1", QUARANTINE_S)
    (bad, *_) = [agent for agent in store.agents(campaign.id) if agent.agent == "bad"]
    assert "got -1" in str(bad.reason)
    with pytest.raises(LeaseLost):
        store.extend_lease(held[0].id, TTL_S)
    assert work(store, device_id, "good", 100) == len(ENTRIES) * ROUNDS


def test_a_report_that_is_taken_ends_a_row_of_refusals_and_quarantine_ends_by_itself(
    store: Store, clock: Clock
) -> None:
    device_id, campaign = measuring(store)
    held = store.lease(device_id, "one", 2, TTL_S)
    assert held is not None
    for _ in range(REFUSALS_IN_A_ROW - 1):
        store.refuse_report(held[0].id, "nonsense", QUARANTINE_S)
    store.report(held[0].id, [MeasuredEntry("sentinel:a", 0, (1.0,), None, None)])
    store.refuse_report(held[0].id, "nonsense", QUARANTINE_S)
    assert store.agents(campaign.id)[0].quarantined_until is None
    for _ in range(REFUSALS_IN_A_ROW):
        store.refuse_report(held[0].id, "nonsense", QUARANTINE_S)
    assert work(store, device_id, "one", 1) == 0
    clock.pass_s(QUARANTINE_S + 1)
    assert work(store, device_id, "one", 1) == 1


def test_a_campaign_knows_why_its_agents_were_degraded(store: Store) -> None:
    device_id, campaign = measuring(store)
    held = store.lease(device_id, "one", 2, TTL_S)
    assert held is not None
    told = {"degraded": ["load 3.2"], "frequency_mhz": 1200.0}
    store.report(held[0].id, [MeasuredEntry("sentinel:a", 0, (1.0,), None, None, told)])
    store.report(held[0].id, [MeasuredEntry("sentinel:b", 0, (1.0,), None, None, {"degraded": ["hot"]})])
    assert store.agents(campaign.id)[0].degraded == ["hot", "load 3.2"]
    assert store.reports(campaign.id)[0].conditions == told


# Time at work


def test_time_without_a_lease_does_not_count(store: Store, clock: Clock) -> None:
    device_id, campaign = measuring(store)
    clock.pass_s(1000)
    assert store.active_s(campaign.id) == 0
    first = store.lease(device_id, "one", 2, TTL_S)
    clock.pass_s(4)
    second = store.lease(device_id, "two", 2, TTL_S)
    assert first is not None and second is not None
    clock.pass_s(6)
    assert store.at_work(campaign.id)
    assert store.active_s(campaign.id) == 10  # both at once count once
    for lease in (first, second):
        store.report(lease[0].id, [MeasuredEntry(e.entry_id, e.round, (1.0,), None, None) for e in lease[2]])
    clock.pass_s(5000)
    assert store.active_s(campaign.id) == 10
    assert not store.at_work(campaign.id)
    store.lease(device_id, "one", 2, TTL_S)  # and is never heard of again
    clock.pass_s(5000)
    assert store.active_s(campaign.id) == 10 + TTL_S


# Resuming


def test_a_cancelled_campaign_is_resumed_where_it_was(store: Store) -> None:
    device_id, campaign = measuring(store)
    assert work(store, device_id, "one", 4) == 4
    held = store.lease(device_id, "one", 2, TTL_S)
    assert held is not None
    with pytest.raises(Conflict, match="only a cancelled or failed"):
        store.resume_campaign(campaign.id)
    store.cancel_campaign(campaign.id)
    resumed, job = store.resume_campaign(campaign.id)
    assert (resumed.state, resumed.job_id, job.kind) == ("preparing", job.id, "prepare-campaign")
    assert resumed.finished_at is None
    assert store.unwritten(campaign.id, ENTRIES) == set()
    prepare(store, campaign.id)
    assert store.campaign(campaign.id).done == 4
    assert work(store, device_id, "one", 100) == len(ENTRIES) * ROUNDS - 4
    assert store.campaign(campaign.id).state == "fitting"


def test_a_campaign_that_failed_for_an_entry_measures_it_again(store: Store) -> None:
    device_id, campaign = measuring(store)
    held = store.lease(device_id, "one", 100, TTL_S)
    assert held is not None
    results = [MeasuredEntry(e.entry_id, e.round, (1.0,), 9.0, None) for e in held[2]]
    results[3] = MeasuredEntry("op-1", 0, (), None, "it crashed")
    job = store.report(held[0].id, results).job
    assert job is not None
    store.fail_job(job.id, {"detail": "op-1 is missing"})
    resumed, _ = store.resume_campaign(campaign.id)
    assert (resumed.state, resumed.error, resumed.done) == ("preparing", None, len(results) - 1)
    prepare(store, campaign.id)
    assert work(store, device_id, "one", 100) == 1


def test_a_campaign_that_failed_with_all_its_measurements_is_only_fitted_again(store: Store) -> None:
    device_id, campaign = measuring(store)
    work(store, device_id, "one", 100)
    store.fail_job(store.campaign(campaign.id).job_id, {"detail": "out of memory"})
    resumed, job = store.resume_campaign(campaign.id)
    assert (resumed.state, job.kind) == ("fitting", "fit-campaign")
    other, _ = store.add_device("other", {}, "digest")
    with pytest.raises(NotFound):
        store.resume_campaign("cmp_0")
    assert other.id != device_id


def test_a_campaign_is_not_resumed_beside_another(store: Store) -> None:
    device_id, campaign = measuring(store)
    store.cancel_campaign(campaign.id)
    store.add_campaign(device_id, "tiny", "quick")
    with pytest.raises(Conflict, match="already"):
        store.resume_campaign(campaign.id)
    store.add_campaign(
        device_id, "tiny", "quick", purpose="check"
    )  # another purpose does not stand in the way


# Pruning


def test_models_go_once_no_campaign_needs_them(store: Store, clock: Clock) -> None:
    _, campaign = measuring(store)
    removed: list[str] = []
    clock.pass_s(1000)
    assert store.prune(removed.append, unused_s=600) == 0
    store.cancel_campaign(campaign.id)
    store.add_artifact("sha-op-1", 7, "application/onnx")  # somebody is about to need it
    assert store.prune(removed.append, unused_s=600, at_once=3) == 3
    assert store.prune(removed.append, unused_s=600) == 1
    assert sorted(removed) == sorted(f"sha-{entry}" for entry in ENTRIES if entry != "op-1")
    with pytest.raises(NotFound):
        store.artifact("sha-op-2")
    assert store.artifact("sha-op-1").size == 7
    store.resume_campaign(campaign.id)
    assert store.unwritten(campaign.id, ENTRIES) == set(ENTRIES) - {"op-1"}
    prepare(store, campaign.id)
    assert store.artifact("sha-op-2").pruned_at is None


def test_agents_are_given_the_models_that_were_written_last(store: Store) -> None:
    device_id, campaign = measuring(store)
    store.add_artifact("sha-new", 8, "application/onnx")
    store.add_entries(campaign.id, [EntryModel(ENTRIES[0], "sentinel", "sha-new")])
    leased = store.lease(device_id, "one", 2, TTL_S)
    assert leased is not None
    assert [(one.sha256, one.size) for one in leased[2]] == [("sha-new", 8), (f"sha-{ENTRIES[1]}", 7)]


def test_a_file_whose_bytes_cannot_be_removed_is_kept(store: Store, clock: Clock) -> None:
    _, campaign = measuring(store)
    store.cancel_campaign(campaign.id)
    clock.pass_s(1000)

    def refuse(sha256: str) -> None:
        raise OSError(sha256)

    with pytest.raises(OSError, match="sha-"):
        store.prune(refuse, unused_s=0)
    assert store.artifact("sha-op-1").pruned_at is None


def test_models_of_subnets_stay(store: Store, clock: Clock) -> None:
    subnet = {
        "id": "sub_1",
        "supernet": "tiny",
        "architecture": {},
        "predicted": {},
        "device_id": None,
        "statistics": "table",
        "precision": "fp32",
        "tables": {},
        "table_revision": None,
        "predictor_revision": "p",
        "supernet_digest": "s",
    }
    store.add_search({}, [subnet], {}, 1, 1, 0.1)
    store.add_model("sub_1", False, "sha-model", 9, "application/onnx")
    clock.pass_s(1000)
    assert store.prune(lambda sha256: pytest.fail(sha256), unused_s=0) == 0


# Tables


def test_a_provisional_table_serves_until_a_full_one_is_there(store: Store, clock: Clock) -> None:
    device, _ = store.add_device("board", {}, "digest")
    for number, (revision, provisional) in enumerate([("p1", True), ("full", False), ("p2", True)]):
        clock.pass_s(1)
        row, new = store.add_table(device.id, "tiny", kept(revision, provisional=provisional))
        assert new
        serving = store.latest_table(device.id, "tiny")
        assert serving is not None
        assert serving.revision == ("p1", "full", "full")[number]
        assert [table.revision for table in store.latest_tables(device.id)] == [serving.revision]
        assert row.quality == {"mape": 0.01}
    assert [row.revision for row in store.tables(device.id)] == ["p2", "full", "p1"]
    again, new = store.add_table(device.id, "tiny", kept("full"))
    assert (again.revision, new) == ("full", False)
    assert [row.revision for row in store.other_tables("another", "tiny")] == ["full"]
    assert store.other_tables(device.id, "tiny") == []


def test_a_check_marks_its_table_and_the_next_one_takes_the_mark_away(store: Store, clock: Clock) -> None:
    device_id, campaign = measuring(store)
    work(store, device_id, "one", 100)
    store.finish_campaign(campaign.id, kept("rev"))
    row = store.latest_table(device_id, "tiny")
    assert row is not None and row.stale is None
    for stale in (True, False):
        check, _ = store.add_campaign(device_id, "tiny", "quick", purpose="check", base_table=row.id)
        prepare(store, check.id)
        held = store.lease(device_id, "one", 100, TTL_S)
        assert held is not None
        results = [MeasuredEntry(e.entry_id, e.round, (1.0,), 9.0, None) for e in held[2]]
        job = store.report(held[0].id, results).job
        assert job is not None and job.kind == "judge-check"
        store.finish_check(check.id, {"stale": stale, "drift": 0.5, "table_revision": "rev"})
        store.finish_check(check.id, {"stale": not stale})  # a step that runs twice
        marked = store.table(device_id, "rev")
        assert (marked.stale is not None) == stale
        assert marked.checked_at == clock.now
        assert store.campaign(check.id).state == "succeeded"


def test_the_searches_that_a_table_answered_are_known(store: Store, clock: Clock) -> None:
    device, _ = store.add_device("board", {}, "digest")
    for number, revision in enumerate(["rev", "rev", "other"]):
        clock.pass_s(1)
        subnet = {
            "id": f"sub_{number}",
            "supernet": "tiny",
            "architecture": {},
            "predicted": {},
            "device_id": device.id,
            "statistics": "table",
            "precision": "fp32",
            "tables": {},
            "table_revision": revision,
            "predictor_revision": "p",
            "supernet_digest": "s",
        }
        store.add_search({"number": number}, [subnet], {}, 1, 1, 0.1)
    count, ids = store.searches_with_table(device.id, "rev", 1)
    assert (count, len(ids)) == (2, 1)
    assert store.search(ids[0])[0].request == {"number": 1}


# Migrations


def test_tables_of_an_older_database_are_kept(database_url: str) -> None:
    engine = open_database(database_url)
    config = Config()
    config.set_main_option("script_location", str(migrations.__path__[0]))
    config.set_main_option("path_separator", "os")
    at = "2026-01-02 03:04:05+00:00" if "postgresql" in database_url else "2026-01-02 03:04:05.000000"
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        old = sa.MetaData()
        old.reflect(connection)
        devices, campaigns, tables = (old.tables[n] for n in ("devices", "campaigns", "latency_tables"))
        when = sa.literal_column(f"'{at}'")
        connection.execute(
            devices.insert().values(id="dev_1", name="d", profile={}, profile_digest="x", created_at=when)
        )
        for name, state in (("cmp_1", "succeeded"), ("cmp_2", "cancelled")):
            connection.execute(
                campaigns.insert().values(
                    id=name, device_id="dev_1", supernet="tiny", effort="quick", state=state,
                    job_id="job_1", total=1, done=1, created_at=when,
                )
            )  # fmt: skip
            blob = zlib.compress(json.dumps({"quality": {"mape": 0.5}}).encode())
            connection.execute(
                tables.insert().values(
                    campaign_id=name, revision=f"rev-{name}", device_id="dev_1", supernet="tiny",
                    table=blob, created_at=when,
                )
            )  # fmt: skip
        command.upgrade(config, "head")
    store = Store(engine)
    (row,) = store.tables("dev_1")
    assert (row.id, row.revision, row.campaign_id, row.source) == ("tbl_1", "rev-cmp_1", "cmp_1", "ops")
    assert (row.quality, row.stale, row.provisional) == ({"mape": 0.5}, None, False)
    assert row.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert store.campaign("cmp_2").purpose == "table"
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        assert "latency_tables" in sa.inspect(connection).get_table_names()
        command.upgrade(config, "head")
    assert [row.revision for row in store.tables("dev_1")] == ["rev-cmp_1"]
    engine.dispose()
