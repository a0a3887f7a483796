"""Weights on the graph: path norm, SynFlow score, strengths. Values are one array a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.graph import LayerGraph, Topology, chain_widths

__all__ = ["path_kernel_trace", "path_norm", "strengths", "synflow_saliency", "synflow_score"]

Values = Mapping[str, NDArray[Any]]


def _checked(topology: Topology, values: Values) -> list[NDArray[np.float64]]:
    """Weights as float64 in the order of the layers."""
    if chain_widths(topology) is None:
        raise ValueError(
            "expected layers that chain (n_out of each equal to n_in of the next), got "
            + ", ".join(f"{name}: {g.n_in} -> {g.n_out}" for name, g in topology.items())
        )
    result = []
    for name, graph in topology.items():
        array = np.asarray(values[name], dtype=np.float64)
        if array.shape != (graph.n_edges,):
            raise ValueError(
                f"expected one value for each of the {graph.n_edges} edges of {name}, "
                f"got shape {array.shape}"
            )
        result.append(array)
    return result


def _sums(
    graphs: list[LayerGraph], weights: list[NDArray[np.float64]]
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Path sums from the inputs to each unit, and from each unit to the outputs."""
    forward: list[NDArray[Any]] = [np.ones(graphs[0].n_in)]
    for graph, w in zip(graphs, weights, strict=True):
        forward.append(np.bincount(graph.rows, w * forward[-1][graph.indices], graph.n_out))
    backward: list[NDArray[Any]] = [np.ones(graphs[-1].n_out)]
    for graph, w in zip(reversed(graphs), reversed(weights), strict=True):
        backward.append(np.bincount(graph.indices, w * backward[-1][graph.rows], graph.n_in))
    return forward, backward[::-1]


def path_norm(topology: Topology, values: Values) -> float:
    """Square root of the sum over all input-output paths of the squared product of weights.

    Parameters
    ----------
    topology : dict of LayerGraph
    values : mapping of (n_edges,) arrays
        Weights by layer.

    Returns
    -------
    float
        0 or more. Cost O(edges).

    Raises
    ------
    ValueError
        If the layers do not chain or an array has another length.

    References
    ----------
    .. [1] Neyshabur, Tomioka, Srebro, "Norm-based capacity control in neural networks",
       COLT 2015.

    Examples
    --------
    >>> layer = LayerGraph.from_edge_ids([0, 1], (1, 2))
    >>> path_norm({"fc1": layer}, {"fc1": np.array([3.0, -4.0])})
    5.0
    """
    squares = [w**2 for w in _checked(topology, values)]
    forward, _ = _sums(list(topology.values()), squares)
    return float(np.sqrt(forward[-1].sum()))


def synflow_score(topology: Topology, values: Values) -> float:
    """Sum over all input-output paths of the product of absolute weights.

    Parameters
    ----------
    topology : dict of LayerGraph
    values : mapping of (n_edges,) arrays

    Returns
    -------
    float
        0 or more. Cost O(edges).

    Raises
    ------
    ValueError
        If the layers do not chain or an array has another length.

    References
    ----------
    .. [1] Tanaka, Kunin, Yamins, Ganguli, "Pruning neural networks without any data by
       iteratively conserving synaptic flow", NeurIPS 2020.

    Examples
    --------
    >>> layer = LayerGraph.from_edge_ids([0, 1], (1, 2))
    >>> synflow_score({"fc1": layer}, {"fc1": np.array([3.0, -4.0])})
    7.0
    """
    sizes = [np.abs(w) for w in _checked(topology, values)]
    forward, _ = _sums(list(topology.values()), sizes)
    return float(forward[-1].sum())


def synflow_saliency(topology: Topology, values: Values) -> dict[str, NDArray[np.float64]]:
    """Share of each edge in the SynFlow score, ``|w| dR/d|w|``; every layer sums to the score.

    Parameters
    ----------
    topology : dict of LayerGraph
    values : mapping of (n_edges,) arrays

    Returns
    -------
    dict of (n_edges,) float64
        Cost O(edges).

    Raises
    ------
    ValueError
        If the layers do not chain or an array has another length.

    References
    ----------
    .. [1] Tanaka, Kunin, Yamins, Ganguli, NeurIPS 2020.

    Examples
    --------
    >>> layer = LayerGraph.from_edge_ids([0, 1], (1, 2))
    >>> synflow_saliency({"fc1": layer}, {"fc1": np.array([3.0, -4.0])})["fc1"].tolist()
    [3.0, 4.0]
    """
    sizes = [np.abs(w) for w in _checked(topology, values)]
    graphs = list(topology.values())
    forward, backward = _sums(graphs, sizes)
    return {
        name: w * forward[i][graph.indices] * backward[i + 1][graph.rows]
        for i, ((name, graph), w) in enumerate(zip(topology.items(), sizes, strict=True))
    }


def path_kernel_trace(topology: Topology, values: Values) -> float:
    """Trace of the path kernel: how much the squared path norm changes with each squared weight.

    The sum over all edges of the squared path sums on both sides of them.

    Parameters
    ----------
    topology : dict of LayerGraph
    values : mapping of (n_edges,) arrays

    Returns
    -------
    float
        0 or more. Cost O(edges).

    Raises
    ------
    ValueError
        If the layers do not chain or an array has another length.

    References
    ----------
    .. [1] Gebhart, Saxena, Schrater, "A unified paths perspective for pruning at
       initialization", arXiv:2101.10552, 2021.

    Examples
    --------
    >>> layer = LayerGraph.from_edge_ids([0, 1], (1, 2))
    >>> path_kernel_trace({"fc1": layer}, {"fc1": np.array([3.0, -4.0])})
    2.0
    """
    squares = [w**2 for w in _checked(topology, values)]
    graphs = list(topology.values())
    forward, backward = _sums(graphs, squares)
    return float(sum(forward[i][g.indices] @ backward[i + 1][g.rows] for i, g in enumerate(graphs)))


def strengths(
    graph: LayerGraph, values: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of absolute weights at the output units and at the input units.

    Parameters
    ----------
    graph : LayerGraph
    values : (n_edges,) array

    Returns
    -------
    fan_in_strength : (n_out,) float64
    fan_out_strength : (n_in,) float64
        Cost O(n_edges).

    References
    ----------
    .. [1] Barrat et al., "The architecture of complex weighted networks", PNAS 101, 2004.

    Examples
    --------
    >>> layer = LayerGraph.from_edge_ids([0, 1], (1, 2))
    >>> [side.tolist() for side in strengths(layer, np.array([3.0, -4.0]))]
    [[7.0], [3.0, 4.0]]
    """
    sizes = _checked({"layer": graph}, {"layer": values})[0]
    sizes = np.abs(sizes)
    inputs: NDArray[Any] = np.bincount(graph.rows, sizes, graph.n_out)
    outputs: NDArray[Any] = np.bincount(graph.indices, sizes, graph.n_in)
    return inputs, outputs
