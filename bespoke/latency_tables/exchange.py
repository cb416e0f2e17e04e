"""Tables for other programs: CSV for spreadsheets, and the published Once-for-All YAML.

A CSV file has one row an op:

    # {"rows": 481, "format": "bespoke-latency-table/1", "profile": {...}, "correction": {...}, ...}
    op,resolution,median_ms,low_ms,mean_ms,samples,rejected
    v1:pool:in3x3x960:out960,,0.0103,0.0097,0.0108,180,2

Its first line is a comment that holds everything of the table but its ops, as in our JSON, and how
many rows follow, so that a file that was cut off is found out. A file without it, e.g. one that
somebody typed, needs the columns ``op`` and ``median_ms`` only. ``resolution`` is filled where a
row holds at one input resolution only.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bespoke.latency_tables.files import parse_json, read_text
from bespoke.latency_tables.official import unknown_profile, write_official
from bespoke.latency_tables.plausibility import short
from bespoke.latency_tables.table import FORMAT, LatencyTable
from bespoke.supernet.errors import BespokeError, FileInvalid, InvalidInput
from bespoke.supernet.whole_files import write_file

__all__ = ["csv_text", "read_csv", "write_csv", "write_official"]

NUMBERS = ("median_ms", "low_ms", "mean_ms", "samples", "rejected")
COLUMNS = ("op", "resolution", *NUMBERS)
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def write_csv(table: LatencyTable, path: Path) -> None:
    """Write a table as CSV, whole or not at all; ``read_csv`` reads it back with its revision."""
    write_file(path, csv_text(table))


def csv_text(table: LatencyTable) -> str:
    """A table as the text of a CSV file."""
    data = table.to_json()
    stats, by_resolution = data.pop("stats"), data.pop("by_resolution", {})
    text = io.StringIO()
    head = {"rows": len(stats) + sum(map(len, by_resolution.values()))} | data
    text.write(f"# {json.dumps(head)}\n")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for resolution, entries in (("", stats), *by_resolution.items()):
        for key, stat in entries.items():
            rows.writerow([key, resolution, *(stat[name] for name in NUMBERS)])
    return text.getvalue()


def read_csv(path: Path) -> LatencyTable:
    """Read a table from CSV: one that ``write_csv`` wrote, or one with ``op`` and ``median_ms``.

    Where the first line tells nothing of the device, all of it is ``unknown`` but its label, which
    is the file's name.

    Raises:
        FileInvalid: Names the line, what came and what was expected.
    """
    text = read_text(path, "a latency table as CSV")
    try:
        head, body, first = _split(text)
        rows = _rows(body, first)
        _check_whole(head, rows, text)
        stats: dict[str, dict[str, dict[str, Any]]] = {"": {}}
        for number, row in rows:
            at = stats.setdefault(row["resolution"], {})
            if row["op"] in at:
                raise InvalidInput(f"line {number}: a second row of op {row['op']!r}")
            at[row["op"]] = _stat(number, row)
        plain = {
            "format": FORMAT,
            "profile": unknown_profile(path.stem, "CSV").to_json(),
            "statistic": "median",
            "correction": {"overhead_ms": 0.0, "scale": 1.0, "weights_ms_per_mb": 0.0},
            "interval": 0.0,
            "quality": None,
            "source": "published",
        }
        table = {**(plain if head is None else head), "stats": stats.pop("")}
        return LatencyTable.from_json(table | ({"by_resolution": stats} if stats else {}))
    except (BespokeError, csv.Error) as error:
        raise FileInvalid(path, f"expected a latency table as CSV; {error}") from error


def _split(text: str) -> tuple[dict[str, Any] | None, str, int]:
    """What the first line tells of the table, the rest, and the number of the rest's first line."""
    if not text.startswith("#"):
        return None, text, 1
    comment, _, body = text.partition("\n")
    head = parse_json(comment.lstrip("# "))
    if not isinstance(head, dict) or {"stats", "by_resolution"} & set(head):
        raise InvalidInput(f"line 1: got {comment[:80]!r}, expected an object with everything but the ops")
    return head, body, 2


def _check_whole(head: dict[str, Any] | None, rows: Sequence[object], text: str) -> None:
    """Hold the number of rows against what the first line told, where there is one."""
    if head is None:
        return
    told = head.pop("rows", None)
    if told != len(rows) or not text.endswith("\n"):
        raise InvalidInput(f"got {len(rows)} rows, the last one whole or not; line 1 tells of {short(told)}")


def _rows(body: str, first: int) -> list[tuple[int, dict[str, str]]]:
    """Each row by its columns, with the number of its line; empty lines are left out."""
    reader = csv.reader(io.StringIO(body), strict=True)
    columns = [name.strip() for name in next(reader, [])]
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown or len(set(columns)) < len(columns) or not {"op", "median_ms"} <= set(columns):
        raise InvalidInput(
            f"line {first}: got the columns {columns}, expected op, median_ms and of "
            f"{', '.join(COLUMNS)} whichever there are, each once"
        )
    found = []
    for values in reader:
        number = first - 1 + reader.line_num
        if not values:
            continue
        if len(values) != len(columns):
            raise InvalidInput(f"line {number}: got {len(values)} values, expected {len(columns)}")
        row = {name: value.strip() for name, value in zip(columns, values, strict=True)}
        found.append((number, {"resolution": ""} | row))
    return found


def _stat(number: int, row: Mapping[str, str]) -> dict[str, Any]:
    """One row's numbers; what it does not tell is as the median, or 0."""
    found: dict[str, Any] = {}
    for name in NUMBERS:
        text = row.get(name, "")
        count = not name.endswith("_ms")
        if not text:
            if name == "median_ms":
                raise InvalidInput(f"line {number}: got no median_ms, expected ms")
            found[name] = 0 if count else found["median_ms"]
        elif text.isascii() and text.isdecimal() and len(text) < 16:
            found[name] = int(text)  # of ms too, as JSON reads it: the revision tells 1 from 1.0
        elif not count and _DECIMAL.fullmatch(text):
            found[name] = float(text)
        else:
            raise InvalidInput(
                f"line {number}: got {name} {text!r}, expected {'a count' if count else 'a number of ms'}"
            )
    return found
