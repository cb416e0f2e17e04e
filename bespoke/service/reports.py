"""What an agent reports, looked at before anything is kept: one wrong value refuses the whole report."""

from __future__ import annotations

from collections.abc import Sequence

from bespoke.latency_tables import ProfilingPlan, Report, check_reports
from bespoke.service.orm import Campaign
from bespoke.service.schemas import Result
from bespoke.service.store import MeasuredEntry
from bespoke.service.workplace import Workplace

__all__ = ["check", "measured"]

CONDITIONS = {"started_at", "frequency_mhz", "temperature_c", "rejected", "repeated", "degraded"}


def check(place: Workplace, campaign: Campaign, results: Sequence[Result]) -> None:
    """Refuse results that cannot be true (see ``latency_tables.check_reports``).

    Units are compared with what the campaign's sentinels took so far, and before that with what the
    table that serves the device says, where its ops were measured: fitted prices may be far off.

    Raises:
        MeasurementInvalid: Names the entry, its round, the value and what was expected.
    """
    row = place.store.latest_table(campaign.device_id, campaign.supernet)
    stats = place.catalogue.read(row).stats if row is not None and row.source == "ops" else {}
    known_ms = {key: stat.median_ms for key, stat in stats.items()}
    reports = [Report(r.entry_id, r.round, r.samples_ms, r.cold_ms, r.error) for r in results]
    plan = ProfilingPlan.from_json(campaign.plan or {})
    check_reports(plan, reports, known_ms | place.store.sentinels_ms(campaign.id))


def measured(result: Result) -> MeasuredEntry:
    """A result as the store keeps it."""
    told = result.model_dump(include=CONDITIONS, exclude_none=True, exclude_defaults=True)
    # PostgreSQL takes no NUL, and an agent's error text may hold anything.
    error = None if result.error is None else result.error.replace("\x00", "")
    return MeasuredEntry(
        result.entry_id, result.round, result.samples_ms, result.cold_ms, error, told or None
    )
