"""Verifications: the best few that a search found, measured as they are shipped.

``measured``: whole, on the real device, by its agent. Who is over the limit is dropped; the latency
table learns of it, the search runs again within what the measurements leave of the limit, and the
next few are measured, for a few rounds at most. The winner is the most accurate one, by prediction,
that was measured within the limit; where a metric is minimised, the one that has the least of it.

``accuracy``: on the validation images of a registered data set, in a worker. The winner is the one
that is most accurate there: whoever picks the best of many predictions picks errors too, and a
measurement of the last few takes that back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from bespoke.latency_tables import EFFORTS, LatencyTable, ProfilingEntry, ProfilingPlan, Report
from bespoke.latency_tables.learning import measured_ms
from bespoke.search.evolution import search
from bespoke.search.problem import Candidate, Problem
from bespoke.service.children import Child, Stopped
from bespoke.service.engines.protocol import JobEngine, Json, Run
from bespoke.service.models import ModelMaker, awaited
from bespoke.service.orm import StoredSubnet, StoredTable, Verification
from bespoke.service.questions import ground, problem
from bespoke.service.schemas import SearchRequest
from bespoke.service.searching import begun, subnet_row
from bespoke.service.store import EntryModel
from bespoke.service.workplace import Workplace
from bespoke.supernet.architecture import read_architecture
from bespoke.supernet.errors import (
    AgentOffline,
    BudgetInfeasible,
    Conflict,
    ConstraintInvalid,
    FileInvalid,
    TaskFailed,
)
from bespoke.supernet.training.cifar import cifar_classes, cifar_folder
from bespoke.supernet.training.folders import class_names
from bespoke.supernet.zoo import ZooEntry

__all__ = ["data_folder", "require", "start", "verify_search"]

ROUNDS = 3
"""Rounds of searching and measuring at most."""

CANDIDATES, ALTERNATIVES = 5, 2
"""Networks that are measured at a time, and how many of them are alternatives of the best one."""

LADDER = (0.97, 0.94)
"""Shares of the best one's latency: the best at each of them is measured too, in case it is too slow."""

ONLINE_S, GONE_S, POLL_S = 90.0, 300.0, 0.2
"""Silence after which no agent counts as online, and one that was awaited counts as gone."""

DEFAULT_EFFORT = "standard"
_ANY = ("val", "valid", "validation", "train", ".")


def require(place: Workplace, request: SearchRequest) -> None:
    """See that a request can be verified now.

    Raises:
        ConstraintInvalid: No device is named on which to measure.
        NotFound: There is no such device or supernet.
        AgentOffline: No agent of the device asked for work lately.
        Conflict: No data set with the supernet's classes is registered.
    """
    if request.verify == "measured":
        if request.device is None:
            raise ConstraintInvalid("verify", "measured", "only together with the device to measure on")
        seen_at = place.store.agent_seen_at(request.device)
        if seen_at is None or seen_at < datetime.now(UTC) - timedelta(seconds=ONLINE_S):
            raise AgentOffline(request.device, None if seen_at is None else seen_at.isoformat())
    if request.verify == "accuracy" and data_folder(place, place.catalogue.entry(request.supernet)) is None:
        raise Conflict(
            f"no data set with the classes of supernet {request.supernet!r} is registered: put its image "
            "folder (ROOT/val/<class>/*.jpg) into the folder that BESPOKE_DATA names"
        )


def start(place: Workplace, engine: JobEngine, search_id: str, kind: str) -> Verification:
    """Have what a search found verified."""
    verification, job = place.store.add_verification(search_id, kind)
    engine.submit(job)
    return verification


def verify_search(place: Workplace, models: ModelMaker, run: Run) -> Json:
    """Workflow: measure, and where it has to be, learn and search again."""
    search_id: str = run.arguments["search_id"]
    verification = place.store.verification(search_id)
    assert verification is not None  # it was added with its job
    if verification.kind == "accuracy":
        result = _accuracy(place, run, search_id)
    else:
        result = _measured(place, models, run, search_id)
    return run.step("finish", lambda: _finish(place, search_id, result))


def data_folder(place: Workplace, entry: ZooEntry, splits: Sequence[str] = _ANY) -> Path | None:
    """The registered image folder, or folder of CIFAR's files, with a supernet's classes; None without one.

    Registered are the folder ``BESPOKE_DATA`` itself and the folders in it. ``splits`` names the folders
    inside one that may hold its classes; CIFAR's files hold both splits.
    """
    root, classes = place.settings.data, entry.card.get("classes")
    if root is None or not classes or not root.is_dir():
        return None
    for folder in (root, *sorted(one for one in root.iterdir() if one.is_dir())):
        if _is_cifar(folder, set(classes)) or any(_holds(folder / split, set(classes)) for split in splits):
            return folder
    return None


