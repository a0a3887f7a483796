"""The common style of all figures: colours safe for colour-blind readers, sizes for one column.

Global settings of matplotlib are never changed.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from topokit.foreign import printable
from topokit.graph.files import write_atomic

__all__ = ["COLOURS", "LINES", "MARKERS", "RC", "axes", "figure", "save", "whole_numbers"]

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
    """Yield the axes of a new figure in topokit's style, by default one column wide (inches)."""
    with mpl.rc_context(cast("Any", RC)):
        fig = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(fig)
        yield fig.add_subplot()


def save(ax: Axes, target: Path | io.BytesIO, **options: Any) -> None:
    """Save the figure that `ax` belongs to; `options` are those of matplotlib's ``savefig``."""
    figure_of = ax.get_figure(root=True)
    if figure_of is None:
        return
    if isinstance(target, io.BytesIO):
        _draw(figure_of, target, **options)
        return
    kind = target.suffix.lstrip(".") or "png"
    with write_atomic(target, sync=False) as temporary:
        _draw(figure_of, temporary, format=kind, **options)


def _draw(figure_of: Figure, target: Path | io.BytesIO, **options: Any) -> None:
    """Draw a figure; names in it are neither control characters nor formulas."""
    for text in figure_of.findobj(Text):
        text.set_text(_as_text(text.get_text()))
    for ax in figure_of.axes:
        for formatter in (ax.xaxis.get_major_formatter(), ax.yaxis.get_major_formatter()):
            if isinstance(formatter, FuncFormatter):  # as of labels given one by one
                formatter.func = partial(_label, formatter.func)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # shown as a box
        figure_of.savefig(target, **options)


def _label(label: Callable[..., str], x: float, pos: int | None = None) -> str:
    """Return the label of a tick as text."""
    return _as_text(label(x, pos))


def _as_text(text: str) -> str:
    """Return text as matplotlib shows it literally, except the formulas of its own tick labels."""
    if text.startswith(r"$\mathdefault{"):
        return text
    return re.sub(r"(?<!\\)\$", r"\\$", printable(text, keep="\n\t"))


def axes(ax: Axes | None) -> Axes:
    """Return `ax`, or the current axes if it is ``None``."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.gca()


def whole_numbers(ax: Axes) -> None:
    """Place the ticks of the horizontal axis, usually epochs, at whole numbers only."""
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
