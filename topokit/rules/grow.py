"""Which edges are grown: functions ``(view, occupied, n, rng) -> (n,) edge ids``.

`occupied` is the graph without the dropped edges. Rules that score absent edges do so by blocks of
rows (`topokit.graph.top_absent`): the memory is bounded for any layer, and the time is
O(n_out * n_in), as each absent edge gets a score. All functions raise a ValueError where fewer than
`n` edges are absent, a score is ``nan``, or the view lacks what they read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.graph import LayerGraph, distinct, top_absent
from topokit.rules.rewire import LayerView
from topokit.rules.stream import absent_drawn, stream_of

__all__ = [
    "best_positive",
    "cosine_or_random",
    "cosine_scores",
    "gradient",
    "never_active",
    "new_by_cosine",
    "sample_by_score",
    "uniform",
]

Scores = Callable[[slice], NDArray[Any]]


def best_positive(
    occupied: LayerGraph, n: int, scores: Scores, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the `n` absent edges of largest score; among scores of 0, a random choice.

    Possible edges of dead units all have score 0. Taking them in the order of their ids, as
    published implementations do, turns the first units into hubs; here they are drawn uniformly,
    after all edges of positive score.

    Parameters
    ----------
    occupied : LayerGraph
    n : int
    scores : callable
        ``scores(rows) -> (len(rows), n_in)``, not negative.
    rng : numpy.random.Generator

    Returns
    -------
    (n,) int64
        Edge ids, increasing.

    Raises
    ------
    ValueError
        If fewer than `n` edges are absent or a score is ``nan``.

    Examples
    --------
    >>> graph, scores = LayerGraph.from_edge_ids([0], (2, 3)), np.array([[9, 1, 0], [0, 0, 2.0]])
    >>> best_positive(graph, 2, lambda rows: scores[rows], np.random.default_rng(0)).tolist()
    [1, 5]
    """
    stream = stream_of(rng)

    def ranked(rows: slice) -> NDArray[Any]:
        block = np.array(scores(rows), dtype=float).ravel()
        rest, first = block <= 0, rows.start * occupied.n_in
        drawn = stream.uniforms_where(rest, first=first)
        block[rest] = np.negative(drawn, out=drawn)
        return block

    return top_absent(occupied, n, ranked)


