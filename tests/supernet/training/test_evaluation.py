from pathlib import Path

import numpy as np
import pytest
import torch

from bespoke.supernet import zoo
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import random_architecture
from bespoke.supernet.subnet import extract, load_supernet
from bespoke.supernet.training.data import ImageSet
from bespoke.supernet.training.evaluation import VIEWS, LabelledImages, module_top1, subnet_top1
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
    shares = [module_top1(Mirror(), LabelledImages(half_lit(), views=n), 32, "cpu") for n in (1, 2, 3, 4)]
    assert [view.mirrored for view in VIEWS] == [False, True, False, True]
    assert shares == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])


def test_in_torch_a_subnet_answers_as_its_onnx_does(random_zoo: Path) -> None:
    network, table = load_supernet(zoo.entry("tiny", random_zoo))
    images = LabelledImages(two_colours(30), batch=8)
    rng = np.random.default_rng(0)
    for _ in range(3):
        architecture = random_architecture(network.space, rng)
        subnet = extract(network, architecture, table.lookup(architecture))
        by_onnx = subnet_top1(network, architecture, table, images)
        assert module_top1(subnet, images, architecture.resolution, "cpu") == by_onnx


@pytest.mark.parametrize("views", [0, 5])
def test_as_many_views_as_there_are(views: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 4"):
        LabelledImages(two_colours(2), views=views)
