"""Random families: Erdős–Rényi and its samplers, fixed degrees on one side or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from topokit.generators.degrees import graph_with_degrees
from topokit.generators.sampling import (
    check_side,
    choose_cells,
    choose_per_row,
    edge_count,
    even_degrees,
    graph_from,
    shuffled,
    transposed,
)
from topokit.graph import LayerGraph, distinct

__all__ = [
    "biregular",
    "configuration",
    "erdos_renyi",
    "erdos_renyi_bernoulli",
    "fixed_fan_in",
    "fixed_fan_out",
    "hub",
    "nested",
    "set_sampler",
]


def erdos_renyi(n_in: int, n_out: int, *, density: float, rng: np.random.Generator) -> LayerGraph:
    """Uniformly random graph with an exact number of edges.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator

    Returns
    -------
    LayerGraph
        Degrees are hypergeometric; below a mean degree of about log(n_in + n_out) some units
        are isolated.

    Notes
    -----
    Guarantee: exact number of edges; every set of edges equally likely.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Erdős, Rényi, "On random graphs I", Publicationes Mathematicae Debrecen 6, 1959.

    Examples
    --------
    >>> erdos_renyi(784, 1000, density=0.01, rng=np.random.default_rng(0))
    LayerGraph(784 -> 1000, 7840 edges)
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    return choose_cells((n_out, n_in), n_edges, rng)


def erdos_renyi_bernoulli(
    n_in: int, n_out: int, *, density: float, rng: np.random.Generator
) -> LayerGraph:
    """Random graph in which each edge is present independently with probability `density`.

    It is SET's equation 1, as sampled by the authors' masked code.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        Probability of an edge, in [0, 1].
    rng : numpy.random.Generator

    Returns
    -------
    LayerGraph
        The number of edges is binomial, with standard deviation ``sqrt(N p (1 - p))``.

    Notes
    -----
    Guarantee: independent edges; number of edges exact at densities 0 and 1 only.
    Cost: O(edges log edges): the number is drawn first, then the cells.

    References
    ----------
    .. [1] Gilbert, "Random graphs", Annals of Mathematical Statistics 30, 1959.
    .. [2] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nature Communications 9:2383, 2018.

    Examples
    --------
    >>> erdos_renyi_bernoulli(100, 100, density=1.0, rng=np.random.default_rng(0)).n_edges
    10000
    """
    n_in, n_out, _ = edge_count(n_in, n_out, density, rng)
    return choose_cells((n_out, n_in), int(rng.binomial(n_in * n_out, density)), rng)


def set_sampler(n_in: int, n_out: int, *, density: float, rng: np.random.Generator) -> LayerGraph:
    """Random graph drawn with replacement, as in SET's sparse code: cells drawn twice are lost.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` cells are drawn, the distinct ones are kept.
    rng : numpy.random.Generator

    Returns
    -------
    LayerGraph
        ``N (1 - (1 - 1/N)**E)`` edges on average of E drawn among N cells.

    Notes
    -----
    Guarantee: at most ``round(density n_in n_out)`` edges, in a large layer of density 1 about
    63 % of them. For reproduction.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Mocanu et al., Nature Communications 9:2383, 2018: the authors' sparse implementation.

    Examples
    --------
    >>> p = 20 * (784 + 1000) / (784 * 1000)
    >>> 34_600 < set_sampler(784, 1000, density=p, rng=np.random.default_rng(0)).n_edges < 35_160
    True
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    drawn = rng.integers(0, n_in * n_out, n_edges)
    return LayerGraph.from_edge_ids(distinct(drawn), (n_out, n_in))


def fixed_fan_in(n_in: int, n_out: int, *, density: float, rng: np.random.Generator) -> LayerGraph:
    """Random graph in which every output unit has the same number of inputs.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges. Where `n_out` does not divide them,
        fan-ins differ by one.
    rng : numpy.random.Generator

    Returns
    -------
    LayerGraph
        Fan-out is binomial; input units may be isolated.

    Notes
    -----
    Guarantee: exact number of edges; fan-in within one.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Prabhu, Varma, Namboodiri, "Deep expander networks: efficient deep networks from graph
       theory", ECCV 2018.

    Examples
    --------
    >>> set(fixed_fan_in(50, 30, density=0.1, rng=np.random.default_rng(0)).fan_in.tolist())
    {5}
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    return choose_per_row(even_degrees(n_edges, n_out, rng), n_in, rng)


