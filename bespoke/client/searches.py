"""Searches and fleets: limits in, subnets out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bespoke.client.sending import Json, Sender, part

__all__ = ["Searches"]


class Searches(Sender):
    """Searches and fleets."""

    def search(
        self,
        supernet: str,
        constraints: Mapping[str, float | Mapping[str, float]],
        device: str | None = None,
        *,
        devices: Mapping[str, Mapping[str, Any]] | None = None,
        restrict: Mapping[str, Any] | None = None,
        min_top1: float | None = None,
        minimise: str | None = None,
        alternatives: int | None = None,
        pareto: bool | Sequence[str] = False,
        verify: str | None = None,
        seed: int | None = None,
        effort: Mapping[str, int] | None = None,
    ) -> Json:
        """Search the subnet with the best predicted top-1 within limits.

        Args:
            supernet: Name in the zoo.
            constraints: Upper limits by metric: ``latency_ms``, ``macs``, ``flops`` (2 x MACs),
                ``params``, ``peak_memory_bytes``, ``model_size_bytes``. A latency's may be
                ``{"limit": ms, "confidence": 0.95}``, which limits the interval's upper end.
            device: Id of a profiled device, the main one; needed for ``latency_ms``.
            devices: Limits of further devices by their ids, e.g. ``{"dev_1": {"latency_ms": 9}}``.
            restrict: The choices that are left, e.g. ``{"resolution": 160, "kernel": [3, 5]}``.
            min_top1: Least predicted top-1; then ``minimise`` is made as small as can be.
            minimise: A metric; the latency of ``device`` unless given.
            alternatives: How many other subnets near the optimum.
            pareto: Whether to find the whole front as well, or which two or three metrics it trades.
            verify: ``measured`` or ``accuracy``: measure the best few as well.
            seed: One seed, one answer.
            effort: ``{"population": ..., "generations": ...}``.

        Raises:
            ApiError: Among others with slug ``budget-infeasible``; its problem carries
                ``feasible``, ``nearest``, ``conflicts`` and ``relax``.
        """
        front = pareto if isinstance(pareto, bool) else {"metrics": list(pareto)}
        optional = {
            "device": device,
            "devices": devices,
            "restrict": restrict,
            "min_top1": min_top1,
            "minimise": minimise,
            "alternatives": alternatives,
            "pareto": front or None,
            "verify": verify,
            "seed": seed,
            "effort": effort,
        }
        # An empty mapping says what its absence says; a seed of 0 is told as it came.
        body: Json = {"supernet": supernet, "constraints": dict(constraints)}
        body |= {name: value for name, value in optional.items() if value not in (None, {})}
        return self._json("POST", "/v1/searches", body=body)

    def search_result(self, search_id: str) -> Json:
        """One earlier search."""
        return self._json("GET", f"/v1/searches/{part(search_id)}")

    def replay(self, search_id: str) -> Json:
        """Search again on exactly the revisions of then: the same answer.

        Raises:
            ApiError: Among others with slug ``replay-differs``; its problem's ``changed`` says what.
        """
        return self._json("POST", f"/v1/searches/{part(search_id)}/replay", idempotent=True)

    def fleet(
        self,
        supernet: str,
        members: Sequence[Mapping[str, Any]],
        subnets: int = 1,
        *,
        seed: int | None = None,
        effort: Mapping[str, int] | None = None,
    ) -> Json:
        """Find the few architectures that together serve several devices best.

        Args:
            supernet: Name in the zoo.
            members: ``{"device": id, "constraints": limits}`` each; ``weight`` where one counts more.
            subnets: How many different architectures at most; 1 is one for all.
            seed: One seed, one answer.
            effort: ``{"population": ..., "generations": ...}``.

        Raises:
            ApiError: Among others with slug ``budget-infeasible``.
        """
        optional = {"seed": seed, "effort": effort}
        body: Json = {"supernet": supernet, "members": list(members), "subnets": subnets}
        body |= {name: value for name, value in optional.items() if value is not None}
        return self._json("POST", "/v1/fleets", body=body)

    def fleet_result(self, fleet_id: str) -> Json:
        """What was answered for a fleet."""
        return self._json("GET", f"/v1/fleets/{part(fleet_id)}")
