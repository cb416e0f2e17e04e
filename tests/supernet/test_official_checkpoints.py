"""Published layouts with random weights: every tensor lands where it belongs, or nothing is loaded."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bespoke.supernet.architecture import Architecture, Plan, read_architecture
from bespoke.supernet.cost import cost
from bespoke.supernet.errors import FileInvalid
from bespoke.supernet.genomes import largest
from bespoke.supernet.layers import FixedStatistics
from bespoke.supernet.networks.chain import norm_sites
from bespoke.supernet.official_checkpoints import (
    OfficialNetwork,
    constant_table,
    read_specialised,
    read_supernet,
)
from bespoke.supernet.official_configs import read_config
from bespoke.supernet.official_names import official_names
from bespoke.supernet.spaces import FixedNetwork, space
from bespoke.supernet.statistics import Statistics
from bespoke.supernet.subnet import extract
from tests.supernet.official_reference import (
    State,
    mobile_config,
    mobile_forward,
    published_shapes,
    random_state,
    resnet_config,
    resnet_forward,
)

MOBILE = {
    "mbv3_d234_e346_k357_w1.0": ("mbv3", "ofa-mobilenetv3-w1.0", "mbv3_w1.0"),
    "mbv3_d234_e346_k357_w1.2": ("mbv3", "ofa-mobilenetv3-w1.2", "mbv3_w1.2"),
    "proxyless_d234_e346_k357_w1.3": ("proxyless", "ofa-proxyless-w1.3", "proxyless_w1.3"),
}
STAGES = [
    [[3, 3], [7, 6]],
    [[5, 4], [3, 6], [7, 3]],
    [[7, 4]] * 4,
    [[3, 6], [5, 3]],
    [[5, 6], [3, 4], [7, 3]],
]


def saved(state: State, path: Path) -> Path:
    torch.save({"state_dict": state}, path)
    return path


def sliced(statistics: Statistics, plan: Plan) -> Statistics:
    """The first channels of each layer's statistics, as the authors' code slices them."""
    widths = {site: width for op in plan.ops for site, width in norm_sites(op)}
    return {site: (statistics[site][0][:c], statistics[site][1][:c]) for site, c in widths.items()}


@torch.no_grad()
def forward(official: OfficialNetwork, architecture: Architecture, x_NCHW: torch.Tensor) -> torch.Tensor:
    statistics = sliced(official.statistics, official.network.space.plan(architecture))
    return official.network(x_NCHW, architecture, FixedStatistics(statistics))


def images(side: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def assert_same(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 1e-3
    torch.testing.assert_close(got / expected.abs().max(), expected / expected.abs().max(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("layout", sorted(MOBILE))
def test_an_imported_supernet_computes_what_its_tensors_say(
    official: Path, tmp_path: Path, layout: str
) -> None:
    family, name, _ = MOBILE[layout]
    state = random_state(published_shapes(official / "keys" / f"keys_ofa_{layout}.txt"))
    found = read_supernet(saved(state, tmp_path / "net"), (64,))
    assert found.network.space == space(name, (64,))
    stages = STAGES + ([[[5, 4]]] if family == "proxyless" else [])
    full = [pair for stage in stages[:5] for pair in stage + [[3, 3]] * (4 - len(stage))]
    full += [pair for stage in stages[5:] for pair in stage]
    kernels, expands = zip(*full, strict=True)
    depths = [len(stage) for stage in stages[:5]]
    fields = {"kernel": list(kernels), "expand": list(expands), "depth": depths, "resolution": 64}
    architecture = read_architecture(found.network.space, fields)
    expected = mobile_forward(state, family, stages, images(), elastic=True)
    assert_same(forward(found, architecture, images()), expected)


def test_an_imported_resnet_computes_what_its_tensors_say(official: Path, tmp_path: Path) -> None:
    state = random_state(published_shapes(official / "keys" / "keys_ofa_resnet50.txt"))
    found = read_supernet(saved(state, tmp_path / "net"), (72,))
    expands = [[0.2, 0.35], [0.25] * 3, [0.35, 0.2, 0.25, 0.2, 0.35, 0.25], [0.2] * 2]
    fields = {
        "stem_depth": [1], "stem_width": [0.65], "width": [0.8, 0.65, 1.0, 0.8, 0.65],
        "expand": [e for stage, size in zip(expands, (4, 4, 6, 4), strict=True)
                   for e in stage + [0.2] * (size - len(stage))],
        "depth": [0, 1, 2, 0], "resolution": 72,
    }  # fmt: skip
    architecture = read_architecture(found.network.space, fields)
    expected = resnet_forward(state, images(72), True, (24, 48), (168, 512, 816, 1328), expands)
    assert_same(forward(found, architecture, images(72)), expected)


@pytest.mark.parametrize("layout", sorted(MOBILE))
def test_names_of_the_first_release_give_the_same_network(
    official: Path, tmp_path: Path, layout: str
) -> None:
    old = random_state(published_shapes(official / "keys" / f"keys_v01_ofa_{MOBILE[layout][2]}.txt"))
    new = {name.replace(".mobile_inverted_conv.", ".conv."): tensor for name, tensor in old.items()}
    shapes = published_shapes(official / "keys" / f"keys_ofa_{layout}.txt")
    assert {name: tuple(tensor.shape) for name, tensor in new.items()} == shapes
    first = read_supernet(saved(old, tmp_path / "old"))
    second = read_supernet(saved(new, tmp_path / "new"))
    weights = second.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in first.network.state_dict().items())
    for site, (mean, var) in first.statistics.items():
        assert torch.equal(mean, second.statistics[site][0])
        assert torch.equal(var, second.statistics[site][1])


@pytest.mark.parametrize("layout", [*sorted(MOBILE), "resnet50"])
def test_an_extracted_largest_network_imports_by_its_configuration(
    official: Path, tmp_path: Path, layout: str
) -> None:
    state = random_state(published_shapes(official / "keys" / f"keys_static_max_ofa_{layout}.txt"))
    family = layout.partition("_")[0]
    if family == "resnet50":
        config, name = resnet_config(1000), "ofa-resnet50"
        stages = [[0.35] * depth for depth in (4, 4, 6, 4)]
        expected = resnet_forward(state, images(), True, (32, 64), (256, 512, 1024, 2048), stages)
    else:
        name = MOBILE[layout][1]
        pairs = [[[7, 6]] * 4] * 5 + ([[[7, 6]]] if family == "proxyless" else [])
        config = mobile_config(family, len(state["first_conv.conv.weight"]), pairs, 1000)
        expected = mobile_forward(state, family, pairs, images(), elastic=False)
    fixed = imported_config(config, tmp_path, 64)
    whole = space(name, (64,))
    assert [op.key for op in fixed.chain] == [op.key for op in whole.plan(largest(whole)).ops]
    found = read_specialised(saved(state, tmp_path / "init"), fixed)
    assert_same(forward(found, largest(fixed), images()), expected)
    with pytest.raises(FileInvalid, match=r"net\.config"):
        read_supernet(tmp_path / "init")


def imported_config(config: dict[str, Any], folder: Path, side: int) -> FixedNetwork:
    (folder / "net.config").write_text(json.dumps(config))
    return read_config(folder / "net.config", "special", side)


def test_published_specialised_networks_have_the_published_counts(official: Path, tmp_path: Path) -> None:
    subnets = json.loads((official / "specialized_subnets.json").read_text())
    for subnet in subnets:
        family = "mbv3" if subnet["kind"] == "MobileNetV3" else "proxyless"
        config = mobile_config(family, subnet["first"], subnet["stages"], 1000)
        price = cost(
            Plan.chain((subnet["r"], subnet["r"], 3), imported_config(config, tmp_path, subnet["r"]).chain)
        )
        assert round(price.macs / 1e6, 2) == subnet["macs"], subnet["name"]
        assert round(price.params / 1e6, 3) == subnet["params"], subnet["name"]


@pytest.mark.parametrize("family", ["mbv3", "proxyless"])
def test_a_specialised_network_computes_what_its_tensors_say(tmp_path: Path, family: str) -> None:
    stages = STAGES + ([[[5, 4]]] if family == "proxyless" else [])
    fixed = imported_config(mobile_config(family, 16 if family == "mbv3" else 40, stages, 5), tmp_path, 64)
    state = random_state(specialised_shapes(fixed))
    found = read_specialised(saved(state, tmp_path / "init"), fixed)
    expected = mobile_forward(state, family, stages, images(), elastic=False)
    assert_same(forward(found, largest(fixed), images()), expected)
    table = constant_table(fixed, found.statistics)
    subnet = extract(found.network, largest(fixed), table.lookup(largest(fixed)))
    assert_same(subnet(images()).detach(), expected)


def specialised_shapes(fixed: FixedNetwork) -> dict[str, tuple[int, ...]]:
    """Names of the first release and shapes of a specialised network's tensors."""
    from bespoke.supernet.networks.chain import ChainSupernet

    network = ChainSupernet.empty(fixed)
    parameters = {name: tuple(p.shape) for name, p in network.named_parameters()}
    widths = {site: (width,) for op in fixed.chain for site, width in norm_sites(op)}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, target in official_names(fixed, old=True).items():
        known = parameters if target.role == "parameter" else widths
        shapes[name] = () if target.role == "count" else known[target.name]
    return shapes


