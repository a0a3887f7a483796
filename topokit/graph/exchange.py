"""Layers and networks as graphs of igraph and rustworkx, and as arrays of edges.

igraph and rustworkx are imported only where they are used. What nodes say of themselves is as in
`topokit.to_networkx`; `topokit.graph.convert.as_topology` reads these graphs as well.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topokit.graph.convert import GraphLike, as_graph, as_topology
from topokit.graph.layergraph import LayerGraph, Topology, from_coordinates
from topokit.graph.networks import (
    check_chain,
    edge_pairs,
    node_attributes,
    topology_of_nodes,
)

__all__ = [
    "from_edge_index",
    "from_igraph",
    "from_network_index",
    "from_rustworkx",
    "to_edge_index",
    "to_igraph",
    "to_network_index",
    "to_rustworkx",
    "topology_of_graph",
]


def _imported(name: str) -> Any:
    """Return an optional package.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        words = f"expected the package {name}, which is not installed: pip install {name}"
        raise ModuleNotFoundError(words) from None


def to_igraph(graph_or_topology: GraphLike) -> Any:
    """Convert to an undirected igraph graph, with igraph's boolean ``type`` on every vertex.

    Parameters
    ----------
    graph_or_topology : LayerGraph or dict of LayerGraph
        Or whatever `as_topology` reads.

    Returns
    -------
    igraph.Graph
        Vertices are numbered by layers, inputs first, with the attributes ``type`` (true in every
        second layer, so in the outputs of one), ``layer``, ``unit`` and ``layer_name``.

    Raises
    ------
    ModuleNotFoundError
        If igraph is not installed.
    ValueError
        If a topology's layers do not chain.

    Notes
    -----
    O(units + edges).

    Examples
    --------
    >>> graph = to_igraph(LayerGraph.from_edge_ids([0, 3], (2, 2)))
    >>> graph.get_edgelist(), graph.vs["type"], graph.is_bipartite()
    ([(0, 2), (1, 3)], [False, False, True, True], True)
    """
    topology = as_topology(graph_or_topology)
    nodes = list(node_attributes(topology))
    columns = {
        "type": [bool(node["bipartite"]) for node in nodes],
        **{key: [node.get(key) for node in nodes] for key in ("layer", "unit", "layer_name")},
    }
    graph = _imported("igraph").Graph(len(nodes), edge_pairs(topology).tolist())
    for key, values in columns.items():
        graph.vs[key] = values
    return graph


def from_igraph(graph: Any) -> LayerGraph:
    """Return the layer graph of a bipartite igraph graph.

    Parameters
    ----------
    graph : igraph.Graph
        Vertices have the attribute ``type`` (or others: see `topokit.from_networkx`). Directions
        and attributes of edges are ignored.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If a vertex does not say its side, an edge joins two of one side, or there are several
        layers: `as_topology` returns all of them.

    Examples
    --------
    >>> import igraph
    >>> from_igraph(igraph.Graph.Full_Bipartite(3, 2))
    LayerGraph(3 -> 2, 6 edges)
    """
    return as_graph(topology_of_graph(graph))


def to_rustworkx(graph_or_topology: GraphLike) -> Any:
    """Convert to a rustworkx graph, whose nodes are dictionaries of their attributes.

    Parameters
    ----------
    graph_or_topology : LayerGraph or dict of LayerGraph
        Or whatever `as_topology` reads.

    Returns
    -------
    rustworkx.PyGraph
        The attributes are those of `topokit.to_networkx`; edges carry None.

    Raises
    ------
    ModuleNotFoundError
        If rustworkx is not installed.
    ValueError
        If a topology's layers do not chain.

    Notes
    -----
    O(units + edges).

    Examples
    --------
    >>> graph = to_rustworkx(LayerGraph.from_edge_ids([0, 3], (2, 2)))
    >>> list(graph.edge_list()), graph[2]["bipartite"]
    ([(0, 2), (1, 3)], 1)
    """
    topology = as_topology(graph_or_topology)
    graph = _imported("rustworkx").PyGraph(multigraph=False)
    graph.add_nodes_from(list(node_attributes(topology)))
    graph.add_edges_from_no_data([(u, v) for u, v in edge_pairs(topology).tolist()])
    return graph


