"""How many edges each layer drops and grows, where layers share one budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topokit.graph import check_chain
from topokit.rules.drop import lowest
from topokit.rules.rewire import LayerView, Plan, drop_count, per_layer

__all__ = [
    "cubic_density",
    "dead_edges",
    "drop_by",
    "global_lowest",
    "network_or_layer",
    "path_weights",
    "prune_to",
    "redistribute",
    "share_by_importance",
]


def redistribute(
    n_total: int,
    scores: ArrayLike,
    capacity: Sequence[int],
    *,
    least: Sequence[int] | None = None,
) -> list[int]:
    """Divide a number of edges over layers in proportion to scores, none above its capacity.

    Edges that exceed a layer's capacity are divided over the others, in proportion to their scores.
    Fractions are rounded by largest remainder, the earlier layer first.

    Parameters
    ----------
    n_total : int
        Number of edges to divide.
    scores : (n_layers,) array
        Not negative; if the scores of all layers below capacity are 0, these share equally.
    capacity : sequence of int
        Largest number for each layer.
    least : sequence of int, optional
        Smallest number for each layer; by default 0.

    Returns
    -------
    list of int
        Summing to `n_total`.

    Raises
    ------
    ValueError
        If the capacities (or `least`) do not allow `n_total`, or a score is negative or not finite.

    Examples
    --------
    >>> redistribute(10, [1, 1, 2], [100, 100, 100])
    [3, 2, 5]
    >>> redistribute(10, [1, 1, 8], [100, 100, 4])
    [3, 3, 4]
    """
    # Water filling. Each round computes the proportional part of every layer below capacity. Layers
    # whose part reaches their capacity are filled and take no part in later rounds; the others get
    # nothing in that round, since their parts grow when the rest is divided again. When no layer
    # reaches its capacity, parts are rounded down and the few edges left go to the largest
    # remainders. At least one layer is filled in each round but the last, so there are at most
    # n_layers + 1 rounds. (A closed formula would need to know in advance which layers are filled.)
    weight, room = np.asarray(scores, dtype=float), np.asarray(capacity, dtype=np.int64)
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError(f"expected finite scores of at least 0, got {weight.tolist()}")
    given = np.zeros(room.size, np.int64) if least is None else np.array(least, dtype=np.int64)
    left = n_total - int(given.sum())
    if left < 0 or (given > room).any() or left > int((room - given).sum()):
        raise ValueError(
            f"cannot divide {n_total} edges over layers with room for {room.tolist()}"
            + (f" and at least {given.tolist()} each" if given.any() else "")
        )
    while left:
        free = room - given
        share = np.where(free > 0, weight, 0.0)
        if not share.sum():
            share = (free > 0).astype(float)
        ideal = left * (share / share.sum())
        full = (free > 0) & (ideal >= free)
        if full.any():
            step = np.where(full, free, 0)
        else:
            step = np.floor(ideal).astype(np.int64)
            order = np.argsort(step - ideal, kind="stable")
            open_ = order[(free > step)[order] & (share > 0)[order]]
            step[open_[: left - int(step.sum())]] += 1
        given = given + step
        left -= int(step.sum())
    return [int(n) for n in given]


def global_lowest(
    scores: Mapping[str, NDArray[Any]], n_total: int, *, caps: Mapping[str, int]
) -> dict[str, int]:
    """Return how many of a network's `n_total` lowest scores each layer has, at most its cap.

    Dropping that many of the lowest in each layer drops exactly the globally lowest ones. Ties
    go to the earlier layer. O(edges log edges).

    Raises
    ------
    ValueError
        If the caps sum to less than `n_total`, or a score is ``nan``.

    Examples
    --------
    >>> scores = {"a": np.array([1.0, 5, 9]), "b": np.array([2.0, 3, 4])}
    >>> global_lowest(scores, 3, caps={"a": 3, "b": 3})
    {'a': 1, 'b': 2}
    >>> global_lowest(scores, 3, caps={"a": 3, "b": 1})
    {'a': 2, 'b': 1}
    """
    if n_total > sum(caps.values()):
        raise ValueError(f"cannot drop {n_total} edges when layers can lose {dict(caps)}")
    candidates = [np.asarray(s)[lowest(s, min(caps[name], s.size))] for name, s in scores.items()]
    layer = np.repeat(np.arange(len(candidates)), [c.size for c in candidates])
    chosen = layer[lowest(np.concatenate(candidates), n_total)] if candidates else layer
    counts = np.bincount(chosen, minlength=len(candidates))
    return {name: int(count) for name, count in zip(scores, counts, strict=True)}


def share_by_importance(importance: Callable[[LayerView], NDArray[Any]]) -> Plan:
    """Return a plan: drop a share in each layer, grow in proportion to the mean importance.

    `importance(view)` is (n_edges,), not negative; a layer's part of the network's edges to grow is
    the mean over its edges, as in sparse momentum. No layer gets more edges than are absent, or
    loses its last edge; if every mean is 0, each layer grows as many edges as it drops.
    """

    def plan(
        views: Mapping[str, LayerView], *, drop_fraction: float, progress: float
    ) -> dict[str, tuple[int, int]]:
        equal = per_layer(views, drop_fraction=drop_fraction, progress=progress)
        drops = [n_drop for n_drop, _ in equal.values()]
        means = [
            float(np.mean(importance(view))) if view.graph.n_edges else 0.0
            for view in views.values()
        ]
        if not any(means):
            return equal
        room = [v.graph.n_absent + n for v, n in zip(views.values(), drops, strict=True)]
        least = [int(v.graph.n_edges == n > 0) for v, n in zip(views.values(), drops, strict=True)]
        grows = redistribute(sum(drops), means, room, least=least)
        return dict(zip(views, zip(drops, grows, strict=True), strict=True))

    return plan


def drop_by(importance: Callable[[LayerView], NDArray[Any]]) -> Plan:
    """Return a plan: drop the network's least important edges, grow each layer's share.

    Edges to grow are divided in proportion to what `drop_fraction` takes from each layer, so
    the budget moves to layers whose edges matter. A layer loses at most twice its share.
    """

    def plan(
        views: Mapping[str, LayerView], *, drop_fraction: float, progress: float
    ) -> dict[str, tuple[int, int]]:
        share = {name: drop_count(view.graph, drop_fraction) for name, view in views.items()}
        caps = {
            name: max(share[name], min(2 * share[name], view.graph.n_edges - 1))
            for name, view in views.items()
        }
        scores = {name: importance(view) for name, view in views.items()}
        drops = global_lowest(scores, sum(share.values()), caps=caps)
        room = [view.graph.n_absent + drops[name] for name, view in views.items()]
        least = [int(view.graph.n_edges == drops[name] > 0) for name, view in views.items()]
        grows = redistribute(sum(drops.values()), list(share.values()), room, least=least)
        return {name: (drops[name], n_grow) for name, n_grow in zip(views, grows, strict=True)}

    return plan


def network_or_layer(plan: Plan, budgets: str) -> Plan:
    """Return `plan` for ``"network"``; for ``"layer"``, a plan of equal counts in each layer.

    Raises
    ------
    ValueError
        If `budgets` is neither.

    Examples
    --------
    >>> network_or_layer(per_layer, "layer") is per_layer
    True
    """
    if budgets not in ("network", "layer"):
        raise ValueError(f"expected budgets to be 'network' or 'layer', got {budgets!r}")
    return plan if budgets == "network" else per_layer


def cubic_density(progress: float, *, initial: float, final: float) -> float:
    """Return the density ``final + (initial - final) * (1 - progress)**3`` of gradual pruning.

    Parameters
    ----------
    progress : float
        Clipped to [0, 1].
    initial, final : float
        In (0, 1], falling.

    Raises
    ------
    ValueError
        If not ``0 < final <= initial <= 1``.

    References
    ----------
    .. [1] Zhu and Gupta, "To prune, or not to prune", 2017.

    Examples
    --------
    >>> [round(cubic_density(p, initial=1.0, final=0.2), 3) for p in (0, 0.5, 1)]
    [1.0, 0.3, 0.2]
    """
    if not 0 < final <= initial <= 1:
        raise ValueError(f"expected 0 < final <= initial <= 1, got {final} and {initial}")
    return final + (initial - final) * (1 - min(max(progress, 0.0), 1.0)) ** 3


def prune_to(*, initial: float, final: float, regrow: bool) -> Plan:
    """Return a plan: prune the network to the cubic density by global magnitude.

    With `regrow`, each layer then also replaces `drop_fraction` of the remaining edges. Every layer
    that has an edge keeps one.

    Raises
    ------
    ValueError
        If not ``0 < final <= initial <= 1``.
    """
    cubic_density(0.0, initial=initial, final=final)

    def plan(
        views: Mapping[str, LayerView], *, drop_fraction: float, progress: float
    ) -> dict[str, tuple[int, int]]:
        cells = sum(view.graph.n_possible for view in views.values())
        target = round(cubic_density(progress, initial=initial, final=final) * cells)
        caps = {name: max(0, view.graph.n_edges - 1) for name, view in views.items()}
        surplus = max(0, sum(view.graph.n_edges for view in views.values()) - target)
        pruned = global_lowest(
            {name: np.abs(view.values) for name, view in views.items()},
            min(surplus, sum(caps.values())),
            caps=caps,
        )
        if not regrow:
            return {name: (pruned[name], 0) for name in views}
        result = {}
        for name, view in views.items():
            rest = view.graph.n_edges - pruned[name]
            room = view.graph.n_absent + pruned[name]
            replaced = min(int(drop_fraction * rest + 1e-9), max(0, rest - 1), room)
            result[name] = (pruned[name] + replaced, replaced)
        return result

    return plan


def path_weights(views: Mapping[str, LayerView]) -> dict[str, NDArray[np.float64]]:
    """Return the share of the network's total path weight that runs through each edge.

    The weight of an input-output path is the product of ``abs(value)`` along it. The sum over
    paths through an edge is (sum over paths into it) * abs(value) * (sum over paths out of it),
    from one forward and one backward product per layer: O(edges), no path is enumerated.

    Parameters
    ----------
    views : mapping of layer name to LayerView
        A chain, input to output.

    Returns
    -------
    dict of layer name to (n_edges,) float64
        Not negative; each layer sums to 1, or to 0 where no path of positive weight exists.

    Raises
    ------
    ValueError
        If the layers do not chain.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> views = {"fc1": LayerView(LayerGraph.from_edge_ids([0, 3], (2, 2)), np.array([1.0, -3])),
    ...          "fc2": LayerView(LayerGraph.from_edge_ids([0, 1], (1, 2)), np.array([2.0, 2]))}
    >>> {name: shares.tolist() for name, shares in path_weights(views).items()}
    {'fc1': [0.25, 0.75], 'fc2': [0.25, 0.75]}
    """
    if not views:
        return {}
    check_chain({name: view.graph for name, view in views.items()}, "path_weight")
    magnitudes = [v.graph.to_csr(np.abs(v.values).astype(float)) for v in views.values()]
    into, out = [np.ones(magnitudes[0].shape[1])], [np.ones(magnitudes[-1].shape[0])]
    for matrix in magnitudes[:-1]:
        into.append(_scaled(matrix @ into[-1]))
    for matrix in reversed(magnitudes[1:]):
        out.append(_scaled(matrix.T @ out[-1]))
    return {
        name: _scaled(
            np.abs(view.values).astype(float) * a[view.graph.indices] * b[view.graph.rows]
        )
        for (name, view), a, b in zip(views.items(), into, reversed(out), strict=True)
    }


def _scaled(vector: NDArray[Any]) -> NDArray[Any]:
    """Return a vector over its sum, so that products over many layers do not over- or underflow."""
    total = vector.sum()
    return vector / total if total > 0 else vector


def dead_edges(
    views: Mapping[str, LayerView], kept: Mapping[str, NDArray[np.bool_]]
) -> dict[str, NDArray[np.int64]]:
    """Return the positions of kept edges that lie on no path from input to output of the network.

    Parameters
    ----------
    views : mapping of layer name to LayerView
        A chain, input to output.
    kept : mapping of layer name to (n_edges,) bool
        Which edges are considered present.

    Returns
    -------
    dict of layer name to int64 array
        Positions in ``view.graph.indices``, increasing.

    Raises
    ------
    ValueError
        If the layers do not chain.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> views = {"fc1": LayerView(LayerGraph.from_edge_ids([0, 3], (2, 2)), np.ones(2)),
    ...          "fc2": LayerView(LayerGraph.from_edge_ids([0, 1], (1, 2)), np.ones(2))}
    >>> kept = {"fc1": np.array([True, True]), "fc2": np.array([True, False])}
    >>> {name: dead.tolist() for name, dead in dead_edges(views, kept).items()}
    {'fc1': [1], 'fc2': []}
    """
    there = {name: LayerView(view.graph, kept[name].astype(float)) for name, view in views.items()}
    return {
        name: np.flatnonzero(kept[name] & (shares == 0))
        for name, shares in path_weights(there).items()
    }
