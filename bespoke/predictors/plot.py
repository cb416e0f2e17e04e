"""Pictures of a supernet: top-1 against MACs, and what each choice does to the predicted top-1."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import InvalidInput, Unavailable

INK, DOTS, FRONT, GREY = "#1f2933", "#2563ab", "#c2410c", "#9aa5b1"
SHADES = ("#a9c9ea", "#4c8fd0", "#123f73", "#c2410c", "#7c2d12")
"""Of the choices of a dimension, the smallest first."""

Points = Sequence[Mapping[str, Any]]
"""Architectures with ``macs``, ``top1`` (measured), ``top1_predicted`` and ``resolution``."""


def plot_front(random: Points, front: Points, title: str = "", images: str = "") -> bytes:
    """Draw top-1 against MACs: random subnets as dots, searched ones as a line.

    Args:
        random: Random subnets, measured.
        front: What searches found at several limits, cheapest first; measured where ``top1`` is
            there, and predicted.
        title: Above the picture.
        images: Of which images the measured top-1 is.

    Returns:
        A PNG of 1350 x 900 pixels; the same bytes for the same points.

    Raises:
        InvalidInput: There is no random subnet.
        Unavailable: Matplotlib is not installed.
    """
    if not random:
        raise InvalidInput(
            "no measured random subnets to draw: the card tells none, and no data set is there"
        )
    figure = _figure((9, 6))
    axes = figure.add_subplot()
    sides = sorted({point["resolution"] for point in random})
    for number, side in enumerate(sides):  # the first three shades are of one colour
        own = [point for point in random if point["resolution"] == side]
        shade = SHADES[round(2 * number / max(1, len(sides) - 1))]
        told = len(sides) <= len(SHADES) or side in (sides[0], sides[-1])
        label = f"random, {side} px" if told else None
        axes.scatter(*_xy(own, "top1"), s=20, color=shade, alpha=0.8, lw=0, label=label)
    if front:
        axes.plot(
            *_xy(front, "top1_predicted"), color=FRONT, lw=1.2, ls=(0, (4, 3)), label="searched, predicted"
        )
        seen = [point for point in front if "top1" in point]
        if seen:
            axes.plot(*_xy(seen, "top1"), color=FRONT, lw=1.2, marker="o", ms=5, label="searched, measured")
    axes.set_xlabel("MACs, millions", color=INK)
    axes.set_ylabel(f"top-1, %, {images}" if images else "top-1, %", color=INK)
    _finish(axes, title)
    axes.legend(loc="lower right", frameon=False, labelcolor=INK, fontsize=9)
    return _png(figure)


def plot_effects(space: SearchSpace, effects: Mapping[str, NDArray[np.float64]], title: str = "") -> bytes:
    """Draw what each choice does to the predicted top-1, a panel for each dimension.

    Args:
        space: Whose choices these are.
        effects: What ``choice_effects`` gave.
        title: Above the picture.

    Returns:
        A PNG, 1350 pixels wide; the same bytes for the same effects.

    Raises:
        Unavailable: Matplotlib is not installed.
    """
    shown = [d for d in space.dimensions if len(d.choices) > 1]
    figure = _figure((9, 2.2 * len(shown) + 0.6))
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=13)
    for axes, dimension in zip(np.ravel(figure.subplots(len(shown), 1)), shown, strict=True):
        values, choices = 100 * effects[dimension.name], dimension.choices
        places, width = np.arange(dimension.count), 0.8 / len(choices)
        for number, choice in enumerate(choices):
            shade = SHADES[number % len(SHADES)] if len(choices) <= len(SHADES) else None
            left = places + (number - (len(choices) - 1) / 2) * width
            axes.bar(left, values[:, number], width, color=shade, label=f"{choice:g}")
        axes.axhline(0, color=INK, lw=0.8)
        axes.set_ylabel("points", color=INK)
        axes.set_xticks(places, [str(place + 1) for place in places] if dimension.count > 1 else [""])
        _finish(axes, dimension.name)
        if len(choices) <= len(SHADES):
            axes.legend(
                ncols=len(choices), loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=9
            )
    return _png(figure)


def _xy(points: Points, field: str) -> tuple[list[float], list[float]]:
    return [point["macs"] / 1e6 for point in points], [100 * point[field] for point in points]


def _figure(inches: tuple[float, float]) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Unavailable("plots need matplotlib: pip install 'bespoke-search[plots]'") from error
    figure = Figure(figsize=inches, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.grid(color=GREY, alpha=0.3, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: Any) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()
