"""Figure of a whole network: every edge if there are few, else flows between degree classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from os.path import isdir
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path
from numpy.typing import NDArray

from topokit.experiments.record import History, as_run, epoch_at
from topokit.graph import LayerGraph
from topokit.graph.convert import GraphLike, as_topology
from topokit.plots.layer import degree_ranks, random_law
from topokit.plots.parts import (
    empty_axes,
    legend_below,
    shade,
    short_names,
    styled,
    title_of,
)
from topokit.plots.style import COLOURS, NULL, axes, literal

__all__ = ["network"]

EXACT_UNITS, EXACT_EDGES = 64, 3000  # up to these sizes every unit and every edge is drawn
HUB_LEVEL = 0.01  # probability of one or more hubs in a column of a random network
USUAL = 0.05  # share of a random network's units below the usual degrees, and above them
RISE = 0.25  # of the arc of a parallel layer, in the height of a column
SHORTCUTS = ("shortcut", "downsample", "skip", "residual")
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q", "k", "v"))

# Layout. Drawing a line for each edge of a network with millions of edges gives a black rectangle
# with moiré patterns and takes minutes. Units in a column are therefore divided into five classes
# by degree: without edges, fewer edges than usual, usual, more than usual, and hubs. The classes
# are quantiles of the degrees in a random network with the same numbers of units and edges, so in
# a random network nearly everything is "usual", and hubs occur only where a random network has
# none. A class is a bar whose height is its share of the edge ends in its column, and a band
# between two classes has at each end the share of its edges in that bar.
# Networks of at most 64 units in a column and 3,000 edges are drawn edge by edge; their units are
# in order of degree, which keeps places comparable between epochs and is deterministic, as an
# order with few crossings is not.
# A layer joins the column of the units that it reads and that of those it writes. A topology says
# only the shapes: a layer follows the last column if the widths fit (a convolution's inputs are
# channels times kernel cells), is parallel to the layers before it if it writes as many units as
# they do and reads an earlier column or has the name of a shortcut, and otherwise begins a column
# of its own.
# Cost: O(edges) to count; at most 25 bands for each layer, whatever its size.

CLASSES = ("no edges", "fewer", "usual", "more", "hubs")
CLASS_COLOURS = ("#ffffff", COLOURS[5], "#b5b5b5", COLOURS[4], COLOURS[1])


@dataclass
class _Column:
    """Units side by side: their name, degrees, and the law of their degrees in a random network."""

    name: str
    degrees: NDArray[np.int64]
    null: NDArray[np.float64]

    def add(self, degrees: NDArray[np.int64], null: NDArray[np.float64]) -> None:
        """Add the degrees that units have in a further layer."""
        from scipy.signal import fftconvolve

        self.degrees = self.degrees + degrees
        self.null = np.maximum(fftconvolve(self.null, null), 0.0)


@dataclass
class _Layer:
    """The edges between two columns: places of the columns, and the unit at each end."""

    left: int
    right: int
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]


def network(
    source: GraphLike,
    *,
    epoch: int = -1,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    r"""Draw a network in columns, inputs on the left, units of higher degree above.

    Small networks are drawn exactly: each unit is a dot whose area is its degree, each edge a
    line. In large networks units are divided into classes by degree, compared with a random
    network of the same size: hubs (in a random network a column has one with a probability of
    1 %), more edges than 95 % of its units, fewer than 95 %, and the usual degrees between. The
    height of a class is its share of the edges at its column, and the bands are edges between
    classes. A random network is grey; with hubs, orange flows grow at the top. Layers parallel to
    others, such as the shortcut of a residual block, are arcs over them.

    Parameters
    ----------
    source : History or dict of LayerGraph
        A run or its directory, or anything that `topokit.graph.convert.as_topology` accepts.
    epoch : int
        A recorded epoch of the run; negative numbers count back from the last one recorded.
    label : str, optional
        Name of the network in the title.
    color : color, optional
        Of units and classes of usual degree; by default blue (units) and grey (classes).
    ax : Axes, optional
        An empty one; by default that of a new figure.
    **kwargs
        Properties of the lines or bands, as of `matplotlib.collections.Collection`.

    Returns
    -------
    Axes
        If the number of inputs of a layer differs from the number of outputs of the layer before,
        and it is parallel to no layer, its inputs get a column of their own.

    Raises
    ------
    ValueError
        If something is drawn in the axes already, or the epoch was not recorded.

    Notes
    -----
    O(edges) time. The figure has at most 3,000 lines in all (exact) or 25 bands for each layer.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> layer = LayerGraph.from_edge_ids([0, 1, 5, 7], (3, 3))
    >>> ax = network({"fc1": layer, "fc2": layer}, ax=Figure().add_subplot())
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['inputs\n3', 'fc1\n3', 'fc2\n3']
    """
    run = _run_of(source)
    topology: Mapping[str, LayerGraph] = {}
    title = "Network"
    if run is None:
        topology = as_topology(source)
    elif run.recorded:
        epoch = epoch_at(run.recorded, epoch)
        topology, title = run.topology(epoch), f"Network, epoch {epoch}"
    ax = axes(ax)
    empty_axes(ax, "network")
    columns, layers = _columns(topology)
    exact = (
        max([column.degrees.size for column in columns] + [0]) <= EXACT_UNITS
        and sum(graph.n_edges for graph in topology.values()) <= EXACT_EDGES
    )
    skipping = max([layer.right - layer.left for layer in layers] + [1]) > 1
    ax.set(xlim=(-0.3, max(len(columns), 1) - 0.7), ylim=(-0.04, 1.06 + RISE * skipping))
    ax.set(yticks=[], xlabel="layer and number of units")
    ax.set_ylabel(
        "units by degree,\nhighest on top" if exact else "share of edges\nby degree class"
    )
    ax.spines[:].set_visible(False)
    title_of(ax, title, label)
    _label_columns(ax, columns)
    if exact:
        _draw_units_and_edges(ax, columns, layers, color, kwargs)
    else:
        _draw_classes(ax, columns, layers, color, kwargs)
    return ax


def _run_of(source: Any) -> History | None:
    """Return `source` as a run if it is one or the path of a run directory, else None."""
    is_folder = isinstance(source, str | PathLike) and isdir(source)
    return as_run(source) if is_folder or hasattr(source, "recorded") else None


# --- columns and layers --------------------------------------------------------------------------


def _columns(topology: Mapping[str, LayerGraph]) -> tuple[list[_Column], list[_Layer]]:
    """Return the columns of units of a network, and its layers between them."""
    columns: list[_Column] = []
    layers: list[_Layer] = []
    ends: dict[str, tuple[int, int]] = {}  # the two columns of each layer so far
    for name, graph in topology.items():
        left, parallel = _place(name, graph, columns, ends)
        if left is None:
            start = f"inputs of {name}" if columns else "inputs"
            columns.append(_Column(start, np.zeros(graph.n_in, np.int64), np.ones(1)))
            left = len(columns) - 1
        n_sources = columns[left].degrees.size
        cells = max(graph.n_in // max(n_sources, 1), 1)
        if n_sources > graph.n_in:  # the column has the kernel cells of this layer's channels
            sources = graph.indices.astype(np.int64) * (n_sources // graph.n_in)
        else:
            sources = graph.indices.astype(np.int64) // cells
            columns[left].add(
                np.bincount(sources, minlength=n_sources), _law(graph, cells * graph.n_out)
            )
        if not parallel:
            columns.append(_Column(name, np.zeros(graph.n_out, np.int64), np.ones(1)))
        right = len(columns) - 1
        columns[right].add(graph.fan_in, _law(graph, graph.n_in))
        layers.append(_Layer(left, right, sources, graph.rows))
        ends[name] = (left, right)
    return columns, layers


def _place(
    name: str, graph: LayerGraph, columns: Sequence[_Column], ends: Mapping[str, tuple[int, int]]
) -> tuple[int | None, bool]:
    """Return the column that a layer reads (None for one of its own), and whether it is parallel.

    A parallel layer writes the last column, another one a new column.
    """
    if not columns:
        return None, False
    words = name.split(".")
    for i, word in enumerate(words):
        if word in SHORTCUTS:
            block = [pair for other, pair in ends.items() if other.split(".")[:i] == words[:i]]
            if block and graph.n_out == columns[-1].degrees.size:
                sizes = sorted((graph.n_in, columns[block[0][0]].degrees.size))
                if _kernel_cells(*sizes[::-1]):
                    return block[0][0], True
    for group in TOGETHER:
        if words[-1] in group:
            for first in group:
                found = ends.get(".".join([*words[:-1], first]))
                if found and columns[found[0]].degrees.size == graph.n_in:
                    return found[0], False
    last = len(columns) - 1
    if _kernel_cells(graph.n_in, columns[last].degrees.size):
        return last, False
    for i in range(last - 1, -1, -1):
        if _fits(graph, columns[i], columns[last]) and any(left == i for left, _ in ends.values()):
            return i, True
    return None, False


def _fits(graph: LayerGraph, before: _Column, after: _Column) -> bool:
    """Return whether a layer can read one column and write the other."""
    return graph.n_out == after.degrees.size and bool(
        _kernel_cells(graph.n_in, before.degrees.size)
    )


def _kernel_cells(n_in: int, n_units: int) -> int:
    """Return the number of inputs for each unit that is read: 1, or a square such as 9; else 0."""
    cells, rest = divmod(n_in, max(n_units, 1))
    return 0 if rest or int(np.sqrt(cells)) ** 2 != cells else cells


def _law(graph: LayerGraph, n_cells: int) -> NDArray[np.float64]:
    """Return the probabilities of the degrees 0, 1, ... of a unit with that many possible edges.

    Of a grouped convolution, `n_cells` is their number without groups.
    """
    law = random_law(graph, n_cells // graph.groups)
    top = int(law.isf(1e-12)) if graph.n_edges else 0
    return np.asarray(law.pmf(np.arange(top + 1)))


def _classes(column: _Column) -> NDArray[np.int64]:
    """Return the class of each unit, an index into `CLASSES`."""
    above = column.null[::-1].cumsum()[::-1]  # P(K >= k)
    n = max(column.degrees.size, 1)
    hub = _first_below(above, HUB_LEVEL / n)
    more = _first_below(above, USUAL)
    few = int(np.searchsorted(np.cumsum(column.null), USUAL))  # the smallest usual degree
    degrees = column.degrees
    found = np.full(degrees.size, 2)
    found[degrees < few], found[degrees >= more], found[degrees >= hub] = 1, 3, 4
    found[degrees == 0] = 0
    return found


def _first_below(above: NDArray[np.float64], level: float) -> int:
    """Return the smallest k with P(K >= k) below a level."""
    return int(np.sum(above >= level))


def _label_columns(ax: Axes, columns: Sequence[_Column]) -> None:
    """Name the columns, upright and shortened where names are wider than their places."""
    labels = [f"{literal(column.name)}\n{column.degrees.size}" for column in columns]
    ax.set_xticks(range(len(labels)), labels)
    ax.tick_params(axis="x", length=0)
    place = ax.get_window_extent().width / max(len(labels), 1)
    texts = ax.get_xticklabels()
    if any(text.get_window_extent().width > 0.95 * place for text in texts):
        names = short_names([column.name for column in columns], always=True)
        labels = [f"{n}, {c.degrees.size}" for n, c in zip(names, columns, strict=True)]
        ax.set_xticks(range(len(labels)), labels, rotation=90)
        points = 72 * place / ax.figure.dpi
        ax.tick_params(axis="x", labelsize=min(texts[0].get_fontsize(), max(0.8 * points, 3.0)))


# --- every unit and edge -------------------------------------------------------------------------


def _draw_units_and_edges(
    ax: Axes,
    columns: Sequence[_Column],
    layers: Sequence[_Layer],
    color: Any,
    given: dict[str, Any],
) -> None:
    """Draw a line for each edge and a dot for each unit, whose area is its degree."""
    heights = []
    for column in columns:
        n = column.degrees.size
        heights.append(1 - degree_ranks(column.degrees) / (n - 1) if n > 1 else np.full(n, 0.5))
    for layer in layers:
        ends = heights[layer.left][layer.sources], heights[layer.right][layer.targets]
        x, curve = _curve(layer)
        start, stop = (end[:, None] for end in ends)
        share = (x - layer.left) / (layer.right - layer.left)
        y = start + (stop - start) * share + curve
        alpha = 0.7 * float(np.clip(400 / max(layer.sources.size, 1), 0.25, 1))
        style = styled(given, LineCollection, color=NULL, alpha=alpha, linewidth=0.5)
        lines = np.stack([np.broadcast_to(x, y.shape), y], axis=2)
        ax.add_collection(LineCollection(list(lines), **style))
    most = max([int(column.degrees.max(initial=0)) for column in columns] + [1])
    hubs = False
    for x_of, (column, height) in enumerate(zip(columns, heights, strict=True)):
        hub = _classes(column) == 4
        hubs |= bool(hub.any())
        usual = COLOURS[0] if color is None else color
        colours = [COLOURS[1] if one else usual for one in hub]
        ax.scatter(
            np.full(height.size, x_of), height, s=4 + 60 * column.degrees / most, c=colours,
            zorder=3, lw=0.4, edgecolors=[ax.get_facecolor()],
        )  # fmt: skip
    if hubs:
        legend_below(ax, [Patch(color=COLOURS[1])], ["hubs: more edges than in a random network"])


def _curve(layer: _Layer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return places along a layer and how far its edges rise there: a parallel layer is an arc."""
    if layer.right - layer.left == 1:
        return np.array([layer.left, layer.right], float), np.zeros(2)
    share = np.linspace(0, 1, 25)
    return layer.left + (layer.right - layer.left) * share, RISE * np.sin(np.pi * share)


