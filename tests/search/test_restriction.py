import numpy as np
import pytest

from bespoke.predictors import MlpPredictor
from bespoke.search import Constraint, LatencyPricer, Problem, feasible_ranges, restrict, search
from bespoke.search.evaluator import prices
from bespoke.supernet.architecture import SearchSpace, decode, read_architecture
from bespoke.supernet.errors import ArchitectureInvalid, BudgetInfeasible
from tests.conftest import random_predictor
from tests.search.small_space import KERNELS, SIDES, SmallSpace, every_genome
from tests.search.test_evolution import QUICK, Opaque

ALLOWED = {"kernel": (5, 7), "resolution": (SIDES[1],)}


def test_the_answer_is_the_best_of_the_architectures_that_are_allowed() -> None:
    space = SmallSpace()
    genomes = every_genome(space)
    active = space.active(genomes)[:, :4]
    allowed = (genomes[:, 8] == 1) & ((genomes[:, :4] > 0) | ~active).all(axis=1)
    macs = prices(space, None)["macs"].of(genomes)
    for seed in range(10):
        predictor = random_predictor(space, seed)
        top1 = predictor.top1(genomes)
        limit = float(np.quantile(macs[allowed], 0.1 + 0.08 * seed))
        problem = Problem(space, predictor, (Constraint("macs", limit),), seed=seed)
        inside = np.flatnonzero(allowed & (macs <= limit))
        best = inside[top1[inside].argmax()]
        for asked in (problem, Problem(space, Opaque(predictor), problem.constraints, seed=seed)):
            found = search(restrict(asked, ALLOWED)).best
            assert found.architecture == decode(space, genomes[best])
            assert found.metrics["macs"] == macs[best]


def test_ranges_and_refusals_are_those_of_what_is_allowed(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    problem = restrict(Problem(space, predictor, latency=latency), {"resolution": (128,), "kernel": (3, 5)})
    low, high = feasible_ranges(problem.space, problem.latency)["latency_ms"]
    whole = feasible_ranges(space, latency)["latency_ms"]
    assert whole[0] < low < high < whole[1]
    limited = Problem(space, predictor, (Constraint("latency_ms", 0.9 * low),), latency, effort=QUICK)
    assert search(limited).best.metrics["latency_ms"] < low
    with pytest.raises(BudgetInfeasible) as caught:
        search(restrict(limited, {"resolution": (128,), "kernel": (3, 5)}))
    assert caught.value.feasible == {"latency_ms": (low, high)}
    nearest = read_architecture(space, caught.value.nearest["architecture"])
    assert nearest.resolution == 128


def test_answers_are_canonical_and_keep_to_what_is_allowed(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    problem = Problem(space, predictor, (Constraint("latency_ms", 5),), latency, 1, QUICK)
    for candidate in search(restrict(problem, {"kernel": (5, 7), "expand": (4, 6)})).front:
        assert read_architecture(space, candidate.architecture.to_json()) == candidate.architecture
        ops = [op for op in space.plan(candidate.architecture).ops if op.kind == "mbconv"]
        assert all(op.kernel in (5, 7) for op in ops[1:])


@pytest.mark.parametrize("allowed", [{"width": (1,)}, {"kernel": (4,)}, {"kernel": ()}, {"kernel": (True,)}])
def test_what_the_space_does_not_have_is_refused(allowed: dict[str, tuple[int, ...]]) -> None:
    space = SmallSpace()
    with pytest.raises(ArchitectureInvalid, match=r"kernel|width"):
        restrict(Problem(space, random_predictor(space)), allowed)


def test_nothing_restricted_is_the_problem_itself() -> None:
    space = SmallSpace()
    problem = Problem(space, random_predictor(space))
    assert restrict(problem, {}) is problem
    everything = search(restrict(problem, {"kernel": KERNELS}))
    assert everything.best == search(problem).best
