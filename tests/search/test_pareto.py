import numpy as np
import pytest
from pymoo.indicators.hv import HV

from bespoke.search import hypervolume, non_dominated
from bespoke.supernet.errors import InvalidInput


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_front_is_that_of_the_definition(objectives: int) -> None:
    values = np.random.default_rng(objectives).integers(0, 8, (300, objectives)).astype(float)
    expected = [
        not any((other <= point).all() and (other < point).any() for other in values) for point in values
    ]
    np.testing.assert_array_equal(non_dominated(values), expected)


def test_large_sets_are_cut_into_blocks_without_a_change() -> None:
    values = np.random.default_rng(0).random((5000, 2))
    front = values[non_dominated(values)]
    order = np.argsort(front[:, 0])
    assert (np.diff(front[order, 1]) < 0).all()
    best = np.minimum.accumulate(values[np.argsort(values[:, 0]), 1])
    assert len(front) == len(np.unique(best))


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_hypervolume_is_pymoos(objectives: int) -> None:
    values = np.random.default_rng(objectives).random((40, objectives)) * 1.2
    reference = np.ones(objectives)
    assert hypervolume(values, reference) == pytest.approx(HV(ref_point=reference)(values))


def test_points_beyond_the_reference_count_nothing() -> None:
    assert hypervolume(np.array([[2.0, 0.0]]), np.ones(2)) == 0
    assert hypervolume(np.array([[0.5, 0.5], [2.0, 0.0]]), np.ones(2)) == 0.25
    with pytest.raises(InvalidInput):
        hypervolume(np.ones((3, 2)), np.ones(3))
