"""Questions: a request, and what of this moment its answer follows from, as a problem to search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from bespoke.latency_tables import LatencyTable
from bespoke.predictors.accuracy import AccuracyPredictor
from bespoke.search.problem import Constraint, Effort, Problem
from bespoke.search.restriction import restrict
from bespoke.service.orm import StoredTable
from bespoke.service.schemas import Constraints, SearchRequest
from bespoke.service.schemas.searches import Effort as AskedEffort
from bespoke.service.schemas.searches import LatencyLimit
from bespoke.service.schemas.subnets import Precision
from bespoke.service.workplace import Workplace
from bespoke.supernet.errors import ConstraintInvalid
from bespoke.supernet.zoo import ZooEntry

__all__ = [
    "Ground",
    "check_effort",
    "complete",
    "effort_json",
    "ground",
    "limits_json",
    "limits_of",
    "names_effort",
    "objectives",
    "precision_of",
    "problem",
    "told_effort",
    "unlimited",
]

Json = dict[str, Any]

MOST_STEPS, MOST_WIDE_STEPS = 100_000, 10_000
"""Population x generations of a search, and of a front or a fleet: the former two take six seconds of CPU,
a search for a least top-1 some twenty."""


@dataclass(frozen=True)
class Ground:
    """What an answer follows from, beside its request.

    Attributes:
        entry: The supernet.
        predictor: Its accuracy predictor.
        main: The main device's table; None without one.
        others: Tables of the further devices, by their ids.
        precision: Of the models.
    """

    entry: ZooEntry
    predictor: AccuracyPredictor
    main: LatencyTable | None
    others: Mapping[str, LatencyTable]
    precision: Precision

    def revisions(self, device: str | None) -> dict[str, str]:
        """The tables' revisions by device.

        Args:
            device: Id of the main device.
        """
        found = {name: table.revision for name, table in self.others.items()}
        return {device: self.main.revision, **found} if device and self.main else found


def _precision(tables: Iterable[LatencyTable]) -> Precision:
    """Of the models for devices with these tables; fp32 without any.

    Raises:
        ConstraintInvalid: They differ, so that no one model serves all.
    """
    found = {precision_of(table) for table in tables}
    if len(found) > 1:
        allowed = "devices of one precision; POST /v1/fleets gives each its own model"
        raise ConstraintInvalid("devices", sorted(found), allowed)
    return found.pop() if found else "fp32"


def precision_of(table: LatencyTable) -> Precision:
    """The precision of models for a table's device; fp32 where its own cannot be written."""
    return cast(Precision, table.profile.model_precision)


def ground(place: Workplace, request: SearchRequest, revisions: Mapping[str, str] | None = None) -> Ground:
    """Find what a request's answer follows from.

    Args:
        place: The workplace.
        request: The request.
        revisions: Of the devices' tables; those that serve now where none are given.

    Raises:
        NotFound: There is no such supernet, device, or revision.
        DeviceNotProfiled: A device has no table for the supernet.
        ConstraintInvalid: A latency is limited, and no device is named, or one is named twice.
        Unavailable: The supernet has no predictor.
    """
    if request.device is None and request.constraints.latency_ms is not None:
        limit = request.constraints.latency_ms.limit
        raise ConstraintInvalid("latency_ms", limit, "a latency limit only together with a device")
    if request.device in request.devices:
        raise ConstraintInvalid("devices", request.device, "the main device in `device` only")
    catalogue = place.catalogue
    entry = catalogue.entry(request.supernet)
    predictor = catalogue.predictor_of(entry)
    tables = {
        device: catalogue.read(_row(place, device, request.supernet, revisions))
        for device in [*([request.device] if request.device else []), *request.devices]
    }
    return Ground(
        entry=entry,
        predictor=predictor,
        main=tables[request.device] if request.device else None,
        others={device: tables[device] for device in request.devices},
        precision=_precision(tables.values()),
    )


def _row(place: Workplace, device: str, supernet: str, revisions: Mapping[str, str] | None) -> StoredTable:
    if revisions is None:
        return place.catalogue.serving(device, supernet)
    place.store.device(device)
    return place.store.table(device, revisions[device])


def check_effort(asked: AskedEffort, wide: bool) -> None:
    """See that an effort can be made while a request waits.

    Args:
        asked: The effort.
        wide: Whether it is for a front or a fleet and not for one answer.

    Raises:
        ConstraintInvalid: It is too much.
    """
    effort, most = _effort(asked), MOST_WIDE_STEPS if wide else MOST_STEPS
    if effort.population * effort.generations > most:
        allowed = f"population x generations up to {most:,}; for more, `bespoke` searches on your own machine"
        raise ConstraintInvalid("effort", f"{effort.population} x {effort.generations}", allowed)


def names_effort(asked: AskedEffort) -> bool:
    """Whether a request says how long to search; who names nothing is answered by what is known."""
    return any(value is not None for _, value in asked)


