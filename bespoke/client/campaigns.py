"""Campaigns: how a device is profiled, and checked."""

from __future__ import annotations

from collections.abc import Iterator

from bespoke.client.devices import device_path
from bespoke.client.sending import RETRIED_STATUS, Json, Sender, part, pause_s
from bespoke.supernet.errors import ApiError, Unavailable

__all__ = ["Campaigns"]


class Campaigns(Sender):
    """Campaigns and checks of a device."""

    def create_campaign(
        self,
        device_id: str,
        supernet: str,
        effort: str = "quick",
        *,
        base: bool | None = None,
        remeasure: bool | None = None,
    ) -> Json:
        """Start profiling a device for a supernet.

        Args:
            device_id: The device.
            supernet: Whose ops are to be measured.
            effort: ``quick``, ``standard`` or ``thorough``.
            base: Whether ops that the serving table measured are taken from it; so they are unless
                it is stale.
            remeasure: Whether all ops are measured again.
        """
        optional = {"base": base, "remeasure": remeasure}
        body: Json = {"supernet": supernet, "effort": effort}
        body |= {name: value for name, value in optional.items() if value is not None}
        return self._json("POST", f"{device_path(device_id)}/campaigns", body=body)

    def create_check(self, device_id: str, supernet: str) -> Json:
        """Have the sentinels of a device's table measured again: a small campaign.

        Once it has succeeded, its ``check`` says whether the table is ``stale``.
        """
        return self._json("POST", f"{device_path(device_id)}/checks", body={"supernet": supernet})

    def campaigns(self, device_id: str) -> list[Json]:
        """The newest 100 of a device's campaigns and checks, newest first."""
        return list(self._json("GET", f"{device_path(device_id)}/campaigns")["items"])

    def campaign(self, device_id: str, campaign_id: str) -> Json:
        """One campaign and its progress."""
        return self._json("GET", f"{device_path(device_id)}/campaigns/{part(campaign_id)}")

    def campaign_events(self, device_id: str, campaign_id: str) -> Iterator[Json]:
        """One campaign each time that it changes, until it is over; the last one is its end.

        A stream that breaks or is closed, or a gateway that fails, is tried again, with growing pauses.

        Raises:
            ApiError: The service refuses it.
            Unavailable: As many tries in a row brought no event.
        """
        path = f"{device_path(device_id)}/campaigns/{part(campaign_id)}/events"
        attempt = 0
        while True:
            failed: ApiError | Unavailable = Unavailable(
                f"GET {path}: closed without an event; is this Bespoke?"
            )
            try:
                for event, data in self._events(path):
                    attempt = 0
                    yield data
                    if event == "done":
                        return
            except (ApiError, Unavailable) as error:
                if isinstance(error, ApiError) and error.status not in RETRIED_STATUS:
                    raise
                failed = error
            if attempt >= self._attempts:
                raise failed
            attempt += 1
            self._sleep(pause_s(attempt))

    def resume_campaign(self, device_id: str, campaign_id: str) -> Json:
        """Take up a cancelled or failed campaign: only what is missing is measured."""
        path = f"{device_path(device_id)}/campaigns/{part(campaign_id)}/resume"
        return self._json("POST", path)

    def cancel_campaign(self, device_id: str, campaign_id: str) -> Json:
        """Stop a campaign; what was measured is kept."""
        path = f"{device_path(device_id)}/campaigns/{part(campaign_id)}/cancel"
        return self._json("POST", path, idempotent=True)
