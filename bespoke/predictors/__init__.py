"""Accuracy predictors: what top-1 an architecture will have, with a conformal interval."""

from bespoke.predictors.accuracy import (
    AccuracyPredictor,
    Encoding,
    Layer,
    LinearisedPredictor,
    MlpPredictor,
    ResolutionBins,
    default_encoding,
    read_predictor,
)
from bespoke.predictors.dataset import AccuracyDataset, collect
from bespoke.predictors.gaussian import GaussianPredictor

__all__ = [
    "AccuracyDataset",
    "AccuracyPredictor",
    "Encoding",
    "GaussianPredictor",
    "Layer",
    "LinearisedPredictor",
    "MlpPredictor",
    "ResolutionBins",
    "collect",
    "default_encoding",
    "read_predictor",
]
