"""The picture of a quality card."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from bespoke.latency_tables.plot import plot_quality
from bespoke.latency_tables.quality import QualityCard, quality_card
from bespoke.supernet.errors import InvalidInput


def card(count: int, noise: float) -> QualityCard:
    rng = np.random.default_rng(0)
    measured = rng.uniform(5, 25, count)
    return quality_card(
        measured * (1 + rng.normal(0, noise, count)),
        measured,
        repeat_mape=0.01,
        samples=900,
        rejected=4,
        duration_s=60.0,
        drift=0.01,
    )


def test_a_card_becomes_a_png_with_its_dots() -> None:
    picture = plot_quality(card(30, 0.03), "Pixel 4, onnxruntime, 1 thread", interval=0.06)
    image = Image.open(io.BytesIO(picture))
    assert (image.format, image.size) == ("PNG", (1200, 1200))
    assert picture == plot_quality(card(30, 0.03), "Pixel 4, onnxruntime, 1 thread", interval=0.06)
    assert picture != plot_quality(card(30, 0.08), "Pixel 4, onnxruntime, 1 thread", interval=0.06)


def test_a_card_without_points_cannot_be_drawn() -> None:
    with pytest.raises(InvalidInput, match="has no points"):
        plot_quality(dataclasses.replace(card(5, 0.1), points=()))


def test_a_label_is_drawn_as_it_stands_and_is_no_formula() -> None:
    assert plot_quality(card(5, 0.1), r"board $\foo$ of $5").startswith(b"\x89PNG")
