from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bespoke.supernet import zoo
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.zoo.writing import publish


def test_an_entry_comes_to_its_place_whole_and_replaces_one_of_its_name(
    random_zoo: Path, tmp_path: Path
) -> None:
    made = Path(shutil.copytree(random_zoo / "tiny", tmp_path / "run" / "mine"))
    out = tmp_path / "zoo" / "mine"
    first = publish(made, out)
    assert zoo.names(tmp_path / "zoo") == ("mine",)
    assert first.digest == zoo.entry("tiny", random_zoo).digest
    (made / "weights.safetensors").write_bytes(b"others")
    (out / "left-over.txt").write_text("of the entry before")
    assert publish(made, out).digest != first.digest
    assert not (out / "left-over.txt").exists()
    assert made.is_dir()
    assert list((tmp_path / "zoo" / ".partial").iterdir()) == []


def test_a_folder_of_something_else_is_not_replaced(random_zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("...")
    with pytest.raises(InvalidInput, match="no zoo entry"):
        publish(random_zoo / "tiny", tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").exists()
