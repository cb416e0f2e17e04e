"""Reads the accuracy predictors that the Once-for-All authors published.

``acc_predictor.pth`` is of the MobileNetV3 space of width 1.2: an MLP 128-400-400-400-1. Its features
are 20 x 3 kernels, 20 x 3 expansion ratios and eight resolutions, ``(side - 112) // 16``; skipped
blocks are all zero.

``ofa_resnet50_acc_predictor.pth`` is of the ResNet-50 space: 82-400-400-400-1, the last layer
without a bias, plus a constant (``base_acc``). Its features are eight resolutions, whether the stem's
residual is there (2), six widths (x 3: inside the stem, of the stem, of the stages) and 18 x 3
expansion ratios; skipped blocks are all zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.predictors.accuracy import Encoding, Layer, MlpPredictor, Network, ResolutionBins
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.torch_files import read_tensors

HIDDEN = (400, 400, 400)

RMSE = 0.0021
HALF_WIDTH = 1.645 * RMSE
"""90% of a normal error with the test RMSE of 0.21% that the paper reports (of MobileNetV3); the data
behind it are not published, so nothing better can be calibrated. ResNet-50's was published without any:
its interval is borrowed."""

Arrays = Mapping[str, NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class OfficialPredictor:
    """How one published predictor is laid out.

    Attributes:
        file: Its published name.
        encoding: Its features, as far as this project's spaces have them.
        shapes: Of every tensor in the file, by name.
        network: From the file's arrays to the layers.
        rmse: Of top-1, as the paper reports it; None where it does not.
    """

    file: str
    encoding: Encoding
    shapes: Shapes
    network: Callable[[Arrays], Network]
    rmse: float | None = None


def _mobilenetv3_shapes() -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (inputs, outputs) in enumerate(pairwise((128, *HIDDEN, 1))):
        shapes |= {f"{2 * i}.weight": (outputs, inputs), f"{2 * i}.bias": (outputs,)}
    return shapes


def _mobilenetv3_network(arrays: Arrays) -> Network:
    return tuple(_layer(arrays[f"{2 * i}.weight"], arrays[f"{2 * i}.bias"]) for i in range(len(HIDDEN) + 1))


def _resnet50_shapes() -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {"base_acc": (1,), f"layers.{len(HIDDEN)}.weight": (1, HIDDEN[-1])}
    for i, (inputs, outputs) in enumerate(pairwise((82, *HIDDEN))):
        shapes |= {f"layers.{i}.0.weight": (outputs, inputs), f"layers.{i}.0.bias": (outputs,)}
    return shapes


_STEM_WIDTH_80 = 8 + 2 + 1
"""The feature of a width of 0.8 inside the stem: that network is the one of 0.65, which has its own."""


def _resnet50_network(arrays: Arrays) -> Network:
    first = np.delete(arrays["layers.0.0.weight"], _STEM_WIDTH_80, axis=1)
    hidden = [_layer(first, arrays["layers.0.0.bias"])]
    hidden += [
        _layer(arrays[f"layers.{i}.0.weight"], arrays[f"layers.{i}.0.bias"]) for i in range(1, len(HIDDEN))
    ]
    return (*hidden, _layer(arrays[f"layers.{len(HIDDEN)}.weight"], arrays["base_acc"]))


def _layer(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> Layer:
    return Layer(np.ascontiguousarray(weight.T), bias)


PREDICTORS: Mapping[str, OfficialPredictor] = {
    "ofa-mobilenetv3-w1.2": OfficialPredictor(
        "acc_predictor.pth",
        Encoding(("kernel", "expand", "resolution"), ResolutionBins(tuple(range(112, 225, 16)), 16)),
        _mobilenetv3_shapes(),
        _mobilenetv3_network,
        rmse=RMSE,
    ),
    "ofa-resnet50": OfficialPredictor(
        "ofa_resnet50_acc_predictor.pth",
        Encoding(
            ("resolution", "stem_depth", "stem_width", "width", "expand"),
            ResolutionBins((128, 144, 160, 176, 192, 224, 240, 256)),
        ),
        _resnet50_shapes(),
        _resnet50_network,
    ),
}
"""By the name of the space that each predicts."""


def read_official(path: Path, space: SearchSpace) -> MlpPredictor:
    """Read a published predictor.

    Args:
        path: ``acc_predictor.pth`` or ``ofa_resnet50_acc_predictor.pth``.
        space: A space of OFA-MobileNetV3 w1.2 with resolutions from 112 to 239, or of OFA-ResNet50
            with resolutions that its predictor knows.

    Raises:
        FileInvalid: The file is missing or is not the published predictor of this space.
        InvalidInput: The space has no published predictor, or a resolution that it lacks.
        Unavailable: torch is not installed.
    """
    if space.name not in PREDICTORS:
        raise InvalidInput(
            f"{path}: the published predictors are of {', '.join(PREDICTORS)}, got the space {space.name!r}"
        )
    layout = PREDICTORS[space.name]
    state = read_tensors(path)
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if got != dict(layout.shapes):
        raise FileInvalid(path, f"expected the tensors of {layout.file}, {dict(layout.shapes)}, got {got}")
    arrays = {name: np.asarray(tensor.numpy(), np.float32) for name, tensor in state.items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise FileInvalid(path, "expected finite numbers in every tensor")
    card: dict[str, Any] = {"source": f"Once-for-All, {layout.file}"}
    card |= {} if layout.rmse is None else {"rmse": layout.rmse}
    return MlpPredictor(space, layout.encoding, (layout.network(arrays),), HALF_WIDTH, card)
