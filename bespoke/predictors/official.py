"""Reads the accuracy predictor that the Once-for-All authors published.

Source: ``acc_predictor.pth`` of the authors' tutorial: an MLP 128-400-400-400-1 for the
MobileNetV3 space of width 1.2. Its features are 20 x 3 kernels, 20 x 3 expansion ratios and eight
resolutions, ``(side - 112) // 16``; skipped blocks are all zero.
"""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bespoke.predictors.accuracy import Encoding, Layer, MlpPredictor, ResolutionBins
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import FileInvalid, InvalidInput, Unavailable

SPACE = "ofa-mobilenetv3-w1.2"
ENCODING = Encoding(("kernel", "expand", "resolution"), ResolutionBins(tuple(range(112, 225, 16)), 16))
WIDTHS = (128, 400, 400, 400, 1)

HALF_WIDTH = 1.645 * 0.0021
"""90% of a normal error with the test RMSE of 0.21% that the paper reports; the data behind it
are not published, so nothing better can be calibrated."""


def read_official(path: Path, space: SearchSpace) -> MlpPredictor:
    """Read the published predictor.

    Args:
        path: ``acc_predictor.pth``.
        space: A space of OFA-MobileNetV3 w1.2, with resolutions from 112 to 239.

    Raises:
        FileInvalid: The file is missing or is not the published predictor.
        InvalidInput: The space is another one, or has a resolution that the predictor lacks.
        Unavailable: torch is not installed.
    """
    if space.name != SPACE:
        raise InvalidInput(f"{path}: the published predictor is of {SPACE!r}, got the space {space.name!r}")
    state = _load(path)
    expected: dict[str, tuple[int, ...]] = {}
    for i, (inputs, outputs) in enumerate(pairwise(WIDTHS)):
        expected |= {f"{2 * i}.weight": (outputs, inputs), f"{2 * i}.bias": (outputs,)}
    got = {str(name): tuple(getattr(tensor, "shape", ())) for name, tensor in state.items()}
    if got != expected:
        raise FileInvalid(path, f"expected the tensors {expected}, got {got}")
    arrays = {name: np.asarray(tensor.numpy(), np.float32) for name, tensor in state.items()}
    network = tuple(
        Layer(np.ascontiguousarray(arrays[f"{2 * i}.weight"].T), arrays[f"{2 * i}.bias"])
        for i in range(len(WIDTHS) - 1)
    )
    card = {"source": "Once-for-All, acc_predictor.pth", "rmse": 0.0021}
    return MlpPredictor(space, ENCODING, (network,), HALF_WIDTH, card)


def _load(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise Unavailable(
            f"{path} is a torch file: install torch (pip install 'bespoke-search[train]') to read it"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise FileInvalid(path, f"is no torch file of plain tensors: {error}") from error
    if not isinstance(state, dict):
        raise FileInvalid(path, f"expected a dictionary of tensors, got {type(state).__name__}")
    return state
