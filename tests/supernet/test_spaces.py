"""Behaviour that every space has, and what sets the published ones apart."""

import json

import numpy as np
import pytest

from bespoke.supernet.architecture import canonical, cardinalities, decode, encode, read_architecture
from bespoke.supernet.errors import ArchitectureInvalid, InvalidInput
from bespoke.supernet.genomes import extremes, largest, sample, smallest
from bespoke.supernet.spaces import SPACES, FixedNetwork, OfaProxyless, OfaResNet50, space, space_from_json

NAMES = sorted(SPACES)


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_survives_its_json_and_its_genome(name: str) -> None:
    made = space(name, (64, 96), 7)
    genomes = np.concatenate([extremes(made), sample(made, 20, np.random.default_rng(0))])
    for genome in genomes:
        architecture = decode(made, genome)
        assert read_architecture(made, json.loads(json.dumps(architecture.to_json()))) == architecture
        np.testing.assert_array_equal(encode(made, [architecture])[0], genome)


@pytest.mark.parametrize("name", NAMES)
def test_inactive_genes_change_no_plan_and_active_ones_change_every_plan(name: str) -> None:
    made = space(name, (64, 96), 7)
    rng = np.random.default_rng(1)
    genomes = sample(made, 12, rng)
    sizes, active = cardinalities(made), made.active(genomes)
    plans = [made.plan(decode(made, genome)) for genome in genomes]
    for n, gene in [(n, int(g)) for n in range(len(genomes)) for g in rng.permutation(len(sizes))[:12]]:
        other = genomes[n].copy()
        other[gene] = (other[gene] + 1) % sizes[gene]
        same = made.plan(decode(made, canonical(made, other[None])[0])) == plans[n]
        assert same != active[n, gene]


@pytest.mark.parametrize("name", NAMES)
def test_resolutions_and_classes_that_no_network_has_are_refused(name: str) -> None:
    for resolutions, classes in [((), 10), ((64, 32), 10), ((64, 64), 10), ((4,), 10), ((64,), 0)]:
        with pytest.raises(InvalidInput, match="expected"):
            space(name, resolutions, classes)


def test_proxyless_has_twenty_one_blocks_and_a_larger_epsilon() -> None:
    made = OfaProxyless(1.3, (224,))
    assert [(d.name, d.count) for d in made.dimensions] == [
        ("kernel", 21), ("expand", 21), ("depth", 5), ("resolution", 1)
    ]  # fmt: skip
    ops = made.plan(largest(made)).ops
    assert [op.out_channels for op in ops if op.kind == "mbconv" and not op.skip] == [
        24, 32, 56, 104, 128, 248, 416
    ]  # fmt: skip
    assert {op.norm_eps for op in ops if op.kind in ("conv", "mbconv")} == {1e-3}
    assert not any(op.se for op in ops)
    assert ops[-3].in_shape == (7, 7, 416)
    with pytest.raises(InvalidInput, match="width"):
        OfaProxyless(0.01, (224,))


def test_resnet50_keeps_its_first_blocks_and_may_leave_out_the_residual_of_its_stem() -> None:
    made = OfaResNet50((224,))
    names = {op.name for op in made.plan(smallest(made)).ops}
    assert "input_stem.1" not in names
    blocks = [int(name.split(".")[1]) for name in names if name.startswith("blocks")]
    assert sorted(blocks) == [0, 1, 4, 5, 8, 9, 10, 11, 14, 15]
    full = made.plan(largest(made)).ops
    assert "input_stem.1" in {op.name for op in full}
    assert [op.name for op in full if op.downsamples] == ["blocks.0", "blocks.4", "blocks.8", "blocks.14"]
    assert full[-2].in_shape == (7, 7, 2048)
    with pytest.raises(ArchitectureInvalid, match=r"expand\[3\].*0\.25"):
        read_architecture(made, largest(made).to_json() | {"expand": [0.2] * 3 + [0.3] + [0.2] * 14})


def test_a_fixed_network_is_a_space_of_one() -> None:
    tiny = space("ofa-proxyless-w1.3", (64,), 7)
    ops = tiny.plan(smallest(tiny)).ops
    fixed = FixedNetwork("small", ops)
    assert space_from_json(json.loads(json.dumps(fixed.to_json()))) == fixed
    assert smallest(fixed) == largest(fixed)
    assert fixed.plan(smallest(fixed)) == tiny.plan(smallest(tiny))
    assert fixed.classes == 7
    with pytest.raises(InvalidInput, match="takes images of 64"):
        space_from_json(fixed.to_json() | {"resolutions": [96]})
    with pytest.raises(InvalidInput, match=r"blocks\.0 gives"):
        FixedNetwork("hole", ops[:2] + ops[3:])
