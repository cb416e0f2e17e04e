"""What accuracy an architecture will have, without training or running it.

A predictor tells a top-1 from a one-hot encoding of the choices: a Gaussian process does
(``gaussian.py``, what is fitted unless asked otherwise), or a small MLP, which is here. The MLP's inference
is numpy in float32: a population is one array, and a prediction is three matrix products.

Source: Cai et al., Once-for-All (ICLR 2020), section 3.4: a three-layer MLP on one-hot features.

Every row of a batch is computed by the same arithmetic wherever it stands in the batch, and
whatever the number of threads: every matrix product runs on one thread and has the same shape, a tile
of rows, so that a BLAS never takes another kernel for a small batch or for left-over rows. Some take
another one even within a tile (OpenBLAS on processors with AVX2 but not AVX-512, from 12 rows on), so
how many rows a tile has is tried out. The last sum is not left to a matrix-vector product.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from time import sleep
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from bespoke.predictors.blas import one_thread
from bespoke.supernet.architecture import Genomes, SearchSpace, cardinalities, gene_offsets
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.whole_files import write_whole

FORMAT = "bespoke-accuracy-predictor-1"

_TILES = (32, 16, 8, 4, 1)
"""Rows that a matrix product may have: 32 are nearly as fast as more (79 against 96 GFLOPS with AVX-512),
with less padding; with AVX2, where 8 remain, these are as fast as 32 (51 and 47)."""

_CHUNK = 16 * _TILES[0]
"""Rows at a time: a hidden layer of 400 then takes 0.8 MB and stays in the second-level cache."""

_TRIALS = 3
"""Rows that are tried in every place of a tile: where two kernels differ, hundreds of sums of each do."""

_PAUSES_S = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Before each look at a predictor's two files: the second one is written milliseconds after the first."""


class AccuracyPredictor(Protocol):
    """From genomes to predicted top-1."""

    @property
    def revision(self) -> str:
        """sha256 of everything that decides a prediction, in hex."""
        ...

    @property
    def half_width(self) -> float:
        """Half width of the 90% conformal interval, in absolute top-1."""
        ...

    @property
    def selection_bias(self) -> float:
        """By how much a searched architecture is predicted too high on average, in absolute top-1."""
        ...

    def top1(self, genomes: Genomes) -> NDArray[np.float64]:
        """Predict the top-1 in [0, 1] of each genome, shape (N,)."""
        ...


@runtime_checkable
class LinearisedPredictor(AccuracyPredictor, Protocol):
    """A predictor that also tells what each choice adds: a search then knows where to go."""

    def gains(self, genomes: Genomes) -> NDArray[np.float32]:
        """What each choice adds to the prediction of each genome, to first order, (N, G, C)."""
        ...


@dataclass(frozen=True)
class ResolutionBins:
    """Which one-hot feature a resolution sets.

    Attributes:
        edges: Smallest side of each bin, ascending, in pixels.
        width: How many pixels a bin covers; 1 where only the edges themselves are known.
    """

    edges: tuple[int, ...]
    width: int = 1

    def index(self, resolution: int) -> int:
        """The bin of a resolution.

        Raises:
            InvalidInput: It falls into no bin.
        """
        for i, edge in enumerate(self.edges):
            if edge <= resolution < edge + self.width:
                return i
        raise InvalidInput(
            f"resolution {resolution}: this accuracy predictor knows {list(self.edges)}"
            + (f", each up to {self.width - 1} px more" if self.width > 1 else "")
        )


