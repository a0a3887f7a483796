"""Figure of a whole network: every edge if there are few, otherwise groups of units."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from os.path import isdir
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from topokit.experiments.record import History, as_run
from topokit.graph import LayerGraph
from topokit.graph.convert import GraphLike, as_topology
from topokit.plots.layer import degree_ranks, group_densities
from topokit.plots.style import COLOURS, axes

__all__ = ["network"]

EXACT_UNITS, EXACT_EDGES = 64, 3000  # up to these sizes every unit and every edge is drawn
HUBS, GROUPS = 6, 18  # in a column of a larger network: units drawn alone, groups for the others
EXPECTED = 3  # a pair of groups sets the grey scale only if it has this many edges by chance
FAINT = 0.03  # lines lighter than this are not drawn

# Layout. Drawing a line for each edge of a network with millions of edges gives a black rectangle
# and takes minutes. Units in a column are therefore ordered by degree and bundled: the six units
# of highest degree are drawn alone, since hubs are what one looks for, the others in 18 groups of
# equal size. A line between two groups represents all edges between them, and its grey level is
# the share of possible edges that are present, so that groups of unequal size compare.
# Grey levels are relative to the densest pair of the layer; a pair of hubs has a single possible
# edge, whose share is 0 or 1 by chance, so only pairs with at least three expected edges set the
# scale. In networks of at most 64 units in a column and 3,000 edges each group is one unit, and
# the same code draws every edge.
# Cost: O(edges) to count, at most 24 x 24 = 576 lines for each layer whatever its size. Ordering
# by degree, rather than minimising crossings, keeps the positions comparable between epochs and
# is deterministic.


def network(source: GraphLike, *, epoch: int = -1, ax: Axes | None = None) -> Axes:
    r"""Draw a network in columns, inputs on the left, units in order of decreasing degree.

    Small networks are drawn exactly: each unit is a dot whose area is its degree, each edge a
    line. In large networks the six units of highest degree in each column are drawn alone, as
    hubs, and the others in 18 groups of equal size; the grey level of a line is the share of
    edges present between two groups, relative to the densest pair of the layer. In a random
    network the lines become gradually lighter from top to bottom; with hubs the upper lines are
    dark and the others are missing.

    Parameters
    ----------
    source : History or dict of LayerGraph
        A run or its directory, or anything that `topokit.graph.convert.as_topology` accepts.
    epoch : int
        A recorded epoch of the run; negative numbers count back from the last one recorded.
    ax : Axes, optional

    Returns
    -------
    Axes
        If the number of inputs of a layer differs from the number of outputs of the layer before,
        its inputs get a column of their own.

    Notes
    -----
    O(edges) time. The figure has at most 3,000 lines in all (exact) or 576 for each layer.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> layer = LayerGraph.from_edge_ids([0, 1, 5, 7], (3, 3))
    >>> ax = network({"fc1": layer, "fc2": layer}, ax=Figure().add_subplot())
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['inputs\n3', 'fc1\n3', 'fc2\n3']
    """
    ax = axes(ax)
    run = _run_of(source)
    if run is None:
        topology, title = as_topology(source), "Network"
    elif run.recorded:
        epoch = run.recorded[epoch] if epoch < 0 else epoch
        topology, title = run.topology(epoch), f"Network, epoch {epoch}"
    else:
        topology, title = {}, "Network"
    columns, names, places = _columns(topology)
    exact = (
        max([degrees.size for degrees in columns] + [0]) <= EXACT_UNITS
        and sum(graph.n_edges for graph in topology.values()) <= EXACT_EDGES
    )
    groups = [_groups(degrees, exact=exact) for degrees in columns]
    heights = [_heights(group) for group in groups]
    for graph, (left, right) in zip(topology.values(), places, strict=True):
        _draw_edges(ax, graph, (left, groups[left], heights[left]), groups[right], heights[right])
    most = max([int(degrees.max(initial=0)) for degrees in columns] + [1])
    for x, (degrees, group, height) in enumerate(zip(columns, groups, heights, strict=True)):
        _draw_units(ax, x, degrees, group, height, most=most, exact=exact)
    labels = [f"{name}\n{degrees.size}" for name, degrees in zip(names, columns, strict=True)]
    ax.set_xticks(range(len(labels)), labels)
    ax.set(xlim=(-0.3, max(len(labels), 1) - 0.7), ylim=(-0.04, 1.04), yticks=[])
    words = "every unit and edge" if exact else f"orange: {HUBS} hubs, blue: groups"
    ax.set(xlabel=f"layer and number of units ({words})", ylabel="units by degree, highest on top")
    ax.set_title(title)
    ax.spines[:].set_visible(False)
    return ax


def _run_of(source: Any) -> History | None:
    """Return `source` as a run if it is one or the path of a run directory, else None."""
    is_folder = isinstance(source, str | PathLike) and isdir(source)
    return as_run(source) if is_folder or hasattr(source, "recorded") else None


def _columns(
    topology: Mapping[str, LayerGraph],
) -> tuple[list[NDArray[np.int64]], list[str], list[tuple[int, int]]]:
    """Return degrees and name of each column of units, and the two columns of each layer."""
    columns: list[NDArray[np.int64]] = []
    names: list[str] = []
    places: list[tuple[int, int]] = []
    for layer, graph in topology.items():
        if columns and columns[-1].size == graph.n_in:
            columns[-1] = columns[-1] + graph.fan_out
        else:
            columns.append(graph.fan_out.astype(np.int64))
            names.append(f"inputs of {layer}" if names else "inputs")
        columns.append(graph.fan_in.astype(np.int64))
        names.append(layer)
        places.append((len(columns) - 2, len(columns) - 1))
    return columns, names, places


def _groups(degrees: NDArray[np.int64], *, exact: bool) -> NDArray[np.int64]:
    """Return the group of each unit: hubs (or all, if `exact`) alone, others by rank in degree."""
    rank = degree_ranks(degrees)
    if exact or degrees.size <= HUBS + GROUPS:
        return rank
    rest = (rank - HUBS) * GROUPS // (degrees.size - HUBS)
    return np.where(rank < HUBS, rank, HUBS + rest)


def _heights(group: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the vertical position of each group, the first on top."""
    n = int(group.max(initial=-1)) + 1
    return np.linspace(1, 0, n) if n > 1 else np.full(n, 0.5)


