"""Settings: what an environment may say, and what it is told where it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bespoke.service.settings import Settings
from bespoke.supernet.errors import InvalidInput


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZOO", "DATA", "VAR", "PORT", "EMBEDDED_WORKER", "DATABASE_URL"):
        monkeypatch.setenv(f"BESPOKE_{name}", "")
    settings = Settings()
    assert (settings.zoo, settings.data, settings.var, settings.port) == (None, None, Path("var"), 8321)
    assert settings.database.startswith("sqlite:///")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PORT", "http", "setting port (BESPOKE_PORT): got 'http': "),
        ("CHECK_HOURS", "-1", "greater than or equal to 0"),
        ("DATABASE_URL", "bespoke.sqlite", "got no URL, expected sqlite:///FILE"),
        ("DATABASE_URL", "sqlite://", "without a file"),
        (
            "DATABASE_URL",
            "mysql://me:secret@host/name",
            "got mysql://, expected sqlite:///FILE or postgresql://",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_told_by_its_variable(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"BESPOKE_{name}", value)
    with pytest.raises(InvalidInput) as refused:
        Settings()
    assert told in str(refused.value)
    assert f"BESPOKE_{name}" in str(refused.value)
    assert "secret" not in str(refused.value)
