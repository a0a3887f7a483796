"""The common style of figures: colours safe for colour-blind readers, sizes, texts, ticks, files.

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
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    StrMethodFormatter,
)
from numpy.typing import NDArray

from topokit.foreign import printable
from topokit.graph.files import write_atomic
from topokit.tables import hint

__all__ = [
    "COLOURS",
    "LINES",
    "MARKERS",
    "POINT",
    "RC",
    "SIZES",
    "axes",
    "few_ticks",
    "figure",
    "house_style",
    "inches",
    "literal",
    "plain_degrees",
    "row_labels",
    "save",
    "thin_labels",
    "whole_numbers",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NULL = "#777777"
POINT = 72.0  # typographic points in an inch

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

NO_DATES: dict[str, dict[str, object]] = {
    "png": {"Software": "topokit"},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}
"""What a file of each kind says of itself: nothing that differs between equal figures."""

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
    """Save the figure that `ax` belongs to; `options` are those of matplotlib's ``savefig``.

    Equal figures give equal files of the formats in `NO_DATES`.
    """
    figure_of = ax.get_figure(root=True)
    if figure_of is None:
        return
    kind = options.pop("format", None)
    if kind is None and isinstance(target, Path):
        kind = target.suffix.lstrip(".")
    kind = (kind or "png").lower()
    options = {"format": kind, **options}
    if kind in NO_DATES:
        options.setdefault("metadata", NO_DATES[kind])
    if isinstance(target, io.BytesIO):
        _draw(figure_of, target, **options)
        return
    with write_atomic(target, sync=False) as temporary:
        _draw(figure_of, temporary, **options)


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
    return text if text.startswith(r"$\mathdefault{") else literal(text)


def literal(name: str) -> str:
    r"""Return a name, such as that of a layer, as text that matplotlib shows literally.

    Dollar signs enclose no formula and control characters are escaped.

    Examples
    --------
    >>> print(literal("fc$1$"))
    fc\$1\$
    """
    return re.sub(r"(?<!\\)\$", r"\\$", printable(name, keep="\n\t"))


def axes(ax: Axes | None) -> Axes:
    """Return `ax` or, if it is ``None``, the axes of a new figure of pyplot."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.figure(layout="constrained").add_subplot()


def whole_numbers(ax: Axes) -> None:
    """Place the ticks of the horizontal axis, usually epochs, at whole numbers only."""
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


# --- ticks ---------------------------------------------------------------------------------------


class _Degrees(LogLocator):
    """Ticks at 1, 2 and 5 times powers of ten, or at round numbers over less than a decade.

    On a short axis there are fewer, so that their labels are apart.
    """

    def tick_values(self, vmin: float, vmax: float) -> Any:
        found = np.empty(0)
        for subs in ((1.0,),) if vmax > 400 * max(vmin, 1e-12) else ((1.0, 2.0, 5.0), (1.0,)):
            self.set_params(subs=subs, numticks=99)  # thinned below
            found = np.asarray(super().tick_values(vmin, vmax))
            found = found[(found >= vmin) & (found <= vmax)]
            if _apart(self.axis, found, vmin, vmax):
                break
        if vmax < 10 * vmin and not 2 < found.size < 6:
            for n in (4, 3, 2):
                coarse: Any = MaxNLocator(n, integer=True, steps=[1, 2, 5, 10])
                found = np.asarray(coarse.tick_values(vmin, vmax))
                found = found[(found >= vmin) & (found <= vmax)]
                if _apart(self.axis, found, vmin, vmax):
                    break
        while found.size > 2 and not _apart(self.axis, found, vmin, vmax):
            found = found[::2]
        return found


class _FewTicks(MaxNLocator):
    """Two or three ticks away from the ends of a small axis, where labels would meet others.

    There is one if the labels of two would meet.
    """

    def tick_values(self, vmin: float, vmax: float) -> Any:
        margin = 0.12 * (vmax - vmin)
        found = np.empty(0)
        for n in (2, 3, 4, 6):
            self.set_params(nbins=n)
            found = np.asarray(super().tick_values(vmin, vmax))
            found = found[(found >= vmin + margin) & (found <= vmax - margin)]
            if found.size > 1:
                break
        if not _apart(self.axis, found, vmin, vmax, least=5):
            found = found[[0, -1]]
        return found if _apart(self.axis, found, vmin, vmax, least=5) else found[:1]


def few_ticks(axis: Axis) -> None:
    """Mark two or three values of a small axis, away from its ends."""
    axis.set_major_locator(_FewTicks())


def _apart(
    axis: Any, ticks: NDArray[np.float64], vmin: float, vmax: float, *, least: int = 1
) -> bool:
    """Return whether the labels of ticks have gaps between them.

    They are taken to have at least `least` characters.
    """
    name = getattr(axis, "axis_name", "")
    if name not in ("x", "y") or ticks.size < 2:
        return True
    along = "width" if name == "x" else "height"
    room = getattr(axis.axes.bbox, along) / axis.axes.figure.dpi * POINT
    scale = np.log if axis.get_scale() == "log" else np.asarray
    places = (scale(ticks) - scale(vmin)) / (scale(vmax) - scale(vmin)) * room
    usual = mpl.rcParams["xtick.labelsize" if name == "x" else "ytick.labelsize"]
    size = axis.get_tick_params("major").get("labelsize", usual)
    size = FontProperties(size=size).get_size_in_points()
    if name == "y":
        return bool(np.all(np.diff(places) > 1.3 * size))
    half = np.array([0.32 * size * max(len(f"{tick:g}"), least) for tick in ticks])
    return bool(np.all(np.diff(places) > half[1:] + half[:-1] + 0.4 * size))


def plain_degrees(axis: Axis) -> None:
    """Mark degrees on a logarithmic axis in plain numbers."""
    axis.set_major_locator(_Degrees())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def row_labels(ax: Axes) -> list[Text]:
    """Return the labels of the vertical axis, those that are hidden, too."""
    ax.get_yticklabels()  # which gives them their texts, and leaves out the hidden ones
    return [tick.label1 for tick in ax.yaxis.get_major_ticks()]


def thin_labels(ax: Axes) -> None:
    """Hide labels of the vertical axis, all but every second, third, ..., where they would meet."""
    labels = row_labels(ax)
    if not labels:
        return
    room = POINT * ax.bbox.height / ax.figure.dpi / len(labels)
    lines = max(label.get_text().count("\n") + 1 for label in labels)
    step = max(1, int(np.ceil(1.3 * lines * float(labels[0].get_fontsize()) / room)))
    for i, label in enumerate(labels):
        label.set_visible(i % step == 0)
