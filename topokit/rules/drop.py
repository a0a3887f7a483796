"""Which edges are dropped: functions ``(view, n, rng) -> (n,) positions``.

Positions are those in ``view.graph.indices``. Functions that rank edges raise a ValueError where
the layer has fewer than `n` edges or a score is ``nan``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topokit.rules.rewire import LayerView
from topokit.rules.stream import stream_of

__all__ = [
    "NAN",
    "lowest",
    "nothing",
    "of_each_sign",
    "official_removal",
    "random",
    "signed_magnitude",
    "smallest_magnitude",
    "softly",
]

NAN = "expected weights and scores without nan; did training diverge?"


def lowest(scores: ArrayLike, n: int) -> NDArray[np.int64]:
    """Return the positions of the `n` lowest scores; ties go to the smaller position.

    O(len(scores)). The result depends on the scores alone.

    Raises
    ------
    ValueError
        If there are fewer than `n` scores, or one is ``nan`` (a run that diverged).

    Examples
    --------
    >>> lowest([3.0, 1.0, 2.0, 1.0], 1).tolist(), lowest([3.0, 1.0, 2.0, 1.0], 3).tolist()
    ([1], [1, 2, 3])
    """
    scores = np.asarray(scores)
    _check(scores, n)
    if n == 0:
        return np.empty(0, np.int64)
    threshold = np.partition(scores, n - 1)[n - 1]
    chosen = scores < threshold
    equal = np.flatnonzero(scores == threshold)
    chosen[equal[: n - np.count_nonzero(chosen)]] = True
    return np.flatnonzero(chosen).astype(np.int64)


def _check(scores: NDArray[Any], n: int) -> None:
    """Raise a ValueError if there are fewer than `n` scores, or one is nan."""
    if not 0 <= n <= scores.size:
        raise ValueError(f"cannot drop {n} of {scores.size} edges")
    if np.isnan(scores).any():
        raise ValueError(NAN)


def smallest_magnitude(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Drop the `n` edges of smallest ``abs(value)``, both signs together.

    Ties are broken by edge id; published implementations break them by N(0, 1e-5) noise or not at
    all.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> view = LayerView(LayerGraph.from_edge_ids(range(4), (2, 2)), np.array([-1, 0.5, 3, -0.2]))
    >>> smallest_magnitude(view, 2, np.random.default_rng(0)).tolist()
    [1, 3]
    """
    return lowest(np.abs(view.values), n)


