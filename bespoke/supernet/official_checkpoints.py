"""Reads the networks that the Once-for-All authors published into ours.

A supernet's running BN statistics are those of the largest subnet, and of no other; so they make
no statistics table. Those of a specialised network are its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import FileInvalid
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.official_names import OLD_BLOCK, official_names
from bespoke.supernet.spaces import (
    RESOLUTIONS,
    FixedNetwork,
    OfaMobileNetV3,
    OfaProxyless,
    OfaResNet50,
)
from bespoke.supernet.statistics import Statistics, StatisticsTable, table_layout
from bespoke.supernet.torch_files import read_tensors

MOBILENETV3_WIDTHS = {16: 1.0, 24: 1.2}
PROXYLESS_WIDTHS = {40: 1.3}
"""Width multipliers of the published supernets, by the channels of their first convolution."""
CLASSIFIERS = ("classifier.linear.weight", "classifier.linear.linear.weight")


@dataclass(frozen=True)
class OfficialNetwork:
    """A published network.

    Attributes:
        network: With its weights, in single precision.
        statistics: (running mean, running variance) of each BN layer at full width.
    """

    network: ChainSupernet
    statistics: Statistics


def read_supernet(path: Path, resolutions: Sequence[int] = RESOLUTIONS) -> OfficialNetwork:
    """Read a published supernet; which one it is, its tensors say.

    Args:
        path: A torch file, with names of the first release or of later ones.
        resolutions: Sides of the input that may be chosen, which the file does not say.

    Raises:
        FileInvalid: The file is none of the published supernets: the message names the tensor.
        InvalidInput: The resolutions make no network.
    """
    state = read_tensors(path)
    return _assigned(path, state, _space_of(path, state, tuple(resolutions)))


def read_specialised(path: Path, network: FixedNetwork) -> OfficialNetwork:
    """Read a specialised network's weights.

    Args:
        path: The torch file, published as ``init``.
        network: What its ``net.config`` says.

    Raises:
        FileInvalid: The tensors are not those of this network: the message names the tensor.
    """
    return _assigned(path, read_tensors(path), network)


def constant_table(space: FixedNetwork, statistics: Statistics) -> StatisticsTable:
    """The statistics table of a network without choices: no effect, and its own statistics as base."""
    means, log_variances = {}, {}
    for site, layout in table_layout(space).items():
        mean_C, var_C = statistics[site]
        means[site] = torch.zeros(layout.rows, layout.channels)
        log_variances[site] = torch.zeros(layout.rows, layout.channels)
        means[site][0], log_variances[site][0] = mean_C, var_C.clamp(min=1e-12).log()
    return StatisticsTable(space, means, log_variances)


def _space_of(path: Path, state: Mapping[str, Tensor], resolutions: tuple[int, ...]) -> SearchSpace:
    classes = next((len(state[name]) for name in CLASSIFIERS if name in state and state[name].ndim), 0)
    if not classes:
        some = ", ".join(sorted(state)[:3]) or "no tensor at all"
        raise FileInvalid(path, f"is no published network: expected {CLASSIFIERS[0]!r}, got e.g. {some}")
    if not any(name.endswith(".conv.conv.weight") for name in state if name.startswith("blocks.")):
        raise FileInvalid(
            path, "is a specialised network, whose file does not tell its strides: give its net.config too"
        )
    if any(name.startswith("input_stem.") for name in state):
        return OfaResNet50(resolutions, classes)
    stem = "first_conv.conv.weight"
    width = len(state[stem]) if stem in state and state[stem].ndim else 0
    if any(name.startswith("final_expand_layer.") for name in state):
        if width in MOBILENETV3_WIDTHS:
            return OfaMobileNetV3(MOBILENETV3_WIDTHS[width], resolutions, classes)
        known = MOBILENETV3_WIDTHS
    elif width in PROXYLESS_WIDTHS:
        return OfaProxyless(PROXYLESS_WIDTHS[width], resolutions, classes)
    else:
        known = PROXYLESS_WIDTHS
    raise FileInvalid(
        path, f"tensor {stem!r}: got {width} channels, expected one of {sorted(known)} as published"
    )


def _assigned(path: Path, state: Mapping[str, Tensor], space: SearchSpace) -> OfficialNetwork:
    """Bind a file's tensors to a network by the name table, all of them or none."""
    names = official_names(space, old=any(f".{OLD_BLOCK}." in name for name in state))
    _same_names(path, names.keys() - state.keys(), state.keys() - names.keys(), space)
    network = ChainSupernet.empty(space)
    expected = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    weights: dict[str, Tensor] = {}
    means: dict[str, Tensor] = {}
    variances: dict[str, Tensor] = {}
    channels = _channels(space)
    for name, target in names.items():
        if target.role == "count":
            continue
        shape = expected[target.name] if target.role == "parameter" else (channels[target.name],)
        tensor = _checked(path, name, state[name], shape)
        {"parameter": weights, "mean": means, "variance": variances}[target.role][target.name] = tensor
        if target.role == "variance" and bool((tensor < 0).any()):
            raise FileInvalid(path, f"tensor {name!r}: got a variance below 0")
    network.load_state_dict(weights, assign=True)
    return OfficialNetwork(network.eval(), {site: (means[site], variances[site]) for site in means})


def _channels(space: SearchSpace) -> dict[str, int]:
    return {site: layout.channels for site, layout in table_layout(space).items()}


def _same_names(path: Path, missing: set[str], left_over: set[str], space: SearchSpace) -> None:
    if not missing and not left_over:
        return
    told = [
        f"{what} {len(names)} tensors: {', '.join(sorted(names)[:5])}" + (", ..." if len(names) > 5 else "")
        for what, names in (("lacks", missing), ("has left over", left_over))
        if names
    ]
    raise FileInvalid(path, f"as a file of {space.name}, it {' and '.join(told)}")


def _checked(path: Path, name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) != shape:
        raise FileInvalid(path, f"tensor {name!r}: got shape {tuple(tensor.shape)}, expected {shape}")
    if not tensor.is_floating_point():
        raise FileInvalid(path, f"tensor {name!r}: got {tensor.dtype}, expected floating-point numbers")
    if not bool(torch.isfinite(tensor).all()):
        raise FileInvalid(path, f"tensor {name!r}: got values that are not finite")
    return tensor.detach().float().clone(memory_format=torch.contiguous_format)
