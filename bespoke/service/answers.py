"""Stored rows as the JSON that goes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, cast

from bespoke.service import orm, schemas
from bespoke.service.store import ShardState, Store

__all__ = [
    "campaign",
    "dataset",
    "dataset_href",
    "device",
    "fleet",
    "search",
    "subnet",
    "table",
    "table_content",
    "warnings_of",
]

MOST_SEARCHES = 100
NOT_CAMPAIGNS = ("networks", "few-shot")
"""Sources of tables that a log of whole networks made: it tells no durations, nor sentinels."""


def device(row: orm.Device, store: Store) -> schemas.Device:
    """A device with the revisions of its tables."""
    return schemas.Device(
        id=row.id,
        name=row.name,
        profile=row.profile,
        profiled={table.supernet: table.revision for table in store.latest_tables(row.id)},
        created_at=row.created_at,
    )


def campaign(row: orm.Campaign, store: Store, *, listed: bool = False) -> schemas.Campaign:
    """A campaign with its progress and its agents.

    Args:
        row: The campaign.
        store: Knows the rest.
        listed: Whether it stands among others: the searches of the table that a check is of are then left
            out, since they take long to find.
    """
    agents, active_s = store.agents(row.id), store.active_s(row.id)
    return schemas.Campaign(
        id=row.id,
        device_id=row.device_id,
        supernet=row.supernet,
        purpose=cast(Literal["table", "check", "verify"], row.purpose),
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
        base_revision=store.revision_of(row.base_table) if row.base_table else None,
        table_revision=row.table_revision,
        check=_check(row, store, listed) if row.result else None,
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


def _check(row: orm.Campaign, store: Store, listed: bool) -> schemas.Check:
    result = row.result or {}
    of_table = (row.device_id, result["table_revision"], MOST_SEARCHES)
    count, ids = (None, None) if listed else store.searches_with_table(*of_table)
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
        quality=_card(row),
        campaign_id=row.campaign_id,
        checked_at=row.checked_at,
        created_at=row.created_at,
        links=schemas.TableLinks(
            content=here, csv=f"{here}?format=csv", ofa=f"{here}?format=ofa", plot=f"{here}/quality.png"
        ),
    )


def _card(row: orm.StoredTable) -> dict[str, Any] | None:
    """A table's quality card; null where a log of networks did not tell what a campaign measures."""
    if row.quality is None or row.source not in NOT_CAMPAIGNS:
        return row.quality
    unknown = {"duration_s": None, "drift": None, "repeat_mape": row.quality.get("repeat_mape") or None}
    return {**row.quality, **unknown}


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
        precision=cast(schemas.Precision, row.precision),
        statistics=cast(schemas.Statistics, row.statistics),
        revisions=schemas.Revisions(
            table=row.table_revision,
            tables=row.tables or {},
            predictor=row.predictor_revision,
            supernet=row.supernet_digest,
        ),
        links=schemas.Links(model=f"{here}/model.onnx", manifest=f"{here}/manifest"),
        created_at=row.created_at,
    )


def search(
    row: orm.Search, found: orm.StoredSubnet, store: Store, improved_by: float | None = None
) -> schemas.Search:
    """A search with all that it found, and what its tables are worth by now.

    Args:
        row: The search.
        found: Its subnet.
        store: Knows the rest.
        improved_by: By how many points of top-1 the archive beats it now.
    """
    answer = row.answer or {}
    alternatives, front = answer.get("alternatives") or [], answer.get("front")
    others = store.subnets([*alternatives, *(front["members"] if front else [])])
    return schemas.Search(
        id=row.id,
        request=row.request,
        subnet=subnet(found),
        limits=[schemas.LimitUse(**one) for one in answer.get("limits") or []],
        alternatives=[subnet(others[one]) for one in alternatives],
        front=_front(front, others) if front else None,
        warnings=warnings_of([found], store),
        archive=row.archive,
        head_start=(answer.get("origin") or {}).get("head_start"),
        improved_by=improved_by,
        verified=_verified(row, store) if row.request.get("verify") else None,
        evaluations=row.evaluations,
        generations=row.generations,
        duration_s=row.duration_s,
        created_at=row.created_at,
    )


