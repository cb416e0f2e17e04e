"""Wall 1: elastic network == extracted subnet == its ONNX. Wall 2: counted == priced."""

from __future__ import annotations

import io

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bespoke.supernet.architecture import Architecture
from bespoke.supernet.cost import cost
from bespoke.supernet.genomes import largest, random_architecture, smallest
from bespoke.supernet.layers import FixedStatistics
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.onnx import op_plan, random_weights, read_metadata, write_onnx
from bespoke.supernet.ops import PRECISIONS, parse_key
from bespoke.supernet.spaces import SPACES, space
from bespoke.supernet.statistics import recalibrate
from bespoke.supernet.subnet import Subnet, extract, fold

SIDES = {name: (32, 48) if "cifar" in name else (64, 72) for name in SPACES}


def trained_looking(name: str) -> ChainSupernet:
    """A supernet whose kernel transforms and BN layers are not the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = ChainSupernet(space(name, SIDES[name], 10))
        for parameter_name, parameter in network.named_parameters():
            if "transforms" in parameter_name or "bn" in parameter_name:
                parameter.data += 0.05 * torch.randn_like(parameter)
    return network


def images(resolution: int, count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(2))


def architectures(network: ChainSupernet) -> list[Architecture]:
    rng = np.random.default_rng(3)
    drawn = [random_architecture(network.space, rng) for _ in range(3)]
    return [smallest(network.space), largest(network.space), *drawn]


@pytest.fixture(scope="module", params=sorted(SPACES))
def network(request: pytest.FixtureRequest) -> ChainSupernet:
    return trained_looking(request.param)


@torch.no_grad()
def test_elastic_network_extracted_subnet_and_onnx_agree(network: ChainSupernet) -> None:
    for architecture in architectures(network):
        x_NCHW = images(architecture.resolution)
        # Twice as many, so that no channel has all but the same value everywhere.
        statistics = recalibrate(network, architecture, [images(architecture.resolution, 8)])
        elastic = network(x_NCHW, architecture, FixedStatistics(statistics))
        subnet = extract(network, architecture, statistics)
        torch.testing.assert_close(subnet(x_NCHW), elastic, rtol=1e-5, atol=1e-5)

        model = write_onnx(subnet.plan, fold(subnet), dynamic_batch=True)
        onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
        (logits,) = ort.InferenceSession(model).run(None, {"image": x_NCHW.numpy()})
        error = np.abs(logits - elastic.numpy()).max() / np.abs(elastic.numpy()).max()
        assert error <= 1e-4


@torch.no_grad()
def test_hooked_macs_and_counted_parameters_equal_the_price(network: ChainSupernet) -> None:
    for architecture in architectures(network):
        x_NCHW = images(architecture.resolution, 1)
        subnet = extract(network, architecture, recalibrate(network, architecture, [x_NCHW]))
        price = cost(subnet.plan)
        assert sum(p.numel() for p in subnet.parameters()) == price.params
        assert counted_macs(subnet, x_NCHW) == price.macs
        weights = sum(array.nbytes for array in fold(subnet).values())
        assert weights == price.model_size_bytes


def counted_macs(subnet: nn.Module, x_NCHW: torch.Tensor) -> int:
    """Multiply-accumulates that convolutions and matrix products really do, by interception."""
    total = 0

    class Count(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal total
            result = function(*args, **(kwargs or {}))
            if function is torch.conv2d or function is F.conv2d:
                total += result[0].numel() * args[1][0].numel()
            if function is F.linear:
                total += args[1].numel()
            return result

    with Count():
        subnet(x_NCHW)
    return total


@torch.no_grad()
def test_a_call_leaves_no_state_behind(network: ChainSupernet) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    small, large = smallest(network.space), largest(network.space)
    first = network(images(small.resolution), small)
    network(images(large.resolution), large)
    torch.testing.assert_close(network(images(small.resolution), small), first, rtol=0, atol=0)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@torch.no_grad()
def test_a_smaller_kernel_is_the_transformed_centre_of_the_larger(network: ChainSupernet) -> None:
    if not any(d.name == "kernel" for d in network.space.dimensions):
        pytest.skip(f"{network.space.name} has kernels of one size")
    architecture = smallest(network.space)
    op = network.space.plan(architecture).ops[2]
    block = network.weights_of(op)
    centre5 = block.depthwise[: op.mid_channels, 0, 1:6, 1:6].flatten(1)  # type: ignore[union-attr,index]
    five = centre5 @ block.transforms["7to5"].T  # type: ignore[union-attr,index,operator]
    centre3 = five.unflatten(1, (5, 5))[:, 1:4, 1:4].flatten(1)
    three = (centre3 @ block.transforms["5to3"].T).unflatten(1, (3, 3))  # type: ignore[union-attr,index]
    torch.testing.assert_close(block.kernel(op)[:, 0], three)  # type: ignore[union-attr,operator]


def test_an_extracted_subnet_owns_its_weights(network: ChainSupernet) -> None:
    architecture = smallest(network.space)
    statistics = recalibrate(network, architecture, [images(architecture.resolution)])
    subnet = extract(network, architecture, statistics)
    kept = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}
    with torch.no_grad():
        for parameter in subnet.parameters():
            parameter.zero_()
    fresh = extract(network, architecture, statistics)
    for name, tensor in fresh.state_dict().items():
        torch.testing.assert_close(tensor, kept[name], rtol=0, atol=0)


def test_recalibration_averages_per_batch_means_and_biased_variances(network: ChainSupernet) -> None:
    architecture = smallest(network.space)
    batches = [images(architecture.resolution, 4), 3 * images(architecture.resolution, 2)]
    op = network.space.plan(architecture).ops[0]
    mean_C, var_C = recalibrate(network, architecture, batches)[f"{op.name}.bn"]
    stem = network.weights_of(op).weight[: op.out_channels]  # type: ignore[union-attr,index]
    maps = [F.conv2d(x, stem, stride=op.stride, padding=1) for x in batches]
    weights = torch.tensor([4 / 6, 2 / 6])
    means = torch.stack([m.mean((0, 2, 3)) for m in maps])
    variances = torch.stack([m.var((0, 2, 3), correction=0) for m in maps])
    torch.testing.assert_close(mean_C, (weights[:, None] * means).sum(0).detach())
    torch.testing.assert_close(var_C, (weights[:, None] * variances).sum(0).detach(), rtol=1e-4, atol=1e-5)


def test_same_plan_weights_and_metadata_give_the_same_bytes() -> None:
    plan = space("ofa-mobilenetv3-w1.0", (32,), 10).plan(smallest(space("ofa-mobilenetv3-w1.0", (32,), 10)))
    weights = random_weights(plan)
    first = write_onnx(plan, weights, metadata={"b": "2", "a": "1"})
    assert first == write_onnx(plan, weights, metadata={"a": "1", "b": "2"})
    assert read_metadata(first) == {"a": "1", "b": "2"}


def test_a_wrong_weight_shape_is_named() -> None:
    plan = space("ofa-mobilenetv3-w1.0", (32,), 10).plan(smallest(space("ofa-mobilenetv3-w1.0", (32,), 10)))
    weights = random_weights(plan)
    weights["classifier.bias"] = weights["classifier.bias"][:3]
    with pytest.raises(Exception, match=r"classifier\.bias.*\(3,\).*\(10,\)"):
        write_onnx(plan, weights)


@pytest.mark.parametrize("name", sorted(SPACES))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_op_of_a_plan_is_a_network_of_its_own(name: str, precision: str) -> None:
    tiny = space(name, (36,), 10)
    for key in {op.key for op in tiny.plan(smallest(tiny)).ops}:
        op = parse_key(key)
        single = op_plan(op)
        model = write_onnx(single, random_weights(single), precision=precision)
        height, width, channels = op.in_shape
        x_NCHW = np.ones((1, channels, height, width), np.float32)
        (result,) = ort.InferenceSession(model).run(None, {"image": x_NCHW})
        assert result.size == np.prod(op.out_shape)
        assert np.isfinite(result).all()


def test_a_subnet_survives_torch_save(network: ChainSupernet) -> None:
    architecture = smallest(network.space)
    x_NCHW = images(architecture.resolution, 2)
    subnet = extract(network, architecture, recalibrate(network, architecture, [x_NCHW]))
    file = io.BytesIO()
    torch.save(subnet.state_dict(), file)
    file.seek(0)
    again = Subnet(subnet.plan)
    again.set_statistics(subnet.statistics)
    again.load_state_dict(torch.load(file, weights_only=True), assign=True)
    torch.testing.assert_close(again(x_NCHW), subnet(x_NCHW), rtol=0, atol=0)
