"""Tables learn of whole networks that were measured after them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bespoke.latency_tables import (
    LatencyTable,
    NetworkModel,
    ProfilingEntry,
    ProfilingPlan,
    Report,
    build_table,
    plan_profiling,
)
from bespoke.latency_tables.learning import measured_ms, scaled_to, with_networks
from bespoke.latency_tables.profiling import entry_plan
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import stratified
from tests.latency_tables.test_building import PROFILE, SPACE, built, reports, sums

SAME = NetworkModel((0.0,) * 6, (1.0,) * 6, (1.0,) * 6, (), (), 0.0)
"""A model of whole networks that changes nothing."""


def later_plan(count: int = 5, seed: int = 7) -> ProfilingPlan:
    """Networks that no campaign has measured, beside a sentinel that one has."""
    networks = [
        ProfilingEntry(f"subnet:{one.id}", "subnet", architecture=one.to_json())
        for one in stratified(SPACE, count, seed)
    ]
    sentinels = [e for e in plan_profiling(SPACE, effort="quick").entries if e.kind == "sentinel"]
    return ProfilingPlan((*networks, *sentinels[:1]), 3, "quick", 0)


def off(table: LatencyTable, plan: ProfilingPlan, came: list[Report]) -> list[float]:
    seen = measured_ms(table, plan, came)
    entries = {entry.id: entry for entry in plan.entries}
    return [seen[one] / table.predict(entry_plan(entries[one], SPACE)) for one in seen]


@pytest.mark.parametrize("networks", [None, SAME])
def test_a_scaled_table_prices_what_was_measured(networks: NetworkModel | None) -> None:
    table, plan = replace(built(sums), networks=networks), later_plan()
    came = list(reports(plan, lambda one: 1.25 * sums(one)))
    learned = scaled_to(table, SPACE, plan, came)
    assert sorted(off(table, plan, came))[2] == pytest.approx(1.25, rel=0.1)
    assert sorted(off(learned, plan, came))[2] == pytest.approx(1)
    assert learned.revision != table.revision
    assert LatencyTable.from_json(learned.to_json()) == learned
    assert learned.quality is not None
    assert table.quality is not None
    assert learned.quality.subnets == table.quality.subnets + 5
    assert learned.interval >= 0.1  # the networks of before are now said to be slower than they were


def test_a_table_without_a_card_keeps_at_least_its_interval() -> None:
    table = LatencyTable(PROFILE, built(sums).stats, interval=0.05)
    learned = scaled_to(table, SPACE, later_plan(), list(reports(later_plan(), sums)))
    assert learned.quality is None
    assert learned.interval >= 0.05
    assert learned.correction.scale > 1


def test_networks_of_later_join_those_of_a_campaign() -> None:
    plan = plan_profiling(SPACE, effort="quick")
    came, later = list(reports(plan, sums)), later_plan()
    joined, together = with_networks(plan, came, [(later, list(reports(later, sums)))])
    added = {entry.id for entry in joined.entries} - {entry.id for entry in plan.entries}
    assert added == {entry.id for entry in later.entries if entry.kind == "subnet"}
    assert len(together) == len(came) + 5 * 3  # without the sentinel's
    before, after = build_table(PROFILE, plan, came, SPACE), build_table(PROFILE, joined, together, SPACE)
    assert before.quality is not None
    assert after.quality is not None
    assert after.quality.subnets > before.quality.subnets
    assert after.revision != before.revision


def test_of_networks_that_failed_nothing_is_learnt() -> None:
    plan = later_plan()
    failed = [Report(entry.id, 0, [], error="out of memory") for entry in plan.entries]
    assert measured_ms(built(sums), plan, failed) == {}
    with pytest.raises(InvalidInput, match="at least one"):
        scaled_to(built(sums), SPACE, plan, failed)


def test_of_networks_in_another_unit_nothing_is_learnt() -> None:
    plan = later_plan()
    with pytest.raises(InvalidInput, match="different units"):
        scaled_to(built(sums), SPACE, plan, list(reports(plan, lambda one: 1000 * sums(one))))
