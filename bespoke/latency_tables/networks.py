"""NetworkModel: the latency of whole networks where the sum of their ops does not tell it.

Runtimes that fuse across blocks, memories that overflow and engines that overlap ops make sums
fail. A model of whole networks then prices: a Gaussian process on a few features of the network,
fitted with scikit-learn, kept as plain numbers and evaluated with numpy. All features but the
resolution are sums over the ops, so that populations are priced by look-ups as ever.

Source: Rasmussen and Williams, Gaussian processes for machine learning (2006), section 2.2.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.latency_tables.plausibility import is_number, short
from bespoke.supernet.architecture import Genomes, SearchSpace
from bespoke.supernet.cost import BYTES_PER_VALUE, SlotTable, op_macs, op_weights
from bespoke.supernet.errors import InvalidInput, Unavailable
from bespoke.supernet.ops import Op

Floats = NDArray[np.float64]

BYTES_PER_MB = 1e6
MOST_ANCHORS = 10_000
SMALLEST_FEATURE = 1e-9
LENGTH_BOUNDS = (0.3, 100.0)
NOISE_BOUNDS = (1e-6, 1.0)
"""Of the length scales in standard deviations, and of the noise as a share of the targets' variance."""


def op_weights_mb(op: Op) -> float:
    """Megabytes (10^6 bytes) of an op's fp32 weights."""
    return op_weights(op) * BYTES_PER_VALUE / BYTES_PER_MB


def op_activations_mb(op: Op) -> float:
    """Megabytes of fp32 that an op reads and writes beside its weights."""
    return (math.prod(op.in_shape) + math.prod(op.out_shape)) * BYTES_PER_VALUE / BYTES_PER_MB


OP_FEATURES: Mapping[str, Callable[[Op], float]] = {
    "ops": lambda op: 1.0,
    "macs": lambda op: float(op_macs(op)),
    "weights_mb": op_weights_mb,
    "activations_mb": op_activations_mb,
}
"""What each op adds to a network's features."""
FEATURES = ("sum_ms", *OP_FEATURES, "resolution")
"""Features of a network: the corrected sum of its ops in ms, sums over its ops, its input's side."""


