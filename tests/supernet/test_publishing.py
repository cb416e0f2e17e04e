from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError

from bespoke.supernet import checkpoints, zoo
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.ops import Op
from bespoke.supernet.spaces import FixedNetwork
from bespoke.supernet.statistics import StatisticsTable
from bespoke.supernet.zoo.writing import publish, write_entry


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


def test_everybody_may_read_an_entry_and_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    network = ChainSupernet(FixedNetwork("small", (Op("linear", (1, 1, 3), 2, name="classifier"),)))
    table = StatisticsTable(network.space, {}, {})
    written = write_entry(tmp_path, "mine", network, table, {})
    assert {path.stat().st_mode & 0o777 for path in written.folder.iterdir()} == {0o644}
    checkpoints.save_weights(network, written.folder / "weights.safetensors")
    assert (written.folder / "weights.safetensors").stat().st_mode & 0o777 == 0o644
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileInvalid, match="file/mine: cannot be written"):
        write_entry(tmp_path / "file", "mine", network, None, {})


def test_weights_that_cannot_be_written_are_named_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(FileInvalid, match=r"weights: cannot be written: No space left"):
        checkpoints.save_tensors({}, tmp_path / "weights")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_take_a_place_leaves_what_was_there(
    random_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(random_zoo / "tiny", tmp_path / "zoo" / "mine"))
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(FileInvalid, match=r"mine: cannot be written: .*No space left"):
        publish(random_zoo / "tiny", out)
    assert zoo.names(tmp_path / "zoo") == ("mine",)


def test_a_broken_description_of_a_space_is_named(random_zoo: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(random_zoo / "tiny", tmp_path / "mine"))
    for content, message in (("[" * 100_000, "no readable JSON"), ('{"family": "new"}', "is no search")):
        (folder / "space.json").write_text(content)
        with pytest.raises(FileInvalid, match=f"space.json: {message}"):
            zoo.entry("mine", tmp_path)
