"""Published Once-for-All tables."""

import json
from pathlib import Path

import numpy as np
import pytest

from bespoke.latency_tables import covered_space, read_official, read_table
from bespoke.latency_tables.official import key_of, op_of
from bespoke.supernet.architecture import decode, read_architecture
from bespoke.supernet.cost import op_macs
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.genomes import largest, sample, smallest
from bespoke.supernet.spaces import space

SPACE = space("ofa-mobilenetv3-w1.2")


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("Conv-input:160x160x3-output:80x80x24", "v1:conv:k3:in160x160x3:out24:s2:hswish"),
        ("Conv_1-input:7x7x192-output:7x7x1152", "v1:conv:k1:in7x7x192:out1152:s1:hswish"),
        ("Conv_2-input:1x1x1152-output:1x1x1536", "v1:conv:k1:in1x1x1152:out1536:s1:plain:hswish"),
        ("AvgPool2D-input:7x7x1152-output:1x1x1152", "v1:pool:in7x7x1152:out1152"),
        ("Logits-input:1x1x1536-output:1000", "v1:linear:in1x1x1536:out1000"),
        (
            "expanded_conv-input:28x28x48-output:14x14x96-expand:144-kernel:5-stride:2-idskip:0-se:0-hs:1",
            "v1:mbconv:k5:in28x28x48:mid144:out96:s2:hswish",
        ),
        (
            "expanded_conv-input:28x28x48-output:28x28x48-expand:144-kernel:3-stride:1-idskip:1-se:1-hs:0",
            "v1:mbconv:k3:in28x28x48:mid144:out48:s1:se:relu:skip",
        ),
    ],
)
def test_published_keys_become_ours(published: str, ours: str) -> None:
    op = op_of(published)
    assert op is not None
    assert op.key == ours


def test_the_reference_latency_is_met(note10: Path) -> None:
    table = read_table([note10])
    samples = json.loads((note10.parent / "reference_values.json").read_text())["samples"]
    checked = 0
    for one in samples:
        arch = one["arch"]
        if arch["r"][0] not in table.covered_resolutions(SPACE):
            continue
        data = {"kernel": arch["ks"], "expand": arch["e"], "depth": arch["d"], "resolution": arch["r"][0]}
        plan = SPACE.plan(read_architecture(SPACE, data))
        assert table.predict(plan) == pytest.approx(one["note10_ms"], abs=1e-6)
        checked += 1
    assert checked


def test_each_resolution_is_priced_by_its_own_file(note10: Path) -> None:
    """The 1x1 ops are timed again in every file, and differ."""
    files = sorted(note10.glob("*.yaml"))
    merged = read_official(files)
    inside = covered_space(merged, SPACE)
    genomes = sample(inside, 60, np.random.default_rng(0))
    priced = merged.pricer(inside).latency_ms(genomes)
    alone = {
        r: table
        for table in map(read_official, ([f] for f in files))
        for r in table.covered_resolutions(SPACE)
    }
    for genome, ms in zip(genomes, priced, strict=True):
        architecture = decode(inside, genome)
        assert ms == pytest.approx(
            alone[architecture.resolution].predict(inside.plan(architecture)), abs=1e-9
        )


def test_the_extremes_are_the_published_ones(note10: Path) -> None:
    table = read_table([note10])
    for resolution, low, high in ((160, 9.89, 47.77), (192, 13.33, 67.56), (224, 17.77, 92.40)):
        ends = (smallest(SPACE, resolution), largest(SPACE, resolution))
        assert [round(table.predict(SPACE.plan(a)), 2) for a in ends] == pytest.approx([low, high], abs=0.011)


def test_a_published_table_claims_no_quality(note10: Path) -> None:
    table = read_table([note10 / "160_lookup_table.yaml"])
    assert table.quality is None
    assert (table.profile.device, table.profile.threads) == ("note10", 0)
    assert table.covered_resolutions(SPACE) == (160,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", "key to {count, mean, std}"),
        ("a: [\n", "published Once-for-All latency table"),
        ("Unknown-input:1x1x1: {mean: 1.0, count: 3}\n", "Unknown-input"),
        ("Conv-input:160x160x3-output:80x80x24: {mean: fast, count: 3}\n", "mean in ms"),
        ("Logits-input:1x1x1536-output:1000: {mean: 1.0, count: 3}\n", "whose side is the resolution"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(FileInvalid, match=message):
        read_table([path])


def test_two_files_of_one_resolution_are_refused(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("Conv-input:160x160x3-output:80x80x24: {mean: 0.5, count: 3}\n")
    with pytest.raises(FileInvalid, match="second table for input resolution 160"):
        read_table([tmp_path])


def test_files_in_different_units_are_refused(tmp_path: Path) -> None:
    for resolution, unit in ((160, 1), (192, 1000)):
        ops = {
            op.key: op for slot in space("ofa-mobilenetv3-w1.2", (resolution,)).slots for op in slot.ops if op
        }
        entries = {key_of(op): {"count": 3, "mean": unit * (0.01 + op_macs(op) / 1e9)} for op in ops.values()}
        (tmp_path / f"{resolution}.yaml").write_text(json.dumps(entries))
        read_table([tmp_path / f"{resolution}.yaml"])
    with pytest.raises(FileInvalid, match=r"192\.yaml.* another unit"):
        read_table([tmp_path])


def test_aliases_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "160.yaml"
    lists = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    stem = "Conv-input:160x160x3-output:80x80x24: {mean: *a11, count: 3}"
    path.write_text("\n".join(["a0: &a0 lol", *lists, stem]))
    with pytest.raises(FileInvalid, match="inside of what has a name itself"):
        read_official([path])
    pool, stem = "AvgPool2D-input:7x7x1152-output:1x1x1152", "Conv-input:160x160x3-output:80x80x24"
    path.write_text(f"{pool}: &same {{mean: 0.5, count: 3}}\n{stem}: *same\n")
    assert {stat.mean_ms for stat in read_official([path]).stats.values()} == {0.5}


def test_no_file_is_told() -> None:
    with pytest.raises(InvalidInput, match="got no file"):
        read_official([])
