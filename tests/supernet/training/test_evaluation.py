from pathlib import Path

import numpy as np
import pytest
import torch

from bespoke.supernet import zoo
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import random_architecture
from bespoke.supernet.subnet import extract, load_supernet
from bespoke.supernet.training.data import ImageSet
from bespoke.supernet.training.evaluation import VIEWS, LabelledImages, module_score, subnet_score
from tests.supernet.training.tiny import two_colours


class Mirror(torch.nn.Module):
    """Says class 1 where the left half is brighter."""

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        left, right = (half.mean((1, 2, 3)) for half in x_NCHW.chunk(2, dim=3))
        return torch.stack([right, left], dim=1)


def half_lit(count: int = 5) -> ImageSet:
    pixels = np.zeros((count, 40, 40, 3), np.uint8)
    pixels[:, :, :20] = 200
    return ImageSet(torch.from_numpy(pixels), torch.ones(count, dtype=torch.int64), ("right", "left"))


def test_top1_is_the_mean_over_views() -> None:
    views = [LabelledImages(half_lit(), views=n) for n in (1, 2, 3, 4)]
    shares = [module_score(Mirror(), images, 32, "cpu").top1 for images in views]
    assert [view.mirrored for view in VIEWS] == [False, True, False, True]
    assert shares == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])


def test_in_torch_a_subnet_answers_as_its_onnx_does(random_zoo: Path) -> None:
    network, table = load_supernet(zoo.entry("tiny", random_zoo))
    images = LabelledImages(two_colours(30), batch=8)
    rng = np.random.default_rng(0)
    for _ in range(3):
        architecture = random_architecture(network.space, rng)
        subnet = extract(network, architecture, table.lookup(architecture))
        by_onnx = subnet_score(network, architecture, table, images)
        by_torch = module_score(subnet, images, architecture.resolution, "cpu")
        assert by_torch.top1 == by_onnx.top1
        assert by_torch.smooth == pytest.approx(by_onnx.smooth, abs=1e-5)


@pytest.mark.parametrize("views", [0, 5])
def test_as_many_views_as_there_are(views: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 4"):
        LabelledImages(two_colours(2), views=views)


class Certain(torch.nn.Module):
    """Class 0 is ahead of class 1 by so much, and of class 2 by far."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return torch.tensor([self.margin, 0.0, -9.0]).expand(len(x_NCHW), 3)


@pytest.mark.parametrize("margin", [-2.0, 0.5, 40.0])
def test_soft_edges_count_how_far_ahead_the_right_class_is(margin: float) -> None:
    images = LabelledImages(two_colours(4))  # of classes 0 and 1, as many of each
    score = module_score(Certain(margin), images, 32, "cpu")
    assert score.top1 == 0.5
    assert score.smooth == pytest.approx(0.5)
    only = LabelledImages(two_colours(4).subset(np.array([0, 2])))
    assert module_score(Certain(margin), only, 32, "cpu").smooth == pytest.approx(1 / (1 + np.exp(-margin)))