def told_effort(asked: AskedEffort, made: Effort, *origins: Json | None) -> Effort | None:
    """The effort to keep with an answer: none where a request named none, and archives had a part in it."""
    return None if any(origins) and not names_effort(asked) else made


def _effort(asked: AskedEffort) -> Effort:
    return Effort(**asked.model_dump(exclude_none=True))


def problem(place: Workplace, ground: Ground, request: SearchRequest) -> Problem:
    """The problem that a request poses.

    Raises:
        ConstraintInvalid: The request contradicts itself.
        ArchitectureInvalid: The space has no such dimension or choice to restrict.
        TableIncomplete: A table lacks ops of the space.
    """
    if request.pareto is not None and request.min_top1 is not None:
        raise ConstraintInvalid("pareto", list(objectives(request) or ()), "a front, or min_top1: not both")
    pricers = {
        device: place.catalogue.pricer_of(ground.entry, table) for device, table in ground.others.items()
    }
    named = [
        Constraint("latency_ms", limits.latency_ms.limit, limits.latency_ms.confidence, device)
        for device, limits in request.devices.items()
        if limits.latency_ms
    ]
    whole = Problem(
        space=ground.entry.space,
        predictor=ground.predictor,
        constraints=(*limits_of(request.constraints), *named),
        latency=place.catalogue.pricer_of(ground.entry, ground.main) if ground.main else None,
        devices=pricers,
        seed=request.seed,
        effort=_effort(request.effort),
        min_top1=request.min_top1,
        minimise=_minimise(request),
        alternatives=request.alternatives,
        precision=ground.precision,
    )
    return restrict(whole, _allowed(request))


def unlimited(place: Workplace, ground: Ground) -> Problem:
    """The question for anything on the main device, or on none: what an archive is of.

    Raises:
        TableIncomplete: The table lacks ops of the space.
    """
    return Problem(
        space=ground.entry.space,
        predictor=ground.predictor,
        latency=place.catalogue.pricer_of(ground.entry, ground.main) if ground.main else None,
        precision=precision_of(ground.main) if ground.main else "fp32",
    )


def limits_of(constraints: Constraints) -> tuple[Constraint, ...]:
    """The limits of a request on its main device."""
    found = []
    for metric, value in constraints:
        if isinstance(value, LatencyLimit):
            found.append(Constraint(metric, value.limit, value.confidence))
        elif value is not None:
            found.append(Constraint(metric, value))
    return tuple(found)


def _minimise(request: SearchRequest) -> str | None:
    if request.min_top1 is None:
        return request.minimise
    return request.minimise or ("macs" if request.device is None else "latency_ms")


def _allowed(request: SearchRequest) -> dict[str, list[float]]:
    """Choices by dimension; true and false are the choices 1 and 0."""
    return {
        name: [int(one) if isinstance(one, bool) else one for one in _several(choices)]
        for name, choices in request.restrict.items()
    }


def _several(choices: float | Sequence[float]) -> Sequence[float]:
    return choices if isinstance(choices, Sequence) else [choices]


def objectives(request: SearchRequest) -> tuple[str, ...] | None:
    """What the front that a request asks for trades; None where it asks for none."""
    if request.pareto is None:
        return None
    if request.pareto.metrics is None:
        return ("top1", "latency_ms" if request.device else "macs")
    return tuple(request.pareto.metrics)


def complete(request: SearchRequest, effort: Effort | None) -> Json:
    """A request with every default filled in: asked again, it is the same question.

    Args:
        request: The request.
        effort: Of the search; None for one that is answered without, and asks for none.
    """
    metrics = objectives(request)
    return {
        "supernet": request.supernet,
        "device": request.device,
        "constraints": limits_json(request.constraints),
        "devices": {
            device: {} if limits.latency_ms is None else {"latency_ms": _limit_json(limits.latency_ms)}
            for device, limits in request.devices.items()
        },
        "restrict": _allowed(request),
        "min_top1": request.min_top1,
        "minimise": _minimise(request),
        "alternatives": request.alternatives,
        "pareto": None if metrics is None else {"metrics": list(metrics)},
        "seed": request.seed,
        "effort": effort_json(effort),
        "verify": request.verify,
    }


def effort_json(effort: Effort | None) -> Json:
    """An effort as it is stored; to name none is to ask for what archives know."""
    return {"population": effort.population, "generations": effort.generations} if effort else {}


def limits_json(constraints: Constraints) -> Json:
    """Limits as they are stored: a number where that says it all."""
    return {
        name: _limit_json(value) if isinstance(value, LatencyLimit) else value
        for name, value in constraints
        if value is not None
    }


def _limit_json(limit: LatencyLimit) -> float | Json:
    return limit.limit if limit.confidence is None else limit.model_dump()
