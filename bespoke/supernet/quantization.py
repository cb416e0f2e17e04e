"""INT8 as QDQ: a float graph's nodes with QuantizeLinear and DequantizeLinear written between them.

Activations are U8 with one scale for a tensor, weights S8 with one scale for an output channel,
biases S32 with the product of both: what x86 and Arm kernels of ONNX Runtime and OpenVINO are made
for (S8 activations and dynamic quantisation were several times slower than float).

Processors with AVX2 but without VNNI add two products of bytes at a time in 16 bits, and what does not fit
is cut off without a word. So weights are scaled until no two neighbours can reach that: on other
processors this costs a fraction of a bit, on these it is the difference between a cosine of 0.99 and 0.96.

Every value between two ops is kept in 8 bits. A consumer reads it through a DequantizeLinear of its
own, and writes through a QuantizeLinear, so that a runtime fuses each triple into one integer
kernel (``QLinearConv``, ``QLinearAdd``, ``QGemm``, ...). A ReLU stands between a convolution and its
QuantizeLinear and costs nothing: the range starts at 0. HardSwish has no integer kernel; it is
written as the product of the value and its gate, since

    hard_sigmoid(x) = clip(x / 6 + 1/2, 0, 1)

is what quantising x to the range [-3, 3] computes: the same 256 steps, read with a scale of 1/255.

A *site* is the name of the node whose result is quantised (``blocks.3.depthwise.act``), or
``image``. A convolution with a ReLU behind it has the ReLU's site.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from bespoke.supernet.errors import InvalidInput

Arrays = Mapping[str, NDArray[Any]]
Range = tuple[float, float]
ActivationRanges = Mapping[str, Range]
"""(low, high) by site."""

LEVELS = 255
"""Steps of an unsigned byte; weights use the 127 on either side of zero."""
GATE_RANGE = (-3.0, 3.0)
"""Where a hard sigmoid is neither 0 nor 1."""
DEVIATIONS = 4.0
"""An expected range reaches so many standard deviations to either side of a channel's mean."""
QUADRATURE = 16
"""Points of the Gauss-Hermite rule: exact far beyond what 8 bits show."""
MOST_PAIR = 127
"""What two neighbouring weights of one sign add up to at most: with a half of rounding each, 255 times as
much stays below 2^15."""
MOST_BIAS = 2**30
"""Largest quantised bias: half of what an S32 holds, so that the sum does not overflow."""
CLIPS = ("Relu", "Clip")
SAME_STEPS = ("Flatten", "MaxPool")
"""Nodes whose results are among their inputs: they keep the scale, and runtimes run them on bytes."""
NHWC_TO_NCHW, NCHW_TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def _finest_steps(weight_OI: NDArray[Any]) -> NDArray[np.float64]:
    """The finest step of each output channel's weights that neither they nor two neighbours overflow, (O,).

    Neighbours are two that a kernel multiplies at once: input channels innermost, from the first one on.
    """
    inner = weight_OI if weight_OI.ndim == 2 else weight_OI.transpose(0, 2, 3, 1)
    rows = inner.reshape(len(weight_OI), -1).astype(np.float64)
    pairs = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2)
    of_one_sign = np.maximum(np.maximum(pairs, 0).sum(2), np.maximum(-pairs, 0).sum(2))
    return np.maximum(np.abs(rows).max(1) / 127, of_one_sign.max(1) / MOST_PAIR)


@dataclass(frozen=True)
class QuantizedGraph:
    """Nodes and initialisers of the QDQ graph.

    Attributes:
        nodes: In topological order.
        arrays: Initialisers by name.
    """

    nodes: tuple[NodeProto, ...]
    arrays: dict[str, NDArray[Any]]


