"""Published rules that explore by random growth: MEST, ITOP and DEEP R."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.rules import drop, grow
from topokit.rules.rewire import LayerView, UpdateRule

__all__ = ["deep_r", "itop", "mest"]


def mest(*, gradient_weight: float = 0.01) -> UpdateRule:
    """Memory-economic sparse training: drop low ``abs(w) + lambda * abs(dL/dw)``, grow uniformly.

    Parameters
    ----------
    gradient_weight : float
        Lambda, at least 0. The authors' repository has 0 by default, that is, plain magnitude.

    Raises
    ------
    ValueError
        If it is negative.

    Notes
    -----
    Needs the last batch's inputs and output gradients, O(samples * (n_in + n_out)) memory, but the
    gradient at present edges only: O(samples * n_edges) time, in bounded blocks. New edges start at
    zero. Difference from the authors' code: the edge count is constant; their elastic mutation,
    which shrinks the number of edges that move, is a falling drop fraction here, and the soft
    memory bound, which grows before it prunes, is left out.

    References
    ----------
    .. [1] Yuan et al., "MEST: accurate and fast memory-economic sparse training framework on the
       edge", NeurIPS 2021.

    Examples
    --------
    >>> mest().needs, mest(gradient_weight=0).needs
    (('gradient',), ())
    """
    if not gradient_weight >= 0:
        raise ValueError(f"expected a gradient_weight of at least 0, got {gradient_weight}")

    def small_and_idle(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return drop.lowest(np.abs(view.values) + gradient_weight * np.abs(view.edge_grad()), n)

    if gradient_weight == 0:
        return UpdateRule(drop.smallest_magnitude, grow.uniform)
    return UpdateRule(small_and_idle, grow.uniform, needs=("gradient",))


def itop(*, growth: str = "random") -> UpdateRule:
    """In-time over-parameterization: drop small magnitudes, grow edges never active before.

    Parameters
    ----------
    growth : str
        ``"unfired"`` grows never-active edges first (others when none is left); ``"random"``, the
        paper's SET-ITOP, grows uniformly. RigL-ITOP is `rigl` on ITOP's schedule.

    Raises
    ------
    ValueError
        If `growth` is neither.

    Notes
    -----
    What makes ITOP is mostly the schedule: an update every 1,500 (random) or 4,000 (gradient)
    steps, drop fraction 0.5 with cosine decay. Needs ``extra["explored"]`` for ``"unfired"``:
    `topokit.rules.memory.explore` keeps it, and its density is the explored fraction, exactly. That
    memory is O(edges explored), up to n_out * n_in in the long run.
    Difference from the authors' code: exactly as many edges are grown as dropped, where their
    Bernoulli draws let the count fluctuate.

    References
    ----------
    .. [1] Liu et al., "Do we actually need dense over-parameterization? In-time
       over-parameterization in sparse training", ICML 2021.

    Examples
    --------
    >>> itop(growth="unfired").needs
    ('explored',)
    """
    if growth not in ("unfired", "random"):
        raise ValueError(f"expected growth to be 'unfired' or 'random', got {growth!r}")
    if growth == "random":
        return UpdateRule(drop.smallest_magnitude, grow.uniform)
    return UpdateRule(drop.smallest_magnitude, grow.never_active, needs=("explored",))


def _alive(view: LayerView) -> NDArray[Any]:
    """Return DEEP R's theta: weight times birth sign; endless for an edge born without a sign."""
    sign = np.asarray(view.required("sign"))
    return np.where(sign == 0, np.inf, view.values * sign)


def deep_r(*, seed: int = 0, start: float = 1e-12) -> UpdateRule:
    """DEEP R: an edge whose weight crosses zero goes dormant, a random dormant one wakes.

    Parameters
    ----------
    seed : int
        Decides the fixed sign of every potential edge (a hash of its id: nothing is stored).
    start : float
        Size of a woken edge's weight.

    Raises
    ------
    ValueError
        If `start` is not positive.

    Notes
    -----
    The rule counts for itself: as many edges move as have crossed zero, whatever the drop fraction.
    Needs ``extra["sign"]``, the sign each edge was born with (`topokit.rules.memory.birth_signs`).
    The L1 pull and the noise of every step belong to the optimizer and are not part of this rule;
    call it after every step, or after every epoch, which lets weights cross twice unseen.

    Differences from the authors' code: initial edges have the sign of their initial weight; growth
    excludes no dormant edge but is without replacement; with `may_regrow` false an edge just gone
    dormant cannot wake at once.

    References
    ----------
    .. [1] Bellec et al., "Deep rewiring: training very sparse deep networks", ICLR 2018.

    Examples
    --------
    >>> deep_r().needs
    ('sign',)
    """
    if not start > 0:
        raise ValueError(f"expected a positive start, got {start}")

    def crossed_first(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return drop.lowest(_alive(view), n)

    def fixed_sign(
        view: LayerView, ids: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[Any]:
        tiny = max(start, float(np.finfo(view.values.dtype).smallest_subnormal))
        return np.where(_hash_bit(ids, seed), tiny, -tiny)

    return UpdateRule(crossed_first, grow.uniform, fixed_sign, needs=("sign",), plan=_crossings)


def _crossings(
    views: Mapping[str, LayerView], *, drop_fraction: float, progress: float, may_regrow: bool
) -> dict[str, tuple[int, int]]:
    """Plan to replace every edge that crossed zero, as far as there is room."""
    result = {}
    for name, view in views.items():
        n_absent = view.graph.n_out * view.graph.n_in - view.graph.n_edges
        n = int(np.count_nonzero(_alive(view) <= 0)) if n_absent else 0
        n = n if may_regrow else min(n, n_absent)
        result[name] = (n, n)
    return result


def _hash_bit(ids: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """One fair bit for each id, always the same for a seed (the SplitMix64 finalizer)."""
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64) + np.uint64((seed * 2 + 1) * 0x9E3779B97F4A7C15 % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z >> np.uint64(63)).astype(bool)
