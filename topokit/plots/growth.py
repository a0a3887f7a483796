"""Figures of the edges of a run: where grown ones go, and how long edges live."""

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
from topokit.plots.parts import (
    empty_axes,
    label_axes,
    legend,
    looks_of,
    short_names,
    styled,
    title_of,
    unless_used,
)
from topokit.plots.style import NULL, axes, literal, whole_numbers

if TYPE_CHECKING:
    from topokit.experiments.record import History
    from topokit.graph import LayerGraph

__all__ = ["edge_survival", "growth_flow"]

# Classes of units by rank in degree, the highest first, and the share of units in each.
CLASSES = {"top 10 %": 0.1, "next 40 %": 0.4, "lower 50 %": 0.5}
FEW = 5  # expected edges below which a flow has no colour
COLOURS, LIMIT = "PuOr_r", 2.0  # of the logarithm to base 2 of observed over expected


class Flow(NamedTuple):
    """Edges between classes of units, (inputs, outputs), and those that chance would give.

    `of` is the number of edges, in one value, of which it is known whether they are among these.
    """

    observed: NDArray[np.float64]
    expected: NDArray[np.float64]
    of: NDArray[np.int64]


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
    `survived` recorded epochs later, of those grown early enough to say. The width of a flow is a
    number of edges; its colour compares it with edges grown uniformly at random among the absent
    ones. A rule that grows at random is white on the left; what is orange on the right was kept
    more often than chance, which is how hubs arise.

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
    On the right, the expected numbers are those of the left in the same proportions. Edges grown
    in the last `survived` epochs are not on the right, nor in the number of edges its title has
    after "of": how long they stay is not known yet. Flows of which fewer than 5 edges are expected
    are grey. Where the size of a layer changes, edges are followed up to the change only.

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
    stayed = f"{kept.observed.sum():,.0f} of {kept.of[0]:,} edges" if kept.of[0] else "not known"
    titles = (f"grown:\n{grown.observed.sum():,.0f} edges", f"{later}:\n{stayed}")
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
    where = f" ({literal(layer)})" if layer is not None else ""
    title_of(ax, f"Where grown edges go{where}", label)
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
    grown, kept = (
        Flow(np.zeros((n, n)), np.zeros((n, n)), np.zeros(1, np.int64)) for _ in range(2)
    )
    waiting: deque[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = deque()
    before: LayerGraph | None = None
    for epoch in history.recorded:
        now = history.topology(epoch)[str(layer)]
        ids = now.edge_ids
        if before is not None and before.shape != now.shape:
            waiting.clear()  # edges have other numbers from now on
        if len(waiting) == survived:
            born, pairs, chance = waiting.popleft()
            there = positions_in(ids, born) >= 0
            kept.of[:] += born.size
            kept.observed[:] += _count(pairs[there], n)
            kept.expected[:] += chance * np.count_nonzero(there)
        if before is not None and before.shape == now.shape:
            new = positions_in(before.edge_ids, ids) < 0
            rows, columns = (_classes(degrees) for degrees in (before.fan_in, before.fan_out))
            pairs = columns[now.indices] * n + rows[now.rows]
            free = _possible(columns, rows, now.groups) - _count(pairs[~new], n)
            chance = free / max(free.sum(), 1)
            grown.of[:] += np.count_nonzero(new)
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


# --- lifetimes of edges --------------------------------------------------------------------------


def edge_survival(
    history: RunLike,
    *,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the share of edges that reach a given age, by Kaplan and Meier's estimate [1]_.

    Edges that are present at the last epoch are censored: only a lower bound of their lifetime is
    known. A straight line on the logarithmic axis means that the risk of being dropped does not
    depend on age; a curve that flattens means that old edges are rarely dropped. A curve that
    reaches 0 ends in a cross on the lower border. Only recorded epochs are seen: an edge lives from
    the first that has it to the first that lacks it. Of a layer whose size changes, the edges
    before the change are censored there, too.

    Parameters
    ----------
    history : History
    label : str, optional
        Name of the run in the legend.
    color : color, optional
        Of all layers, which then differ in their dashes; by default each layer takes the next of
        the axes' colour cycle.
    ax : Axes, optional
        By default that of a new figure.
    **kwargs
        Properties of the steps, as of `matplotlib.axes.Axes.step`.

    Returns
    -------
    Axes

    References
    ----------
    .. [1] Kaplan, Meier, "Nonparametric estimation from incomplete observations", Journal of the
       American Statistical Association 53, 1958.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = edge_survival(history, ax=Figure().add_subplot())
    >>> [float(y) for y in ax.lines[0].get_ydata()][:1]
    [1.0]
    """
    history = as_run(history)
    found, ax = _kaplan_meier(history), axes(ax)
    lowest = ax.get_ylim()[0] * 1.3 if ax.has_data() else 0.5
    looks = looks_of(ax, short_names(found), label, color)
    for look, (age, share) in zip(looks, found.values(), strict=True):
        style = styled(kwargs, **look)
        left = share > 0
        (line,) = ax.step(age[left], share[left], where="post", **style)
        lowest = min(lowest, float(share[left].min(initial=1.0)))
        if not left.all():
            ax.plot(
                age[~left][:1], [0.02], transform=ax.get_xaxis_transform(), linestyle="none",
                marker="x", markersize=4, color=line.get_color(),
                label=unless_used(ax, "none is left"), gid="mark",
            )  # fmt: skip
    if found:
        ax.set(yscale="log", ylim=(lowest / 1.3, 1.3))
    label_axes(ax, "age (epochs)", "share of edges that survive")
    title_of(ax, "Survival of edges")
    whole_numbers(ax)
    legend(ax)
    return ax


Curve = tuple[NDArray[np.int64], NDArray[np.float64]]


def _kaplan_meier(history: History) -> dict[str, Curve]:
    """Return ages and survival function of each layer's edges."""
    # Idea: follow the epochs once and keep, for each layer, the edges present now with the epoch
    # at which each appeared. An edge absent at the next epoch has died at its age, which is one
    # count in `died`; an edge present at the end is censored at its age. An edge that returns
    # later starts a new life. Counts by age are all that Kaplan and Meier's estimate needs.
    # Cost: each epoch's graphs are read once, with one sorted search for each layer:
    # O(epochs * edges * log edges) time and O(edges) memory.
    # Why: `history.ages` at every epoch would replay the history from its first epoch each time,
    # and a matrix of edges by epochs would not fit into memory for wide layers.
    epochs = history.recorded
    if not epochs:
        return {}
    alive = {name: graph.edge_ids for name, graph in history.topology(epochs[0]).items()}
    born = {name: np.full(ids.size, epochs[0]) for name, ids in alive.items()}
    horizon = epochs[-1] - epochs[0] + 2
    died = {name: np.zeros(horizon, np.int64) for name in alive}
    shapes = {name: graph.shape for name, graph in history.topology(epochs[0]).items()}
    censored: dict[str, list[NDArray[np.int64]]] = {name: [] for name in alive}
    for last, epoch in itertools.pairwise(epochs):
        topology = history.topology(epoch)
        for name, before in alive.items():
            now = topology[name].edge_ids
            if topology[name].shape != shapes[name]:  # its edges have other numbers
                censored[name].append(last - born[name])
                shapes[name] = topology[name].shape
                alive[name], born[name] = now, np.full(now.size, epoch)
                continue
            at = positions_in(before, now)
            stays = at >= 0
            gone = np.ones(before.size, bool)
            gone[at[stays]] = False
            died[name] += np.bincount(epoch - born[name][gone], minlength=horizon)
            since = np.full(now.size, epoch)
            since[stays] = born[name][at[stays]]
            alive[name], born[name] = now, since
    ages = {name: [*censored[name], epochs[-1] - born[name]] for name in alive}
    return {name: _survival(died[name], np.concatenate(ages[name])) for name in alive}


def _survival(died: NDArray[np.int64], ages: NDArray[np.int64]) -> Curve:
    """Return Kaplan and Meier's estimate from the deaths at each age and the censored ages."""
    ended = died + np.bincount(ages, minlength=died.size)
    at_risk = ended[::-1].cumsum()[::-1]
    share = np.cumprod(1 - died / np.maximum(at_risk, 1))
    last = int(np.flatnonzero(at_risk)[-1]) if at_risk.any() else 0
    return np.arange(last + 1), np.concatenate([[1.0], share[1 : last + 1]])
