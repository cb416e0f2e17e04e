"""What whole networks that were measured later teach a table.

A search picks the network that a table prices too low rather than too high. So when what it picked
is measured, the table learns of it: where the table was made by a campaign, the networks join those
of the campaign and the table is built anew (``building.build_table``); where nobody knows the
networks behind it, all prices are scaled by the median of measured over predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bespoke.latency_tables.building import measured_networks
from bespoke.latency_tables.profiling import ProfilingPlan, Report, entry_plan
from bespoke.latency_tables.quality import Correction, quality_card
from bespoke.latency_tables.table import LatencyTable, checked
from bespoke.supernet.agreement import conformal_half_width
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import InvalidInput

__all__ = ["measured_ms", "scaled_to", "with_networks"]


def measured_ms(table: LatencyTable, plan: ProfilingPlan, reports: Sequence[Report]) -> dict[str, float]:
    """What each whole network of a plan took, by the statistic that a table prices by.

    Args:
        table: The table.
        plan: What was asked for.
        reports: What came; failed ones may be among them.

    Returns:
        Milliseconds by entry id, of the networks that have samples.

    Raises:
        MeasurementInvalid: A time is not finite, not positive or absurd.
    """
    stats = measured_networks(plan, reports)
    return {entry_id: stat.by(table.statistic) for entry_id, stat in stats.items()}


def with_networks(
    plan: ProfilingPlan,
    reports: Sequence[Report],
    later: Sequence[tuple[ProfilingPlan, Sequence[Report]]],
) -> tuple[ProfilingPlan, list[Report]]:
    """A campaign's plan and reports with the whole networks of later ones, to build a table of.

    Sentinels of the later ones are left out: they tell how a device drifted within a campaign.

    Args:
        plan: Of the campaign.
        reports: Of the campaign.
        later: Plans and reports of later ones, oldest first; of a network that was measured again,
            the last report of a round counts.
    """
    entries = {entry.id: entry for entry in plan.entries}
    together = list(reports)
    for other, came in later:
        networks = {entry.id: entry for entry in other.entries if entry.kind == "subnet"}
        entries |= networks
        together += [report for report in came if report.entry_id in networks]
    rounds = max([plan.rounds, *(other.rounds for other, _ in later)])
    return replace(plan, entries=tuple(entries.values()), rounds=rounds), together


def scaled_to(
    table: LatencyTable, space: SearchSpace, plan: ProfilingPlan, reports: Sequence[Report]
) -> LatencyTable:
    """A table whose prices are scaled to some measured networks.

    The interval and, where the table has one, the quality card are over the networks that they were
    over before and these.

    Args:
        table: The table.
        space: The space of the networks.
        plan: Which networks were measured.
        reports: What came.

    Raises:
        InvalidInput: No network was measured, or they are in another unit than the table.
        MeasurementInvalid: A time is not finite, not positive or absurd.
    """
    seen_ms = measured_ms(table, plan, reports)
    entries = [entry for entry in plan.entries if entry.kind == "subnet" and entry.id in seen_ms]
    if not entries:
        raise InvalidInput("no whole network was measured; expected at least one to learn from")
    predicted = np.array([table.predict(entry_plan(entry, space)) for entry in entries])
    seen = np.array([seen_ms[entry.id] for entry in entries])
    factor = float(np.median(seen / predicted))
    points = np.array(table.quality.points if table.quality else ()).reshape(-1, 2)
    predicted = factor * np.concatenate([points[:, 0], predicted])
    seen = np.concatenate([points[:, 1], seen])
    card = table.quality
    if card is not None:
        card = quality_card(
            predicted,
            seen,
            repeat_mape=card.repeat_mape,
            samples=card.samples,
            rejected=card.rejected,
            duration_s=card.duration_s,
            drift=card.drift,
        )
    return checked(
        replace(
            _scaled(table, factor),
            quality=card,
            interval=max(
                conformal_half_width((seen - predicted) / predicted), 0.0 if len(points) else table.interval
            ),
        )
    )


def _scaled(table: LatencyTable, factor: float) -> LatencyTable:
    if table.networks is not None:
        # The model's factor is on the sum that the correction gives: only one of the two is scaled.
        offset = table.networks.offset + float(np.log(factor))
        return replace(table, networks=replace(table.networks, offset=offset))
    old = table.correction
    return replace(
        table,
        correction=Correction(
            overhead_ms=factor * old.overhead_ms,
            scale=factor * old.scale,
            weights_ms_per_mb=factor * old.weights_ms_per_mb,
            ms_per_op=factor * old.ms_per_op,
        ),
    )
