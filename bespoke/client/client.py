"""Client: the service's REST API as methods; one room for each noun, and one for how a call is sent."""

from __future__ import annotations

from bespoke.client.campaigns import Campaigns
from bespoke.client.datasets import Datasets
from bespoke.client.devices import Devices
from bespoke.client.leases import Leases
from bespoke.client.searches import Searches
from bespoke.client.sending import Json, part
from bespoke.client.subnets import Subnets
from bespoke.client.supernets import Supernets

__all__ = ["Client"]


class Client(Supernets, Datasets, Devices, Campaigns, Leases, Searches, Subnets):
    """One method per endpoint of the service.

    Methods return the answer's JSON as it came. They raise ``ApiError`` when the service answers
    with an error, and ``Unavailable`` when it cannot be reached or a download arrives broken.
    Safe to use from several threads.
    """

    # Health

    def healthz(self) -> Json:
        """Whether the process lives."""
        return self._json("GET", "/healthz")

    def readyz(self) -> Json:
        """Whether the service can answer: database, artifacts, worker."""
        return self._json("GET", "/readyz")

    # Jobs

    def job(self, job_id: str) -> Json:
        """One job: state, progress, result or error."""
        return self._json("GET", f"/v1/jobs/{part(job_id)}")
