"""A picture of how good a table is: predicted against measured latency of whole subnets."""

from __future__ import annotations

import io

import numpy as np

from bespoke.latency_tables.quality import QualityCard
from bespoke.supernet.errors import InvalidInput, Unavailable

BAND = 0.10
INK, DOTS, GREY = "#1f2933", "#2563ab", "#9aa5b1"


def plot_quality(card: QualityCard, title: str = "", interval: float = 0.0) -> bytes:
    """Draw a card's held-out subnets: each a dot, the diagonal, and a band of 10%.

    Args:
        card: With its ``points``.
        title: Above the picture, e.g. the device.
        interval: Relative half width of the table's 90% interval; drawn where it is not 0.

    Returns:
        A PNG of 1200 x 1200 pixels; the same bytes for the same card.

    Raises:
        InvalidInput: The card tells no points.
        Unavailable: Matplotlib is not installed.
    """
    if not card.points:
        raise InvalidInput("the quality card has no points: profile the device again to get them")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Unavailable("plots need matplotlib: pip install 'bespoke-search[plots]'") from error
    predicted, measured = np.array(card.points).T
    low, high = 0.94 * min(predicted.min(), measured.min()), 1.06 * max(predicted.max(), measured.max())
    ends = np.array([low, high])
    figure = Figure(figsize=(8, 8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    label = f"within {BAND:.0%} of the measurement"
    axes.fill_between(ends, ends / (1 + BAND), ends / (1 - BAND), color=GREY, alpha=0.2, lw=0, label=label)
    if interval > 0:
        for sign in (-1, 1):
            name = f"90% interval (±{interval:.1%})" if sign > 0 else None
            axes.plot(ends, ends * (1 + sign * interval), color=DOTS, lw=1, ls=(0, (4, 3)), label=name)
    axes.plot(ends, ends, color=INK, lw=1, label="exact")
    axes.scatter(predicted, measured, s=34, color=DOTS, alpha=0.8, lw=0, zorder=3, label="held-out subnets")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel("predicted latency, ms", color=INK)
    axes.set_ylabel("measured latency, ms", color=INK)
    # A label is no formula, which two dollars would make of it.
    axes.set_title(title.replace("$", r"\$"), loc="left", color=INK, fontsize=13, wrap=True)
    axes.grid(color=GREY, alpha=0.3, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.text(0.97, 0.03, _words(card), transform=axes.transAxes, ha="right", va="bottom", color=INK)
    axes.legend(loc="upper left", frameon=False, labelcolor=INK)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _words(card: QualityCard) -> str:
    return "\n".join(
        [
            f"{card.subnets} held-out subnets",
            f"mean error {card.mape:.1%}, worst {card.worst_error:.1%}",
            f"within 10%: {card.within_10pct:.0%}",
            f"Spearman {card.spearman:.3f}",
            f"the device's own repeat error {card.repeat_mape:.1%}",
        ]
    )
