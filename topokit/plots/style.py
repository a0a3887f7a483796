"""The common style of figures: colours safe for colour-blind readers, sizes of one and two columns.

Importing it changes no setting of matplotlib. `house_style` and `figure` apply the style to what is
made within them; a figure function called elsewhere follows the settings and the colour cycle of
its caller.
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
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from topokit.foreign import printable
from topokit.graph.files import write_atomic
from topokit.tables import hint

__all__ = [
    "COLOURS",
    "LINES",
    "MARKERS",
    "RC",
    "SIZES",
    "axes",
    "figure",
    "house_style",
    "inches",
    "save",
    "whole_numbers",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NULL = "#777777"

SIZES = {"column": (3.5, 2.7), "page": (7.2, 4.4)}
"""Width and height in inches of a figure of one column, and of one over the whole page."""

# Seven colours and six line styles: 42 lines differ in one of the two.
CYCLE = cycler(
    color=[COLOURS[i % 7] for i in range(42)], linestyle=[LINES[i % 6] for i in range(42)]
)

TEXT_AS_TEXT: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "topokit",
    "pdf.fonttype": 42,
}
"""Settings that matplotlib reads when it writes a file."""

RC: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": CYCLE,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    **TEXT_AS_TEXT,
}


def inches(size: str | tuple[float, float]) -> tuple[float, float]:
    """Return width and height of a size in inches: ``"column"``, ``"page"``, or the two numbers.

    Raises
    ------
    ValueError
        If it is none of them.

    Examples
    --------
    >>> inches("column"), inches((4, 3))
    ((3.5, 2.7), (4.0, 3.0))
    """
    if isinstance(size, str):
        if size not in SIZES:
            raise ValueError(
                f"expected size 'column', 'page' or (width, height) in inches, got {size!r}; "
                f"{hint(size, SIZES)}".rstrip("; ")
            )
        return SIZES[size]
    width, height = size
    if not (width > 0 and height > 0):
        raise ValueError(f"expected a width and a height above 0 inches, got {width} and {height}")
    return float(width), float(height)


@contextmanager
def house_style(*, size: str | tuple[float, float] = "column") -> Iterator[None]:
    """Draw in topokit's style within a ``with`` block; afterwards all settings are as before.

    Figures made within it look like those of ``topokit plot``.

    Parameters
    ----------
    size : str or tuple of float
        Of new figures: ``"column"`` (3.5 inches wide), ``"page"`` (7.2) or width and height.

    Raises
    ------
    ValueError
        If the size is none of them.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> from topokit.plots import degree_histogram
    >>> with house_style(size="page"):
    ...     ax = degree_histogram(LayerGraph.from_edge_ids([0, 3], (2, 2)))
    >>> ax.figure.get_size_inches().tolist()
    [7.2, 4.4]
    """
    settings = {**RC, "figure.figsize": inches(size)}
    with mpl.rc_context(cast("Any", settings)):
        yield


@contextmanager
def figure(*, size: str | tuple[float, float] = "column") -> Iterator[Axes]:
    """Yield the axes of a new figure in topokit's style, by default one column wide.

    The figure is not one of pyplot's, so there is none to close.
    """
    with house_style(size=size):
        fig = Figure(layout="constrained")
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
    with warnings.catch_warnings(), mpl.rc_context(cast("Any", TEXT_AS_TEXT)):
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
    """Return `ax` or, if it is ``None``, the axes of a new figure of pyplot."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.figure(layout="constrained").add_subplot()


def whole_numbers(ax: Axes) -> None:
    """Place the ticks of the horizontal axis, usually epochs, at whole numbers only."""
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