@dataclass(frozen=True)
class Encoding:
    """Which features the choices of an architecture set: one-hot, zeros for inactive genes.

    Attributes:
        dimensions: Names of the dimensions that have features, in feature order; a dimension that
            is left out (such as a depth that the zeros already tell) has none.
        resolution: How sides are binned, where ``resolution`` is among the dimensions.
    """

    dimensions: tuple[str, ...]
    resolution: ResolutionBins

    def features(self, space: SearchSpace) -> tuple[NDArray[np.int64], int]:
        """Which feature each (gene, choice) sets.

        Returns:
            An array of shape (G, C) of feature indices, where C is the largest number of choices
            of a gene, and the number of features F. Choices without a feature point at F.

        Raises:
            InvalidInput: The space lacks a dimension, or has a resolution without a bin.
        """
        known = {d.name: d for d in space.dimensions}
        sizes, offsets = cardinalities(space), gene_offsets(space)
        places: list[tuple[int, int, int]] = []
        count = 0
        for name in self.dimensions:
            if name not in known:
                raise InvalidInput(f"accuracy predictor: needs the dimension {name!r}, got {sorted(known)}")
            d, first = known[name], offsets[name]
            bins = (
                [self.resolution.index(r) for r in d.choices]
                if name == "resolution"
                else range(len(d.choices))
            )
            width = len(self.resolution.edges) if name == "resolution" else len(d.choices)
            for gene in range(first, first + d.count):
                places += [(gene, choice, count + place) for choice, place in enumerate(bins)]
                count += width
        table = np.full((len(sizes), int(sizes.max())), count, np.int64)
        for gene, choice, feature in places:
            table[gene, choice] = feature
        return table, count

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads back."""
        return {
            "dimensions": list(self.dimensions),
            "resolution_edges": list(self.resolution.edges),
            "resolution_width": self.resolution.width,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Encoding:
        """Read what ``to_json`` wrote."""
        bins = ResolutionBins(tuple(data["resolution_edges"]), int(data["resolution_width"]))
        return Encoding(tuple(data["dimensions"]), bins)


def default_encoding(space: SearchSpace) -> Encoding:
    """Every dimension but depth, which the zeros of skipped blocks tell, and each resolution."""
    sides = next(d.choices for d in space.dimensions if d.name == "resolution")
    names = tuple(d.name for d in space.dimensions if d.name != "depth")
    return Encoding(names, ResolutionBins(sides))


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer: ``x @ weight + bias``.

    Attributes:
        weight: (inputs, outputs), float32.
        bias: (outputs,), float32.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


Network = tuple[Layer, ...]
"""Two or more linear layers with a ReLU between them; the last one has one output."""


@dataclass(frozen=True, eq=False)
class MlpPredictor:
    """The mean of one or more MLPs, bound to a search space.

    Attributes:
        space: The space whose genomes are predicted.
        encoding: From genomes to features.
        networks: The members of the ensemble.
        half_width: 90% conformal half width, in absolute top-1.
        card: How good it is and where it comes from: plain JSON, e.g. ``kendall_tau`` and ``rmse``.
        selection_bias: By how much architectures that a search chose for their prediction are
            predicted too high on average, in absolute top-1; 0 where nobody measured it.

    Raises:
        InvalidInput: The layers do not fit the encoding or one another.
    """

    space: SearchSpace
    encoding: Encoding
    networks: tuple[Network, ...]
    half_width: float
    card: Mapping[str, Any] = field(default_factory=dict)
    selection_bias: float = 0.0

    def __post_init__(self) -> None:
        _, features = self.encoding.features(self.space)
        if not self.networks or not (self.half_width >= 0 and self.selection_bias >= 0):
            raise InvalidInput(
                f"accuracy predictor: got {len(self.networks)} networks, half width {self.half_width} and "
                f"selection bias {self.selection_bias}; expected at least one network, and 0 or more"
            )
        for network in self.networks:
            widths = [layer.weight.shape for layer in network]
            fits = len(widths) > 1 and widths[0][0] == features and widths[-1][1] == 1
            if not fits or any(a[1] != b[0] for a, b in pairwise(widths)):
                raise InvalidInput(
                    f"accuracy predictor: got layers {widths}, expected two or more, {features} to 1"
                )

    @cached_property
    def revision(self) -> str:
        """sha256 of the tensors, the encoding, the half width and the bias, in hex."""
        tensors = save_tensors(self._tensors())
        told = [self.encoding.to_json(), self.half_width]
        # A predictor without a bias keeps the revision that it had before there was one.
        text = json.dumps([*told, self.selection_bias] if self.selection_bias else told, sort_keys=True)
        return hashlib.sha256(text.encode() + tensors).hexdigest()

    def top1(self, genomes: Genomes) -> NDArray[np.float64]:
        """Predict the top-1 in [0, 1] of each genome, shape (N,)."""
        result = np.zeros(len(genomes))
        with one_thread():
            for start in range(0, len(genomes), _CHUNK):
                part = result[start : start + _CHUNK]
                tiles = self._tiles(genomes[start : start + _CHUNK])
                for network in self._padded:
                    part += _forward(network, tiles)[: len(part)]
        return result / len(self.networks)

    def gains(self, genomes: Genomes) -> NDArray[np.float32]:
        """What each choice adds to the prediction, to first order.

        The networks are linear near a genome: a genome with other choices is predicted to gain the
        sum of its choices' gains minus the sum of this genome's. Inactive genes count nothing.

        Returns:
            Shape (N, G, C), where C is the largest number of choices of a gene.
        """
        table, count = self._feature_table
        # Gains only guide a search, so they may depend on the batch, and need no tiles.
        rows = one_hot(self.space, self._feature_table, genomes, len(genomes))
        slopes = np.mean([_slopes(network, rows) for network in self._with_transposed], axis=0)
        slopes[:, count] = 0.0
        result: NDArray[np.float32] = slopes[:, table]
        return result

    def corrected(self, top1: NDArray[np.float64]) -> NDArray[np.float64]:
        """What predictions of searched architectures mean: less the selection bias, shape (N,)."""
        return np.asarray(top1) - self.selection_bias

    def for_space(self, space: SearchSpace) -> MlpPredictor:
        """The same predictor for a space that differs in its resolutions only."""
        return self if space == self.space else replace(self, space=space)

    def save(self, path: Path) -> None:
        """Write ``predictor.json`` at ``path`` and the tensors beside it, as ``.safetensors``."""
        header = {
            "format": FORMAT,
            "space": self.space.to_json(),
            "encoding": self.encoding.to_json(),
            "networks": [len(network) for network in self.networks],
            "half_width": self.half_width,
            "selection_bias": self.selection_bias,
            "card": dict(self.card),
        }
        write_predictor(path, header, self._tensors())

    @cached_property
    def _feature_table(self) -> tuple[NDArray[np.int64], int]:
        return self.encoding.features(self.space)

    @cached_property
    def _padded(self) -> tuple[Network, ...]:
        # A further feature collects the choices that have none; its weight is 0.
        return tuple(
            (Layer(np.pad(first.weight, ((0, 1), (0, 0))), first.bias), *rest)
            for first, *rest in self.networks
        )

    @cached_property
    def _with_transposed(self) -> tuple[tuple[Network, tuple[NDArray[np.float32], ...]], ...]:
        # A product with a transposed view takes a third longer.
        return tuple(
            (network, tuple(np.ascontiguousarray(layer.weight.T) for layer in network[:-1]))
            for network in self._padded
        )

    def _tiles(self, genomes: Genomes) -> NDArray[np.float32]:
        """Features in whole tiles, (T, rows of a tile, F + 1); the last one is 0."""
        tiles = -(-len(genomes) // self._tile)
        rows = one_hot(self.space, self._feature_table, genomes, tiles * self._tile)
        return rows.reshape(tiles, self._tile, rows.shape[1])

    @cached_property
    def _tile(self) -> int:
        shapes = {layer.weight.shape for network in self._padded for layer in network[:-1]}
        return rows_of_a_tile(frozenset(shapes))

    def _tensors(self) -> dict[str, NDArray[np.float32]]:
        return {
            f"{n}.{i}.{part}": np.ascontiguousarray(getattr(layer, part), np.float32)
            for n, network in enumerate(self.networks)
            for i, layer in enumerate(network)
            for part in ("weight", "bias")
        }


@lru_cache(maxsize=64)
def rows_of_a_tile(shapes: frozenset[tuple[int, ...]]) -> int:
    """The most rows whose product with such weights is the same for a row wherever it stands among them.

    Args:
        shapes: Of the weights, (inputs, outputs) each.
    """
    return next(rows for rows in _TILES if all(_is_even(rows, *shape) for shape in shapes))


def _is_even(rows: int, inputs: int, outputs: int) -> bool:
    """Whether this BLAS computes every row of a product alike, on one thread."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((inputs, outputs), np.float32)
    with one_thread():
        for _ in range(_TRIALS):
            product = np.repeat(rng.standard_normal((1, inputs), np.float32), rows, axis=0) @ weight
            if (product != product[0]).any():
                return False
    return True


