"""Stored rows as the JSON that goes out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, cast

from bespoke.service import orm, schemas
from bespoke.service.store import Store

__all__ = ["campaign", "device", "search", "subnet", "table", "table_content"]

MOST_SEARCHES = 100


def device(row: orm.Device, store: Store) -> schemas.Device:
    """A device with the revisions of its tables."""
    return schemas.Device(
        id=row.id,
        name=row.name,
        profile=row.profile,
        profiled={table.supernet: table.revision for table in store.latest_tables(row.id)},
        created_at=row.created_at,
    )


def campaign(row: orm.Campaign, store: Store) -> schemas.Campaign:
    """A campaign with its progress and its agents."""
    agents, active_s = store.agents(row.id), store.active_s(row.id)
    base = store.table_by_id(row.base_table) if row.base_table else None
    return schemas.Campaign(
        id=row.id,
        device_id=row.device_id,
        supernet=row.supernet,
        purpose=cast(Literal["table", "check"], row.purpose),
        effort=row.effort,
        state=cast(schemas.CampaignState, row.state),
        progress=schemas.Progress(
            done=row.done,
            total=row.total,
            fraction=row.done / row.total if row.total else 0.0,
            active_s=active_s,
            at_work=row.state == "measuring" and store.at_work(row.id),
            eta_s=_eta_s(row, active_s),
        ),
        agents=[_agent(one) for one in agents],
        degraded=sorted({reason for one in agents for reason in one.degraded}),
        job_id=row.job_id,
        base_revision=base.revision if base else None,
        table_revision=row.table_revision,
        check=_check(row, store) if row.result else None,
        error=row.error,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


def _eta_s(row: orm.Campaign, active_s: float) -> float | None:
    if row.state != "measuring" or not row.done:
        return None
    return active_s / row.done * (row.total - row.done)


def _agent(row: orm.CampaignAgent) -> schemas.CampaignAgent:
    held = row.quarantined_until is not None and row.quarantined_until > datetime.now(UTC)
    return schemas.CampaignAgent(
        name=row.agent,
        state="quarantined" if held else "active",
        reason=row.reason,
        until=row.quarantined_until if held else None,
    )


def _check(row: orm.Campaign, store: Store) -> schemas.Check:
    result = row.result or {}
    count, ids = store.searches_with_table(row.device_id, result["table_revision"], MOST_SEARCHES)
    proposal = schemas.Request(
        href=f"/v1/devices/{row.device_id}/campaigns",
        body={"supernet": row.supernet, "effort": row.effort, "remeasure": True},
    )
    return schemas.Check(
        **result, searches=count, search_ids=ids, proposal=proposal if result["stale"] else None
    )


def table(row: orm.StoredTable, current: bool) -> schemas.Table:
    """A revision of a latency table, without its content."""
    here = f"/v1/devices/{row.device_id}/latency-tables/{row.revision}"
    return schemas.Table(
        revision=row.revision,
        device_id=row.device_id,
        supernet=row.supernet,
        source=cast(schemas.Source, row.source),
        provisional=row.provisional,
        current=current,
        stale=row.stale is not None,
        stale_reason=row.stale,
        quality=row.quality,
        campaign_id=row.campaign_id,
        checked_at=row.checked_at,
        created_at=row.created_at,
        links=schemas.TableLinks(
            content=here, csv=f"{here}?format=csv", ofa=f"{here}?format=ofa", plot=f"{here}/quality.png"
        ),
    )


def table_content(row: orm.StoredTable, content: dict[str, Any], current: bool) -> dict[str, Any]:
    """A revision as its own JSON, with what the service knows of it."""
    return {
        "revision": row.revision,
        "supernet": row.supernet,
        "current": current,
        "stale": row.stale is not None,
        "stale_reason": row.stale,
        "created_at": row.created_at.isoformat(),
        **content,
    }


def subnet(row: orm.StoredSubnet) -> schemas.Subnet:
    """A subnet with its links."""
    here = f"/v1/subnets/{row.id}"
    return schemas.Subnet(
        id=row.id,
        supernet=row.supernet,
        architecture=row.architecture,
        predicted=schemas.Predicted(**row.predicted),
        device_id=row.device_id,
        statistics=cast(schemas.Statistics, row.statistics),
        revisions=schemas.Revisions(
            table=row.table_revision, predictor=row.predictor_revision, supernet=row.supernet_digest
        ),
        links=schemas.Links(model=f"{here}/model.onnx", manifest=f"{here}/manifest"),
        created_at=row.created_at,
    )


def search(row: orm.Search, found: orm.StoredSubnet, store: Store) -> schemas.Search:
    """A search with its subnet, and what its table is worth by now."""
    return schemas.Search(
        id=row.id,
        request=row.request,
        subnet=subnet(found),
        warnings=_warnings(found, store),
        evaluations=row.evaluations,
        generations=row.generations,
        duration_s=row.duration_s,
        created_at=row.created_at,
    )


def _warnings(found: orm.StoredSubnet, store: Store) -> list[schemas.Caution]:
    row = store.table_state(found.device_id, found.supernet, found.table_revision)
    if row is None:
        return []
    start = f"start a campaign with POST /v1/devices/{row.device_id}/campaigns"
    warnings = []
    if row.stale is not None:
        drift = f"its sentinels were {row.stale['drift']:+.1%} off at the last check"
        detail = (
            f"the device has drifted since latency table {row.revision[:12]} was measured ({drift}): {start}"
        )
        warnings.append(schemas.Caution(code="table-stale", detail=detail))
    if row.provisional:
        detail = f"latency table {row.revision[:12]} is provisional, made of few measurements: {start}"
        warnings.append(schemas.Caution(code="table-provisional", detail=detail))
    return warnings