# --- flows between classes -----------------------------------------------------------------------

Span = tuple[float, float]
CURVES = [
    Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.LINETO,
    Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.CLOSEPOLY,
]  # fmt: skip


def _draw_classes(
    ax: Axes,
    columns: Sequence[_Column],
    layers: Sequence[_Layer],
    color: Any,
    given: dict[str, Any],
) -> None:
    """Draw a bar for each class of each column, and a band for the edges between two classes."""
    colours = [*CLASS_COLOURS]
    if color is not None:
        colours[2] = color
    classes = [_classes(column) for column in columns]
    spans = [_spans(column, own) for column, own in zip(columns, classes, strict=True)]
    width, most = 0.07, max([layer.sources.size for layer in layers] + [1])
    for layer in layers:
        if layer.right - layer.left > 1:
            share = layer.sources.size / most
            style = styled(given, PatchCollection, linewidth=0, alpha=0.6, facecolor=NULL)
            ax.add_collection(PatchCollection([_arc(layer, share)], **style))
            continue
        counts = np.zeros((5, 5))
        np.add.at(
            counts, (classes[layer.left][layer.sources], classes[layer.right][layer.targets]), 1.0
        )
        patches, looks = [], []
        for a, b, start, stop in _bands(counts, spans[layer.left], spans[layer.right]):
            patches.append(_band(layer, start, stop, width))
            looks.append(shade(ax, colours[max(a, b)] if 4 in (a, b) else colours[a], 0.75))
        style = styled(given, PatchCollection, linewidth=0, alpha=0.55)
        ax.add_collection(PatchCollection(patches, facecolor=looks, **style))
    for x, column_spans in enumerate(spans):
        for kind, (low, high) in column_spans.items():
            ax.add_patch(
                Rectangle(
                    (x - width, low), 2 * width, high - low, facecolor=colours[kind],
                    edgecolor=NULL, linewidth=0.3, zorder=3,
                )
            )  # fmt: skip
    seen = np.bincount(np.concatenate(classes), minlength=5) if classes else np.zeros(5, int)
    shown = [kind for kind in (4, 3, 2, 1, 0) if seen[kind]]
    entries = [Patch(facecolor=colours[kind], edgecolor=NULL, linewidth=0.4) for kind in shown]
    words = [f"{CLASSES[kind]} ({seen[kind]:,})" for kind in shown]
    legend_below(ax, entries, words, title="edges of units, compared with a random network")


