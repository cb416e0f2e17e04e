"""What the Once-for-All authors call each tensor: a name table beside our own names.

A convolution with its BN is a *unit*, e.g. ``blocks.3.conv.depth_conv``. Its tensors are

    {unit}.conv.weight    {unit}.bn.{weight,bias,running_mean,running_var,num_batches_tracked}

and, in layers whose size is elastic, the same with the inner word doubled (``conv.conv.weight``,
``bn.bn.bias``, ``linear.linear.bias``). Files of the first release say ``mobile_inverted_conv``
where later ones say ``conv`` between block and unit. A specialised network's layers are not
elastic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from bespoke.supernet.architecture import SearchSpace, Slot
from bespoke.supernet.networks.chain import layer_name
from bespoke.supernet.ops import Op

UNITS: Mapping[str, Mapping[str, str]] = {
    "conv": {"": ""},
    "mbconv": {
        "expansion": "inverted_bottleneck",
        "depthwise": "depth_conv",
        "projection": "point_linear",
    },
    "bottleneck": {
        "reduction": "conv1",
        "spatial": "conv2",
        "projection": "conv3",
        "shortcut": "downsample",
    },
}
"""By kind of op, the authors' name of each unit by ours."""

OLD_BLOCK = "mobile_inverted_conv"
SE = "depth_conv.se.fc"


@dataclass(frozen=True)
class Target:
    """Where a published tensor belongs.

    Attributes:
        role: A ``parameter`` of the network, ``mean`` or ``variance`` of a BN layer, or the
            ``count`` of batches, which says nothing.
        name: The parameter's name, or the BN layer's.
    """

    role: Literal["parameter", "mean", "variance", "count"]
    name: str


def official_names(space: SearchSpace, old: bool = False) -> dict[str, Target]:
    """Every tensor of a published file of this space, by its published name.

    Args:
        space: An OFA space, or a specialised network.
        old: Whether the file has the names of the first release.
    """
    return {name: target for slot in space.slots for name, target in _slot_names(slot, old)}


def _slot_names(slot: Slot, old: bool) -> Iterator[tuple[str, Target]]:
    ops = [op for op in slot.ops if op is not None]
    op = max(ops, key=lambda op: (op.mid_channels, op.kernel, op.out_channels))
    # A slot that follows from the resolution alone has an ordinary layer.
    elastic = len(slot.genes) > 1
    ours = f"slots.{layer_name(op.name)}"
    if op.kind == "linear":
        linear = "linear.linear" if elastic else "linear"
        for part in ("weight", "bias"):
            yield f"{op.name}.{linear}.{part}", Target("parameter", f"{ours}.linear.{part}")
    path = _path(op, old)
    for part, unit in UNITS.get(op.kind, {}).items():
        if (part == "expansion" and not op.expands) or (part == "shortcut" and not op.downsamples):
            continue
        yield from _unit_names(op, f"{path}.{unit}" if unit else path, part, ours, elastic)
    if op.se:
        for part in ("reduce", "expand"):
            for tensor in ("weight", "bias"):
                yield f"{path}.{SE}.{part}.{tensor}", Target("parameter", f"{ours}.se.{part}.{tensor}")
    if op.kind == "mbconv":
        for kernel in range(op.kernel, min(one.kernel for one in ops), -2):
            step = f"{kernel}to{kernel - 2}"
            yield f"{path}.depth_conv.conv.{step}_matrix", Target("parameter", f"{ours}.transforms.{step}")


def _path(op: Op, old: bool) -> str:
    """What stands before the units of an op."""
    if op.kind == "mbconv":
        return f"{op.name}.{OLD_BLOCK if old else 'conv'}"
    return f"{op.name}.conv" if op.kind == "conv" and op.skip else op.name


def _unit_names(op: Op, unit: str, part: str, ours: str, elastic: bool) -> Iterator[tuple[str, Target]]:
    conv, bn = ("conv.conv", "bn.bn") if elastic else ("conv", "bn")
    yield f"{unit}.{conv}.weight", Target("parameter", f"{ours}.{part or 'weight'}")
    if not op.norm:
        return
    norm = f"{part}_bn" if part else "bn"
    for tensor in ("weight", "bias"):
        yield f"{unit}.{bn}.{tensor}", Target("parameter", f"{ours}.{norm}.{tensor}")
    site = f"{op.name}.{norm}"
    yield f"{unit}.{bn}.running_mean", Target("mean", site)
    yield f"{unit}.{bn}.running_var", Target("variance", site)
    yield f"{unit}.{bn}.num_batches_tracked", Target("count", site)
