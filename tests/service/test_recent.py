"""Rows are read once in a while only, and never as they were before a change of this process."""

from __future__ import annotations

import pytest

from bespoke.service.store import recent
from bespoke.service.store.recent import Recent


class Rows:
    """A table whose reads are counted."""

    def __init__(self) -> None:
        self.row: str | None = "first"
        self.reads = 0

    def read(self) -> str | None:
        self.reads += 1
        return self.row


def test_a_row_is_read_once_within_moments() -> None:
    rows, remembered = Rows(), Recent()
    assert remembered.known("key") is None
    assert [remembered.once("key", rows.read) for _ in range(3)] == ["first"] * 3
    assert remembered.known("key") == "first"
    assert remembered.once("other", rows.read) == "first"
    assert rows.reads == 2


def test_a_row_is_read_again_once_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, remembered = Rows(), Recent()
    remembered.once("key", rows.read)
    rows.row = "second"
    monkeypatch.setattr(recent, "FRESH_S", 0.0)
    assert remembered.known("key") is None
    assert remembered.once("key", rows.read) == "second"


def test_a_change_is_seen_at_once() -> None:
    rows, remembered = Rows(), Recent()
    remembered.once("key", rows.read)
    rows.row = "second"
    remembered.forget()
    assert remembered.known("key") is None
    assert remembered.once("key", rows.read) == "second"


def test_that_there_is_no_row_is_not_remembered() -> None:
    rows, remembered = Rows(), Recent()
    rows.row = None
    assert remembered.once("key", rows.read) is None
    rows.row = "first"
    assert remembered.once("key", rows.read) == "first"


def test_what_was_read_while_something_changed_is_not_remembered() -> None:
    rows, remembered = Rows(), Recent()

    def overtaken() -> str | None:
        row = rows.read()
        rows.row = "second"
        remembered.forget()
        return row

    assert remembered.once("key", overtaken) == "first"
    assert remembered.known("key") is None
    assert remembered.once("key", rows.read) == "second"


def test_only_so_many_rows_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, remembered = Rows(), Recent()
    monkeypatch.setattr(recent, "KEPT", 2)
    for key in ("a", "b", "c"):
        remembered.once(key, rows.read)
    assert [remembered.known(key) for key in ("a", "b", "c")] == [None, None, "first"]
