"""Measures of the weights on a graph: path norm, SynFlow, strengths, gaps, spectrum exponent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topokit.graph import LayerGraph, Topology, check_chain, check_per_edge
from topokit.graph.convert import GraphLike, as_graph
from topokit.graph.spectra import WHOLE, leading_singular_values, singular_values
from topokit.measures.spectral import normalized_singular_value
from topokit.tables import as_generator

__all__ = [
    "ContinuousFit",
    "SpectrumExponent",
    "WeightedGaps",
    "fit_continuous",
    "path_kernel_trace",
    "path_norm",
    "spectrum_exponent",
    "strengths",
    "synflow_saliency",
    "synflow_score",
    "weighted_gaps",
]

Values = Mapping[str, NDArray[Any]]
NAN = float("nan")


def _checked(topology: Topology, values: Values) -> list[NDArray[np.float64]]:
    """Return the weights as float64 in the order of the layers; raise if they do not fit."""
    check_chain(topology)
    result = []
    for name, graph in topology.items():
        array = np.asarray(values[name], dtype=np.float64)
        check_per_edge(graph, array, layer=name)
        result.append(array)
    return result


def _path_sums(
    graphs: list[LayerGraph], weights: list[NDArray[np.float64]]
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Return the path sums from the inputs to each unit, and from each unit to the outputs."""
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
    forward, _ = _path_sums(list(topology.values()), squares)
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
    forward, _ = _path_sums(list(topology.values()), sizes)
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
    forward, backward = _path_sums(graphs, sizes)
    return {
        name: w * forward[i][graph.indices] * backward[i + 1][graph.rows]
        for i, ((name, graph), w) in enumerate(zip(topology.items(), sizes, strict=True))
    }


def path_kernel_trace(topology: Topology, values: Values) -> float:
    """Trace of the path kernel: how much the squared path norm changes with each squared weight.

    For each edge the sums of the products of squared weights, over the paths from the inputs to it
    and over those from it to the outputs, are multiplied; the trace is the sum over all edges.

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
       initialization", arXiv 2101.10552, 2021.

    Examples
    --------
    >>> layer = LayerGraph.from_edge_ids([0, 1], (1, 2))
    >>> path_kernel_trace({"fc1": layer}, {"fc1": np.array([3.0, -4.0])})
    2.0
    """
    squares = [w**2 for w in _checked(topology, values)]
    graphs = list(topology.values())
    forward, backward = _path_sums(graphs, squares)
    return float(sum(forward[i][g.indices] @ backward[i + 1][g.rows] for i, g in enumerate(graphs)))


