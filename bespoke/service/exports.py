"""Latency tables as files to download."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.responses import Response

from bespoke.latency_tables import LatencyTable, csv_text, write_official
from bespoke.latency_tables.plot import plot_quality
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import Conflict

__all__ = ["as_csv", "as_json", "as_official", "quality_plot"]

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip file knows: the same table gives the same bytes."""


def as_json(content: Mapping[str, Any]) -> Response:
    """A table in our JSON."""
    return Response(json.dumps(content), media_type="application/json")


def as_csv(table: LatencyTable) -> Response:
    """A table as CSV."""
    return _file(csv_text(table).encode(), "text/csv", f"{table.revision[:12]}.csv")


def as_official(table: LatencyTable, space: SearchSpace) -> Response:
    """A table as published Once-for-All YAML, one file a resolution, in a zip file.

    Raises:
        BespokeError: That format cannot hold the table.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_official(table, space, Path(folder))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(Path(folder).rglob("*.yaml")):
                member = zipfile.ZipInfo(str(path.relative_to(folder)), _EPOCH)
                archive.writestr(member, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return _file(packed.getvalue(), "application/zip", f"{table.revision[:12]}.zip")


def quality_plot(table: LatencyTable) -> Response:
    """Predicted against measured latency of a table's held-out networks, as PNG.

    Raises:
        Conflict: The table was never compared with whole networks, or by a version that kept no points.
        Unavailable: Matplotlib is not installed.
    """
    if table.quality is None or not table.quality.points:
        raise Conflict(
            f"table {table.revision[:12]} tells no pairs of predicted and measured networks: there is "
            "nothing to draw; start a campaign"
        )
    picture = plot_quality(table.quality, table.label, table.interval)
    return Response(picture, media_type="image/png")


def _file(content: bytes, media_type: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=media_type, headers=headers)
