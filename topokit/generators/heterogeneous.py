"""Families with unequal degrees: Chung–Lu, preferential attachment, BSF, R-MAT."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from topokit.generators.sampling import (
    IntArray,
    collect,
    edge_count,
    even_degrees,
    shuffled,
)
from topokit.graph import LayerGraph

__all__ = ["bsf", "chung_lu", "preferential_attachment", "rmat"]

Sides = Literal["both", "in", "out"]


def chung_lu(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    exponent: float = 2.5,
    heavy: Sides = "both",
) -> LayerGraph:
    """Random graph whose expected degrees follow a power law.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    exponent : float
        Of the degree distribution, above 1; unit i has weight ``i**(-1 / (exponent - 1))``.
    heavy : {"both", "in", "out"}
        The side with unequal degrees: input units (fan-out), output units (fan-in) or both.

    Returns
    -------
    LayerGraph
        Hubs saturate at the size of the other side; units of small weight may be isolated.

    Notes
    -----
    Guarantee: exact number of edges.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Chung, Lu, "Connected components in random graphs with given expected degree
       sequences", 2002.

    Examples
    --------
    >>> graph = chung_lu(200, 300, density=0.02, rng=np.random.default_rng(0))
    >>> graph.n_edges, bool(graph.fan_in.max() > 5 * graph.fan_in.mean())
    (1200, True)
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if not exponent > 1:
        raise ValueError(f"expected an exponent above 1, got {exponent!r}")
    _check_side(heavy)
    inputs = _power_weights(n_in, exponent if heavy in ("both", "in") else None, rng)
    outputs = _power_weights(n_out, exponent if heavy in ("both", "out") else None, rng)

    def draw(k: int) -> IntArray:
        return _pairs(outputs, inputs, k, rng)

    return collect((n_out, n_in), n_edges, draw, rng)


def preferential_attachment(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    attractiveness: float = 1.0,
    heavy: Sides = "both",
) -> LayerGraph:
    """Scale-free graph grown unit by unit: the rich get richer.

    With ``heavy="both"`` the units of both sides arrive in random order and each joins units of
    the other side with probability proportional to degree + attractiveness. With "out" all
    output units are there from the start and only fan-in becomes heavy-tailed, as in masks that
    SET leaves; "in" is the same for fan-out.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    attractiveness : float
        Above 0; large values make attachment uniform.
    heavy : {"both", "in", "out"}

    Returns
    -------
    LayerGraph

    Notes
    -----
    Guarantee: exact number of edges; those that no arrival could place are drawn by degree.
    Cost: O(edges mean degree).

    References
    ----------
    .. [1] Barabási, Albert, "Emergence of scaling in random networks", Science 286, 1999.
    .. [2] Dorogovtsev, Mendes, Samukhin, "Structure of growing networks with preferential
       linking", 2000.

    Examples
    --------
    >>> graph = preferential_attachment(300, 300, density=0.02, rng=np.random.default_rng(0))
    >>> graph.n_edges, bool(graph.fan_in.max() > 5 * graph.fan_in.mean())
    (1800, True)
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    _check_side(heavy)
    if not attractiveness > 0:
        raise ValueError(f"expected attractiveness above 0, got {attractiveness!r}")
    n = n_in + n_out
    side = np.repeat(np.array([0, 1], np.int8), [n_in, n_out])
    if heavy == "both":
        order, stubs = rng.permutation(n), even_degrees(n_edges, n, rng)
    else:
        first, last = (n_in + np.arange(n_out), np.arange(n_in))
        first, last = (last, first) if heavy == "in" else (first, last)
        order = np.concatenate([rng.permutation(first), rng.permutation(last)])
        stubs = np.zeros(n, np.int64)
        stubs[last] = even_degrees(n_edges, last.size, rng)
    ends = _attached(order, side, stubs, attractiveness, True, rng)
    inputs, outputs = ends.min(axis=1), ends.max(axis=1) - n_in
    return _completed(outputs * n_in + inputs, (n_out, n_in), n_edges, rng)


def bsf(n_in: int, n_out: int, *, density: float, rng: np.random.Generator) -> LayerGraph:
    """Bipartite scale-free graph of CHT: a Barabási–Albert graph made bipartite.

    A Barabási–Albert graph on all units gets random sides; an edge within the inputs and one
    within the outputs are rewired into two edges across with all degrees kept. The surplus of
    one side keeps one end; edges lost to collisions are drawn anew by degree.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator

    Returns
    -------
    LayerGraph

    Notes
    -----
    Guarantee: exact number of edges.
    Cost: O(edges mean degree). The authors' code is O((n_in + n_out)**2).

    References
    ----------
    .. [1] Zhang et al., "Epitopological learning and Cannistraci-Hebb network shape intelligence
       brain-inspired theory for ultra-sparse advantage in deep learning", ICLR 2024.

    Examples
    --------
    >>> bsf(100, 80, density=0.05, rng=np.random.default_rng(0)).n_edges
    400
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    n = n_in + n_out
    stubs = even_degrees(n_edges, n, rng)
    ends = _attached(rng.permutation(n), np.zeros(n, np.int8), stubs, 1.0, False, rng)
    is_in = ends < n_in
    across = ends[is_in.sum(axis=1) == 1]
    within_in, within_out = ends[is_in.all(axis=1)], ends[~is_in.any(axis=1)]
    k = min(len(within_in), len(within_out))
    pairs = [
        np.stack([across.min(axis=1), across.max(axis=1)], axis=1),
        np.stack([within_in[:k].ravel(), within_out[:k].ravel()], axis=1),
    ]
    for rest, low, high in ((within_in[k:], n_in, n), (within_out[k:], 0, n_in)):
        new = np.stack([rest[:, 0], rng.integers(low, high, len(rest))], axis=1)
        pairs.append(np.sort(new, axis=1))
    both = np.concatenate(pairs)
    return _completed((both[:, 1] - n_in) * n_in + both[:, 0], (n_out, n_in), n_edges, rng)