def _is_cifar(folder: Path, classes: set[str]) -> bool:
    """Whether a folder has CIFAR's files with these classes; damaged ones and closed folders have not."""
    try:
        files = cifar_folder(folder)
        return files is not None and set(cifar_classes(files)) == classes
    except (FileInvalid, PermissionError):
        return False


def _holds(folder: Path, classes: set[str]) -> bool:
    """Whether a folder's folders are these classes; one that may not be read, as lost+found, is none."""
    try:
        return folder.is_dir() and set(class_names(folder)) == classes
    except PermissionError:
        return False


# By measured latency


def _measured(place: Workplace, models: ModelMaker, run: Run, search_id: str) -> Json:
    for number in range(ROUNDS):
        chosen = run.step(f"choose {number}", partial(_choose, place, search_id))
        if not chosen["candidates"]:
            break
        opened = run.step(f"open {number}", partial(_open, place, models, run, search_id, chosen, number))
        campaign_id = opened["campaign_id"]
        run.step(f"measure {number}", partial(_wait, place, run, campaign_id, number))
        told = run.step(f"judge {number}", partial(_judge, place, search_id, campaign_id, chosen, number))
        if told["over"]:
            run.step(f"learn {number}", partial(_learn, place, run, search_id, told))
        run.progress((number + 1) / ROUNDS)
        if not told["again"]:
            break
    verification = place.store.verification(search_id)
    assert verification is not None
    everyone = [one for told in verification.rounds for one in told["candidates"]]
    within = [one for one in everyone if one["within"]]
    fastest = place.store.search(search_id)[0].request.get("minimise") == "latency_ms"

    def order(one: Json) -> tuple[float, float]:
        return (0.0 if fastest else _cost(one), one["measured_ms"])

    return {"met": bool(within), "winner": min(within, key=order) if within else None}


def _choose(place: Workplace, search_id: str) -> Json:
    """The next few to measure, by the table that serves now; none where nothing is left to try."""
    row, answered = place.store.search(search_id)
    verification = place.store.verification(search_id)
    assert verification is not None
    rounds = verification.rounds
    request = SearchRequest.model_validate(row.request)
    base = ground(place, request)
    assert base.main is not None  # ``require`` saw to it
    tightened = _tightened(problem(place, base, request), _factor(place, base.main, rounds))
    posed, _ = begun(place, base, tightened)
    try:
        found = search(replace(posed, alternatives=max(ALTERNATIVES, posed.alternatives)))
    except BudgetInfeasible:
        return {"candidates": []}
    pool = [found.best, *_ladder(found.front, found.best), *found.alternatives]
    rows = [subnet_row(base, request.device, one) for one in pool]
    if not rounds:
        rows.insert(0, _row_of(answered))
    known = {one["entry_id"] for told in rounds for one in told["candidates"]}
    candidates: dict[str, Json] = {}
    for subnet in rows:
        entry_id = f"subnet:{read_architecture(base.entry.space, subnet['architecture']).id}"
        if entry_id not in known and len(candidates) < CANDIDATES:
            candidates.setdefault(entry_id, subnet)
    place.store.add_subnets([subnet for subnet in candidates.values() if subnet["id"] != answered.id])
    return {
        "table_id": place.catalogue.serving(request.device or "", request.supernet).id,
        "limit_ms": request.constraints.latency_ms.limit if request.constraints.latency_ms else None,
        "candidates": [
            {
                "entry_id": entry_id,
                **_told(subnet["id"], subnet["predicted"]),
                "minimised": _metric(subnet["predicted"], posed.minimise),
            }
            for entry_id, subnet in candidates.items()
        ],
    }


def _ladder(front: Sequence[Candidate], best: Candidate) -> list[Candidate]:
    """Of a front, the most accurate ones that take somewhat less time than the best one."""
    steps = []
    for share in LADDER:
        slower = share * best.metrics["latency_ms"]
        below = [one for one in front if one.metrics["latency_ms"] <= slower and one.top1 <= best.top1]
        steps += [max(below, key=lambda one: one.top1)] if below else []
    return steps


def _factor(place: Workplace, table: LatencyTable, rounds: Sequence[Json]) -> float:
    """How much slower than a table says one of the last few that were chosen is, at most; at least 1."""
    ratios = [1.0]
    for one in rounds[-1]["candidates"] if rounds else ():
        if one["measured_ms"] is not None:
            subnet = place.store.subnet(one["subnet_id"])
            space = place.catalogue.entry(subnet.supernet).space
            plan = space.plan(read_architecture(space, subnet.architecture))
            ratios.append(one["measured_ms"] / table.predict(plan))
    return max(ratios)