def quantize(
    nodes: Sequence[NodeProto],
    arrays: Arrays,
    ranges: ActivationRanges | None = None,
    *,
    source: str,
    float_in: bool = True,
    float_out: bool = True,
    channels_last: bool = False,
) -> QuantizedGraph:
    """Rewrite a float graph, as ``onnx.write_onnx`` makes them, as QDQ.

    Args:
        nodes: The float graph's nodes; the last one has the graph's result.
        arrays: Its weights by name.
        ranges: (low, high) by site; ``expected_ranges`` where none are given.
        source: Name of the graph's input, also its site.
        float_in: Whether the input is float32 NCHW, and so quantised first; else it is U8.
        float_out: Whether the result is float32 NCHW; else it is U8.
        channels_last: Whether U8 ends are NHWC. Integer convolutions work on channels last, so a
            graph with such ends does not pay for a change of layout.

    Raises:
        InvalidInput: ``ranges`` lacks a site, or has a range that is none.
    """
    known = expected_ranges(nodes, arrays, source) if ranges is None else ranges
    writer = _Writer(arrays, known)
    writer.start(source, float_in, channels_last)
    clips = {node.input[0]: node for node in nodes if node.op_type in CLIPS}
    last = nodes[-1].output[0]
    for node in nodes:
        clip = clips.get(node.output[0])
        if node.op_type not in CLIPS:
            result = (clip or node).output[0]
            writer.add(node, clip, logits=float_out and node.op_type == "Gemm" and result == last)
    return QuantizedGraph(tuple(writer.finish(last, float_out, channels_last)), writer.arrays)


def expected_ranges(nodes: Sequence[NodeProto], arrays: Arrays, source: str) -> dict[str, Range]:
    """Ranges that follow from the folded weights alone: no data, no run, milliseconds.

    The input is taken as normal with mean 0 and variance 1 (what image normalisation aims at), the
    channels as independent. Means and variances of every channel are carried through the weights,
    and through activations by Gauss-Hermite quadrature; a convolution's range is the widest of its
    channels' mean ± 4 standard deviations, and an activation's range that of its input, put through
    it. In the spirit of Nagel et al. 2019 (arXiv:1906.04721), which reads both moments off the BN.

    Args:
        nodes: The float graph's nodes.
        arrays: Its weights by name.
        source: Name of the graph's input, also its site.
    """
    moments: dict[str, _Moments] = {source: _Moments(np.zeros(1), np.ones(1))}
    ranges: dict[str, Range] = {source: (-DEVIATIONS, DEVIATIONS)}
    of = {source: ranges[source]}
    for node in nodes:
        before = [moments[name] for name in node.input if name in moments]
        moments[node.output[0]] = after = _carry(node, before, arrays)
        low, high = of.get(node.input[0], (0.0, 1.0))
        if node.op_type in _FUNCTIONS:
            shape = _FUNCTIONS[node.op_type]
            low, high = shape.least, float(shape.call(np.array(high)))
        elif node.op_type in ("Conv", "Gemm", "Add"):
            reach = DEVIATIONS * np.sqrt(after.variance)
            low, high = float((after.mean - reach).min()), float((after.mean + reach).max())
        ranges[node.name] = of[node.output[0]] = (low, high)
    return ranges


@dataclass(frozen=True)
class _Moments:
    """Mean and variance of each channel: (C,), or (1,) where all channels have the same."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


@dataclass(frozen=True)
class _Function:
    """An activation, which never falls above its least value."""

    call: Any
    least: float


def _gate(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(x / 6 + 0.5, 0, 1)


_FUNCTIONS: Mapping[str, _Function] = {
    "Relu": _Function(lambda x: np.maximum(x, 0), 0.0),
    "Clip": _Function(lambda x: np.clip(x, 0, 6), 0.0),
    "HardSigmoid": _Function(_gate, 0.0),
    "HardSwish": _Function(lambda x: x * _gate(x), -0.375),
}


def _carry(node: NodeProto, before: Sequence[_Moments], arrays: Arrays) -> _Moments:
    """Moments of a node's result. Pooling keeps the variance: neighbours agree."""
    x = before[0]
    if node.op_type in _FUNCTIONS:
        points, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE)
        weights = weights / weights.sum()
        values = _FUNCTIONS[node.op_type].call(x.mean + np.sqrt(x.variance) * points[:, None])
        mean = weights @ values
        return _Moments(mean, np.maximum(weights @ values**2 - mean**2, 0))
    if node.op_type in ("Conv", "Gemm"):
        weight = arrays[node.input[1]].astype(np.float64)
        bias = arrays[node.input[2]] if len(node.input) > 2 else 0.0
        taps = weight.reshape(*weight.shape[:2], -1)
        return _Moments(_mix(taps.sum(2), x.mean) + bias, _mix((taps**2).sum(2), x.variance))
    if node.op_type == "Add":
        return _Moments(x.mean + before[1].mean, x.variance + before[1].variance)
    if node.op_type == "Mul":
        mean, square = x.mean * before[1].mean, x.variance + x.mean**2
        # Where both are all but constant, the difference may round to less than nothing.
        variance = square * (before[1].variance + before[1].mean ** 2) - mean**2
        return _Moments(mean, np.maximum(variance, 0))
    return x


