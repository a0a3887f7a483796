"""Null models: measures against null samples, random graphs with the same degrees or edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from topokit.generators import randomized_twin
from topokit.generators.sampling import by_groups
from topokit.graph import LayerGraph, random_subset
from topokit.graph.convert import GraphLike, as_graph
from topokit.measures import LAYER_MEASURES, find_communities
from topokit.progress import bar
from topokit.tables import as_generator, as_html, choose

__all__ = [
    "NULL_MEASURES",
    "NULLS",
    "NullScore",
    "expected_degree_sample",
    "null_score",
    "null_scores",
]

NAN = float("nan")


def _modularity(graph: LayerGraph) -> float:
    """Return the modularity of the communities found with a fixed seed."""
    return find_communities(graph, rng=np.random.default_rng(0)).modularity


NULL_MEASURES: dict[str, Callable[[LayerGraph], float]] = {
    "normalized_spectral_gap": LAYER_MEASURES["normalized_spectral_gap"],
    "butterflies": LAYER_MEASURES["butterflies"],
    "robins_alexander": LAYER_MEASURES["robins_alexander"],
    "pair_clustering": lambda graph: float(LAYER_MEASURES["pair_clustering"](graph).union),
    "assortativity": LAYER_MEASURES["assortativity"],
    "nestedness": LAYER_MEASURES["nestedness"],
    "rich_club": LAYER_MEASURES["rich_club"],
    "modularity": _modularity,
    "mean_distance": lambda graph: float(LAYER_MEASURES["distances"](graph).mean),
    "efficiency": LAYER_MEASURES["efficiency"],
    "robustness": LAYER_MEASURES["robustness"],
}
"""Measures whose value depends on size and degrees, so that only their z-score is informative."""


class NullScore(NamedTuple):
    """A measure and its distribution over null samples; see `null_score`."""

    value: float
    null_mean: float
    null_sd: float
    z: float
    p_value: float

    def __repr__(self) -> str:
        return (
            f"NullScore(value={self.value:.4g}, null_mean={self.null_mean:.4g}, "
            f"null_sd={self.null_sd:.2g}, z={self.z:.3g}, p_value={self.p_value:.2g})"
        )


class _Scores(dict[str, NullScore]):
    """The scores of several measures, printed as their z-scores."""

    def __repr__(self) -> str:
        return f"z-scores({', '.join(f'{name}={score.z:.3g}' for name, score in self.items())})"

    def _repr_html_(self) -> str:
        rows = [{"measure": name, **score._asdict()} for name, score in self.items()]
        return as_html("null_scores", rows)


def expected_degree_sample(graph: GraphLike, *, rng: np.random.Generator | int) -> LayerGraph:
    r"""Draw from the maximum-entropy model whose mean degrees are those of a graph (BiCM).

    Each cell is an edge with probability :math:`x_i y_j / (1 + x_i y_j)`, independently; units
    of equal degree share their factor. Degrees vary, so z-scores against these samples are
    usually smaller than against those of `topokit.randomized_twin`, which keeps every degree.

    Parameters
    ----------
    graph : LayerGraph
    rng : numpy.random.Generator

    Returns
    -------
    LayerGraph
        Of the same shape, edges within the groups of a convolution; its number of edges varies
        too. Cost O(n_edges) and the product of
        the numbers of distinct degrees, some hundred times.

    Raises
    ------
    ValueError
        If the search for the factors did not converge.

    References
    ----------
    .. [1] Saracco, Di Clemente, Gabrielli, Squartini, "Randomizing bipartite networks: the case
       of the World Trade Web", Scientific Reports 5:10595, 2015.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 1, 2, 3, 6], (3, 3))
    >>> expected_degree_sample(graph, rng=np.random.default_rng(0)).shape
    (3, 3)
    """
    rng = as_generator(rng)
    return by_groups(as_graph(graph), lambda group: _with_mean_degrees(group, rng))


def _with_mean_degrees(graph: LayerGraph, rng: np.random.Generator) -> LayerGraph:
    """Draw one sample of the maximum-entropy model; see `expected_degree_sample`."""
    fan_in, fan_out = graph.fan_in, graph.fan_out
    k, rows, n_rows = np.unique(fan_in, return_inverse=True, return_counts=True)
    d, columns, n_columns = np.unique(fan_out, return_inverse=True, return_counts=True)
    chance = _edge_probabilities(k, n_rows, d, n_columns)
    of_row, of_column = np.argsort(rows, kind="stable"), np.argsort(columns, kind="stable")
    first_row = np.cumsum(n_rows) - n_rows
    first_column = np.cumsum(n_columns) - n_columns
    ids = []
    for a, b in np.argwhere(chance > 0):
        cells = int(n_rows[a] * n_columns[b])
        picked = random_subset(cells, int(rng.binomial(cells, chance[a, b])), rng)
        row = of_row[first_row[a] + picked // n_columns[b]]
        ids.append(row * graph.n_in + of_column[first_column[b] + picked % n_columns[b]])
    edges = np.concatenate(ids) if ids else np.empty(0, np.int64)
    return LayerGraph.from_edge_ids(edges, graph.shape)


def _edge_probabilities(
    k: NDArray[np.int64], n_rows: NDArray[np.int64], d: NDArray[np.int64], n_columns: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the probability of an edge between units of each pair of degrees.

    The expected degrees are the given ones. Degrees of 0 and full degrees are fixed first, since
    their factors would be 0 or infinite; the logarithms of the other factors are found by Newton
    steps, limited to 2, on each side in turn.
    """
    chance = np.zeros((k.size, d.size))
    left, right = k.astype(float), d.astype(float)
    rows, columns = np.ones(k.size, bool), np.ones(d.size, bool)
    changed = True
    while changed:
        changed = False
        for at in np.flatnonzero(rows):
            room = float(n_columns[columns].sum())
            if left[at] <= 0 or left[at] >= room:
                full = left[at] > 0
                chance[at, columns] = float(full)
                right[columns] -= n_rows[at] * float(full)
                rows[at], changed = False, True
        for at in np.flatnonzero(columns):
            room = float(n_rows[rows].sum())
            if right[at] <= 0 or right[at] >= room:
                full = right[at] > 0
                chance[rows, at] = float(full)
                left[rows] -= n_columns[at] * float(full)
                columns[at], changed = False, True
    if not rows.any():
        return chance
    left, right, n, m = left[rows], right[columns], n_rows[rows], n_columns[columns]
    edges = float(left @ n)
    x, y = np.log(left / np.sqrt(edges)), np.log(right / np.sqrt(edges))
    for _ in range(5000):
        p = expit(x[:, None] + y[None, :])
        x += np.clip((left - p @ m) / ((p * (1 - p)) @ m), -2, 2)
        p = expit(x[:, None] + y[None, :])
        wrong = np.abs(p @ m - left).max()
        y += np.clip((right - n @ p) / (n @ (p * (1 - p))), -2, 2)
        if wrong < 1e-9 and np.abs(n @ p - right).max() < 1e-9:
            chance[np.ix_(rows, columns)] = p
            return chance
    raise ValueError(
        "expected degrees for which the maximum-entropy model can be fitted, but the iteration did "
        "not converge in 5000 steps; null='exact' draws samples with these degrees"
    )


