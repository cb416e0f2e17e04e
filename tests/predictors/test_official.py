import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bespoke.predictors import read_predictor
from bespoke.supernet.architecture import Architecture, decode, encode, read_architecture
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.genomes import extremes, sample
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


RESNET_SIDES = (128, 144, 160, 176, 192, 224, 240, 256)


def test_the_resnet_predictor_gives_what_its_tensors_say(official: Path) -> None:
    path = official / "ofa_resnet50_acc_predictor.pth"
    space = make_space("ofa-resnet50", RESNET_SIDES)
    genomes = np.concatenate([extremes(space), sample(space, 50, np.random.default_rng(0))])
    state = torch.load(path, map_location="cpu", weights_only=True)
    expected = [evaluated(state, published_features(decode(space, genome))) for genome in genomes]
    predictor = read_predictor(path, space)
    predicted = predictor.top1(genomes)
    np.testing.assert_allclose(predicted, expected, atol=1e-6)
    assert "rmse" not in predictor.card  # none was published of it
    assert predicted.min() > 0.7
    assert predicted[1] > predicted[0] + 0.02


def published_features(architecture: Architecture) -> torch.Tensor:
    """The 82 features as published: sides, stem, six widths, then the expansion of each block that runs."""
    x = torch.zeros(82)
    x[RESNET_SIDES.index(architecture.resolution)] = 1
    x[8 + int(architecture["stem_depth"][0])] = 1
    for i, width in enumerate((*architecture["stem_width"], *architecture["width"])):
        x[10 + 3 * i + (0.65, 0.8, 1.0).index(width)] = 1
    block = 0
    for shortest, extra in zip((2, 2, 4, 2), architecture["depth"], strict=True):
        for i in range(shortest + 2):
            if i < shortest + extra:
                x[28 + 3 * block + (0.2, 0.25, 0.35).index(architecture["expand"][block])] = 1
            block += 1
    return x


def evaluated(state: dict[str, torch.Tensor], x: torch.Tensor) -> float:
    for i in range(3):
        x = torch.relu(state[f"layers.{i}.0.weight"] @ x + state[f"layers.{i}.0.bias"])
    return float(state["layers.3.weight"] @ x + state["base_acc"])


def test_the_resnet_predictor_names_a_resolution_that_it_lacks(official: Path) -> None:
    with pytest.raises(InvalidInput, match="resolution 208"):
        read_predictor(
            official / "ofa_resnet50_acc_predictor.pth", make_space("ofa-resnet50", (192, 208, 224))
        )
