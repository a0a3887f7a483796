"""Parts that figures share: the next colour, legends that cover nothing, panels, values apart."""

from __future__ import annotations

import functools
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cbook import STEP_LOOKUP_MAP, normalize_kwargs
from matplotlib.collections import Collection, PathCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex, to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.mathtext import MathTextParser
from matplotlib.path import Path
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from matplotlib.transforms import Bbox, ScaledTranslation, blended_transform_factory
from numpy.typing import ArrayLike, NDArray

from topokit.plots.style import LINES, NULL
from topokit.plugins import place_of

__all__ = [
    "FLOOR",
    "NO_MARKERS",
    "covers",
    "degree_axis",
    "draw_series",
    "drawn_in",
    "draw_in",
    "empty_axes",
    "epoch_limits",
    "few_ticks",
    "legend",
    "legend_below",
    "named",
    "next_colour",
    "one_of_many",
    "panels",
    "reference",
    "scale_of_epochs",
    "scale_to",
    "shade",
    "share_y",
    "short_names",
    "styled",
    "title_of",
    "unless_used",
    "plain_degrees",
]

CORNERS = ("upper right", "lower left", "upper left", "lower right", "center right", "center left")
POINT = 72.0  # typographic points in an inch
FLOOR = 0.03  # of the height of an axes, below 0, so that a line at 0 is seen
NO_MARKERS = (None, "", "None", "none", " ")


# --- colours and styles --------------------------------------------------------------------------


def next_colour(ax: Axes, color: Any = None) -> Any:
    """Return `color` or, if it is ``None``, the next one in the axes' own cycle."""
    if color is not None:
        return color
    (line,) = ax.plot([], [])  # the public way to ask for it
    line.remove()
    return line.get_color()


def one_of_many(i: int, color: Any = None) -> dict[str, Any]:
    """Return the style of the i-th line of a figure, for the axes' cycle to complete.

    With a colour, that all lines share, they differ in their dashes.
    """
    if color is None:
        return {}
    return {"color": color, "linestyle": LINES[i % 6], "marker": "none"}


def reference(color: Any = NULL, **style: Any) -> dict[str, Any]:
    """Return the style of a line to compare with; it takes nothing from the colour cycle."""
    return {"color": color, "marker": "none", "linestyle": ":", "linewidth": 1.0, **style}


def styled(
    given: Mapping[str, Any], artist: type[Artist] = Line2D, **defaults: Any
) -> dict[str, Any]:
    """Return the properties of an artist: the given ones, by any of their names, over defaults."""
    return {**defaults, **normalize_kwargs(dict(given), artist)}


def shade(ax: Axes, color: Any, share: float) -> str:
    """Return a colour between that of the axes' ground (0) and `color` (1)."""
    ground, full = np.array(to_rgb(ax.get_facecolor())), np.array(to_rgb(color))
    return to_hex(np.clip(ground + share * (full - ground), 0, 1))


def scale_to(ax: Axes, color: Any) -> LinearSegmentedColormap:
    """Return a colour map from near the ground of the axes to `color`."""
    ends = [shade(ax, color, 0.12), shade(ax, color, 0.55), to_hex(color)]
    return LinearSegmentedColormap.from_list("to " + to_hex(color), ends)


def named(label: str | None, name: str) -> str:
    """Return the name of a part of what `label` names: "run A, fc1"."""
    return f"{label}, {name}" if label else name


def short_names(names: Iterable[str], *, always: bool = False) -> list[str]:
    """Return names of layers, shortened if they are long and more than six (or `always`).

    Parts but the last keep their first letter and their number: "s1.b2.conv1". Names that would
    then be equal stay as they are.
    """
    names = list(names)
    if not always and (len(names) <= 6 or max(map(len, names)) <= 12):
        return names
    found = []
    for name in names:
        *head, last = name.split(".")
        words = [re.sub(r"^(\w)[^\W\d]*", r"\1", word) for word in head]
        found.append(".".join([*words, last]))
    return found if len(set(found)) == len(found) else names


def unless_used(ax: Axes, label: str) -> str:
    """Return a label for the legend, hidden if the axes has it already."""
    used = ax.get_legend_handles_labels()[1]
    return f"_{label}" if label in used else label


def title_of(ax: Axes, text: str, label: str | None = None) -> None:
    """Set a title, after the name of what is drawn if it has one, wrapped where the figure ends."""
    pad = 2.0 * mpl.rcParams["font.size"] if ax.child_axes else None  # above the titles of panels
    text = f"{label}: {text[:1].lower()}{text[1:]}" if label else text
    ax.set_title(text, wrap=True, pad=pad)


