"""Fit graphs to a size and an exact number of edges: crop, fold, thin, top up."""

from __future__ import annotations

import numpy as np

from topokit.generators.provenance import note
from topokit.generators.sampling import IntArray, graph_from
from topokit.graph import LayerGraph, distinct, positions_in, random_subset, sample_absent

__all__ = [
    "crop",
    "fit",
    "fold",
    "kronecker_ones",
    "level",
    "thin",
    "top_up",
]


def crop(graph: LayerGraph, n_in: int, n_out: int) -> LayerGraph:
    """Keep the first `n_in` input and `n_out` output units; no singular value becomes larger."""
    note(f"cropped from {graph.n_in} -> {graph.n_out} units")
    keep = (graph.rows < n_out) & (graph.indices < n_in)
    return graph_from(graph.rows[keep], graph.indices[keep], (n_out, n_in))


def fold(graph: LayerGraph, n_in: int, n_out: int) -> LayerGraph:
    """Merge units whose numbers agree modulo the new sizes; double edges become one."""
    ids = distinct((graph.rows % n_out) * n_in + graph.indices % n_in)
    note(f"folded from {graph.n_in} -> {graph.n_out} units, {graph.n_edges - ids.size} merged")
    return LayerGraph.from_edge_ids(ids, (n_out, n_in))


def kronecker_ones(graph: LayerGraph, a_in: int, a_out: int) -> LayerGraph:
    """Replace each input unit by `a_in` copies, each output unit by `a_out`, each edge by all."""
    rows = (graph.rows[:, None, None] * a_out + np.arange(a_out)[:, None]) + np.zeros(
        a_in, np.int64
    )
    columns = graph.indices.astype(np.int64)[:, None, None] * a_in + np.arange(a_in)
    columns = np.broadcast_to(columns, rows.shape)
    return graph_from(rows.ravel(), columns.ravel(), (graph.n_out * a_out, graph.n_in * a_in))


def fit(
    graph: LayerGraph, n_in: int, n_out: int, n_edges: int, rng: np.random.Generator
) -> LayerGraph:
    """Crop a graph to the size, then remove or add edges up to the exact number."""
    if (n_out, n_in) != graph.shape:
        graph = crop(graph, n_in, n_out)
    if graph.n_edges > n_edges:
        note(f"{graph.n_edges - n_edges} of {graph.n_edges} edges thinned")
        return thin(graph, n_edges, rng=rng)
    if graph.n_edges < n_edges:
        note(f"{n_edges - graph.n_edges} edges added between units of the smallest degrees")
    return top_up(graph, n_edges, rng=rng)


def top_up(graph: LayerGraph, n_edges: int, *, rng: np.random.Generator) -> LayerGraph:
    """Add edges between units of the smallest degrees, up to an exact number.

    Parameters
    ----------
    graph : LayerGraph
    n_edges : int
        At least ``graph.n_edges``.
    rng : numpy.random.Generator
        Breaks ties.

    Returns
    -------
    LayerGraph
        Degrees become as even as additions allow; the second singular value rises at most by
        the norm of what is added (Weyl).

    Notes
    -----
    Cost: O(edges log edges).

    Examples
    --------
    >>> star = LayerGraph.from_edge_ids([0, 1, 2], (3, 3))
    >>> top_up(star, 9, rng=np.random.default_rng(0)).density
    1.0
    """
    # Decide first how many edges each unit gets, the smallest degrees first, then pair the units
    # of the two sides at random. Pairs that are edges already, or occur twice, are paired again a
    # few times; then the numbers are decided again from the degrees reached. Edges still missing
    # after eight rounds (both sides nearly full) are drawn uniformly from the absent ones.
    (n_out, n_in), present = graph.shape, graph.edge_ids
    if n_edges == n_out * n_in:
        return LayerGraph.from_edge_ids(np.arange(n_edges), graph.shape)
    fan_in, fan_out = graph.fan_in.copy(), graph.fan_out.copy()
    added = np.empty(0, np.int64)
    for _ in range(8):
        missing = n_edges - present.size - added.size
        if missing <= 0:
            break
        rows = np.repeat(np.arange(n_out), _raise_lowest(fan_in, missing, n_in, rng))
        columns = np.repeat(np.arange(n_in), _raise_lowest(fan_out, missing, n_out, rng))
        columns = rng.permutation(columns)
        for _ in range(4):
            ids = rows * n_in + columns
            order = np.argsort(ids, kind="stable")
            new = np.ones(ids.size, bool)
            new[order[1:]] = ids[order[1:]] != ids[order[:-1]]
            new &= (positions_in(present, ids) < 0) & (positions_in(added, ids) < 0)
            added = np.sort(np.concatenate([added, ids[new]]))
            fan_in += np.bincount(rows[new], minlength=n_out)
            fan_out += np.bincount(columns[new], minlength=n_in)
            rows, columns = rows[~new], rng.permutation(columns[~new])
            if not rows.size:
                break
    if added.size:
        graph = LayerGraph.from_edge_ids(np.concatenate([present, added]), graph.shape)
    rest = sample_absent(graph, n_edges - graph.n_edges, rng)
    if not rest.size:
        return graph
    return LayerGraph.from_edge_ids(np.concatenate([graph.edge_ids, rest]), graph.shape)


