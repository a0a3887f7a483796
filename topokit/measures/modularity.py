"""Communities of a layer: Barber's modularity of given ones, and a search for good ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from topokit.graph import LayerGraph
from topokit.measures.memo import fan_out_of

__all__ = ["Communities", "barber_modularity", "find_communities"]

NAN = float("nan")
ROUNDS = 100


class Communities(NamedTuple):
    """Communities found in a layer; see `find_communities`."""

    modularity: float
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]


def barber_modularity(graph: LayerGraph, inputs: ArrayLike, outputs: ArrayLike) -> float:
    r"""Modularity of given communities of a bipartite graph.

    .. math:: Q = \frac{1}{E} \sum_{ij} (B_{ij} - k_i d_j / E) [c_i = c_j]

    Parameters
    ----------
    graph : LayerGraph
    inputs, outputs : (n_in,) and (n_out,) array_like of int
        Community of each unit, 0 or more, common to both sides.

    Returns
    -------
    float
        In [-1/2, 1); 0 if all units are in one community; ``nan`` without edges. Sparse random
        layers have communities of 0.3 and more, so only its z-score against twins of the same
        degrees says something. Cost O(n_edges).

    Raises
    ------
    ValueError
        If there is not one community for each unit, or one is negative.

    References
    ----------
    .. [1] Barber, "Modularity and community detection in bipartite networks", Physical Review E
       76, 2007.

    Examples
    --------
    >>> blocks = LayerGraph.from_edge_ids([0, 1, 4, 5, 10, 11, 14, 15], (4, 4))
    >>> barber_modularity(blocks, [0, 0, 1, 1], [0, 0, 1, 1])
    0.5
    """
    one, two = np.asarray(inputs, np.int64), np.asarray(outputs, np.int64)
    if one.shape != (graph.n_in,) or two.shape != (graph.n_out,):
        raise ValueError(
            f"expected a community for each of {graph.n_in} input and {graph.n_out} output units, "
            f"got shapes {one.shape} and {two.shape}"
        )
    if min(one.min(initial=0), two.min(initial=0)) < 0:
        raise ValueError("expected communities 0 or more, got a negative one")
    if not graph.n_edges:
        return NAN
    edges = float(graph.n_edges)
    within = np.count_nonzero(one[graph.indices] == two[graph.rows])
    size = int(max(one.max(initial=0), two.max(initial=0))) + 1
    left = np.bincount(one, fan_out_of(graph), size)
    right = np.bincount(two, graph.fan_in, size)
    return float(within / edges - left @ right / edges**2)


def find_communities(
    graph: LayerGraph, *, rng: np.random.Generator, starts: int = 4
) -> Communities:
    """Search for communities of high modularity: each side in turn joins where it gains most.

    Begins with every input unit by itself, with the components, and with random communities;
    each side is reassigned as a whole until nothing improves (BRIM), and communities that gain
    by it are merged.

    Parameters
    ----------
    graph : LayerGraph
    rng : numpy.random.Generator
    starts : int
        Random beginnings beside the two fixed ones.

    Returns
    -------
    Communities
        The best found, a lower bound of the largest possible modularity; numbered from 0.
        ``nan`` and one community each without edges. Cost O(n_edges) a round, some 20 rounds
        a start.

    References
    ----------
    .. [1] Barber, Physical Review E 76, 2007.

    Examples
    --------
    >>> blocks = LayerGraph.from_edge_ids([0, 1, 4, 5, 10, 11, 14, 15], (4, 4))
    >>> find_communities(blocks, rng=np.random.default_rng(0)).modularity
    0.5
    """
    from topokit.measures.flow import components_of

    if not graph.n_edges:
        return Communities(NAN, np.zeros(graph.n_in, np.int64), np.zeros(graph.n_out, np.int64))
    many = max(2, int(np.sqrt(min(graph.shape))))
    beginnings: list[NDArray[Any]] = [np.arange(graph.n_in), components_of(graph).labels]
    beginnings += [rng.integers(0, many, graph.n_in) for _ in range(starts)]
    numbers = [np.unique(b[: graph.n_in], return_inverse=True)[1] for b in beginnings]
    found = [_improve(graph, inputs) for inputs in numbers]
    return max(found, key=lambda c: c.modularity)


def _join(
    matrix: sp.csr_array,
    degree: NDArray[np.int64],
    other: NDArray[np.int64],
    mass: NDArray[Any],
) -> NDArray[np.int64]:
    """Best community of each row, given those of the columns and their degrees in `mass`."""
    size = mass.size
    shares = sp.csr_array(
        (np.ones(other.size), (np.arange(other.size), other)), shape=(other.size, size)
    )
    links = sp.csr_array(matrix @ shares)
    gain = links.data - np.repeat(degree, np.diff(links.indptr)) * mass[links.indices] / mass.sum()
    best = np.zeros(matrix.shape[0], np.int64)
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(links.indptr))
    order = np.lexsort((links.indices, -gain, rows))
    first = np.unique(rows[order], return_index=True)
    best[first[0]] = links.indices[order][first[1]]
    return best


def _improve(graph: LayerGraph, inputs: NDArray[np.int64]) -> Communities:
    """Reassign the sides in turn, then merge, until the modularity stays."""
    matrix = graph.to_csr()
    transposed = sp.csr_array(matrix.T)
    fan_in, fan_out = graph.fan_in, fan_out_of(graph)
    best = Communities(-1.0, inputs, np.zeros(graph.n_out, np.int64))
    for _ in range(ROUNDS):
        size = int(inputs.max()) + 1
        outputs = _join(matrix, fan_in, inputs, np.bincount(inputs, fan_out, size))
        inputs = _join(transposed, fan_out, outputs, np.bincount(outputs, fan_in, size))
        inputs, outputs = _merged(graph, inputs, outputs)
        value = barber_modularity(graph, inputs, outputs)
        if not value > best.modularity + 1e-12:
            break
        best = Communities(value, inputs, outputs)
    return best


def _merged(
    graph: LayerGraph, inputs: NDArray[np.int64], outputs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Merge pairs of communities while the modularity rises, the best pair first."""
    numbers = np.unique(np.concatenate([inputs, outputs]), return_inverse=True)[1]
    inputs, outputs = numbers[: inputs.size], numbers[inputs.size :]
    size = int(numbers.max(initial=0)) + 1
    if size > 512:
        return inputs, outputs
    edges = float(graph.n_edges)
    one, two = inputs[graph.indices], outputs[graph.rows]
    links = np.bincount(one * size + two, minlength=size * size).reshape(size, size) / edges
    left = np.bincount(inputs, fan_out_of(graph), size) / edges
    right = np.bincount(outputs, graph.fan_in, size) / edges
    excess = links - np.outer(left, right)
    gain = excess + excess.T
    np.fill_diagonal(gain, -np.inf)
    name = np.arange(size)
    while size > 1:
        i, j = np.unravel_index(int(np.argmax(gain)), gain.shape)
        if not gain[i, j] > 1e-12:
            break
        gain[i] += gain[j]
        gain[:, i] += gain[:, j]
        gain[i, i] = -np.inf
        gain[j], gain[:, j] = -np.inf, -np.inf
        name[name == j] = i
    return name[inputs], name[outputs]
