import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bespoke.predictors.held_out import (
    held_out_of,
    hold_out,
    image_fields,
    read_held_out,
    training_seed,
)
from bespoke.supernet import zoo
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.spaces import space_from_json
from bespoke.supernet.training.data import read_split
from bespoke.supernet.training.folders import list_split
from tests.supernet.training.tiny import two_colours


@pytest.fixture
def entry(random_zoo: Path) -> zoo.ZooEntry:
    return zoo.entry("tiny", random_zoo)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Training images of two colours, by name alone, and some for validation."""
    for name in [f"train/{colour}/{n}" for colour in ("red", "blue") for n in range(10)] + ["val/red/0"]:
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


def two_classes(entry: zoo.ZooEntry) -> SearchSpace:
    return space_from_json({**entry.space.to_json(), "classes": 2})


def test_images_that_were_trained_on_are_not_taken_for_held_out_ones(
    entry: zoo.ZooEntry, folder: Path, tmp_path: Path
) -> None:
    every = two_colours(20)
    _, held_out = hold_out(every, 3)
    trained = replace(entry, card=image_fields(folder, every, held_out, 3), space=two_classes(entry))
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    for root in (folder, copied):  # the card's seed decides, whatever is asked for
        found = held_out_of(trained, root, every, seed=0)
        assert found.rows_N is not None
        assert held_out.rows_N is not None
        assert found.rows_N.tolist() == held_out.rows_N.tolist()
    (copied / "train" / "red" / "0.png").rename(copied / "train" / "red" / "00.png")
    (copied / "train" / "blue" / "9.png").unlink()
    with pytest.raises(FileInvalid, match="not the training images of supernet 'tiny'"):
        held_out_of(trained, copied, two_colours(19), seed=3)
    with pytest.raises(FileInvalid, match="not the training images"):  # a tenth is for validation there
        held_out_of(trained, folder / "train", two_colours(18), seed=3)
    old = replace(entry, space=two_classes(entry))  # its card tells nothing
    assert len(held_out_of(old, copied, two_colours(19), seed=3)) == 3


def test_only_held_out_images_are_decoded_where_the_card_tells_which(
    entry: zoo.ZooEntry, folder: Path, tmp_path: Path
) -> None:
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(path)
    every = read_split(folder, "train", side=40)
    training, held_out = hold_out(every, 3)
    fields = image_fields(folder, every, held_out, 3) | {"images": len(training), "classes": ["blue", "red"]}
    trained = replace(entry, card=fields, space=two_classes(entry))
    found = read_held_out(trained, folder, 40, tmp_path / "cache", seed=0)
    assert torch.equal(found.pixels(), held_out.pixels())
    assert torch.equal(found.labels_N, held_out.labels_N)
    (kept,) = (tmp_path / "cache").glob("train-40-????????????????.npy")
    assert len(np.load(kept)) == 4
    assert held_out.rows_N is not None
    list_split(folder, "train").paths[int(held_out.rows_N[0])].write_bytes(b"no picture")
    with pytest.raises(FileInvalid, match="not the training images"):
        read_held_out(trained, folder, 40, tmp_path / "cache", seed=0)


def test_a_folder_of_other_classes_measures_nothing(entry: zoo.ZooEntry, folder: Path) -> None:
    every = two_colours(20)
    with pytest.raises(FileInvalid, match="got 2 classes: red, blue; supernet 'tiny' knows 4; expected the"):
        held_out_of(entry, folder, every, seed=3)
    knows = replace(entry, card={"classes": ["a", "b"]}, space=two_classes(entry))
    with pytest.raises(
        FileInvalid, match="got 2 classes: red, blue; supernet 'tiny' knows 2: a, b; expected"
    ):
        held_out_of(knows, folder, every, seed=3)


@pytest.mark.parametrize("seed", range(8))
def test_each_class_keeps_an_image_to_train_on(seed: int) -> None:
    few = two_colours(12)
    rare = replace(few, labels_N=torch.tensor([0] * 10 + [1, 2]), classes=("many", "one", "another"))
    training, held_out = hold_out(rare, seed)
    assert set(training.labels_N.tolist()) == {0, 1, 2}
    assert len(training) + len(held_out) == 12
    with pytest.raises(InvalidInput, match="5 training images of 5 classes"):
        hold_out(replace(two_colours(5), labels_N=torch.arange(5), classes=tuple("abcde")), seed)


def test_a_training_that_starts_from_another_one_holds_the_same_images_out(
    entry: zoo.ZooEntry, folder: Path
) -> None:
    every = two_colours(20)
    card = image_fields(folder, every, hold_out(every, 3)[1], 3)
    begun = replace(entry, card=card, space=two_classes(entry))
    assert training_seed(begun, folder, every, seed=5) == 3
    assert training_seed(entry, folder, every, seed=5) == training_seed(None, folder, every, seed=5) == 5
    with pytest.raises(FileInvalid, match="not the training images"):
        training_seed(replace(begun, card=card | {"held_out": "other"}), folder, every, seed=5)
    (folder / "train" / "red" / "9.png").rename(folder / "train" / "red" / "new.png")
    assert training_seed(begun, folder, every, seed=5) == 5
