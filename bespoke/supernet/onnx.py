"""Plan and weights to ONNX, written node by node: no tracing, no torch, milliseconds.

BN is folded before: a plan's *folded weights* are plain arrays named ``{op name}.{part}``:

    conv    weight (O, I, k, k), bias (O,) where the op has a BN
    linear  weight (O, I), bias (O,)
    mbconv  expansion (M, I, 1, 1) and expansion_bias (M,) where the block expands;
            depthwise (M, 1, k, k), depthwise_bias (M,);
            se_reduce (S, M, 1, 1), se_reduce_bias, se_expand (M, S, 1, 1), se_expand_bias with SE;
            projection (O, M, 1, 1), projection_bias (O,)
    bottleneck  reduction (M, I, 1, 1), spatial (M, M, k, k), projection (O, M, 1, 1), and
            shortcut (O, I, 1, 1) where the block downsamples, each with its bias

The same plan, weights and metadata give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bespoke import __version__
from bespoke.supernet.architecture import Plan
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.ops import IMAGE_CHANNELS, PRECISIONS, Op
from bespoke.supernet.quantization import ActivationRanges, quantize

FoldedWeights = Mapping[str, NDArray[np.float32]]

OPSET = 17
"""Has every operator used here (HardSwish came with 14) and is read by runtimes since 2022."""
IR_VERSION = 8
INPUT, OUTPUT = "image", "logits"


def weight_shapes(op: Op) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The folded weights of one op: (name, shape), in the order in which they are used."""
    c_in, c_out, k, name = op.in_shape[2], op.out_channels, op.kernel, op.name
    if op.kind == "conv":
        yield f"{name}.weight", (c_out, c_in, k, k)
        if op.norm:
            yield f"{name}.bias", (c_out,)
    elif op.kind == "linear":
        yield f"{name}.weight", (c_out, c_in)
        yield f"{name}.bias", (c_out,)
    elif op.kind == "mbconv":
        mid, inner = op.mid_channels, op.se_channels
        if op.expands:
            yield f"{name}.expansion", (mid, c_in, 1, 1)
            yield f"{name}.expansion_bias", (mid,)
        yield f"{name}.depthwise", (mid, 1, k, k)
        yield f"{name}.depthwise_bias", (mid,)
        if op.se:
            yield f"{name}.se_reduce", (inner, mid, 1, 1)
            yield f"{name}.se_reduce_bias", (inner,)
            yield f"{name}.se_expand", (mid, inner, 1, 1)
            yield f"{name}.se_expand_bias", (mid,)
        yield f"{name}.projection", (c_out, mid, 1, 1)
        yield f"{name}.projection_bias", (c_out,)
    elif op.kind == "bottleneck":
        mid = op.mid_channels
        parts = {
            "reduction": (mid, c_in, 1, 1),
            "spatial": (mid, mid, k, k),
            "projection": (c_out, mid, 1, 1),
        }
        if op.downsamples:
            parts["shortcut"] = (c_out, c_in, 1, 1)
        for part, shape in parts.items():
            yield f"{name}.{part}", shape
            yield f"{name}.{part}_bias", shape[:1]


