"""An exponential moving average of the weights: steadier than the weights of the last step.

Source: Polyak & Juditsky (1992); the warm-up is that of TensorFlow's ExponentialMovingAverage.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MEMORY_SHARE = 0.02
"""How far back the average reaches, as a share of a phase's steps: it scales with the recipe."""


class WeightAverage:
    """The average of a network's parameters over the steps of one phase.

    Attributes:
        tensors: The averages by parameter name.
    """

    def __init__(self, network: nn.Module, steps: int) -> None:
        """Begin at the network's weights, for a phase of this many steps."""
        self.tensors: dict[str, Tensor] = {n: p.detach().clone() for n, p in network.named_parameters()}
        self._decay = 1 - 1 / max(1.0, MEMORY_SHARE * steps)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step, counted from 0."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        averages, own = list(self.tensors.values()), [p.detach() for p in network.parameters()]
        torch._foreach_lerp_(averages, own, weight)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from saved averages."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @torch.no_grad()
    def move_into(self, network: nn.Module) -> None:
        """Make the averages the network's weights."""
        for name, parameter in network.named_parameters():
            parameter.copy_(self.tensors[name])
