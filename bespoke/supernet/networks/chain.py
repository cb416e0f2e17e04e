"""The supernet of any space whose plans are chains of the ops in ``ops.KINDS``.

A family adds no code of its own while its blocks are known here: the weights of each slot are
those of the largest op that may stand in it, and a forward pass walks the plan.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bespoke.supernet.architecture import Architecture, SearchSpace
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.layers import (
    BatchStatistics,
    Bottleneck,
    Classifier,
    Conv,
    InvertedBottleneck,
    Normalise,
)
from bespoke.supernet.ops import KINDS, Op


class ChainSupernet(nn.Module):
    """A network with its shared weights.

    Attributes:
        space: What the network can be.
    """

    def __init__(self, space: SearchSpace) -> None:
        """Allocate the weights of the largest op of each slot, freshly initialised."""
        super().__init__()
        self.space = space
        modules = {layer_name(s.name): _shared_layer(s.ops) for s in space.slots}
        self.slots = nn.ModuleDict({name: module for name, module in modules.items() if module})

    @classmethod
    def empty(cls, space: SearchSpace) -> ChainSupernet:
        """The same network without memory for its weights, to be filled from a file."""
        with torch.device("meta"):
            return cls(space)

    def weights_of(self, op: Op) -> nn.Module | None:
        """The module that holds an op's shared weights; None for an op without weights."""
        name = layer_name(op.name)
        return self.slots[name] if name in self.slots else None

    def forward(
        self, x_NCHW: Tensor, architecture: Architecture, normalise: Normalise | None = None
    ) -> Tensor:
        """Run one architecture on the shared weights.

        Args:
            x_NCHW: Images at the architecture's resolution (any other works too, for training).
            architecture: What runs.
            normalise: Where BN gets its statistics; the batch's own where none is given.

        Returns:
            Logits of shape (N, classes).
        """
        normalise = normalise or BatchStatistics()
        for op in self.space.plan(architecture).ops:
            x_NCHW = run_op(self.weights_of(op), op, x_NCHW, normalise)
        return x_NCHW


def layer_name(name: str) -> str:
    """An op's name as torch allows it for a sub-module."""
    return name.replace(".", "_")


def run_op(weights: nn.Module | None, op: Op, x: Tensor, normalise: Normalise) -> Tensor:
    """Run one op on its weights."""
    if op.kind == "pool":
        return x.mean((2, 3), keepdim=True)
    if op.kind == "maxpool":
        return F.max_pool2d(x, op.kernel, op.stride, op.kernel // 2)
    if op.kind == "linear":
        assert weights is not None
        return weights(x.flatten(1), op)
    assert weights is not None
    return weights(x, op, normalise)


def _shared_layer(ops: tuple[Op | None, ...]) -> nn.Module | None:
    """The layer of all ops that may stand in a slot."""
    present = [op for op in ops if op is not None]
    largest = max(present, key=lambda op: (op.mid_channels, op.kernel, op.out_channels, op.in_shape))
    return make_layer(largest, elastic=any(op.kernel < largest.kernel for op in present))


def make_layer(op: Op, elastic: bool) -> nn.Module | None:
    """The layer of an op at its full size; None for an op without weights.

    Raises:
        InvalidInput: The op's kind has no layer here.
    """
    if op.kind in ("pool", "maxpool"):
        return None
    if op.kind == "mbconv":
        return InvertedBottleneck(op, elastic)
    if op.kind == "bottleneck":
        return Bottleneck(op)
    if op.kind == "conv":
        return Conv(op)
    if op.kind == "linear":
        return Classifier(op)
    raise InvalidInput(f"op kind {op.kind!r} has no layer; known: {', '.join(KINDS)}")


def norm_sites(op: Op) -> Iterator[tuple[str, int]]:
    """The BN layers inside an op: (site, channels), in the order in which they run."""
    if op.kind == "conv" and op.norm:
        yield f"{op.name}.bn", op.out_channels
    if op.kind == "mbconv":
        if op.expands:
            yield f"{op.name}.expansion_bn", op.mid_channels
        yield f"{op.name}.depthwise_bn", op.mid_channels
        yield f"{op.name}.projection_bn", op.out_channels
    if op.kind == "bottleneck":
        yield f"{op.name}.reduction_bn", op.mid_channels
        yield f"{op.name}.spatial_bn", op.mid_channels
        yield f"{op.name}.projection_bn", op.out_channels
        if op.downsamples:
            yield f"{op.name}.shortcut_bn", op.out_channels


def no_decay(name: str) -> bool:
    """Whether a parameter is spared weight decay: BN, biases and kernel transforms."""
    return "bn" in name or name.endswith("bias") or "transforms" in name