def thin(graph: LayerGraph, n_edges: int, *, rng: np.random.Generator) -> LayerGraph:
    """Remove edges between units of the largest degrees, down to an exact number.

    Parameters
    ----------
    graph : LayerGraph
    n_edges : int
        At most ``graph.n_edges``.
    rng : numpy.random.Generator
        Breaks ties.

    Returns
    -------
    LayerGraph
        Degrees become as even as removals allow. Where fewer than half of the edges remain,
        most are removed at random, so that little is left of any structure.

    Notes
    -----
    Cost: O(edges log edges).

    Examples
    --------
    >>> full = LayerGraph.from_edge_ids(range(12), (3, 4))
    >>> thin(full, 6, rng=np.random.default_rng(0)).fan_in.tolist()
    [2, 2, 2]
    """
    # The reverse of `top_up`: each unit gets a number of edges to lose, the largest degrees first,
    # and an edge is removed if both of its ends still have edges to lose. Each round goes through
    # such edges in random order; the numbers are computed again until `n_edges` is reached. With
    # far more edges there would be many rounds, so edges are first removed at random down to 3/2
    # of `n_edges`.
    if graph.n_edges > 2 * n_edges:
        some = random_subset(graph.n_edges, 3 * n_edges // 2, rng)
        graph = LayerGraph.from_edge_ids(graph.edge_ids[some], graph.shape)
    for _ in range(20):
        excess = graph.n_edges - n_edges
        if excess <= 0:
            return graph
        top_in, top_out = int(graph.fan_in.max()), int(graph.fan_out.max())
        quota_in = _raise_lowest(top_in - graph.fan_in, excess, top_in, rng)
        quota_out = _raise_lowest(top_out - graph.fan_out, excess, top_out, rng)
        rows, columns = graph.rows, graph.indices.astype(np.int64)
        keep = np.ones(graph.n_edges, bool)
        for _ in range(10):
            open_ = np.flatnonzero(keep & (quota_in[rows] > 0) & (quota_out[columns] > 0))
            open_ = rng.permutation(open_)
            open_ = open_[_rank(rows[open_]) < quota_in[rows[open_]]]
            open_ = open_[_rank(columns[open_]) < quota_out[columns[open_]]]
            if not open_.size:
                break
            keep[open_] = False
            quota_in -= np.bincount(rows[open_], minlength=graph.n_out)
            quota_out -= np.bincount(columns[open_], minlength=graph.n_in)
        graph = LayerGraph.from_edge_ids(graph.edge_ids[keep], graph.shape)
    kept = rng.permutation(graph.n_edges)[:n_edges]
    return LayerGraph.from_edge_ids(graph.edge_ids[kept], graph.shape)


def level(graph: LayerGraph, *, rng: np.random.Generator) -> LayerGraph:
    """Move edges from units of large degree to units of small degree, until all are within one.

    Parameters
    ----------
    graph : LayerGraph
    rng : numpy.random.Generator
        Chooses the edges of a unit that are moved.

    Returns
    -------
    LayerGraph
        With the same number of edges. Where few cells are absent, degrees may differ by more,
        as after `top_up`.

    Notes
    -----
    Cost: O(edges log edges).

    Examples
    --------
    >>> uneven = LayerGraph.from_edge_ids([0, 1, 2, 3, 4, 8], (3, 4))
    >>> even = level(uneven, rng=np.random.default_rng(0))
    >>> even.fan_in.tolist(), int(np.ptp(even.fan_out))
    ([2, 2, 2], 1)
    """
    moved = 0
    for _ in range(20):
        surplus = np.zeros(graph.n_edges, bool)
        for units, degrees in (
            (graph.rows, graph.fan_in),
            (graph.indices.astype(np.int64), graph.fan_out),
        ):
            quota = _even(degrees, rng)
            of_large = rng.permutation(np.flatnonzero((degrees > quota)[units]))
            surplus[of_large[_rank(units[of_large]) >= quota[units[of_large]]]] = True
        if not surplus.any():
            break
        moved += int(surplus.sum())
        rest = LayerGraph.from_edge_ids(graph.edge_ids[~surplus], graph.shape)
        graph = top_up(rest, graph.n_edges, rng=rng)
    if moved:
        note(f"{moved} edges moved from units of the largest degrees to those of the smallest")
    return graph


def _even(degrees: IntArray, rng: np.random.Generator) -> IntArray:
    """Return degrees of the same sum that differ by at most one, larger where degrees are large."""
    quota = np.full(degrees.size, degrees.sum() // degrees.size)
    order = np.lexsort([rng.random(degrees.size), -degrees])
    quota[order[: degrees.sum() % degrees.size]] += 1
    return quota


def _raise_lowest(degrees: IntArray, extra: int, cap: int, rng: np.random.Generator) -> IntArray:
    """Return what to add to each degree: `extra` in all, lowest degrees first, none above `cap`."""
    low, high = int(degrees.min()), cap
    while low < high:
        level = (low + high + 1) // 2
        if np.maximum(level - degrees, 0).sum() <= extra:
            low = level
        else:
            high = level - 1
    added = np.maximum(low - degrees, 0)
    rest = extra - int(added.sum())
    ready = np.flatnonzero((degrees + added == low) & (low < cap))
    added[rng.permutation(ready)[:rest]] += 1
    return added


def _rank(keys: IntArray) -> IntArray:
    """Return for each entry the number of earlier entries with the same key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    at = np.arange(keys.size)
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: keys.size]
    rank = np.empty(keys.size, np.int64)
    rank[order] = at - np.maximum.accumulate(np.where(starts, at, 0))
    return rank
