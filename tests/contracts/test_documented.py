"""Wall 6: every endpoint and every command is documented."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from bespoke.cli import app
from bespoke.service.app import create_app
from bespoke.service.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"


def test_every_command_stands_in_the_documentation_and_explains_itself() -> None:
    text = (DOCS / "commands.md").read_text()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert commands
    for name, command in commands.items():
        assert f"`bespoke {name}`" in text, f"docs/commands.md lacks `bespoke {name}`"
        assert command.help or command.callback.__doc__, f"bespoke {name} has no help"


def test_every_documented_command_exists() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    documented = set(re.findall(r"^\| `bespoke (\w+)`", (DOCS / "commands.md").read_text(), re.MULTILINE))
    assert documented == set(commands)


def test_every_endpoint_stands_in_the_documentation_and_explains_itself(tmp_path: Path) -> None:
    text = (DOCS / "api.md").read_text()
    paths = create_app(Settings(var=tmp_path)).openapi()["paths"]
    assert paths
    for path, operations in paths.items():
        assert path in text, f"docs/api.md lacks {path}"
        for method, operation in operations.items():
            assert operation.get("summary") or operation.get("description"), f"{method} {path} has no text"
