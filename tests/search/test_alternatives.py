import itertools

import numpy as np
import pytest

from bespoke.predictors import MlpPredictor
from bespoke.search import Constraint, LatencyPricer, Problem, alternatives, restrict, search
from bespoke.search.alternatives import Alternatives
from bespoke.search.evaluator import Limits, prices_of
from bespoke.search.goals import DIFFERENT, Goal, MostAccurate, differing
from bespoke.search.seen import Seen
from bespoke.supernet.architecture import Architecture, Genomes, SearchSpace, encode
from bespoke.supernet.errors import ConstraintInvalid
from tests.conftest import random_predictor
from tests.search.small_space import SmallSpace, every_genome
from tests.search.test_evolution import QUICK


def share(space: SearchSpace, one: Architecture, other: Architecture) -> float:
    """Counted gene by gene from the JSON of two architectures."""
    mine, its = encode(space, [one, other])
    own, others = space.active(np.stack([mine, its]))
    matter = [g for g in range(len(mine)) if own[g] or others[g]]
    return sum(own[g] != others[g] or mine[g] != its[g] for g in matter) / len(matter)


def test_alternatives_differ_from_the_best_and_from_one_another_and_are_near_it(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    limits = (Constraint("latency_ms", 4.5), Constraint("params", 5e6))
    problem = Problem(space, predictor, limits, latency, 0, QUICK, alternatives=4)
    found = search(problem)
    assert len(found.alternatives) == 4
    assert found.best == found.front[-1]
    for one, other in itertools.combinations((found.best, *found.alternatives), 2):
        assert share(space, one.architecture, other.architecture) >= DIFFERENT
        assert one.top1 >= other.top1 > found.best.top1 - 0.025
    for other in found.alternatives:
        assert other.metrics["latency_ms"] <= 4.5
        assert other.metrics["params"] <= 5e6
        assert other.top1 == predictor.top1(encode(space, [other.architecture]))[0]
    assert search(problem) == found


def test_the_first_alternative_is_the_best_of_all_that_differ() -> None:
    space = SmallSpace()
    genomes = every_genome(space)
    hits = 0
    for seed in range(10):
        predictor = random_predictor(space, seed)
        found = search(Problem(space, predictor, seed=seed, alternatives=1))
        best = encode(space, [found.best.architecture])[0]
        far = differing(space, genomes, best) >= DIFFERENT
        hits += found.alternatives[0].top1 == predictor.top1(genomes[far]).max()
    assert hits >= 9


def test_alternatives_of_the_cheapest_reach_the_least_top1_too(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    problem = Problem(space, predictor, (), latency, 0, QUICK, {}, "latency_ms", 0.75, 3)
    found = search(problem)
    milliseconds = [found.best.metrics["latency_ms"], *(a.metrics["latency_ms"] for a in found.alternatives)]
    assert milliseconds == sorted(milliseconds)
    assert len(milliseconds) == 4
    assert all(other.top1 >= 0.75 for other in found.alternatives)


def test_alternatives_are_of_the_best_however_often_that_turns_out_to_be_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = SmallSpace()
    problem = Problem(space, random_predictor(space))
    seen, limits = Seen(problem), Limits(problem)
    genomes = every_genome(space)
    rising = genomes[np.argsort(problem.predictor.top1(genomes), kind="stable")]
    seen.top1_of(rising[:300])
    better = iter(rising[600::50])

    def refining(space: SearchSpace, goal: Goal, seen: Seen, genomes: Genomes) -> Genomes:
        seen.top1_of(np.stack(list(itertools.islice(better, 1)) or [genomes[0]]))
        return genomes

    monkeypatch.setattr(alternatives, "refine", refining)
    goal = MostAccurate(limits, prices_of(problem)["macs"])
    others = Alternatives(space, goal, seen, 1)
    others.look()
    (other,) = others.found
    (best,) = alternatives.best_seen(goal, seen, 1)
    assert next(better, None) is None
    assert differing(space, other[None], best) >= DIFFERENT


def test_where_nothing_differs_enough_there_are_fewer_alternatives() -> None:
    space = SmallSpace()
    one = {"kernel": (3,), "expand": (3,), "depth": (1,)}
    found = search(restrict(Problem(space, random_predictor(space), alternatives=3), one))
    assert len(found.alternatives) == 1  # the other resolution


@pytest.mark.parametrize("count", [-1, 17, 1.5, True, "2"])
def test_a_count_of_alternatives_has_bounds(count: object) -> None:
    space = SmallSpace()
    with pytest.raises(ConstraintInvalid, match="alternatives"):
        Problem(space, random_predictor(space), alternatives=count)  # type: ignore[arg-type]
