"""Expansion of irregular layers: the universal cover's bound, sweep cuts, mixing certificates."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topokit.graph import LayerGraph
from topokit.graph.convert import GraphLike, as_graph, takes_graph
from topokit.graph.spectra import leading_singular_values, ramanujan_margin, top_pair
from topokit.measures.connectivity import components_of
from topokit.measures.spectral import normalized_operator, normalized_singular_value

__all__ = [
    "SweepCut",
    "imdb",
    "mixing_certificate",
    "percolation",
    "sweep_cut",
    "universal_cover_margin",
    "universal_cover_radius",
]

NAN = float("nan")
EDGES = 2_000_000  # number of edges above which message passing would take minutes
IMDB_LEAST = 3  # units of one fan-out, and mean degrees, that a part of IMDB needs
THRESHOLDS = 32  # degree thresholds a side in the mixing certificate


class SweepCut(NamedTuple):
    """A cut of low conductance and the units on its lighter side; see `sweep_cut`."""

    conductance: float
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]


def universal_cover_radius(graph: LayerGraph) -> float:
    r"""Spectral radius of the universal cover tree of a layer.

    The smallest :math:`\lambda` for which the messages
    :math:`x_{u \to v} = 1 / (\lambda - \sum_{w \sim u, w \ne v} x_{w \to u})` stay positive
    and every unit's sum of them stays below :math:`\lambda`.

    Parameters
    ----------
    graph : LayerGraph
        If it is disconnected, the largest radius of all components.

    Returns
    -------
    float
        sqrt(d_out - 1) + sqrt(d_in - 1) for biregular layers with degrees of 2 or more, to about
        1e-7; the root of the largest degree for disjoint stars; ``nan`` without edges, with more
        than 2 million edges, or where more than 3 billion messages would be needed (large
        band-like layers). Cost some 1,000 times O(edges).

    References
    ----------
    .. [1] Hoory, "A lower bound on the spectral radius of the universal cover of a graph",
       Journal of Combinatorial Theory B 93, 2005.

    Examples
    --------
    >>> cycle = LayerGraph.from_edge_ids([0, 1, 4, 5, 6, 8], (3, 3))
    >>> round(universal_cover_radius(cycle), 3)
    2.0
    """
    if not 0 < graph.n_edges <= EDGES:
        return NAN
    from topokit.measures.kernels import cover_radius

    one, two = float(graph.fan_in.max()), float(graph.fan_out.max())
    star = float(np.sqrt(max(one, two)))
    upper = float(np.sqrt(one - 1) + np.sqrt(two - 1)) if min(one, two) > 1 else star
    lower = star * (1 - 1e-12)
    return cover_radius(graph.indptr, graph.indices.view(np.uint32), graph.n_in, lower, upper)


@takes_graph
def universal_cover_margin(graph: LayerGraph) -> float:
    r"""Margin of the second singular value to the spectral radius of the universal cover.

    .. math:: \rho(T) - \sigma_2(B)

    The Ramanujan property as defined for irregular graphs [1]_: 0 or more means Ramanujan.
    `ramanujan_margin` uses mean degrees instead and is stricter where degrees are uneven.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        To four digits; ``nan`` without edges, with more than 2 million edges, where more than
        one component has edges, or if an iteration did not converge. Cost as
        `universal_cover_radius`.

    Notes
    -----
    Range: negative where the layer is not a Ramanujan graph.
    Cost: some 1,000 times O(edges); on demand.

    References
    ----------
    .. [1] Hoory, Linial, Wigderson, "Expander graphs and their applications", Bulletin of the AMS
       43, 2006, definition 6.7.
    .. [2] Hoory, Journal of Combinatorial Theory B 93, 2005.

    Examples
    --------
    >>> dense = LayerGraph.from_edge_ids(range(12), (3, 4))
    >>> round(universal_cover_margin(dense), 3)        # sqrt(2) + sqrt(3)
    3.146
    """
    if components_of(graph).with_edges != 1 or graph.n_edges > EDGES:
        return NAN
    # the radius is accurate to 1e-7 only: further digits would depend on the numbering of units
    return round(universal_cover_radius(graph) - leading_singular_values(graph)[1], 4)


@takes_graph
def mixing_certificate(graph: LayerGraph) -> float:
    r"""Largest deviation of hub blocks from random mixing, over the bound of the mixing lemma.

    For the units of degree at least a on one side and b on the other,

    .. math:: |e(S,T) - vol(S) vol(T) / E| \le s_2
        \sqrt{vol(S) vol(T) (1 - vol(S)/E) (1 - vol(T)/E)};

    the largest quotient of the two sides over up to 32 thresholds a side.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        In [0, 1]; ``nan`` without edges or where no proper block exists (regular sides) or the
        normalised gap is 1. Cost that of `normalized_spectral_gap` and O(n_edges).

    Notes
    -----
    Range: 0 to 1.
    Cost: that of normalized_spectral_gap and O(edges); on demand.

    References
    ----------
    .. [1] Alon, Chung, "Explicit construction of linear sized tolerant networks", Discrete
       Mathematics 72, 1988 (regular graphs).
    .. [2] Chung, "Spectral Graph Theory", AMS, 1997 (any degrees).

    Examples
    --------
    >>> import math
    >>> math.isnan(mixing_certificate(LayerGraph.from_edge_ids(range(6), (2, 3))))
    True
    """
    second = normalized_singular_value(graph)
    if not second > 1e-9:
        return NAN
    edges = float(graph.n_edges)
    levels = []
    for degree, at in ((graph.fan_in, graph.rows), (graph.fan_out, graph.indices)):
        values = np.unique(degree[degree > 0])[1:]
        if values.size > THRESHOLDS:
            values = values[np.linspace(0, values.size - 1, THRESHOLDS).astype(int)]
        levels.append((np.searchsorted(values, degree, side="right")[at], values.size))
    (one, m), (two, n) = levels
    if m == 0 or n == 0:
        return NAN
    counts = np.bincount(one * (n + 1) + two, minlength=(m + 1) * (n + 1)).reshape(m + 1, n + 1)
    block = counts[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1][1:, 1:].astype(float)
    left = np.bincount(one, minlength=m + 1)[::-1].cumsum()[::-1][1:, None].astype(float)
    right = np.bincount(two, minlength=n + 1)[::-1].cumsum()[::-1][None, 1:].astype(float)
    bound = second * np.sqrt(left * right * (1 - left / edges) * (1 - right / edges))
    return float(min((np.abs(block - left * right / edges) / bound).max(), 1.0))


@takes_graph
def imdb(graph: LayerGraph) -> float:
    """Mean Ramanujan margin of the layer's parts of equal fan-out (IMDB).

    A part is all input units of one fan-out, at least three, with the output units they feed. It
    counts if both its mean degrees are at least 3; the measure is the mean of `ramanujan_margin`
    over the parts that count.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        ``nan`` if no part counts, or an iteration did not converge.

    Notes
    -----
    Range: negative where the bound is missed on average.
    Cost: that of spectral_gap for each distinct fan-out; on demand.

    References
    ----------
    .. [1] Hoang, Liu, Marculescu, Wang, "Revisiting pruning at initialization through the lens
       of Ramanujan graph", ICLR 2023.

    Examples
    --------
    >>> round(imdb(LayerGraph.from_edge_ids(range(9), (3, 3))), 6)
    2.828427
    """
    fan_out = graph.fan_out
    rows, found = graph.rows, []
    values, counts = np.unique(fan_out[fan_out >= IMDB_LEAST], return_counts=True)
    for value in values[counts >= IMDB_LEAST]:
        inside = fan_out[graph.indices] == value
        columns = np.unique(graph.indices[inside], return_inverse=True)
        targets = np.unique(rows[inside], return_inverse=True)
        if inside.sum() < IMDB_LEAST * targets[0].size:
            continue
        shape = (targets[0].size, columns[0].size)
        found.append(
            ramanujan_margin(LayerGraph.from_edge_ids(targets[1] * shape[1] + columns[1], shape))
        )
    return float(np.mean(found)) if found else NAN


@takes_graph
def percolation(graph: LayerGraph) -> float:
    r"""Percolation criterion: above 1, a random layer with these degrees has a giant component.

    .. math:: (\kappa_{out} - 1)(\kappa_{in} - 1), \qquad
        \kappa = \langle k^2 \rangle / \langle k \rangle

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        ``nan`` without edges.

    Notes
    -----
    Range: 0 or more; the threshold is 1.
    Cost: O(edges); on demand.

    References
    ----------
    .. [1] Newman, Strogatz, Watts, "Random graphs with arbitrary degree distributions and their
       applications", Physical Review E 64, 2001.

    Examples
    --------
    >>> percolation(LayerGraph.from_edge_ids(range(12), (3, 4)))
    6.0
    """
    if not graph.n_edges:
        return NAN
    sides = (graph.fan_in.astype(float), graph.fan_out.astype(float))
    one, two = (float(k @ k) / graph.n_edges - 1 for k in sides)
    return one * two


def sweep_cut(graph: GraphLike) -> SweepCut:
    """Bottleneck of a layer: the best cut along the second singular vectors.

    Cheeger's inequality holds for it: normalised gap / 2 <= conductance <= sqrt(2 x gap).

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    SweepCut
        ``conductance`` = edges cut over the degrees on the lighter side, in [0, 1], 0 if more
        than one component has edges; ``inputs`` and ``outputs``: the units of that side.
        ``nan`` and no units without edges or if the iteration did not converge. Among cuts of
        equal conductance the numbering of the units decides. Cost O(n_edges) per Lanczos step.

    References
    ----------
    .. [1] Chung, "Spectral Graph Theory", AMS, 1997.

    Examples
    --------
    >>> blocks = [0, 1, 4, 5, 10, 11, 14, 15, 2]        # two squares and one bridge
    >>> cut = sweep_cut(LayerGraph.from_edge_ids(blocks, (4, 4)))
    >>> cut.conductance, cut.inputs.size, cut.outputs.size
    (0.1111111111111111, 2, 2)
    """
    graph = as_graph(graph)
    nothing = SweepCut(NAN, np.empty(0, np.int64), np.empty(0, np.int64))
    if graph.n_edges == 0:
        return nothing
    degree = np.concatenate([graph.fan_out, graph.fan_in]).astype(float)
    parts = components_of(graph)
    if parts.with_edges > 1:
        volume = np.bincount(parts.labels, degree, parts.number)
        volume[volume == 0] = np.inf
        units = np.flatnonzero(parts.labels == int(np.argmin(volume)))
        return _cut(0.0, units, graph)
    scores = _second_vectors(graph)
    if scores is None:
        return nothing
    order = np.argsort(scores, kind="stable")
    order = order[degree[order] > 0]
    place = np.zeros(degree.size, np.int64)
    place[order] = np.arange(order.size)
    one, two = place[graph.indices], place[graph.rows + graph.n_in]
    opened = np.bincount(np.minimum(one, two), minlength=order.size)
    closed = np.bincount(np.maximum(one, two), minlength=order.size)
    cut = (opened - closed).cumsum()[:-1]
    volume = degree[order].cumsum()[:-1]
    share = cut / np.minimum(volume, 2 * graph.n_edges - volume)
    best = int(np.argmin(share))
    light = volume[best] <= graph.n_edges
    units = order[: best + 1] if light else order[best + 1 :]
    return _cut(float(share[best]), np.sort(units), graph)


def _cut(conductance: float, units: NDArray[Any], graph: LayerGraph) -> SweepCut:
    """Return the cut, with unit numbers of the whole layer split into the two sides."""
    inputs = units[units < graph.n_in].astype(np.int64)
    return SweepCut(conductance, inputs, units[units >= graph.n_in].astype(np.int64) - graph.n_in)


def _second_vectors(graph: LayerGraph) -> NDArray[np.float64] | None:
    """Return the second singular vectors over the roots of the degrees, inputs first.

    None if the iteration did not converge.
    """
    if graph.n_out < 2 or graph.n_in < 2:
        return np.concatenate([np.arange(graph.n_in, dtype=float), np.zeros(graph.n_out)])
    fan_in, root = np.maximum(graph.fan_in, 1), np.sqrt(np.maximum(graph.fan_out, 1))
    found = top_pair(normalized_operator(graph), bound=1.0, vector=True)
    if found is None:
        return None
    inner = found[1] / root
    outer = np.bincount(graph.rows, inner[graph.indices], graph.n_out) / fan_in
    return np.concatenate([inner * max(float(np.sqrt(max(found[0], 0.0))), 1e-150), outer])
