"""Graphs with given or heavy-tailed degrees, and degree-preserving randomisation.

Two Markov chains keep all degrees. A *swap* exchanges the ends of two edges (u, x), (v, y) to
(u, y), (v, x) if neither is an edge already. A *trade* (curveball) takes two units u and v of one
side, pools the partners that only one of them has, and deals them out at random, each unit
getting as many as before. Both reach every simple graph with the degrees, and both are symmetric,
so that all such graphs are equally likely in the limit. A trade moves as many edges as a pair of
units can exchange, at the cost of reading their edges once; swaps move two at a time and most are
refused where degrees are nearly nested. Hence `randomized_twin` trades, and `switched_twin`, the
chain that most papers use, is there to compare with.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topokit.generators.provenance import note
from topokit.generators.sampling import (
    IntArray,
    by_groups,
    check_side,
    collect,
    complement,
    edge_count,
    even_degrees,
    graph_from,
    shuffled,
)
from topokit.graph import LayerGraph
from topokit.graph.convert import GraphLike, as_graph
from topokit.tables import as_generator, is_integer

__all__ = [
    "bsf",
    "chung_lu",
    "gale_ryser_violation",
    "graph_with_degrees",
    "preferential_attachment",
    "randomized_twin",
    "rmat",
    "switched_twin",
]

SWEEPS = 20  # of trades; after 20, no correlation with the original graph is measurable


def gale_ryser_violation(fan_in: ArrayLike, fan_out: ArrayLike) -> str | None:
    """Return why no simple graph has these degrees, or None if one has them.

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
    .. [1] Gale, "A theorem on flows in networks", Pacific Journal of Mathematics 7, 1957.
    .. [2] Ryser, "Combinatorial properties of matrices of zeros and ones", Canadian Journal of
       Mathematics 9, 1957.

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
    fan_in: ArrayLike, fan_out: ArrayLike, *, rng: np.random.Generator | int
) -> LayerGraph:
    """Draw a simple graph with exactly these degrees: the configuration model.

    Stubs are matched by a random permutation. If that gives double edges, each is swapped with
    random edges until it is single, and 20 sweeps of trades follow (see `randomized_twin`). Where
    swapping fails (nearly nested degrees), a graph with these degrees is built greedily and 100
    sweeps follow. Above density 1/2 the complement is drawn.

    Parameters
    ----------
    fan_in : (n_out,) array of int
    fan_out : (n_in,) array of int
    rng : numpy.random.Generator or int
        An integer is a seed.

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
    Guarantee: degrees exact on both sides, simple; every such graph equally likely, exactly if no
    edge was double, else as far as the trades mix.
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
    >>> graph = graph_with_degrees([2, 1], [1, 0, 2], rng=np.random.default_rng(0))
    >>> graph.fan_in.tolist(), graph.fan_out.tolist()
    ([2, 1], [1, 0, 2])
    """
    rng = as_generator(rng)
    fan_in, fan_out = _degrees(fan_in, "fan_in"), _degrees(fan_out, "fan_out")
    if reason := gale_ryser_violation(fan_in, fan_out):
        raise ValueError(f"expected degrees that a simple graph can have, but {reason}")
    if 2 * int(fan_in.sum()) > fan_in.size * fan_out.size:
        note("complement of a graph of the remaining density")
        return complement(graph_with_degrees(fan_out.size - fan_in, fan_in.size - fan_out, rng=rng))
    # A permutation without double edges is exactly uniform, but with fan-ins d and fan-outs e about
    # (d - 1)(e - 1) / 2 edges are double, so almost every permutation has some. Swapping them
    # favours some graphs: in small layers by a factor of 0.6 to 1.2. Trades have the uniform
    # distribution as their limit. A trade deals out the partners of two units anew, so an edge that
    # can move changes its unit with probability 1/2, and what the start favoured shrinks by about
    # that factor in a sweep: after `SWEEPS` it is far below what draws could show. The greedy graph
    # is the most extreme start, and its units have few partners to exchange.
    indptr = np.concatenate([[0], np.cumsum(fan_in)])
    columns = np.repeat(np.arange(fan_out.size, dtype=np.int32), fan_out)
    indices = rng.permutation(columns)
    if indices.size == 0:
        return LayerGraph((fan_in.size, fan_out.size), indptr, indices)
    from topokit.generators import kernels
    from topokit.graph.kernels import compiled_seed

    rows = np.repeat(np.arange(fan_in.size), fan_in)
    state = compiled_seed(rng)
    count = _cells(fan_in.size, fan_out.size, indices.size)
    left, swapped = kernels.repair(indptr, indices, rows, count, fan_out.size, state, 2000)
    if left:
        note("a greedy graph of these degrees, randomised by trades")
        indices = _greedy(fan_in, fan_out)
        kernels.curveball(indptr, indices, fan_out.size, state, 5 * SWEEPS)
    elif swapped:
        note(f"{swapped} double edges swapped with random edges, then randomised by trades")
        kernels.curveball(indptr, indices, fan_out.size, state, SWEEPS)
    return graph_from(rows, indices, (fan_in.size, fan_out.size))


