"""Facts about a graph: measured on it, and recorded when it was generated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from topokit.generators.provenance import provenance_of
from topokit.graph.convert import GraphLike, as_graph
from topokit.graph.spectra import leading_singular_values, mean_degree_bound, ramanujan_margin

__all__ = ["Description", "describe"]

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Description:
    """Facts about a layer graph: measured on the graph, and how it was generated.

    Attributes
    ----------
    family : str or None
        Name of the generator, known only for the object that it returned: None for graphs from
        files or training, and for copies.
    params : dict
        All parameters of the family.
    guarantee : str
        Properties that the family guarantees.
    repairs : tuple of str
        How the construction was changed to meet the size and the number of edges.
    n_in, n_out, n_edges : int
    density : float
    requested_edges : int or None
        The number of edges asked for, where known.
    fan_in, fan_out : tuple of int
        Smallest and largest degree; ``nan`` on a side without units.
    components : int
        Connected components, isolated units included.
    sigma_1, sigma_2 : float
        The two largest singular values of the biadjacency matrix; `sigma_2` is ``nan`` with one
        unit on a side.
    bound : float
        ``sqrt(d_out - 1) + sqrt(d_in - 1)`` of the mean degrees over the units that have edges.
    margin : float
        ``bound - sigma_2``, the measure ``ramanujan_margin``: not negative for a Ramanujan graph
        if degrees are constant; ``nan`` without edges or where a mean degree is below 2.
    biregular : bool
        Whether both sides have constant degrees, so that the bound is the Ramanujan bound.
    """

    family: str | None
    params: dict[str, Any]
    guarantee: str
    repairs: tuple[str, ...]
    n_in: int
    n_out: int
    n_edges: int
    density: float
    requested_edges: int | None
    fan_in: tuple[float, float]
    fan_out: tuple[float, float]
    components: int
    sigma_1: float
    sigma_2: float
    bound: float
    margin: float
    biregular: bool


def _range(degrees: NDArray[np.int64]) -> tuple[float, float]:
    """Return the least and the largest degree; nan on a side without units."""
    return (int(degrees.min()), int(degrees.max())) if degrees.size else (NAN, NAN)


def describe(graph: GraphLike, *, requested_density: float | None = None) -> Description:
    """Return facts about a graph: its family and repairs, degrees, components, singular values.

    Parameters
    ----------
    graph : LayerGraph
    requested_density : float, optional
        Sets `requested_edges`. Not needed for a graph that a generator returned.

    Returns
    -------
    Description
        ``nan`` where undefined: degrees and singular values of a side without units, the bound
        without edges.

    Notes
    -----
    Cost: O(edges) for each Lanczos step; dense for sides of at most 64 units.

    References
    ----------
    .. [1] Brito, Dumitriu, Harris, "Spectral gap in random bipartite biregular graphs and
       applications", Combinatorics, Probability and Computing 31, 2022.
    .. [2] Marcus, Spielman, Srivastava, "Interlacing families I: bipartite Ramanujan graphs of
       all degrees", Annals of Mathematics 182, 2015.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> facts = describe(LayerGraph.from_edge_ids([0, 1, 2, 3], (2, 2)))
    >>> facts.components, facts.biregular, round(facts.sigma_1, 6), round(facts.margin, 6)
    (1, True, 2.0, 2.0)
    >>> from topokit.generators import GENERATORS
    >>> rng = np.random.default_rng(0)
    >>> facts = describe(GENERATORS["lps"](500, 600, density=0.01, rng=rng))
    >>> facts.family, facts.requested_edges, facts.repairs[0]
    ('lps', 3000, 'cropped from 660 -> 660 units')
    """
    graph = as_graph(graph)
    fan_in, fan_out = graph.fan_in, graph.fan_out
    first, second = leading_singular_values(graph) if graph.n_edges else (0.0, 0.0)
    n, cells = graph.n_out + graph.n_in, graph.n_out * graph.n_in
    ends = (graph.rows, graph.indices + graph.n_out)
    two_sided = sp.coo_array((np.ones(graph.n_edges, np.int8), ends), shape=(n, n))
    provenance = provenance_of(graph)
    if requested_density is None and provenance is not None:
        requested_density = provenance.density
    wanted = None if requested_density is None else round(requested_density * cells)
    return Description(
        family=provenance.family if provenance else None,
        params=dict(provenance.params) if provenance else {},
        guarantee=provenance.guarantee if provenance else "",
        repairs=provenance.repairs if provenance else (),
        n_in=graph.n_in,
        n_out=graph.n_out,
        n_edges=graph.n_edges,
        density=graph.density,
        requested_edges=wanted,
        fan_in=_range(fan_in),
        fan_out=_range(fan_out),
        components=int(sp.csgraph.connected_components(two_sided)[0]) if n else 0,
        sigma_1=first if cells else NAN,
        sigma_2=second if min(graph.shape) > 1 else NAN,
        bound=mean_degree_bound(graph) if graph.n_edges else NAN,
        margin=ramanujan_margin(graph),
        biregular=bool(cells and np.ptp(fan_in) == 0 and np.ptp(fan_out) == 0),
    )
