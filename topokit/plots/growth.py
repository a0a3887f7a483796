"""Figure of where grown edges go: flows between units of low and high degree."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, Normalize
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from numpy.typing import NDArray

from topokit.experiments.record import RunLike, as_run
from topokit.graph import positions_in
from topokit.plots.history import layer_of
from topokit.plots.layer import degree_ranks
from topokit.plots.parts import empty_axes, styled, title_of
from topokit.plots.style import NULL, axes

if TYPE_CHECKING:
    from topokit.experiments.record import History
    from topokit.graph import LayerGraph

__all__ = ["growth_flow"]

# Classes of units by rank in degree, the highest first, and the share of units in each.
CLASSES = {"top 10 %": 0.1, "next 40 %": 0.4, "lower 50 %": 0.5}
FEW = 5  # expected edges below which a flow has no colour
COLOURS, LIMIT = "PuOr_r", 2.0  # of the logarithm to base 2 of observed over expected


class Flow(NamedTuple):
    """Edges between classes of units, (inputs, outputs), and those that chance would give."""

    observed: NDArray[np.float64]
    expected: NDArray[np.float64]


def growth_flow(
    history: RunLike,
    *,
    layer: str | None = None,
    survived: int = 10,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot where grown edges go, from input to output units of high, middle and low degree.

    Two pictures: all edges grown after the first epoch, and those of them that were still there
    `survived` recorded epochs later. The width of a flow is a number of edges; its colour compares
    it with edges grown uniformly at random among the absent ones. A rule that grows at random is
    white on the left; what is orange on the right was kept more often than chance, which is how
    hubs arise.

    Parameters
    ----------
    history : History
    layer : str, optional
        By default the first.
    survived : int
        Number of recorded epochs, 1 or more; a run with fewer is taken to its last.
    label : str, optional
        Name of the run in the title.
    color : color, optional
        Of flows of four times as many edges as chance gives, by default dark orange; flows of
        fewer edges stay purple.
    ax : Axes, optional
        An empty one, in which the panels are placed; its title and labels hold for both of them.
        By default that of a new figure.
    **kwargs
        Properties of the flows, as of `matplotlib.patches.PathPatch`.

    Returns
    -------
    Axes
        The frame; its ``child_axes`` are the two panels and the colour bar.

    Raises
    ------
    ValueError
        If the run has no such layer, `survived` is below 1, or something is drawn in the axes.

    Notes
    -----
    The class of a unit is that of its degree at the epoch before the edge was grown; equal degrees
    are ordered by position. Edges dropped and grown again between two records count as kept.
    On the right, the expected numbers are those of the left in the same proportions. Flows of
    which fewer than 5 edges are expected are grey.

    O(edges log edges) for each epoch.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = growth_flow(history, survived=1, ax=Figure().add_subplot())
    >>> [panel.get_title().split(":")[0] for panel in ax.child_axes[:2]]
    ['grown', 'there 1 epoch later']
    """
    history = as_run(history)
    if survived < 1:
        raise ValueError(f"expected survived to be at least 1 epoch, got {survived}")
    layer = layer_of(history, layer)
    ax = axes(ax)
    empty_axes(ax, "growth_flow")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    survived = max(1, min(survived, len(history.recorded) - 2))
    grown, kept = _flows(history, layer, survived)
    gaps = np.diff(history.recorded)
    unit = "epoch" if np.all(gaps == 1) else "record"  # a Recording may keep one epoch in ten
    later = f"there {survived} {unit}{'s' if survived > 1 else ''} later"
    titles = (
        f"grown:\n{grown.observed.sum():,.0f} edges",
        f"{later}:\n{kept.observed.sum():,.0f} edges",
    )
    shades = ScalarMappable(Normalize(-LIMIT, LIMIT), _shades(color))
    for i, (flow, title) in enumerate(zip((grown, kept), titles, strict=True)):
        panel = ax.inset_axes((0.52 * i, 0.0, 0.48, 0.88))
        _draw(panel, flow, shades, kwargs, names=i == 0)
        panel.set_title(title, fontsize="small", pad=2)
    bar = ax.inset_axes((1.03, 0.15, 0.025, 0.65))
    ax.figure.colorbar(shades, cax=bar, ticks=[-2, -1, 0, 1, 2])
    bar.set_yticklabels(["¼", "½", "1", "2", "4"])
    bar.set_ylabel("observed / random growth", fontsize="small")
    ax.set_xlabel("from input units (left) to output units (right)", labelpad=4)
    ax.set_ylabel("units by degree", labelpad=48)
    title_of(ax, f"Where grown edges go ({layer})" if layer else "Where grown edges go", label)
    return ax


def _shades(color: Any) -> Colormap:
    """Return the colours from fewer edges than chance over white to more."""
    usual = colormaps[COLOURS]
    if color is None:
        return usual
    below = usual(np.linspace(0, 0.5, 128))
    above = LinearSegmentedColormap.from_list("more", [below[-1], color])(np.linspace(0, 1, 128))
    return ListedColormap(np.concatenate([below, above]))


