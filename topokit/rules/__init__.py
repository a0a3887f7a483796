"""Rewiring rules by name: which edges are dropped and which are grown.

This package holds rules, the functions they are composed of (what to drop, what to grow, values of
grown edges, numbers of edges) and `rewire`, which applies them. Each entry of `RULES` is a factory
whose keyword arguments are its hyper-parameters. Imports from `graph`; numpy only, never torch.
"""

from collections.abc import Callable
from typing import Any

from topokit.plugins import place_of
from topokit.rules.published import (
    ctre_seq,
    ctre_sim,
    deep_r,
    gmp,
    gradient_ratio,
    granet,
    itop,
    mest,
    path_weight,
    random_rewiring,
    rigl,
    sensitivity,
    set_,
    set_magnitude,
    snfs,
    static,
)
from topokit.rules.rewire import (
    SCHEDULES,
    LayerView,
    Memory,
    Rewiring,
    UpdateRule,
    drop_count,
    rewire,
    rewire_network,
)
from topokit.rules.structured import block_sparse, n_to_m, srigl
from topokit.rules.topological import cht, chts, chtss
from topokit.tables import Table, check_names, choose

__all__ = [
    "RULES",
    "SCHEDULES",
    "LayerView",
    "Memory",
    "Rewiring",
    "UpdateRule",
    "drop_count",
    "make_rule",
    "rewire",
    "rewire_network",
]

RULES: dict[str, Callable[..., UpdateRule]] = {
    "static": static,
    "set": set_,
    "set_magnitude": set_magnitude,
    "random": random_rewiring,
    "ctre_sim": ctre_sim,
    "ctre_seq": ctre_seq,
    "rigl": rigl,
    "srigl": srigl,
    "n_to_m": n_to_m,
    "block_sparse": block_sparse,
    "snfs": snfs,
    "mest": mest,
    "deep_r": deep_r,
    "cht": cht,
    "chts": chts,
    "chtss": chtss,
    "itop": itop,
    "gmp": gmp,
    "granet": granet,
    "path_weight": path_weight,
    "sensitivity": sensitivity,
    "gradient_ratio": gradient_ratio,
}
RULES = Table("rule", RULES)


def make_rule(name: str | Callable[..., UpdateRule], **params: Any) -> UpdateRule:
    """Return a rule of `RULES`, or that of a function of one's own, with parameters.

    Parameters
    ----------
    name : str or callable
        A key of `RULES`, or a function that returns an `UpdateRule`.
    **params
        Passed to it.

    Raises
    ------
    ValueError
        If no rule has that name, or the rule has no such parameter.
    TypeError
        If the function does not return an `UpdateRule`.

    Examples
    --------
    >>> type(make_rule("set")).__name__
    'UpdateRule'
    """
    factory = choose("rule", name, RULES)
    called = name if isinstance(name, str) else getattr(name, "__name__", type(name).__name__)
    check_names("rule", called, factory, params)
    rule = factory(**params)
    if not isinstance(rule, UpdateRule):
        raise TypeError(
            f"rule {getattr(factory, '__name__', name)!r}{place_of(factory)}: expected it to "
            f"return an UpdateRule, got {type(rule).__name__}"
        )
    return rule