def randomized_twin(
    graph: GraphLike, *, rng: np.random.Generator | int, sweeps: int = SWEEPS
) -> LayerGraph:
    """Draw a random graph with the same degrees on both sides (a null sample), by curveball trades.

    In each sweep all output units are paired at random, and the two units of a pair redistribute
    at random the partners that only one of them has. Every graph with these degrees can be
    reached, and in the limit all are equally likely.

    Parameters
    ----------
    graph : LayerGraph
    rng : numpy.random.Generator or int
        An integer is a seed.
    sweeps : int
        Number of sweeps; after 20, no correlation with the original graph was measurable.

    Returns
    -------
    LayerGraph
        Same shape, ``fan_in`` and ``fan_out``; edges stay within the groups of a convolution.

    Raises
    ------
    ValueError
        If `sweeps` is below 1.

    Notes
    -----
    Guarantee: degrees exact on both sides.
    Cost: O(sweeps edges).

    References
    ----------
    .. [1] Strona et al., "A fast and unbiased procedure to randomize ecological binary matrices
       with fixed row and column totals", Nature Communications 5:4114, 2014.
    .. [2] Carstens, Berger, Strona, "Curveball: a new generation of sampling algorithms for
       graphs with fixed degree sequence", arXiv 1609.05137, 2016.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 5, 10, 15], (4, 4))
    >>> twin = randomized_twin(graph, rng=np.random.default_rng(0))
    >>> twin.fan_in.tolist(), twin.fan_out.tolist()
    ([1, 1, 1, 1], [1, 1, 1, 1])
    """
    rng, graph = as_generator(rng), as_graph(graph)
    if not is_integer(sweeps, 1):
        raise ValueError(f"expected at least 1 sweep, got {sweeps!r}")
    return by_groups(graph, lambda group: _traded(group, rng, sweeps))


def _traded(graph: LayerGraph, rng: np.random.Generator, sweeps: int) -> LayerGraph:
    """Return a graph after sweeps of trades; see `randomized_twin`."""
    if graph.n_edges == 0 or graph.n_out < 2:
        return graph
    from topokit.generators import kernels
    from topokit.graph.kernels import compiled_seed

    indptr, indices = graph.indptr.copy(), graph.indices.copy()
    kernels.curveball(indptr, indices, graph.n_in, compiled_seed(rng), sweeps)
    return graph_from(graph.rows, indices, graph.shape)


def switched_twin(
    graph: GraphLike, *, rng: np.random.Generator | int, swaps_per_edge: float = 10.0
) -> LayerGraph:
    """Draw a random graph with the same degrees, by swaps of the ends of two edges.

    Parameters
    ----------
    graph : LayerGraph
    rng : numpy.random.Generator or int
        An integer is a seed.
    swaps_per_edge : float
        Number of *accepted* swaps for each edge, as expected from the rate in as many first
        attempts, which come on top. Nearly nested graphs accept few, so there are at most 50 times
        as many attempts; `randomized_twin` mixes faster there.

    Returns
    -------
    LayerGraph
        Same shape, ``fan_in`` and ``fan_out``; edges stay within the groups of a convolution.

    Raises
    ------
    ValueError
        If `swaps_per_edge` is not a number above 0.

    Notes
    -----
    Guarantee: degrees exact on both sides.
    Cost: O(swaps mean fan-in).

    References
    ----------
    .. [1] Ryser, "Combinatorial properties of matrices of zeros and ones", Canadian Journal of
       Mathematics 9, 1957.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 5, 10, 15], (4, 4))
    >>> switched_twin(graph, rng=np.random.default_rng(0)).fan_in.tolist()
    [1, 1, 1, 1]
    """
    rng, graph = as_generator(rng), as_graph(graph)
    if not 0 < swaps_per_edge < np.inf:
        raise ValueError(f"expected swaps_per_edge above 0, got {swaps_per_edge!r}")
    return by_groups(graph, lambda group: _switched(group, rng, swaps_per_edge))


