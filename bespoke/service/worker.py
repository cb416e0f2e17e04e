"""A worker beside the API: runs jobs and holds the warm supernets, until it is told to stop."""

from __future__ import annotations

import logging
import threading

from bespoke.predictors.blas import one_thread
from bespoke.service.chores import chores
from bespoke.service.engines.embedded import EmbeddedEngine
from bespoke.service.migrations import upgrade
from bespoke.service.models import WarmModels
from bespoke.service.settings import Settings
from bespoke.service.workflows import workflows
from bespoke.service.workplace import open_workplace

__all__ = ["work"]

logger = logging.getLogger(__name__)


def work(settings: Settings, stop: threading.Event) -> None:
    """Work until ``stop`` is set.

    Args:
        settings: ``embedded_worker`` must be off, so that this worker has a name of its own.
        stop: Set by a signal's handler.
    """
    place = open_workplace(settings)
    upgrade(place.store.engine)
    models = WarmModels(settings, place.store, place.catalogue.names())
    engine = EmbeddedEngine(settings, place.store, workflows(place, models), chores(place))
    engine.start()
    logger.info("worker %s is ready", settings.worker)
    try:
        with one_thread():
            stop.wait()
    finally:
        engine.stop()
        models.stop()
        place.store.engine.dispose()
