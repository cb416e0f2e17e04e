import numpy as np
import pytest

from bespoke.supernet.architecture import Genomes, canonical, cardinalities, decode, encode, gene_offsets
from bespoke.supernet.cost import CostTable
from bespoke.supernet.errors import ArchitectureInvalid
from bespoke.supernet.genomes import (
    at_resolution,
    crossover,
    extremes,
    largest,
    mutate,
    random_architecture,
    sample,
    smallest,
    stratified,
)
from bespoke.supernet.spaces import space

SPACE = space("ofa-mobilenetv3-w1.0", (128, 160, 192), 10)


def assert_valid(genomes: Genomes) -> None:
    assert genomes.dtype == np.int16
    assert ((genomes >= 0) & (genomes < cardinalities(SPACE))).all()
    np.testing.assert_array_equal(canonical(SPACE, genomes), genomes)


def test_samples_are_canonical_and_reach_every_choice() -> None:
    genomes = sample(SPACE, 3000, np.random.default_rng(0))
    assert_valid(genomes)
    assert all(set(genomes[:, gene]) == {0, 1, 2} for gene in range(46))
    depth = gene_offsets(SPACE)["depth"]
    shares = np.bincount(genomes[:, depth], minlength=3) / 3000
    np.testing.assert_allclose(shares, 1 / 3, atol=0.04)


def test_the_generator_decides_everything() -> None:
    first, again = (sample(SPACE, 20, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert random_architecture(SPACE, np.random.default_rng(1)) == random_architecture(
        SPACE, np.random.default_rng(1)
    )


def test_mutation_changes_about_the_share_that_is_asked_for() -> None:
    rng = np.random.default_rng(2)
    parents = sample(SPACE, 2000, rng)
    np.testing.assert_array_equal(mutate(SPACE, parents, 0.0, rng), parents)
    children = mutate(SPACE, parents, 0.3, rng)
    assert_valid(children)
    # A choice drawn anew is the old one in a third of the cases.
    assert (children[:, -1] != parents[:, -1]).mean() == pytest.approx(0.2, abs=0.03)


def test_a_child_has_each_gene_from_one_of_its_parents() -> None:
    rng = np.random.default_rng(3)
    mothers, fathers = sample(SPACE, 500, rng), sample(SPACE, 500, rng)
    children = crossover(SPACE, mothers, fathers, rng)
    assert_valid(children)
    inherited = (children == mothers) | (children == fathers)
    assert inherited[SPACE.active(children)].all()
    assert (children != mothers).any()
    assert (children != fathers).any()


def test_extremes_are_the_smallest_and_the_largest() -> None:
    low, high = extremes(SPACE)
    assert (low == 0).all()
    assert (high == 2).all()
    assert smallest(SPACE) == decode(SPACE, low)
    assert largest(SPACE) == decode(SPACE, high)
    assert smallest(SPACE, 192).resolution == 192
    assert largest(SPACE, 128)["kernel"] == (7,) * 20


def test_at_another_resolution_everything_else_stays() -> None:
    architecture = largest(SPACE)
    moved = at_resolution(SPACE, architecture, 128)
    assert moved.to_json() == architecture.to_json() | {"resolution": 128}
    with pytest.raises(ArchitectureInvalid, match="resolution"):
        at_resolution(SPACE, architecture, 144)


def test_stratified_draws_are_different_and_cover_resolutions_and_sizes() -> None:
    drawn = stratified(SPACE, 300, 0)
    assert len(set(drawn)) == 300
    sides = [architecture.resolution for architecture in drawn]
    assert [sides.count(side) for side in (128, 160, 192)] == [100, 100, 100]
    params = CostTable(SPACE).params(encode(SPACE, drawn))
    low, high = CostTable(SPACE).params(extremes(SPACE))
    assert params.min() < low + 0.1 * (high - low)
    assert params.max() > low + 0.8 * (high - low)


def test_a_longer_draw_contains_the_shorter_and_the_seed_decides() -> None:
    assert stratified(SPACE, 60, 1)[:20] == stratified(SPACE, 20, 1)
    assert stratified(SPACE, 20, 1) != stratified(SPACE, 20, 2)
