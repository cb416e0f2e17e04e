from dataclasses import dataclass

import numpy as np
import pytest

from bespoke.predictors.effects import choice_effects
from bespoke.predictors.plot import plot_effects, plot_front
from bespoke.supernet.architecture import Genomes, gene_offsets
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.spaces import space as make_space

SPACE = make_space("ofa-mobilenetv3-w1.0", (96, 128), 10)
PNG = b"\x89PNG\r\n"


@dataclass(frozen=True)
class Known:
    """Kernels of block 2 give half a point each step, and every block that is there a tenth of one."""

    revision: str = ""
    half_width: float = 0.0
    selection_bias: float = 0.0

    def top1(self, genomes: Genomes) -> np.ndarray:
        offsets = gene_offsets(SPACE)
        depth = genomes[:, offsets["depth"] : offsets["depth"] + 5].sum(axis=1)
        return 0.7 + 0.005 * genomes[:, offsets["kernel"] + 1] + 0.001 * depth


def test_effects_are_those_that_the_predictor_has() -> None:
    effects = choice_effects(SPACE, Known())
    assert {name: values.shape for name, values in effects.items()} == {
        "kernel": (20, 3),
        "expand": (20, 3),
        "depth": (5, 3),
        "resolution": (1, 2),
    }
    np.testing.assert_allclose(effects["kernel"][1], [-0.005, 0, 0.005], atol=1e-12)
    np.testing.assert_allclose(np.delete(effects["kernel"], 1, axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(effects["depth"], np.tile([-0.001, 0, 0.001], (5, 1)), atol=1e-12)
    np.testing.assert_allclose(effects["resolution"], 0, atol=1e-12)


def test_pictures_are_png_and_the_same_for_the_same_numbers() -> None:
    effects = choice_effects(SPACE, Known(), samples=20)
    assert plot_effects(SPACE, effects, "tiny").startswith(PNG)
    random = [
        {"macs": 1e7 * (i + 1), "top1": 0.7 + i / 100, "resolution": (96, 128)[i % 2]} for i in range(8)
    ]
    front = [{"macs": 1e7, "top1_predicted": 0.75}, {"macs": 8e7, "top1_predicted": 0.8}]
    measured = [point | {"top1": 0.74} for point in front]
    drawn = [plot_front(random, own, "tiny") for own in (front, measured, front)]
    assert all(png.startswith(PNG) for png in drawn)
    assert drawn[0] == drawn[2] != drawn[1]


def test_without_points_there_is_no_picture() -> None:
    with pytest.raises(InvalidInput, match="no measured random subnets"):
        plot_front([], [])
