from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from bespoke.supernet.errors import FileInvalid, Unavailable
from bespoke.supernet.training import data
from bespoke.supernet.training.data import (
    View,
    augmented,
    evaluation_pixels,
    evenly,
    read_split,
    read_splits,
    training_batch,
)
from bespoke.supernet.training.processes import Group


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


def test_a_decoder_that_fails_in_its_own_way_skips_the_image(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: Image.Image) -> Image.Image:
        if image.height == 60:
            raise RuntimeError("the decoder's own words")
        return image

    monkeypatch.setattr(data, "_rgb", fail)
    assert [Path(p).name for p in read_split(folder, "train", side=40).skipped] == ["1.png", "1.png"]


def test_what_the_machine_fails_in_leaves_no_image_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: Image.Image) -> Image.Image:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as busy:
        busy.setattr(data, "_rgb", fail)
        with pytest.raises(Unavailable, match=r"png cannot be read now \(.*Too many open files\)"):
            read_split(folder, "train", side=40, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert len(read_split(folder, "train", side=40, cache=tmp_path / "cache")) == 6


def test_other_kinds_of_images_are_read_and_what_is_none_is_named(folder: Path) -> None:
    cats = folder / "train" / "cat"
    for suffix in ("tif", "gif", "jfif", "ppm"):
        kind = {"tif": "TIFF", "jfif": "JPEG"}.get(suffix, suffix.upper())
        Image.fromarray(np.full((50, 50, 3), 200, np.uint8)).save(cats / f"more.{suffix}", kind)
    (cats / "notes.txt").write_text("of cats")
    (cats / ".DS_Store").write_text("")
    (cats / "deeper").mkdir()
    images = read_split(folder, "train", side=40)
    assert len(images) == 10
    assert sorted(Path(p).name for p in images.skipped) == ["deeper", "notes.txt"]
    (folder / "val").rename(folder.parent / "elsewhere")
    assert len(read_split(folder, "train", side=40).skipped) == 2
    assert not read_split(folder, "val", side=40).skipped


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


def test_the_cache_is_used_until_the_folder_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = read_split(folder, "train", side=40, cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr(data, "decode_into", lambda *_: pytest.fail("decoded again"))
        again = read_split(folder, "train", side=40, cache=cache)
    assert torch.equal(first.pixels(), again.pixels())
    assert len(list(cache.glob("*.good.npy"))) == 1
    (folder / "train" / "cat" / "0.png").unlink()
    assert len(read_split(folder, "train", side=40, cache=cache)) == 5


def test_what_a_killed_process_left_half_decoded_is_removed_and_what_is_being_made_is_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    left, held, young = (cache / f".train-40-{name}.npy.x" for name in ("left", "held", "young"))
    for file in (left, held):
        file.write_bytes(b"half")
    monkeypatch.setattr(data, "_YOUNG_S", 0.0)
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        read_split(folder, "train", side=40, cache=cache)
        assert (left.exists(), held.exists()) == (False, True)
    monkeypatch.setattr(data, "_YOUNG_S", 60.0)
    young.write_bytes(b"not locked yet")
    read_split(folder, "train", side=40, cache=cache)
    assert young.exists()


def test_only_the_images_that_are_chosen_are_decoded(folder: Path, tmp_path: Path) -> None:
    every = read_split(folder, "train", side=40)
    few = read_split(folder, "train", side=40, cache=tmp_path, choose=lambda count: np.array([count - 1, 0]))
    assert few.labels_N.tolist() == [1, 0]
    assert torch.equal(few.pixels(), every.pixels(torch.tensor([5, 0])))
    even = read_split(folder, "train", side=40, choose=evenly(4))
    assert even.labels_N.tolist() == [0, 0, 1, 1]
    assert len(read_split(folder, "train", side=40, choose=evenly(99))) == 6


def test_classes_without_what_can_be_trained_on_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileInvalid, match="got one class, 'photos'"):
        read_splits(flat(tmp_path / "flat"), 40, tmp_path / "cache", Group())
    for path in (folder / "train" / "dog").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(FileInvalid, match=r"no training image can be read of the classes \['dog'\]"):
        read_splits(folder, 40, tmp_path / "cache", Group())


def flat(root: Path) -> Path:
    """Images in one folder, of no class."""
    (root / "photos").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (40, 40)).save(root / "photos" / f"{number}.png")
    return root


