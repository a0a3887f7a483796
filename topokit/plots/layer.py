"""Figures of one layer's graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from topokit.graph import LayerGraph
from topokit.graph.convert import GraphLike, as_graph
from topokit.graph.spectra import leading_singular_values, mean_degree_bound
from topokit.measures import PowerLawFit, ccdf, power_law_of, singular_values
from topokit.measures.degree import degrees_of
from topokit.measures.powerlaw import log_zeta
from topokit.measures.scalefree import HEAVY_TAIL
from topokit.plots.parts import (
    NO_MARKERS,
    degree_axis,
    empty_axes,
    label_axes,
    legend,
    named,
    next_colour,
    reference,
    scale_to,
    shade,
    styled,
    title_of,
    unless_used,
)
from topokit.plots.style import axes, whole_numbers

__all__ = ["adjacency", "degree_distribution", "degree_histogram", "input_map", "spectrum"]

UNITS = {"fan_in": "output units", "fan_out": "input units"}
BLOCKS = 400  # largest number of blocks along a side of an adjacency
EXPECTED = 8  # mean number of edges in a block of a large layer; with fewer, noise dominates
LARGEST_SPECTRUM = 1500  # up to this many units on the smaller side, all singular values are drawn
SHORTEST = 0.3  # decades: a tail of less than a factor of two is no evidence for any law
FALLING = ("upper right", "lower left", "center right", "center left")


def random_law(graph: LayerGraph, n_cells: int) -> Any:
    """Return the law of the number of edges in `n_cells` possible ones of a random layer.

    In an Erdős–Rényi layer with a fixed number of edges it is hypergeometric: the number of these
    cells among the ``n_edges`` drawn without replacement. A frozen distribution of scipy.
    """
    from scipy.stats import hypergeom

    return hypergeom(graph.n_possible, n_cells, graph.n_edges)


def null_ccdf(graph: LayerGraph, side: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return k and P(K >= k) in a random layer with the same sizes and number of edges.

    k runs up to the value that is exceeded with probability 1e-6. O(largest k), no sampling.
    """
    law = random_law(graph, degrees_of(graph, side)[1])
    top = int(law.isf(1e-6)) if graph.n_edges else 0
    k = np.arange(1, max(top, 1) + 1)
    return k, law.sf(k - 1)


def draw_ccdf(ax: Axes, degrees: NDArray[np.int64], **style: Any) -> None:
    """Draw P(K >= k) over the positive degrees as a step function."""
    k, share = ccdf(degrees)
    _steps(ax, k[k > 0], share[k > 0], style)


def _steps(ax: Axes, k: NDArray[np.int64], share: NDArray[np.float64], style: Any) -> None:
    """Draw shares of units as steps; if all units have one degree, there is one point."""
    if k.size == 1 and style.get("marker") in NO_MARKERS:
        style = {**style, "marker": "o", "markersize": 3.5}
    ax.step(k, share, where="pre", **style)


def draw_null(ax: Axes, graph: LayerGraph, side: str, **style: Any) -> None:
    """Draw P(K >= k) in a random layer as steps, as degrees are drawn, where it can be seen.

    A null that the axes has already is not drawn again. See `null_steps`.
    """
    k, share = null_steps(graph, side)
    if not k.size:
        return
    label = style.pop("label", "random graph")
    for line in ax.lines:
        if line.get_gid() == "null" and np.array_equal(line.get_xydata(), np.c_[k, share]):
            return
    label = unless_used(ax, label) if label else None
    _steps(ax, k, share, reference(gid="null", label=label, **style))


