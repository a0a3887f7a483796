"""Rules whose budgets follow the network: gradual pruning, and topokit's own importance rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.rules import drop, grow
from topokit.rules.budget import drop_by, network_or_layer, path_weights, prune_to
from topokit.rules.init import init_named
from topokit.rules.rewire import Drop, Extras, LayerView, UpdateRule

__all__ = ["gmp", "granet", "path_weight", "sensitivity"]


def gmp(*, final_density: float = 0.1, initial_density: float = 1.0) -> UpdateRule:
    """Gradual magnitude pruning: only drop, down a cubic density schedule, over the whole network.

    Parameters
    ----------
    final_density, initial_density : float
        Over all rewired layers together; in (0, 1], falling with training progress as
        `topokit.rules.budget.cubic_density`, the final one at the last rewiring. A network that is
        sparser already is left alone.

    Raises
    ------
    ValueError
        If not ``0 < final_density <= initial_density <= 1``.

    Notes
    -----
    Ignores the drop fraction. Differences from published codes: the threshold is global over
    layers where the original prunes each layer to the same sparsity; every layer keeps an edge.

    References
    ----------
    .. [1] Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
       compression", 2017.

    Examples
    --------
    >>> gmp(final_density=0.05).needs
    ()
    """
    plan = prune_to(initial=initial_density, final=final_density, regrow=False)
    return UpdateRule(drop.smallest_magnitude, grow.uniform, plan=plan)


def granet(*, final_density: float = 0.1, initial_density: float = 0.5) -> UpdateRule:
    """GraNet: global gradual pruning, then drop and grow by gradient in every layer.

    Parameters
    ----------
    final_density, initial_density : float
        As in `gmp`.

    Raises
    ------
    ValueError
        If not ``0 < final_density <= initial_density <= 1``.

    Notes
    -----
    Needs the last batch's inputs and output gradients, O(samples * (n_in + n_out)) memory beyond
    the edges; gradients of absent edges are formed by bounded row blocks. Both steps are one update
    here: the smallest magnitudes leave for both reasons. Differences from the authors' code: the
    density follows the share of rewirings done unless the trainer gives another `progress` (there,
    between first and last pruning step); every layer keeps an edge.

    References
    ----------
    .. [1] Liu et al., "Sparse training via boosting pruning plasticity with neuroregeneration",
       NeurIPS 2021.

    Examples
    --------
    >>> granet().needs
    ('gradient',)
    """
    plan = prune_to(initial=initial_density, final=final_density, regrow=True)
    return UpdateRule(drop.smallest_magnitude, grow.gradient, needs=("gradient",), plan=plan)


def _by_extra(name: str) -> tuple[Callable[[LayerView], NDArray[Any]], Drop]:
    """Return the importance stored under `name` in a view, and the drop that follows it."""

    def importance(view: LayerView) -> NDArray[Any]:
        stored = np.asarray(view.required(name))
        if stored.shape != (view.graph.n_edges,):
            raise ValueError(
                f"expected extra[{name!r}] of shape ({view.graph.n_edges},), got {stored.shape}"
            )
        return stored

    def least(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return drop.lowest(importance(view), n)

    return importance, least


def path_weight(*, budgets: str = "network", init: str = "zeros") -> UpdateRule:
    """Drop the edges that carry least input-output path weight, grow uniformly.

    This is topokit's own interpretation of evolutionary sparse training that looks at whole paths.
    It is not the method of any paper: the question comes from [1]_, whose rules could not be read.

    Parameters
    ----------
    budgets : str
        ``"network"``: the least important edges of the network leave, wherever they are (at most
        twice a layer's share), and each layer grows its share, so edges move between layers.
        ``"layer"``: each layer grows what it drops.
    init : str
        Name in `topokit.rules.init.INITS`. With ``zeros`` a grown edge that never moves goes first.

    Raises
    ------
    ValueError
        If a name is unknown; when applied to layers that do not chain.

    Notes
    -----
    The importance of an edge is the sum, over all paths from input to output through it, of the
    product of ``abs(weight)`` along the path (`topokit.rules.budget.path_weights`), from one
    forward and one backward product, O(edges). It sums to the same number in each layer, so layers
    compare. Biases and activation functions play no part.

    References
    ----------
    .. [1] Naji, Abtahi, Marvasti, "Efficient sparse artificial neural networks", arXiv 2103.07674.

    Examples
    --------
    >>> path_weight().drop.__name__
    'least'
    """

    def prepare(views: Mapping[str, LayerView], drop_fraction: float) -> Extras:
        return {name: {"path_weight": share} for name, share in path_weights(views).items()}

    importance, least = _by_extra("path_weight")
    return UpdateRule(
        least,
        grow.uniform,
        init_named(init),
        prepare=prepare,
        plan=network_or_layer(drop_by(importance), budgets),
    )


def sensitivity(*, budgets: str = "network", init: str = "zeros") -> UpdateRule:
    """Drop the edges to which the loss was least sensitive since the last rewiring, grow uniformly.

    This is topokit's own interpretation, as `path_weight` is, and not the method of any paper.

    Parameters
    ----------
    budgets : str
        ``"network"`` or ``"layer"``, as in `path_weight`.
    init : str
        Name in `topokit.rules.init.INITS`.

    Raises
    ------
    ValueError
        If a name is unknown.

    Notes
    -----
    Needs ``extra["sensitivity"]``: (n_edges,), the sum over steps since the last rewiring of
    ``abs(weight * gradient)``, which the trainer accumulates and sets to zero at each rewiring. It
    is to first order what setting the weight to zero would change in the loss.

    References
    ----------
    .. [1] Naji, Abtahi, Marvasti, "Efficient sparse artificial neural networks", arXiv 2103.07674.
    .. [2] Lee, Ajanthan, Torr, "SNIP: single-shot network pruning based on connection
       sensitivity", ICLR 2019.

    Examples
    --------
    >>> sensitivity().needs
    ('sensitivity',)
    """
    importance, least = _by_extra("sensitivity")
    return UpdateRule(
        least,
        grow.uniform,
        init_named(init),
        needs=("sensitivity",),
        plan=network_or_layer(drop_by(importance), budgets),
    )
