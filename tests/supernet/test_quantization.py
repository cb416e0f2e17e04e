"""INT8 as QDQ: close to float, fused by the runtimes, the same ends as inside a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from bespoke.supernet.architecture import Plan, SearchSpace, decode
from bespoke.supernet.calibration import observed_ranges
from bespoke.supernet.cost import cost
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import largest, sample, smallest
from bespoke.supernet.onnx import INPUT, op_plan, random_weights, read_metadata, write_onnx
from bespoke.supernet.ops import Op
from bespoke.supernet.spaces import SPACES, space
from bespoke.supernet.subnet import materialise
from bespoke.supernet.zoo import entry

SPACE = space("ofa-mobilenetv3-w1.0", (64,), 10)
OPS = {
    "image conv": Op("conv", (16, 16, 3), 8, kernel=3, stride=2, activation="hswish"),
    "conv": Op("conv", (8, 8, 16), 24, activation="relu6"),
    "plain conv": Op("conv", (1, 1, 32), 48, activation="hswish", norm=False),
    "block": Op("mbconv", (8, 8, 16), 16, kernel=5, mid_channels=48, se=True, activation="hswish", skip=True),
    "relu block": Op("mbconv", (8, 8, 16), 24, kernel=3, stride=2, mid_channels=48, activation="relu"),
    "pool": Op("pool", (4, 4, 32), 32),
    "linear": Op("linear", (1, 1, 32), 10),
}
INTEGER = {"QLinearConv", "QLinearAdd", "QLinearMul", "QLinearGlobalAveragePool", "QGemm"}


def images(plan: Plan, count: int = 1) -> NDArray[np.float32]:
    height, width, channels = plan.in_shape
    return np.random.default_rng(5).standard_normal((count, channels, height, width), np.float32)


def run(model: bytes, x: NDArray[Any]) -> NDArray[Any]:
    (result,) = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": x})
    return np.asarray(result)


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def initializers(model: bytes) -> dict[str, NDArray[Any]]:
    tensors = onnx.load_model_from_string(model).graph.initializer
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}


def fused(model: bytes, folder: Path) -> Counter[str]:
    """Kinds of nodes after the runtime's own optimisation."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize(
    ("family", "edge"), [*((name, smallest) for name in SPACES), ("ofa-mobilenetv3-w1.0", largest)]
)
def test_a_calibrated_network_is_close_to_float(family: str, edge: Callable[[SearchSpace], Any]) -> None:
    small = space(family, (32,) if "cifar" in family else (64,), 10)
    plan = small.plan(edge(small))
    weights, x = random_weights(plan), images(plan)
    ranges = observed_ranges(plan, weights, [images(plan, 4), x])
    model = write_onnx(plan, weights, precision="int8", ranges=ranges)
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    assert cosine(run(model, x), run(write_onnx(plan, weights), x)) > 0.97


@pytest.mark.parametrize("family", SPACES)
def test_no_sum_of_two_products_overflows_on_any_processor(family: str) -> None:
    """With AVX2 alone, two products are added in 16 bits; the runtime can be asked to be exact there."""
    small = space(family, (32,) if "cifar" in family else (64,), 10)
    plan = small.plan(largest(small))
    weights, x = random_weights(plan), images(plan)
    model = write_onnx(plan, weights, precision="int8", ranges=observed_ranges(plan, weights, [x]))
    exact = ort.SessionOptions()
    exact.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(model, exact, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(run(model, x), session.run(None, {INPUT: x})[0])
    for name, value in initializers(model).items():
        if value.dtype == np.int8 and value.ndim > 1:
            inner = value if value.ndim == 2 else value.transpose(0, 2, 3, 1)
            rows = inner.reshape(len(value), -1).astype(int)
            pairs = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2)
            sums = np.stack([np.maximum(sign * pairs, 0).sum(2) for sign in (1, -1)])
            assert 255 * sums.max() < 2**15, name


