"""Answering a search in this process: request in, stored subnet out."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from bespoke.latency_tables import LatencyTable
from bespoke.search.evolution import search
from bespoke.search.problem import Candidate, Constraint, Effort, Problem
from bespoke.service.orm import Search, StoredSubnet
from bespoke.service.schemas import SearchRequest
from bespoke.service.workplace import Workplace
from bespoke.supernet.errors import ConstraintInvalid

__all__ = ["answer"]

# Length of a subnet's id in hex digits: 96 bits, so that ids never meet by chance.
ID_DIGITS = 24


def answer(place: Workplace, request: SearchRequest) -> tuple[Search, StoredSubnet]:
    """Search, and keep the search and its subnet.

    Raises:
        NotFound: There is no such supernet or device.
        DeviceNotProfiled: The device has no table for the supernet.
        ConstraintInvalid: A latency is limited, and no device is named.
        BudgetInfeasible: No architecture meets the limits.
    """
    started = time.perf_counter()
    entry = place.catalogue.entry(request.supernet)
    predictor = place.catalogue.predictor(request.supernet)
    table = _table(place, request)
    limits = request.constraints.model_dump(exclude_none=True)
    effort = Effort(**request.effort.model_dump(exclude_none=True))
    found = search(
        Problem(
            space=entry.space,
            predictor=predictor,
            constraints=tuple(Constraint(metric, limit) for metric, limit in limits.items()),
            latency=place.catalogue.pricer(request.supernet, table) if table else None,
            seed=request.seed,
            effort=effort,
        )
    )
    subnet = {
        "supernet": entry.name,
        "architecture": found.best.architecture.to_json(),
        "predicted": _predicted(found.best),
        "device_id": request.device,
        "statistics": "table",
        "table_revision": table.revision if table else None,
        "predictor_revision": predictor.revision,
        "supernet_digest": entry.digest,
    }
    return place.store.add_search(
        request=_complete(request, limits, effort),
        subnet={"id": _id(subnet), **subnet},
        evaluations=found.evaluations,
        generations=found.generations,
        duration_s=time.perf_counter() - started,
    )


def _table(place: Workplace, request: SearchRequest) -> LatencyTable | None:
    if request.device is None:
        if request.constraints.latency_ms is not None:
            raise ConstraintInvalid(
                "latency_ms", request.constraints.latency_ms, "a latency limit only together with a device"
            )
        return None
    place.store.device(request.device)
    return place.catalogue.table(request.device, request.supernet)


def _predicted(best: Candidate) -> dict[str, Any]:
    whole = ("macs", "flops", "params", "peak_memory_bytes", "model_size_bytes")
    return {
        # A predictor is no share by itself: far from what it was fitted on it may leave [0, 1].
        "top1": min(1.0, max(0.0, best.top1)),
        "top1_interval": list(best.top1_interval),
        "latency_ms": best.metrics.get("latency_ms"),
        "latency_interval_ms": list(best.latency_interval_ms) if best.latency_interval_ms else None,
        **{name: round(best.metrics[name]) for name in whole},
    }


def _complete(request: SearchRequest, limits: dict[str, float], effort: Effort) -> dict[str, Any]:
    return {
        "supernet": request.supernet,
        "device": request.device,
        "constraints": limits,
        "seed": request.seed,
        "effort": {"population": effort.population, "generations": effort.generations},
    }


def _id(subnet: dict[str, Any]) -> str:
    """Named by its content, so that the same answer is the same subnet and its model is made once."""
    text = json.dumps(subnet, sort_keys=True, separators=(",", ":"))
    return "sub_" + hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]
