"""How many edges each layer drops and grows, where layers share one budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topokit.graph import LayerGraph, check_chain
from topokit.rules.drop import lowest
from topokit.rules.init import init_named
from topokit.rules.rewire import (
    Extras,
    Grow,
    LayerView,
    Plan,
    UpdateRule,
    drop_count,
    per_layer,
)

__all__ = [
    "PruneTo",
    "ShareByImportance",
    "by_leaving",
    "cubic_density",
    "dead_edges",
    "drop_by",
    "falling",
    "global_lowest",
    "network_or_layer",
    "path_weights",
    "redistribute",
    "share_by_means",
    "sigmoid_density",
    "surplus",
    "without_growing",
]


def without_growing(plan: Plan) -> Plan:
    """Return a plan that drops what `plan` drops and grows nothing.

    Examples
    --------
    >>> without_growing(lambda views, **kwargs: {"fc1": (3, 3)})({})
    {'fc1': (3, 0)}
    """

    def drops(*args: Any, **kwargs: Any) -> dict[str, tuple[int, int]]:
        return {name: (n_drop, 0) for name, (n_drop, _) in plan(*args, **kwargs).items()}

    return drops


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


@dataclass(frozen=True)
class ShareByImportance:
    """A plan: drop a share in each layer, grow in proportion to the mean importance.

    A layer's part of the network's edges to grow is the mean over its edges, as in sparse momentum.
    No layer gets more edges than are absent, or loses its last edge; if every mean is 0, each layer
    grows as many edges as it drops.

    Parameters
    ----------
    importance : callable
        ``importance(view) -> (n_edges,)``, not negative.
    """

    importance: Callable[[LayerView], NDArray[Any]]

    def __call__(
        self, views: Mapping[str, LayerView], *, drop_fraction: float, progress: float
    ) -> dict[str, tuple[int, int]]:
        """Return how many edges each layer drops and grows."""
        means = [
            float(np.mean(self.importance(view))) if view.graph.n_edges else 0.0
            for view in views.values()
        ]
        return share_by_means(views, means, drop_fraction=drop_fraction, progress=progress)


def share_by_means(
    views: Mapping[str, LayerView],
    means: Sequence[float],
    *,
    drop_fraction: float,
    progress: float,
) -> dict[str, tuple[int, int]]:
    """Return what `ShareByImportance` plans, given the mean importance in each layer.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids(range(10), (4, 4))
    >>> views = {name: LayerView(graph, np.ones(10)) for name in ("fc1", "fc2")}
    >>> share_by_means(views, [1.0, 3.0], drop_fraction=0.2, progress=0.0)
    {'fc1': (2, 1), 'fc2': (2, 3)}
    """
    equal = per_layer(views, drop_fraction=drop_fraction, progress=progress)
    if not any(means):
        return equal
    drops = [n_drop for n_drop, _ in equal.values()]
    room = [v.graph.n_absent + n for v, n in zip(views.values(), drops, strict=True)]
    least = [int(v.graph.n_edges == n > 0) for v, n in zip(views.values(), drops, strict=True)]
    grows = redistribute(sum(drops), list(means), room, least=least)
    return dict(zip(views, zip(drops, grows, strict=True), strict=True))


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
    check_budgets(budgets)
    return plan if budgets == "network" else per_layer


def check_budgets(budgets: str) -> None:
    """Raise a ValueError unless a budget is that of the network or of each layer."""
    if budgets not in ("network", "layer"):
        raise ValueError(f"expected budgets to be 'network' or 'layer', got {budgets!r}")


def _check_densities(initial: float, final: float) -> None:
    """Raise a ValueError unless the density can fall from `initial` to `final`."""
    if not 0 < final <= initial <= 1:
        raise ValueError(f"expected 0 < final <= initial <= 1, got {final} and {initial}")


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
    .. [1] Zhu, Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
       compression", arXiv 1710.01878, 2017.

    Examples
    --------
    >>> [round(cubic_density(p, initial=1.0, final=0.2), 3) for p in (0, 0.5, 1)]
    [1.0, 0.3, 0.2]
    """
    _check_densities(initial, final)
    return final + (initial - final) * (1 - min(max(progress, 0.0), 1.0)) ** 3


def sigmoid_density(
    progress: float, *, initial: float, final: float, end: float = 1.0, steepness: float = 6.0
) -> float:
    r"""Return the density of gradual pruning along a sigmoid, which starts slowly.

    With :math:`\sigma(x) = 1 / (1 + e^{-x})`, steepness k and ``p = min(progress / end, 1)``,

    .. math:: d = d_i + (d_f - d_i) \frac{\sigma(k (2p - 1)) - \sigma(-k)}
                                          {\sigma(k) - \sigma(-k)}

    so that the density is exactly `initial` at 0 and `final` at `end`.

    Parameters
    ----------
    progress : float
        Clipped to [0, 1].
    initial, final : float
        In (0, 1], falling.
    end : float
        In (0, 1], the progress at which the density is final.
    steepness : float
        Positive.

    Raises
    ------
    ValueError
        If a value is out of range.

    References
    ----------
    .. [1] Zhang et al., "Brain network science modelling of sparse neural networks enables
       Transformers and LLMs to perform as fully connected", NeurIPS 2025, arXiv 2501.19107, and the
       authors' public code, which scales the sigmoid as here.

    Examples
    --------
    >>> [round(sigmoid_density(p, initial=1.0, final=0.2), 3) for p in (0, 0.25, 0.5, 1)]
    [1.0, 0.964, 0.6, 0.2]
    """
    _check_densities(initial, final)
    if not 0 < end <= 1:
        raise ValueError(f"expected the end of the decay in (0, 1], got {end}")
    if not steepness > 0:
        raise ValueError(f"expected a positive steepness, got {steepness}")
    done = min(max(progress / end, 0.0), 1.0)
    # sigma(x) = (1 + tanh(x / 2)) / 2, so that the scaled sigmoid is a scaled tanh
    curve = math.tanh(steepness * (done - 0.5)) / math.tanh(steepness / 2)
    return initial + (final - initial) * (1 + curve) / 2


