"""Cutting a static subnet out of a supernet, and folding it for export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bespoke.supernet.architecture import Architecture, Plan
from bespoke.supernet.calibration import observed_ranges
from bespoke.supernet.checkpoints import load_statistics, load_weights
from bespoke.supernet.errors import StatisticsMissing
from bespoke.supernet.layers import Classifier, Conv, FixedStatistics, InvertedBottleneck
from bespoke.supernet.networks.chain import ChainSupernet, layer_name, make_layer, norm_sites, run_op
from bespoke.supernet.onnx import write_onnx
from bespoke.supernet.statistics import Statistics, StatisticsTable
from bespoke.supernet.zoo import ZooEntry, describe


class Subnet(nn.Module):
    """A static network with its own weights and BN statistics.

    Its layers are the supernet's, at the exact size of each op. Once the BN statistics are fixed
    it is an ordinary module: ``subnet(x_NCHW)`` gives logits.
    """

    def __init__(self, plan: Plan) -> None:
        """Allocate every op of a static plan; the weights are unset until they are assigned."""
        super().__init__()
        self.plan = plan
        with torch.device("meta"):
            made = {layer_name(op.name): make_layer(op, elastic=False) for op in plan.ops}
        self.layers = nn.ModuleDict({name: layer for name, layer in made.items() if layer})
        self._sites = [site for op in plan.ops for site, _ in norm_sites(op)]

    def set_statistics(self, statistics: Statistics) -> None:
        """Copy the mean and variance of each BN layer into buffers."""
        for site in self._sites:
            mean_C, var_C = statistics[site]
            self.register_buffer(f"{layer_name(site)}_mean", mean_C.detach().clone())
            self.register_buffer(f"{layer_name(site)}_var", var_C.detach().clone())

    @property
    def statistics(self) -> Statistics:
        """The mean and variance of each BN layer, each of shape (C,)."""
        names = {site: layer_name(site) for site in self._sites}
        return {s: (self.get_buffer(f"{n}_mean"), self.get_buffer(f"{n}_var")) for s, n in names.items()}

    def layer(self, name: str) -> nn.Module | None:
        """The layer of the op of this name; None where the op has no weights."""
        known = layer_name(name)
        return self.layers[known] if known in self.layers else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits of shape (N, classes)."""
        normalise = FixedStatistics(self.statistics)
        for op in self.plan.ops:
            x_NCHW = run_op(self.layer(op.name), op, x_NCHW, normalise)
        return x_NCHW


@torch.no_grad()
def extract(network: ChainSupernet, architecture: Architecture, statistics: Statistics) -> Subnet:
    """Cut a static subnet out of a supernet.

    Args:
        network: The supernet; it is not touched.
        architecture: What to cut out.
        statistics: BN statistics of this subnet: from the supernet's table, or re-calibrated.

    Returns:
        A subnet with weights of its own, equal to the supernet run on the same statistics.
    """
    plan = network.space.plan(architecture)
    subnet = Subnet(plan)
    for op in plan.ops:
        source, target = network.weights_of(op), subnet.layer(op.name)
        if source is None or target is None:
            continue
        available = dict(source.named_parameters())
        cut = {}
        for name, parameter in target.named_parameters():
            full = source.kernel(op) if name == "depthwise" else available[name]  # type: ignore[operator]
            cut[name] = full[tuple(slice(size) for size in parameter.shape)].detach().clone()
        target.load_state_dict(cut, assign=True)
    subnet.set_statistics(statistics)
    return subnet


