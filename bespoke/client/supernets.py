"""Supernets: what can be searched."""

from __future__ import annotations

from bespoke.client.sending import Json, Sender, part

__all__ = ["Supernets"]


class Supernets(Sender):
    """Supernets of the zoo."""

    def supernets(self) -> list[Json]:
        """All supernets of the zoo."""
        return list(self._json("GET", "/v1/supernets")["items"])

    def supernet(self, name: str) -> Json:
        """One supernet: its space, its card, and what is feasible on each profiled device."""
        return self._json("GET", f"/v1/supernets/{part(name)}")
