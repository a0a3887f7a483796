"""State that is kept from one rewiring to the next, for rules that need it: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.graph import EdgeUpdate, LayerGraph, check_one_shape, distinct
from topokit.rules.rewire import Memory

__all__ = ["MEMORIES", "birth_signs", "decayed", "explore", "stalled"]


def decayed(
    batches: Sequence[tuple[NDArray[Any], NDArray[Any]]], *, decay: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return recent batches stacked so that their dense gradient is the dense momentum.

    A batch's gradient is ``output_grad.T @ inputs``, of low rank. The momentum is a sum of such
    gradients weighted by powers of `decay`; with the factors kept, it needs no dense matrix.

    Parameters
    ----------
    batches : sequence of (inputs, output_grad)
        Oldest first. Leaving out batches older than t changes the momentum by about ``decay**t``.
    decay : float
        The optimizer's momentum factor, in [0, 1].

    Returns
    -------
    inputs : (samples, n_in) array
    output_grad : (samples, n_out) array
        Scaled by ``decay ** age``; together they go into a `LayerView`.

    Raises
    ------
    ValueError
        If there is no batch.

    Examples
    --------
    >>> one = np.ones((1, 2)), np.ones((1, 1))
    >>> inputs, output_grad = decayed([one, one], decay=0.5)
    >>> (output_grad.T @ inputs).tolist()
    [[1.5, 1.5]]
    """
    if not batches:
        raise ValueError("expected at least one captured batch, got none")
    weights = [decay**age for age in range(len(batches) - 1, -1, -1)]
    return (
        np.concatenate([inputs for inputs, _ in batches]),
        np.concatenate(
            [grad * grad.dtype.type(w) for w, (_, grad) in zip(weights, batches, strict=True)]
        ),
    )


def explore(explored: LayerGraph | None, graph: LayerGraph) -> LayerGraph:
    """Return the graph of all edges ever present; its density is the explored fraction.

    Parameters
    ----------
    explored : LayerGraph or None
        None before the first graph.
    graph : LayerGraph
        The graph that is trained from now on.

    Returns
    -------
    LayerGraph
        Memory and time O(edges explored), which tends to n_out * n_in for rules that explore.

    Raises
    ------
    ValueError
        If the shapes differ.

    References
    ----------
    .. [1] Liu et al., "Do we actually need dense over-parameterization? In-time
       over-parameterization in sparse training", ICML 2021 (their R_s).

    Examples
    --------
    >>> first, second = (LayerGraph.from_edge_ids(ids, (2, 2)) for ids in ([0, 1], [1, 2]))
    >>> explore(explore(None, first), second).density
    0.75
    """
    if explored is None:
        return graph
    check_one_shape(explored, graph)
    ids = distinct(np.concatenate([explored.edge_ids, graph.edge_ids]))
    if ids.size == explored.n_edges:
        return explored
    return LayerGraph.from_edge_ids(ids, graph.shape, graph.groups)


def birth_signs(update: EdgeUpdate, signs: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """Return the sign that each edge was grown with, carried over a rewiring.

    New edges have the sign of their value.

    Parameters
    ----------
    update : EdgeUpdate
    signs : (before.n_edges,) array
        At the start of a run, ``numpy.sign(values)``.
    values : (after.n_edges,) array

    Returns
    -------
    (after.n_edges,) array
        -1, 0 or 1.

    Examples
    --------
    >>> old = LayerGraph.from_edge_ids([0, 1], (1, 3))
    >>> update = EdgeUpdate.from_decisions(old, dropped=[0], grown=[2])
    >>> birth_signs(update, np.array([1.0, 1.0]), np.array([-0.5, -1e-12])).tolist()
    [1.0, -1.0]
    """
    return np.where(update.grown, np.sign(values), update.carry(signs))


def stalled(accuracies: Sequence[float], *, patience: int = 40) -> bool:
    """Return whether validation accuracy ever failed to improve for `patience` successive epochs.

    Once true it stays true as epochs are added.

    Parameters
    ----------
    accuracies : sequence of float
        One for each epoch, oldest first.
    patience : int
        At least 1; 40 in the authors' CTRE code.

    Raises
    ------
    ValueError
        If patience is less than 1.

    Examples
    --------
    >>> stalled([0.5, 0.6, 0.6, 0.5], patience=2), stalled([0.5, 0.6, 0.6, 0.7], patience=2)
    (True, False)
    """
    if patience < 1:
        raise ValueError(f"expected a patience of at least 1, got {patience}")
    best, since = -np.inf, 0
    for accuracy in accuracies:
        since = 0 if accuracy > best else since + 1
        best = max(best, accuracy)
        if since >= patience:
            return True
    return False


def _explored(update: EdgeUpdate, ids: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    after = update.after
    return explore(LayerGraph.from_edge_ids(ids, after.shape, after.groups), after).edge_ids


MEMORIES: dict[str, Memory] = {
    "sign": Memory(lambda view: np.sign(view.values), birth_signs),
    "explored": Memory(
        lambda view: view.graph.edge_ids,
        _explored,
        lambda ids, graph: LayerGraph.from_edge_ids(ids, graph.shape, graph.groups),
    ),
    "sensitivity": Memory(
        lambda view: np.zeros(view.graph.n_edges),
        lambda update, sums, values: np.zeros(update.after.n_edges),
    ),
}
"""Memories that rules can name in `needs`; the engine keeps one of each for every layer.

The engine adds to ``sensitivity`` at every step. Rules define further memories in
`UpdateRule.memory`.
"""
