import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bespoke.supernet.architecture import (
    Architecture,
    Plan,
    Route,
    Segment,
    canonical,
    decode,
    encode,
    read_architecture,
)
from bespoke.supernet.cost import cost
from bespoke.supernet.errors import ArchitectureInvalid, InvalidInput, NotFound
from bespoke.supernet.genomes import random_architecture
from bespoke.supernet.ops import Op
from bespoke.supernet.spaces import SPACES, space, space_from_json

SPACE = space("ofa-mobilenetv3-w1.0", (128, 160, 192), 10)


def choices() -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries(
        {
            "kernel": st.lists(st.sampled_from((3, 5, 7)), min_size=20, max_size=20),
            "expand": st.lists(st.sampled_from((3, 4, 6)), min_size=20, max_size=20),
            "depth": st.lists(st.sampled_from((2, 3, 4)), min_size=5, max_size=5),
            "resolution": st.sampled_from((128, 160, 192)),
        }
    )


@settings(max_examples=50, deadline=None)
@given(choices())
def test_json_and_genome_round_trip(data: dict[str, object]) -> None:
    architecture = read_architecture(SPACE, data)
    assert read_architecture(SPACE, json.loads(json.dumps(architecture.to_json()))) == architecture
    assert decode(SPACE, encode(SPACE, [architecture])[0]) == architecture
    assert architecture.resolution == data["resolution"]
    assert list(architecture["depth"]) == data["depth"]