def falling(
    curve: Callable[..., float], initial: float, final: float, **parameters: float
) -> Callable[[float], float]:
    """Return ``progress -> density`` along a curve such as `cubic_density`.

    Raises
    ------
    ValueError
        At once, if the curve refuses the densities or the parameters.
    """
    density = partial(curve, initial=initial, final=final, **parameters)
    density(0.0)
    return density


def surplus(graph: LayerGraph, density: float) -> int:
    """Return by how many edges a layer exceeds a density, at most all but one.

    Examples
    --------
    >>> surplus(LayerGraph.from_edge_ids(range(10), (4, 4)), 0.25)
    6
    """
    excess = graph.n_edges - round(density * graph.n_possible)
    return min(max(0, excess), max(0, graph.n_edges - 1))


@dataclass(frozen=True)
class PruneTo:
    """A plan: prune to a density that depends on the progress.

    Parameters
    ----------
    density : callable
        ``density(progress)``, in (0, 1].
    regrow : bool
        Then each layer also replaces `drop_fraction` of the remaining edges.
    each : bool
        Prune each layer to the density, instead of the network by global magnitude.

    Notes
    -----
    Every layer that has an edge keeps one. What is sparser already is not pruned.
    """

    density: Callable[[float], float]
    regrow: bool
    each: bool = False

    def __call__(
        self, views: Mapping[str, LayerView], *, drop_fraction: float, progress: float
    ) -> dict[str, tuple[int, int]]:
        """Return how many edges each layer drops and grows."""
        if self.each:
            target = self.density(progress)
            pruned = {name: surplus(view.graph, target) for name, view in views.items()}
        else:
            n_total, caps = self.of_network(views, progress)
            magnitudes = {name: np.abs(view.values) for name, view in views.items()}
            pruned = global_lowest(magnitudes, n_total, caps=caps)
        return self.given(views, pruned, drop_fraction)

    def of_network(
        self, views: Mapping[str, LayerView], progress: float
    ) -> tuple[int, dict[str, int]]:
        """Return how many edges the network loses to pruning, and each layer at most."""
        cells = sum(view.graph.n_possible for view in views.values())
        edges = sum(view.graph.n_edges for view in views.values())
        caps = {name: max(0, view.graph.n_edges - 1) for name, view in views.items()}
        excess = edges - round(self.density(progress) * cells)
        return min(max(0, excess), sum(caps.values())), caps

    def given(
        self, views: Mapping[str, LayerView], pruned: Mapping[str, int], drop_fraction: float
    ) -> dict[str, tuple[int, int]]:
        """Return the plan, given how many edges each layer loses to pruning."""
        if not self.regrow:
            return {name: (pruned[name], 0) for name in views}
        result = {}
        for name, view in views.items():
            rest = view.graph.n_edges - pruned[name]
            room = view.graph.n_absent + pruned[name]
            replaced = min(int(drop_fraction * rest + 1e-9), max(0, rest - 1), room)
            result[name] = (pruned[name] + replaced, replaced)
        return result


def by_leaving(
    leaving: Callable[[Mapping[str, LayerView], float], Mapping[str, NDArray[np.int64]]],
    grow: Grow,
    init: str,
) -> UpdateRule:
    """Return a rule that drops the edges which a function of the whole network names.

    Parameters
    ----------
    leaving : callable
        ``leaving(views, drop_fraction) -> {layer: positions}``, for layers that are rewired; the
        first ones are dropped if not all may leave.
    grow : callable
        As in `UpdateRule`.
    init : str
        Name in `topokit.rules.init.INITS`.

    Notes
    -----
    Each layer grows as many edges as it loses; none loses its last edge, and a complete layer is
    not changed.
    """

    def prepare(views: Mapping[str, LayerView], drop_fraction: float) -> Extras:
        found = leaving(views, drop_fraction)
        return {name: {"leaving": positions} for name, positions in found.items()}

    def plan(
        views: Mapping[str, LayerView], *, drop_fraction: float, progress: float
    ) -> dict[str, tuple[int, int]]:
        result = {}
        for name, view in views.items():
            n = min(view.required("leaving").size, max(0, view.graph.n_edges - 1))
            result[name] = (n, n) if view.graph.n_absent else (0, 0)
        return result

    def drop(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        positions = view.required("leaving")
        if n > positions.size:
            raise ValueError(f"expected n_drop of at most {positions.size}, got {n}")
        return np.sort(positions[:n])

    return UpdateRule(drop, grow, init_named(init), prepare=prepare, plan=plan)


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