def rmat(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    a: float = 0.57,
    b: float = 0.19,
    c: float = 0.19,
    noise: float = 0.1,
) -> LayerGraph:
    """Recursive matrix graph: each edge falls through quadrants of unequal probability.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    a, b, c : float
        Probabilities of the upper left, upper right and lower left quadrant, adding up to at
        most 1; the rest is the lower right.
    noise : float
        Relative disturbance of the probabilities on each level, against combing.

    Returns
    -------
    LayerGraph
        Heavy-tailed on both sides, with many isolated units; units are renumbered at random.

    Notes
    -----
    Guarantee: exact number of edges; uniform cells where the recursion yields nothing new.
    Cost: O(edges log n) and rejections.

    References
    ----------
    .. [1] Chakrabarti, Zhan, Faloutsos, "R-MAT: a recursive model for graph mining", 2004.

    Examples
    --------
    >>> rmat(100, 90, density=0.05, rng=np.random.default_rng(0)).n_edges
    450
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if min(a, b, c) < 0 or a + b + c > 1 or not 0 <= noise < 1:
        raise ValueError(
            "expected a, b, c >= 0 adding up to at most 1 and noise in [0, 1), "
            f"got {a}, {b}, {c} and {noise}"
        )
    levels = max(n_in - 1, n_out - 1, 1).bit_length()
    odds = np.array([a, b, c, 1 - a - b - c]) * (1 + noise * (2 * rng.random((levels, 4)) - 1))
    odds = np.cumsum(odds / odds.sum(axis=1, keepdims=True), axis=1)

    def draw(k: int) -> IntArray:
        rows, columns = np.zeros(4 * k, np.int64), np.zeros(4 * k, np.int64)
        for level in odds:
            chance = rng.random(4 * k)
            low = chance >= level[1]
            rows = 2 * rows + low
            columns = 2 * columns + np.where(low, chance >= level[2], chance >= level[0])
        inside = (rows < n_out) & (columns < n_in)
        return rows[inside] * n_in + columns[inside]

    return shuffled(collect((n_out, n_in), n_edges, draw, rng), "both", rng)


def _check_side(heavy: str) -> None:
    """Raise a ValueError unless `heavy` names a side or both."""
    if heavy not in ("both", "in", "out"):
        raise ValueError(f"expected heavy to be 'both', 'in' or 'out', got {heavy!r}")


def _power_weights(n: int, exponent: float | None, rng: np.random.Generator) -> NDArray[np.float64]:
    """Weights of n units, a power law at random places, or equal without exponent."""
    if exponent is None:
        return np.ones(n)
    return rng.permutation(np.arange(1.0, n + 1) ** (-1 / (exponent - 1)))


def _pairs(
    outputs: NDArray[Any], inputs: NDArray[Any], k: int, rng: np.random.Generator
) -> IntArray:
    """Ids of `k` independent pairs of units, each with probability proportional to its weight.

    How often each unit comes is drawn first, then who meets whom: far fewer random numbers.
    """
    drawn = [
        np.repeat(np.arange(weights.size), rng.multinomial(k, weights / weights.sum()))
        for weights in (outputs, inputs)
    ]
    return drawn[0] * inputs.size + rng.permutation(drawn[1])


def _attached(
    order: IntArray,
    side: NDArray[np.int8],
    stubs: IntArray,
    extra: float,
    apart: bool,
    rng: np.random.Generator,
) -> IntArray:
    """Pairs of units joined by preferential attachment."""
    from topokit.generators import compiled

    ends = np.zeros((int(stubs.sum()), 2), np.int64)
    state = compiled.seed_of(rng)
    return ends[: compiled.attach(order, side, stubs, ends, float(extra), apart, state)]


def _completed(
    ids: IntArray, shape: tuple[int, int], n_edges: int, rng: np.random.Generator
) -> LayerGraph:
    """Graph of these edges, with those that are missing drawn by the degrees there are."""
    n_out, n_in = shape
    fan_in = np.bincount(ids // n_in, minlength=n_out) + 1.0
    fan_out = np.bincount(ids % n_in, minlength=n_in) + 1.0

    def draw(k: int) -> IntArray:
        return _pairs(fan_in, fan_out, k, rng)

    return collect(shape, n_edges, draw, rng, start=ids)