def sample_by_score(
    occupied: LayerGraph, n: int, scores: Scores, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw `n` absent edges without replacement, each draw in proportion to the scores.

    The `n` largest of ``log(score / e)``, e from an exponential law, are such a sample. Cells of
    score 0 come after all others, uniformly.

    Parameters
    ----------
    occupied : LayerGraph
    n : int
    scores : callable
        ``scores(rows) -> (len(rows), n_in)``, not negative.
    rng : numpy.random.Generator

    Returns
    -------
    (n,) int64
        Edge ids, increasing.

    Raises
    ------
    ValueError
        If fewer than `n` edges are absent or a score is ``nan``.

    Examples
    --------
    >>> graph, scores = LayerGraph.from_edge_ids([0], (2, 3)), np.array([[9, 1, 0], [0, 0, 2.0]])
    >>> sample_by_score(graph, 2, lambda rows: scores[rows], np.random.default_rng(0)).tolist()
    [1, 5]
    """
    stream = stream_of(rng)

    def noisy(rows: slice) -> NDArray[Any]:
        block, first = np.array(scores(rows), dtype=float).ravel(), rows.start * occupied.n_in
        some, rest = block > 0, block <= 0
        exponential = -np.log(stream.uniforms_where(some, first=first))
        block[some] = np.log(block[some]) - np.log(exponential)
        drawn = stream.uniforms_where(rest, first=first)
        drawn += 1
        drawn *= -1024  # below any logarithm
        block[rest] = drawn
        return block

    return top_absent(occupied, n, noisy)


def _new_first(
    occupied: LayerGraph,
    avoid: LayerGraph,
    chosen: NDArray[np.int64],
    n: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return `chosen` with uniform draws up to `n`; edges of `avoid` only if no others are left."""
    taken = distinct(np.concatenate([occupied.edge_ids, chosen]))
    blocked = LayerGraph.from_edge_ids(
        distinct(np.concatenate([taken, avoid.edge_ids])), occupied.shape, occupied.groups
    )
    missing = n - chosen.size
    fresh = min(missing, blocked.n_absent)
    new = absent_drawn(blocked, fresh, rng)
    if fresh < missing:
        taken = distinct(np.concatenate([taken, new]))
        rest = LayerGraph.from_edge_ids(taken, occupied.shape, occupied.groups)
        new = np.concatenate([new, absent_drawn(rest, missing - fresh, rng)])
    return np.sort(np.concatenate([chosen, new]))


def uniform(
    view: LayerView, occupied: LayerGraph, n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Grow `n` edges drawn uniformly from all absent ones. O(n_edges + n log n)."""
    return absent_drawn(occupied, n, rng)


def never_active(
    view: LayerView, occupied: LayerGraph, n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Grow edges that have never been present, uniformly; others only if none of these is left.

    Read ``view.extra["explored"]`` (LayerGraph of all edges ever present).
    O(edges explored + n log n).
    """
    return _new_first(occupied, view.required("explored"), np.empty(0, np.int64), n, rng)


def gradient(
    view: LayerView, occupied: LayerGraph, n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Grow the absent edges of largest ``abs(dL/dw)``; the dense gradient is formed by row blocks.

    Read ``view.inputs`` and ``view.output_grad``. O(samples * n_out * n_in) time.
    """
    return best_positive(occupied, n, lambda rows: np.abs(view.dense_grad(rows)), rng)


def cosine_scores(view: LayerView) -> Scores:
    """Return a function of row blocks: absolute cosine similarity of input and output activations.

    Parameters
    ----------
    view : LayerView
        With `inputs` and `outputs` of the same samples.

    Returns
    -------
    callable
        ``scores(rows) -> (len(rows), n_in)`` in [0, 1]; 0 for a unit that is always 0.

    Examples
    --------
    >>> view = LayerView(LayerGraph.from_edge_ids([], (1, 3)), np.zeros(0),
    ...                  inputs=np.array([[3.0, 0, 0], [4, 0, 1]]), outputs=np.array([[-1.0], [0]]))
    >>> cosine_scores(view)(slice(0, 1)).tolist()
    [[0.6, 0.0, 0.0]]
    """
    inputs, outputs = view.captured("inputs", "outputs")
    norm_in = np.sqrt(np.einsum("si,si->i", inputs, inputs, dtype=float))
    norm_out = np.sqrt(np.einsum("so,so->o", outputs, outputs, dtype=float))

    def scores(rows: slice) -> NDArray[Any]:
        products = np.abs(outputs[:, rows].T @ inputs)
        norms = norm_out[rows, None] * norm_in
        return np.divide(products, norms, out=np.zeros(norms.shape), where=norms > 0)

    return scores


def new_by_cosine(
    view: LayerView, occupied: LayerGraph, n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Grow the `n` largest cosine similarities, but random edges instead of those just dropped.

    The replacements are uniform over edges neither present, chosen nor just dropped (the latter
    only if nothing else is left). Read ``view.inputs`` and ``view.outputs``.
    """
    best = best_positive(occupied, n, cosine_scores(view), rng)
    chosen = np.setdiff1d(best, view.graph.edge_ids, assume_unique=True)
    return _new_first(occupied, view.graph, chosen, n, rng)


def cosine_or_random(
    view: LayerView, occupied: LayerGraph, n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Grow the `n` largest cosine similarities, or uniformly once ``extra["stalled"]`` is true.

    Activations are read only while the run has not stalled.
    """
    if view.required("stalled"):
        return absent_drawn(occupied, n, rng)
    return best_positive(occupied, n, cosine_scores(view), rng)
