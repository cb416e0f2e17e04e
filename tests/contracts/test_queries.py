"""SQL is in the store only: elsewhere in the service nobody opens a session or writes a query."""

from __future__ import annotations

import ast
from pathlib import Path

import bespoke

SERVICE = Path(bespoke.__file__).parent / "service"
QUERIES = {"select", "insert", "update", "delete", "text", "Session", "sessionmaker"}


def allowed(path: Path) -> bool:
    inside = path.relative_to(SERVICE)
    return inside.parts[0] in ("store", "migrations") or inside.name == "orm.py"


def queries(path: Path) -> set[str]:
    """Names from SQLAlchemy with which a file could query."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy"):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sa":
            names.add(node.attr)
    return names & QUERIES


def test_only_the_store_queries() -> None:
    files = [path for path in SERVICE.rglob("*.py") if not allowed(path)]
    assert len(files) > 20
    assert {str(path): found for path in files if (found := queries(path))} == {}


def test_the_store_would_be_caught_elsewhere() -> None:
    assert {"select", "update"} <= queries(SERVICE / "store" / "leases.py")
