"""The catalogue: supernets, predictors and prices, opened once and kept. Paper wing only."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from bespoke.latency_tables import LatencyTable, TablePricer
from bespoke.predictors.accuracy import AccuracyPredictor, read_predictor
from bespoke.search.evaluator import feasible_ranges
from bespoke.service.orm import StoredTable
from bespoke.service.store import Store, read_table
from bespoke.supernet import zoo
from bespoke.supernet.errors import (
    Conflict,
    DeviceNotProfiled,
    FileInvalid,
    NotFound,
    TableIncomplete,
    Unavailable,
)

__all__ = ["Catalogue", "Ranges"]

T = TypeVar("T")
Ranges = dict[str, list[float]]

KEPT = 256

ENTRY_FILES = (*zoo.NEEDED, zoo.STATISTICS, "card.json")
PREDICTOR_FILES = ("predictor.json", "predictor.safetensors")

logger = logging.getLogger(__name__)


class Catalogue:
    """What searches read, by supernet digest and table revision. Safe to use from several threads."""

    def __init__(self, store: Store, root: Path | None = None) -> None:
        """Read supernets from a zoo folder, or the bundled ones, and tables from the store."""
        self._store, self._root = store, root or zoo.ROOT
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.RLock()

    def names(self) -> tuple[str, ...]:
        """The supernets that there are."""
        return zoo.names(self._root)

    def entry(self, name: str) -> zoo.ZooEntry:
        """A supernet, read again where its files have changed: a new one is served without a restart.

        Raises:
            NotFound: There is no such supernet.
        """
        return self._once(
            ("entry", name, _stamps(self._root / name, ENTRY_FILES)), lambda: zoo.entry(name, self._root)
        )

    def unchanged(self, name: str, digest: str, since: str) -> zoo.ZooEntry:
        """The very supernet that something was made of.

        Args:
            name: The supernet's.
            digest: Which one it was.
            since: What was made of it, and what to do where it is another one.

        Raises:
            NotFound: There is no such supernet.
            Conflict: It is another one by now.
        """
        entry = self.entry(name)
        if entry.digest != digest:
            raise Conflict(f"supernet {name!r} has changed since {since}")
        return entry

    def entries(self) -> list[zoo.ZooEntry]:
        """All supernets; one that is damaged, as while it is being copied, is passed over and logged."""
        found = []
        for name in self.names():
            try:
                found.append(self.entry(name))
            except (FileInvalid, NotFound) as error:
                logger.warning("supernet %s is left out: %s", name, error)
        return found

    def predictor(self, name: str) -> AccuracyPredictor:
        """The accuracy predictor of a supernet.

        Raises:
            Unavailable: The supernet came without one.
        """
        return self.predictor_of(self.entry(name))

    def predictor_of(self, entry: zoo.ZooEntry) -> AccuracyPredictor:
        """See ``predictor``."""
        if not (entry.folder / "predictor.json").is_file():
            raise Unavailable(f"supernet {entry.name!r} has no accuracy predictor: it cannot be searched")
        return self._once(
            ("predictor", entry.digest, _stamps(entry.folder, PREDICTOR_FILES)),
            lambda: read_predictor(entry.folder / "predictor.json", entry.space),
        )

    def table(self, device_id: str, supernet: str) -> LatencyTable:
        """The table that serves a device for a supernet.

        Raises:
            DeviceNotProfiled: There is none.
        """
        return self.read(self.serving(device_id, supernet))

    def serving(self, device_id: str, supernet: str) -> StoredTable:
        """The row of the table that serves a device for a supernet, without its content.

        Raises:
            NotFound: There is no such device.
            DeviceNotProfiled: There is none.
        """
        row = self._store.serving_state(device_id, supernet)
        if row is None:
            self._store.device(device_id)
            raise DeviceNotProfiled(device_id, supernet)
        return row

    def read(self, row: StoredTable) -> LatencyTable:
        """The table of a row."""
        return self._once(
            ("table", row.id), lambda: LatencyTable.from_json(read_table(self._store.table_by_id(row.id)))
        )

    def pricer(self, supernet: str, table: LatencyTable) -> TablePricer:
        """A table's prices for populations of a supernet's space.

        Raises:
            TableIncomplete: The table lacks ops of the space.
        """
        return self.pricer_of(self.entry(supernet), table)

    def pricer_of(self, entry: zoo.ZooEntry, table: LatencyTable) -> TablePricer:
        """See ``pricer``."""
        return self._once(
            ("pricer", entry.digest, table.revision, table.profile.digest), lambda: table.pricer(entry.space)
        )

    def ranges(self, supernet: str) -> Ranges:
        """Smallest and largest value of each metric that needs no device."""
        entry = self.entry(supernet)
        return self._once(("ranges", entry.digest), lambda: _listed(feasible_ranges(entry.space, None)))

    def device_ranges(self, supernet: str) -> dict[str, Ranges]:
        """Smallest and largest value of each metric, by each device that was profiled for it.

        A device is left out whose table lacks ops: it was made for what the supernet was before.
        """
        found: dict[str, Ranges] = {}
        for device in self._store.devices():
            row = self._store.latest_table(device.id, supernet)
            if row is not None:
                with suppress(TableIncomplete):
                    found[device.id] = self._ranges(supernet, self.read(row))
        return found

    def _ranges(self, supernet: str, table: LatencyTable) -> Ranges:
        entry, pricer = self.entry(supernet), self.pricer(supernet, table)
        return self._once(
            ("ranges", entry.digest, table.revision, table.profile.digest),
            lambda: _listed(feasible_ranges(entry.space, pricer, precision=table.profile.model_precision)),
        )

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            value: T = self._kept[key]
            return value


def _stamps(folder: Path, files: tuple[str, ...]) -> tuple[tuple[int, int, int] | None, ...]:
    """What tells that a file is another one than before: cheap enough to ask for at every request."""
    return tuple([_stamp(f"{folder}{os.sep}{name}") for name in files])


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - to make a Path takes longer than to look
    except (OSError, ValueError):  # None there; or the name is none that a file can have.
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _listed(ranges: dict[str, tuple[float, float]]) -> Ranges:
    return {metric: list(pair) for metric, pair in ranges.items()}
