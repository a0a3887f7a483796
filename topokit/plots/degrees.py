"""Figures of the degrees of a run over its epochs: of one layer, of every layer, as a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from topokit.experiments.record import RunLike, as_run
from topokit.measures import power_law_of
from topokit.measures.degree import degrees_of, side_of
from topokit.plots.history import evenly_spaced, layer_of
from topokit.plots.layer import FALLING, UNITS, draw_ccdf, draw_law, draw_null
from topokit.plots.parts import (
    degree_axis,
    empty_axes,
    epoch_limits,
    label_axes,
    legend,
    legend_below,
    named,
    next_colour,
    panels,
    reference,
    scale_to,
    shade,
    share_y,
    styled,
    title_of,
)
from topokit.plots.style import COLOURS, LINES, NULL, axes, literal, whole_numbers

if TYPE_CHECKING:
    from topokit.graph import LayerGraph

__all__ = [
    "degree_evolution",
    "degree_heatmap",
    "degree_multiples",
]


DASHES = (*LINES[:3], LINES[4])  # the last is drawn through; dots are for the null


# --- distributions -------------------------------------------------------------------------------


def degree_evolution(
    history: RunLike,
    *,
    layer: str | None = None,
    side: str = "fan_in",
    n_epochs: int = 4,
    fit: bool = False,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the degree distribution of one layer at several epochs, with the random-graph null.

    Under a rule that keeps the graph random all curves follow the dotted null; under SET the
    later, darker curves extend to the right of it. Where the number of edges changes, as under a
    rule that prunes, each curve has a null of its shade, with as many edges.

    Parameters
    ----------
    history : History
    layer : str, optional
        By default the first.
    side : str
        ``"fan_in"`` or ``"fan_out"``.
    n_epochs : int
        Number of epochs to draw, evenly spaced.
    fit : bool
        Draw the best power law of the last epoch, as `degree_distribution` does, with its verdict;
        or say in the legend why there is none.
    label : str, optional
        Name of the run in the legend.
    color : color, optional
        Of the last epoch; by default the next of the axes' colour cycle, so that several runs can
        share an axes.
    ax : Axes, optional
        By default that of a new figure.
    **kwargs
        Properties of the steps, as of `matplotlib.axes.Axes.step`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the run has no such layer, `side` is neither, or `n_epochs` is below 1.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = degree_evolution(history, fit=True, ax=Figure().add_subplot())
    >>> ax.get_title(), [line.get_label() for line in ax.lines][:2]
    ('Degrees over epochs (fc1 fan-in)', ['random graph', 'epoch 0'])
    """
    history, side = as_run(history), side_of(side)
    layer, word = layer_of(history, layer), side.replace("_", "-")
    epochs, ax = evenly_spaced(history, n_epochs), axes(ax)
    if epochs and layer is not None:
        graphs = [history.topology(epoch)[layer] for epoch in epochs]
        colour = next_colour(ax, color)
        _draw_distributions(ax, epochs, graphs, side, colour, kwargs, label=label, lightest=0.3)
        if fit:
            draw_law(ax, power_law_of(graphs[-1], side), colour, label)
        degree_axis(ax)
    label_axes(ax, f"{word} k", f"share of units\nwith {word} ≥ k")
    title_of(ax, _title(layer, word))
    legend(ax, corners=FALLING)
    return ax


def _draw_distributions(
    ax: Axes,
    epochs: Sequence[int],
    graphs: Sequence[LayerGraph],
    side: str,
    color: Any,
    given: dict[str, Any],
    *,
    label: str | None,
    lightest: float,
) -> None:
    """Draw P(K >= k) of every graph, light to dark, and the nulls dotted.

    There is a null for each number of edges, of the shade of the last graph with that number.
    """
    last = len(epochs) - 1
    shares = [lightest + (1 - lightest) * i / last if last else 1.0 for i in range(last + 1)]
    several = len({graph.n_edges for graph in graphs}) > 1
    for share, graph in zip(shares[::-1], graphs[::-1], strict=True):
        words = "random graphs of as many edges" if several else "random graph"
        draw_null(ax, graph, side, label=words, color=shade(ax, NULL, share))
    for i, (epoch, graph) in enumerate(zip(epochs, graphs, strict=True)):
        style = styled(
            given, color=shade(ax, color, shares[i]), linestyle=DASHES[(last - i) % 4],
            marker="none", label=named(label, f"epoch {epoch}"),
        )  # fmt: skip
        draw_ccdf(ax, degrees_of(graph, side)[0], **style)


