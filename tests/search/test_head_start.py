"""A head start: whatever is asked, no answer is worse than what was known before."""

from dataclasses import replace

import numpy as np
import pytest

from bespoke.predictors import MlpPredictor
from bespoke.search import (
    Constraint,
    Effort,
    LatencyPricer,
    Problem,
    feasible_ranges,
    fleet,
    restrict,
    search,
)
from bespoke.search.archive import Archive, begin_from, merge
from bespoke.search.evaluator import Limits
from bespoke.search.front import pareto_front
from bespoke.search.goals import DIFFERENT, differing
from bespoke.supernet.architecture import SearchSpace, canonical, encode
from bespoke.supernet.genomes import sample
from tests.search.small_space import SmallSpace, every_genome

FEW, MORE = Effort(4, 1), Effort(64, 28)


@pytest.fixture(scope="module")
def posed(space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer) -> Problem:
    low, high = feasible_ranges(space, latency)["latency_ms"]
    limits = (Constraint("latency_ms", low + 0.3 * (high - low)),)
    return Problem(space, predictor, limits, latency, effort=FEW)


@pytest.fixture(scope="module")
def archive(posed: Problem) -> Archive:
    """What longer searches than those of the tests have found within several limits."""
    (limit,) = posed.constraints
    found = [
        search(replace(posed, constraints=(Constraint("latency_ms", share * limit.limit),), effort=MORE))
        for share in (0.8, 1.0, 1.2)
    ]
    return merge(
        posed, np.concatenate([encode(posed.space, [c.architecture for c in one.front]) for one in found])
    )


def best(problem: Problem, archive: Archive) -> float:
    return float(archive.top1[Limits(problem).meets(archive.genomes)].max())


def test_an_answer_is_no_worse_than_what_was_known_which_counts_as_no_evaluation(
    posed: Problem, archive: Archive
) -> None:
    alone, ahead = search(posed), search(begin_from(posed, archive))
    assert alone.best.top1 < best(posed, archive) <= ahead.best.top1
    assert ahead.evaluations < 2 * alone.evaluations
    assert search(begin_from(posed, archive)) == ahead


def test_without_anything_that_meets_the_limits_a_head_start_changes_nothing(
    posed: Problem, archive: Archive
) -> None:
    low, _ = feasible_ranges(posed.space, posed.latency)["latency_ms"]
    tight = replace(posed, constraints=(Constraint("latency_ms", 1.05 * low),))
    dear = merge(posed, archive.genomes[~Limits(tight).meets(archive.genomes)])
    assert len(dear)
    assert search(begin_from(tight, dear)) == search(tight)


def test_the_least_of_a_metric_is_no_more_than_what_was_known(posed: Problem, archive: Archive) -> None:
    asked = replace(posed, constraints=(), minimise="latency_ms", min_top1=best(posed, archive))
    known = archive.values["latency_ms"][archive.top1 >= best(posed, archive)].min()
    tries = [replace(asked, seed=seed) for seed in range(5)]
    assert max(search(one).best.metrics["latency_ms"] for one in tries) > known
    assert max(search(begin_from(one, archive)).best.metrics["latency_ms"] for one in tries) <= known


def test_an_alternative_is_no_worse_than_what_was_known_and_is_as_different(
    posed: Problem, archive: Archive
) -> None:
    found = search(begin_from(replace(posed, alternatives=2), archive))
    (answer,) = encode(posed.space, [found.best.architecture])
    different = differing(posed.space, archive.genomes, answer) >= DIFFERENT
    assert different.any()
    assert len(found.alternatives) == 2
    assert found.alternatives[0].top1 >= archive.top1[different & Limits(posed).meets(archive.genomes)].max()


def test_of_what_was_known_a_restricted_search_begins_with_what_is_allowed(
    posed: Problem, archive: Archive
) -> None:
    resolution = int(posed.space.dimensions[-1].choices[archive.genomes[0, -1]])
    asked = restrict(replace(posed, constraints=()), {"resolution": (resolution,)})
    begun = begin_from(asked, archive)
    assert begun.head_start is not None
    assert len(begun.head_start.genomes) > 0
    assert (begun.head_start.top1 == asked.predictor.top1(begun.head_start.genomes)).all()
    found = search(begun).best
    assert found.architecture.resolution == resolution
    assert found.top1 >= archive.top1[0]


def test_genomes_are_narrowed_to_those_that_a_restricted_space_holds() -> None:
    space, allowed = SmallSpace(), {"kernel": (5, 7)}
    narrow = restrict(Problem(space, MlpPredictor.__new__(MlpPredictor)), allowed).space
    every = every_genome(space)
    genomes, rows = narrow.narrowed(every)  # type: ignore[attr-defined]
    assert (genomes == canonical(narrow, genomes)).all()
    assert (narrow.widened(genomes) == every[rows]).all()  # type: ignore[attr-defined]
    kernels = every[:, :4] > 0
    assert sorted(rows) == np.flatnonzero((kernels | ~space.active(every)[:, :4]).all(axis=1)).tolist()


def test_a_front_holds_what_was_known_or_better(posed: Problem, archive: Archive) -> None:
    front = pareto_front(begin_from(posed, archive), members=1000)
    inside = Limits(posed).meets(archive.genomes)
    for top1, ms in zip(archive.top1[inside], archive.values["latency_ms"][inside], strict=True):
        assert any(one.top1 >= top1 and one.metrics["latency_ms"] <= ms for one in front.members)


def test_members_of_a_fleet_share_what_each_of_them_knows(posed: Problem, archive: Archive) -> None:
    (limit,) = posed.constraints
    both = {
        "known": begin_from(posed, archive),
        "new": replace(posed, constraints=(Constraint("latency_ms", 1.1 * limit.limit),)),
    }
    found = fleet(both, 1)
    assert found.subnets[0].top1 >= best(posed, archive)


def test_genomes_that_are_known_twice_are_known_once(posed: Problem) -> None:
    genomes = np.repeat(sample(posed.space, 20, np.random.default_rng(0)), 2, axis=0)
    merged = merge(posed, genomes)
    twice = replace(merged, genomes=np.repeat(merged.genomes, 2, axis=0), top1=np.repeat(merged.top1, 2))
    free = replace(posed, constraints=())
    assert search(begin_from(free, twice)) == search(begin_from(free, merged))