@torch.no_grad()
def fold(subnet: Subnet) -> dict[str, NDArray[np.float32]]:
    """A subnet's weights with every BN folded into the convolution before it (see ``onnx.py``)."""
    statistics = subnet.statistics
    folded: dict[str, Tensor] = {}
    for op in subnet.plan.ops:
        layer, name = subnet.layer(op.name), op.name
        if layer is None:
            continue
        for site, _ in norm_sites(op):
            # A convolution's BN is "bn" beside "weight"; those of a block's parts are "{part}_bn".
            bn = site[len(name) + 1 :]
            part, bias = ("weight", "bias") if bn == "bn" else (bn.removesuffix("_bn"), bn[:-3] + "_bias")
            mean_C, var_C = statistics[site]
            norm = getattr(layer, bn)
            scale_C = norm.weight / torch.sqrt(var_C + op.norm_eps)
            folded[f"{name}.{part}"] = getattr(layer, part) * scale_C.view(-1, 1, 1, 1)
            folded[f"{name}.{bias}"] = norm.bias - mean_C * scale_C
        if isinstance(layer, Conv) and layer.bn is None:
            folded[f"{name}.weight"] = layer.weight
        elif isinstance(layer, Classifier):
            folded[f"{name}.weight"], folded[f"{name}.bias"] = layer.linear.weight, layer.linear.bias
        elif isinstance(layer, InvertedBottleneck) and layer.se is not None:
            parts = ("se_reduce", "se_reduce_bias", "se_expand", "se_expand_bias")
            folded |= {f"{name}.{p}": w for p, w in zip(parts, layer.se.weights(op), strict=True)}
    return {name: tensor.detach().numpy() for name, tensor in folded.items()}


def load_network(entry: ZooEntry) -> ChainSupernet:
    """Read a zoo entry's weights.

    Raises:
        FileInvalid: The file is missing, or its tensors do not fit the space.
    """
    network = ChainSupernet.empty(entry.space)
    load_weights(network, entry.folder / "weights.safetensors")
    return network.eval()


def load_table(entry: ZooEntry) -> StatisticsTable:
    """Read a zoo entry's statistics table.

    Raises:
        StatisticsMissing: The entry came without one.
        FileInvalid: The file does not fit the space.
    """
    if not entry.has_statistics:
        raise StatisticsMissing(
            f"supernet {entry.name!r} came without a BN statistics table: re-calibrate one subnet on your "
            "own images (bespoke extract --images FOLDER), or make the table of all of them once "
            f"(bespoke zoo calibrate {entry.name} --images FOLDER)"
        )
    return load_statistics(entry.space, entry.folder / "statistics.safetensors")


def load_supernet(entry: ZooEntry) -> tuple[ChainSupernet, StatisticsTable]:
    """Read a zoo entry's weights and statistics table.

    Raises:
        StatisticsMissing: The entry came without a table.
        FileInvalid: A file is missing, or its tensors do not fit the space.
    """
    table = load_table(entry)
    return load_network(entry), table


@lru_cache(maxsize=2)
def _warm_network(entry: ZooEntry) -> ChainSupernet:
    return load_network(entry)


@lru_cache(maxsize=2)
def _warm_table(entry: ZooEntry) -> StatisticsTable:
    return load_table(entry)


def materialise(
    entry: ZooEntry,
    architecture: Architecture,
    metadata: Mapping[str, str] | None = None,
    *,
    statistics: Statistics | None = None,
    dynamic_batch: bool = False,
    precision: str = "fp32",
    images: Sequence[NDArray[np.float32]] = (),
) -> bytes:
    """A subnet of a zoo entry as ONNX that says what it is.

    The entry's weights are read at the first call and kept. Same arguments, same bytes.

    Args:
        entry: The zoo entry.
        architecture: An architecture of its space.
        metadata: Further key-value pairs, e.g. predicted figures and revisions.
        statistics: Re-calibrated BN statistics; the supernet's table where none are given.
        dynamic_batch: Leave the batch open; otherwise it is 1.
        precision: ``fp32`` or ``int8``.
        images: Batches, (N, 3, H, W) each, as the network gets them: INT8 ranges of activations are seen
            on them. Without any they are those that follow from the weights, which is less accurate.

    Raises:
        StatisticsMissing: None are given, and the entry came without a table.
    """
    source = "recalibrated" if statistics else "table"
    known = statistics or _warm_table(entry).lookup(architecture)
    subnet = extract(_warm_network(entry), architecture, known)
    folded, ranges, quantised = fold(subnet), None, {}
    if precision == "int8":
        # ONNX Runtime would take all cores of a machine that has other things to do, or to measure.
        threads = torch.get_num_threads()
        ranges = observed_ranges(subnet.plan, folded, images, threads) if images else None
        quantised = {"precision": precision, "activation_ranges": "observed" if images else "expected"}
    told = {**describe(entry, architecture, source), **quantised, **(metadata or {})}
    return write_onnx(
        subnet.plan, folded, precision=precision, ranges=ranges, metadata=told, dynamic_batch=dynamic_batch
    )
