from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bespoke.supernet.errors import FileInvalid
from bespoke.supernet.training.data import read_split


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes as Python 2 did, which made the official files: byte strings under their old opcode."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_string(self, text: bytes | str) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_string


def write(path: Path, content: Any) -> None:
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump(content)


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    write(folder / "batches.meta", {"label_names": ["plane", "car"], "num_cases_per_batch": 2})
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        data = rng.integers(0, 255, (2, 3072), np.uint8)
        data[0, :1024], data[0, 1024:2048], data[0, 2048:] = 10, 20, 30
        write(folder / name, {"data": data, "labels": [0, 1], "batch_label": name})
    return tmp_path


def test_the_official_files_of_cifar_10_are_read(ten: Path) -> None:
    training, validation = read_split(ten, "train"), read_split(ten / "cifar-10-batches-py", "val")
    assert (len(training), len(validation)) == (10, 2)
    assert training.classes == ("plane", "car")
    assert training.labels_N.tolist() == [0, 1] * 5
    first_HWC = training.pixels(torch.tensor([0]))[0]
    assert first_HWC.shape == (32, 32, 3)
    assert first_HWC.reshape(-1, 3).unique(dim=0).tolist() == [[10, 20, 30]]


def test_the_official_files_of_cifar_100_are_read(tmp_path: Path) -> None:
    write(tmp_path / "meta", {"fine_label_names": ["apple"], "coarse_label_names": ["fruit"]})
    for name, count in (("train", 3), ("test", 1)):
        content = {"data": np.zeros((count, 3072), np.uint8), "fine_labels": [0] * count}
        write(tmp_path / name, content | {"coarse_labels": [0] * count, "filenames": ["x"] * count})
    assert [len(read_split(tmp_path, split)) for split in ("train", "val")] == [3, 1]
    assert read_split(tmp_path, "val").classes == ("apple",)


def test_a_file_with_code_in_it_is_refused_and_the_code_is_not_run(ten: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (witness,)

    (ten / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Code(), protocol=2))
    with pytest.raises(FileInvalid, match=r"data_batch_3.*may run code"):
        read_split(ten, "train")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "for 1 labels"),
        ({"data": np.zeros((1, 3072), np.float32), "labels": [0]}, "float32"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [2]}, "labels from 0 to 1"),
        ({"labels": [0]}, "'data': got NoneType"),
        ([1, 2], "expected a dictionary"),
    ],
)
def test_a_file_that_is_not_cifars_is_refused(ten: Path, content: Any, reason: str) -> None:
    write(ten / "cifar-10-batches-py" / "test_batch", content)
    with pytest.raises(FileInvalid, match=reason):
        read_split(ten, "val")


def test_a_file_that_was_cut_off_is_refused(ten: Path) -> None:
    path = ten / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FileInvalid, match="not loaded"):
        read_split(ten, "val")