def from_rustworkx(graph: Any) -> LayerGraph:
    """Return the layer graph of a bipartite rustworkx graph.

    Parameters
    ----------
    graph : rustworkx.PyGraph or rustworkx.PyDiGraph
        Whose nodes are dictionaries with ``bipartite``, or other attributes as in
        `topokit.from_networkx`. Directions and values of edges are ignored.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If a node is no dictionary or does not say its side, an edge joins two of one side, or
        there are several layers: `as_topology` returns all of them.

    Examples
    --------
    >>> layer = LayerGraph.from_edge_ids([0, 3], (2, 2))
    >>> from_rustworkx(to_rustworkx(layer)) == layer
    True
    """
    return as_graph(topology_of_graph(graph))


def topology_of_graph(graph: Any) -> Topology:
    """Return the layers of a graph of igraph or rustworkx.

    Raises
    ------
    TypeError
        If it is none.
    ValueError
        As in `from_igraph` and `from_rustworkx`.

    Examples
    --------
    >>> layer = LayerGraph.from_edge_ids([1, 2], (2, 2))
    >>> topology_of_graph(to_rustworkx({"a": layer, "b": layer})) == {"a": layer, "b": layer}
    True
    """
    if hasattr(graph, "vs") and hasattr(graph, "get_edgelist"):
        columns = {key: graph.vs[key] for key in graph.vs.attributes()}
        attributes: list[Any] = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ] or [{}] * graph.vcount()
        names: list[Any] = list(range(graph.vcount()))
        edges = graph.get_edgelist()
    elif hasattr(graph, "node_indices") and hasattr(graph, "edge_list"):
        names, attributes = list(graph.node_indices()), list(graph.nodes())
        for name, data in zip(names, attributes, strict=True):
            if not isinstance(data, Mapping):
                raise ValueError(
                    "expected nodes of rustworkx that are dictionaries with bipartite=0 (input) or "
                    f"1 (output), got {type(data).__name__} at node {name}"
                )
        position = {name: at for at, name in enumerate(names)}  # nodes may have been removed
        edges = [(position[u], position[v]) for u, v in graph.edge_list()]
    else:
        raise TypeError(
            f"expected a graph of igraph or rustworkx, got {type(graph).__module__}."
            f"{type(graph).__name__}"
        )
    return topology_of_nodes(names, attributes, np.array(edges, np.int64).reshape(-1, 2))


def to_edge_index(graph: GraphLike) -> NDArray[np.int64]:
    """Return the edges of a layer as PyTorch Geometric's bipartite ``edge_index``.

    Parameters
    ----------
    graph : LayerGraph
        Or whatever `as_graph` reads.

    Returns
    -------
    (2, n_edges) int64 array
        Input units, numbered from 0, above output units, numbered from 0; ``torch.from_numpy``
        makes it the tensor that PyTorch Geometric wants, with ``size=(n_in, n_out)``.

    Examples
    --------
    >>> to_edge_index(LayerGraph.from_edge_ids([1, 3], (2, 2))).tolist()
    [[1, 1], [0, 1]]
    """
    graph = as_graph(graph)
    return np.stack([graph.indices.astype(np.int64), graph.rows.astype(np.int64)])