@settings(max_examples=50, deadline=None)
@given(choices(), choices())
def test_choices_of_skipped_blocks_change_neither_id_nor_hash_nor_price(
    data: dict[str, list[int]], other: dict[str, list[int]]
) -> None:
    changed = json.loads(json.dumps(data))
    for block in range(20):
        if block % 4 >= data["depth"][block // 4]:
            changed["kernel"][block], changed["expand"][block] = (
                other["kernel"][block],
                other["expand"][block],
            )
    one, two = read_architecture(SPACE, data), read_architecture(SPACE, changed)
    assert (one, hash(one), one.id, one.digest) == (two, hash(two), two.id, two.digest)
    assert cost(SPACE.plan(one)) == cost(SPACE.plan(two))


def test_different_networks_have_different_ids() -> None:
    rng = np.random.default_rng(0)
    genomes = np.unique(canonical(SPACE, rng.integers(0, 3, (2000, 46)).astype(np.int16)), axis=0)
    architectures = [decode(SPACE, genome) for genome in genomes]
    assert len({a.digest for a in architectures}) == len({a.id for a in architectures}) == len(genomes)


def test_the_id_is_stable_and_belongs_to_the_space() -> None:
    data = {"kernel": [3] * 20, "expand": [3] * 20, "depth": [2] * 5, "resolution": 128}
    one = read_architecture(SPACE, data)
    assert one.id == one.digest[:16]
    assert one.digest == Architecture(one.space, one.choices).digest
    assert one.digest != read_architecture(space("ofa-mobilenetv3-w1.2", (128,), 10), data).digest


GOOD = {"kernel": [3] * 20, "expand": [3] * 20, "depth": [2] * 5, "resolution": 128}


@pytest.mark.parametrize(
    ("change", "field", "got", "allowed"),
    [
        ({"kernel": [3] * 4 + [9] + [3] * 15}, "kernel[4]", 9, "[3, 5, 7]"),
        ({"expand": [3] * 19 + ["6"]}, "expand[19]", "6", "[3, 4, 6]"),
        ({"depth": [2, 2, 2, 2]}, "depth", [2, 2, 2, 2], "5 numbers"),
        ({"depth": [True] * 5}, "depth[0]", True, "[2, 3, 4]"),
        ({"kernel": 3}, "kernel", 3, "20 numbers"),
        ({"kernel": "3" * 20}, "kernel", "3" * 20, "20 numbers"),
        ({"kernel": None}, "kernel", None, "20 numbers"),
        ({"kernel": [[3]] * 20}, "kernel[0]", [3], "[3, 5, 7]"),
        ({"resolution": 130}, "resolution", 130, "[128, 160, 192]"),
        ({"resolution": [128]}, "resolution", [128], "[128, 160, 192]"),
        ({"width": 1.0}, "width", 1.0, "kernel, expand, depth, resolution"),
    ],
)
def test_an_invalid_value_names_field_what_came_and_what_is_allowed(
    change: dict[str, object], field: str, got: object, allowed: str
) -> None:
    with pytest.raises(ArchitectureInvalid) as caught:
        read_architecture(SPACE, GOOD | change)
    assert (caught.value.field, caught.value.got) == (field, got)
    assert allowed in caught.value.allowed
    assert all(word in str(caught.value) for word in (field, repr(got), allowed))


def test_missing_fields_and_other_things_are_refused() -> None:
    with pytest.raises(ArchitectureInvalid, match="depth"):
        read_architecture(SPACE, {name: value for name, value in GOOD.items() if name != "depth"})
    with pytest.raises(ArchitectureInvalid, match="an object"):
        read_architecture(SPACE, [1, 2])  # type: ignore[arg-type]
    with pytest.raises(ArchitectureInvalid, match="genome"):
        decode(SPACE, np.full(46, 3))
    with pytest.raises(ArchitectureInvalid, match="shape"):
        decode(SPACE, np.zeros(45, np.int16))
    other = read_architecture(space("ofa-mobilenetv3-w1.2", (128,), 10), GOOD)
    with pytest.raises(ArchitectureInvalid, match="space"):
        encode(SPACE, [other])


@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_space_round_trips_and_lowers_to_a_chain(name: str) -> None:
    made = space(name, (32, 64), 10)
    assert space_from_json(json.loads(json.dumps(made.to_json()))) == made
    assert made.name == name
    architecture = random_architecture(made, np.random.default_rng(0))
    plan = made.plan(architecture)
    assert [route.segments for route in plan.routes] == [(0,)]
    side = (architecture.resolution, architecture.resolution, 3)
    for i, op in enumerate(plan.ops):
        assert op.inputs == ((i - 1,) if i else (~0,))
        assert op.in_shape == side
        assert not op.skip or op.in_shape == op.out_shape
        side = op.out_shape
    assert side == (1, 1, 10)


def test_depth_says_how_many_blocks_a_stage_keeps() -> None:
    architecture = read_architecture(SPACE, GOOD | {"depth": [2, 3, 4, 2, 3]})
    assert len(SPACE.plan(architecture).ops) == 2 + 14 + 4


def test_the_cifar_stem_keeps_small_images_large() -> None:
    def sides(name: str) -> list[int]:
        made = space(name, (32,), 10)
        plan = made.plan(read_architecture(made, GOOD | {"resolution": 32}))
        return [op.out_shape[0] for op in plan.ops]

    assert sides("ofa-mobilenetv3-w1.0")[:4] == [16, 16, 8, 8]
    assert sides("ofa-mobilenetv3-w1.0-cifar")[:4] == [32, 32, 32, 32]
    assert sides("ofa-mobilenetv3-w1.0")[-5] == 1
    assert sides("ofa-mobilenetv3-w1.0-cifar")[-5] == 4


def test_unknown_spaces_and_impossible_ones_are_refused() -> None:
    with pytest.raises(NotFound, match=r"ofa-mobilenetv3-w1\.0"):
        space("resnet")
    for resolutions in ((), (160, 128), (128, 128), (4,), (4096,)):
        with pytest.raises(InvalidInput):
            space("ofa-mobilenetv3-w1.0", resolutions)
    with pytest.raises(InvalidInput):
        space("ofa-mobilenetv3-w1.0", (128,), 0)
    with pytest.raises(NotFound):
        space_from_json({"family": "unknown"})
    with pytest.raises(InvalidInput, match="fields"):
        space_from_json({"family": "ofa_mobilenetv3", "depth": 3})


def head_and_tails() -> Plan:
    """A head and two tails of different width behind a gate: how slimmable routed networks run."""
    head = Segment("head", (Op("conv", (8, 8, 3), 4, 3),))
    narrow = Segment(
        "narrow", (Op("conv", (8, 8, 4), 4, 3), Op("linear", (1, 1, 4), 2, inputs=(0,))), ((0, 0),)
    )
    wide = Segment(
        "wide", (Op("conv", (8, 8, 4), 16, 3), Op("linear", (1, 1, 16), 2, inputs=(0,))), ((0, 0),)
    )
    return Plan((8, 8, 3), (head, narrow, wide), (Route("narrow", (0, 1)), Route("wide", (0, 2))))


def chain_with_exits() -> Plan:
    """Three segments, each with an exit of its own: how boosted networks run."""
    segments = []
    for i in range(3):
        body = Op("conv", (8, 8, 3 if i == 0 else 4), 4, 3)
        way_out = Op("linear", (1, 1, 4), 2, inputs=(0,))
        source = (-1, 0) if i == 0 else (i - 1, 0)
        segments.append(Segment(f"stage{i}", (body, way_out), (source,), outputs=(0, -1)))
    routes = tuple(Route(f"exit{i}", tuple(range(i + 1))) for i in range(3))
    return Plan((8, 8, 3), tuple(segments), routes)


def test_inputs_of_segments_lead_back_to_the_op_that_makes_them() -> None:
    plan = head_and_tails()
    assert plan.origin(0, 0) == (-1, 0)
    assert plan.origin(1, 0) == plan.origin(2, 0) == (0, 0)
    chain = chain_with_exits()
    assert [chain.origin(i, 0) for i in range(3)] == [(-1, 0), (0, 0), (1, 0)]
    assert len(chain.ops) == 6


def test_a_routed_plan_costs_its_dearest_route_and_carries_all_weights() -> None:
    price = cost(head_and_tails())
    head, narrow, wide = 8 * 8 * 3 * 4 * 9, 8 * 8 * 4 * 4 * 9 + 4 * 2, 8 * 8 * 4 * 16 * 9 + 16 * 2
    assert price.macs == head + wide > head + narrow
    # Weights and BN of three convolutions, weights and biases of two exits.
    weights = [3 * 4 * 9, 4 * 4 * 9, 4 * 2, 4 * 16 * 9, 16 * 2]
    assert price.params == sum(weights) + 2 * (4 + 4 + 16) + 2 + 2
    assert price.model_size_bytes == 4 * (sum(weights) + 4 + 4 + 16 + 2 + 2)
    assert price.peak_memory_bytes == 4 * 8 * 8 * (4 + 16)


def test_every_exit_passed_on_the_way_is_paid() -> None:
    body, way_out = 8 * 8 * 4 * 4 * 9, 4 * 2
    assert cost(chain_with_exits()).macs == 8 * 8 * 3 * 4 * 9 + 2 * body + 3 * way_out