def _verified(row: orm.Search, store: Store) -> schemas.Verified | None:
    verification = store.verification(row.id)
    if verification is None:
        return None
    job, result = store.job(verification.job_id), verification.result or {}
    return schemas.Verified(
        kind=cast(Literal["measured", "accuracy"], verification.kind),
        job_id=job.id,
        state=cast(schemas.JobState, job.state),
        progress=job.progress,
        error=(job.error or {}).get("detail"),
        met=result.get("met"),
        winner=result.get("winner"),
        images=result.get("images"),
        rounds=[schemas.VerificationRound(**one) for one in verification.rounds],
    )


def _front(front: Mapping[str, Any], rows: Mapping[str, orm.StoredSubnet]) -> schemas.Front:
    members = [
        schemas.FrontMember(
            subnet_id=one,
            architecture=rows[one].architecture,
            predicted=schemas.Predicted(**rows[one].predicted),
        )
        for one in front["members"]
    ]
    return schemas.Front(**{**front, "members": members})


def warnings_of(found: Iterable[orm.StoredSubnet], store: Store) -> list[schemas.Caution]:
    """What speaks against the tables behind some subnets, each of them once."""
    tables = {
        (device, row.supernet, revision): None
        for row in found
        for device, revision in [(row.device_id, row.table_revision), *(row.tables or {}).items()]
    }
    states = [store.table_state(*place) for place in tables]
    return [caution for state in states if state is not None for caution in _cautions(state)]


def _cautions(row: orm.StoredTable) -> list[schemas.Caution]:
    start = f"start a campaign with POST /v1/devices/{row.device_id}/campaigns"
    cautions = []
    if row.stale is not None:
        drift = f"its sentinels were {row.stale['drift']:+.1%} off at the last check"
        detail = (
            f"the device has drifted since latency table {row.revision[:12]} was measured ({drift}): {start}"
        )
        cautions.append(schemas.Caution(code="table-stale", detail=detail))
    if row.provisional:
        detail = f"latency table {row.revision[:12]} is provisional, made of few measurements: {start}"
        cautions.append(schemas.Caution(code="table-provisional", detail=detail))
    return cautions


def fleet(row: orm.Fleet, store: Store) -> schemas.Fleet:
    """What was answered for a fleet, and what its tables are worth by now."""
    answer = row.answer
    rows = store.subnets([member["subnet"] for member in answer["members"]])
    members = [
        schemas.Served(
            **{**served, "subnet": subnet(rows[served["subnet"]])},
            device=asked["device"],
            constraints=asked["constraints"],
        )
        for asked, served in zip(row.request["members"], answer["members"], strict=True)
    ]
    return schemas.Fleet(
        id=row.id,
        request=row.request,
        architectures=[schemas.FleetArchitecture(**one) for one in answer["architectures"]],
        members=members,
        mean_top1=answer["mean_top1"],
        by_subnets=[schemas.Simplification(**one) for one in answer["by_subnets"]],
        exact=answer["exact"],
        warnings=warnings_of(rows.values(), store),
        evaluations=answer["evaluations"],
        created_at=row.created_at,
    )


def dataset(row: orm.Dataset, store: Store) -> schemas.Dataset:
    """A data set with its progress and its shards."""
    job, shards = store.job(row.job_id), store.shards(row.id)
    done, total = sum(shard.done for shard in shards), row.request["subnets"]
    return schemas.Dataset(
        id=row.id,
        supernet=row.supernet,
        supernet_digest=row.supernet_digest,
        request=row.request,
        state=cast(schemas.JobState, job.state),
        progress=schemas.DatasetProgress(done=done, total=total, fraction=done / total),
        shards=[_shard(shard) for shard in shards],
        job_id=job.id,
        error=(job.error or {}).get("detail"),
        predictor=row.result,
        file=f"{dataset_href(row)}/accuracy.jsonl",
        created_at=row.created_at,
        finished_at=job.finished_at,
    )


def _shard(shard: ShardState) -> schemas.DatasetShard:
    return schemas.DatasetShard(
        round=shard.round,
        number=shard.number,
        state=cast(schemas.JobState, shard.job.state),
        done=shard.done,
        total=shard.total,
        worker=shard.job.worker_id,
        job_id=shard.job.id,
        error=(shard.job.error or {}).get("detail"),
    )


def dataset_href(row: orm.Dataset) -> str:
    """Where a data set is read."""
    return f"/v1/supernets/{row.supernet}/datasets/{row.id}"
