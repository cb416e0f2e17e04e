import numpy as np

from bespoke.predictors import MlpPredictor
from bespoke.search import Constraint, LatencyPricer, Problem
from bespoke.search.evaluator import Limits
from bespoke.search.moves import Jumps, pairs
from bespoke.supernet.architecture import SearchSpace, canonical
from bespoke.supernet.genomes import neighbours, sample
from tests.conftest import random_predictor
from tests.search.small_space import SmallSpace, every_genome


def test_neighbours_are_all_that_differ_in_one_active_gene() -> None:
    space = SmallSpace()
    everything = every_genome(space)
    for genome in everything[::37]:
        around, genes, choices = neighbours(space, genome)
        changed = np.repeat(genome[None], len(genes), axis=0)
        changed[np.arange(len(genes)), genes] = choices
        np.testing.assert_array_equal(around, canonical(space, changed))
        assert len(np.unique(around, axis=0)) == len(around)
        assert not (around == genome).all(axis=1).any()
        sizes = np.array([3, 3, 3, 3, 2, 2, 2, 2, 2])
        assert len(around) == (sizes - 1)[space.active(genome[None])[0]].sum()


def test_pairs_are_ranked_by_the_sum_of_their_gains_and_fit() -> None:
    space = SmallSpace()
    genome = np.zeros(9, np.int16)
    _, genes, choices = neighbours(space, genome)
    gain = np.arange(len(genes), dtype=float)
    used = np.concatenate([[0.5], np.full(len(genes), 0.6)])[:, None]
    found = pairs(space, genome, (genes, choices), gain, used, 3)
    expected = genome.copy()
    expected[genes[-1]], expected[genes[-2]] = choices[-1], choices[-2]
    np.testing.assert_array_equal(found[0], canonical(space, expected[None])[0])
    assert len(found) == 3
    used[1:] = 0.9  # two changes of 0.4 each on top of 0.5 are too many
    assert not len(pairs(space, genome, (genes, choices), gain, used, 3))


def test_jumps_meet_every_limit_and_leave_what_is_held(
    space: SearchSpace, predictor: MlpPredictor, latency: LatencyPricer
) -> None:
    rng = np.random.default_rng(0)
    limits = Limits(
        Problem(
            space,
            predictor,
            (
                Constraint("latency_ms", 6),
                Constraint("peak_memory_bytes", 900_000),
                Constraint("params", 5e6),
            ),
            latency,
        )
    )
    bases = sample(space, 400, rng)
    bases[:, -1] = 0
    free = rng.random(bases.shape) < 0.8
    found, rows = Jumps(space, limits).jump(bases, predictor.gains(bases), free, rng)
    assert len(found) > 100
    assert limits.meets(found).all()
    # Memory is repaired, whatever is held; no other limit moves a gene that is not free.
    held = space.active(found) & ~free[rows]
    assert (found[held] == bases[rows][held]).mean() > 0.9

    unlimited = Limits(Problem(space, predictor, (Constraint("latency_ms", 6),), latency))
    found, rows = Jumps(space, unlimited).jump(bases, predictor.gains(bases), free, rng)
    held = space.active(found) & ~free[rows]
    np.testing.assert_array_equal(found[held], bases[rows][held])
    assert (found != bases[rows]).any(axis=1).mean() > 0.9


def test_a_jump_without_locks_finds_the_optimum_of_the_linear_model() -> None:
    space = SmallSpace()
    predictor = random_predictor(space)
    genomes = every_genome(space)
    rng = np.random.default_rng(1)
    limits = Limits(Problem(space, predictor))
    base = genomes[100:101]
    gains = predictor.gains(base)
    # Expansion is shared by a stage, so only kernels and depths may move.
    found, _ = Jumps(space, limits).jump(base, gains, np.ones_like(base, np.bool_), rng)
    same = (genomes[:, [4, 5, 8]] == base[:, [4, 5, 8]]).all(axis=1)
    rivals = genomes[same]
    worth = np.where(space.active(rivals), gains[0][np.arange(9), rivals], 0).sum(axis=1)
    np.testing.assert_array_equal(found[0], rivals[worth.argmax()])
