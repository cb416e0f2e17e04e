"""Answering a search in this process: request in, stored subnets out."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from bespoke import __version__
from bespoke.search.archive import begin_with
from bespoke.search.binding import LimitUse, limit_uses
from bespoke.search.evolution import search
from bespoke.search.front import Front, pareto_front
from bespoke.search.problem import Candidate, Problem, SearchResult, latency_of
from bespoke.service.archive import key_of
from bespoke.service.orm import Search, StoredSubnet
from bespoke.service.questions import (
    Ground,
    check_effort,
    complete,
    ground,
    names_effort,
    objectives,
    problem,
    told_effort,
    unlimited,
)
from bespoke.service.schemas import SearchRequest
from bespoke.service.store import ArchiveKey
from bespoke.service.workplace import Workplace

__all__ = ["Found", "answer", "answer_json", "begun", "look_up", "solve", "subnet_row"]

# Length of a subnet's id in hex digits: 96 bits, so that ids never meet by chance.
ID_DIGITS = 24

Json = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        best: The answer.
        alternatives: Others near it, best first.
        front: Where one was asked for.
        limits: How the answer stands to each limit.
        evaluations: Predictions of the accuracy that were made.
        generations: Steps that were taken.
        origin: What else than the request and its revisions decided it, as JSON; None where nothing did.
    """

    best: Candidate
    alternatives: tuple[Candidate, ...]
    front: Front | None
    limits: tuple[LimitUse, ...]
    evaluations: int
    generations: int
    origin: Json | None = None


def answer(place: Workplace, request: SearchRequest) -> tuple[Search, StoredSubnet]:
    """Search, and keep the search and its subnets.

    Raises:
        NotFound: There is no such supernet or device.
        DeviceNotProfiled: A device has no table for the supernet.
        ConstraintInvalid: The request contradicts itself, or asks for too much effort.
        ArchitectureInvalid: The space has no such dimension or choice to restrict.
        BudgetInfeasible: No architecture meets the limits.
    """
    started = time.perf_counter()
    check_effort(request.effort, wide=request.pareto is not None)
    base = ground(place, request)
    digest = _request_digest(base, request)
    known = place.store.answered(digest) if request.verify is None else None
    if known is not None:
        return known
    posed = problem(place, base, request)
    found = look_up(place, base, posed, request) or solve(*begun(place, base, posed), request)
    return _keep(place, request, base, posed, found, digest, time.perf_counter() - started)


def look_up(
    place: Workplace, base: Ground, posed: Problem, request: SearchRequest, digest: str | None = None
) -> Found | None:
    """Answer a request out of the archive.

    Args:
        place: The workplace.
        base: What the answer follows from.
        posed: The request's problem.
        request: The request.
        digest: Of the archive to look into; None for the newest one.

    Returns:
        The answer; None where the request is not plain, names an effort, or has no archive yet.

    Raises:
        NotFound: There is no archive with this digest.
    """
    if digest is None and (not place.settings.archives or request.pareto or names_effort(request.effort)):
        return None
    hit = place.archives.find(_key(base), posed, digest)
    if hit is None:
        return None
    found, source = hit
    return Found(
        best=found.best,
        alternatives=(),
        front=None,
        limits=limit_uses(posed, found.best),
        evaluations=found.evaluations,
        generations=found.generations,
        origin={"archive": source},
    )


def begun(
    place: Workplace, base: Ground, posed: Problem, digest: str | None = None
) -> tuple[Problem, Json | None]:
    """Let a search begin with what the archive knows.

    Args:
        place: The workplace.
        base: What the answer follows from.
        posed: The request's problem.
        digest: Of the archive to begin with; None for the newest one.

    Returns:
        The problem, and the origin of what it comes to; as it was, and None, where there is no archive.

    Raises:
        NotFound: There is no archive with this digest.
    """
    if digest is None and not place.settings.archives:
        return posed, None
    hit = place.archives.begin(_key(base), unlimited(place, base), posed, digest)
    return (posed, None) if hit is None else (hit[0], {"head_start": hit[1]})


def _key(base: Ground) -> ArchiveKey:
    return key_of(base.entry.digest, base.main.revision if base.main else None, base.predictor.revision)


def solve(posed: Problem, origin: Json | None, request: SearchRequest) -> Found:
    """Search a request's problem, with the origin that ``begun`` gave; the same gives the same result.

    Where a front is asked for, the answer is no worse than the best of it.
    """
    metrics = objectives(request)
    found, front = search(posed), None
    if metrics:
        front = pareto_front(posed, metrics)
        found = _no_worse(posed, found, max(front.members, key=lambda member: member.top1))
    return Found(
        best=found.best,
        alternatives=found.alternatives,
        front=front,
        limits=limit_uses(posed, found.best),
        evaluations=found.evaluations,
        generations=found.generations,
        origin=origin,
    )


