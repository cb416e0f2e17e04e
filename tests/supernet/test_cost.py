import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bespoke.supernet.architecture import Plan, Route, SearchSpace, Segment, decode, read_architecture
from bespoke.supernet.cost import (
    CostTable,
    SlotTable,
    cost,
    op_bytes,
    op_macs,
    op_params,
    op_peak_bytes,
    op_peak_values,
    price_all,
)
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import extremes, largest, sample, smallest
from bespoke.supernet.ops import Op
from bespoke.supernet.spaces import SPACES, OfaMobileNetV3, OfaProxyless, space

PUBLISHED = {
    "ofa_mbv3_d234_e346_k357_w1.0": "ofa-mobilenetv3-w1.0",
    "ofa_mbv3_d234_e346_k357_w1.2": "ofa-mobilenetv3-w1.2",
    "ofa_proxyless_d234_e346_k357_w1.3": "ofa-proxyless-w1.3",
    "ofa_resnet50": "ofa-resnet50",
}


@pytest.mark.parametrize("name", sorted(SPACES))
def test_the_price_of_a_population_is_that_of_every_plan(name: str) -> None:
    made = space(name, (32, 44, 224), 10)
    genomes = np.concatenate([extremes(made), sample(made, 30, np.random.default_rng(0))])
    prices = price_all(made, genomes)
    for i, genome in enumerate(genomes):
        expected = cost(made.plan(decode(made, genome)))
        assert {name: values[i] for name, values in prices.items()} == {
            "macs": expected.macs,
            "params": expected.params,
            "peak_memory_bytes": expected.peak_memory_bytes,
            "model_size_bytes": expected.model_size_bytes,
        }


def test_int8_counts_bytes_of_its_own_and_all_else_alike() -> None:
    made = space("ofa-mobilenetv3-w1.0", (96, 128), 10)
    for genome in np.concatenate([extremes(made), sample(made, 5, np.random.default_rng(0))]):
        plan = made.plan(decode(made, genome))
        full, small = cost(plan), cost(plan, "int8")
        assert (small.macs, small.params) == (full.macs, full.params)
        # All activations are bytes, and none of these networks holds most of them at its image.
        assert 4 * small.peak_memory_bytes == full.peak_memory_bytes
        assert 0.25 < small.model_size_bytes / full.model_size_bytes < 0.35
        table = CostTable(made, "int8")
        assert table.peak_memory_bytes(genome[None])[0] == small.peak_memory_bytes
        assert table.model_size_bytes(genome[None])[0] == small.model_size_bytes


def test_in_int8_an_image_comes_and_logits_go_in_float() -> None:
    stem = Op("conv", (16, 16, 3), 8, kernel=3, stride=2)
    assert op_peak_bytes(stem, "int8") == 16 * 16 * 3 * (4 + 1)
    assert op_peak_bytes(replace(stem, out_channels=64), "int8") == 16 * 16 * 3 + 8 * 8 * 64
    assert op_peak_bytes(Op("linear", (1, 1, 32), 10), "int8") == 32 + 4 * 10
    # Weights; five bytes a channel for scale and zero point; a bias with those of its own.
    assert op_bytes(stem, "int8") == 3 * 8 * 9 + 8 * (5 + 12)
    assert op_bytes(replace(stem, norm=False), "int8") == 3 * 8 * 9 + 8 * 5
    with pytest.raises(InvalidInput, match="precision: got 'int4', expected one of fp32, int8"):
        op_bytes(stem, "int4")


def test_the_published_supernets_have_the_published_counts(official: Path) -> None:
    published = json.loads((official / "reference_values.json").read_text())["supernets"]
    checked = 0
    for label, (mega_macs, params) in published.items():
        name, which, side = label.split()
        made = space(PUBLISHED[name], (int(side[1:]),))
        price = cost(made.plan((largest if which == "max" else smallest)(made)))
        assert round(price.macs / 1e6, 4) == mega_macs
        assert price.params == params
        checked += 1
    assert checked == 24


def test_the_published_specialised_subnets_have_the_published_counts(official: Path) -> None:
    subnets = json.loads((official / "specialized_subnets.json").read_text())
    checked = 0
    for subnet in subnets:
        if subnet["kind"] == "MobileNetV3":
            made: SearchSpace = OfaMobileNetV3({16: 1.0, 24: 1.2}[subnet["first"]], (subnet["r"],))
        else:
            made = OfaProxyless(1.3, (subnet["r"],))
        price = cost(made.plan(read_architecture(made, choices(subnet))))
        assert round(price.macs / 1e6, 2) == subnet["macs"], subnet["name"]
        assert round(price.params / 1e6, 3) == subnet["params"], subnet["name"]
        checked += 1
    assert checked == 15


