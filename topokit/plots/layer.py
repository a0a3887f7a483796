"""Figures of one layer's graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import stats

from topokit.graph import LayerGraph
from topokit.graph.spectra import leading_singular_values
from topokit.measures import ccdf, power_law_of, singular_values
from topokit.plots.style import COLOURS, NULL, axes

__all__ = ["adjacency", "degree_distribution", "degree_histogram", "input_map", "spectrum"]

UNITS = {"fan_in": "output units", "fan_out": "input units"}
BINS = 400  # blocks along a side of an adjacency, at most
EXPECTED = 8  # mean number of links in a block of a large layer; single ones would be noise
LARGEST_SPECTRUM = 1500  # units of the smaller side up to which all singular values are drawn


def degrees_of(graph: LayerGraph, side: str) -> tuple[NDArray[np.int64], int]:
    """Degrees of one side, and how many units there are on the other."""
    if side not in UNITS:
        raise ValueError(f"expected side 'fan_in' or 'fan_out', got {side!r}")
    return (graph.fan_in, graph.n_in) if side == "fan_in" else (graph.fan_out, graph.n_out)


def null_ccdf(graph: LayerGraph, side: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """P(K >= k) of a random layer with the same sizes and number of edges (hypergeometric)."""
    _, n_other = degrees_of(graph, side)
    law = stats.hypergeom(graph.n_in * graph.n_out, n_other, graph.n_edges)
    top = int(law.isf(1e-6)) if graph.n_edges else 0
    k = np.arange(1, max(top, 1) + 1)
    return k, law.sf(k - 1)


def draw_ccdf(ax: Axes, degrees: NDArray[np.int64], **style: Any) -> None:
    """Draw P(K >= k) over the positive degrees as steps."""
    k, share = ccdf(degrees)
    ax.step(k[k > 0], share[k > 0], where="pre", **style)


def ccdf_band(
    degrees: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Pointwise 95 % bootstrap interval of P(K >= k) at the positive degrees.

    Resampling n units makes each share a binomial one: its quantiles are the bootstrap's without
    drawing a sample.
    """
    k, share = ccdf(degrees)
    k, share = k[k > 0], share[k > 0]
    n = max(degrees.size, 1)
    low, high = (np.asarray(stats.binom.ppf(q, n, share)) / n for q in (0.025, 0.975))
    return k, low, high