def test_files_of_the_same_names_and_sizes_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(root: str, grey: int, time: int) -> None:
        target = tmp_path / root / "train" / "cat" / "0.bmp"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (grey,) * 3).save(target)
        os.utime(target, (time, time))

    def read(root: str) -> tuple[int, str]:
        images = read_split(tmp_path / root, "train", side=40, cache=tmp_path / "cache")
        return int(images.pixels().max()), images.digest

    write("a", 10, time=1)
    write("b", 20, time=1)
    (first, digest), other = read("a"), read("b")
    assert (first, other[0]) == (10, 20)
    write("a", 30, time=2)
    assert read("a")[0] == 30
    write("a", 10, time=3)
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert read("a") == read("c") == (10, digest)  # a run goes on with the same images, wherever they are
    files = len(list((tmp_path / "cache").iterdir()))
    monkeypatch.setattr(data, "DECODER", 0)
    assert read("a") == (10, digest)
    assert len(list((tmp_path / "cache").iterdir())) == files + 2


def decoded(image: Image.Image, tmp_path: Path, name: str = "0.png", side: int = 8, **options: Any) -> Tensor:
    """The square that is kept of an image."""
    target = tmp_path / "train" / "cat" / name
    target.parent.mkdir(parents=True)
    image.save(target, **options)
    return read_split(tmp_path, "train", side=side).pixels()[0]


def test_an_image_is_scaled_by_its_shorter_side_and_cropped(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (53, 97, 3), np.uint8))
    scaled = image.resize((73, 40), Image.Resampling.BILINEAR).crop((16, 0, 56, 40))
    assert np.array_equal(decoded(image, tmp_path, side=40), np.asarray(scaled))


@pytest.mark.parametrize("size", [(3000, 1), (2, 3000)])
def test_a_thin_image_takes_little_memory(
    tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    resize, seen = Image.Image.resize, list[tuple[int, int]]()

    def watched(image: Image.Image, to: tuple[int, int], *options: Any) -> Image.Image:
        seen.append(to)
        return resize(image, to, *options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2 - 20, size[1] // 2 - 20, size[0] // 2 + 20, size[1] // 2 + 20))
    assert decoded(image, tmp_path).unique(dim=0).tolist() == [[[0, 0, 255]] * 8]
    assert max(*seen[0]) <= 10 * 8


def test_grey_of_16_bits_keeps_its_shades(tmp_path: Path) -> None:
    shades = np.repeat(np.array([[0, 257, 300 * 100, 65535]], np.uint16), 4, axis=0)
    found = decoded(Image.fromarray(shades), tmp_path, side=4)
    assert found[0].tolist() == [[shade] * 3 for shade in (0, 1, 116, 255)]


def test_grey_without_a_largest_value_is_skipped(folder: Path) -> None:
    for number, kind in enumerate((np.int32, np.float32)):
        target = folder / "train" / "cat" / f"wide{number}.png"
        Image.fromarray(np.full((50, 50), 70_000, kind)).save(target, "TIFF")
    skipped = read_split(folder, "train", side=40).skipped
    assert [Path(p).name for p in skipped] == ["wide0.png", "wide1.png"]


def test_an_image_is_turned_as_its_camera_was(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 40), "black")
    image.paste("white", (0, 0, 40, 20))  # Its upper half, which the camera's right was.
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    found = decoded(image, tmp_path, "0.jpg", exif=exif)
    assert found[:, 4:].min() > 200 > 50 > found[:, :4].max()


def test_damaged_exif_data_do_not_stop_the_reading(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n 4\nthese are no digits\n")
    found = decoded(Image.new("RGB", (40, 40), "red"), tmp_path, pnginfo=text)
    assert found.unique(dim=0).tolist() == [[[255, 0, 0]] * 8]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (90, 90, 90, 0))
    image.paste((90, 90, 90, 255), (0, 0, 4, 8))
    options: dict[str, Any] = {}
    if mode == "P":
        image = Image.fromarray(np.array(image.getchannel("A")) // 255, "P")
        image.putpalette([200, 10, 10, 90, 90, 90])
        options["transparency"] = 0
    found = decoded(image.convert(mode), tmp_path, **options)
    assert found[0].tolist() == [[90] * 3] * 4 + [[255] * 3] * 4


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