def choices(subnet: dict[str, Any]) -> dict[str, Any]:
    """The architecture's JSON of a published subnet: each stage's blocks, filled up to four."""
    stages = subnet["stages"]
    full = [block for stage in stages[:5] for block in stage + [[3, 3]] * (4 - len(stage))]
    full += [block for stage in stages[5:] for block in stage]
    return {
        "kernel": [kernel for kernel, _ in full],
        "expand": [expand for _, expand in full],
        "depth": [len(stage) for stage in stages[:5]],
        "resolution": subnet["r"],
    }


def test_a_skip_keeps_its_input_alive() -> None:
    # 4 x 4 maps. The stem makes 8 channels, the branch 32 and then 8 again; the sum needs both.
    stem = Op("conv", (4, 4, 3), 8, 3)
    wide = Op("conv", (4, 4, 8), 32, 1, inputs=(0,))
    narrow = Op("conv", (4, 4, 32), 8, 1, inputs=(1,))
    join = Op("conv", (4, 4, 8), 8, 1, inputs=(2, 0))
    segment = Segment("network", (stem, wide, narrow, join))
    plan = Plan((4, 4, 3), (segment,), (Route("static", (0,)),))
    # While `narrow` runs: its input (32), its output (8) and the stem's output (8) for the join.
    assert cost(plan).peak_memory_bytes == 4 * 16 * (32 + 8 + 8)
    without = Plan.chain((4, 4, 3), (stem, wide, narrow, join))
    assert cost(without).peak_memory_bytes == 4 * 16 * (32 + 8)


def test_an_inverted_bottleneck_counts_its_inner_maps() -> None:
    block = Op("mbconv", (4, 4, 8), 8, 3, 1, mid_channels=48, skip=True)
    assert op_peak_values(block) == 16 * (8 + 48 + 48)
    strided = Op("mbconv", (4, 4, 8), 16, 3, 2, mid_channels=48)
    assert op_peak_values(strided) == max(16 * (8 + 48), 16 * 48 + 4 * 48, 4 * (48 + 16))
    plain = Op("mbconv", (4, 4, 8), 8, 3, 1, mid_channels=8, skip=True)
    assert op_peak_values(plain) == 16 * (8 + 8 + 8)


def test_a_residual_bottleneck_keeps_its_input_for_the_shortcut() -> None:
    block = Op("bottleneck", (4, 4, 32), 32, 3, 1, mid_channels=8, skip=True)
    assert op_peak_values(block) == 16 * (32 + 8 + 32)
    strided = Op("bottleneck", (4, 4, 8), 32, 3, 2, mid_channels=4)
    # While its shortcut's convolution runs: the pooled input, its result, and the main branch's.
    assert op_peak_values(strided) == max(16 * (8 + 4) + 4 * 4, 4 * (8 + 32 + 32))
    wide = Op("bottleneck", (4, 4, 8), 32, 3, 1, mid_channels=4)
    assert op_peak_values(wide) == 16 * (8 + 32 + 32)


def test_macs_and_parameters_of_a_residual_bottleneck_by_hand() -> None:
    block = Op("bottleneck", (4, 4, 8), 32, 3, 2, mid_channels=4)
    assert op_macs(block) == 16 * 8 * 4 + 4 * (4 * 4 * 9 + 4 * 32 + 8 * 32)
    assert op_params(block) == 8 * 4 + 4 * 4 * 9 + 4 * 32 + 8 * 32 + 2 * (4 + 4 + 32 + 32)
    plain = Op("bottleneck", (4, 4, 32), 32, 3, 1, mid_channels=4, skip=True)
    assert op_macs(plain) == 16 * (32 * 4 + 4 * 4 * 9 + 4 * 32)


def test_macs_of_a_block_by_hand() -> None:
    block = Op("mbconv", (4, 4, 8), 16, 3, 2, mid_channels=32, se=True)
    assert op_macs(block) == 16 * 8 * 32 + 4 * 32 * (9 + 16) + 2 * 32 * 8


def test_a_slot_table_asks_for_each_different_op_once() -> None:
    made = space("ofa-mobilenetv3-w1.0", (96, 128), 10)
    asked: list[str] = []
    SlotTable(made, lambda op: float(asked.append(op.key) or 1))  # type: ignore[func-returns-value]
    assert len(asked) == len(set(asked))
    counts = SlotTable(made, lambda _: 1.0)
    genomes = sample(made, 50, np.random.default_rng(0))
    filled = [len(made.plan(decode(made, genome)).ops) for genome in genomes]
    np.testing.assert_array_equal(counts.total(genomes), filled)
    np.testing.assert_array_equal(counts.largest(genomes), 1)
