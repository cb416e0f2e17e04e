import pytest

from bespoke.supernet.errors import OpKeyInvalid
from bespoke.supernet.ops import Op, make_divisible, parse_key
from bespoke.supernet.spaces import SPACES, space


@pytest.mark.parametrize("name", sorted(SPACES))
def test_the_key_of_every_op_of_every_space_round_trips(name: str) -> None:
    ops = {op for slot in space(name, (32, 128, 160, 236), 10).slots for op in slot.ops if op is not None}
    assert len(ops) > 300
    for op in ops:
        read = parse_key(op.key)
        assert read.key == op.key
        assert (read.out_shape, read.se_channels, read.expands) == (op.out_shape, op.se_channels, op.expands)
        assert read.downsamples == op.downsamples


@pytest.mark.parametrize("name", sorted(SPACES))
def test_equal_shapes_have_one_key_and_different_ones_different_keys(name: str) -> None:
    ops = [op for slot in space(name, (128, 160), 10).slots for op in slot.ops if op]
    by_key: dict[str, set[tuple[object, ...]]] = {}
    for op in ops:
        shape = (op.kind, op.in_shape, op.out_channels, op.kernel, op.stride, op.mid_channels, op.se,
                 op.activation, op.skip, op.norm)  # fmt: skip
        by_key.setdefault(op.key, set()).add(shape)
    assert all(len(shapes) == 1 for shapes in by_key.values())


def test_name_and_inputs_are_no_part_of_the_key() -> None:
    op = Op("conv", (8, 8, 3), 16, kernel=3, name="first_conv")
    assert op.placed(3).key == Op("conv", (8, 8, 3), 16, kernel=3, name="other").key


def test_the_text_of_a_key_is_stable() -> None:
    op = Op("mbconv", (28, 28, 40), 40, 5, 1, 160, True, "hswish", True)
    assert op.key == "v1:mbconv:k5:in28x28x40:mid160:out40:s1:se:hswish:skip"
    assert Op("conv", (1, 1, 960), 1280, activation="hswish", norm=False).key == (
        "v1:conv:k1:in1x1x960:out1280:s1:plain:hswish"
    )
    block = Op("bottleneck", (56, 56, 64), 256, 3, 1, 88, activation="relu")
    assert block.key == "v1:bottleneck:k3:in56x56x64:mid88:out256:s1:relu"
    assert Op("maxpool", (112, 112, 64), 64, 3, 2).key == "v1:maxpool:k3:in112x112x64:out64:s2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v2:conv:k3:in8x8x3:out16:s1",
        "v1:conv:k03:in8x8x3:out16:s1",
        "v1:conv:in8x8x3:out16:s1",
        "v1:teapot:in8x8x3:out16",
        "v1:pool:k3:in8x8x3:out16",
        "v1:maxpool:in8x8x3:out3:s2",
        "v1:bottleneck:k3:in8x8x8:out8:s1:relu",
        "v1:conv:k3:in8x8x3:out16:s1\n",
        "v1:conv:k3:in8x8x3:out16:s1:skip:se",
        "v1:conv:k3:in8x8x3:out16:s0",
        "v1:conv:k3:in0x8x3:out16:s1",
        "v1:mbconv:k3:in8x8x3:mid0:out16:s1:relu",
    ],
)
def test_texts_that_are_not_canonical_are_refused(text: str) -> None:
    with pytest.raises(OpKeyInvalid):
        parse_key(text)


def test_widths_round_as_the_papers_do() -> None:
    samples = {19.2: 24, 28.8: 32, 48: 48, 134.4: 136, 41.6: 40, 20.8: 24, 31.2: 32, 52: 56, 124.8: 128,
               249.6: 248, 51.2: 48, 166.4: 168, 332.8: 336, 665.6: 664, 1331.2: 1328, 60: 64}  # fmt: skip
    assert {value: make_divisible(value) for value in samples} == samples


def test_strides_halve_odd_sides_upwards() -> None:
    assert Op("conv", (15, 15, 3), 8, 3, 2).out_shape == (8, 8, 8)
    assert Op("pool", (7, 7, 960), 960).out_shape == (1, 1, 960)
