from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bespoke.supernet.errors import FileInvalid
from bespoke.supernet.training.calibration_images import calibration_images


def folder_of(root: Path, shades: dict[str, int], each: int) -> Path:
    for name, shade in shades.items():
        (root / "train" / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.full((40, 50, 3), shade, np.uint8)
            Image.fromarray(pixels).save(root / "train" / name / f"{number}.png")
            (root / "val" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 - pixels).save(root / "val" / name / f"{number}.png")
    return root


def test_a_few_training_images_of_all_classes_come_as_the_network_gets_them(tmp_path: Path) -> None:
    root = folder_of(tmp_path, {"dark": 0, "grey": 120, "light": 240}, each=20)
    batches = calibration_images(root, 48, count=9, batch=4)
    assert [batch.shape for batch in batches] == [(4, 3, 48, 48), (4, 3, 48, 48), (1, 3, 48, 48)]
    shades = np.concatenate(batches)[:, 0, 0, 0] * 0.229 + 0.485
    assert (np.round(shades * 255) == [0] * 3 + [120] * 3 + [240] * 3).all()


def test_a_small_folder_gives_all_of_it_and_a_broken_one_says_so(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "small", {"one": 9, "two": 99}, each=2)
    assert sum(map(len, calibration_images(root, 32))) == 4
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(FileInvalid, match="not one of 4"):
        calibration_images(root, 32)
