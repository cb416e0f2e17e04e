"""Revisions of latency tables that no campaign makes: imported ones, and provisional ones of few samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bespoke.latency_tables import DeviceProfile, LatencyTable
from bespoke.latency_tables.files import parse_json
from bespoke.predictors.blas import one_thread
from bespoke.service.orm import StoredTable
from bespoke.service.store import TableToKeep
from bespoke.service.workplace import Workplace
from bespoke.supernet.architecture import Architecture
from bespoke.supernet.errors import Conflict, InvalidInput, TableIncomplete

__all__ = ["few_shot", "few_shot_choice", "import_table", "to_keep"]


def to_keep(table: LatencyTable) -> TableToKeep:
    """A table as the store keeps it."""
    return TableToKeep(table.revision, table.source, table.provisional, table.to_json())


def import_table(place: Workplace, device_id: str, supernet: str, text: bytes) -> tuple[StoredTable, bool]:
    """Keep a table that was made elsewhere for this very device profile.

    Args:
        place: The workplace.
        device_id: The device.
        supernet: The supernet whose ops the table must hold.
        text: A table's JSON, as ``LatencyTable.to_json`` or the API gave it.

    Returns:
        The row, and whether it is new.

    Raises:
        NotFound: There is no such device or supernet.
        InvalidInput: The JSON is no table, lacks ops of the supernet, or is not what its own
            ``revision`` says.
        Conflict: The table is of another device profile.
    """
    device, space = place.store.device(device_id), place.catalogue.entry(supernet).space
    data = parse_json(text)
    table = LatencyTable.from_json(data)
    _check_profile(table, device_id, DeviceProfile.from_json(device.profile))
    claimed = data.get("revision", table.revision)
    if claimed != table.revision:
        raise InvalidInput(
            f"latency table: got revision {claimed!r}, but its content has {table.revision!r}: it was "
            "changed on its way"
        )
    try:
        table.pricer(space)
    except TableIncomplete as error:
        raise InvalidInput(str(error)) from error
    return place.store.add_table(device_id, supernet, to_keep(table))


def _check_profile(table: LatencyTable, device_id: str, profile: DeviceProfile) -> None:
    if table.profile.digest == profile.digest:
        return
    theirs, ours = table.profile.to_json(), profile.to_json()
    differs = [name for name in ours if name != "device" and theirs[name] != ours[name]]
    raise Conflict(
        f"the table is of another device profile than device {device_id!r} (they differ in "
        f"{', '.join(differs)}): enrol the table's own profile, or profile this device"
    )


def few_shot(
    place: Workplace, device_id: str, supernet: str, samples: Sequence[Mapping[str, Any]]
) -> tuple[StoredTable, bool]:
    """Make a provisional table of a few measured networks and the full tables of other devices.

    Args:
        place: The workplace.
        device_id: The new device.
        supernet: The supernet.
        samples: Architectures as JSON, each with its ``latency_ms``.

    Returns:
        The row, and whether it is new.

    Raises:
        NotFound: There is no such device or supernet.
        InvalidInput: A sample is wrong; the error names its line, counted from 1.
        Conflict: No other device has a full table for the supernet.
    """
    from bespoke.latency_tables.fewshot import few_shot_table
    from bespoke.latency_tables.fitting import read_samples

    device, space = place.store.device(device_id), place.catalogue.entry(supernet).space
    profile = DeviceProfile.from_json(device.profile)
    measured = read_samples([json.dumps(sample) for sample in samples], space)
    references = _references(place, device_id, supernet)
    with one_thread():
        table = few_shot_table(space, references, measured, profile)
    table.pricer(space)
    return place.store.add_table(device_id, supernet, to_keep(table))


def few_shot_choice(place: Workplace, device_id: str, supernet: str, count: int) -> list[Architecture]:
    """The networks to measure on a new device, of all that the supernet has.

    Raises:
        NotFound: There is no such device or supernet.
        Conflict: No other device has a full table for the supernet.
    """
    from bespoke.latency_tables.fewshot import choose_networks

    place.store.device(device_id)
    space = place.catalogue.entry(supernet).space
    references = _references(place, device_id, supernet)
    with one_thread():
        return choose_networks(space, references, count)


def _references(place: Workplace, device_id: str, supernet: str) -> list[LatencyTable]:
    """The full tables that serve the other devices for a supernet.

    Raises:
        Conflict: There is none.
    """
    rows = place.store.other_tables(device_id, supernet)
    if not rows:
        raise Conflict(
            f"no other device has a full latency table for {supernet!r}, so there is nothing to start from: "
            "start a campaign"
        )
    return [place.catalogue.read(row) for row in rows]
