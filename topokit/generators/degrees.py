"""Graphs with given degrees: configuration model, randomisation by swaps and by trades."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topokit.generators.origin import note
from topokit.generators.sampling import IntArray, check_rng, complement, graph_from
from topokit.graph import LayerGraph

__all__ = [
    "gale_ryser_violation",
    "graph_with_degrees",
    "randomized_twin",
    "switched_twin",
]


def gale_ryser_violation(fan_in: ArrayLike, fan_out: ArrayLike) -> str | None:
    """Say why no simple graph has these degrees, or return None if one has.

    Parameters
    ----------
    fan_in : (n_out,) array of int
    fan_out : (n_in,) array of int

    Returns
    -------
    str or None
        The first condition that fails. Cost O(n log n).

    References
    ----------
    .. [1] Gale, "A theorem on flows in networks", 1957; Ryser, "Combinatorial properties of
       matrices of zeros and ones", 1957.

    Examples
    --------
    >>> gale_ryser_violation([2, 1], [1, 1, 1])
    >>> gale_ryser_violation([3, 0], [1, 2, 0])
    'the 1 largest fan-ins add up to 3, but input units can serve at most 2 of them'
    """
    a, b = np.sort(np.asarray(fan_in))[::-1], np.sort(np.asarray(fan_out))
    if a.sum() != b.sum():
        return f"fan-in adds up to {a.sum()} edges and fan-out to {b.sum()}"
    low = np.concatenate([[0], np.cumsum(b)])
    k = np.arange(1, a.size + 1)
    small = np.searchsorted(b, k, side="right")
    most = low[small] + k * (b.size - small)
    bad = np.flatnonzero(np.cumsum(a) > most)
    if not bad.size:
        return None
    i = int(bad[0])
    return (
        f"the {i + 1} largest fan-ins add up to {int(a[: i + 1].sum())}, "
        f"but input units can serve at most {int(most[i])} of them"
    )


def graph_with_degrees(
    fan_in: ArrayLike, fan_out: ArrayLike, *, rng: np.random.Generator
) -> LayerGraph:
    """Draw a simple graph with exactly these degrees: the configuration model.

    Stubs are matched by one permutation and each double edge is swapped with random edges until
    it is single. Where that gets stuck (nearly nested degrees), a greedy realisation is
    randomised by trades instead. Above density 1/2 the complement is drawn.

    Parameters
    ----------
    fan_in : (n_out,) array of int
    fan_out : (n_in,) array of int
    rng : numpy.random.Generator

    Returns
    -------
    LayerGraph
        Shape ``(len(fan_in), len(fan_out))``; degrees exact.

    Raises
    ------
    ValueError
        If no simple graph has these degrees (Gale and Ryser), with the condition that fails.

    Notes
    -----
    Guarantee: degrees exact on both sides, simple.
    Cost: O(edges); nearly nested degrees O(n_in n_out) time.

    References
    ----------
    .. [1] Bollobás, "A probabilistic proof of an asymptotic formula for the number of labelled
       regular graphs", 1980. Gale 1957; Ryser 1957.

    Examples
    --------
    >>> graph = graph_with_degrees([2, 1], [1, 0, 2], rng=np.random.default_rng(0))
    >>> graph.fan_in.tolist(), graph.fan_out.tolist()
    ([2, 1], [1, 0, 2])
    """
    check_rng(rng)
    fan_in, fan_out = _degrees(fan_in, "fan_in"), _degrees(fan_out, "fan_out")
    if reason := gale_ryser_violation(fan_in, fan_out):
        raise ValueError(f"expected degrees that a simple graph can have, but {reason}")
    if 2 * int(fan_in.sum()) > fan_in.size * fan_out.size:
        note("complement of a graph of the remaining density")
        return complement(graph_with_degrees(fan_out.size - fan_in, fan_in.size - fan_out, rng=rng))
    indptr = np.concatenate([[0], np.cumsum(fan_in)])
    columns = np.repeat(np.arange(fan_out.size, dtype=np.int32), fan_out)
    indices = rng.permutation(columns)
    if indices.size == 0:
        return LayerGraph((fan_in.size, fan_out.size), indptr, indices)
    from topokit.generators import compiled

    rows = np.repeat(np.arange(fan_in.size), fan_in)
    state = compiled.seed_of(rng)
    count = _cells(fan_in.size, fan_out.size, indices.size)
    left, swapped = compiled.repair(indptr, indices, rows, count, fan_out.size, state, 2000)
    if left:
        note("a greedy graph of these degrees, randomised by trades")
        indices = _greedy(fan_in, fan_out)
        compiled.curveball(indptr, indices, fan_out.size, state, 20)
    elif swapped:
        note(f"{swapped} double edges swapped with random edges")
    return graph_from(rows, indices, (fan_in.size, fan_out.size))


def randomized_twin(graph: LayerGraph, *, rng: np.random.Generator, sweeps: int = 20) -> LayerGraph:
    """Draw a random graph with the same degrees on both sides, by curveball trades.

    In each sweep all units of one side are paired at random, and the two of a pair deal out
    anew the partners that only one of them has. Every graph with these degrees can be reached
    and in the limit all are equally likely.

    Parameters
    ----------
    graph : LayerGraph
    rng : numpy.random.Generator
    sweeps : int
        Sweeps on each side; 20 leave no trace of the original that we could measure.

    Returns
    -------
    LayerGraph
        Same shape, ``fan_in`` and ``fan_out``.

    Notes
    -----
    Guarantee: degrees exact on both sides.
    Cost: O(sweeps edges).

    References
    ----------
    .. [1] Strona et al., "A fast and unbiased procedure to randomize ecological binary matrices
       with fixed row and column totals", Nature Communications 5, 2014.
    .. [2] Carstens, Berger, Strona, "Curveball: a new generation of sampling algorithms for
       graphs with fixed degree sequence", 2016.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 5, 10, 15], (4, 4))
    >>> twin = randomized_twin(graph, rng=np.random.default_rng(0))
    >>> twin.fan_in.tolist(), twin.fan_out.tolist()
    ([1, 1, 1, 1], [1, 1, 1, 1])
    """
    check_rng(rng)
    if sweeps < 1:
        raise ValueError(f"expected at least 1 sweep, got {sweeps}")
    if graph.n_edges == 0 or graph.n_out < 2:
        return graph
    from topokit.generators import compiled

    indptr, indices = graph.indptr.copy(), graph.indices.copy()
    compiled.curveball(indptr, indices, graph.n_in, compiled.seed_of(rng), sweeps)
    return graph_from(graph.rows, indices, graph.shape)


def switched_twin(
    graph: LayerGraph, *, rng: np.random.Generator, swaps_per_edge: float = 10.0
) -> LayerGraph:
    """Draw a random graph with the same degrees, by accepted swaps of the ends of two edges.

    Parameters
    ----------
    graph : LayerGraph
    rng : numpy.random.Generator
    swaps_per_edge : float
        *Accepted* swaps for each edge. Nearly nested graphs accept few: the chain stops after
        50 times as many attempts; `randomized_twin` mixes faster there.

    Returns
    -------
    LayerGraph
        Same shape, ``fan_in`` and ``fan_out``.

    Notes
    -----
    Guarantee: degrees exact on both sides.
    Cost: O(swaps mean fan-in).

    References
    ----------
    .. [1] Ryser, "Combinatorial properties of matrices of zeros and ones", 1957.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 5, 10, 15], (4, 4))
    >>> switched_twin(graph, rng=np.random.default_rng(0)).fan_in.tolist()
    [1, 1, 1, 1]
    """
    check_rng(rng)
    if graph.n_edges < 2:
        return graph
    from topokit.generators import compiled

    indices, rows, state = graph.indices.copy(), graph.rows, compiled.seed_of(rng)
    wanted = int(np.ceil(swaps_per_edge * graph.n_edges))
    done = tried = 0
    while done < wanted and tried < 50 * wanted:
        count = _cells(graph.n_out, graph.n_in, graph.n_edges)
        done += compiled.switch(graph.indptr, indices, rows, count, graph.n_in, state, wanted)
        tried += wanted
    return graph_from(rows, indices, graph.shape)


def _degrees(values: ArrayLike, name: str) -> IntArray:
    """Degrees as an int64 array; a ValueError unless they are integers that are not negative."""
    array = np.asarray(values)
    if array.ndim != 1 or not array.size or np.any(array < 0) or np.any(array != np.floor(array)):
        raise ValueError(f"expected {name} to be a list of integers >= 0, got {values!r}")
    return array.astype(np.int64)


def _cells(n_rows: int, n_columns: int, n_edges: int) -> NDArray[Any]:
    """Table of cells for the compiled loops, or an empty one where rows are short to scan."""
    cells = n_rows * n_columns
    return np.zeros(cells if cells <= 32 * n_edges else 0, np.uint16)


def _greedy(fan_in: IntArray, fan_out: IntArray) -> NDArray[np.int32]:
    """Columns of a realisation: largest rows first, each taking the columns with most stubs."""
    left = fan_out.copy()
    indptr = np.concatenate([[0], np.cumsum(fan_in)])
    indices = np.empty(indptr[-1], np.int32)
    for row in np.argsort(-fan_in, kind="stable"):
        chosen = np.argsort(-left, kind="stable")[: fan_in[row]]
        left[chosen] -= 1
        indices[indptr[row] : indptr[row + 1]] = chosen
    return indices