def _draw_edges(
    ax: Axes,
    graph: LayerGraph,
    left: tuple[int, NDArray[np.int64], NDArray[np.float64]],
    group: NDArray[np.int64],
    height: NDArray[np.float64],
) -> None:
    """Draw a line for each pair of groups with edges; its grey level is the share present."""
    x, from_group, from_height = left
    shape = (height.size, from_height.size)
    share, cells = group_densities(graph, group, from_group, shape)
    scale = share[cells * graph.density >= EXPECTED]
    dark = np.minimum(share / max((scale if scale.size else share).max(initial=0), 1e-12), 1)
    to, start = np.nonzero(dark > FAINT)
    order = np.argsort(dark[to, start], kind="stable")  # the darkest are drawn last, on top
    to, start = to[order], start[order]
    ends = np.stack(
        [
            np.stack([np.full(to.size, float(x)), from_height[start]], axis=1),
            np.stack([np.full(to.size, x + 1.0), height[to]], axis=1),
        ],
        axis=1,
    )
    colours = np.zeros((to.size, 4))
    single = cells.max(initial=1) == 1
    crowd = float(np.clip(400 / max(to.size, 1), 0.25, 1))
    colours[:, 3] = (0.7 if single else 0.35 * dark[to, start]) * (crowd if single else 1)
    ax.add_collection(LineCollection(list(ends), colors=colours, linewidths=0.5 if single else 0.7))


def _draw_units(
    ax: Axes,
    x: int,
    degrees: NDArray[np.int64],
    group: NDArray[np.int64],
    height: NDArray[np.float64],
    *,
    most: int,
    exact: bool,
) -> None:
    """Draw a dot for each group; its area is the mean degree of its units."""
    counts = np.bincount(group, minlength=height.size)
    means = np.bincount(group, weights=degrees, minlength=height.size) / np.maximum(counts, 1)
    hub = np.arange(height.size) < (0 if exact or height.size == degrees.size else HUBS)
    if exact and degrees.size:
        hub = means > 2 * degrees.mean()
    colours = [COLOURS[1] if one else COLOURS[0] for one in hub]
    ax.scatter(
        np.full(height.size, x), height, s=4 + 60 * means / most, c=colours, zorder=3, lw=0.4,
        edgecolors="white",
    )  # fmt: skip
