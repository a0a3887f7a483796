"""Parts that figures share: the next colour, legends that cover nothing, panels, values apart."""

from __future__ import annotations

import functools
import itertools
import re
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cbook import STEP_LOOKUP_MAP, normalize_kwargs
from matplotlib.collections import Collection, PathCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.mathtext import MathTextParser
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox, ScaledTranslation, blended_transform_factory
from numpy.typing import ArrayLike, NDArray

from topokit.plots.style import LINES, NULL, POINT, literal, plain_degrees
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
    "label_axes",
    "legend",
    "legend_below",
    "looks_of",
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
    "without_neighbours",
]

CORNERS = ("upper right", "lower left", "upper left", "lower right", "center right", "center left")
FLOOR = 0.03  # of the height of an axes, below 0, so that a line at 0 is seen
NO_MARKERS = (None, "", "None", "none", " ")
LEAST_PANELS, LOWEST = 9, 0.42  # number of panels in any axes; inches that a row of more needs
MANY = 20  # lines, above which a legend of all would be larger than the figure
_partial: weakref.WeakSet[Axes] = weakref.WeakSet()  # those with panels of some layers only


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


def looks_of(
    ax: Axes, names: Sequence[str], label: str | None, color: Any = None
) -> list[dict[str, Any]]:
    """Return the style and the label of a line for each name.

    More than `MANY` are shades of one colour, from light (the first) to dark (the last), and the
    legend has the first and the last.
    """
    n = len(names)
    if n <= MANY:
        return [
            {**one_of_many(i, color), "label": named(label, name)} for i, name in enumerate(names)
        ]
    dark = next_colour(ax, color)
    words = [f"_{name}" for name in names]
    for at, place in ((0, "first"), (-1, "last")):
        words[at] = f"{named(label, names[at])}, {place} of {n}"
    return [
        {"color": shade(ax, dark, 0.25 + 0.75 * i / (n - 1)), "linestyle": "-", "marker": "none",
         "label": word} for i, word in enumerate(words)
    ]  # fmt: skip


def reference(color: Any = NULL, **style: Any) -> dict[str, Any]:
    """Return the style of a line to compare with; it takes nothing from the colour cycle."""
    return {"color": color, "marker": "none", "linestyle": ":", "linewidth": 1.0, **style}


def styled(
    given: Mapping[str, Any], artist: type[Artist] = Line2D, **defaults: Any
) -> dict[str, Any]:
    """Return the properties of an artist: the given ones, by any of their names, over defaults."""
    return {**defaults, **normalize_kwargs(dict(given), artist)}


def shade(ax: Axes, color: Any, share: float) -> str:
    """Return a colour between that of the axes' ground (0) and `color` (1).

    Behind transparent axes is the figure, and behind a transparent figure white paper.
    """
    full, ground = np.array(to_rgb(color)), np.ones(3)
    figure = ax.get_figure(root=True)
    for above in (ax if figure is None else figure, ax):
        *rgb, alpha = to_rgba(above.get_facecolor())
        ground = alpha * np.array(rgb) + (1 - alpha) * ground
    mixed: Any = np.clip(ground + share * (full - ground), 0, 1)
    return to_hex(mixed)


def scale_to(ax: Axes, color: Any) -> LinearSegmentedColormap:
    """Return a colour map from near the ground of the axes to `color`."""
    ends = [shade(ax, color, 0.12), shade(ax, color, 0.55), to_hex(color)]
    return LinearSegmentedColormap.from_list("to " + to_hex(color), ends)


def named(label: str | None, name: str) -> str:
    """Return the name of a part of what `label` names: "run A, fc1"; for a legend, too.

    There matplotlib hides what begins with "_", as do names of layers of a compiled model.
    """
    name = literal(name)
    return f"{label}, {name}" if label else f" {name}" if name.startswith("_") else name


def short_names(names: Iterable[str], *, always: bool = False) -> list[str]:
    """Return names of layers as text, shortened if they are long and more than six (or `always`).

    Parts but the last keep their first letter and their number: "s1.b2.conv1". Names that would
    then be equal stay as they are.
    """
    names = [literal(name) for name in names]
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
    """Set a title, after the name of what is drawn if it has one, wrapped where the figure ends.

    If something else was drawn in the axes before, such as another layer, both titles are there.
    """
    pad = 2.0 * mpl.rcParams["font.size"] if ax.child_axes else None  # above the titles of panels
    text = f"{label}: {text[:1].lower()}{text[1:]}" if label else text
    ax.set_title(_with_earlier(ax.title, text, "\n"), wrap=True, pad=pad)


