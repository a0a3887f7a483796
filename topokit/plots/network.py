"""A whole network drawn in layers: every link where there are few, groups of units where not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from topokit.graph import LayerGraph, Topology
from topokit.plots.style import COLOURS, axes

if TYPE_CHECKING:
    from topokit.experiments.record import History

__all__ = ["network"]

EXACT_UNITS, EXACT_EDGES = 64, 3000  # up to which every unit and every link is drawn
HUBS, GROUPS = 6, 18  # of a column of a larger network: units drawn alone, and the rest together
EXPECTED = 3  # links by chance from which a pair of groups may set the scale of a layer
FAINT = 0.03  # lines fainter than this are not drawn


def network(source: History | Topology, *, epoch: int = -1, ax: Axes | None = None) -> Axes:
    r"""Draw a network in layers, inputs left, units by falling degree from the top.

    Small networks are drawn exactly: every unit a dot, its area the number of its links, every
    link a line. In large ones the six units of most links in each column are drawn alone, as
    hubs, the others in 18 groups of equal size; the darkness of a line is the share of links
    present between two groups, of the densest pair of that layer (at most black). In a random
    network the lines fade slowly downwards; where hubs have grown the upper ones are dark and the
    rest gone.

    Parameters
    ----------
    source : History or dict of LayerGraph
        A run or a topology.
    epoch : int
        Of a run; a recorded one, negative ones count from the last recorded.
    ax : Axes, optional

    Returns
    -------
    Axes
        Where a layer does not take the outputs of the one before, its inputs are a column of
        their own.

    Notes
    -----
    O(edges); the figure has at most 3,000 or 576 lines for each layer, whatever their number.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> layer = LayerGraph.from_edge_ids([0, 1, 5, 7], (3, 3))
    >>> ax = network({"fc1": layer, "fc2": layer}, ax=Figure().add_subplot())
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['inputs\n3', 'fc1\n3', 'fc2\n3']
    """
    ax = axes(ax)
    if isinstance(source, Mapping):
        topology, title = source, "Network"
    elif source.recorded:
        epoch = source.recorded[epoch] if epoch < 0 else epoch
        topology, title = source.topology(epoch), f"Network, epoch {epoch}"
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
        _draw_links(ax, graph, (left, groups[left], heights[left]), groups[right], heights[right])
    most = max([int(degrees.max(initial=0)) for degrees in columns] + [1])
    for x, (degrees, group, height) in enumerate(zip(columns, groups, heights, strict=True)):
        _draw_units(ax, x, degrees, group, height, most=most, exact=exact)
    labels = [f"{name}\n{degrees.size}" for name, degrees in zip(names, columns, strict=True)]
    ax.set_xticks(range(len(labels)), labels)
    ax.set(xlim=(-0.3, max(len(labels), 1) - 0.7), ylim=(-0.04, 1.04), yticks=[])
    words = "every unit and link" if exact else f"orange: {HUBS} hubs, blue: groups"
    ax.set(xlabel=f"layer and its units ({words})", ylabel="units, most links on top")
    ax.set_title(title)
    ax.spines[:].set_visible(False)
    return ax


def _columns(
    topology: Mapping[str, LayerGraph],
) -> tuple[list[NDArray[np.int64]], list[str], list[tuple[int, int]]]:
    """Degrees and name of every column of units, and the columns each layer joins."""
    columns: list[NDArray[np.int64]] = []
    names: list[str] = []
    places: list[tuple[int, int]] = []
    for layer, graph in topology.items():
        if columns and columns[-1].size == graph.n_in:
            columns[-1] = columns[-1] + graph.fan_out
        else:
            columns.append(graph.fan_out.astype(np.int64))
            names.append(f"into {layer}" if names else "inputs")
        columns.append(graph.fan_in.astype(np.int64))
        names.append(layer)
        places.append((len(columns) - 2, len(columns) - 1))
    return columns, names, places


def _groups(degrees: NDArray[np.int64], *, exact: bool) -> NDArray[np.int64]:
    """The group of each unit: its rank by degree, or after the hubs an equal share of ranks."""
    rank = np.empty(degrees.size, np.int64)
    rank[np.argsort(-degrees, kind="stable")] = np.arange(degrees.size)
    if exact or degrees.size <= HUBS + GROUPS:
        return rank
    rest = (rank - HUBS) * GROUPS // (degrees.size - HUBS)
    return np.where(rank < HUBS, rank, HUBS + rest)


def _heights(group: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where each group stands, the first on top."""
    n = int(group.max(initial=-1)) + 1
    return np.linspace(1, 0, n) if n > 1 else np.full(n, 0.5)


def _draw_links(
    ax: Axes,
    graph: LayerGraph,
    left: tuple[int, NDArray[np.int64], NDArray[np.float64]],
    group: NDArray[np.int64],
    height: NDArray[np.float64],
) -> None:
    """Draw a line for each pair of groups with links, its darkness the share of links there."""
    x, from_group, from_height = left
    shape = (height.size, from_height.size)
    flat = group[graph.rows] * shape[1] + from_group[graph.indices]
    counts = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
    cells = np.outer(
        np.bincount(group, minlength=shape[0]), np.bincount(from_group, minlength=shape[1])
    )
    share = counts / np.maximum(cells, 1)
    sure = share[cells * graph.density >= EXPECTED]  # a lone pair of hubs has all or nothing
    dark = np.minimum(share / max((sure if sure.size else share).max(initial=0), 1e-12), 1)
    to, start = np.nonzero(dark > FAINT)
    order = np.argsort(dark[to, start], kind="stable")  # the darkest last, on top
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
    """Draw a dot for each group, as large as the mean number of its units' links."""
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