def one_hot(
    space: SearchSpace, features: tuple[NDArray[np.int64], int], genomes: Genomes, rows: int
) -> NDArray[np.float32]:
    """The features of genomes.

    Args:
        space: Tells which genes are active.
        features: What ``Encoding.features`` gave for this space.
        genomes: (N, G).
        rows: How many rows to return; those past N are 0.

    Returns:
        (rows, F + 1); the last column is 0.
    """
    table, count = features
    n, genes = genomes.shape
    chosen = np.where(space.active(genomes), table[np.arange(genes), genomes], count)
    result = np.zeros((rows, count + 1), np.float32)
    result.ravel()[(chosen + np.arange(n)[:, None] * (count + 1)).ravel()] = 1.0
    result[:, count] = 0.0
    return result


def _slopes(
    layers: tuple[Network, tuple[NDArray[np.float32], ...]], rows: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Gradient of the output of a network in each feature, (N, F + 1); the layers come transposed too."""
    network, transposed = layers
    values, masks = rows, []
    for layer in network[:-1]:
        values = values @ layer.weight
        values += layer.bias
        masks.append(values > 0)
        np.maximum(values, 0, out=values)
    slopes = np.broadcast_to(network[-1].weight[:, 0], values.shape)
    for weight, mask in zip(transposed[::-1], masks[::-1], strict=True):
        slopes = (slopes * mask) @ weight
    return np.asarray(slopes)


def _forward(network: Network, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """The output of each row, (T * rows of a tile,)."""
    values = tiles
    for layer in network[:-1]:
        values = values @ layer.weight
        values += layer.bias
        np.maximum(values, 0, out=values)
    values = values * network[-1].weight[:, 0]
    return np.asarray(values.sum(axis=2) + network[-1].bias[0]).ravel()


def read_predictor(path: Path, space: SearchSpace) -> AccuracyPredictor:
    """Read a predictor for a space.

    Args:
        path: ``predictor.json`` (or its folder) with ``predictor.safetensors`` beside it, or the
            published ``acc_predictor.pth``.
        space: The space to predict; it may differ from the predictor's in its resolutions.

    Raises:
        FileInvalid: The file is missing, damaged, or no predictor.
        InvalidInput: The predictor is of another space, or knows no such resolution.
        Unavailable: A published file needs torch, and torch is not installed.
    """
    path = Path(path)
    if path.suffix == ".pth":
        from bespoke.predictors.official import read_official

        return read_official(path, space)
    return _read_json(path / "predictor.json" if path.is_dir() else path, space)


def write_predictor(path: Path, header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write a header, with the digest of the tensors that go beside it; neither is ever half-written."""
    content = save_tensors(dict(tensors))
    told = {**header, "tensors_sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(told, indent=1, sort_keys=True) + "\n"
    write_whole({path.with_suffix(".safetensors"): content, path: text})


def _read_json(path: Path, space: SearchSpace) -> AccuracyPredictor:
    from bespoke.predictors import gaussian

    readers: Mapping[str, Callable[..., AccuracyPredictor]] = {
        FORMAT: _mlp_from_parts,
        gaussian.FORMAT: gaussian.from_parts,
    }
    try:
        # A new predictor takes the place of another file by file; in between they are of two.
        for pause_s in _PAUSES_S:
            sleep(pause_s)
            header = json.loads(path.read_text())
            if not isinstance(header, dict) or header.get("format") not in readers:
                raise FileInvalid(path, f"expected a predictor of format {' or '.join(map(repr, readers))}")
            content = path.with_suffix(".safetensors").read_bytes()
            if same := hashlib.sha256(content).hexdigest() == header["tensors_sha256"]:
                break
        tensors = load_tensors(content)
        if not same:
            raise FileInvalid(path, "the tensors beside it are not those that it was saved with")
        _same_network(header["space"], space)
        return readers[header["format"]](space, header, tensors)
    except OSError as error:
        raise FileInvalid(path, f"cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise FileInvalid(path, f"is damaged: {type(error).__name__}: {error}") from error


def _mlp_from_parts(
    space: SearchSpace, header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]
) -> MlpPredictor:
    networks = tuple(
        tuple(Layer(tensors[f"{n}.{i}.weight"], tensors[f"{n}.{i}.bias"]) for i in range(count))
        for n, count in enumerate(header["networks"])
    )
    encoding, card = Encoding.from_json(header["encoding"]), dict(header["card"])
    bias = float(header.get("selection_bias", 0.0))
    return MlpPredictor(space, encoding, networks, float(header["half_width"]), card, bias)


def _same_network(own: Mapping[str, Any], space: SearchSpace) -> None:
    asked = space.to_json()
    differing = sorted(name for name in {*own, *asked} - {"resolutions"} if own.get(name) != asked.get(name))
    if differing:
        got = {name: asked.get(name) for name in differing}
        want = {name: own.get(name) for name in differing}
        raise InvalidInput(f"accuracy predictor: it was fitted on a space with {want}, got {got}")
