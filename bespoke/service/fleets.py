"""Answering for a fleet in this process: devices with limits in, few architectures out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bespoke.search.fleet import FleetMember, FleetResult
from bespoke.search.fleet import fleet as cover
from bespoke.search.problem import BYTES, Candidate, Effort
from bespoke.service.orm import Fleet
from bespoke.service.questions import (
    Ground,
    check_effort,
    effort_json,
    ground,
    limits_json,
    problem,
    told_effort,
)
from bespoke.service.schemas import FleetRequest, SearchRequest
from bespoke.service.searching import begun, subnet_row
from bespoke.service.workplace import Workplace
from bespoke.supernet.cost import cost

__all__ = ["answer_fleet"]

Json = dict[str, Any]


def answer_fleet(place: Workplace, request: FleetRequest) -> Fleet:
    """Find the architectures that together serve a fleet best, and keep them for each device.

    Raises:
        NotFound: There is no such supernet or device.
        DeviceNotProfiled: A device has no table for the supernet.
        ConstraintInvalid: The request asks for too much effort.
        BudgetInfeasible: A member's limits cannot be met, or not by so few architectures.
    """
    check_effort(request.effort, wide=True)
    asked = [
        SearchRequest(
            supernet=request.supernet,
            device=member.device,
            constraints=member.constraints,
            seed=request.seed,
            effort=request.effort,
        )
        for member in request.members
    ]
    grounds = [ground(place, one) for one in asked]
    names = _names(request)
    posed = [begun(place, base, problem(place, base, one)) for base, one in zip(grounds, asked, strict=True)]
    problems = {name: one for name, (one, _) in zip(names, posed, strict=True)}
    weights = {name: member.weight for name, member in zip(names, request.members, strict=True)}
    found = cover(problems, request.subnets, weights)
    rows = [
        subnet_row(base, member.device, _for_member(base, found.subnets[served.subnet], served))
        for base, member, served in zip(grounds, request.members, found.members, strict=True)
    ]
    origins = [origin for _, origin in posed]
    return place.store.add_fleet(
        request=_complete(request, told_effort(request.effort, problems[names[0]].effort, *origins)),
        subnets=list({row["id"]: row for row in rows}.values()),
        answer={**_answer(found, [row["id"] for row in rows], grounds), "origins": origins},
    )


def _names(request: FleetRequest) -> list[str]:
    """What the members are called: by their devices; several of one device by their place as well."""
    devices = [member.device for member in request.members]
    return [
        device if devices.count(device) == 1 else f"{device}#{place}" for place, device in enumerate(devices)
    ]


def _for_member(base: Ground, found: Candidate, served: FleetMember) -> Candidate:
    """An architecture as it is on one member's device, and in its precision."""
    metrics = {name: value for name, value in found.metrics.items() if ":" not in name}
    price = cost(base.entry.space.plan(found.architecture), base.precision)
    metrics |= {name: float(getattr(price, name)) for name in BYTES}
    if served.latency_ms is not None:
        metrics = {"latency_ms": served.latency_ms, **metrics}
    return replace(
        found,
        metrics=metrics,
        latency_interval_ms=served.latency_interval_ms,
        latency_intervals_ms={},
    )


def _complete(request: FleetRequest, effort: Effort | None) -> Json:
    """A request with every default filled in (see ``told_effort``)."""
    members = [
        {
            "device": member.device,
            "constraints": limits_json(member.constraints),
            "weight": member.weight,
        }
        for member in request.members
    ]
    return {
        "supernet": request.supernet,
        "members": members,
        "subnets": request.subnets,
        "seed": request.seed,
        "effort": effort_json(effort),
    }


def _answer(found: FleetResult, subnet_ids: list[str], grounds: list[Ground]) -> Json:
    serves: dict[int, list[int]] = {}
    for place, member in enumerate(found.members):
        serves.setdefault(member.subnet, []).append(place)
    return {
        "architectures": [
            {
                "architecture": subnet.architecture.to_json(),
                "top1": subnet.top1,
                "members": serves.get(place, []),
            }
            for place, subnet in enumerate(found.subnets)
        ],
        "members": [
            {
                "architecture": member.subnet,
                "subnet": subnet_id,
                "alone_top1": member.alone_top1,
                "cost_top1": member.alone_top1 - member.top1,
            }
            for member, subnet_id in zip(found.members, subnet_ids, strict=True)
        ],
        "mean_top1": found.mean_top1,
        "by_subnets": [
            {"subnets": count, "mean_top1": mean, "cost_top1": cost}
            for count, (mean, cost) in enumerate(zip(found.by_subnets, found.costs, strict=True), 1)
        ],
        "exact": found.exact,
        "evaluations": found.evaluations,
        "tables": [base.main.revision if base.main else None for base in grounds],
    }