# What is refused


@pytest.fixture(scope="module")
def tiny_state() -> State:
    """OFA-MobileNetV3 w1.0 with four classes, by its own name table."""
    from bespoke.supernet.networks.chain import ChainSupernet

    made = space("ofa-mobilenetv3-w1.0", (64,), 4)
    parameters = {name: tuple(p.shape) for name, p in ChainSupernet.empty(made).named_parameters()}
    widest = made.plan(largest(made)).ops
    widths = {site: (width,) for op in widest for site, width in norm_sites(op)}
    return random_state(
        {
            name: () if t.role == "count" else (parameters | widths)[t.name]
            for name, t in official_names(made).items()
        }
    )


DEPTH = "blocks.3.conv.depth_conv"
WRONG: dict[str, tuple[Callable[[State], object], str]] = {
    "a missing tensor": (lambda s: s.pop(f"{DEPTH}.conv.7to5_matrix"), r"lacks 1 tensors: blocks\.3.*7to5"),
    "a left-over tensor": (lambda s: s.update({"extra": torch.ones(1)}), "left over 1 tensors: extra"),
    "another name": (lambda s: s.update({"x": s.pop("first_conv.bn.bias")}), "lacks.*first_conv.*over.*x"),
    "another shape": (
        lambda s: s.update({f"{DEPTH}.bn.bn.bias": torch.ones(5)}), r"depth_conv\.bn\.bn\.bias.*\(5,\)"
    ),
    "an infinite value": (
        lambda s: s.update({"first_conv.bn.weight": torch.full((16,), torch.inf)}), r"first_conv\.bn\.weight"
    ),
    "whole numbers": (
        lambda s: s.update({"first_conv.bn.weight": torch.ones(16, dtype=torch.int64)}), "int64"
    ),
    "a negative variance": (
        lambda s: s.update({"first_conv.bn.running_var": torch.full((16,), -1.0)}), "running_var.*below 0"
    ),
    "a sparse tensor": (
        lambda s: s.update({"first_conv.bn.weight": torch.ones(16).to_sparse()}), "first_conv.*dense"
    ),
    "another width": (
        lambda s: s.update({"first_conv.conv.weight": torch.ones(20, 3, 3, 3)}), "20 channels.*16, 24"
    ),
    "another network": (lambda s: [s.pop(name) for name in list(s)[:-2]], "net.config"),
    "no network": (lambda s: s.clear(), "no published network"),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(WRONG))