def fixed_fan_out(n_in: int, n_out: int, *, density: float, rng: np.random.Generator) -> LayerGraph:
    """Random graph in which every input unit has the same number of outputs.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges. Where `n_in` does not divide them,
        fan-outs differ by one.
    rng : numpy.random.Generator

    Returns
    -------
    LayerGraph
        Fan-in is binomial; output units may be isolated.

    Notes
    -----
    Guarantee: exact number of edges; fan-out within one.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Prabhu, Varma, Namboodiri, "Deep expander networks: efficient deep networks from graph
       theory", ECCV 2018.

    Examples
    --------
    >>> set(fixed_fan_out(50, 30, density=0.1, rng=np.random.default_rng(0)).fan_out.tolist())
    {3}
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    return transposed(choose_per_row(even_degrees(n_edges, n_in, rng), n_out, rng))


def biregular(n_in: int, n_out: int, *, density: float, rng: np.random.Generator) -> LayerGraph:
    """Random graph with equal degrees on both sides, within one: the expander baseline.

    Above density 1/2 the complement is drawn.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges. A side that does not divide them has
        degrees that differ by one, the larger at random units.
    rng : numpy.random.Generator

    Returns
    -------
    LayerGraph
        Connected with high probability at degrees of 3 and more; second singular value about
        ``sqrt(fan_out - 1) + sqrt(fan_in - 1)``.

    Notes
    -----
    Guarantee: exact number of edges; degrees within one on both sides; every such graph equally
    likely, as far as `graph_with_degrees` says.
    Cost: O(edges), some 20 times.

    References
    ----------
    .. [1] Brito, Dumitriu, Harris, "Spectral gap in random bipartite biregular graphs and
       applications", Combinatorics, Probability and Computing 31, 2022.

    Examples
    --------
    >>> graph = biregular(784, 1000, density=0.01, rng=np.random.default_rng(0))
    >>> graph, sorted(set(graph.fan_in.tolist())), set(graph.fan_out.tolist())
    (LayerGraph(784 -> 1000, 7840 edges), [7, 8], {10})
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    fan_in, fan_out = even_degrees(n_edges, n_out, rng), even_degrees(n_edges, n_in, rng)
    return graph_with_degrees(fan_in, fan_out, rng=rng)


