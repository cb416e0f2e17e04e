"""The store keeps its word on both databases: leases, reports, states."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from bespoke.service.migrations import upgrade
from bespoke.service.orm import Base, Campaign
from bespoke.service.store import EntryModel, MeasuredEntry, Store, TableToKeep, read_table
from bespoke.supernet.errors import Conflict, InvalidInput, LeaseLost, NotFound
from tests.service.clocks import Clock

TTL_S = 30.0
LONG_S = 3600.0
"""For tests on the real clock: no lease may expire, however slow the machine is."""
ENTRIES, ROUNDS = ("a", "b", "c"), 2


def measuring(store: Store, name: str = "board") -> tuple[str, Campaign]:
    """A device with a campaign of three entries and two rounds that is open to agents."""
    device, _ = store.add_device(name, {"threads": 1}, "digest")
    campaign, _ = store.add_campaign(device.id, "tiny", "quick")
    for entry in ENTRIES:
        store.add_artifact(f"sha-{entry}", 7, "application/onnx")
    store.add_entries(campaign.id, [EntryModel(e, "op", f"sha-{e}") for e in ENTRIES])
    store.start_measuring(campaign.id, [(e, r) for r in range(ROUNDS) for e in ENTRIES])
    return device.id, store.campaign(campaign.id)


def measured(entry_id: str, round_: int, *samples: float) -> MeasuredEntry:
    return MeasuredEntry(entry_id, round_, samples or (1.0, 2.5), 9.0, None)


def table(revision: str, number: int = 0, *, provisional: bool = False) -> TableToKeep:
    return TableToKeep(revision, "ops", provisional, {"number": number, "quality": None})


def test_migrations_make_the_tables_that_the_code_expects(store: Store) -> None:
    upgrade(store.engine)  # a second time changes nothing
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_database_of_a_later_release_is_left_as_it_is(store: Store) -> None:
    with store.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match=r"'9999'.*later release"):
        upgrade(store.engine)


def test_times_come_back_with_their_zone(timed: Store, clock: Clock) -> None:
    device, _ = timed.add_device("board", {}, "digest")
    assert timed.device(device.id).created_at == clock.now


def test_the_same_name_and_profile_is_the_same_device(store: Store) -> None:
    first, new = store.add_device("board", {"threads": 1}, "one")
    again, new_again = store.add_device("board", {"threads": 1}, "one")
    other, _ = store.add_device("board", {"threads": 2}, "two")
    assert (new, new_again) == (True, False)
    assert first.id == again.id != other.id
    assert [device.id for device in store.devices()] == [first.id, other.id]


def test_unknown_things_are_not_found(store: Store) -> None:
    for find in (store.device, store.campaign, store.job, store.search, store.subnet, store.artifact):
        with pytest.raises(NotFound):
            find("nothing_0")


def test_one_campaign_at_a_time_for_a_device_and_a_supernet(store: Store) -> None:
    device_id, campaign = measuring(store)
    with pytest.raises(Conflict):
        store.add_campaign(device_id, "tiny", "quick")
    store.cancel_campaign(campaign.id)
    store.add_campaign(device_id, "tiny", "quick")


def test_leases_give_each_measurement_once_in_order(store: Store) -> None:
    device_id, _ = measuring(store)
    given = [store.lease(device_id, "agent", 4, TTL_S), store.lease(device_id, "agent", 4, TTL_S)]
    pairs = [(e.entry_id, e.round) for lease in given if lease for e in lease[2]]
    assert pairs == [(e, r) for r in range(ROUNDS) for e in ENTRIES]
    assert store.lease(device_id, "agent", 4, TTL_S) is None
    assert given[0] is not None
    assert given[0][2][0].sha256 == "sha-a"
    assert given[0][2][0].size == 7


def test_an_expired_lease_is_given_again_and_its_heartbeat_is_refused(timed: Store, clock: Clock) -> None:
    device_id, _ = measuring(timed)
    first = timed.lease(device_id, "one", 10, TTL_S)
    assert first is not None
    clock.pass_s(TTL_S - 1)
    timed.extend_lease(first[0].id, TTL_S)
    clock.pass_s(TTL_S - 1)
    assert timed.lease(device_id, "two", 10, TTL_S) is None
    clock.pass_s(2)
    second = timed.lease(device_id, "two", 10, TTL_S)
    assert second is not None
    assert len(second[2]) == len(ENTRIES) * ROUNDS
    with pytest.raises(LeaseLost):
        timed.extend_lease(first[0].id, TTL_S)
    timed.extend_lease(second[0].id, TTL_S)


def test_reports_count_once_even_from_a_lost_lease(timed: Store, clock: Clock) -> None:
    device_id, campaign = measuring(timed)
    first = timed.lease(device_id, "one", 10, TTL_S)
    clock.pass_s(TTL_S + 1)
    second = timed.lease(device_id, "two", 10, TTL_S)
    assert first is not None
    assert second is not None
    late = timed.report(first[0].id, [measured("a", 0, 1.5, 0.25)])
    assert (late.accepted, late.duplicates, late.campaign.state) == (1, 0, "measuring")
    again = timed.report(second[0].id, [measured("a", 0, 99.0), measured("b", 0)])
    assert (again.accepted, again.duplicates) == (1, 1)
    kept = timed.reports(campaign.id)
    assert [(m.entry_id, m.round, tuple(m.samples_ms)) for m in kept] == [
        ("a", 0, (1.5, 0.25)),
        ("b", 0, (1.0, 2.5)),
    ]


def test_a_report_of_something_else_changes_nothing(store: Store) -> None:
    device_id, campaign = measuring(store)
    lease = store.lease(device_id, "agent", 10, TTL_S)
    assert lease is not None
    with pytest.raises(InvalidInput, match="'z'"):
        store.report(lease[0].id, [measured("a", 0), measured("z", 0)])
    assert store.campaign(campaign.id).done == 0
    assert store.reports(campaign.id) == []


def test_the_last_report_makes_the_fit_job_exactly_once(store: Store) -> None:
    device_id, campaign = measuring(store)
    everything = [measured(e, r) for r in range(ROUNDS) for e in ENTRIES]
    lease = store.lease(device_id, "agent", 10, TTL_S)
    assert lease is not None
    made = []

    def report() -> None:
        made.append(store.report(lease[0].id, everything))

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = [done.job for done in made if done.job is not None]
    assert sum(done.accepted for done in made) == len(everything)
    assert [job.kind for job in jobs] == ["fit-campaign"]
    assert store.campaign(campaign.id).state == "fitting"
    assert store.campaign(campaign.id).job_id == jobs[0].id


def test_agents_at_once_never_share_a_measurement(store: Store) -> None:
    device_id, _ = measuring(store)
    taken: list[tuple[str, int]] = []

    def agent() -> None:
        while (given := store.lease(device_id, "agent", 1, LONG_S)) is not None:
            taken.extend((e.entry_id, e.round) for e in given[2])

    threads = [threading.Thread(target=agent) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted((e, r) for r in range(ROUNDS) for e in ENTRIES)


def test_a_cancelled_campaign_gives_no_work_but_keeps_what_comes(store: Store) -> None:
    device_id, campaign = measuring(store)
    lease = store.lease(device_id, "agent", 2, TTL_S)
    assert lease is not None
    assert store.cancel_campaign(campaign.id).state == "cancelled"
    assert store.cancel_campaign(campaign.id).state == "cancelled"
    assert store.lease(device_id, "agent", 2, TTL_S) is None
    with pytest.raises(LeaseLost):
        store.extend_lease(lease[0].id, TTL_S)
    assert store.report(lease[0].id, [measured("a", 0)]).accepted == 1
    assert store.campaign(campaign.id).state == "cancelled"
    assert store.job(campaign.job_id).state == "cancelled"


def test_the_latest_succeeded_table_is_served_and_none_is_overwritten(timed: Store, clock: Clock) -> None:
    device_id = ""
    for number in range(3):
        device_id, campaign = measuring(timed)
        lease = timed.lease(device_id, "agent", 10, TTL_S)
        assert lease is not None
        timed.report(lease[0].id, [measured(e, r) for r in range(ROUNDS) for e in ENTRIES])
        clock.pass_s(60)
        if number < 2:
            timed.finish_campaign(campaign.id, table(f"revision-{number}", number))
            timed.finish_campaign(campaign.id, table("another", -1))  # a step that runs twice
        else:
            fit = timed.campaign(campaign.id).job_id
            timed.fail_job(fit, {"detail": "noise"})
            assert timed.campaign(campaign.id).state == "failed"
            assert timed.campaign(campaign.id).error == "noise"
    served = timed.latest_table(device_id, "tiny")
    assert served is not None
    assert (served.revision, read_table(served)["number"]) == ("revision-1", 1)
    assert timed.latest_table(device_id, "other") is None
    assert [row.revision for row in timed.latest_tables(device_id)] == ["revision-1"]


def test_a_job_that_has_ended_stays_as_it_is(store: Store) -> None:
    job = store.add_job("materialise", {})
    assert store.start_job(job.id, "worker")
    store.progress_job(job.id, 0.5)
    assert (store.job(job.id).state, store.job(job.id).progress) == ("running", 0.5)
    store.succeed_job(job.id, {"answer": 42})
    store.fail_job(job.id, {"detail": "too late"})
    assert not store.start_job(job.id, "worker")
    done = store.job(job.id)
    assert (done.state, done.result, done.error, done.progress) == ("succeeded", {"answer": 42}, None, 1.0)


def test_workers_are_alive_while_they_say_so(timed: Store, clock: Clock) -> None:
    timed.beat("one")
    clock.pass_s(10)
    timed.beat("two")
    assert timed.live_workers(within_s=5) == {"two"}
    assert timed.live_workers(within_s=20) == {"one", "two"}
    timed.remove_worker("two")
    assert timed.live_workers(within_s=20) == {"one"}