def label_axes(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Label both axes; of several quantities in one axes, such as fan-in and fan-out, with all."""
    ax.set_xlabel(_with_earlier(ax.xaxis.label, xlabel, " / "))
    ax.set_ylabel(_with_earlier(ax.yaxis.label, ylabel, " /\n"))


_ours: weakref.WeakKeyDictionary[Text, list[str]] = weakref.WeakKeyDictionary()


def _with_earlier(place: Text, text: str, between: str) -> str:
    """Return a text after those that earlier figures put in its place and the user left there."""
    before = _ours.get(place, [])
    if not before or place.get_text() != between.join(before):
        before = []
    _ours[place] = before if text in before else [*before, text]
    return between.join(_ours[place])


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
    lonely = without_neighbours(joined)
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


def without_neighbours(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the places of finite values between others, which a line does not show."""
    seen = np.concatenate([[False], np.isfinite(values), [False]])
    return np.flatnonzero(seen[1:-1] & ~seen[:-2] & ~seen[2:])


def epoch_limits(epochs: Sequence[int]) -> NDArray[np.float64]:
    """Return the limits of a cell for each epoch, halfway to its neighbours.

    Columns of a map are then as wide as the time that they stand for, also where epochs are
    unevenly spaced.
    """
    middle = [(a + b) / 2 for a, b in itertools.pairwise(epochs)]
    sides = [2 * epochs[0] - (middle or [epochs[0] + 0.5])[0], *middle]
    return np.array([*sides, 2 * epochs[-1] - sides[-1]])


def scale_of_epochs(inside: Iterable[Axes], epochs: Sequence[int]) -> Normalize:
    """Return the scale of epochs in panels, that of runs drawn before, made wider if need be."""
    low, high = min(epochs, default=0), max(epochs, default=1)
    points = [one for panel in inside for one in panel.collections if one.get_array() is not None]
    if not points:
        return Normalize(low, high)
    norm: Any = points[0].norm
    norm.vmin, norm.vmax = min(norm.vmin or 0, low), max(norm.vmax or 0, high)
    return norm


# --- panels --------------------------------------------------------------------------------------


def panels(ax: Axes, layers: Iterable[str]) -> dict[str, Axes]:
    """Return a small axes for each layer, in rows inside `ax`; those already there are used again.

    Each has a horizontal axis of its own; vertical axes are labelled in the first column, and
    `share_y` gives them one scale. The labels of `ax` hold for all panels: it leaves room for the
    ticks in their `labelpad`. Where there is no room for all layers, the first, the last and some
    between have panels.
    """
    layers = list(layers)
    titles = dict(zip(layers, short_names(layers), strict=True))
    there = {panel.get_title(): panel for panel in ax.child_axes if isinstance(panel, Axes)}
    if ax in _partial:
        titles = {layer: name for layer, name in titles.items() if name in there}
    if titles and set(titles.values()) <= set(there):
        return {layer: there[name] for layer, name in titles.items()}
    names = list(titles.values())
    if ax.has_data() or there:
        raise ValueError(
            f"expected an empty axes or one with panels for {', '.join(names)}, got one with "
            + (f"panels for {', '.join(there)}" if there else "data")
        )
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    box, base = ax.get_window_extent(), float(mpl.rcParams["font.size"])
    size = (0.875 if len(names) < 10 else 0.7) * base
    wide = (0.55 * size * max(map(len, names), default=1) + 8) / POINT  # a title and a gap
    beside, below = box.width / ax.figure.dpi / wide, box.height / ax.figure.dpi / LOWEST
    room = max(LEAST_PANELS, int(beside) * int(below))
    if len(names) > room:
        _partial.add(ax)
        layers = [layers[int(i)] for i in np.linspace(0, len(layers) - 1, room)]
        names = [titles[layer] for layer in layers]
    wanted = round(np.sqrt(len(names) * box.width / max(box.height, 1)))
    columns = int(np.clip(wanted, 1, min(len(names), max(1, beside))))
    rows = -(-len(names) // columns)
    small = 0.75 * base
    made = []
    for i, name in enumerate(names):
        row, column = divmod(i, columns)
        panel = ax.inset_axes((0, 0, 1, 1))
        place = functools.partial(_in_grid, ax, (row, column), (rows, columns), base)
        panel.set_axes_locator(place)
        panel.set_title(name, fontsize=size, pad=2)
        panel.tick_params(labelsize=small, pad=1.5, labelleft=column == 0, which="both")
        made.append(panel)
    ax.xaxis.labelpad, ax.yaxis.labelpad = 2.2 * small, 4.2 * small
    return dict(zip(layers, made, strict=True))


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


def share_y(inside: Iterable[Axes]) -> None:
    """Give panels the vertical limits that hold the data of all of them, and of earlier calls."""
    inside = list(inside)
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

    `entries` are handles and labels, by default those of `ax`. In a figure without a layout, which
    would make room for it, the axes begin a little higher.
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
    found = _in_columns(
        ax, handles, labels, width=0.97 * (ax.figure.bbox if alone else ax.bbox).width,
        loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=0.0,
        title=title, title_fontsize="small",
        bbox_transform=blended_transform_factory(across, ax.transAxes) + down,
    )  # fmt: skip
    page = ax.get_figure(root=True)
    if page is not None and page.get_layout_engine() is None:
        _raise_above(ax, page, found)
    return found


def _raise_above(ax: Axes, page: Figure, found: Legend) -> None:
    """Let axes, and their colour bar, begin so high that a legend below is in the figure."""
    place = ax.get_position()
    lacking = (page.bbox.y0 + MARGIN - found.get_window_extent().y0) / ax.figure.bbox.height
    if not 0 < lacking < 0.6 * place.height:
        return
    for one in page.axes:
        own = one.get_position()
        beside = one.get_label() == "<colorbar>" and (own.y0, own.y1) == (place.y0, place.y1)
        if one is ax or beside:
            one.set_position((own.x0, own.y0 + lacking, own.width, own.height - lacking))


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
