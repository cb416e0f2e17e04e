import numpy as np
import pytest
from numpy.typing import NDArray
from pymoo.indicators.hv import HV

from bespoke.search import hypervolume, non_dominated
from bespoke.search.pareto import advance, crowding, nearest, select, thin
from bespoke.supernet.errors import InvalidInput


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_front_is_that_of_the_definition(objectives: int) -> None:
    values = np.random.default_rng(objectives).integers(0, 8, (300, objectives)).astype(float)
    expected = [
        not any((other <= point).all() and (other < point).any() for other in values) for point in values
    ]
    np.testing.assert_array_equal(non_dominated(values), expected)


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_the_front_of_a_large_set_dominates_the_others_and_none_of_itself(objectives: int) -> None:
    values = np.random.default_rng(0).random((5000, objectives))
    stays = non_dominated(values)
    front = values[stays]

    def beaten(points: NDArray[np.float64]) -> NDArray[np.bool_]:
        at_most = (front[:, None] <= points).all(axis=2)
        return np.asarray((at_most & (front[:, None] < points).any(axis=2)).any(axis=0))

    assert not beaten(front).any()
    assert beaten(values[~stays]).all()


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


def test_survivors_come_front_after_front_and_of_the_last_those_that_stand_apart() -> None:
    first = [(0.0, 4.0), (1.0, 3.0), (1.1, 2.9), (2.0, 2.0), (4.0, 0.0)]
    second = [(1.0, 5.0), (5.0, 1.0)]
    values = np.array([*second, *first, first[0]])
    assert select(values, 7).tolist() == [2, 3, 4, 5, 6, 0, 1]
    assert select(values, 20).tolist() == [2, 3, 4, 5, 6, 0, 1]
    assert set(select(values, 4).tolist()) in ({2, 3, 5, 6}, {2, 4, 5, 6})
    assert set(select(values, 2).tolist()) == {2, 6}


def test_crowding_is_the_distance_of_the_neighbours_and_infinite_at_the_ends() -> None:
    values = np.array([[0.0, 10.0], [1.0, 6.0], [2.0, 4.0], [4.0, 0.0]])
    assert crowding(values).tolist() == [np.inf, 0.5 + 0.6, 0.75 + 0.6, np.inf]
    assert crowding(np.array([[1.0, 2.0]])).tolist() == [np.inf]
    assert crowding(np.ones((3, 2))).max() == np.inf


@pytest.mark.parametrize("objectives", [2, 3])
def test_what_advances_a_front_is_what_it_does_not_dominate(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    front = rng.random((30, objectives))
    front[:, -1] = 1.5 - front[:, :-1].mean(axis=1)  # the more of one, the less of the other
    points = 1.5 * rng.random((500, objectives))
    dominated = (front[None] <= points[:, None]).all(axis=2).any(axis=1)
    np.testing.assert_array_equal(advance(points, front) > 0, ~dominated)
    by = advance(points, front)[~dominated]
    shifted = points[~dominated] + (by[:, None] + 1e-9) * np.ptp(front, axis=0)
    assert (front[None] <= shifted[:, None]).all(axis=2).any(axis=1).all()


def test_the_nearest_are_told_nearest_first_and_never_the_point_itself() -> None:
    points = np.random.default_rng(0).random((600, 2))
    points[7] = points[5]
    found = nearest(points, 3)
    for i in (0, 5, 7, 400, 599):
        apart = np.abs(points - points[i]).sum(axis=1)
        apart[i] = np.inf
        np.testing.assert_allclose(apart[found[i]], np.sort(apart)[:3])
    assert nearest(points[:2], 8).tolist() == [[1], [0]]
    assert nearest(points[:1], 8).shape == (1, 0)


def test_what_is_thinned_keeps_its_ends_and_stands_apart() -> None:
    x = np.sort(np.random.default_rng(0).random(900) ** 3)
    values = np.stack([x, 1 - x], axis=1)
    kept = thin(values, 20)
    assert len(kept) == 20
    assert {0, 899} <= set(kept.tolist())
    gaps = np.diff(values[kept, 0])
    assert gaps.max() < 3 * gaps.min()
