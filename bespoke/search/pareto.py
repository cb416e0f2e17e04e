"""Fronts and the volume that they dominate. Every objective is minimised; negate what is maximised.

Source: Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II (2002), for the sorting
into fronts and the crowding distance.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.errors import InvalidInput

_BLOCK = 2048

_AT_ONCE = 64
"""Points leave a crowd one by one as long as fewer than twice this many are to leave."""


def non_dominated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points no other point dominates.

    A point dominates another if it is nowhere worse and somewhere better; of equal points, all stay.

    Args:
        values: (N, M), smaller is better.

    Returns:
        Shape (N,).
    """
    points, inverse = np.unique(values, axis=0, return_inverse=True)
    # In lexicographic order a point is dominated by an earlier one only.
    found = {2: _falling, 3: _below_the_stair}.get(values.shape[1], _undominated)
    return found(points)[inverse.ravel()]


def _falling(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points are not dominated, of two objectives: those below all earlier ones."""
    values = points[:, 1]
    return values < np.minimum.accumulate(np.append(np.inf, values))[:-1]


def _below_the_stair(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points are not dominated, of three objectives.

    The front of all earlier points' second and third objectives is a stair that falls as it goes on;
    a point is dominated where it does not lie below it (Kung, Luccio and Preparata, 1975).
    """
    stays = np.zeros(len(points), np.bool_)
    seconds: list[float] = []
    thirds: list[float] = []
    for place, (second, third) in enumerate(points[:, 1:].tolist()):
        after = bisect_right(seconds, second)
        if after and thirds[after - 1] <= third:
            continue
        stays[place] = True
        begin = end = bisect_left(seconds, second, hi=after)
        while end < len(thirds) and thirds[end] >= third:
            end += 1
        seconds[begin:end], thirds[begin:end] = [second], [third]
    return stays


def _undominated(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    kept = np.zeros((0, points.shape[1]))
    stays = np.zeros(len(points), np.bool_)
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        rivals = np.concatenate([kept, block])
        at_most = (rivals[:, None] <= block[None]).all(axis=2)
        dominated = (at_most & (rivals[:, None] < block[None]).any(axis=2)).any(axis=0)
        stays[start : start + _BLOCK] = ~dominated
        kept = np.concatenate([kept, block[~dominated]])
    return stays


def select(values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """The survivors of NSGA-II: front after front, and of the last one those that stand apart.

    Args:
        values: (N, M), smaller is better.
        count: How many are wanted.

    Returns:
        Indices of at most ``count`` points, front after front; of equal points only the first.
    """
    left = np.sort(np.unique(values, axis=0, return_index=True)[1])
    chosen = []
    while len(left) and count:
        first = non_dominated(values[left])
        front = left[first]
        if len(front) > count:
            front = front[thin(values[front], count)]
        chosen.append(front)
        left, count = left[~first], count - len(front)
    return np.concatenate(chosen) if chosen else left


def thin(values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Leave out the most crowded point, again and again, until ``count`` are left.

    Args:
        values: (N, M).
        count: How many stay, at least 1.

    Returns:
        Ascending indices.
    """
    stays = np.arange(len(values))
    while len(stays) > count:
        # One at a time near the end; far from it, a few at once choose nearly the same.
        leaving = max(1, (len(stays) - count) // _AT_ONCE)
        stays = np.delete(stays, np.argsort(crowding(values[stays]), kind="stable")[:leaving])
    return stays


def crowding(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far apart each point's neighbours are, over all objectives; infinite at the ends.

    Args:
        values: (N, M).

    Returns:
        Shape (N,): the sum over the objectives, each relative to its range.
    """
    count, objectives = values.shape
    order = np.argsort(values, axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0)
    spread = np.full((count, objectives), np.inf)
    extent = ranked[-1] - ranked[0] if count else np.ones(objectives)
    spread[1:-1] = (ranked[2:] - ranked[:-2]) / np.where(extent > 0, extent, 1.0)
    result = np.zeros((count, objectives))
    np.put_along_axis(result, order, spread, axis=0)
    total: NDArray[np.float64] = result.sum(axis=1)
    return total


def nearest(points: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """The nearest other points of each, nearest first, by the sum of the distances in each coordinate.

    Args:
        points: (N, M).
        count: How many.

    Returns:
        Indices, (N, count); fewer columns where there are not as many others.
    """
    found = np.zeros((len(points), max(0, min(count, len(points) - 1))), np.intp)
    for start in range(0, len(points), _BLOCK // 8):
        block = points[start : start + _BLOCK // 8]
        apart = np.abs(block[:, None] - points[None]).sum(axis=2)
        apart[np.arange(len(block)), start + np.arange(len(block))] = -1.0
        order = np.argsort(apart, axis=1, kind="stable")
        found[start : start + len(block)] = order[:, 1 : 1 + found.shape[1]]
    return found


def advance(values: NDArray[np.float64], front: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each point lies beyond a front.

    Args:
        values: (N, M), smaller is better.
        front: (F, M), F at least 1.

    Returns:
        Shape (N,): what would have to be added to every objective, as a share of the front's extent in
        it, for the point to be dominated (additive epsilon indicator); negative inside.
    """
    extent = np.ptp(front, axis=0)
    unit = np.where(extent > 0, extent, 1.0)
    values, front = values / unit, front / unit
    result = np.empty(len(values))
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        margins = front[:, 0] - block[:, :1]
        for m in range(1, values.shape[1]):
            np.maximum(margins, front[:, m] - block[:, m : m + 1], out=margins)
        result[start : start + _BLOCK] = margins.min(axis=1)
    return result


def hypervolume(values: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """The volume between points and a reference that they dominate.

    Args:
        values: (N, M), smaller is better; points that do not dominate the reference count nothing.
        reference: (M,).

    Returns:
        The exact volume, by slicing along the last objective.

    Raises:
        InvalidInput: The shapes do not fit.
    """
    if values.ndim != 2 or reference.shape != (values.shape[1],):
        raise InvalidInput(
            f"hypervolume: got shapes {values.shape}, {reference.shape}, expected (N, M), (M,)"
        )
    inside = values[(values < reference).all(axis=1)]
    return _volume(inside[non_dominated(inside)], reference) if len(inside) else 0.0


def _volume(points: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    if len(reference) == 1:
        return float(reference[0] - points[:, 0].min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    levels = np.append(points[:, -1], reference[-1])
    if len(reference) == 2:
        reach = reference[0] - np.minimum.accumulate(points[:, 0])
        return float((reach * np.diff(levels)).sum())
    total = 0.0
    for i in range(len(points)):
        depth = float(levels[i + 1] - levels[i])
        if depth > 0:
            below = points[: i + 1, :-1]
            total += depth * _volume(below[non_dominated(below)], reference[:-1])
    return total


def evenly(rows: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """So many of some rows, from the first to the last; all of them where they are no more."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.intp)]
