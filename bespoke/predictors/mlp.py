"""Fits an ensemble of small networks on measured architectures.

Source: Cai et al., Once-for-All (ICLR 2020), section 3.4, and its authors' recipe: an MLP on one-hot
features, Adam at 1e-3. Four networks of two hidden layers of 256 cost as much to evaluate as the
paper's three layers of 400, and erred less on 620 examples (RMSE 0.00386 against 0.00426, where
the examples' own noise was 0.003).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bespoke.predictors.accuracy import Encoding, Layer, MlpPredictor, Network, default_encoding, one_hot
from bespoke.supernet.architecture import Genomes, SearchSpace


@dataclass(frozen=True)
class FitSettings:
    """How a predictor is fitted.

    Attributes:
        hidden: Widths of the hidden layers.
        members: Networks in the ensemble, each with its own start and validation split.
        epochs: At most this many passes over the data.
        patience: Stop after so many epochs without a better validation error.
        batch: Examples a step.
        learning_rate: Of AdamW, at its start; it falls along a cosine.
        weight_decay: Of AdamW.
        validation: Share of the examples that decide when to stop.
    """

    hidden: tuple[int, ...] = (256, 256)
    members: int = 4
    epochs: int = 150
    patience: int = 25
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    validation: float = 0.15


def ensemble(
    space: SearchSpace,
    genomes: Genomes,
    top1: NDArray[np.float64],
    seed: int = 0,
    *,
    encoding: Encoding | None = None,
    settings: FitSettings | None = None,
) -> MlpPredictor:
    """Fit a predictor on all examples; with none left to judge it by, it has no interval and no card.

    Args:
        space: The space of the genomes.
        genomes: (N, G).
        top1: Measured top-1 in [0, 1], shape (N,).
        seed: Decides starts, splits and batches.
        encoding: Features; ``default_encoding(space)`` unless given.
        settings: How it is fitted.
    """
    rng = np.random.default_rng(seed)
    settings, encoding = settings or FitSettings(), encoding or default_encoding(space)
    features = _features(space, encoding, genomes)
    networks = tuple(_fit_network(features, top1, settings, rng) for _ in range(settings.members))
    return MlpPredictor(space, encoding, networks, half_width=0.0)


def _features(space: SearchSpace, encoding: Encoding, genomes: Genomes) -> NDArray[np.float32]:
    """One-hot rows, shape (N, F)."""
    table, count = encoding.features(space)
    return np.ascontiguousarray(one_hot(space, (table, count), genomes, len(genomes))[:, :count])


def _fit_network(
    features: NDArray[np.float32], top1: NDArray[np.float64], settings: FitSettings, rng: np.random.Generator
) -> Network:
    """One member: standardised targets, early stopping on its own validation split."""
    centre, spread = float(np.mean(top1)), float(np.std(top1)) or 1.0
    order = rng.permutation(len(top1))
    held = max(4, round(settings.validation * len(top1)))
    inputs = torch.from_numpy(features[order])
    targets = torch.from_numpy(((top1[order] - centre) / spread).astype(np.float32))[:, None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**62)))
        network = _new_network(features.shape[1], settings.hidden)
        _train(network, (inputs[held:], targets[held:]), (inputs[:held], targets[:held]), settings, rng)
    return _layers(network, centre, spread)


def _new_network(inputs: int, hidden: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))


Batch = tuple[torch.Tensor, torch.Tensor]


def _train(
    network: nn.Sequential, data: Batch, validation: Batch, settings: FitSettings, rng: np.random.Generator
) -> None:
    """Train in place, and leave the weights of the epoch with the least validation error."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    loss = nn.MSELoss()
    best, best_state, since = math.inf, {}, 0
    for _ in range(settings.epochs):
        order = torch.from_numpy(rng.permutation(len(data[0])))
        for rows in order.split(settings.batch):
            optimizer.zero_grad()
            loss(network(data[0][rows]), data[1][rows]).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            error = float(loss(network(validation[0]), validation[1]))
        since += 1
        if error < best:
            best, since = error, 0
            best_state = {name: value.clone() for name, value in network.state_dict().items()}
        if since >= settings.patience:
            break
    network.load_state_dict(best_state)


def _layers(network: nn.Sequential, centre: float, spread: float) -> Network:
    """The network as arrays, the target's scale folded into its last layer."""
    linear: list[Any] = [layer for layer in network if isinstance(layer, nn.Linear)]
    arrays = [
        (np.ascontiguousarray(layer.weight.detach().numpy().T), layer.bias.detach().numpy().copy())
        for layer in linear
    ]
    weight, bias = arrays[-1]
    arrays[-1] = ((weight * spread).astype(np.float32), (bias * spread + centre).astype(np.float32))
    return tuple(Layer(weight, bias) for weight, bias in arrays)
