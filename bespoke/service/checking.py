"""Checks: whether a device still is what its latency table says, by the sentinels of that table.

The rule: a table is *stale* where its sentinels now take more or less than in the campaign that made
it, by more than ``max(REPEATS x the device's repeat error, LEAST_SHARE)``. Compared are the medians
over the rounds, and over the sentinels the median of their ratios: one disturbed sentinel, or one
disturbed round, moves neither.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import numpy as np

from bespoke.latency_tables import ProfilingPlan
from bespoke.latency_tables.timing import LOW_QUANTILE
from bespoke.service.engines.protocol import JobEngine
from bespoke.service.orm import Campaign, StoredTable
from bespoke.service.store import MeasuredEntry, Store
from bespoke.service.workplace import Workplace
from bespoke.supernet.errors import Conflict, DeviceNotProfiled, InvalidInput

__all__ = ["check_plan", "judge", "sentinel_ratios", "start_check", "start_due_checks"]

CHECK_ROUNDS = 3
REPEATS = 3.0
LEAST_SHARE = 0.05

logger = logging.getLogger(__name__)


def start_check(place: Workplace, engine: JobEngine, device_id: str, supernet: str) -> Campaign:
    """Have the sentinels of a device's table measured again.

    Raises:
        NotFound: There is no such device.
        DeviceNotProfiled: It has no table for the supernet.
        Conflict: It is being checked already, or its table has no sentinels that were measured here.
    """
    place.store.device(device_id)
    row = place.store.latest_table(device_id, supernet)
    if row is None:
        raise DeviceNotProfiled(device_id, supernet)
    made = place.store.campaign(row.campaign_id) if row.campaign_id else None
    # A table that learned of a verification has that campaign, which has the sentinels of the table before
    # it: none, where that one was imported.
    if made is None or not any(entry["kind"] == "sentinel" for entry in (made.plan or {}).get("entries", ())):
        raise Conflict(
            f"table {row.revision[:12]} of device {device_id!r} ({row.source}) has no sentinels that were "
            "measured here, so there is nothing to compare with: start a campaign"
        )
    campaign, job = place.store.add_campaign(
        device_id, supernet, made.effort, purpose="check", use_base=False, base_table=row.id
    )
    engine.submit(job)
    return campaign


def start_due_checks(place: Workplace, engine: JobEngine) -> None:
    """Check the measured tables that serve and were not checked for ``check_hours``; none where that is 0.

    A check that failed or was cancelled is not due again before that time either.
    """
    if not place.settings.check_hours:
        return
    before = datetime.now(UTC) - timedelta(hours=place.settings.check_hours)
    for device in place.store.devices():
        for row in place.store.latest_tables(device.id):
            if row.campaign_id is None or (row.checked_at or row.created_at) > before:
                continue
            begun_at = place.store.last_check_at(row)
            if begun_at is not None and begun_at > before:
                continue
            try:
                start_check(place, engine, device.id, row.supernet)
            except Conflict:
                continue  # one goes on, started by another worker or waiting for an agent
            logger.info("device %s is due for a check of %s", device.id, row.supernet)


def check_plan(plan: ProfilingPlan) -> ProfilingPlan:
    """The sentinels of a plan alone, in a few rounds."""
    sentinels = tuple(entry for entry in plan.entries if entry.kind == "sentinel")
    return replace(plan, entries=sentinels, rounds=CHECK_ROUNDS)


def judge(place: Workplace, campaign_id: str) -> dict[str, Any]:
    """Compare a check with the campaign of its table, and mark the table.

    Raises:
        InvalidInput: No sentinel was measured both times.
    """
    check = place.store.campaign(campaign_id)
    row = place.store.table_by_id(check.base_table or "")
    result = _verdict(place.store, check, row)
    place.store.finish_check(campaign_id, result)
    return result


def _verdict(store: Store, check: Campaign, row: StoredTable) -> dict[str, Any]:
    ratios = sentinel_ratios(store.reports(row.campaign_id or ""), store.reports(check.id))
    if not ratios:
        raise InvalidInput(
            f"no sentinel of table {row.revision[:12]} was measured then and now; start a campaign instead"
        )
    repeat_error = float((row.quality or {}).get("repeat_mape") or 0.0)
    drift, limit = median(ratios.values()) - 1, max(REPEATS * repeat_error, LEAST_SHARE)
    return {
        "table_revision": row.revision,
        "drift": drift,
        "limit": limit,
        "stale": abs(drift) > limit,
        "sentinels": ratios,
    }


def sentinel_ratios(
    then: Iterable[MeasuredEntry], now: Iterable[MeasuredEntry], prefix: str = "sentinel:"
) -> dict[str, float]:
    """What sentinels take now over what they took then, by entry."""
    before, after = _medians(then, prefix), _medians(now, prefix)
    return {entry_id: after[entry_id] / before[entry_id] for entry_id in sorted(before.keys() & after.keys())}


def _medians(reports: Iterable[MeasuredEntry], prefix: str) -> Mapping[str, float]:
    """By sentinel, the median over the rounds of the low quantile of the samples."""
    lows: dict[str, list[float]] = {}
    for report in reports:
        if report.entry_id.startswith(prefix) and report.error is None and len(report.samples_ms):
            low = float(np.quantile(report.samples_ms, LOW_QUANTILE))
            lows.setdefault(report.entry_id, []).append(low)
    return {entry_id: median(values) for entry_id, values in lows.items()}
