"""Figures of one layer's graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import stats

from topokit.graph import LayerGraph
from topokit.graph.convert import GraphLike, as_graph
from topokit.graph.spectra import leading_singular_values
from topokit.measures import ccdf, power_law_of, singular_values
from topokit.plots.style import COLOURS, NULL, axes

__all__ = ["adjacency", "degree_distribution", "degree_histogram", "input_map", "spectrum"]

UNITS = {"fan_in": "output units", "fan_out": "input units"}
BLOCKS = 400  # largest number of blocks along a side of an adjacency
EXPECTED = 8  # mean number of edges in a block of a large layer; with fewer, noise dominates
LARGEST_SPECTRUM = 1500  # up to this many units on the smaller side, all singular values are drawn


def degrees_of(graph: LayerGraph, side: str) -> tuple[NDArray[np.int64], int]:
    """Return the degrees of one side and the number of units on the other."""
    if side not in UNITS:
        raise ValueError(f"expected side 'fan_in' or 'fan_out', got {side!r}")
    return (graph.fan_in, graph.n_in) if side == "fan_in" else (graph.fan_out, graph.n_out)


def null_ccdf(graph: LayerGraph, side: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return k and P(K >= k) in a random layer with the same sizes and number of edges.

    In an Erdős–Rényi layer with a fixed number of edges, the degree of a unit is hypergeometric:
    the number of its ``n_other`` cells among the ``n_edges`` drawn without replacement. k runs up
    to the value that is exceeded with probability 1e-6. O(largest k), no sampling.
    """
    _, n_other = degrees_of(graph, side)
    law = stats.hypergeom(graph.n_in * graph.n_out, n_other, graph.n_edges)
    top = int(law.isf(1e-6)) if graph.n_edges else 0
    k = np.arange(1, max(top, 1) + 1)
    return k, law.sf(k - 1)


def draw_ccdf(ax: Axes, degrees: NDArray[np.int64], **style: Any) -> None:
    """Draw P(K >= k) over the positive degrees as a step function."""
    k, share = ccdf(degrees)
    ax.step(k[k > 0], share[k > 0], where="pre", **style)


