"""A rule applied to a whole network: prepare, plan, then rewire every layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.graph import EdgeUpdate
from topokit.rules.rewire import LayerView, UpdateRule, rewire

__all__ = ["rewire_network"]


def rewire_network(
    views: Mapping[str, LayerView],
    rule: UpdateRule,
    *,
    drop_fraction: float,
    progress: float,
    rng: np.random.Generator,
    may_regrow: bool = True,
    fixed: Collection[str] = (),
) -> dict[str, tuple[EdgeUpdate, NDArray[Any]]]:
    """Apply a rule once to all layers of a network.

    Parameters
    ----------
    views : mapping of layer name to LayerView
        Input to output, with what ``rule.needs`` names in each.
    rule : UpdateRule
    drop_fraction : float
        In [0, 1], the schedule already applied. Rules that count for themselves ignore it.
    progress : float
        Share of rewirings done, in [0, 1] and 1 at the last; rules that change the density
        follow it.
    rng : numpy.random.Generator
    may_regrow : bool
        Whether an edge just dropped may be grown again at once.
    fixed : collection of str
        Layers that are seen by rules that look at the whole network, but never rewired.

    Returns
    -------
    dict of layer name to (EdgeUpdate, values)
        Only layers in which an edge moved.

    Raises
    ------
    ValueError
        If a layer would lose its last edge, or a layer name in `fixed` is unknown, or as
        `topokit.rules.rewire` does.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> from topokit.rules import RULES
    >>> view = LayerView(LayerGraph.from_edge_ids(range(8), (4, 4)), np.linspace(-1, 1, 8))
    >>> changes = rewire_network({"fc1": view}, RULES["set"](), drop_fraction=0.25, progress=0.0,
    ...                          rng=np.random.default_rng(0))
    >>> update, values = changes["fc1"]
    >>> update.n_dropped, update.n_grown
    (2, 2)
    """
    unknown = sorted(set(fixed) - set(views))
    if unknown:
        raise ValueError(f"expected fixed layers among {list(views)}, got {unknown}")
    extras = {} if rule.prepare is None else rule.prepare(views, drop_fraction)
    views = {
        name: dataclasses.replace(
            view, extra={**view.extra, **extras.get(name, {}), "progress": progress}
        )
        for name, view in views.items()
    }
    moving = {name: view for name, view in views.items() if name not in fixed}
    plan = rule.plan(moving, drop_fraction=drop_fraction, progress=progress, may_regrow=may_regrow)
    result = {}
    for name, view in moving.items():
        n_drop, n_grow = plan[name]
        if not n_drop and not n_grow:
            continue
        if view.graph.n_edges - n_drop + n_grow < 1:
            raise ValueError(f"expected at least one edge to stay in layer {name!r}, got none")
        result[name] = rewire(
            view, rule, n_drop=n_drop, n_grow=n_grow, rng=rng, may_regrow=may_regrow
        )
    return result