def null_steps(graph: LayerGraph, side: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return k and P(K >= k) in a random layer where it can be seen, nothing without edges.

    That is over the degrees between the quantiles that one unit in two layers of this size would
    exceed.
    """
    if not graph.n_edges:
        return np.empty(0, np.int64), np.empty(0)
    k, share = null_ccdf(graph, side)
    rare = 0.5 / max(degrees_of(graph, side)[0].size, 2)
    below, above = int(np.sum(share > 1 - rare)), int(np.sum(share >= rare))
    return k[max(below - 1, 0) : max(above, 1)], share[max(below - 1, 0) : max(above, 1)]


def draw_law(ax: Axes, fit: PowerLawFit, color: Any, label: str | None = None) -> None:
    """Draw P(K >= k) of the best power law over its tail, or say why none is drawn.

    The law is that of the fit, which ends at the largest possible degree and is bent towards it.
    """
    if not np.isfinite(fit.alpha) or fit.n_tail < HEAVY_TAIL or fit.decades < SHORTEST:
        why = f"{fit.n_tail} units in the tail"
        if fit.n_tail >= HEAVY_TAIL:
            why = f"tail from {fit.xmin:.0f} to {fit.maximum}"
        words = f"no power law\n({why}); verdict:\n{fit.label}"
        words = f"{label}: no power law, {fit.label}" if label else words
        ax.plot([], [], **reference(linestyle="none", label=words))
        return
    k = np.arange(int(fit.xmin), fit.maximum + 1)
    above = np.exp(log_zeta(fit.alpha, k, fit.upper) - log_zeta(fit.alpha, fit.xmin, fit.upper))
    heavy = fit.verdict in ("heavy-tailed", "power law")
    words = f"best power law, α = {fit.alpha:.2f},\nk = {fit.xmin:.0f} to {fit.upper:.0f}"
    words = f"{label}: {words}; {fit.label}" if label else f"{words}; verdict:\n{fit.label}"
    ax.step(
        k, fit.tail_share * above, where="pre", color=color, linestyle="-.", marker="none",
        linewidth=1.4 if heavy else 0.8,
        label=words,
    )  # fmt: skip


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
    from scipy.stats import binom

    k, share = ccdf(degrees)
    k, share = k[k > 0], share[k > 0]
    n = max(degrees.size, 1)
    low, high = (np.asarray(binom.ppf(q, n, share)) / n for q in (0.025, 0.975))
    return k, low, high


def degree_distribution(
    graph: GraphLike,
    *,
    side: str = "fan_in",
    initial: GraphLike | None = None,
    title: str | None = None,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the share of units with degree at least k on log-log axes, with the random-graph null.

    Compare the steps with the dotted ones: the degrees of a random graph fall off like the null,
    a heavy tail extends to the right of it. The band is the pointwise 95 % bootstrap interval of
    the steps. The best-fitting power law (dash-dotted) is drawn from its x_min on, thin unless the
    verdict is at least "heavy-tailed": a power law can be fitted to any degrees, and where the
    steps depart from it they do not follow it. It is the law that was fitted, on degrees up to the
    number of units on the other side, and bends down towards that number. With fewer than 20 units
    in the tail, or a tail of less than a factor of two, none is drawn, and the legend says so.

    Parameters
    ----------
    graph : LayerGraph
        Or anything that `topokit.graph.convert.as_graph` accepts.
    side : str
        ``"fan_in"`` (output units) or ``"fan_out"`` (input units).
    initial : LayerGraph, optional
        A graph to compare with, usually that of the first epoch.
    title : str, optional
    label : str, optional
        Name of the graph in the legend, by default "this graph".
    color : color, optional
        By default the next of the axes' colour cycle, so that several graphs can share an axes.
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
        If `side` is neither.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> graph = LayerGraph.from_edge_ids([0, 1, 5, 7], (3, 3))
    >>> ax = degree_distribution(graph, label="mine", ax=Figure().add_subplot())
    >>> ax.get_xlabel(), [line.get_label() for line in ax.lines][:2]
    ('fan-in k', ['random graph', 'mine'])
    """
    graph = as_graph(graph)
    initial = None if initial is None else as_graph(initial)
    degrees, _ = degrees_of(graph, side)
    ax, word = axes(ax), side.replace("_", "-")
    if graph.n_edges:
        colour = next_colour(ax, color)
        draw_null(ax, graph, side)
        if initial is not None and initial.n_edges:
            draw_ccdf(
                ax, degrees_of(initial, side)[0], color=shade(ax, colour, 0.6), linestyle="--",
                marker="none", label=named(label, "first epoch"),
            )  # fmt: skip
        ax.fill_between(*ccdf_band(degrees), step="pre", facecolor=colour, alpha=0.18, lw=0)
        isolated = np.mean(degrees == 0)
        name = label or "this graph (band: 95 %)"
        name += f",{' ' if label else chr(10)}{100 * isolated:.1f} % isolated" if isolated else ""
        style = styled(kwargs, color=colour, linestyle="-", marker="none", label=name)
        draw_ccdf(ax, degrees, **style)
        draw_law(ax, power_law_of(graph, side), colour, label)
        degree_axis(ax)
    label_axes(ax, f"{word} k", f"share of units\nwith {word} ≥ k")
    title_of(ax, title or f"Degree distribution ({word})")
    legend(ax, corners=FALLING)
    return ax


def degree_histogram(
    graph: GraphLike,
    *,
    side: str = "fan_in",
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the number of units of each degree, with the expectation for a random graph.

    Bars of a random graph follow the dotted steps; hubs are single units far to the right of them,
    and a regular layer is one bar. A second graph on the same axes is drawn translucent.

    Parameters
    ----------
    graph : LayerGraph
    side : str
        ``"fan_in"`` (output units) or ``"fan_out"`` (input units).
    label : str, optional
        Name of the graph in the legend, by default "this graph".
    color : color, optional
        By default the next of the axes' colour cycle.
    ax : Axes, optional
        By default that of a new figure.
    **kwargs
        Properties of the bars, as of `matplotlib.axes.Axes.bar`.

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
    graph = as_graph(graph)
    degrees, n_other = degrees_of(graph, side)
    ax = axes(ax)
    if degrees.size:
        colour, later = next_colour(ax, color), bool(ax.patches)
        counts = np.bincount(degrees)
        k = np.flatnonzero(counts)  # a hub of many edges makes no empty bars
        style = styled(kwargs, Rectangle, color=colour, alpha=0.55 if later else None)
        style = {"width": 1.0, "label": label or "this graph", **style}
        ax.bar(k, counts[k], **style)
        if graph.n_possible:  # else there is no other side
            law, rare = random_law(graph, n_other), 0.5 / degrees.size
            k = np.arange(int(law.ppf(rare)), int(law.isf(rare)) + 2)
            expected = degrees.size * law.pmf(k)
            name = unless_used(ax, "random graph")
            ax.step(k, expected, where="mid", **reference(label=name, linewidth=1.2))
    label_axes(ax, f"{side.replace('_', '-')} k", UNITS[side])
    title_of(ax, "Degree histogram")
    whole_numbers(ax)
    legend(ax)
    return ax


def spectrum(
    graph: GraphLike,
    *,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the singular values of the biadjacency matrix, with a random graph's and the bound.

    The first value reflects the mean degrees. The second, compared with the dashed bound, shows
    how well the layer expands: below the bound it is about as small as that of a large graph with
    these degrees can be. The grey line is the expectation for a random layer of the same density
    by the law of Marchenko and Pastur [1]_; hubs and blocks raise values above it, regular designs
    lower them.

    Parameters
    ----------
    graph : LayerGraph
    label : str, optional
        Name of the graph in the legend, by default "this graph".
    color : color, optional
        By default the next of the axes' colour cycle.
    ax : Axes, optional
        By default that of a new figure.
    **kwargs
        Properties of the points, as of `matplotlib.axes.Axes.plot`.

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
    graph = as_graph(graph)
    ax = axes(ax)
    whole = min(graph.shape) <= LARGEST_SPECTRUM
    values = singular_values(graph) if whole else np.array(leading_singular_values(graph))
    values = np.sort(values)[::-1]
    if values.size:
        name = label or ("this graph" if whole else "this graph, first two")
        style = {"color": next_colour(ax, color), "linestyle": "none", "marker": ".", "label": name}
        ax.plot(np.arange(1, values.size + 1), values, **styled(kwargs, markersize=3, **style))
    bulk = random_bulk(graph)
    above = graph.groups  # each group has a leading value of its own above the bulk
    if bulk.size > above:
        name = unless_used(ax, "random graph (Marchenko–Pastur)")
        ranks = np.arange(above + 1, bulk.size + 1)
        ax.plot(ranks, bulk[above:], **reference(linestyle="-", label=name))
    if graph.n_edges:
        name = unless_used(ax, "Ramanujan bound, mean degrees")
        ax.axhline(mean_degree_bound(graph), **reference(linestyle="--", label=name))
    ax.set(xlabel="rank", ylabel="singular value")
    title_of(ax, "Singular values of the biadjacency")
    legend(ax)
    return ax


def random_bulk(graph: LayerGraph) -> NDArray[np.float64]:
    """Return the expected singular values of a random layer of this size and density, decreasing.

    The values of its centred biadjacency matrix; an empty array if no edge or every edge is
    present. A grouped convolution is random within its groups, each with the same law.
    """
    # Idea: squared singular values of a random matrix with independent entries of variance
    # p (1 - p) follow Marchenko and Pastur's law. The expected value of rank r is close to the
    # quantile of that law at (r + 1/2) / n. The density has infinite slope at both ends of its
    # support, so it is integrated over an angle on which the squares run along a half circle; the
    # integrand is smooth there and the trapezoidal rule on 4,001 points is accurate enough for a
    # figure.
    # Cost: O(n), where drawing random layers would cost a dense singular value decomposition each.
    small, large = (n // graph.groups for n in sorted(graph.shape))
    share = graph.n_edges / max(graph.n_possible, 1)
    spread = np.sqrt(share * (1 - share))
    if not spread:
        return np.empty(0)
    low, high = (spread * (np.sqrt(large) + sign * np.sqrt(small)) for sign in (-1, 1))
    angle = np.linspace(0, np.pi, 4001)
    squares = (high**2 + low**2) / 2 + (high**2 - low**2) / 2 * np.cos(angle)
    weight = np.sin(angle) ** 2 / np.maximum(squares, 1e-12 * high**2)
    below = np.concatenate([[0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    n = small * graph.groups
    wanted = (np.arange(n) + 0.5) / n
    return np.sqrt(np.maximum(np.interp(wanted, below / below[-1], squares), 0))


def adjacency(
    graph: GraphLike,
    *,
    compared_with: GraphLike | None = None,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the adjacency matrix, both sides ordered by degree; large layers as block densities.

    The darkness is the share of edges present in a block; hubs are in the upper left corner, and a
    random graph is evenly grey, a little darker towards that corner. Up to 400 units on each side
    every cell is shown. Larger layers are divided into blocks that contain 8 edges on average,
    since the densities of smaller blocks are mostly noise.

    Parameters
    ----------
    graph : LayerGraph
    compared_with : LayerGraph, optional
        A graph drawn on another axes: both have one scale of colours if each is given the other.
    label : str, optional
        Name of the graph in the title.
    color : color, optional
        Of the densest block, by default black.
    ax : Axes, optional
        An empty one; by default that of a new figure.
    **kwargs
        Properties of the image, as of `matplotlib.axes.Axes.imshow`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If something is drawn in the axes already.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> adjacency(LayerGraph.from_edge_ids([0], (1, 2)), ax=Figure().add_subplot()).get_title()
    'Adjacency, ordered by degree'
    """
    graph = as_graph(graph)
    shown = [graph] if compared_with is None else [graph, as_graph(compared_with)]
    ax = axes(ax)
    empty_axes(ax, "adjacency")
    if graph.n_edges:
        whole = max(graph.shape) <= BLOCKS  # each block is one cell, and an edge is black
        found = [block_densities(one, _blocks(one)) for one in shown]
        style = styled(
            kwargs, AxesImage, extent=(0, graph.n_in, graph.n_out, 0), aspect="auto", vmin=0,
            vmax=1 if whole else max(densities.max(initial=0) for densities in found),
            interpolation="auto", cmap="Greys" if color is None else scale_to(ax, color),
            label=label,
        )  # fmt: skip
        image = ax.imshow(found[0], **style)
        ax.figure.colorbar(image, ax=ax, label="density of the block")
    ax.set(xlabel="input units", ylabel="output units")
    title_of(ax, "Adjacency, ordered by degree", label)
    return ax


def _blocks(graph: LayerGraph) -> int:
    """Return the number of blocks along the sides of a layer's adjacency."""
    if max(graph.shape) <= BLOCKS:
        return BLOCKS
    return int(np.clip(np.sqrt(graph.n_edges / EXPECTED), 1, BLOCKS))


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
    graph: GraphLike,
    *,
    image_shape: tuple[int, ...] | None = None,
    order: NDArray[np.int64] | None = None,
    compared_with: GraphLike | None = None,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the fan-out of the input units as an image: the number of edges of each pixel.

    Bright pixels are read by many units. Under rules that find features, pixels at the border,
    which are the same in all images, lose their edges. Of images with several channels the edges
    of a pixel are those of all channels.

    Parameters
    ----------
    graph : LayerGraph
        The first layer of a network on images.
    image_shape : tuple of int, optional
        Height and width, or channels, height and width; by default square, or square with three
        channels, if the number of units allows it, else one row.
    order : (n_in,) array of int, optional
        The pixel that each input unit reads, by default in the order of the image. With the
        setting ``data.shuffle_pixels`` it is ``topokit.data.samples.pixel_order(shape, seed)``,
        which ``topokit plot`` finds in the run's configuration.
    compared_with : LayerGraph, optional
        A graph drawn on another axes: both have one scale of colours if each is given the other.
    label : str, optional
        Name of the graph in the title.
    color : color, optional
        Of the highest fan-out; by default the colour map cividis is used.
    ax : Axes, optional
        An empty one; by default that of a new figure.
    **kwargs
        Properties of the image, as of `matplotlib.axes.Axes.imshow`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the number of pixels differs from the number of input units, `order` is no order of
        them, or something is drawn in the axes already.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> input_map(LayerGraph.from_edge_ids([0], (1, 4)), ax=Figure().add_subplot()).get_title()
    'Edges of each input unit'
    """
    graph = as_graph(graph)
    shown = [graph] if compared_with is None else [graph, as_graph(compared_with)]
    shape = image_shape or shape_of_image(graph.n_in)
    if len(shape) not in (2, 3) or np.prod(shape) != graph.n_in:
        words = " x ".join(map(str, shape))
        raise ValueError(f"expected an image of {graph.n_in} pixels, got {words}")
    place = np.arange(graph.n_in) if order is None else np.asarray(order)
    if not np.array_equal(np.sort(place), np.arange(graph.n_in)):
        raise ValueError(
            f"expected an order of {graph.n_in} pixels, each of them once, got another"
        )
    ax = axes(ax)
    empty_axes(ax, "input_map")
    if graph.n_in:
        images = []
        for one in shown:
            pixels = np.empty(graph.n_in, np.int64)
            pixels[place] = one.fan_out
            images.append(pixels.reshape(-1, *shape[-2:]).sum(axis=0))
        style = styled(
            kwargs, AxesImage, cmap="cividis" if color is None else scale_to(ax, color),
            aspect="auto" if 1 in shape[-2:] else "equal", interpolation="auto", label=label,
            vmin=np.min(images), vmax=np.max(images),
        )  # fmt: skip
        image = ax.imshow(images[0], **style)
        ax.figure.colorbar(image, ax=ax, label="fan-out")
    for axis in (ax.xaxis, ax.yaxis):  # whole numbers, also where there is one row
        axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    ax.set(xlabel="column", ylabel="row")
    title_of(ax, "Edges of each input unit", label)
    return ax


def shape_of_image(n: int) -> tuple[int, ...]:
    """Return the shape of an image of n pixels: square, of three square channels, or one row."""
    for channels in (1, 3):
        side = int(np.sqrt(n / channels))
        if n and channels * side * side == n:
            return (side, side) if channels == 1 else (channels, side, side)
    return (1, n)