def ccdf_band(
    degrees: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return k and the pointwise 95 % bootstrap interval of P(K >= k) at the positive degrees."""
    # Idea: in a bootstrap sample of n units the number with degree >= k is binomial with the
    # observed share as its probability, so the limits of the percentile interval are quantiles of
    # that binomial distribution, exactly.
    # Cost: O(number of distinct degrees), and the same figure each time, where drawing B samples
    # costs O(B n) and adds noise. The intervals are pointwise: about one step in twenty of the
    # true distribution may leave the band.
    k, share = ccdf(degrees)
    k, share = k[k > 0], share[k > 0]
    n = max(degrees.size, 1)
    low, high = (np.asarray(stats.binom.ppf(q, n, share)) / n for q in (0.025, 0.975))
    return k, low, high


def degree_distribution(
    graph: GraphLike,
    *,
    side: str = "fan_in",
    initial: GraphLike | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot the share of units with degree at least k on log-log axes, with the random-graph null.

    Compare the steps with the dotted line: the degrees of a random graph fall off like the null,
    a heavy tail extends to the right of it. The band is the pointwise 95 % bootstrap interval of
    the steps. The best-fitting power law is drawn from its x_min (vertical line) on, as a thin
    line unless the verdict is at least "heavy-tailed": a power law can be fitted to any degrees,
    and where the steps depart from the line they do not follow it.

    Parameters
    ----------
    graph : LayerGraph
        Or anything that `topokit.graph.convert.as_graph` accepts.
    side : str
        ``"fan_in"`` (output units) or ``"fan_out"`` (input units).
    initial : LayerGraph, optional
        A graph to compare with, usually that of the first epoch.
    title : str, optional
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If `side` is neither.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> graph = LayerGraph.from_edge_ids([0, 1, 5, 7], (3, 3))
    >>> degree_distribution(graph, ax=Figure().add_subplot()).get_xlabel()
    'fan-in k'
    """
    graph, ax = as_graph(graph), axes(ax)
    initial = None if initial is None else as_graph(initial)
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
            label = f"best power law, α = {fit.alpha:.2f}, k ≥ {fit.xmin:.0f}"
            label += f"\nverdict: {fit.label}"
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


def degree_histogram(graph: GraphLike, *, side: str = "fan_in", ax: Axes | None = None) -> Axes:
    """Plot the number of units of each degree, with the expectation for a random graph.

    Parameters
    ----------
    graph : LayerGraph
    side : str
        ``"fan_in"`` (output units) or ``"fan_out"`` (input units).
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If `side` is neither.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> graph = LayerGraph.from_edge_ids([0], (1, 2))
    >>> degree_histogram(graph, ax=Figure().add_subplot()).get_ylabel()
    'output units'
    """
    graph, ax = as_graph(graph), axes(ax)
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


def spectrum(graph: GraphLike, *, ax: Axes | None = None) -> Axes:
    """Plot the singular values of the biadjacency matrix, with a random graph's and the bound.

    The first value reflects the mean degrees. The second, compared with the dashed bound, shows
    how well the layer expands: below the bound it is about as small as that of a large graph with
    these degrees can be. The grey line is the expectation for a random layer of the same density
    by the law of Marchenko and Pastur [1]_; hubs and blocks raise values above it, regular designs
    lower them.

    Parameters
    ----------
    graph : LayerGraph
    ax : Axes, optional

    Returns
    -------
    Axes

    Notes
    -----
    Dense, O(n_out n_in) memory, since all values are computed; for layers with more than 1,500
    units on the smaller side only the first two are drawn. The law holds in the limit of large
    degrees: with mean degrees below about 20 the bulk of a random layer is a little wider.

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
    graph, ax = as_graph(graph), axes(ax)
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
    ax.set(xlabel="rank", ylabel="singular value", title="Singular values of the biadjacency")
    return ax


def random_bulk(graph: LayerGraph) -> NDArray[np.float64]:
    """Return the expected singular values of a random layer of this size and density, decreasing.

    The values of its centred biadjacency matrix; an empty array if no edge or every edge is
    present.
    """
    # Idea: squared singular values of a random matrix with independent entries of variance
    # p (1 - p) follow Marchenko and Pastur's law. The expected value of rank r is close to the
    # quantile of that law at (r + 1/2) / n. The density has infinite slope at both ends of its
    # support, so it is integrated over an angle on which the squares run along a half circle; the
    # integrand is smooth there and the trapezoidal rule on 4,001 points is accurate enough for a
    # figure.
    # Cost: O(n), where drawing random layers would cost a dense singular value decomposition each.
    small, large = sorted(graph.shape)
    spread = np.sqrt(graph.density * (1 - graph.density)) if graph.n_edges else 0.0
    if not spread:
        return np.empty(0)
    low, high = (spread * (np.sqrt(large) + sign * np.sqrt(small)) for sign in (-1, 1))
    angle = np.linspace(0, np.pi, 4001)
    squares = (high**2 + low**2) / 2 + (high**2 - low**2) / 2 * np.cos(angle)
    weight = np.sin(angle) ** 2 / np.maximum(squares, 1e-12 * high**2)
    share = np.concatenate([[0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    wanted = (np.arange(small) + 0.5) / small
    return np.sqrt(np.maximum(np.interp(wanted, share / share[-1], squares), 0))


def adjacency(graph: GraphLike, *, ax: Axes | None = None) -> Axes:
    """Plot the adjacency matrix, both sides ordered by degree; large layers as block densities.

    The grey level is the share of edges present in a block; hubs are in the upper left corner.
    Up to 400 units on each side every cell is shown. Larger layers are divided into blocks that
    contain 8 edges on average, since the densities of smaller blocks are mostly noise.

    Parameters
    ----------
    graph : LayerGraph
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> adjacency(LayerGraph.from_edge_ids([0], (1, 2)), ax=Figure().add_subplot()).get_title()
    'Adjacency, ordered by degree'
    """
    graph, ax = as_graph(graph), axes(ax)
    if graph.n_edges:
        whole = max(graph.shape) <= BLOCKS  # each block is one cell, and an edge is black
        blocks = BLOCKS if whole else int(np.clip(np.sqrt(graph.n_edges / EXPECTED), 1, BLOCKS))
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
    """Return the share of edges present in each block, both sides in order of decreasing degree.

    There are at most `blocks` by `blocks` of them, whose lengths differ by at most one unit; a
    side with fewer units than `blocks` has a block for each unit. O(edges).
    """
    rows, columns = (
        (2 * degree_ranks(degrees) + 1) * min(degrees.size, blocks) // max(2 * degrees.size, 1)
        for degrees in (graph.fan_in, graph.fan_out)
    )
    shape = (min(graph.n_out, blocks), min(graph.n_in, blocks))
    return group_densities(graph, rows, columns, shape)[0]


def degree_ranks(degrees: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rank of each unit in order of decreasing degree; ties keep their order."""
    rank = np.empty(degrees.size, np.int64)
    rank[np.argsort(-degrees, kind="stable")] = np.arange(degrees.size)
    return rank


def group_densities(
    graph: LayerGraph,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    shape: tuple[int, int],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the share of edges present between groups of units, and the number of their cells.

    `rows` and `columns` give the group of each output and input unit; `shape` is the number of
    groups on each side, as that of both results. O(edges).
    """
    flat = rows[graph.rows] * shape[1] + columns[graph.indices]
    counts = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
    cells = np.outer(
        np.bincount(rows, minlength=shape[0]), np.bincount(columns, minlength=shape[1])
    )
    return counts / np.maximum(cells, 1), cells


def input_map(
    graph: GraphLike, *, image_shape: tuple[int, int] | None = None, ax: Axes | None = None
) -> Axes:
    """Plot the fan-out of the input units as an image: the number of edges of each pixel.

    Parameters
    ----------
    graph : LayerGraph
        The first layer of a network on images.
    image_shape : tuple of int, optional
        Height and width; by default square if the number of units allows it, else one row.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the number of pixels differs from the number of input units.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> input_map(LayerGraph.from_edge_ids([0], (1, 4)), ax=Figure().add_subplot()).get_title()
    'Edges of each input unit'
    """
    graph, ax = as_graph(graph), axes(ax)
    side = int(np.sqrt(graph.n_in))
    shape = image_shape or ((side, side) if side * side == graph.n_in else (1, graph.n_in))
    if shape[0] * shape[1] != graph.n_in:
        raise ValueError(f"expected an image of {graph.n_in} pixels, got {shape[0]} x {shape[1]}")
    if graph.n_in:
        image = ax.imshow(graph.fan_out.reshape(shape), cmap="cividis", aspect="auto")
        ax.figure.colorbar(image, ax=ax, label="fan-out")
    ax.set(xlabel="column", ylabel="row", title="Edges of each input unit")
    return ax
