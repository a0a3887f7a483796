"""One look for all figures: colour-blind safe, legible at one column, nothing global changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["COLOURS", "LINES", "MARKERS", "RC", "axes", "figure", "save"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NULL = "#777777"

RC: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "svg.hashsalt": "topokit",
    "pdf.fonttype": 42,
}


@contextmanager
def figure(*, size: tuple[float, float] = (3.5, 2.7)) -> Iterator[Axes]:
    """Give the axes of a figure of one column's width, made in topokit's style."""
    with mpl.rc_context(cast("Any", RC)):
        fig = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(fig)
        yield fig.add_subplot()


def save(ax: Axes, target: Any, **options: Any) -> None:
    """Write the figure an axes belongs to."""
    figure_of = ax.get_figure(root=True)
    if figure_of is not None:
        figure_of.savefig(target, **options)


def axes(ax: Axes | None) -> Axes:
    """Return `ax`, or the current axes where it is ``None``."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.gca()