def _flows(history: History, layer: str | None, survived: int) -> tuple[Flow, Flow]:
    """Return the flows of the edges grown, and of those still there `survived` epochs later."""
    # Idea: an edge grown between two epochs is counted by the classes of its two units before.
    # Uniform growth would choose among the cells that are absent both before and after, or were
    # grown: all possible edges less those that stayed. Their number in each pair of classes is the
    # product of the sizes of the classes (within each group) less the edges that stayed there.
    # Cost: one sorted search an epoch; the edges of the last `survived` epochs are in memory.
    n = len(CLASSES)
    empty = np.zeros((n, n))
    grown, kept = Flow(empty, empty.copy()), Flow(empty.copy(), empty.copy())
    waiting: deque[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = deque()
    before: LayerGraph | None = None
    for epoch in history.recorded:
        now = history.topology(epoch)[str(layer)]
        ids = now.edge_ids
        if len(waiting) == survived:
            born, pairs, chance = waiting.popleft()
            there = positions_in(ids, born) >= 0
            kept.observed[:] += _count(pairs[there], n)
            kept.expected[:] += chance * np.count_nonzero(there)
        if before is not None and before.shape == now.shape:
            new = positions_in(before.edge_ids, ids) < 0
            rows, columns = (_classes(degrees) for degrees in (before.fan_in, before.fan_out))
            pairs = columns[now.indices] * n + rows[now.rows]
            free = _possible(columns, rows, now.groups) - _count(pairs[~new], n)
            chance = free / max(free.sum(), 1)
            grown.observed[:] += _count(pairs[new], n)
            grown.expected[:] += chance * np.count_nonzero(new)
            waiting.append((ids[new], pairs[new], chance))
        before = now
    return grown, kept


def _possible(
    columns: NDArray[np.int64], rows: NDArray[np.int64], groups: int
) -> NDArray[np.float64]:
    """Return the number of possible edges of each pair of classes, (inputs, outputs)."""
    inputs, outputs = (
        np.stack([(classes == i).reshape(groups, -1).sum(axis=1) for i in range(len(CLASSES))])
        for classes in (columns, rows)
    )
    return (inputs @ outputs.T).astype(float)


def _count(pairs: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Return how often each pair of classes occurs, (inputs, outputs)."""
    return np.bincount(pairs, minlength=n * n).reshape(n, n).astype(float)


def _classes(degrees: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the class of each unit by the rank of its degree, 0 for the highest degrees."""
    limits = np.cumsum(list(CLASSES.values()))[:-1]
    middle = (degree_ranks(degrees) + 0.5) / max(degrees.size, 1)
    return np.searchsorted(limits, middle).astype(np.int64)


def _draw(
    panel: Axes, flow: Flow, shades: ScalarMappable, given: Mapping[str, Any], *, names: bool
) -> None:
    """Draw flows from the left column of classes to the right one."""
    total = flow.observed.sum()
    panel.set(xlim=(0, 1), ylim=(1.16, -0.04), xticks=[], yticks=[])
    panel.spines[:].set_visible(False)
    if not total:
        panel.text(0.5, 0.5, "none", ha="center", color=NULL)
        return
    width, space = flow.observed / total, 0.06
    left = np.concatenate([[0], np.cumsum(width.sum(axis=1) + space)])
    right = np.concatenate([[0], np.cumsum(width.sum(axis=0) + space)])
    for side, starts, sums in ((0.0, left, width.sum(axis=1)), (0.97, right, width.sum(axis=0))):
        for i, (start, size) in enumerate(zip(starts, sums, strict=False)):
            panel.add_patch(Rectangle((side, start), 0.03, size, color="#444444", lw=0))
            if side == 0 and names:
                panel.text(-0.03, start + size / 2, list(CLASSES)[i], ha="right", va="center",
                           fontsize="x-small")  # fmt: skip
    from_, to = left[:-1].copy(), right[:-1].copy()
    for i, j in itertools.product(range(len(CLASSES)), repeat=2):
        size = float(width[i, j])
        few = flow.expected[i, j] < FEW
        with np.errstate(divide="ignore"):
            ratio = np.log2(flow.observed[i, j] / np.maximum(flow.expected[i, j], 1e-12))
        known = shades.to_rgba(np.clip([ratio], -LIMIT, LIMIT))[0]
        colour = "#cccccc" if few else known
        style = styled(given, PathPatch, facecolor=colour, edgecolor=NULL, linewidth=0.3)
        panel.add_patch(PathPatch(_ribbon(float(from_[i]), float(to[j]), size), **style))
        from_[i] += size
        to[j] += size


def _ribbon(start: float, end: float, size: float) -> Path:
    """Return the outline of a flow of one width from the left to the right column."""
    a, b, middle = 0.03, 0.97, 0.5
    corners = [
        (a, start), (middle, start), (middle, end), (b, end),
        (b, end + size), (middle, end + size), (middle, start + size), (a, start + size),
        (a, start),
    ]  # fmt: skip
    curve = [Path.CURVE4] * 3
    return Path(corners, [Path.MOVETO, *curve, Path.LINETO, *curve, Path.CLOSEPOLY])