def configuration(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    fan_in: Sequence[int] | None = None,
    fan_out: Sequence[int] | None = None,
) -> LayerGraph:
    """Random graph with given degrees; a side without given degrees gets equal ones.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; must agree with the sum of the given degrees to half an edge.
    rng : numpy.random.Generator
    fan_in : sequence of int, optional
        `n_out` degrees.
    fan_out : sequence of int, optional
        `n_in` degrees.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If the lengths or sums do not fit, or no simple graph has these degrees (Gale and Ryser).

    Notes
    -----
    Guarantee: exact number of edges; given degrees exact; every such graph equally likely, as far
    as `graph_with_degrees` says.
    Cost: O(edges), some 20 times; nearly nested degrees O(n_in n_out) time.

    References
    ----------
    .. [1] Bollobás, "A probabilistic proof of an asymptotic formula for the number of labelled
       regular graphs", European Journal of Combinatorics 1, 1980.
    .. [2] Gale, "A theorem on flows in networks", Pacific Journal of Mathematics 7, 1957.
    .. [3] Ryser, "Combinatorial properties of matrices of zeros and ones", Canadian Journal of
       Mathematics 9, 1957.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> configuration(3, 2, density=0.5, rng=rng, fan_out=[2, 1, 0]).fan_out.tolist()
    [2, 1, 0]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    for name, given, n in (("fan_in", fan_in, n_out), ("fan_out", fan_out, n_in)):
        if given is not None and len(given) != n:
            raise ValueError(f"expected {n} degrees in {name}, got {len(given)}")
        if given is not None and sum(given) != n_edges:
            raise ValueError(
                f"expected {name} to add up to {n_edges} edges (density {density}), got "
                f"{sum(given)}; density {sum(given) / (n_in * n_out)!r} would be right"
            )
    rows = even_degrees(n_edges, n_out, rng) if fan_in is None else np.asarray(fan_in)
    columns = even_degrees(n_edges, n_in, rng) if fan_out is None else np.asarray(fan_out)
    return graph_with_degrees(rows, columns, rng=rng)


def nested(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    shuffle: Literal["none", "fan_in", "fan_out", "both"] = "both",
) -> LayerGraph:
    """Perfectly nested graph: each unit's partners are among those of any unit with more.

    An extreme case: no other graph has its degrees.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
        Renumbers the units only.
    shuffle : {"none", "fan_in", "fan_out", "both"}

    Returns
    -------
    LayerGraph

    Notes
    -----
    Guarantee: exact number of edges; nested.
    Cost: O(edges).

    References
    ----------
    .. [1] Almeida-Neto et al., "A consistent metric for nestedness analysis in ecological systems:
       reconciling concept and measurement", Oikos 117, 2008.

    Examples
    --------
    >>> nested(4, 4, density=0.5, rng=np.random.default_rng(0), shuffle="none").fan_in.tolist()
    [3, 3, 2, 0]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    # The degrees follow the curve n_in (1 - x)**c over the rank x of the output unit; c is found
    # by bisection so that they add up to the number of edges, and the rounding error is corrected
    # at the units farthest from the curve.
    x = (np.arange(n_out) + 0.5) / n_out
    low, high = -30.0, 30.0
    for _ in range(80):
        middle = (low + high) / 2
        if ((1 - x) ** np.exp(middle)).sum() * n_in > n_edges:
            low = middle
        else:
            high = middle
    curve = n_in * (1 - x) ** np.exp(high)
    fan_in = np.floor(curve).astype(np.int64)
    while missing := n_edges - int(fan_in.sum()):
        room = np.flatnonzero((fan_in < n_in) if missing > 0 else (fan_in > 0))
        order = room[np.argsort((fan_in - curve)[room] * np.sign(missing), kind="stable")]
        fan_in[order[: abs(missing)]] += np.sign(missing)
    fan_in = np.sort(fan_in)[::-1]
    rows = np.repeat(np.arange(n_out), fan_in)
    columns = np.arange(rows.size) - np.repeat(np.cumsum(fan_in) - fan_in, fan_in)
    return shuffled(graph_from(rows, columns, (n_out, n_in)), shuffle, rng)


def hub(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    hubs: int | None = None,
    side: Literal["fan_in", "fan_out"] = "fan_out",
) -> LayerGraph:
    """A few units joined to the whole other side, the rest near-biregular.

    It shows a weakness of the raw spectral gap: hubs raise the largest singular value to that of a
    star, and so the gap, without making the graph a better expander.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    hubs : int, optional
        By default 4, or as many as take no more than half of the edges.
    side : {"fan_in", "fan_out"}
        The degrees that have hubs: those of output units or of input units.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If the hubs need more edges than there are; the largest possible number is named.

    Notes
    -----
    Guarantee: exact number of edges; hubs of full degree, other degrees within one per side.
    Cost: O(edges).

    References
    ----------
    .. [1] Hoory, Linial, Wigderson, "Expander graphs and their applications", Bulletin of the AMS
       43, 2006: the spectral gap of regular graphs. The family is topokit's own.

    Examples
    --------
    >>> graph = hub(100, 50, density=0.1, hubs=2, rng=np.random.default_rng(0))
    >>> sorted(graph.fan_out.tolist())[-3:]
    [5, 50, 50]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    check_side("side", side, ("fan_in", "fan_out"))
    n, other = (n_in, n_out) if side == "fan_out" else (n_out, n_in)
    if hubs is None:
        hubs = n if n_edges == n_in * n_out else min(4, n - 1, n_edges // (2 * other))
    if not 0 <= hubs <= n or hubs * other > n_edges or (hubs == n and n_edges < n * other):
        raise ValueError(
            f"expected at most {min(n, n_edges // other)} hubs with {n_edges} edges and {other} "
            f"units on the other side, got {hubs}"
        )
    hub_cells = np.arange(hubs)[:, None] * other + np.arange(other)
    ids = hub_cells.ravel()
    if hubs < n:
        left = n_edges - hubs * other
        rest = biregular(other, n - hubs, density=left / (other * (n - hubs)), rng=rng)
        ids = np.concatenate([ids, rest.edge_ids + hubs * other])
    units, partners = rng.permutation(n)[ids // other], ids % other
    if side == "fan_out":
        return graph_from(partners, units, (n_out, n_in))
    return graph_from(units, partners, (n_out, n_in))
