"""Fronts and the volume that they dominate. Every objective is minimised; negate what is maximised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.errors import InvalidInput

_BLOCK = 2048


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
    kept = np.zeros((0, values.shape[1]))
    stays = np.zeros(len(points), np.bool_)
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        rivals = np.concatenate([kept, block])
        at_most = (rivals[:, None] <= block[None]).all(axis=2)
        dominated = (at_most & (rivals[:, None] < block[None]).any(axis=2)).any(axis=0)
        stays[start : start + _BLOCK] = ~dominated
        kept = np.concatenate([kept, block[~dominated]])
    return stays[inverse.ravel()]


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
    total = 0.0
    for i in range(len(points)):
        depth = float(levels[i + 1] - levels[i])
        if depth > 0:
            below = points[: i + 1, :-1]
            total += depth * _volume(below[non_dominated(below)], reference[:-1])
    return total