def test_ranges_are_seen_with_the_threads_that_the_weights_have(
    random_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Recorded(ort.InferenceSession):
        def __init__(self, model: bytes, options: ort.SessionOptions, **more: Any) -> None:
            asked.append(options.intra_op_num_threads)
            super().__init__(model, options, **more)

    monkeypatch.setattr(ort, "InferenceSession", Recorded)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    opened = entry("tiny", random_zoo)
    architecture = smallest(opened.space)
    seen = images(opened.space.plan(architecture))
    model = materialise(opened, architecture, precision="int8", images=[seen])
    assert read_metadata(model)["activation_ranges"] == "observed"
    assert asked == [3]


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_one_op_is_close_to_float_with_expected_ranges(op: Op) -> None:
    plan = op_plan(op)
    weights, x = random_weights(plan), images(plan)
    model = write_onnx(plan, weights, precision="int8")
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    assert cosine(run(model, x), run(write_onnx(plan, weights), x)) > 0.99


def test_expected_ranges_are_of_the_size_of_observed_ones() -> None:
    plan = SPACE.plan(largest(SPACE))
    weights = random_weights(plan)
    constants = initializers(write_onnx(plan, weights, precision="int8"))
    observed = observed_ranges(plan, weights, [images(plan, 4)])
    named = {site: limits for site, limits in observed.items() if f"{site}.scale" in constants}
    assert len(named) > 100
    ratios = [255 * constants[f"{site}.scale"] / (high - low) for site, (low, high) in named.items()]
    assert 0.8 < float(np.median(ratios)) < 8


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_input_gives_the_same_bytes(precision: str) -> None:
    plan = SPACE.plan(smallest(SPACE))
    weights = random_weights(plan)
    assert write_onnx(plan, weights, precision=precision) == write_onnx(plan, weights, precision=precision)


def test_int8_weights_take_a_quarter_of_the_bytes() -> None:
    plan = SPACE.plan(largest(SPACE))
    weights = random_weights(plan)
    assert len(write_onnx(plan, weights, precision="int8")) < 0.3 * len(write_onnx(plan, weights))


def test_every_convolution_sum_product_and_pool_becomes_an_integer_kernel(tmp_path: Path) -> None:
    plan = SPACE.plan(largest(SPACE))
    weights = random_weights(plan)
    floats = Counter(n.op_type for n in onnx.load_model_from_string(write_onnx(plan, weights)).graph.node)
    kinds = fused(write_onnx(plan, weights, precision="int8"), tmp_path)
    assert kinds["QLinearConv"] == floats["Conv"]
    assert kinds["QLinearAdd"] == floats["Add"]
    assert kinds["QLinearMul"] == floats["Mul"] + floats["HardSwish"]
    assert kinds["QLinearGlobalAveragePool"] == floats["GlobalAveragePool"]
    assert kinds["QGemm"] == floats["Gemm"]
    assert not {"Conv", "Gemm", "Add", "Mul", "Relu", "Clip", "HardSwish"} & set(kinds)
    # One for the image, one for each gate: of an activation, and of a squeeze-and-excitation.
    assert kinds["QuantizeLinear"] == 1 + floats["HardSwish"] + floats["HardSigmoid"]


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.in_shape[2] != 3 and op.kind != "linear"])
def test_an_inner_op_takes_and_gives_bytes_and_pays_for_no_conversion(op: Op, tmp_path: Path) -> None:
    plan = op_plan(op)
    model = write_onnx(plan, random_weights(plan), precision="int8", inner=True)
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (source,), (result,) = session.get_inputs(), session.get_outputs()
    assert source.type == result.type == "tensor(uint8)"
    kinds = fused(model, tmp_path)
    assert "Transpose" not in kinds
    assert set(kinds) - INTEGER <= {"QuantizeLinear", "DequantizeLinear", "HardSigmoid"}


def test_an_inner_op_computes_what_the_float_op_does() -> None:
    plan = op_plan(OPS["relu block"])
    weights = random_weights(plan)
    model = write_onnx(plan, weights, precision="int8", inner=True)
    constants = initializers(model)
    x_NHWC = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 16), np.uint8)
    x = (x_NHWC.astype(np.float32) - constants["image.zero"]) * constants["image.scale"]
    expected = run(write_onnx(plan, weights), np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    y_NHWC = run(model, x_NHWC).astype(np.float32)
    site = "op.projection"
    y = (y_NHWC - constants[f"{site}.zero"]) * constants[f"{site}.scale"]
    assert cosine(y.transpose(0, 3, 1, 2), expected) > 0.98


def test_an_image_and_logits_stay_float_in_an_inner_op() -> None:
    for op, float_in, float_out in ((OPS["image conv"], True, False), (OPS["linear"], False, True)):
        plan = op_plan(op)
        model = write_onnx(plan, random_weights(plan), precision="int8", inner=True)
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        assert (session.get_inputs()[0].type == "tensor(float)") == float_in
        assert (session.get_outputs()[0].type == "tensor(float)") == float_out


def test_a_channel_without_weights_keeps_its_bias() -> None:
    plan = op_plan(Op("conv", (4, 4, 8), 4))
    weights = random_weights(plan)
    weights["op.weight"][1] = 0
    weights["op.bias"][:] = 0.5
    result = run(write_onnx(plan, weights, precision="int8"), images(plan))
    np.testing.assert_allclose(result[0, 1], 0.5, atol=0.02)


def test_a_missing_range_and_an_unknown_precision_are_named() -> None:
    plan = op_plan(OPS["block"])
    weights = random_weights(plan)
    ranges = observed_ranges(plan, weights, [images(plan)])
    del ranges["op.depthwise.act"]
    with pytest.raises(InvalidInput, match=r"op\.depthwise\.act.*none"):
        write_onnx(plan, weights, precision="int8", ranges=ranges)
    with pytest.raises(InvalidInput, match=r"int4.*fp32, int8"):
        write_onnx(plan, weights, precision="int4")
    with pytest.raises(InvalidInput, match="finite"):
        write_onnx(plan, weights, precision="int8", ranges={**ranges, "op.depthwise.act": (0.0, np.inf)})


@pytest.mark.parametrize("seed", range(2, 6))
def test_a_product_of_constant_values_has_a_range(seed: int) -> None:
    plan = op_plan(OPS["block"])
    weights = random_weights(plan, seed)
    # All channels are constant then, and the variance of their products is nothing but rounding.
    constant = {n: np.zeros_like(w) if n.endswith(".depthwise") else w for n, w in weights.items()}
    model = write_onnx(plan, constant, precision="int8")
    assert np.isfinite(run(model, images(plan))).all()


@pytest.mark.parametrize("family", sorted(SPACES))
def test_the_file_is_as_large_as_it_is_counted(family: str) -> None:
    small = space(family, (32,) if "cifar" in family else (64,), 10)
    for architecture in (smallest(small), decode(small, sample(small, 1, np.random.default_rng(0))[0])):
        plan = small.plan(architecture)
        weights = random_weights(plan)
        model = write_onnx(plan, weights, precision="int8")
        stored = initializers(model)
        names = [f"{name}{suffix}" for name in weights for suffix in ("", ".scales", ".zeros")]
        counted = cost(plan, "int8").model_size_bytes
        assert sum(stored[name].nbytes for name in names) == counted
        # What is left: a scale and a zero point of each activation, and what the nodes are called.
        others = sum(array.nbytes for name, array in stored.items() if name not in names)
        nodes = len(onnx.load_model_from_string(model).graph.node)
        assert others < 5 * nodes
        assert counted + others < len(model) < counted + others + 400 * nodes