def _same_number_of_edges(graph: LayerGraph, *, rng: np.random.Generator) -> LayerGraph:
    """Draw an Erdős–Rényi graph with the shape, the groups and the number of edges of a graph."""
    ids = random_subset(graph.n_possible, graph.n_edges, rng)
    return LayerGraph.from_ids_in_groups(ids, graph.shape, graph.groups)


NULLS: dict[str, Callable[..., LayerGraph]] = {
    "exact": randomized_twin,
    "expected": expected_degree_sample,
    "erdos_renyi": _same_number_of_edges,
}
"""How null samples are drawn: with the degrees, exactly or on average, or the number of edges."""


def null_score(
    graph: GraphLike,
    measure: Callable[[LayerGraph], float],
    *,
    twins: int = 20,
    rng: np.random.Generator | int,
) -> NullScore:
    """Return the z-score of a measure against random graphs with the same degrees.

    This separates the effect of the degrees (hubs alone give many 4-cycles) from that of the
    arrangement of the edges.

    Parameters
    ----------
    graph : LayerGraph
    measure : callable
        From a layer graph to a float, such as ``LAYER_MEASURES["butterflies"]``.
    twins : int
        Number of null samples (degree-preserving randomisations), 2 or more.
    rng : numpy.random.Generator

    Returns
    -------
    NullScore
        ``value``; mean and standard deviation (n - 1) over the null samples; ``z`` = (value -
        mean) / sd, ``nan`` where all samples agree to rounding (the degrees fix the measure);
        two-sided rank ``p_value``, at least 2 / (twins + 1). Differences below 1e-12 count as
        rounding. ``nan`` where the measure is undefined for the graph or one of the samples. Cost
        `twins` times that of the measure and of 20 curveball sweeps.

    Raises
    ------
    ValueError
        If `twins` is below 2.

    References
    ----------
    .. [1] Strona et al., "A fast and unbiased procedure to randomize ecological binary matrices
       with fixed row and column totals", Nature Communications 5:4114, 2014.
    .. [2] Milo et al., "Network motifs: simple building blocks of complex networks", Science
       298, 2002.

    Examples
    --------
    >>> blocks = [8 * i + j for i in range(8) for j in range(8) if i // 4 == j // 4]
    >>> graph = LayerGraph.from_edge_ids(blocks, (8, 8))
    >>> score = null_score(graph, LAYER_MEASURES["butterflies"], rng=np.random.default_rng(0))
    >>> score.z > 3
    True
    """
    rng = as_generator(rng)
    return null_scores(graph, {"measure": measure}, twins=twins, rng=rng)["measure"]