def _spans(column: _Column, own: NDArray[np.int64]) -> dict[int, Span]:
    """Return the lower and upper end of the bar of each class with edges, hubs on top."""
    mass = np.bincount(own, weights=column.degrees, minlength=5)
    total, kinds = mass.sum(), [kind for kind in range(5) if mass[kind] > 0]
    gap = 0.012
    free, low = 1 - gap * (len(kinds) - 1), 0.0
    spans = {}
    for kind in kinds:
        high = low + free * mass[kind] / total
        spans[kind] = (low, high)
        low = high + gap
    return spans


def _bands(
    counts: NDArray[np.float64], left: Mapping[int, Span], right: Mapping[int, Span]
) -> list[tuple[int, int, Span, Span]]:
    """Return for each pair of classes with edges between them the ends of its band."""
    found = []
    for a, b in np.argwhere(counts > 0):
        start = _part(left[int(a)], counts[a], int(b))
        stop = _part(right[int(b)], counts[:, b], int(a))
        found.append((int(a), int(b), start, stop))
    return found


def _part(span: Span, counts: NDArray[np.float64], i: int) -> Span:
    """Return the part of a bar that belongs to the i-th of the classes on the other side."""
    low, high = span
    share = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    return low + (high - low) * share[i], low + (high - low) * share[i + 1]


def _band(layer: _Layer, start: Span, stop: Span, width: float) -> PathPatch:
    """Return the area between two smooth curves that join the ends of a band."""
    x0, x1 = layer.left + width, layer.right - width
    middle = (x0 + x1) / 2
    points = [
        (x0, start[1]), (middle, start[1]), (middle, stop[1]), (x1, stop[1]),
        (x1, stop[0]), (middle, stop[0]), (middle, start[0]), (x0, start[0]), (x0, start[1]),
    ]  # fmt: skip
    return PathPatch(Path(points, CURVES))


def _arc(layer: _Layer, share: float) -> PathPatch:
    """Return an arc over the columns for a parallel layer, thicker the more edges it has."""
    thick = 0.02 + 0.2 * share / (layer.right - layer.left)
    x0, x1 = float(layer.left), float(layer.right)
    low, high = 1.0 + RISE, 1.0 + 4 / 3 * RISE
    side = thick * (x1 - x0)
    points = [
        (x0, 1.0), (x0, high), (x1, high), (x1, 1.0),
        (x1 - side, 1.0), (x1 - side, low), (x0 + side, low), (x0 + side, 1.0), (x0, 1.0),
    ]  # fmt: skip
    return PathPatch(Path(points, CURVES))
