from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bespoke.predictors import GaussianPredictor, default_encoding, read_predictor
from bespoke.predictors.accuracy import LinearisedPredictor
from bespoke.predictors.gaussian import RATE
from bespoke.predictors.kriging import krige, uncertainty
from bespoke.supernet.architecture import canonical, encode
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.genomes import neighbours, sample, stratified
from bespoke.supernet.spaces import space as make_space

SPACE = make_space("ofa-mobilenetv3-w1.0", (96, 112, 128), 10)
TABLE, FEATURES = default_encoding(SPACE).features(SPACE)


def some_predictor(seed: int = 0, measured: int = 40) -> GaussianPredictor:
    rng = np.random.default_rng(seed)
    centres = rows(sample(SPACE, measured, rng)).astype(np.uint8)
    weights, rates = rng.normal(0, 0.01, measured), rng.integers(0, 800, FEATURES).astype(np.uint16)
    return GaussianPredictor(SPACE, default_encoding(SPACE), centres, weights, rates, 0.75, 0.01, {}, 0.002)


def rows(genomes: np.ndarray) -> np.ndarray:
    """One-hot features in plain loops."""
    active, found = SPACE.active(genomes), np.zeros((len(genomes), FEATURES + 1))
    for n, genome in enumerate(genomes):
        for gene, choice in enumerate(genome):
            if active[n, gene]:
                found[n, TABLE[gene, choice]] = 1
    return found[:, :-1]


def test_prediction_equals_the_formula_written_out() -> None:
    predictor, genomes = some_predictor(), sample(SPACE, 20, np.random.default_rng(1))
    for genome, predicted in zip(genomes, predictor.top1(genomes), strict=True):
        apart = (predictor.rates * (rows(genome[None]) - predictor.centres) ** 2).sum(axis=1)
        expected = 0.75 + (predictor.weights * np.exp(-apart / RATE)).sum()
        assert predicted == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 700])
def test_a_row_is_predicted_alike_wherever_it_stands_in_a_batch(count: int) -> None:
    predictor, genomes = some_predictor(), sample(SPACE, 1000, np.random.default_rng(3))
    np.testing.assert_array_equal(predictor.top1(genomes[:count]), predictor.top1(genomes)[:count])


def test_gains_tell_what_a_change_of_one_choice_does() -> None:
    predictor = some_predictor()
    assert isinstance(predictor, LinearisedPredictor)
    genome = canonical(SPACE, np.full((1, 46), 1, np.int16))[0]
    others, genes, choices = neighbours(SPACE, genome)
    same_depth = genes < 40
    gains = predictor.gains(genome[None])[0]
    told = (gains[genes, choices] - gains[genes, genome[genes]])[same_depth]
    true = (predictor.top1(others) - predictor.top1(genome[None]))[same_depth]
    assert np.corrcoef(told, true)[0, 1] > 0.99
    np.testing.assert_allclose(told, true, atol=0.15 * np.abs(true).max())
    assert not gains[40:45].any()


def test_saved_and_read_back_it_predicts_the_same(tmp_path: Path) -> None:
    predictor, genomes = some_predictor(), sample(SPACE, 30, np.random.default_rng(5))
    predictor.save(tmp_path / "predictor.json")
    read = read_predictor(tmp_path, SPACE)
    np.testing.assert_array_equal(read.top1(genomes), predictor.top1(genomes))
    assert (read.revision, read.half_width, read.selection_bias) == (predictor.revision, 0.01, 0.002)
    assert predictor.corrected(np.array([0.8]))[0] == pytest.approx(0.798)
    assert (
        len({p.revision for p in (predictor, some_predictor(1), replace(predictor, selection_bias=0))}) == 3
    )
    narrow = make_space("ofa-mobilenetv3-w1.0", (112,), 10)
    with pytest.raises(InvalidInput, match="width"):
        read_predictor(tmp_path, make_space("ofa-mobilenetv3-w1.2", (96,), 10))
    drawn = sample(narrow, 5, np.random.default_rng(6))
    wide = drawn.copy()
    wide[:, -1] = 1
    np.testing.assert_array_equal(read_predictor(tmp_path, narrow).top1(drawn), predictor.top1(wide))


def test_damaged_files_and_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    predictor, path = some_predictor(), tmp_path / "predictor.json"
    predictor.save(path)
    path.write_text(path.read_text().replace('"mean"', '"width"'))
    with pytest.raises(FileInvalid, match="damaged"):
        read_predictor(path, SPACE)
    for wrong in ({"selection_bias": -1.0}, {"mean": float("nan")}, {"half_width": -1.0}):
        with pytest.raises(InvalidInput, match="finite"):
            replace(predictor, **wrong)
    for wrong in ({"centres": predictor.centres[:, 1:]}, {"rates": predictor.rates[1:]}):
        with pytest.raises(InvalidInput, match=f"{FEATURES}"):
            replace(predictor, **wrong)


def test_a_fit_passes_through_what_was_measured_without_noise_and_is_unsure_elsewhere() -> None:
    genomes = encode(SPACE, stratified(SPACE, 120, 0))
    truth = some_predictor(7)
    seen, top1 = genomes[:80], truth.top1(genomes)
    predictor = krige(SPACE, seen, top1[:80])
    spread = top1.std()
    assert np.abs(predictor.top1(seen) - top1[:80]).mean() < 0.01 * spread
    assert np.sqrt(np.mean((predictor.top1(genomes[80:]) - top1[80:]) ** 2)) < 0.5 * spread
    unsure = uncertainty(SPACE, seen, top1[:80], genomes)
    assert unsure[:80].max() < unsure[80:].max()
    assert unsure[:80].mean() < unsure[80:].mean()


def test_choices_that_do_not_matter_are_found_out() -> None:
    genomes = sample(SPACE, 150, np.random.default_rng(9))
    sides = genomes[:, -1]
    predictor = krige(SPACE, genomes, 0.7 + 0.05 * np.sin(3.0 * sides))
    by_side = TABLE[-1]
    others = np.setdiff1d(np.arange(FEATURES), by_side)
    assert predictor.rates[by_side].max() > 10 * np.median(predictor.rates[others])
    unseen = sample(SPACE, 50, np.random.default_rng(10))
    np.testing.assert_allclose(predictor.top1(unseen), 0.7 + 0.05 * np.sin(3.0 * unseen[:, -1]), atol=0.01)