def draw_in(draw: Callable[..., Any], ax: Axes) -> None:
    """Draw a figure in the axes; raise a ValueError if a plot of one's own drew nothing there."""
    function = draw.func if isinstance(draw, functools.partial) else draw
    before = len(ax.get_children())
    draw(ax=ax)
    place = place_of(function)
    if place and not ax.get_title() and len(ax.get_children()) == before:
        raise ValueError(
            f"plot {getattr(function, '__name__', draw)!r}{place}: expected it to draw in the axes "
            "given as ax, found nothing there"
        )


def empty_axes(ax: Axes, name: str) -> None:
    """Raise a ValueError if something is drawn in the axes: the figure `name` would cover it."""
    if ax.has_data() or ax.child_axes:
        raise ValueError(
            f"expected an empty axes, since {name} fills it, got one with data; give each "
            f"{name} an axes of its own, or leave ax out for a new figure"
        )


# --- axes of degrees -----------------------------------------------------------------------------


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


def degree_axis(ax: Axes) -> None:
    """Make both axes logarithmic if they have data, the horizontal one with plain numbers.

    Where all units have one degree, the axes are not stretched over decades around it.
    """
    if not np.isfinite(ax.dataLim.minpos).all():  # only graphs without edges
        return
    ax.set(xscale="log", yscale="log")
    if ax.dataLim.width == 0:
        ax.set_xlim(ax.dataLim.x0 / 1.6, ax.dataLim.x0 * 1.6, auto=True)
    if ax.dataLim.height == 0:
        ax.set_ylim(ax.dataLim.y0 / 10, ax.dataLim.y0 * 1.5, auto=True)
    plain_degrees(ax.xaxis)


def plain_degrees(axis: Axis) -> None:
    """Mark degrees on a logarithmic axis in plain numbers."""
    axis.set_major_locator(_Degrees())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


# --- series over epochs --------------------------------------------------------------------------


def draw_series(
    ax: Axes, x: ArrayLike, y: ArrayLike, given: Mapping[str, Any], **defaults: Any
) -> Line2D:
    """Draw values over epochs; what is undefined or exactly 0 is not joined to the other values.

    Undefined values leave a gap. Zeros among other values, such as the spectral gap of a layer
    that has fallen apart, are crosses on the zero line; a series of zeros alone is a line. A value
    without neighbours is a dot.
    """
    x, y = np.asarray(x, float), np.array(y, float)
    apart = (y == 0) & bool(np.any(np.isfinite(y) & (y != 0)))
    joined = np.where(apart, np.nan, y)
    seen = np.concatenate([[False], np.isfinite(joined), [False]])
    lonely = np.flatnonzero(seen[1:-1] & ~seen[:-2] & ~seen[2:])
    style = styled(given, **defaults)
    if lonely.size and style.get("marker") in NO_MARKERS:
        style |= {"marker": "o", "markersize": 2, "markevery": lonely.tolist()}
    (line,) = ax.plot(x, joined, **style)
    if apart.any():
        label = unless_used(ax, "exactly 0")
        ax.plot(
            x[apart], y[apart], linestyle="none", marker="x", markersize=3.5, label=label,
            color=line.get_color(), markeredgewidth=0.8, clip_on=False, gid="mark",
        )  # fmt: skip
    return line


def epoch_limits(epochs: Sequence[int]) -> NDArray[np.float64]:
    """Return the limits of a cell for each epoch, halfway to its neighbours.

    Columns of a map are then as wide as the time that they stand for, also where epochs are
    unevenly spaced.
    """
    middle = [(a + b) / 2 for a, b in itertools.pairwise(epochs)]
    sides = [2 * epochs[0] - (middle or [epochs[0] + 0.5])[0], *middle]
    return np.array([*sides, 2 * epochs[-1] - sides[-1]])


def scale_of_epochs(inside: Sequence[Axes], epochs: Sequence[int]) -> Normalize:
    """Return the scale of epochs in panels, that of runs drawn before, made wider if need be."""
    low, high = min(epochs, default=0), max(epochs, default=1)
    points = [one for panel in inside for one in panel.collections if one.get_array() is not None]
    if not points:
        return Normalize(low, high)
    norm: Any = points[0].norm
    norm.vmin, norm.vmax = min(norm.vmin or 0, low), max(norm.vmax or 0, high)
    return norm


# --- panels --------------------------------------------------------------------------------------


