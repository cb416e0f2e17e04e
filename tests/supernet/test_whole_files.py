import os
from pathlib import Path

import pytest

from bespoke.supernet.errors import FileInvalid
from bespoke.supernet.whole_files import replacing, write_file


def test_a_file_takes_its_place_once_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.json"
    for content in ("one", "two"):
        with replacing(path) as temporary:
            assert temporary.parent == path.parent
            temporary.write_text(content)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == content
        assert path.stat().st_mode & 0o777 == 0o644
        assert list(path.parent.iterdir()) == [path]


def test_after_an_error_what_was_there_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("whole")
    with pytest.raises(RuntimeError, match="half"), replacing(path) as temporary:
        temporary.write_text("ha")
        raise RuntimeError("half")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with replacing(path) as one, replacing(path) as two:
        one.write_text("one")
        two.write_text("two")
        assert one != two
    assert path.read_text() == "one"  # whoever ends last
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file" / "below.json", tmp_path):
        with pytest.raises(FileInvalid, match=f"{path}: cannot be written"):
            write_file(path, b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_device_stays_one_and_a_link_leads_to_its_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "device")
    with pytest.raises(FileInvalid, match="no ordinary file"):
        write_file(tmp_path / "device", b"content")
    assert (tmp_path / "device").is_fifo()
    (tmp_path / "latest.json").symlink_to("kept.json")
    write_file(tmp_path / "latest.json", "content")
    assert (tmp_path / "latest.json").is_symlink()
    assert (tmp_path / "kept.json").read_text() == "content"
