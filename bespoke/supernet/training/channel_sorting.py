"""Sorting the channels inside each block by importance, so that the first ones matter most.

The function of the largest network stays as it is: a channel moves with everything that belongs to
it. Channels that a narrower subnet already trained keep to its width: sorting happens between the
widths of before.

Source: Once-for-All (ICLR 2020): importance is the L1 norm of what reads the channel.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from bespoke.supernet.layers import Bottleneck, InvertedBottleneck, Norm, SqueezeExcite
from bespoke.supernet.networks.chain import ChainSupernet, layer_name
from bespoke.supernet.training.phase import Phase, open_ops

Place = tuple[Tensor, int]
"""A tensor, and the axis of it along which channels lie."""


@torch.no_grad()
def sort_channels(network: ChainSupernet, before: Phase) -> None:
    """Sort the inner channels of all blocks, in place.

    Args:
        network: The supernet; the largest subnet's function does not change, nor does that of a
            subnet whose widths the phase before could draw.
        before: The phase that ends here.
    """
    for slot in network.space.slots:
        name = layer_name(slot.name)
        layer = network.slots[name] if name in network.slots else None
        if not isinstance(layer, InvertedBottleneck | Bottleneck):
            continue
        ops = open_ops(network.space, slot, before)
        widths = {op.mid_channels for op in ops}
        if isinstance(layer, Bottleneck):
            _sort_bottleneck(layer, widths)
        elif layer.expansion is not None:
            _sort_inverted_bottleneck(layer, widths)
            if layer.se is not None:
                _sort_attention(layer.se, {op.se_channels for op in ops})


def _sort_inverted_bottleneck(layer: InvertedBottleneck, widths: Iterable[int]) -> None:
    assert layer.expansion is not None and layer.expansion_bn is not None
    places: list[Place] = [(layer.expansion, 0), *_norm(layer.expansion_bn), (layer.depthwise, 0)]
    places += [*_norm(layer.depthwise_bn), (layer.projection, 1)]
    if layer.se is not None:
        assert layer.se.expand.bias is not None
        places += [(layer.se.reduce.weight, 1), (layer.se.expand.weight, 0), (layer.se.expand.bias, 0)]
    _permute(places, _order(_importance(layer.projection, 1), widths))


def _sort_attention(se: SqueezeExcite, widths: Iterable[int]) -> None:
    assert se.reduce.bias is not None
    places: list[Place] = [(se.reduce.weight, 0), (se.reduce.bias, 0), (se.expand.weight, 1)]
    _permute(places, _order(_importance(se.expand.weight, 1), widths))


def _sort_bottleneck(layer: Bottleneck, widths: set[int]) -> None:
    inner: list[Place] = [(layer.spatial, 0), *_norm(layer.spatial_bn), (layer.projection, 1)]
    _permute(inner, _order(_importance(layer.projection, 1), widths))
    outer: list[Place] = [(layer.reduction, 0), *_norm(layer.reduction_bn), (layer.spatial, 1)]
    _permute(outer, _order(_importance(layer.spatial, 1), widths))


def _norm(norm: Norm) -> list[Place]:
    return [(norm.weight, 0), (norm.bias, 0)]


def _importance(reader: Tensor, axis: int) -> Tensor:
    """L1 norm of the weights that read each channel, shape (C,)."""
    return reader.abs().sum([i for i in range(reader.ndim) if i != axis])


def _order(importance_C: Tensor, widths: Iterable[int]) -> Tensor:
    """Indices of the channels, the most important first between each two widths."""
    borders = sorted({0, *widths, len(importance_C)})
    parts = [
        start + importance_C[start:end].argsort(descending=True, stable=True)
        for start, end in pairwise(borders)
    ]
    return torch.cat(parts)


def _permute(places: Iterable[Place], order: Tensor) -> None:
    for parameter, axis in places:
        parameter.copy_(parameter.index_select(axis, order))