def test_a_wrong_tensor_is_named_and_nothing_is_loaded(tiny_state: State, tmp_path: Path, what: str) -> None:
    spoil, message = WRONG[what]
    state = dict(tiny_state)
    spoil(state)
    with pytest.raises(FileInvalid, match=message):
        read_supernet(saved(state, tmp_path / "net"))


def test_a_right_file_with_other_classes_is_read(tiny_state: State, tmp_path: Path) -> None:
    assert read_supernet(saved(tiny_state, tmp_path / "net"), (64,)).network.space.classes == 4


@pytest.mark.parametrize(("family", "eps"), [("mbv3", 1e-5), ("proxyless", 1e-3)])
def test_a_network_whose_configuration_tells_no_bn_has_that_of_its_family(
    tmp_path: Path, family: str, eps: float
) -> None:
    config = mobile_config(family, 16, STAGES + ([[[5, 4]]] if family == "proxyless" else []), 10)
    del config["bn"]
    ops = imported_config(config, tmp_path, 64).chain
    assert {op.norm_eps for op in ops if op.kind in ("conv", "mbconv")} == {eps}


class Foreign:
    """Runs code when it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_foreign_code_is_refused_and_never_runs(tmp_path: Path, legacy: bool) -> None:
    path, proof = tmp_path / "net", tmp_path / "it-ran"
    torch.save({"state_dict": Foreign(proof)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        FileInvalid, match=f"holds more than tensors: {os.system.__module__}.system, which is code"
    ):
        read_supernet(path)
    assert not proof.exists()


def test_a_file_that_is_cut_off_or_something_else_is_refused(tiny_state: State, tmp_path: Path) -> None:
    whole = saved(tiny_state, tmp_path / "net").read_bytes()
    for number, content in enumerate([whole[: len(whole) // 2], whole[:100], b"", b"<html>404</html>"]):
        path = tmp_path / f"cut-{number}"
        path.write_bytes(content)
        with pytest.raises(FileInvalid, match="is no readable torch file"):
            read_supernet(path)
    with pytest.raises(FileInvalid, match="no such file"):
        read_supernet(tmp_path / "absent")
    torch.save({"state_dict": {"a": [1, 2]}}, tmp_path / "lists")
    with pytest.raises(FileInvalid, match="'a', which is a list"):
        read_supernet(tmp_path / "lists")


BAD_CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another family": (lambda c: c.update(name="VGG"), "VGG"),
    "a field missing": (lambda c: c.pop("classifier"), "classifier"),
    "groups": (lambda c: c["first_conv"].update(groups=2), "first_conv: groups is 2"),
    "channels that do not follow": (
        lambda c: c["blocks"][2]["mobile_inverted_conv"].update(in_channels=99), "blocks.2: in_channels is 99"
    ),
    "an even kernel": (lambda c: c["first_conv"].update(kernel_size=4), "kernel_size 4"),
    "an activation": (
        lambda c: c["first_conv"].update(act_func="swish"), "first_conv: act_func is 'swish', expected"
    ),
    "a width that is none": (lambda c: c["classifier"].update(out_features=-1), "classifier.*below 1"),
    "an infinite width": (lambda c: c["first_conv"].update(out_channels=math.inf), "no network"),
    "a shortcut that changes what it adds": (
        lambda c: c["blocks"][0]["shortcut"].update(name="ConvLayer"), "blocks.0: shortcut: name is"
    ),
    "a shortcut over a stride": (
        lambda c: c["blocks"][1].update(shortcut={"name": "IdentityLayer"}), "blocks.1: its shortcut"
    ),
    "no blocks": (lambda c: c.update(blocks=3), "no network that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(BAD_CONFIGS))
def test_a_configuration_that_our_ops_cannot_do_is_refused(tmp_path: Path, what: str) -> None:
    spoil, message = BAD_CONFIGS[what]
    config = mobile_config("mbv3", 16, STAGES, 5)
    spoil(config)
    with pytest.raises(FileInvalid, match=message):
        imported_config(config, tmp_path, 64)


def test_a_residual_stem_without_its_shortcut_is_refused(tmp_path: Path) -> None:
    config = resnet_config(5)
    config["input_stem"][1]["shortcut"] = None
    with pytest.raises(FileInvalid, match=r"input_stem\.1: shortcut is None"):
        imported_config(config, tmp_path, 64)


def test_a_specialised_file_of_another_network_is_refused(tmp_path: Path) -> None:
    fixed = imported_config(mobile_config("mbv3", 16, STAGES, 5), tmp_path, 64)
    state = random_state(specialised_shapes(fixed))
    other = imported_config(mobile_config("mbv3", 16, [*STAGES[:4], STAGES[4][:2]], 5), tmp_path, 64)
    with pytest.raises(FileInvalid, match=r"left over.*blocks\.14"):
        read_specialised(saved(state, tmp_path / "init"), other)
