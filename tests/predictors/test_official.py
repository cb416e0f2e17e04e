import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bespoke.predictors import read_predictor
from bespoke.supernet.architecture import encode, read_architecture
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.spaces import space as make_space

SPACE = make_space("ofa-mobilenetv3-w1.2", (160, 176, 192, 208, 224))


def test_published_predictions_agree(official: Path) -> None:
    samples = json.loads((official / "reference_values.json").read_text())["samples"]
    architectures = [
        read_architecture(
            SPACE,
            {
                "kernel": s["arch"]["ks"],
                "expand": s["arch"]["e"],
                "depth": s["arch"]["d"],
                "resolution": s["arch"]["r"][0],
            },
        )
        for s in samples
    ]
    top1 = read_predictor(official / "acc_predictor.pth", SPACE).top1(encode(SPACE, architectures))
    np.testing.assert_allclose(top1, [s["pred_acc"] for s in samples], atol=1e-6)


def test_a_resolution_between_two_bins_falls_to_the_lower_one(official: Path) -> None:
    space = make_space("ofa-mobilenetv3-w1.2", (160, 172, 176))
    genomes = np.zeros((3, 46), np.int16)
    genomes[:, -1] = (0, 1, 2)
    top1 = read_predictor(official / "acc_predictor.pth", space).top1(genomes)
    assert top1[0] == top1[1] != top1[2]


def test_another_space_or_resolution_is_refused(official: Path) -> None:
    path = official / "acc_predictor.pth"
    with pytest.raises(InvalidInput, match=r"w1\.2"):
        read_predictor(path, make_space("ofa-mobilenetv3-w1.0", (160,)))
    with pytest.raises(InvalidInput, match="resolution 240"):
        read_predictor(path, make_space("ofa-mobilenetv3-w1.2", (160, 240)))


def test_other_torch_files_are_refused(official: Path, tmp_path: Path) -> None:
    with pytest.raises(FileInvalid, match="expected the tensors"):
        read_predictor(official / "ofa_resnet50_acc_predictor.pth", SPACE)
    path = tmp_path / "list.pth"
    torch.save([1, 2], path)
    with pytest.raises(FileInvalid, match="dictionary"):
        read_predictor(path, SPACE)
    path.write_bytes(b"no torch file")
    with pytest.raises(FileInvalid):
        read_predictor(path, SPACE)
    with pytest.raises(FileInvalid):
        read_predictor(tmp_path / "absent.pth", SPACE)
