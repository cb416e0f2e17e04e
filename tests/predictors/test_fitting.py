from functools import partial

import numpy as np
import pytest
import torch

from bespoke.predictors.fitting import LEARNERS, Learner, cross_predictions, fit, learner_of, rmse
from bespoke.predictors.gaussian import MOST_EXAMPLES
from bespoke.predictors.mlp import FitSettings, ensemble
from bespoke.supernet.agreement import kendall_tau
from bespoke.supernet.architecture import Genomes, encode
from bespoke.supernet.cost import CostTable
from bespoke.supernet.errors import InvalidInput, NotFound
from bespoke.supernet.genomes import stratified
from bespoke.supernet.spaces import space as make_space

SPACE = make_space("ofa-mobilenetv3-w1.0", (96, 112, 128), 10)
QUICK: dict[str, Learner] = {
    "gaussian": LEARNERS["gaussian"],
    "mlp": partial(ensemble, settings=FitSettings(hidden=(64, 64), members=2, epochs=60)),
}
SMALL = partial(ensemble, settings=FitSettings(hidden=(16, 16), members=1, epochs=5))


def measured(count: int, seed: int) -> tuple[Genomes, np.ndarray]:
    """Accuracies that grow with the logarithm of MACs and parameters, with a little noise."""
    genomes = encode(SPACE, stratified(SPACE, count, seed))
    table = CostTable(SPACE)
    top1 = 0.1 * np.log(table.macs(genomes)) + 0.1 * np.log(table.params(genomes)) - 2.7
    return genomes, top1 + np.random.default_rng(seed).normal(0, 0.002, count)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_fit_ranks_subnets_that_it_never_saw_and_its_interval_holds(name: str) -> None:
    genomes, top1 = measured(300, 0)
    held_out, unseen = measured(100, 1), measured(300, 2)
    predictor = fit(SPACE, genomes, top1, 0, held_out=held_out, learner=QUICK[name])
    predicted = predictor.top1(unseen[0])
    assert kendall_tau(predicted, unseen[1]) > 0.85
    assert rmse(predicted, unseen[1]) < 0.02
    assert 0.8 < np.mean(np.abs(predicted - unseen[1]) <= predictor.half_width) < 0.98
    assert predictor.card["held_out"] == 100
    assert predictor.card["rmse"] == pytest.approx(rmse(predictor.top1(held_out[0]), held_out[1]), abs=1e-6)


def test_a_gaussian_process_is_fitted_on_as_many_as_it_can_bear() -> None:
    assert learner_of(MOST_EXAMPLES) is LEARNERS["gaussian"]
    assert learner_of(MOST_EXAMPLES + 1) is learner_of(1, "mlp") is LEARNERS["mlp"]
    with pytest.raises(
        InvalidInput, match=r"'gaussian': got 3001 subnets, expected 3000 at most.*take 'mlp'"
    ):
        learner_of(MOST_EXAMPLES + 1, "gaussian")
    with pytest.raises(NotFound, match="forest"):
        learner_of(1, "forest")


def test_the_seed_decides_the_fit_and_torch_is_left_as_it_was() -> None:
    genomes, top1 = measured(60, 0)
    before = torch.get_rng_state()
    first = fit(SPACE, genomes, top1, 3, learner=SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    assert fit(SPACE, genomes, top1, 3, learner=SMALL).revision == first.revision
    assert fit(SPACE, genomes, top1, 4, learner=SMALL).revision != first.revision
    assert first.card["fitted_on"] == 48


@pytest.mark.parametrize("name", LEARNERS)
def test_cross_predictions_are_made_without_the_examples_they_are_of(name: str) -> None:
    genomes, top1 = measured(80, 0)
    learner = {"gaussian": LEARNERS["gaussian"], "mlp": SMALL}[name]
    predicted = cross_predictions(SPACE, genomes, top1, folds=4, learner=learner)
    changed = top1.copy()
    changed[7] = 0.0
    again = cross_predictions(SPACE, genomes, changed, folds=4, learner=learner)
    assert again[7] == predicted[7]
    assert not np.array_equal(again, predicted)


def test_too_few_or_wrong_examples_are_refused() -> None:
    genomes, top1 = measured(40, 0)
    with pytest.raises(InvalidInput, match="20 at least"):
        fit(SPACE, genomes[:10], top1[:10])
    with pytest.raises(InvalidInput, match="shares"):
        fit(SPACE, genomes, top1 * 100)