def _switched(graph: LayerGraph, rng: np.random.Generator, swaps_per_edge: float) -> LayerGraph:
    """Return a graph after swaps of the ends of two edges; see `switched_twin`."""
    if graph.n_edges < 2:
        return graph
    from topokit.generators import kernels
    from topokit.graph.kernels import compiled_seed

    indices, rows, state = graph.indices.copy(), graph.rows, compiled_seed(rng)
    # Stopping at a number of accepted swaps would favour some graphs: of two graphs one swap apart,
    # that with an even number of swaps. So the first attempts only tell the rate of acceptance, and
    # then a fixed number of attempts follows, refused ones included.
    wanted = int(np.ceil(swaps_per_edge * graph.n_edges))
    count = _cells(graph.n_out, graph.n_in, graph.n_edges)
    done = kernels.switch(graph.indptr, indices, rows, count.copy(), graph.n_in, state, wanted)
    attempts = min(50 * wanted, int(np.ceil(wanted * wanted / max(done, 1))))
    kernels.switch(graph.indptr, indices, rows, count, graph.n_in, state, attempts)
    return graph_from(rows, indices, graph.shape)


def _degrees(values: ArrayLike, name: str) -> IntArray:
    """Return degrees as an int64 array; raise a ValueError unless they are integers >= 0."""
    array = np.asarray(values)
    if array.ndim != 1 or not array.size or np.any(array < 0) or np.any(array != np.floor(array)):
        raise ValueError(f"expected {name} to be a list of integers >= 0, got {values!r}")
    return array.astype(np.int64)


def _cells(n_rows: int, n_columns: int, n_edges: int) -> NDArray[Any]:
    """Return a table of all cells for the compiled loops, or an empty one if it would be large.

    With the table a loop looks up whether a cell is an edge; without it, the row is scanned. With
    more than 32 cells an edge the table would be large and the rows are short.
    """
    cells = n_rows * n_columns
    return np.zeros(cells if cells <= 32 * n_edges else 0, np.uint16)


def _greedy(fan_in: IntArray, fan_out: IntArray) -> NDArray[np.int32]:
    """Return the columns of a graph with these degrees, row by row.

    Rows are filled in order of decreasing degree, each with the columns that have the most free
    stubs. This succeeds whenever there is such a graph (Gale and Ryser). O(n_out n_in log n_in).
    """
    left = fan_out.copy()
    indptr = np.concatenate([[0], np.cumsum(fan_in)])
    indices = np.empty(indptr[-1], np.int32)
    for row in np.argsort(-fan_in, kind="stable"):
        chosen = np.argsort(-left, kind="stable")[: fan_in[row]]
        left[chosen] -= 1
        indices[indptr[row] : indptr[row + 1]] = chosen
    return indices