def panels(ax: Axes, names: Iterable[str]) -> list[Axes]:
    """Return a small axes for each name, in rows inside `ax`; those already there are used again.

    Each has a horizontal axis of its own; vertical axes are labelled in the first column, and
    `share_y` gives them one scale. The labels of `ax` hold for all panels: it leaves room for the
    ticks in their `labelpad`.
    """
    names = short_names(names)
    there = {panel.get_title(): panel for panel in ax.child_axes if isinstance(panel, Axes)}
    if names and set(names) <= set(there):
        return [there[name] for name in names]
    if ax.has_data() or there:
        raise ValueError(
            f"expected an empty axes or one with panels for {', '.join(names)}, got one with "
            + (f"panels for {', '.join(there)}" if there else "data")
        )
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    box = ax.get_window_extent()
    wanted = round(np.sqrt(len(names) * box.width / max(box.height, 1)))
    columns = int(np.clip(wanted, 1, len(names)))
    rows = -(-len(names) // columns)
    base = float(mpl.rcParams["font.size"])
    small = 0.75 * base
    made = []
    for i, name in enumerate(names):
        row, column = divmod(i, columns)
        panel = ax.inset_axes((0, 0, 1, 1))
        place = functools.partial(_in_grid, ax, (row, column), (rows, columns), base)
        panel.set_axes_locator(place)
        panel.set_title(name, fontsize=(0.875 if len(names) < 10 else 0.7) * base, pad=2)
        panel.tick_params(labelsize=small, pad=1.5, labelleft=column == 0, which="both")
        made.append(panel)
    ax.xaxis.labelpad, ax.yaxis.labelpad = 2.2 * small, 4.2 * small
    return made


def _in_grid(
    ax: Axes, cell: tuple[int, int], shape: tuple[int, int], base: float, panel: Any, renderer: Any
) -> Bbox:
    """Return the place of a panel in a figure; between panels there is room for titles and ticks.

    It is asked for when the figure is drawn: the room is `base` times a constant also after a
    legend below has made the axes smaller.
    """
    box, points = ax.bbox, ax.figure.dpi / POINT
    gap_x, gap_y = 1.2 * base * points, 2.9 * base * points
    (row, column), (rows, columns) = cell, shape
    w = max(box.width - gap_x * (columns - 1), 0.1 * box.width) / columns
    h = max(box.height - gap_y * (rows - 1), 0.1 * box.height) / rows
    x, y = box.x0 + column * (w + gap_x), box.y0 + (rows - 1 - row) * (h + gap_y)
    return Bbox.from_bounds(x, y, w, h).transformed(ax.figure.transSubfigure.inverted())


def share_y(inside: Sequence[Axes]) -> None:
    """Give panels the vertical limits that hold the data of all of them, and of earlier calls."""
    varied = [panel for panel in inside if panel.dataLim.height > 0] or inside
    for panel in varied:
        panel.autoscale(axis="y")  # an earlier call fixed the limits
    limits = np.array([panel.get_ylim() for panel in varied])
    for panel in inside:
        panel.set_ylim(limits[:, 0].min(), limits[:, 1].max())


# --- legends -------------------------------------------------------------------------------------

# Idea: matplotlib's "best" place is the least bad of nine, and says nothing if each of them covers
# a curve. Here each corner is tried, and if in all of them the box meets something drawn, the
# legend is placed below the axes, where the figure's layout makes room for it; an axes whose
# figure has no such layout gets room above its curves instead.
# Cost: a few milliseconds; in a figure of several axes some tens, for a first layout that gives
# them nearly the size that they are going to have. Boxes are tested with a margin.
MARGIN = 4.0  # points


@contextmanager
def _measured() -> Iterator[None]:
    """Measure texts without a warning of characters that the font lacks; they become a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


@_measured()
def legend(ax: Axes, *, corners: Iterable[Any] = CORNERS) -> Legend | None:
    """Make one legend of everything labelled, where it covers nothing that is drawn."""
    handles, labels = _entries(ax)
    if not handles:
        return None
    before, page = ax.get_legend(), ax.get_figure(root=True)
    if before is not None:
        before.remove()
    layout = None if page is None else page.get_layout_engine()
    if page is not None and layout is not None and len(page.axes) > 1:
        with suppress(ValueError):  # of a title with dollar signs that is no formula
            layout.execute(page)  # one axes alone hardly changes its size
    ax.get_xlim(), ax.get_ylim()  # computes the limits, which determine where things are
    found = ax.legend(handles, labels)
    pad = MARGIN / POINT * ax.figure.dpi
    room = ax.get_window_extent()
    for corner in corners:
        found.set_loc(corner)
        box = found.get_window_extent().padded(pad)
        fits = box.width < room.width + pad and box.height < room.height + pad
        if fits and not any(covers(box, artist) for artist in drawn_in(ax)):
            return found
    if layout is not None:
        return legend_below(ax)
    return _legend_above_curves(ax)


@_measured()
def legend_below(ax: Axes, *entries: Any, title: str | None = None) -> Legend | None:
    """Make one legend below the label of the horizontal axis, in as many columns as fit.

    `entries` are handles and labels, by default those of `ax`.
    """
    handles, labels = entries or _entries(ax)
    if not handles:
        return None
    dpi = ax.figure.dpi
    under = None
    with suppress(ValueError):  # as above, of a label of a tick
        under = ax.xaxis.get_tightbbox()
    bottom = ax.get_window_extent().y0
    points = 4.0 if under is None else POINT * (bottom - under.y0) / dpi + 4.0
    if ax.child_axes:  # the ticks of panels are below the axes, and its label is below them
        points = max(points, ax.xaxis.labelpad + 14.0)
    down = ScaledTranslation(0, -points / POINT, ax.figure.dpi_scale_trans)
    alone = list(ax.figure.axes) == [ax]
    across = ax.figure.transFigure if alone else ax.transAxes
    return _in_columns(
        ax, handles, labels, width=0.97 * (ax.figure.bbox if alone else ax.bbox).width,
        loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=0.0,
        title=title, title_fontsize="small",
        bbox_transform=blended_transform_factory(across, ax.transAxes) + down,
    )  # fmt: skip


def _in_columns(ax: Axes, handles: Any, labels: Any, *, width: float, **place: Any) -> Legend:
    """Make a legend with the largest number of columns that is not wider than `width`."""
    for n in range(min(len(handles), 6), 0, -1):
        found = ax.legend(handles, labels, ncols=n, **place)
        if found.get_window_extent().width <= width:
            break
    return found


def _legend_above_curves(ax: Axes) -> Legend:
    """Make a legend at the top and raise the upper limit until the curves are below it.

    Where that would need more than a third of the axes, or the axis is logarithmic, the legend is
    where matplotlib finds it to cover least.
    """
    found = _in_columns(ax, *_entries(ax), width=ax.bbox.width, loc="upper center")
    pad = 2 * MARGIN / POINT * ax.figure.dpi
    share = (found.get_window_extent().height + pad) / ax.get_window_extent().height
    if share > 1 / 3 or ax.get_yscale() != "linear" or ax.yaxis_inverted():
        return ax.legend(*_entries(ax), loc="best", frameon=True, framealpha=0.7)
    low, high = ax.get_ylim()
    ax.set_ylim(top=low + (max(high, ax.dataLim.y1) - low) / (1 - share))
    return found


def _entries(ax: Axes) -> tuple[list[Any], list[str]]:
    """Return handles and labels of what is labelled, each label and look once, marks last."""
    found: dict[Any, tuple[Any, str]] = {}
    every = list(zip(*ax.get_legend_handles_labels(), strict=True))
    for handle, label in sorted(every, key=lambda entry: _gid(entry[0]) == "mark"):
        look = handle.get_color() if isinstance(handle, Line2D) else id(handle)
        found.setdefault((label, str(look)), (handle, label))
    return [handle for handle, _ in found.values()], [_shown(name) for _, name in found.values()]


def _shown(label: str) -> str:
    """Return a label whose dollar signs are text if they enclose no formula."""
    if label.count("$") > 1:
        try:
            MathTextParser("path").parse(label)
        except ValueError:
            return label.replace("$", r"\$")
    return label


def _gid(handle: Any) -> Any:
    """Return the group of an artist; a container of several has none."""
    return handle.get_gid() if isinstance(handle, Artist) else None


def drawn_in(ax: Axes) -> list[Artist]:
    """Return what a legend must not cover."""
    return [
        artist
        for artist in (*ax.lines, *ax.collections, *ax.patches, *ax.texts)
        if artist.get_visible()
    ]


def covers(box: Bbox, artist: Artist) -> bool:
    """Return whether a box of the screen meets what is seen of an artist."""
    if artist.get_clip_on() and artist.axes is not None:
        seen = Bbox.intersection(box, artist.axes.bbox)
        if seen is None:
            return False
        box = seen
    if isinstance(artist, Line2D):
        x, y = (np.asarray(v, float) for v in artist.get_data())
        steps = STEP_LOOKUP_MAP[artist.get_drawstyle()](x, y)
        points = _on_screen(artist.get_transform(), np.column_stack(steps))
        if artist.get_linestyle() in ("None", "none", "", " "):
            return bool(box.count_contains(points))
        return len(points) > 1 and bool(Path(points).intersects_bbox(box, filled=False))
    if isinstance(artist, PathCollection):
        offsets: Any = np.ma.filled(np.ma.asarray(artist.get_offsets(), float), np.nan)
        return bool(box.count_contains(_on_screen(artist.get_offset_transform(), offsets)))
    if isinstance(artist, Collection):
        to = artist.get_transform()
        areas = (_on_screen(to, path.vertices) for path in artist.get_paths())
        return any(len(area) and Path(area).intersects_bbox(box) for area in areas)
    return bool(box.overlaps(artist.get_window_extent()))


def _on_screen(transform: Any, points: Any) -> NDArray[np.float64]:
    """Return the places of points on the screen, without those that have none."""
    with np.errstate(all="ignore"):
        found = np.asarray(transform.transform(np.asarray(points, float)))
    return found[np.isfinite(found).all(axis=1)]
