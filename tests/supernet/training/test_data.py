from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bespoke.supernet.errors import FileInvalid, Unavailable
from bespoke.supernet.training.data import View, augmented, evaluation_pixels, read_split, training_batch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            target = tmp_path / split / name
            target.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (50 + 10 * i, 60, 3), np.uint8)
                Image.fromarray(pixels).save(target / f"{i}.png")
    return tmp_path


def test_images_become_squares_with_their_folders_class(folder: Path) -> None:
    images = read_split(folder, "train", side=40)
    assert images.pixels().shape == (6, 40, 40, 3)
    assert images.classes == ("cat", "dog")
    assert images.labels_N.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_broken_image_is_skipped_and_named(folder: Path) -> None:
    (folder / "train" / "cat" / "broken.png").write_bytes(b"this is no picture")
    images = read_split(folder, "train", side=40)
    assert len(images) == 6
    assert [Path(p).name for p in images.skipped] == ["broken.png"]


def test_dead_links_and_names_that_are_no_utf_8_do_not_stop_the_reading(folder: Path) -> None:
    cats = folder / "train" / "cat"
    (cats / "dead.png").symlink_to(folder / "gone.png")
    (cats / "0.png").rename(os.fsdecode(os.fsencode(cats) + b"/caf\xe9.png"))
    for cache in (None, folder / "cache"):
        images = read_split(folder, "train", side=40, cache=cache)
        assert len(images) == 6
        assert [Path(p).name for p in images.skipped] == ["dead.png"]
    (folder / "val").rename(folder / "unused")
    assert len(read_split(folder, "val", side=40)) == 2


def test_too_little_room_for_the_decoded_images_is_told_before_the_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=6 * 40 * 40 * 3 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(Unavailable, match=r"take 0\.0 GB, and 0\.0 GB are free; make room"):
        read_split(folder, "train", side=40, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_cache_is_used_until_the_folder_changes(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = read_split(folder, "train", side=40, cache=cache)
    again = read_split(folder, "train", side=40, cache=cache)
    assert torch.equal(first.pixels(), again.pixels())
    assert len(list(cache.glob("*.good.npy"))) == 1
    (folder / "train" / "cat" / "0.png").unlink()
    assert len(read_split(folder, "train", side=40, cache=cache)) == 5


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileInvalid, match="no such folder"):
        read_split(tmp_path / "photos", "train")


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(FileInvalid, match="no image"):
        read_split(tmp_path, "train")


def test_held_out_images_are_disjoint_from_the_rest(folder: Path) -> None:
    images = read_split(folder, "train", side=40)
    rest, held_out = images.split(2, seed=1)
    kept = {x.numpy().tobytes() for x in rest.pixels()}
    assert (len(rest), len(held_out)) == (4, 2)
    assert all(x.numpy().tobytes() not in kept for x in held_out.pixels())


def test_evaluation_images_are_scaled_and_cropped_to_the_resolution(folder: Path) -> None:
    images = read_split(folder, "val", side=40)
    ((x_NHWC, labels_N),) = evaluation_pixels(images, 32)
    assert x_NHWC.shape == (4, 32, 32, 3)
    assert x_NHWC.dtype == torch.uint8
    assert labels_N.tolist() == [0, 0, 1, 1]


def test_a_view_is_another_crop_of_the_same_image(folder: Path) -> None:
    images = read_split(folder, "val", side=40)
    ((whole_NHWC, _),) = evaluation_pixels(images, 35)  # 35 / 0.875 = 40: nothing is scaled
    stored_NHWC = images.pixels()
    assert torch.equal(whole_NHWC, stored_NHWC[:, 2:37, 2:37])
    ((seen_NHWC, _),) = evaluation_pixels(images, 35, view=View(0.0, 1.0, mirrored=True))
    assert torch.equal(seen_NHWC, stored_NHWC[:, 0:35, 5:40].flip(2))


def test_a_training_step_is_a_function_of_seed_and_step(folder: Path) -> None:
    images = read_split(folder, "train", side=40)
    batches = [training_batch(images, 2, 5, seed=7) for _ in range(2)]
    crops = [augmented(x, 24, rng) for x, _, rng in batches]
    assert torch.equal(crops[0], crops[1])
    assert crops[0].shape == (2, 24, 24, 3)
    other, _, rng = training_batch(images, 2, 5, seed=8)
    assert not torch.equal(augmented(other, 24, rng), crops[0])


def test_an_epoch_shows_every_image_once(folder: Path) -> None:
    images = read_split(folder, "train", side=40)
    seen = [x.numpy().tobytes() for step in range(3) for x in training_batch(images, 2, step, 0)[0]]
    assert len(set(seen)) == 6