def _tightened(posed: Problem, factor: float) -> Problem:
    """A problem whose main latency limit leaves room for what was measured beyond it."""
    constraints = tuple(
        replace(one, limit=one.limit / factor) if one.name == "latency_ms" else one
        for one in posed.constraints
    )
    return replace(posed, constraints=constraints)


def _open(place: Workplace, models: ModelMaker, run: Run, search_id: str, chosen: Json, number: int) -> Json:
    """Write the networks and hand them to the device's agents; waits where another one measures there."""
    _, answered = place.store.search(search_id)
    device_id, table = answered.device_id or "", place.store.table_by_id(chosen["table_id"])
    plan = _plan(place, table, chosen, number)
    while True:
        try:
            campaign = place.store.add_verify_campaign(
                device_id, table.supernet, plan.effort, run.job_id, table.id, plan.to_json()
            )
            break
        except Conflict:
            _pause(run)
    for one in chosen["candidates"]:
        made = awaited(models, one["subnet_id"], False, run.stopped)
        place.store.add_entries(campaign.id, [EntryModel(one["entry_id"], "subnet", made.sha256)])
    sentinels = [entry.to_json() for entry in plan.entries if entry.kind == "sentinel"]
    if sentinels:
        arguments = {"campaign_id": campaign.id, "entries": sentinels}
        with Child(place.settings) as child:
            written = child.call("write-entries", arguments, run.stopped)
        place.store.add_entries(campaign.id, [EntryModel(**entry) for entry in written["entries"]])
    order = [(entry.id, repeat) for repeat in range(plan.rounds) for entry in plan.order(repeat)]
    place.store.start_measuring(campaign.id, order)
    return {"campaign_id": campaign.id}


def _plan(place: Workplace, table: StoredTable, chosen: Json, number: int) -> ProfilingPlan:
    """The candidates, and the sentinels of the campaign that made the table."""
    made = _campaign_plan(place, table)
    sentinels = [entry for entry in made.entries if entry.kind == "sentinel"] if made else []
    networks = [
        ProfilingEntry(
            one["entry_id"], "subnet", architecture=place.store.subnet(one["subnet_id"]).architecture
        )
        for one in chosen["candidates"]
    ]
    effort = made.effort if made else DEFAULT_EFFORT
    rounds, timing = EFFORTS[effort].rounds, EFFORTS[effort].timing
    return ProfilingPlan((*networks, *sentinels), rounds, effort, number, timing)


def _campaign_plan(place: Workplace, table: StoredTable) -> ProfilingPlan | None:
    if table.campaign_id is None:
        return None
    return ProfilingPlan.from_json(place.store.campaign(table.campaign_id).plan or {})


def _wait(place: Workplace, run: Run, campaign_id: str, number: int) -> Json:
    """Wait until the agents have measured everything.

    Raises:
        TaskFailed: The campaign was cancelled or failed, or no agent is there any more.
    """
    waited_from = datetime.now(UTC)
    while True:
        campaign = place.store.campaign(campaign_id)
        if campaign.state == "succeeded":
            return {"campaign_id": campaign_id}
        if campaign.state in ("cancelled", "failed"):
            raise TaskFailed("verify-search", f"its campaign {campaign_id!r} was {campaign.state}")
        seen_at = max(waited_from, place.store.agent_seen_at(campaign.device_id) or waited_from)
        if datetime.now(UTC) - seen_at > timedelta(seconds=GONE_S):
            gone = f"no agent of device {campaign.device_id!r} asks for work any more"
            place.store.fail_campaign(campaign_id, gone)
            raise TaskFailed("verify-search", gone)
        run.progress((number + (campaign.done / campaign.total if campaign.total else 0)) / ROUNDS)
        _pause(run)


def _pause(run: Run) -> None:
    time.sleep(POLL_S)
    if run.stopped():
        raise Stopped


def _judge(place: Workplace, search_id: str, campaign_id: str, chosen: Json, number: int) -> Json:
    """What was measured, beside what was predicted; keeps the round.

    Raises:
        TaskFailed: Not one network could be measured.
    """
    campaign = place.store.campaign(campaign_id)
    row = place.store.table_by_id(chosen["table_id"])
    came = [
        Report(m.entry_id, m.round, m.samples_ms, m.cold_ms, m.error)
        for m in place.store.reports(campaign_id)
    ]
    seen = measured_ms(place.catalogue.read(row), ProfilingPlan.from_json(campaign.plan or {}), came)
    if not seen:
        errors = [report.error for report in came if report.error]
        raise TaskFailed("verify-search", f"no network could be measured: {errors[0] if errors else '?'}")
    limit = math.inf if chosen["limit_ms"] is None else float(chosen["limit_ms"])
    candidates = [
        {**one, "measured_ms": ms, "within": ms is not None and ms <= limit}
        for one in chosen["candidates"]
        for ms in [seen.get(one["entry_id"])]
    ]
    measured = [one for one in candidates if one["measured_ms"] is not None]
    told = {
        "number": number,
        "campaign_id": campaign_id,
        "table_revision": row.revision,
        "learned_table_revision": None,
        "candidates": candidates,
        "over": any(not one["within"] for one in measured),
        # The one that is promised most is what was asked for; where it keeps its limit, that is the end.
        "again": not min(measured, key=_cost)["within"],
    }
    place.store.keep_round(search_id, told)
    return told