def strengths(
    graph: GraphLike, values: NDArray[Any]
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
    graph = as_graph(graph)
    sizes = _checked({"layer": graph}, {"layer": values})[0]
    sizes = np.abs(sizes)
    inputs: NDArray[Any] = np.bincount(graph.rows, sizes, graph.n_out)
    outputs: NDArray[Any] = np.bincount(graph.indices, sizes, graph.n_in)
    return inputs, outputs


class WeightedGaps(NamedTuple):
    """Gaps of the absolute weights of a layer; see `weighted_gaps`."""

    gap: float
    relative: float
    normalized: float


class ContinuousFit(NamedTuple):
    """A continuous power law ``x**-alpha`` on ``x >= xmin``; see `fit_continuous`."""

    alpha: float
    xmin: float
    n_tail: int
    ks_distance: float


class SpectrumExponent(NamedTuple):
    """Exponents of the eigenvalues of W^T W; see `spectrum_exponent`."""

    alpha: float
    mask_alpha: float
    shuffled_alpha: float
    weighted_alpha: float
    stable_rank: float
    ks_distance: float


def _weights(graph: LayerGraph, values: ArrayLike) -> NDArray[np.float64]:
    """Return weights as floats; raise a ValueError unless there is a finite one for each edge."""
    weights = np.asarray(values, dtype=float)
    check_per_edge(graph, weights)
    if not np.isfinite(weights).all():
        raise ValueError(f"expected finite weights, got {weights[~np.isfinite(weights)][0]}")
    return weights


def weighted_gaps(graph: GraphLike, values: ArrayLike) -> WeightedGaps:
    """Spectral gaps of the absolute weights of a layer.

    Parameters
    ----------
    graph : LayerGraph
    values : (n_edges,) array_like
        Weights; an edge of weight 0 is left out.

    Returns
    -------
    WeightedGaps
        ``gap``: difference of the two largest singular values, which grows with the weights;
        ``relative``: that over the largest, in [0, 1]; ``normalized``: as the normalised gap of
        the graph, with strengths for degrees, in [0, 1], 0 where several components have
        edges. ``nan`` without edges or if the iteration did not converge. Cost O(n_edges) per
        Lanczos step.

    Raises
    ------
    ValueError
        If there is not one finite weight for each edge.

    References
    ----------
    .. [1] Hoang, Kundu, Liu, Wang, "Don't just prune by magnitude! Your mask topology is a
       secret weapon", NeurIPS 2023 (the weighted spectral gap, whose exact form there could
       not be checked).

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids(range(4), (2, 2))
    >>> weighted_gaps(graph, [1.0, -1.0, 1.0, 1.0])
    WeightedGaps(gap=2.0, relative=1.0, normalized=1.0)
    """
    graph = as_graph(graph)
    sizes = np.abs(_weights(graph, values))
    nonzero = sizes > 0
    if not nonzero.any():
        return WeightedGaps(NAN, NAN, NAN)
    inner = LayerGraph.from_edge_ids(graph.edge_ids[nonzero], graph.shape)
    first, second = leading_singular_values(inner, sizes[nonzero])
    normalized = 1 - normalized_singular_value(inner, sizes[nonzero])
    return WeightedGaps(first - second, 1 - second / first, normalized)


def fit_continuous(samples: ArrayLike, *, xmin: float | None = None) -> ContinuousFit:
    """Fit a continuous power law, with the x_min of least Kolmogorov-Smirnov distance.

    Parameters
    ----------
    samples : (n,) array_like
        Values of 0 and below are never part of the tail.
    xmin : float, optional
        Fixed lower end of the tail, above 0.

    Returns
    -------
    ContinuousFit
        ``nan`` with fewer than two distinct values. Cost O(n^2).

    Raises
    ------
    ValueError
        If a value is not finite, or `xmin` is not a finite number above 0.

    References
    ----------
    .. [1] Clauset, Shalizi, Newman, SIAM Review 51, 2009.

    Examples
    --------
    >>> round(fit_continuous([1.0, np.e, np.e**2], xmin=1.0).alpha, 12)
    2.0
    """
    if xmin is not None and not 0 < xmin < np.inf:
        raise ValueError(f"expected xmin above 0, where a power law can begin, got {xmin!r}")
    x = np.sort(np.asarray(samples, dtype=float))
    if not np.isfinite(x).all():
        raise ValueError(f"expected finite values, got {x[~np.isfinite(x)][0]}")
    x = x[x > 0 if xmin is None else x >= xmin]
    if x.size < 2 or x[0] == x[-1]:
        return ContinuousFit(NAN, NAN, 0, NAN)
    logs = np.log(x)
    above = logs[::-1].cumsum()[::-1]
    best = ContinuousFit(NAN, NAN, 0, np.inf)
    starts = np.unique(x, return_index=True)[1][:-1] if xmin is None else [0]
    for at in starts:
        size = x.size - int(at)
        low = logs[at] if xmin is None else float(np.log(xmin))
        excess = float(above[at]) - size * low
        alpha = float(1 + size / excess)
        fitted = -np.expm1(-(alpha - 1) * (logs[at:] - low))
        steps = np.arange(size + 1) / size
        distance = float(np.maximum(np.abs(fitted - steps[1:]), np.abs(fitted - steps[:-1])).max())
        if distance < best.ks_distance:
            best = ContinuousFit(alpha, float(np.exp(low)), size, distance)
    return best


def _eigenvalues(
    graph: LayerGraph, weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Return the eigenvalues of W^T W above rounding error, over the largest, and W's norm.

    From the dense singular values. The exponent does not depend on the scale, and the squares of
    very large or small values would be lost.
    """
    found = singular_values(graph, weights)
    norm = float(found.max(initial=0.0))
    return (found[found > 1e-10 * norm] / norm) ** 2, norm


def spectrum_exponent(
    graph: GraphLike, values: ArrayLike, *, rng: np.random.Generator | int
) -> SpectrumExponent:
    """Power-law exponent of the eigenvalues of W^T W, as in WeightWatcher, with two controls.

    Warning: on a sparse layer the exponent may reflect the topology alone. Noise on a mask with
    hubs has an exponent of 2 to 3, which is interpreted as "well trained". The exponents of the
    0/1 mask and of the same weights on randomly permuted edges are therefore returned as well: only
    a difference from these is evidence about the weights.

    Parameters
    ----------
    graph : LayerGraph
    values : (n_edges,) array_like
        Weights.
    rng : numpy.random.Generator
        Shuffles the weights over the edges.

    Returns
    -------
    SpectrumExponent
        ``alpha`` of the weights, ``mask_alpha`` of the 0/1 mask, ``shuffled_alpha``; zero
        eigenvalues are left out and x_min minimises the Kolmogorov-Smirnov distance
        ``ks_distance``. ``weighted_alpha``: alpha log10 of the largest eigenvalue;
        ``stable_rank``: squared Frobenius over squared spectral norm, 1 or more. ``nan`` without
        weights other than 0 or with fewer than two distinct eigenvalues. Dense, since the whole
        spectrum is needed: cost that of `singular_values`, three times.

    Raises
    ------
    ValueError
        If there is not one finite weight for each edge, or the smaller side has more than
        8,192 units.

    References
    ----------
    .. [1] Martin, Mahoney, "Implicit self-regularization in deep neural networks: evidence from
       random matrix theory and implications for learning", JMLR 22, 2021.
    .. [2] Martin, Peng, Mahoney, "Predicting trends in the quality of state-of-the-art neural
       networks without access to training or testing data", Nature Communications 12:4122, 2021
       (the weighted alpha).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> graph = LayerGraph.from_edge_ids(range(300 * 100), (300, 100))
    >>> found = spectrum_exponent(graph, rng.standard_normal(30_000), rng=rng)
    >>> bool(found.stable_rank > 20)
    True
    """
    graph = as_graph(graph)
    rng = as_generator(rng)
    weights = _weights(graph, values)
    if min(graph.shape) > WHOLE:
        raise ValueError(
            f"expected at most {WHOLE} units on the smaller side for a whole spectrum, got "
            f"{min(graph.shape)}"
        )
    if not weights.any():
        return SpectrumExponent(NAN, NAN, NAN, NAN, NAN, NAN)
    eigenvalues, norm = _eigenvalues(graph, weights)
    fit = fit_continuous(eigenvalues)
    return SpectrumExponent(
        alpha=fit.alpha,
        mask_alpha=fit_continuous(_eigenvalues(graph, np.ones(graph.n_edges))[0]).alpha,
        shuffled_alpha=fit_continuous(_eigenvalues(graph, rng.permutation(weights))[0]).alpha,
        weighted_alpha=float(fit.alpha * 2 * np.log10(norm)),
        stable_rank=float(eigenvalues.sum()),
        ks_distance=fit.ks_distance if fit.n_tail else NAN,
    )
