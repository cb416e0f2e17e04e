"""The random weights that training begins on."""

from __future__ import annotations

import torch
from torch import nn

from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.layers import Bottleneck, InvertedBottleneck
from bespoke.supernet.networks.chain import ChainSupernet


def initialised(space: SearchSpace, seed: int = 0) -> ChainSupernet:
    """A supernet with random weights, whose residual blocks pass on what they get.

    The last BN of each block that adds its input begins with a scale of zero, so that a deep network
    begins as a shallow one, and all depths of a stage as the same function. ResNet-50's convolution of
    the stem that may be left out is none of them: an activation follows its sum, which would be dead.

    Args:
        space: What the network can be.
        seed: All weights follow from it.

    Source: Goyal et al., Accurate, Large Minibatch SGD (arXiv:1706.02677), section 5.1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ChainSupernet(space)
    for slot in space.slots:
        op = next(op for op in slot.ops if op is not None)
        block = network.weights_of(op)
        if op.skip and isinstance(block, InvertedBottleneck | Bottleneck):
            nn.init.zeros_(block.projection_bn.weight)
    return network
