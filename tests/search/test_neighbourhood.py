"""Neighbourhoods hold what pricing and predicting each change by itself would give."""

import numpy as np

from bespoke.predictors import MlpPredictor
from bespoke.search import Constraint, LatencyPricer, Problem
from bespoke.search.evaluator import Limits
from bespoke.search.neighbourhood import neighbourhood
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.genomes import neighbours, sample
from tests.search.conftest import MadeUpLatency

LIMITS = (Constraint("latency_ms", 3.0), Constraint("macs", 2e8))


def test_a_neighbourhood_is_made_once_for_a_genome(space: SearchSpace, predictor: MlpPredictor) -> None:
    problem = Problem(space, predictor)
    first, second = sample(space, 2, np.random.default_rng(0))
    assert neighbourhood(problem, first) is neighbourhood(problem, first.copy())
    assert neighbourhood(problem, first) is not neighbourhood(problem, second)


def test_predictions_gains_and_shares_are_those_of_each_change(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    (genome,) = sample(space, 1, np.random.default_rng(1))
    changed, genes, choices = neighbours(space, genome)
    around = neighbourhood(Problem(space, predictor), genome)
    np.testing.assert_array_equal(around.changed, changed)
    np.testing.assert_array_equal(around.top1, predictor.top1(changed))
    gains = predictor.gains(genome[None])[0]
    expected = gains[genes, choices].astype(float) - gains[genes, genome[genes]]
    np.testing.assert_array_equal(around.gain, expected)
    for scale in (1, 2):  # other limits on the same metrics, once their prices are known
        scaled = tuple(Constraint(c.metric, scale * c.limit) for c in LIMITS)
        limits = Limits(Problem(space, predictor, scaled, latency))
        np.testing.assert_array_equal(around.shares(limits)[:1], limits.shares(genome[None]))
        np.testing.assert_array_equal(around.shares(limits)[1:], limits.shares(changed))
    assert around.shares(Limits(Problem(space, predictor))).shape == (1 + len(changed), 0)


def test_another_pricer_has_its_own_prices(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    slower = MadeUpLatency(space)
    slower.slots.values *= 2
    (genome,) = sample(space, 1, np.random.default_rng(2))
    around = neighbourhood(Problem(space, predictor), genome)
    for pricer in (latency, slower):
        limits = Limits(Problem(space, predictor, LIMITS[:1], pricer))
        np.testing.assert_array_equal(around.shares(limits)[1:], limits.shares(around.changed))
