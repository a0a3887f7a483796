"""What a graph is, measured anew, and what its generator promised and repaired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from topokit.generators.adapt import leading_singular_values, mean_degree_bound
from topokit.generators.provenance import provenance_of
from topokit.graph.convert import GraphLike, as_graph

__all__ = ["Description", "describe"]


@dataclass(frozen=True, slots=True)
class Description:
    """Facts of a layer graph, measured on the graph itself, and where it came from.

    Attributes
    ----------
    family : str or None
        The generator, known only while the generated object itself is at hand; None for graphs
        from files, training or copies.
    params : dict
        All parameters of the family.
    guarantee : str
        What the family promises of the graph it returns.
    repairs : tuple of str
        What was done to the pure construction to meet the size and the number of edges.
    n_in, n_out, n_edges : int
    density : float
    requested_edges : int or None
        What was asked for, where known.
    fan_in, fan_out : tuple of int
        Smallest and largest degree.
    components : int
        Connected components, isolated units included.
    sigma_1, sigma_2 : float
        The two largest singular values of the biadjacency matrix; ``nan`` with one unit on a
        side.
    bound : float
        ``sqrt(d_out - 1) + sqrt(d_in - 1)`` of the mean degrees.
    margin : float
        ``bound - sigma_2``: not negative for a Ramanujan graph if degrees are constant.
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
    fan_in: tuple[int, int]
    fan_out: tuple[int, int]
    components: int
    sigma_1: float
    sigma_2: float
    bound: float
    margin: float
    biregular: bool


def describe(graph: GraphLike, *, requested_density: float | None = None) -> Description:
    """Say what a graph is: its family and repairs, degrees, components, spectral certificate.

    Parameters
    ----------
    graph : LayerGraph
    requested_density : float, optional
        To state the edges asked for beside those obtained; graphs that were just generated know.

    Returns
    -------
    Description

    Notes
    -----
    Cost: O(edges) for each Lanczos step; dense for sides of at most 400 units.

    References
    ----------
    .. [1] Brito, Dumitriu, Harris, 2021; Marcus, Spielman, Srivastava, 2015.

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
    sigma = leading_singular_values(graph)
    bound = mean_degree_bound(graph)
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
        fan_in=(int(fan_in.min()), int(fan_in.max())),
        fan_out=(int(fan_out.min()), int(fan_out.max())),
        components=int(sp.csgraph.connected_components(two_sided)[0]),
        sigma_1=float(sigma[0]),
        sigma_2=float(sigma[1]),
        bound=bound,
        margin=float(bound - sigma[1]),
        biregular=bool(np.ptp(fan_in) == 0 and np.ptp(fan_out) == 0),
    )
