"""Families in which the position of units matters: bands, circulants, small worlds, blocks."""

from __future__ import annotations

from typing import Literal

import numpy as np

from topokit.generators.adapt import fit
from topokit.generators.sampling import (
    Shuffle,
    choose_cells,
    edge_count,
    even_degrees,
    graph_from,
    shuffled,
)
from topokit.graph import LayerGraph, distinct, random_subset, sample_absent
from topokit.tables import is_integer

__all__ = ["band", "block", "circulant", "geometric", "receptive_field", "small_world"]


def band(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Band around the diagonal, closed to a ring: each output unit is joined to nearby inputs.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
        Renumbers units only.
    shuffle : {"none", "fan_in", "fan_out", "both"}

    Returns
    -------
    LayerGraph
        A poor expander: its spectral gap vanishes as the layer grows.

    Notes
    -----
    Guarantee: exact number of edges; fan-in within one; deterministic without shuffle.
    Cost: O(edges).

    References
    ----------
    .. [1] Watts, Strogatz, "Collective dynamics of small-world networks", Nature 393, 1998.

    Examples
    --------
    >>> band(6, 3, density=0.5, rng=np.random.default_rng(0)).indices.tolist()
    [0, 1, 2, 2, 3, 4, 0, 4, 5]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    return shuffled(_band(n_in, n_out, n_edges), shuffle, rng)


def small_world(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    beta: float = 0.25,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Band of which a share of edges is rewired at random: CHT's bipartite small world (BSW).

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    beta : float
        Share of edges that are taken away and drawn again, uniformly among the cells then absent:
        0 is `band`, 1 is `erdos_renyi`.
    shuffle : {"none", "fan_in", "fan_out", "both"}

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If a size or the density is out of range, or `beta` is outside [0, 1].

    Notes
    -----
    Guarantee: exact number of edges.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Watts, Strogatz, "Collective dynamics of small-world networks", Nature 393, 1998.
    .. [2] Zhang et al., "Epitopological learning and Cannistraci-Hebb network shape intelligence
       brain-inspired theory for ultra-sparse advantage in deep learning", ICLR 2024.

    Examples
    --------
    >>> small_world(100, 80, density=0.1, rng=np.random.default_rng(0)).n_edges
    800
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if not 0 <= beta <= 1:
        raise ValueError(f"expected beta in [0, 1] (share of edges rewired), got {beta!r}")
    ids = _band(n_in, n_out, n_edges).edge_ids
    moved = round(beta * n_edges)
    kept = LayerGraph.from_edge_ids(rng.permutation(ids)[moved:], (n_out, n_in))
    ids = np.concatenate([kept.edge_ids, sample_absent(kept, moved, rng)])
    return shuffled(LayerGraph.from_edge_ids(ids, (n_out, n_in)), shuffle, rng)


def receptive_field(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    r: float = 0.25,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Receptive fields (BRF): edges are drawn with a probability that falls with distance.

    The distance of output unit j is measured on the ring, from its centre
    ``(j + 1/2) n_in / n_out - 1/2``. The released code of the paper has other centres, which leave
    units isolated.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    r : float
        In [0, 1]: 0 takes the nearest inputs, 1 any; in between an input at distance x has
        weight ``(1 + x)**(-(1 - r) / r)``.
    shuffle : {"none", "fan_in", "fan_out", "both"}

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If a size or the density is out of range, or `r` is outside [0, 1].

    Notes
    -----
    Guarantee: exact number of edges; fan-in within one.
    Cost: O(edges) and rejections; O(n_in) for each output unit that sees nearly all it can.

    References
    ----------
    .. [1] Zhang et al., "Brain network science modelling of sparse neural networks enables
       Transformers and LLMs to perform as fully connected", NeurIPS 2025, arXiv 2501.19107.

    Examples
    --------
    >>> graph = receptive_field(784, 1000, density=0.01, r=0.1, rng=np.random.default_rng(0))
    >>> int(graph.fan_out.min()) > 0
    True
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if not 0 <= r <= 1:
        raise ValueError(f"expected r in [0, 1] (0 nearest, 1 uniform), got {r!r}")
    if r == 0:
        return shuffled(_band(n_in, n_out, n_edges), shuffle, rng)
    fan_in = even_degrees(n_edges, n_out, rng)
    steps = np.arange(n_in)
    centre = np.floor((np.arange(n_out) + 0.5) * n_in / n_out).astype(np.int64)
    weight = (1.0 + np.minimum(steps, n_in - steps)) ** (-(1 - r) / r)
    cumulative = np.cumsum(weight)
    # First draw with replacement by the cumulated weights, in twelve rounds in which duplicates are
    # drawn again. Rows that still lack inputs need nearly all inputs of noticeable weight; for them
    # take the largest of log(weight) + Gumbel noise, which is exact sampling without replacement,
    # in O(n_in) a row.
    ids, missing = np.empty(0, np.int64), fan_in.copy()
    for _ in range(12):
        rows = np.repeat(np.arange(n_out), missing)
        if not rows.size:
            break
        step = np.searchsorted(cumulative, rng.random(rows.size) * cumulative[-1], side="right")
        columns = (centre[rows] + np.minimum(step, n_in - 1)) % n_in
        ids = distinct(np.concatenate([ids, rows * n_in + columns]))
        missing = fan_in - np.bincount(ids // n_in, minlength=n_out)
    more, indptr = [ids], np.searchsorted(ids, np.arange(n_out + 1) * n_in)
    near = np.flatnonzero(weight >= 1e-6 * np.sort(weight)[-max(int(fan_in.max()), 1)])
    for row in np.flatnonzero(missing):
        columns = (centre[row] + near) % n_in
        score = np.log(weight[near]) + rng.gumbel(size=near.size)
        score[np.isin(columns, ids[indptr[row] : indptr[row + 1]] % n_in)] = -np.inf
        more.append(row * n_in + columns[np.argsort(-score, kind="stable")[: missing[row]]])
    graph = LayerGraph.from_edge_ids(np.concatenate(more), (n_out, n_in))
    return shuffled(graph, shuffle, rng)


def geometric(
    n_in: int, n_out: int, *, density: float, rng: np.random.Generator, dimension: int = 2
) -> LayerGraph:
    """Random geometric graph: units are points on a torus, the closest pairs are joined.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    dimension : int
        Of the torus, 1 to 3.

    Returns
    -------
    LayerGraph
        Many 4-cycles; a poor expander.

    Raises
    ------
    ValueError
        If a size or the density is out of range, or the dimension is not 1, 2 or 3.

    Notes
    -----
    Guarantee: exact number of edges.
    Cost: O(edges log n).

    References
    ----------
    .. [1] Penrose, "Random geometric graphs", 2003.

    Examples
    --------
    >>> geometric(100, 80, density=0.05, rng=np.random.default_rng(0)).n_edges
    400
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if dimension not in (1, 2, 3):
        raise ValueError(f"expected dimension 1, 2 or 3, got {dimension!r}")
    inputs, outputs = rng.random((n_in, dimension)), rng.random((n_out, dimension))
    if n_edges in (0, n_in * n_out):
        return choose_cells((n_out, n_in), n_edges, rng)
    from scipy.spatial import cKDTree

    # Find by bisection a radius within which there are at least n_edges pairs and few more, list
    # the pairs with two k-d trees, and keep the closest n_edges.
    torus = np.ones(dimension)
    left, right = cKDTree(outputs, boxsize=torus), cKDTree(inputs, boxsize=torus)
    low, high = 0.0, float(np.sqrt(dimension)) / 2 + 1e-9
    for _ in range(40):
        middle = (low + high) / 2
        found = int(left.count_neighbors(right, middle))
        if found >= n_edges:
            high = middle
            if found <= 1.05 * n_edges + 10:
                break
        else:
            low = middle
    pairs = left.sparse_distance_matrix(right, high, output_type="ndarray")
    nearest = pairs[np.lexsort((pairs["j"], pairs["i"], pairs["v"]))[:n_edges]]
    return graph_from(nearest["i"], nearest["j"], (n_out, n_in))


def block(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    groups: int = 4,
    ratio: float = 0.1,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Stochastic block model: groups on both sides, dense within and sparse across.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    groups : int
        Groups of consecutive units of nearly equal size; at most the smaller side is used.
    ratio : float
        Density across groups over density within, not negative: 1 is `erdos_renyi` with as many
        edges within groups as expected; with 0 there are none across until the groups are full.
    shuffle : {"none", "fan_in", "fan_out", "both"}

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If a size or the density is out of range, `groups` is no integer of at least 1, or `ratio`
        is negative or infinite.

    Notes
    -----
    Guarantee: exact number of edges; the number within groups is its expectation, rounded.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Holland, Laskey, Leinhardt, "Stochastic blockmodels: first steps", Social Networks 5,
       1983.

    Examples
    --------
    >>> graph = block(40, 40, density=0.1, groups=2, ratio=0.0, rng=np.random.default_rng(0))
    >>> bool(((graph.rows < 20) == (graph.indices < 20)).all())
    True
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if not is_integer(groups, 1) or not 0 <= ratio < np.inf:
        raise ValueError(
            f"expected an integer groups >= 1 and a finite ratio >= 0, got {groups!r} and {ratio!r}"
        )
    groups = min(groups, n_in, n_out)
    group = np.arange(n_out) * groups // n_out
    edges_of = -(-np.arange(groups + 1) * n_in // groups)
    low, high = edges_of[group], edges_of[group + 1]
    width = high - low
    n_within = int(width.sum())
    n_across = n_in * n_out - n_within
    mass = n_within + ratio * n_across
    inside = min(round(n_edges * n_within / mass), n_within)
    inside = max(inside, n_edges - n_across)
    starts = np.cumsum(width) - width
    ranks = random_subset(n_within, inside, rng)
    rows = np.searchsorted(starts, ranks, side="right") - 1
    first = rows * n_in + low[rows] + ranks - starts[rows]
    starts = np.cumsum(n_in - width) - (n_in - width)
    ranks = random_subset(n_across, n_edges - inside, rng)
    rows = np.searchsorted(starts, ranks, side="right") - 1
    columns = ranks - starts[rows]
    columns = columns + np.where(columns >= low[rows], width[rows], 0)
    ids = np.concatenate([first, rows * n_in + columns])
    return shuffled(LayerGraph.from_edge_ids(ids, (n_out, n_in)), shuffle, rng)


def circulant(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    offsets: Literal["random", "powers", "fibonacci"] = "random",
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Circulant graph: output unit i is joined to input units i + s for a set of offsets s.

    "powers" (of two) and "fibonacci" are one interpretation of layers that the literature calls
    structured; no exact published definition is known to us.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges. There are as many offsets as the mean
        fan-in; rectangular layers are cropped from a square, and missing edges are added.
    rng : numpy.random.Generator
    offsets : {"random", "powers", "fibonacci"}
        How offsets are chosen; where a set has too few, random ones are added.
    shuffle : {"none", "fan_in", "fan_out", "both"}

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If a size or the density is out of range, or `offsets` is unknown.

    Notes
    -----
    Guarantee: exact number of edges; degrees constant for a square layer whose size divides
    the edges.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Davis, "Circulant matrices", 1979.

    Examples
    --------
    >>> graph = circulant(8, 8, density=3 / 8, offsets="powers", rng=np.random.default_rng(0))
    >>> graph.indices[:3].tolist()
    [1, 2, 4]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    n = max(n_in, n_out)
    degree = min(round(n_edges * n / (n_in * n_out)), n)
    if offsets not in ("random", "powers", "fibonacci"):
        raise ValueError(f"expected offsets 'random', 'powers' or 'fibonacci', got {offsets!r}")
    series = [] if offsets == "random" else [1, 2]
    while series and series[-1] < n:
        series.append(2 * series[-1] if offsets == "powers" else series[-1] + series[-2])
    chosen = [s for s in series if s < n][:degree]
    others = rng.permutation(np.setdiff1d(np.arange(n), chosen))[: degree - len(chosen)]
    steps = np.concatenate([np.array(chosen, np.int64), others])
    rows = np.repeat(np.arange(n), degree)
    graph = graph_from(rows, (rows + np.tile(steps, n)) % n, (n, n))
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def _band(n_in: int, n_out: int, n_edges: int) -> LayerGraph:
    """Join each output unit to consecutive inputs on a ring, around its position."""
    cut = np.arange(n_out + 1) * n_edges // n_out
    fan_in = np.diff(cut)
    start = np.round((np.arange(n_out) + 0.5) * n_in / n_out - fan_in / 2).astype(np.int64)
    rows = np.repeat(np.arange(n_out), fan_in)
    columns = (start[rows] + np.arange(n_edges) - cut[rows]) % n_in
    return graph_from(rows, columns, (n_out, n_in))