def _mix(matrix: NDArray[np.float64], vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """(O, I) by (I,), or channel by channel where I is 1 and the vector longer: depthwise."""
    if matrix.shape[1] == 1 and len(vector) > 1:
        return matrix[:, 0] * vector
    return matrix @ np.broadcast_to(vector, matrix.shape[1])


@dataclass(frozen=True)
class _Quantized:
    """A value in 8 bits.

    Attributes:
        name: Of the U8 tensor.
        site: Of its scale and zero point, ``{site}.scale`` and ``{site}.zero``.
        scale: What a step is worth.
    """

    name: str
    site: str
    scale: float


class _Writer:
    """The QDQ graph while it is being written; ``values`` maps float names to what stands for them."""

    def __init__(self, arrays: Arrays, ranges: ActivationRanges) -> None:
        self._float, self._ranges = arrays, ranges
        self._values: dict[str, _Quantized] = {}
        self._nodes: list[NodeProto] = []
        self._reads = 0
        self.arrays: dict[str, NDArray[Any]] = {}

    def start(self, source: str, float_in: bool, channels_last: bool) -> None:
        """Take the graph's input."""
        if float_in:
            self._write(source, source, source)
            return
        name = self._transpose(source, f"{source}.nchw", NHWC_TO_NCHW) if channels_last else source
        self._values[source] = _Quantized(name, source, self._scale(source, self._range(source)))

    def add(self, node: NodeProto, clip: NodeProto | None, *, logits: bool) -> None:
        """Append one float node, with the clip behind it, between its DQs and its Q; logits have no Q."""
        result = (clip or node).output[0]
        if node.op_type == "HardSwish":
            return self._hard_swish(node)
        if node.op_type in ("Conv", "Gemm"):
            inputs = [self._read(node.input[0]), *self._parameters(node)]
        else:
            inputs = [self._read(name) for name in node.input]
        self._copy(node, inputs, f"{node.name}.float")
        value = f"{node.name}.float"
        if clip:
            constants = [self._keep(name, self._float[name]) for name in clip.input[1:]]
            self._copy(clip, [value, *constants], f"{clip.name}.float")
            value = f"{clip.name}.float"
        if logits:
            self._values[result] = _Quantized(value, "", 0.0)
            return None
        if node.op_type in SAME_STEPS:
            return self._write(value, self._values[node.input[0]].site, result)
        if node.op_type == "HardSigmoid":
            return self._write(value, node.name, result, (0.0, 1.0))
        return self._write(value, (clip or node).name, result)

    def finish(self, result: str, float_out: bool, channels_last: bool) -> list[NodeProto]:
        """The nodes; the last one's output is the graph's result."""
        found = self._values[result]
        if float_out and found.site:
            self._read(result)
        if not float_out and channels_last:
            self._transpose(found.name, f"{result}.nhwc", NCHW_TO_NHWC)
        return self._nodes

    def _transpose(self, source: str, name: str, order: tuple[int, ...]) -> str:
        self._nodes.append(helper.make_node("Transpose", [source], [name], name=name, perm=order))
        return name

    def _hard_swish(self, node: NodeProto) -> None:
        """X · gate(x), where the gate is x quantised to [-3, 3] and read as [0, 1]."""
        gate = f"{node.name}.gate"
        self._write(self._read(node.input[0]), f"{gate}.in", gate, GATE_RANGE)
        self._scale(f"{gate}.out", (0.0, 1.0))
        self._values[gate] = _Quantized(self._values[gate].name, f"{gate}.out", 1 / LEVELS)
        inputs = [self._read(node.input[0]), self._read(gate)]
        product = f"{node.name}.float"
        self._nodes.append(helper.make_node("Mul", inputs, [product], name=node.name))
        self._write(product, node.name, node.output[0])

    def _parameters(self, node: NodeProto) -> Iterable[str]:
        """Weight and bias of a Conv or Gemm, dequantised; output channels are axis 0 of both."""
        weight_OI = self._float[node.input[1]]
        step = self._values[node.input[0]].scale
        scale_O = _finest_steps(weight_OI)
        bias_O = self._float[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros(1)
        scale_O = np.maximum(scale_O, np.maximum(np.abs(bias_O) / (step * MOST_BIAS), 1e-12))
        scale_O = scale_O.astype(np.float32).astype(np.float64)
        shape = (-1,) + (1,) * (weight_OI.ndim - 1)
        weight = np.clip(np.rint(weight_OI / scale_O.reshape(shape)), -127, 127).astype(np.int8)
        yield self._read_constant(node.input[1], weight, scale_O)
        if len(node.input) > 2:
            bias = np.rint(bias_O / (step * scale_O)).astype(np.int32)
            yield self._read_constant(node.input[2], bias, step * scale_O)

    def _read_constant(self, name: str, value: NDArray[Any], scale_O: NDArray[np.float64]) -> str:
        # Plural and past tense keep these names apart from a node's, which may be called like a weight.
        inputs = [self._keep(name, value), self._keep(f"{name}.scales", scale_O.astype(np.float32))]
        inputs.append(self._keep(f"{name}.zeros", np.zeros(len(scale_O), value.dtype)))
        read = f"{name}.dequantized"
        self._nodes.append(helper.make_node("DequantizeLinear", inputs, [read], name=read, axis=0))
        return read

    def _read(self, value: str) -> str:
        """Dequantise a value for one consumer of its own."""
        found = self._values[value]
        self._reads += 1
        label = f"{found.name}.read{self._reads}"
        inputs = [found.name, f"{found.site}.scale", f"{found.site}.zero"]
        self._nodes.append(helper.make_node("DequantizeLinear", inputs, [label], name=label))
        return label

    def _write(self, name: str, site: str, result: str, limits: Range | None = None) -> None:
        """Quantise a float tensor; it then stands for the float graph's ``result``."""
        scale = self._scale(site, limits or self._range(site))
        quantized = f"{result}.u8"
        inputs = [name, f"{site}.scale", f"{site}.zero"]
        self._nodes.append(helper.make_node("QuantizeLinear", inputs, [quantized], name=f"{quantized}.write"))
        self._values[result] = _Quantized(quantized, site, scale)

    def _scale(self, site: str, limits: Range) -> float:
        """Keep a site's scale and zero point. Zero is always one of the steps."""
        low, high = min(limits[0], 0.0), max(limits[1], 0.0)
        scale = float(np.float32((high - low) / LEVELS)) or 1.0
        self._keep(f"{site}.scale", np.array(scale, np.float32))
        self._keep(f"{site}.zero", np.array(round(-low / scale), np.uint8))
        return scale

    def _range(self, site: str) -> Range:
        low, high = self._ranges.get(site, (np.nan, np.nan))
        if not (np.isfinite(low) and np.isfinite(high) and low <= high):
            got = self._ranges.get(site, "none")
            raise InvalidInput(f"activation range of {site!r}: got {got}, expected (low, high), both finite")
        return low, high

    def _keep(self, name: str, value: NDArray[Any]) -> str:
        self.arrays[name] = value
        return name

    def _copy(self, node: NodeProto, inputs: Sequence[str], output: str) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend(inputs)
        copy.output[0] = output
        self._nodes.append(copy)