def degree_distribution(
    graph: LayerGraph,
    *,
    side: str = "fan_in",
    initial: LayerGraph | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Share of units with at least k links, on log-log axes, with the random-graph null.

    A reader should compare the steps with the dotted line: a random graph falls off as steeply as
    the null; a heavy tail runs out to the right of it. The band is the pointwise 95 % bootstrap
    interval of the steps. The best power law is drawn from its x_min (the vertical line) on, thin
    unless the verdict is at least "heavy-tailed": any degrees have a best power law, and where the
    steps leave it they follow none.

    Parameters
    ----------
    graph : LayerGraph
    side : str
        ``"fan_in"`` (output units) or ``"fan_out"`` (input units).
    initial : LayerGraph, optional
        A graph to compare with, usually that of the first epoch.
    title : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> graph = LayerGraph.from_edge_ids([0, 1, 5, 7], (3, 3))
    >>> degree_distribution(graph, ax=Figure().add_subplot()).get_xlabel()
    'fan-in k'
    """
    ax = axes(ax)
    degrees, _ = degrees_of(graph, side)
    if graph.n_edges:
        ax.plot(*null_ccdf(graph, side), color=NULL, ls=":", label="random graph")
        if initial is not None and initial.n_edges:
            before, _ = degrees_of(initial, side)
            draw_ccdf(ax, before, color=COLOURS[1], ls="--", label="first epoch")
        ax.fill_between(
            *ccdf_band(degrees), step="pre", color=COLOURS[0], alpha=0.18, lw=0, label="95 % band"
        )
        draw_ccdf(ax, degrees, color=COLOURS[0], label="this graph")
        fit = power_law_of(graph, side)
        if np.isfinite(fit.alpha):
            heavy = fit.verdict in ("heavy-tailed", "power law")
            k = np.arange(int(fit.xmin), min(int(fit.upper), 4 * fit.maximum) + 1)
            law = np.cumsum((k / fit.xmin) ** -fit.alpha)
            above = 1 - np.concatenate([[0], law[:-1]]) / law[-1]
            shown = k <= fit.maximum
            label = rf"best power law, $\alpha$ = {fit.alpha:.2f}, k ≥ {fit.xmin:.0f}"
            label += f"\nverdict: {fit.verdict}"
            style: dict[str, Any] = {"color": COLOURS[2], "ls": "-.", "lw": 1.4 if heavy else 0.8}
            ax.plot(k[shown], fit.tail_share * above[shown], label=label, **style)
            ax.axvline(fit.xmin, ymax=0.85, color=COLOURS[2], ls=":", lw=0.8)
        ax.set(xscale="log", yscale="log", ylim=(0.5 / max(degrees.size, 1), 1.5))
        ax.legend(loc="lower left")
        isolated = np.mean(degrees == 0)
        if isolated:
            ax.annotate(
                f"{100 * isolated:.1f} % isolated",
                (0.97, 0.95),
                xycoords="axes fraction",
                ha="right",
                va="top",
                fontsize="small",
            )
    word = side.replace("_", "-")
    ax.set(xlabel=f"{word} k", ylabel=f"share of {UNITS[side]} with {word} ≥ k")
    ax.set_title(title or f"Degree distribution ({word})")
    return ax


def degree_histogram(graph: LayerGraph, *, side: str = "fan_in", ax: Axes | None = None) -> Axes:
    """Number of units of each degree, with the expectation for a random graph as a line.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> graph = LayerGraph.from_edge_ids([0], (1, 2))
    >>> degree_histogram(graph, ax=Figure().add_subplot()).get_ylabel()
    'output units'
    """
    ax = axes(ax)
    degrees, n_other = degrees_of(graph, side)
    if degrees.size:
        counts = np.bincount(degrees)
        ax.bar(np.arange(counts.size), counts, width=1.0, color=COLOURS[0], label="this graph")
        law = stats.hypergeom(graph.n_in * graph.n_out, n_other, graph.n_edges)
        k = np.arange(counts.size)
        ax.plot(k, degrees.size * law.pmf(k), color=NULL, label="random graph")
        ax.legend()
    ax.set(xlabel=f"{side.replace('_', '-')} k", ylabel=UNITS[side], title="Degree histogram")
    return ax


def spectrum(graph: LayerGraph, *, ax: Axes | None = None) -> Axes:
    """Singular values of the biadjacency in order, with the random bulk and the Ramanujan bound.

    The first value stands apart by the mean degrees; the second against the dashed bound says
    how well the layer expands. Below the bound is as good as a graph of these degrees can be. The
    grey line is where the values of a random layer of that density lie by Marchenko and Pastur
    [1]_; hubs and blocks lift values above it, regular designs push them below.

    Parameters
    ----------
    graph : LayerGraph
    ax : Axes, optional

    Returns
    -------
    Axes

    Notes
    -----
    Dense: O(n_out n_in) memory, since all values are wanted; of layers over 1,500 units on their
    smaller side only the first two are drawn. With mean degrees below about 20 a random layer's
    bulk is a little wider than the law's: that holds where degrees grow.

    References
    ----------
    .. [1] Marchenko, Pastur, "Distribution of eigenvalues for some sets of random matrices",
       Mathematics of the USSR-Sbornik 1, 1967.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> spectrum(LayerGraph.from_edge_ids(range(6), (2, 3)), ax=Figure().add_subplot()).get_ylabel()
    'singular value'
    """
    ax = axes(ax)
    whole = min(graph.shape) <= LARGEST_SPECTRUM
    values = singular_values(graph) if whole else np.array(leading_singular_values(graph))
    values = np.sort(values)[::-1]
    label = "this graph" if whole else "this graph, first two"
    ax.plot(np.arange(1, values.size + 1), values, ".", color=COLOURS[0], ms=3, label=label)
    bulk = random_bulk(graph)
    if bulk.size > 1:
        label = "random graph (Marchenko–Pastur)"
        ax.plot(np.arange(2, bulk.size + 1), bulk[1:], color=NULL, lw=1, label=label)
    means = [d[d > 0].mean() if d.any() else 0.0 for d in (graph.fan_in, graph.fan_out)]
    if min(means) >= 1:
        bound = float(np.sqrt(means[0] - 1) + np.sqrt(means[1] - 1))
        ax.axhline(bound, color=COLOURS[1], ls="--", lw=1, label="Ramanujan bound, mean degrees")
    if values.size:
        ax.legend()
    ax.set(xlabel="rank", ylabel="singular value", title="Spectrum of the biadjacency")
    return ax


def random_bulk(graph: LayerGraph) -> NDArray[np.float64]:
    """Expected singular values of a centred random layer of that size and density, decreasing.

    Quantiles of Marchenko and Pastur's law at the middle of each rank; none without edges or with
    all of them.
    """
    small, large = sorted(graph.shape)
    spread = np.sqrt(graph.density * (1 - graph.density)) if graph.n_edges else 0.0
    if not spread:
        return np.empty(0)
    low, high = (spread * (np.sqrt(large) + sign * np.sqrt(small)) for sign in (-1, 1))
    angle = np.linspace(0, np.pi, 4001)  # the squares run from high to low along a half circle
    squares = (high**2 + low**2) / 2 + (high**2 - low**2) / 2 * np.cos(angle)
    weight = np.sin(angle) ** 2 / np.maximum(squares, 1e-12 * high**2)
    share = np.concatenate([[0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    wanted = (np.arange(small) + 0.5) / small
    return np.sqrt(np.maximum(np.interp(wanted, share / share[-1], squares), 0))


def adjacency(graph: LayerGraph, *, ax: Axes | None = None) -> Axes:
    """Where the edges are, both sides ordered by degree; large layers as densities of blocks.

    Darkness is the share of present edges in a block; hubs gather in the upper left corner. Up to
    400 units a side every cell is shown; beyond, blocks are so large that they hold 8 links in
    the mean, since the density of smaller ones is mostly noise.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> adjacency(LayerGraph.from_edge_ids([0], (1, 2)), ax=Figure().add_subplot()).get_title()
    'Adjacency, ordered by degree'
    """
    ax = axes(ax)
    if graph.n_edges:
        whole = max(graph.shape) <= BINS  # every block is one cell: an edge is black
        blocks = BINS if whole else int(np.clip(np.sqrt(graph.n_edges / EXPECTED), 1, BINS))
        image = ax.imshow(
            block_densities(graph, blocks),
            cmap="Greys",
            extent=(0, graph.n_in, graph.n_out, 0),
            aspect="auto",
            vmin=0,
            vmax=1 if whole else None,
            interpolation="nearest",
        )
        ax.figure.colorbar(image, ax=ax, label="density of the block")
    ax.set(xlabel="input units", ylabel="output units", title="Adjacency, ordered by degree")
    return ax


def block_densities(graph: LayerGraph, blocks: int) -> NDArray[np.float64]:
    """Share of present edges in at most `blocks` by `blocks` blocks, both sides by falling degree.

    Blocks differ by at most one unit in length; a side with fewer units has a block for each.
    """
    at = []
    for degrees in (graph.fan_in, graph.fan_out):
        rank = np.empty(degrees.size, np.int64)
        rank[np.argsort(-degrees, kind="stable")] = np.arange(degrees.size)
        at.append((2 * rank + 1) * min(degrees.size, blocks) // max(2 * degrees.size, 1))
    (rows, columns), n = at, [min(size, blocks) for size in graph.shape]
    flat = rows[graph.rows] * n[1] + columns[graph.indices]
    counts = np.bincount(flat, minlength=n[0] * n[1]).reshape(n)
    cells = np.outer(np.bincount(rows, minlength=n[0]), np.bincount(columns, minlength=n[1]))
    return counts / np.maximum(cells, 1)


def input_map(
    graph: LayerGraph, *, image_shape: tuple[int, int] | None = None, ax: Axes | None = None
) -> Axes:
    """Fan-out of the input units as an image: which pixels a network looks at.

    Parameters
    ----------
    graph : LayerGraph
        The first layer of a network on images.
    image_shape : tuple of int, optional
        Height and width; by default square where that fits, else one row.
    ax : Axes, optional

    Raises
    ------
    ValueError
        If the image has another number of pixels than the layer has input units.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> input_map(LayerGraph.from_edge_ids([0], (1, 4)), ax=Figure().add_subplot()).get_title()
    'Links of each input unit'
    """
    ax = axes(ax)
    side = int(np.sqrt(graph.n_in))
    shape = image_shape or ((side, side) if side * side == graph.n_in else (1, graph.n_in))
    if shape[0] * shape[1] != graph.n_in:
        raise ValueError(f"expected an image of {graph.n_in} pixels, got {shape[0]} x {shape[1]}")
    if graph.n_in:
        image = ax.imshow(graph.fan_out.reshape(shape), cmap="cividis", aspect="auto")
        ax.figure.colorbar(image, ax=ax, label="fan-out")
    ax.set(xlabel="column", ylabel="row", title="Links of each input unit")
    return ax
