"""The store: every query of the service, on SQLite and PostgreSQL alike; one room for each noun.

Rows leave as detached ``orm`` objects: read them, never write to them. A method that changes
something is one transaction.
"""

from __future__ import annotations

from bespoke.service.store.agents import Agents
from bespoke.service.store.archives import ArchiveKey, Archives
from bespoke.service.store.artifacts import Artifacts
from bespoke.service.store.campaigns import Campaigns, EntryModel
from bespoke.service.store.database import new_id
from bespoke.service.store.datasets import Datasets, ShardState
from bespoke.service.store.devices import Devices
from bespoke.service.store.jobs import Jobs
from bespoke.service.store.keys import Keys
from bespoke.service.store.leases import LeasedEntry, Leases, MeasuredEntry, Reported
from bespoke.service.store.searches import Searches
from bespoke.service.store.tables import Tables, TableToKeep, read_table
from bespoke.service.store.verifications import Verifications
from bespoke.service.store.workers import Workers

__all__ = [
    "ArchiveKey",
    "EntryModel",
    "LeasedEntry",
    "MeasuredEntry",
    "Reported",
    "ShardState",
    "Store",
    "TableToKeep",
    "new_id",
    "read_table",
]


class Store(
    Keys,
    Devices,
    Tables,
    Campaigns,
    Leases,
    Agents,
    Artifacts,
    Archives,
    Searches,
    Verifications,
    Datasets,
    Jobs,
    Workers,
):
    """All that the service remembers, but for the artifacts' bytes."""
