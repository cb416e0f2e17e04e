"""The workplace: what every process of the service works with, opened from its settings."""

from __future__ import annotations

from dataclasses import dataclass

from bespoke.service.archive import Archives
from bespoke.service.artifacts import ArtifactStore, open_artifacts
from bespoke.service.catalogue import Catalogue
from bespoke.service.orm import open_database
from bespoke.service.settings import Settings
from bespoke.service.store import Store

__all__ = ["Workplace", "open_workplace"]


@dataclass(frozen=True)
class Workplace:
    """Settings, database, artifacts, catalogue and archives of one process."""

    settings: Settings
    store: Store
    artifacts: ArtifactStore
    catalogue: Catalogue
    archives: Archives


def open_workplace(settings: Settings) -> Workplace:
    """Open all of it; the database must have its tables (see ``migrations.upgrade``)."""
    store = Store(open_database(settings.database))
    catalogue, archives = Catalogue(store, settings.zoo), Archives(store)
    return Workplace(settings, store, open_artifacts(settings), catalogue, archives)