def signed_magnitude(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Drop the edges closest to zero among the positive and among the negative ones separately.

    Zeros, which have no sign, are dropped first. The rest of `n` is split between the signs in
    proportion to their numbers (rounded to nearest, halves towards the negatives), so that each
    sign loses the same share whatever its magnitudes; ties within a sign are broken by edge id.

    Notes
    -----
    The authors' SET codes split in the same proportion but remove one or two edges more, those at
    the two thresholds; `official_removal` is their exact rule.

    References
    ----------
    .. [1] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nature Communications 9:2383, 2018.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> values = np.array([-5.0, -4, -3, -2, 0.1, 0.2])
    >>> view = LayerView(LayerGraph.from_edge_ids(range(6), (2, 3)), values)
    >>> signed_magnitude(view, 3, np.random.default_rng(0)).tolist()
    [2, 3, 4]
    """
    values = view.values
    _check(values, n)
    zero = values == 0
    n_zero = int(np.count_nonzero(zero))
    if n_zero >= n:
        return np.flatnonzero(zero)[:n].astype(np.int64)
    negative = np.flatnonzero(values < 0)
    positive = np.flatnonzero(values > 0)
    n_negative, n_positive = of_each_sign(n - n_zero, negative.size, positive.size)
    zero[negative[lowest(-values[negative], n_negative)]] = True
    zero[positive[lowest(values[positive], n_positive)]] = True
    return np.flatnonzero(zero).astype(np.int64)


def of_each_sign(n: int, negative: int, positive: int) -> tuple[int, int]:
    """Divide `n` edges over the negative and the positive ones in proportion to their numbers.

    Rounded to nearest, halves towards the negatives. 0 < n <= negative + positive.

    Examples
    --------
    >>> of_each_sign(3, 4, 2), of_each_sign(1, 1, 1)
    ((2, 1), (1, 0))
    """
    # ceil(x - 1/2) in integers: nearest, halves down for the positives
    some = -(-(2 * n * positive - negative - positive) // (2 * (negative + positive)))
    some = min(max(some, n - negative), positive, n)
    return n - some, some


def official_removal(values: ArrayLike, zeta: float) -> NDArray[np.int64]:
    """Return the positions that the authors' SET code removes from a layer's weights.

    With sorted values v, m = min abs(v), p the first index of magnitude m and q one past the
    last, an edge stays only if it lies strictly below ``v[int((1 - zeta) * p)]`` or strictly
    above ``v[min(n - 1, int(q + zeta * (n - q)))]``. The edges at both thresholds are removed too,
    so about ``zeta * n + 2`` edges are removed, not a number fixed beforehand.

    Parameters
    ----------
    values : (n_edges,) array
        Weights of the edges.
    zeta : float
        In [0, 1].

    Returns
    -------
    (n_removed,) int64
        Positions, increasing; empty for an empty layer.

    Raises
    ------
    ValueError
        If zeta lies outside [0, 1] or a value is ``nan``.

    References
    ----------
    .. [1] Mocanu et al., Nature Communications 9:2383, 2018, and the authors' public code.

    Examples
    --------
    >>> values = np.array([-5, -4, -3, -2, -0.9, 1, 2, 3, 4, 5])
    >>> np.delete(values, official_removal(values, 0.3)).tolist()
    [-5.0, -4.0, 3.0, 4.0, 5.0]
    """
    values = np.asarray(values)
    if not 0 <= zeta <= 1:
        raise ValueError(f"expected zeta in [0, 1], got {zeta}")
    if np.isnan(values).any():
        raise ValueError(NAN)
    n = values.size
    if n == 0:
        return np.empty(0, np.int64)
    ordered = np.sort(values)
    smallest = np.flatnonzero(np.abs(ordered) == np.abs(ordered).min())
    p, q = int(smallest[0]), int(smallest[-1]) + 1
    low, high = ordered[int((1 - zeta) * p)], ordered[min(n - 1, int(q + zeta * (n - q)))]
    return np.flatnonzero((values >= low) & (values <= high)).astype(np.int64)


def random(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Drop `n` edges uniformly at random, whatever their values: the control condition."""
    return stream_of(rng).subset(view.graph.n_edges, n)


def softly(
    importance: ArrayLike, n: int, rng: np.random.Generator, *, exponent: float = 1.0
) -> NDArray[np.int64]:
    """Drop `n` edges so that those kept are drawn in proportion to a power of their importance.

    Kept edges are a sample without replacement, each draw in proportion to
    ``importance**exponent``: those with the largest ``exponent * log(importance) + Gumbel noise``.
    Edges of importance 0 are dropped before all others. As the exponent grows, the choice tends to
    that of `lowest`.

    Parameters
    ----------
    importance : (n_edges,) array
        Not negative.
    n : int
    rng : numpy.random.Generator
    exponent : float
        At least 0; with 0 the choice is uniform among edges of positive importance.

    Returns
    -------
    (n,) int64
        Positions, increasing.

    Raises
    ------
    ValueError
        If there are fewer than `n` edges, or an importance is ``nan`` or negative.

    Examples
    --------
    >>> softly([0.0, 1.0, 1e9], 2, np.random.default_rng(0)).tolist()
    [0, 1]
    """
    scores = np.asarray(importance, dtype=float)
    _check(scores, n)
    if (scores < 0).any():
        raise ValueError(f"expected importances of at least 0, got {scores.min()}")
    logs = np.log(scores, out=np.full(scores.size, -np.inf), where=scores > 0)
    noise = rng.gumbel(size=scores.size)
    return lowest(np.where(scores > 0, exponent * logs + noise, -np.inf), n)


def nothing(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Drop no edge: the static rule.

    Raises
    ------
    ValueError
        If `n` is not 0.
    """
    if n:
        raise ValueError(f"the static rule keeps every edge: expected n_drop=0, got {n}")
    return np.empty(0, np.int64)