SIDES = ("both", "fan_in", "fan_out")
Sides = Literal["both", "fan_in", "fan_out"]


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
    heavy : {"both", "fan_in", "fan_out"}
        The degrees that are unequal: those of output units ("fan_in"), of input units
        ("fan_out") or of both.

    Returns
    -------
    LayerGraph
        Hubs saturate at the size of the other side; units of small weight may be isolated.

    Raises
    ------
    ValueError
        If a size or the density is out of range, or the exponent is not above 1 or a side is
        unknown.

    Notes
    -----
    Guarantee: exact number of edges.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Chung, Lu, "Connected components in random graphs with given expected degree
       sequences", Annals of Combinatorics 6, 2002.

    Examples
    --------
    >>> graph = chung_lu(200, 300, density=0.02, rng=np.random.default_rng(0))
    >>> graph.n_edges, bool(graph.fan_in.max() > 5 * graph.fan_in.mean())
    (1200, True)
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if not exponent > 1:
        raise ValueError(f"expected an exponent above 1, got {exponent!r}")
    check_side("heavy", heavy, SIDES)
    inputs = _power_weights(n_in, exponent if heavy in ("both", "fan_out") else None, rng)
    outputs = _power_weights(n_out, exponent if heavy in ("both", "fan_in") else None, rng)

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
    """Graph grown unit by unit by preferential attachment; scale-free if both sides grow.

    With ``heavy="both"`` the units of both sides arrive in random order and each joins units of
    the other side with probability proportional to degree + attractiveness. With "fan_in" all
    output units are there from the beginning and input units arrive; with "fan_out" the sides are
    exchanged. Only the degrees of that side then become broad, but not heavy-tailed: where no new
    units arrive this is Pólya's urn, whose degrees are about negative binomial, with variance m +
    m**2 / attractiveness at a mean of m.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    attractiveness : float
        Above 0 and finite; large values make attachment uniform.
    heavy : {"both", "fan_in", "fan_out"}

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If a size or the density is out of range, or the attractiveness is not a finite number above
        0 or a side is unknown.

    Notes
    -----
    Guarantee: exact number of edges; those that no arrival could place are drawn by degree.
    Cost: O(edges mean degree).

    References
    ----------
    .. [1] Barabási, Albert, "Emergence of scaling in random networks", Science 286, 1999.
    .. [2] Dorogovtsev, Mendes, Samukhin, "Structure of growing networks with preferential
       linking", Physical Review Letters 85, 2000.

    Examples
    --------
    >>> graph = preferential_attachment(300, 300, density=0.02, rng=np.random.default_rng(0))
    >>> graph.n_edges, bool(graph.fan_in.max() > 5 * graph.fan_in.mean())
    (1800, True)
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    check_side("heavy", heavy, SIDES)
    if not 0 < attractiveness < np.inf:
        raise ValueError(f"expected a finite attractiveness above 0, got {attractiveness!r}")
    n = n_in + n_out
    side = np.repeat(np.array([0, 1], np.int8), [n_in, n_out])
    if heavy == "both":
        order, stubs = rng.permutation(n), even_degrees(n_edges, n, rng)
    else:
        first, last = (n_in + np.arange(n_out), np.arange(n_in))
        first, last = (last, first) if heavy == "fan_out" else (first, last)
        order = np.concatenate([rng.permutation(first), rng.permutation(last)])
        stubs = np.zeros(n, np.int64)
        stubs[last] = even_degrees(n_edges, last.size, rng)
    ends = _attached(order, side, stubs, attractiveness, True, rng)
    inputs, outputs = ends.min(axis=1), ends.max(axis=1) - n_in
    return _completed(outputs * n_in + inputs, (n_out, n_in), n_edges, rng)


def bsf(n_in: int, n_out: int, *, density: float, rng: np.random.Generator) -> LayerGraph:
    """Bipartite scale-free graph of CHT: a Barabási–Albert graph made bipartite.

    In a Barabási–Albert graph on all units, each unit is an input or an output at random. An edge
    between two inputs and one between two outputs are swapped into two edges across, which keeps
    all degrees. Of the edges left over on one side one end is kept and the other drawn at random;
    edges lost as duplicates are drawn again in proportion to the degrees.

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
    """Recursive matrix graph: each edge descends through quadrants of unequal probability.

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
        Relative random change of the probabilities on each level. Without it the degree
        distribution oscillates.

    Returns
    -------
    LayerGraph
        Heavy-tailed on both sides, with many isolated units; units are renumbered at random.

    Raises
    ------
    ValueError
        If a size or the density is out of range, or the probabilities or the noise are out of
        range.

    Notes
    -----
    Guarantee: exact number of edges; uniform cells where the recursion yields nothing new.
    Cost: O(edges log n) and rejections.

    References
    ----------
    .. [1] Chakrabarti, Zhan, Faloutsos, "R-MAT: a recursive model for graph mining", SIAM
       International Conference on Data Mining, 2004.

    Examples
    --------
    >>> rmat(100, 90, density=0.05, rng=np.random.default_rng(0)).n_edges
    450
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if not (min(a, b, c) >= 0 and a + b + c <= 1 and 0 <= noise < 1):
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


def _power_weights(n: int, exponent: float | None, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return weights of n units: a power law in random order, or all equal without exponent."""
    if exponent is None:
        return np.ones(n)
    return rng.permutation(np.arange(1.0, n + 1) ** (-1 / (exponent - 1)))


def _pairs(
    outputs: NDArray[Any], inputs: NDArray[Any], k: int, rng: np.random.Generator
) -> IntArray:
    """Return ids of `k` independent pairs of units drawn with probability proportional to weight.

    The number of times that each unit occurs is drawn first, then the pairing: one multinomial
    draw a unit instead of a search in cumulated weights for each edge.
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
    bipartite: bool,
    rng: np.random.Generator,
) -> IntArray:
    """Return pairs of units joined by preferential attachment."""
    from topokit.generators import kernels
    from topokit.graph.kernels import compiled_seed

    ends = np.zeros((int(stubs.sum()), 2), np.int64)
    state = compiled_seed(rng)
    return ends[: kernels.attach(order, side, stubs, ends, float(extra), bipartite, state)]


def _completed(
    ids: IntArray, shape: tuple[int, int], n_edges: int, rng: np.random.Generator
) -> LayerGraph:
    """Return the graph of these edges; those missing are drawn in proportion to the degrees."""
    n_out, n_in = shape
    fan_in = np.bincount(ids // n_in, minlength=n_out) + 1.0
    fan_out = np.bincount(ids % n_in, minlength=n_in) + 1.0

    def draw(k: int) -> IntArray:
        return _pairs(fan_in, fan_out, k, rng)

    return collect(shape, n_edges, draw, rng, start=ids)