def degree_multiples(
    history: RunLike,
    *,
    side: str = "fan_in",
    n_epochs: int = 3,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the degree distributions of every layer, a small panel for each.

    Each panel shows a few epochs from light (first) to dark (last), and the null dotted. The
    vertical scale is the same in all of them, the horizontal one is that of the layer. Look for
    layers whose dark curve leaves the null: often it is the first hidden layer alone. Of more
    layers than there is room for, the first, the last and some between are drawn.

    Parameters
    ----------
    history : History
    side : str
        ``"fan_in"`` or ``"fan_out"``.
    n_epochs : int
        Number of epochs to draw, evenly spaced.
    label : str, optional
        Name of the run in the legend.
    color : color, optional
        Of the last epoch; by default the next of the axes' colour cycle. A second run with the
        same layers is drawn into the same panels.
    ax : Axes, optional
        By default that of a new figure. The panels are placed inside it; its title and axis labels
        hold for all of them, and the legend is below it.
    **kwargs
        Properties of the steps, as of `matplotlib.axes.Axes.step`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If `side` is neither, `n_epochs` is below 1, or something else is drawn in the axes.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = degree_multiples(history, ax=Figure().add_subplot())
    >>> [panel.get_title() for panel in ax.child_axes]
    ['fc1', 'fc2']
    """
    history, side = as_run(history), side_of(side)
    word = side.replace("_", "-")
    epochs, ax = evenly_spaced(history, n_epochs), axes(ax)
    inside: dict[str, Axes] = {}
    some = "every layer"
    if epochs:
        topologies = [history.topology(epoch) for epoch in epochs]
        inside = panels(ax, topologies[-1])
        colour = next_colour(next(iter(inside.values())), color) if inside else None
        for name, panel in inside.items():
            row = [topology[name] for topology in topologies]
            _draw_distributions(panel, epochs, row, side, colour, kwargs, label=label, lightest=0.3)
            degree_axis(panel)
        share_y(inside.values())
        if len(inside) < len(topologies[-1]):
            some = f"{len(inside)} of {len(topologies[-1])} layers"
    label_axes(ax, f"{word} k", f"share of units with {word} ≥ k")
    title_of(ax, f"Degrees of {some} ({word})")
    if inside:
        legend_below(ax, *next(iter(inside.values())).get_legend_handles_labels())
    return ax


def _title(layer: str | None, word: str) -> str:
    """Return the title of a figure of one layer's degrees; there is none without epochs."""
    return f"Degrees over epochs{f' ({literal(layer)} {word})' if layer else ''}"


# --- the map of degrees and epochs ---------------------------------------------------------------


def degree_heatmap(
    history: RunLike,
    *,
    layer: str | None = None,
    side: str = "fan_in",
    n_epochs: int = 60,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the degree distribution of one layer over epochs as a heat map, with the mean degree.

    Each column is an epoch; the colour is the share of units whose degree is in the bin. A random
    graph is a band that does not move; hubs are single cells above the band, and units without
    edges are the row labelled 0. Bins grow by factors of about 1.2.

    Parameters
    ----------
    history : History
    layer : str, optional
        By default the first.
    side : str
        ``"fan_in"`` or ``"fan_out"``.
    n_epochs : int
        Largest number of epochs to draw, evenly spaced.
    label : str, optional
        Name of the run in the title.
    color : color, optional
        Of the largest share; by default the colour map cividis is used.
    ax : Axes, optional
        An empty one; by default that of a new figure.
    **kwargs
        Properties of the cells, as of `matplotlib.axes.Axes.pcolormesh`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the run has no such layer, `side` is neither, `n_epochs` is below 1, or something is
        drawn in the axes already.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = degree_heatmap(history, ax=Figure().add_subplot())
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('epoch', 'fan-in k')
    """
    history, side = as_run(history), side_of(side)
    layer, word = layer_of(history, layer), side.replace("_", "-")
    epochs, ax = evenly_spaced(history, n_epochs), axes(ax)
    empty_axes(ax, "degree_heatmap")
    ax.set(xlabel="epoch", ylabel=f"{word} k")
    title_of(ax, _title(layer, word), label)
    whole_numbers(ax)
    if epochs and layer is not None:
        degrees = [degrees_of(history.topology(epoch)[layer], side)[0] for epoch in epochs]
        limits = _degree_bins(max([int(d.max(initial=0)) for d in degrees] + [1]))
        shares = np.array(
            [np.histogram(np.maximum(d, 0.5), bins=limits)[0] / max(d.size, 1) for d in degrees]
        ).T
        seen = np.ma.masked_equal(shares, 0)
        lowest = float(seen.min()) if seen.count() else 1.0
        style = styled(
            kwargs, QuadMesh, cmap="cividis_r" if color is None else scale_to(ax, color),
            norm=LogNorm(min(lowest, 0.5), 1), rasterized=True,
        )  # fmt: skip
        mesh = ax.pcolormesh(epoch_limits(epochs), limits, seen, **style)
        ax.figure.colorbar(mesh, ax=ax, label=f"share of {UNITS[side]}")
        means = np.array([d.mean() if d.size else np.nan for d in degrees])
        heights = np.where(means < 1, 0.5 + 0.5 * means, means)  # 0 is in the middle of its row
        style = reference(COLOURS[1], linestyle="-", label="mean degree")
        ax.plot(epochs, heights, **style)
        rows = np.flatnonzero(shares.any(axis=1))
        low, high = (limits[rows[0]], limits[rows[-1] + 1]) if rows.size else (0.4, 1.6)
        ax.set(yscale="log", ylim=(low, high))
        _label_degrees(ax, low, high)
        legend_below(ax)
    return ax


def _degree_bins(largest: int) -> NDArray[np.float64]:
    """Return limits of bins: one for isolated units, one for each small degree, then wider ones."""
    steps = np.unique(np.round(np.geomspace(1, largest + 1, 4 + int(13 * np.log10(largest + 1)))))
    end = [largest + 0.6] if steps[-1] <= largest else []
    return np.concatenate([[0.4], steps - 0.4, end])


def _label_degrees(ax: Axes, low: float, high: float) -> None:
    """Label degrees on the vertical axis: 0 in the middle of its row, and round numbers."""
    if high / low > 4:
        round_ones = [d * 10**e for e in range(7) for d in ((1, 2, 5) if high < 1000 else (1,))]
    else:
        step = max(1, round((high - low) / 5))
        round_ones = list(range(step * int(low / step), int(high) + 1, step))
    places = [0.5] + [k for k in round_ones if k >= 1]
    ax.yaxis.set_major_locator(FixedLocator([k for k in places if low <= k <= high]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda k, _: "0" if k < 1 else f"{k:g}"))
