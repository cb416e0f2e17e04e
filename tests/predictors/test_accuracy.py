import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from bespoke.predictors import (
    Encoding,
    Layer,
    MlpPredictor,
    ResolutionBins,
    accuracy,
    default_encoding,
    read_predictor,
)
from bespoke.predictors.blas import one_thread
from bespoke.supernet.architecture import decode, gene_offsets
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.genomes import sample
from bespoke.supernet.spaces import space as make_space

SPACE = make_space("ofa-mobilenetv3-w1.0", (96, 112, 128), 10)


def some_predictor(networks: int = 2, seed: int = 0, width: int = 40) -> MlpPredictor:
    rng = np.random.default_rng(seed)
    encoding = default_encoding(SPACE)
    _, features = encoding.features(SPACE)

    def layer(inputs: int, outputs: int) -> Layer:
        weight = rng.normal(0, 1 / np.sqrt(inputs), (inputs, outputs)).astype(np.float32)
        return Layer(weight, rng.normal(0, 0.1, outputs).astype(np.float32))

    members = tuple((layer(features, width), layer(width, 24), layer(24, 1)) for _ in range(networks))
    return MlpPredictor(SPACE, encoding, members, 0.01, {"kendall_tau": 0.9})


def by_hand(predictor: MlpPredictor, genome: np.ndarray) -> float:
    """The prediction from the architecture's own values, in float64, without any look-up table."""
    architecture = decode(SPACE, genome)
    features = []
    for name in ("kernel", "expand"):
        dimension = next(d for d in SPACE.dimensions if d.name == name)
        for block, value in enumerate(architecture[name]):
            on = block % 4 < architecture["depth"][block // 4]
            features += [float(on and value == choice) for choice in dimension.choices]
    features += [float(architecture.resolution == side) for side in (96, 112, 128)]
    outputs = []
    for network in predictor.networks:
        values = np.array(features)
        for layer in network[:-1]:
            values = np.maximum(values @ layer.weight.astype(np.float64) + layer.bias, 0)
        outputs.append(float((values @ network[-1].weight + network[-1].bias)[0]))
    return float(np.mean(outputs))


def test_prediction_equals_the_networks_written_out() -> None:
    predictor = some_predictor()
    genomes = sample(SPACE, 50, np.random.default_rng(1))
    expected = [by_hand(predictor, genome) for genome in genomes]
    np.testing.assert_allclose(predictor.top1(genomes), expected, atol=1e-6)


def test_choices_of_skipped_blocks_do_not_change_the_prediction() -> None:
    predictor = some_predictor()
    genomes = sample(SPACE, 20, np.random.default_rng(2))
    changed = np.where(SPACE.active(genomes), genomes, 2).astype(np.int16)
    assert (changed != genomes).any()
    np.testing.assert_array_equal(predictor.top1(changed), predictor.top1(genomes))


@pytest.mark.parametrize("width", [40, 400])
@pytest.mark.parametrize("count", [0, 1, 2, 31, 33, 600, 1200])
def test_a_row_is_predicted_alike_wherever_it_stands_in_a_batch(count: int, width: int) -> None:
    predictor = some_predictor(width=width)
    genomes = sample(SPACE, 1200, np.random.default_rng(3))
    np.testing.assert_array_equal(predictor.top1(genomes[:count]), predictor.top1(genomes)[:count])


def test_a_row_is_predicted_alike_on_one_thread_and_on_two() -> None:
    predictor, genomes = some_predictor(width=400), sample(SPACE, 100, np.random.default_rng(3))
    found = []
    for threads in (1, 2):
        with ThreadpoolController().select(user_api="blas").limit(limits=threads):
            found.append(predictor.top1(genomes))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("shape", [(129, 400), (64, 24)])
def test_every_place_of_a_tile_is_computed_alike_by_this_blas(shape: tuple[int, int]) -> None:
    rows = accuracy.rows_of_a_tile(frozenset({shape}))
    rng = np.random.default_rng(4)
    x, weight = rng.normal(size=(rows, shape[0])), rng.normal(size=shape)
    with one_thread():
        product = x.astype(np.float32) @ weight.astype(np.float32)
        for step in range(rows):
            moved = np.roll(x, step, axis=0).astype(np.float32) @ weight.astype(np.float32)
            np.testing.assert_array_equal(moved, np.roll(product, step, axis=0))


def test_gains_are_the_effect_of_a_choice_to_first_order() -> None:
    predictor = some_predictor()
    genome = sample(SPACE, 1, np.random.default_rng(4))
    table, count = predictor.encoding.features(SPACE)
    gains = predictor.gains(genome)[0]
    assert gains.shape == (46, 3)
    kernel = gene_offsets(SPACE)["kernel"]
    step = 1e-3
    nudged = []
    for sign in (1, -1):
        first = [
            Layer(n[0].weight, n[0].bias + sign * step * n[0].weight[table[kernel, 1]])
            for n in predictor.networks
        ]
        networks = tuple((f, *n[1:]) for f, n in zip(first, predictor.networks, strict=True))
        moved = MlpPredictor(SPACE, predictor.encoding, networks, 0.0)
        nudged.append(by_hand(moved, genome[0]))
    assert gains[kernel, 1] == pytest.approx((nudged[0] - nudged[1]) / (2 * step), rel=2e-3, abs=1e-6)
    depth = gene_offsets(SPACE)["depth"]
    assert table[depth, 0] == count
    assert not gains[depth : depth + 5].any()


def test_a_reader_waits_for_the_second_file_of_a_predictor_that_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = some_predictor(), some_predictor(seed=1)
    before.save(tmp_path / "predictor.json")
    after.save(tmp_path / "next.json")
    (tmp_path / "next.safetensors").replace(tmp_path / "predictor.safetensors")

    def write_the_rest(pause_s: float) -> None:
        if pause_s and (tmp_path / "next.json").exists():
            (tmp_path / "next.json").replace(tmp_path / "predictor.json")

    monkeypatch.setattr(accuracy, "sleep", write_the_rest)
    assert read_predictor(tmp_path, SPACE).revision == after.revision


def test_saved_and_read_back_it_predicts_the_same(tmp_path: Path) -> None:
    predictor = some_predictor()
    predictor.save(tmp_path / "predictor.json")
    for path in (tmp_path, tmp_path / "predictor.json"):
        read = read_predictor(path, SPACE)
        genomes = sample(SPACE, 40, np.random.default_rng(5))
        np.testing.assert_array_equal(read.top1(genomes), predictor.top1(genomes))
        assert (read.revision, read.half_width) == (predictor.revision, 0.01)
    assert some_predictor(seed=1).revision != predictor.revision


def test_fewer_resolutions_are_predicted_alike(tmp_path: Path) -> None:
    predictor = some_predictor()
    predictor.save(tmp_path / "predictor.json")
    narrow = make_space("ofa-mobilenetv3-w1.0", (112,), 10)
    genomes = sample(narrow, 10, np.random.default_rng(6))
    wide = genomes.copy()
    wide[:, -1] = 1
    np.testing.assert_array_equal(read_predictor(tmp_path, narrow).top1(genomes), predictor.top1(wide))


def test_another_space_is_refused(tmp_path: Path) -> None:
    some_predictor().save(tmp_path / "predictor.json")
    with pytest.raises(InvalidInput, match="classes"):
        read_predictor(tmp_path, make_space("ofa-mobilenetv3-w1.0", (96,), 1000))
    with pytest.raises(InvalidInput, match="width"):
        read_predictor(tmp_path, make_space("ofa-mobilenetv3-w1.2", (96,), 10))
    with pytest.raises(InvalidInput, match="resolution 160"):
        read_predictor(tmp_path, make_space("ofa-mobilenetv3-w1.0", (96, 160), 10))


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "predictor.json"
    with pytest.raises(FileInvalid, match="cannot be read"):
        read_predictor(path, SPACE)
    some_predictor().save(path)
    other = tmp_path / "other.json"
    some_predictor(seed=1).save(other)
    other.with_suffix(".safetensors").replace(path.with_suffix(".safetensors"))
    with pytest.raises(FileInvalid, match="not those"):
        read_predictor(path, SPACE)
    path.write_text(json.dumps({"format": "something else"}))
    with pytest.raises(FileInvalid, match="expected a predictor"):
        read_predictor(path, SPACE)
    path.with_suffix(".safetensors").write_bytes(b"no tensors")
    some_header = json.loads(other.read_text())
    path.write_text(json.dumps(some_header))
    with pytest.raises(FileInvalid, match="damaged"):
        read_predictor(path, SPACE)


def test_layers_that_do_not_fit_are_refused() -> None:
    wrong = (Layer(np.zeros((7, 4), np.float32), np.zeros(4, np.float32)),) * 2
    with pytest.raises(InvalidInput, match="expected two or more, 123 to 1"):
        MlpPredictor(SPACE, default_encoding(SPACE), (wrong,), 0.0)


def test_resolution_bins_hold_their_width_and_nothing_else() -> None:
    bins = ResolutionBins((112, 128), 16)
    assert [bins.index(side) for side in (112, 127, 128, 143)] == [0, 0, 1, 1]
    with pytest.raises(InvalidInput, match="resolution 144"):
        bins.index(144)
    assert Encoding.from_json(Encoding(("kernel",), bins).to_json()) == Encoding(("kernel",), bins)


def test_inference_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import bespoke.predictors"
    subprocess.run([sys.executable, "-c", code], check=True)