def _no_worse(posed: Problem, found: SearchResult, other: Candidate) -> SearchResult:
    """A result, or where another architecture is more accurate, that one with its own alternatives.

    A search that began with the other one would be another search: more effort could then answer worse.
    """
    if other.top1 <= found.best.top1:
        return found
    if not posed.alternatives:
        return replace(found, best=other)
    return search(begin_with(posed, other))


def _keep(
    place: Workplace,
    request: SearchRequest,
    base: Ground,
    posed: Problem,
    found: Found,
    digest: str,
    duration_s: float,
) -> tuple[Search, StoredSubnet]:
    content, rows = answer_json(base, request.device, found)
    return place.store.add_search(
        request=complete(request, told_effort(request.effort, posed.effort, found.origin)),
        request_digest=digest,
        subnets=rows,
        answer={
            **content,
            "tables": base.revisions(request.device),
            "origin": found.origin,
            "version": __version__,
        },
        evaluations=found.evaluations,
        generations=found.generations,
        duration_s=duration_s,
    )


def answer_json(base: Ground, device: str | None, found: Found) -> tuple[Json, list[Json]]:
    """What is kept of an answer: its JSON, which a replay must give again, and the rows of its subnets.

    Args:
        base: What the answer follows from.
        device: Id of the main device.
        found: The answer.

    Returns:
        The JSON, and columns of ``StoredSubnet`` but ``created_at``: those of the best one first.
    """
    front = found.front.members if found.front else ()
    best, *others = [subnet_row(base, device, one) for one in (found.best, *found.alternatives, *front)]
    ids = [row["id"] for row in others]
    alternatives, members = ids[: len(found.alternatives)], ids[len(found.alternatives) :]
    content = {
        "subnet": best["id"],
        "limits": [_limit_json(one) for one in found.limits],
        "alternatives": alternatives,
        "front": _front_json(found.front, members) if found.front else None,
    }
    return content, list({row["id"]: row for row in (best, *others)}.values())


def subnet_row(base: Ground, device: str | None, found: Candidate) -> Json:
    """Columns of ``StoredSubnet`` but ``created_at``."""
    row = {
        "supernet": base.entry.name,
        "architecture": found.architecture.to_json(),
        "predicted": _predicted(found, base.predictor.selection_bias),
        "device_id": device,
        "statistics": "table",
        "precision": base.precision,
        "table_revision": base.main.revision if base.main else None,
        "tables": {name: table.revision for name, table in base.others.items()},
        "predictor_revision": base.predictor.revision,
        "supernet_digest": base.entry.digest,
    }
    return {"id": _id(row), **row}


def _predicted(found: Candidate, bias: float) -> Json:
    whole = ("macs", "flops", "params", "peak_memory_bytes", "model_size_bytes")
    return {
        "top1": found.top1,
        "top1_interval": list(found.top1_interval),
        "top1_corrected": max(0.0, found.top1 - bias) if bias else None,
        "latency_ms": found.metrics.get("latency_ms"),
        "latency_interval_ms": list(found.latency_interval_ms) if found.latency_interval_ms else None,
        "devices": {
            name: {
                "latency_ms": found.metrics[latency_of(name)],
                "latency_interval_ms": list(interval) if interval else None,
            }
            for name, interval in found.latency_intervals_ms.items()
        },
        **{name: round(found.metrics[name]) for name in whole},
    }


def _front_json(front: Front, subnet_ids: list[str]) -> Json:
    return {
        "metrics": list(front.metrics),
        "members": subnet_ids,
        "marginal_prices": list(front.marginal_prices()),
        "evaluations": front.evaluations,
    }


def _limit_json(use: LimitUse) -> Json:
    told = asdict(use)
    return {"metric": told.pop("name"), **told}


def _request_digest(base: Ground, request: SearchRequest) -> str:
    """Over a request and all that its answer follows from: who asks it again is given the same answer."""
    asked = complete(request, None) | {"effort": request.effort.model_dump()}
    revisions = [base.entry.digest, base.predictor.revision, base.revisions(request.device)]
    text = json.dumps([asked, revisions, __version__], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _id(row: Json) -> str:
    """Named by its content, so that the same answer is the same subnet and its model is made once.

    What only some subnets have counts only where it is there: ids are those of before there was any.
    """
    predicted = row["predicted"]
    optional = {
        "precision": row["precision"] == "fp32",
        "tables": not row["tables"],
    }
    bare = {name: value for name, value in row.items() if not optional.get(name, False)}
    unknown = {"devices": not predicted["devices"], "top1_corrected": predicted["top1_corrected"] is None}
    bare["predicted"] = {name: value for name, value in predicted.items() if not unknown.get(name, False)}
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"))
    return "sub_" + hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]