def random_weights(plan: Plan, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights for measuring: scaled so that activations neither vanish nor overflow.

    Denormal or infinite activations would change what a runtime's kernels cost.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for op in plan.ops:
        for name, shape in weight_shapes(op):
            scale = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
            weights[name] = (rng.standard_normal(shape, np.float32) * scale).astype(np.float32)
    return weights


def op_plan(op: Op) -> Plan:
    """One op as a network of its own."""
    return Plan.chain(op.in_shape, [replace(op, name=op.name or "op")])


def write_onnx(
    plan: Plan,
    weights: FoldedWeights,
    *,
    precision: str = "fp32",
    ranges: ActivationRanges | None = None,
    inner: bool = False,
    metadata: Mapping[str, str] | None = None,
    dynamic_batch: bool = False,
    route: int = 0,
) -> bytes:
    """Write one route of a plan as an ONNX model.

    Args:
        plan: A static plan, or a routed one of which one route is written.
        weights: Folded weights of every op on the route.
        precision: ``fp32``, or ``int8`` as QDQ (see ``quantization``).
        ranges: Of INT8's activations, by site; expected ones where none are given.
        inner: The plan is a part of a network, written to be measured. In INT8 it then takes and
            gives what it would inside, so that the times of parts add up to that of the whole: U8,
            with channels last around convolutions, but for an image (3 channels) and for logits.
            Makes no difference in float.
        metadata: Key-value pairs for the model's metadata.
        dynamic_batch: Leave the batch open; otherwise it is 1.
        route: Index of the route.

    Returns:
        The serialised model. Input ``image`` is float32 NCHW, output ``logits``.

    Raises:
        InvalidInput: A weight is missing or has another shape, a range is missing, or there is no
            such precision.
    """
    if precision not in PRECISIONS:
        raise InvalidInput(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")
    graph = _Graph(weights)
    out_shape, flat = graph.add_route(plan, route)
    float_in = not inner or precision == "fp32" or plan.in_shape[2] == IMAGE_CHANNELS
    float_out = not inner or precision == "fp32" or flat
    nodes, arrays = graph.nodes, graph.arrays
    channels_last = inner and any(node.op_type == "Conv" for node in nodes)
    if precision == "int8":
        written = quantize(
            nodes,
            arrays,
            ranges,
            source=INPUT,
            float_in=float_in,
            float_out=float_out,
            channels_last=channels_last,
        )
        nodes, arrays = list(written.nodes), written.arrays
    nodes[-1].output[0] = OUTPUT
    batch = "N" if dynamic_batch else 1
    proto = helper.make_graph(
        nodes,
        "bespoke",
        [_tensor(INPUT, batch, plan.in_shape, is_float=float_in, channels_last=channels_last)],
        [_tensor(OUTPUT, batch, out_shape, is_float=float_out, channels_last=channels_last, flat=flat)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="bespoke",
        producer_version=__version__,
    )
    helper.set_model_props(model, dict(sorted((metadata or {}).items())))
    return bytes(model.SerializeToString(deterministic=True))


def read_metadata(model: bytes) -> dict[str, str]:
    """The metadata of a serialised model."""
    return {prop.key: prop.value for prop in onnx.load_model_from_string(model).metadata_props}


def _tensor(
    name: str,
    batch: int | str,
    shape: tuple[int, int, int],
    *,
    is_float: bool,
    channels_last: bool,
    flat: bool = False,
) -> onnx.ValueInfoProto:
    """An end of the graph, of this (H, W, C)."""
    height, width, channels = shape
    if is_float:
        sides = [] if flat else [height, width]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, channels, *sides])
    sides = [*shape] if channels_last else [channels, height, width]
    return helper.make_tensor_value_info(name, TensorProto.UINT8, [batch, *sides])


class _Graph:
    """Nodes and initialisers while they are being written."""

    def __init__(self, weights: FoldedWeights) -> None:
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, NDArray[np.float32]] = {}

    def add_route(self, plan: Plan, route: int) -> tuple[tuple[int, int, int], bool]:
        """Append every op of a route; returns the result's (H, W, C), and whether it is flat."""
        values = {(-1, 0): INPUT}
        shape, flat = plan.in_shape, False
        for s in plan.routes[route].segments:
            segment = plan.segments[s]
            for i, op in enumerate(segment.ops):
                first = op.inputs[0]
                source = values[(s, first) if first >= 0 else plan.origin(s, ~first)]
                values[s, i] = self.add_op(op, source, f"{segment.name}.{i}")
                shape, flat = op.out_shape, op.kind == "linear"
        return shape, flat

    def add_op(self, op: Op, source: str, label: str) -> str:
        """Append one op's nodes; returns the name of its result."""
        label = op.name or label
        shapes = dict(weight_shapes(op))
        names = {name[len(op.name) + 1 :]: self._weight(name, shape) for name, shape in shapes.items()}
        if op.kind == "pool":
            return self._node("GlobalAveragePool", [source], f"{label}.pool")
        if op.kind == "maxpool":
            window = {
                "kernel_shape": [op.kernel] * 2,
                "pads": [op.kernel // 2] * 4,
                "strides": [op.stride] * 2,
            }
            return self._node("MaxPool", [source], f"{label}.pool", **window)
        if op.kind == "linear":
            flat = self._node("Flatten", [source], f"{label}.flatten", axis=1)
            return self._node("Gemm", [flat, names["weight"], names["bias"]], f"{label}.gemm", transB=1)
        if op.kind == "conv":
            parts = [source, names["weight"]] + ([names["bias"]] if op.norm else [])
            value = self._conv(parts, f"{label}.conv", op.kernel, op.stride)
            value = self._activation(value, op.activation, label)
            return self._node("Add", [source, value], f"{label}.skip") if op.skip else value
        if op.kind == "bottleneck":
            return self._bottleneck(op, source, label, names)
        return self._inverted_bottleneck(op, source, label, names)

    def _bottleneck(self, op: Op, source: str, label: str, names: Mapping[str, str]) -> str:
        value = source
        for part, kernel, stride in (("reduction", 1, 1), ("spatial", op.kernel, op.stride)):
            parts = [value, names[part], names[f"{part}_bias"]]
            value = self._conv(parts, f"{label}.{part}", kernel, stride)
            value = self._activation(value, op.activation, f"{label}.{part}")
        value = self._conv([value, names["projection"], names["projection_bias"]], f"{label}.projection")
        shortcut = source
        if op.downsamples:
            if op.stride > 1:
                window = {"kernel_shape": [op.stride] * 2, "strides": [op.stride] * 2, "ceil_mode": 1}
                shortcut = self._node("AveragePool", [shortcut], f"{label}.average", **window)
            parts = [shortcut, names["shortcut"], names["shortcut_bias"]]
            shortcut = self._conv(parts, f"{label}.shortcut")
        value = self._node("Add", [value, shortcut], f"{label}.sum")
        return self._activation(value, op.activation, label)

    def _inverted_bottleneck(self, op: Op, source: str, label: str, names: Mapping[str, str]) -> str:
        value = source
        if op.expands:
            parts = [value, names["expansion"], names["expansion_bias"]]
            value = self._conv(parts, f"{label}.expansion")
            value = self._activation(value, op.activation, f"{label}.expansion")
        parts = [value, names["depthwise"], names["depthwise_bias"]]
        value = self._conv(parts, f"{label}.depthwise", op.kernel, op.stride, op.mid_channels)
        value = self._activation(value, op.activation, f"{label}.depthwise")
        if op.se:
            value = self._squeeze_excite(value, label, names)
        value = self._conv([value, names["projection"], names["projection_bias"]], f"{label}.projection")
        return self._node("Add", [source, value], f"{label}.skip") if op.skip else value

    def _squeeze_excite(self, source: str, label: str, names: Mapping[str, str]) -> str:
        gate = self._node("GlobalAveragePool", [source], f"{label}.se.pool")
        gate = self._conv([gate, names["se_reduce"], names["se_reduce_bias"]], f"{label}.se.reduce")
        gate = self._node("Relu", [gate], f"{label}.se.relu")
        gate = self._conv([gate, names["se_expand"], names["se_expand_bias"]], f"{label}.se.expand")
        gate = self._node("HardSigmoid", [gate], f"{label}.se.gate", alpha=1 / 6, beta=0.5)
        return self._node("Mul", [source, gate], f"{label}.se.scale")

    def _activation(self, source: str, activation: str, label: str) -> str:
        kinds = {"relu": "Relu", "hswish": "HardSwish"}
        if activation == "none":
            return source
        if activation == "relu6":
            low, high = (self._constant(name, value) for name, value in (("zero", 0.0), ("six", 6.0)))
            return self._node("Clip", [source, low, high], f"{label}.act")
        return self._node(kinds[activation], [source], f"{label}.act")

    def _conv(self, inputs: list[str], label: str, kernel: int = 1, stride: int = 1, group: int = 1) -> str:
        pads, strides = [kernel // 2] * 4, [stride, stride]
        sides = [kernel, kernel]
        return self._node("Conv", inputs, label, kernel_shape=sides, pads=pads, strides=strides, group=group)

    def _node(self, kind: str, inputs: list[str], label: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"{label}.out"], name=label, **attributes))
        return f"{label}.out"

    def _constant(self, name: str, value: float) -> str:
        self.arrays[name] = np.array(value, np.float32)
        return name

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        found = self._weights.get(name)
        if found is None or found.shape != shape:
            got = None if found is None else found.shape
            raise InvalidInput(f"folded weight {name!r}: got {got}, expected shape {shape}")
        self.arrays[name] = np.ascontiguousarray(found, np.float32)
        return name
