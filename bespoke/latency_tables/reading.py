"""Reads a latency table, whichever of the known formats its files are in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bespoke.latency_tables.exchange import read_csv
from bespoke.latency_tables.official import read_official, tells_nothing
from bespoke.latency_tables.table import LatencyStat, LatencyTable, checked
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.ops import OpKey

OURS: Mapping[str, Callable[[Path], LatencyTable]] = {".json": LatencyTable.load, ".csv": read_csv}
PUBLISHED = (".yaml", ".yml")


def read_table(paths: Sequence[Path]) -> LatencyTable:
    """Read a latency table from files or folders, and merge several into one.

    Args:
        paths: Ours (``.json`` or ``.csv``) or published Once-for-All tables (``.yaml``, one a
            resolution), or folders of either.

    Raises:
        FileInvalid: A file cannot be read, is neither, or does not fit the others.
    """
    files = [file for path in paths for file in _table_files(Path(path))]
    if not files:
        raise FileInvalid(", ".join(map(str, paths)) or "no path", "expected at least one latency table")
    published = [file for file in files if file.suffix in PUBLISHED]
    if not published:
        return _merge([(file, OURS[file.suffix](file)) for file in files])
    if len(published) < len(files):
        ours = next(file for file in files if file.suffix in OURS)
        raise FileInvalid(
            ours, f"a {ours.suffix} table cannot be merged with published .yaml tables; give one kind"
        )
    return read_official(published)


def _table_files(path: Path) -> list[Path]:
    suffixes = (*OURS, *PUBLISHED)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in suffixes)
        if not found:
            raise FileInvalid(path, f"the folder holds no latency table (no {', '.join(suffixes)} file)")
        return found
    if not path.is_file():
        raise FileInvalid(path, "no such file or folder; expected a latency table")
    if path.suffix not in suffixes:
        raise FileInvalid(path, f"expected a latency table ending in {', '.join(suffixes)}")
    return [path]


def _merge(tables: Sequence[tuple[Path, LatencyTable]]) -> LatencyTable:
    """One table of several; of an op that two have, the one with more samples."""
    (first, merged), *others = tables
    for path, table in others:
        if tells_nothing(table.profile):
            _check_same_device(first, merged, path, table)
        if table.profile.digest != merged.profile.digest:
            raise FileInvalid(path, f"is of another device profile than {first}; tables do not mix")
        if (table.correction, table.statistic) != (merged.correction, merged.statistic):
            raise FileInvalid(path, f"has another correction than {first}; profile one space for both")
        if (table.source, table.networks) != (merged.source, merged.networks):
            raise FileInvalid(path, f"was made in another way than {first}; profile one space for both")
        same = (table.quality, table.audit) == (merged.quality, merged.audit)
        sides = {*merged.by_resolution, *table.by_resolution}
        merged = replace(
            merged,
            stats=_by_samples(merged.stats, table.stats),
            quality=merged.quality if same else None,
            interval=max(merged.interval, table.interval),
            by_resolution={
                side: _by_samples(merged.by_resolution.get(side, {}), table.by_resolution.get(side, {}))
                for side in sides
            },
            provisional=merged.provisional or table.provisional,
            audit=merged.audit if same else None,
        )
        try:
            checked(merged)
        except InvalidInput as error:
            raise FileInvalid(path, f"does not fit to {first}; {error}") from error
    return merged


def _by_samples(
    one: Mapping[OpKey, LatencyStat], other: Mapping[OpKey, LatencyStat]
) -> dict[OpKey, LatencyStat]:
    """The stats of both; of an op that both have, the one with more samples."""
    return dict(sorted([*one.items(), *other.items()], key=lambda item: item[1].samples))


def _check_same_device(first: Path, merged: LatencyTable, path: Path, table: LatencyTable) -> None:
    """Refuse a file that contradicts another one, where neither says what device it is of."""
    for key in merged.stats.keys() & table.stats.keys():
        if merged.stats[key] != table.stats[key]:
            raise FileInvalid(
                path,
                f"has op {key} at {table.stats[key].median_ms:g} ms, and {first} at "
                f"{merged.stats[key].median_ms:g} ms; neither says what device it is of, and one table is of "
                "one device: give the files of one, and of these one for each op",
            )