@dataclass(frozen=True)
class NetworkModel:
    """A factor on the corrected sum of a network's ops, by a Gaussian process on the log features.

        z = (log(features) - centre) / spread
        latency = sum_ms * exp(offset + sum_j weights_j * exp(-|(z - anchors_j) / lengths|^2 / 2))

    Far from every anchor the factor is ``exp(offset)``, the fitted networks' mean.

    Attributes:
        centre: (F,) means of the log features that were fitted on, in the order of ``FEATURES``.
        spread: (F,) their standard deviations, positive.
        lengths: (F,) length scales, positive.
        anchors: (A, F) the fitted networks' z.
        weights: (A,) of each anchor.
        offset: Log of the mean factor.
    """

    centre: tuple[float, ...]
    spread: tuple[float, ...]
    lengths: tuple[float, ...]
    anchors: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    offset: float

    def latency_ms(self, features: Floats) -> Floats:
        """Latencies in ms, shape (N,), of networks by their features, shape (N, F)."""
        lengths = np.array(self.lengths)
        logs = np.log(np.maximum(features, SMALLEST_FEATURE))
        scaled = (logs - np.array(self.centre)) / np.array(self.spread) / lengths
        anchors = np.array(self.anchors).reshape(-1, len(FEATURES)) / lengths
        # Matrix products would give a network another last bit in another batch, and a limit would not hold.
        distances = np.zeros((len(features), len(anchors)))  # squared
        for mine, theirs in zip(scaled.T, anchors.T, strict=True):
            distances += (mine[:, None] - theirs) ** 2
        factors = (np.exp(-0.5 * distances) * np.array(self.weights)).sum(axis=1)
        return np.asarray(features[:, 0] * np.exp(self.offset + factors))

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads back."""
        return {"features": list(FEATURES)} | asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> NetworkModel:
        """Read a model.

        Raises:
            InvalidInput: Names the field, what came and what was expected.
        """
        names = [field.name for field in fields(NetworkModel)]
        if not isinstance(data, Mapping) or set(data) != {"features", *names}:
            got = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise InvalidInput(f"network model: got {got}, expected the fields {['features', *names]}")
        if data["features"] != list(FEATURES):
            raise InvalidInput(
                f"network model: got the features {short(data['features'])}, expected {list(FEATURES)}"
            )
        anchors = data["anchors"]
        if not isinstance(anchors, list | tuple) or len(anchors) > MOST_ANCHORS:
            raise InvalidInput(f"network model, anchors: expected a list of at most {MOST_ANCHORS} rows")
        width = len(FEATURES)
        return NetworkModel(
            centre=_numbers("centre", data["centre"], width),
            spread=_numbers("spread", data["spread"], width, positive=True),
            lengths=_numbers("lengths", data["lengths"], width, positive=True),
            anchors=tuple(_numbers(f"anchors[{i}]", row, width) for i, row in enumerate(anchors)),
            weights=_numbers("weights", data["weights"], len(anchors)),
            offset=_numbers("offset", [data["offset"]], 1)[0],
        )


class FeatureTable:
    """The features of many genomes at once; equal to ``network_features`` of each plan."""

    def __init__(self, space: SearchSpace) -> None:
        self._tables = [SlotTable(space, feature) for feature in OP_FEATURES.values()]
        self._resolutions = np.array(space.dimensions[-1].choices, np.float64)

    def features(self, genomes: Genomes, sums_ms: Floats) -> Floats:
        """Features of shape (N, F), of genomes of shape (N, G) and their corrected sums, (N,)."""
        columns = [sums_ms, *(table.total(genomes) for table in self._tables)]
        return np.stack([*columns, self._resolutions[genomes[:, -1]]], axis=1)


def network_features(ops: Iterable[Op], sum_ms: float, resolution: int) -> Floats:
    """Features of one network (or of one route through it), shape (F,).

    Args:
        ops: What runs.
        sum_ms: The corrected sum of the ops, overhead included, in ms.
        resolution: Side of the input in pixels.
    """
    running = list(ops)
    sums = [math.fsum(feature(op) for op in running) for feature in OP_FEATURES.values()]
    return np.array([sum_ms, *sums, resolution], np.float64)


def fit_network_model(features: Floats, measured_ms: Floats) -> NetworkModel:
    """Fit a model of whole networks.

    Args:
        features: (N, F), as ``network_features`` gives them; N >= 2.
        measured_ms: (N,) what was measured, positive.

    Raises:
        InvalidInput: Features and measurements are not equally many, or fewer than 2.
        Unavailable: scikit-learn is not installed.
    """
    if len(features) != len(measured_ms) or len(features) < 2:
        raise InvalidInput(
            f"network model: got {len(features)} networks and {len(measured_ms)} latencies; "
            "expected as many of both, 2 at least"
        )
    return _fit(features, measured_ms)[0]


def network_model_error(features: Floats, measured_ms: Floats) -> float:
    """Mean absolute relative error of a model of whole networks, each predicted by the others' model.

    Args:
        features: (N, F); N >= 3.
        measured_ms: (N,), positive.

    Raises:
        Unavailable: scikit-learn is not installed.
    """
    errors = []
    _, kernel = _fit(features, measured_ms)
    for i in range(len(features)):
        others = np.arange(len(features)) != i
        model, _ = _fit(features[others], measured_ms[others], kernel)
        errors.append(abs(float(model.latency_ms(features[i : i + 1])[0]) / measured_ms[i] - 1))
    return float(np.mean(errors))


def _fit(features: Floats, measured_ms: Floats, start: Any = None) -> tuple[NetworkModel, Any]:
    """A model, and its most likely kernel; the likelihood is climbed from ``start``, where given."""
    logs = np.log(np.maximum(features, SMALLEST_FEATURE))
    centre, deviation = logs.mean(axis=0), logs.std(axis=0)
    spread = np.where(deviation > 1e-9, deviation, 1.0)
    factors = np.log(measured_ms / np.maximum(features[:, 0], SMALLEST_FEATURE))
    offset, unit = float(factors.mean()), float(factors.std()) or 1.0
    anchors = (logs - centre) / spread
    kernel, dual = _gaussian_process(anchors, (factors - offset) / unit, start)
    smooth = kernel.k1
    model = NetworkModel(
        centre=tuple(centre.tolist()),
        spread=tuple(spread.tolist()),
        lengths=tuple(np.broadcast_to(smooth.k2.length_scale, len(FEATURES)).tolist()),
        anchors=tuple(map(tuple, anchors.tolist())),
        weights=tuple((unit * smooth.k1.constant_value * dual).tolist()),
        offset=offset,
    )
    return model, kernel


def _gaussian_process(inputs: Floats, targets: Floats, start: Any) -> tuple[Any, Floats]:
    """The kernel (constant * RBF + noise), and the weight of each input before the constant, (A,)."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    except ImportError as error:
        raise Unavailable(
            "a model of whole networks is fitted with scikit-learn: pip install 'bespoke-search[tables]'"
        ) from error
    smooth = ConstantKernel(1.0, (0.1, 100.0)) * RBF([2.0] * inputs.shape[1], LENGTH_BOUNDS)
    process = GaussianProcessRegressor(start or smooth + WhiteKernel(0.01, NOISE_BOUNDS), random_state=0)
    with warnings.catch_warnings():
        # A length at its bound is a feature that tells nothing: not worth a word.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(inputs, targets)
    return process.kernel_, process.alpha_


def _numbers(field: str, values: Any, count: int, positive: bool = False) -> tuple[float, ...]:
    """Exactly ``count`` finite numbers, or an error that says which is none."""
    if not isinstance(values, list | tuple) or len(values) != count:
        got = f"{len(values)} values" if isinstance(values, list | tuple) else short(values)
        raise InvalidInput(f"network model, {field}: got {got}, expected {count} numbers")
    for i, value in enumerate(values):
        if not is_number(value) or (positive and value <= 0):
            expected = "a positive number" if positive else "a finite number"
            raise InvalidInput(f"network model, {field}[{i}]: got {short(value)}, expected {expected}")
    return tuple(float(value) for value in values)