def from_edge_index(edge_index: ArrayLike, size: tuple[int, int]) -> LayerGraph:
    """Return the layer graph of PyTorch Geometric's bipartite ``edge_index``.

    Parameters
    ----------
    edge_index : (2, n_edges) array or tensor of integers
        Input units above output units; an edge may come twice.
    size : tuple of int
        ``(n_in, n_out)``, in PyTorch Geometric's order.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If the shape is another one, or a unit is outside `size`.

    Examples
    --------
    >>> from_edge_index([[1, 1], [0, 1]], (2, 2))
    LayerGraph(2 -> 2, 2 edges)
    """
    inputs, outputs = _pairs(edge_index)
    n_in, n_out = (int(n) for n in size)
    for units, n, what in ((inputs, n_in, "input"), (outputs, n_out, "output")):
        if units.size and (units.min() < 0 or units.max() >= n):
            raise ValueError(
                f"edge_index: expected {what} units in 0..{n - 1}, got "
                f"{units.min()}..{units.max()}; size is (n_in, n_out)"
            )
    return from_coordinates(outputs, inputs, (n_out, n_in))


def to_network_index(graph_or_topology: GraphLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a whole network as one ``edge_index``, and the layer of units of each node.

    Parameters
    ----------
    graph_or_topology : LayerGraph or dict of LayerGraph
        Or whatever `as_topology` reads.

    Returns
    -------
    edge_index : (2, n_edges) int64 array
        From input to output, with nodes numbered through the network.
    layer : (n_units,) int64 array
        0 for the network's inputs.

    Raises
    ------
    ValueError
        If the layers do not chain.

    Examples
    --------
    >>> edges, layer = to_network_index(LayerGraph.from_edge_ids([1, 3], (2, 2)))
    >>> edges.tolist(), layer.tolist()
    ([[1, 1], [2, 3]], [0, 0, 1, 1])
    """
    topology = as_topology(graph_or_topology)
    widths = check_chain(topology)
    return edge_pairs(topology).T.copy(), np.repeat(np.arange(len(widths)), widths)


def from_network_index(edge_index: ArrayLike, layer: ArrayLike) -> Topology:
    """Return the layers of a network given as one ``edge_index``.

    Parameters
    ----------
    edge_index : (2, n_edges) array or tensor of integers
        Numbers of nodes; directions do not matter, and an edge may come in both.
    layer : (n_units,) array or tensor of integers
        The layer of units that each node belongs to, 0 for the network's inputs.

    Returns
    -------
    dict of LayerGraph
        ``layer``, or ``fc1``, ``fc2``, ... if there are several. Units of a layer are numbered in
        the order of their nodes.

    Raises
    ------
    ValueError
        If a node is outside `layer`, an edge skips a layer or stays within one, or a layer has no
        unit.

    Examples
    --------
    >>> from_network_index([[1, 1], [2, 3]], [0, 0, 1, 1])
    {'layer': LayerGraph(2 -> 2, 2 edges)}
    """
    pairs = np.stack(_pairs(edge_index), axis=1)
    of = _integers("layer", layer)
    if of.ndim != 1 or of.size == 0 or set(np.unique(of)) != set(range(max(2, of.max() + 1))):
        raise ValueError(
            "layer: expected numbers from 0 without a gap, one for each node, such as "
            f"[0, 0, 1, 1], got {of.tolist()[:8]} of shape {of.shape}"
        )
    if pairs.size and (pairs.min() < 0 or pairs.max() >= of.size):
        raise ValueError(
            f"edge_index: expected nodes in 0..{of.size - 1}, got {pairs.min()}..{pairs.max()}"
        )
    return topology_of_nodes(range(of.size), [{"layer": at} for at in of.tolist()], pairs)


def _integers(name: str, values: Any) -> NDArray[np.int64]:
    """Return an array or tensor of integers as int64."""
    values = values.cpu() if hasattr(values, "cpu") else values
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integers, got {array.dtype}")
    return array.astype(np.int64)


def _pairs(edge_index: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return both rows of an ``edge_index``."""
    array = _integers("edge_index", edge_index)
    if array.ndim != 2 or len(array) != 2:
        raise ValueError(f"edge_index: expected the shape (2, n_edges), got {array.shape}")
    return array[0], array[1]