def _learn(place: Workplace, run: Run, search_id: str, told: Json) -> Json:
    """Make the table learn of a round; a round that it can learn nothing of is told without."""
    with Child(place.settings) as child:
        learned = child.call("learn-table", {"campaign_id": told["campaign_id"]}, run.stopped)
    place.store.keep_round(search_id, told | {"learned_table_revision": learned["table_revision"]})
    return learned


# By measured accuracy


def _accuracy(place: Workplace, run: Run, search_id: str) -> Json:
    chosen = run.step("choose", partial(_choose_near, place, search_id))
    run.progress(0.1)

    def measure() -> Json:
        ids = [one["subnet_id"] for one in chosen["candidates"]]
        with Child(place.settings) as child:
            return child.call("measure-top1", {"subnet_ids": ids}, run.stopped)

    seen = run.step("measure", measure)
    candidates = [{**one, "measured_top1": seen["top1"][one["subnet_id"]]} for one in chosen["candidates"]]
    told = {"number": 0, "candidates": candidates}
    run.step("keep", partial(_keep, place, search_id, told))
    winner = most_wanted(candidates, place.store.search(search_id)[0].request.get("min_top1"))
    return {"met": winner is not None, "winner": winner, "images": seen["images"]}


def most_wanted(candidates: Sequence[Json], min_top1: float | None) -> Json | None:
    """The most accurate one as measured; where a least top-1 is asked for, the cheapest that reaches it.

    Args:
        candidates: With ``measured_top1``, the predicted ``top1``, and what the search made small.
        min_top1: The least top-1, in [0, 1].

    Returns:
        One of them; None where none reaches the least top-1.
    """
    if min_top1 is None:
        return max(candidates, key=lambda one: (one["measured_top1"], one["top1"]))
    reaching = [one for one in candidates if one["measured_top1"] >= min_top1]
    return min(reaching, key=lambda one: (_cost(one), -one["measured_top1"]), default=None)


def _choose_near(place: Workplace, search_id: str) -> Json:
    """The answer and others near it, all within the limits."""
    row, answered = place.store.search(search_id)
    request = SearchRequest.model_validate(row.request)
    base = ground(place, request)
    posed, _ = begun(place, base, problem(place, base, request))
    found = search(replace(posed, alternatives=max(CANDIDATES - 1, posed.alternatives)))
    # What is measured may miss a least top-1 that was predicted: some that are dearer stand by.
    near = found.front[:6:2] if posed.minimise else found.front[-3:]
    pool = [found.best, *found.alternatives, *near]
    rows = {answered.id: _row_of(answered)}
    rows |= {one["id"]: one for one in (subnet_row(base, request.device, each) for each in pool)}
    chosen = list(rows.values())[:CANDIDATES]
    place.store.add_subnets([subnet for subnet in chosen if subnet["id"] != answered.id])
    candidates = [
        _told(one["id"], one["predicted"]) | {"minimised": _metric(one["predicted"], posed.minimise)}
        for one in chosen
    ]
    return {"candidates": candidates}


# What is kept


def _told(subnet_id: str, predicted: Mapping[str, Any]) -> Json:
    return {
        "subnet_id": subnet_id,
        "top1": predicted["top1"],
        "latency_ms": predicted["latency_ms"],
        "latency_interval_ms": predicted["latency_interval_ms"],
    }


def _metric(predicted: Mapping[str, Any], name: str | None) -> float | None:
    """A metric as a search names it, of what was predicted of a subnet."""
    if name is None:
        return None
    kind, _, device = name.partition(":")
    value: float = (predicted["devices"][device] if device else predicted)[kind]
    return value


def _cost(one: Mapping[str, Any]) -> float:
    """What the search makes small, of a candidate by its prediction."""
    least: float | None = one.get("minimised")
    return -one["top1"] if least is None else least


def _row_of(subnet: StoredSubnet) -> Json:
    return {"id": subnet.id, "architecture": subnet.architecture, "predicted": subnet.predicted}


def _keep(place: Workplace, search_id: str, told: Json) -> Json:
    place.store.keep_round(search_id, told)
    return told


def _finish(place: Workplace, search_id: str, result: Json) -> Json:
    place.store.finish_verification(search_id, result)
    return result