def null_scores(
    graph: GraphLike,
    measures: Mapping[str, Callable[[LayerGraph], float]] | Iterable[str] = NULL_MEASURES,
    *,
    twins: int = 20,
    null: str = "exact",
    rng: np.random.Generator | int,
) -> dict[str, NullScore]:
    """Return the z-scores of several measures against the same null samples.

    Parameters
    ----------
    graph : LayerGraph
    measures : mapping of callables, or iterable of str
        By default `NULL_MEASURES`, those that depend on size and degrees; or some of their names.
    twins : int
        Number of null samples, 2 or more.
    null : str
        ``"exact"``: every degree is kept; ``"expected"``: degrees are kept on average;
        ``"erdos_renyi"``: only the number of edges is kept, so that the effect of the degrees is
        part of the score.
    rng : numpy.random.Generator

    Returns
    -------
    dict of NullScore
        Scores as those of `null_score`, by name; it is printed as their z-scores. Cost `twins`
        times that of the measures.

    Raises
    ------
    ValueError
        If `twins` is below 2, or `null` or a name is unknown.

    References
    ----------
    .. [1] Strona et al., Nature Communications 5:4114, 2014.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 1, 3, 4, 8], (3, 3))
    >>> scores = null_scores(graph, twins=4, rng=np.random.default_rng(0))
    >>> list(scores) == list(NULL_MEASURES)
    True

    Hubs alone give many 4-cycles: few graphs with as many edges have as many, all with the same
    degrees have.

    >>> hubs = LayerGraph.from_edge_ids(range(40), (10, 20))
    >>> null_scores(hubs, ["butterflies"], null="erdos_renyi", rng=0)["butterflies"].z > 3
    True
    >>> null_scores(hubs, ["butterflies"], rng=0)["butterflies"].p_value
    1.0
    """
    rng = as_generator(rng)
    graph = as_graph(graph)
    if twins < 2:
        raise ValueError(f"expected at least 2 null samples, got twins={twins}")
    draw = choose("null model", null, NULLS)
    if not isinstance(measures, Mapping):
        if isinstance(measures, str):
            raise ValueError(f"measures: expected a list of names, got {measures!r}")
        measures = {name: choose("measure", name, NULL_MEASURES) for name in measures}
    found: dict[str, list[float]] = {name: [] for name in measures}
    with bar("null samples", delay=1.0) as step:
        for i in range(twins):
            sample = draw(graph, rng=rng)
            for name, measure in measures.items():
                found[name].append(float(measure(sample)))
            step(i + 1, twins, "")
    return _Scores(
        (name, _score(float(measure(graph)), np.array(found[name])))
        for name, measure in measures.items()
    )


def _score(value: float, found: NDArray[np.float64]) -> NullScore:
    """Return the score of a value against those of the null samples."""
    if np.isnan(value) or np.isnan(found).any():
        return NullScore(value, NAN, NAN, NAN, NAN)
    mean, sd = float(found.mean()), float(found.std(ddof=1))
    # values that differ less are equal but for rounding; a measure may be small, but where its
    # terms of about 1 cancel, what is left is rounding
    near = max(1e-9 * max(abs(value), float(np.abs(found).max())), 1e-12)
    above = int(np.count_nonzero(found >= value - near))
    below = int(np.count_nonzero(found <= value + near))
    p_value = min(1.0, 2 * (min(above, below) + 1) / (found.size + 1))
    return NullScore(value, mean, sd, NAN if sd <= near else (value - mean) / sd, p_value)
