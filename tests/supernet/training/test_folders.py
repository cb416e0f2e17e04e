from __future__ import annotations

from pathlib import Path

import pytest

from bespoke.supernet.errors import FileInvalid
from bespoke.supernet.training.folders import list_split


def fill(folder: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.jpg").touch()


def test_a_folder_of_classes_alone_is_split_in_the_same_way_every_time(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 20, "dog": 30})
    training, validation = (list_split(tmp_path, split) for split in ("train", "val"))
    assert (len(training.paths), len(validation.paths)) == (45, 5)
    assert not set(training.paths) & set(validation.paths)
    assert training.classes == validation.classes == ("cat", "dog")
    assert sorted(validation.labels) == [0, 0, 1, 1, 1]
    assert list_split(tmp_path, "val") == validation


def test_the_split_follows_the_names_and_not_the_place(tmp_path: Path) -> None:
    fill(tmp_path / "a", {"cat": 20})
    fill(tmp_path / "b" / "train", {"cat": 20})
    names = [[p.name for p in list_split(tmp_path / root, "val").paths] for root in ("a", "b")]
    assert names[0] == names[1]


def test_a_class_of_two_images_has_one_of_each_kind(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 2, "dog": 1})
    assert list_split(tmp_path, "train").labels == (0, 1)
    assert list_split(tmp_path, "val").labels == (0,)


def test_images_that_cannot_be_split_are_an_error(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 1, "dog": 1})
    with pytest.raises(FileInvalid, match="too few"):
        list_split(tmp_path, "val")


def test_validation_labels_are_those_of_the_training_classes(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 2, "dog": 2})
    fill(tmp_path / "valid", {"dog": 1})
    listing = list_split(tmp_path, "val")
    assert (listing.classes, listing.labels) == (("cat", "dog"), (1,))


def test_a_validation_class_without_training_images_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 2})
    fill(tmp_path / "val", {"cow": 1})
    with pytest.raises(FileInvalid, match=r"cow.*lacks"):
        list_split(tmp_path, "val")


def test_a_folder_without_images_is_no_class_and_is_told(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 20, "dog": 20, "empty": 0, "__MACOSX": 0, "test/cat": 5})
    training, validation = (list_split(tmp_path, split) for split in ("train", "val"))
    assert training.classes == validation.classes == ("cat", "dog")
    assert [path.name for path in training.passed_over] == ["__MACOSX", "empty", "test"]
    fill(tmp_path / "splits" / "train", {"cat": 2, "dog": 0})
    fill(tmp_path / "splits" / "val", {"cat": 2, "cow": 0})
    assert list_split(tmp_path / "splits", "val").classes == ("cat",)


def test_validation_images_without_class_folders_are_not_passed_over(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 20, "dog": 20})
    fill(tmp_path, {"val": 3})
    for split in ("train", "val"):
        with pytest.raises(FileInvalid, match=r"val: got images without class folders; expected val/<class>"):
            list_split(tmp_path, split)


def test_validation_images_alone_can_be_read(tmp_path: Path) -> None:
    fill(tmp_path / "val", {"cat": 2, "dog": 1})
    assert list_split(tmp_path, "val").labels == (0, 0, 1)


def test_a_validation_split_beside_the_classes_is_no_class(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 2, "dog": 2, "zebra": 2})
    fill(tmp_path / "val", {"cat": 1, "zebra": 1})
    training, validation = (list_split(tmp_path, split) for split in ("train", "val"))
    assert training.classes == validation.classes == ("cat", "dog", "zebra")
    assert (training.labels, validation.labels) == ((0, 0, 1, 1, 2, 2), (0, 2))
    fill(tmp_path / "val", {"cow": 1})
    with pytest.raises(FileInvalid, match=r"cow.*lacks.*cat.*rename"):
        list_split(tmp_path, "val")


@pytest.mark.parametrize("classes", [("bus", "car", "train"), ("invalid", "valid")])
def test_a_class_may_be_called_like_a_split(tmp_path: Path, classes: tuple[str, ...]) -> None:
    fill(tmp_path, dict.fromkeys(classes, 10))
    training, validation = (list_split(tmp_path, split) for split in ("train", "val"))
    assert training.classes == validation.classes == classes
    assert (len(training.paths), len(validation.paths)) == (9 * len(classes), len(classes))


def test_splits_without_class_folders_are_not_taken_for_classes(tmp_path: Path) -> None:
    fill(tmp_path, {"train": 10, "val": 10, ".cache": 1})
    with pytest.raises(FileInvalid, match=r"no image in any class folder; expected ROOT/train/<class>"):
        list_split(tmp_path, "train")
