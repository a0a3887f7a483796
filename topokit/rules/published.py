"""One factory for each published rule; keyword arguments are its hyper-parameters."""

from __future__ import annotations

from collections.abc import Mapping

from topokit.rules import drop, grow
from topokit.rules.init import init_named
from topokit.rules.rewire import LayerView, UpdateRule

__all__ = ["random_rewiring", "set_", "set_magnitude", "static"]


def static() -> UpdateRule:
    """Keep the initial edges for ever: the baseline with a fixed sparse topology.

    Its plan is zero edges in every layer, whatever the drop fraction.

    Examples
    --------
    >>> static().plan({}, drop_fraction=0.3, progress=0.0, may_regrow=True)
    {}
    """
    return UpdateRule(drop.nothing, grow.uniform, plan=_no_change)


def _no_change(
    views: Mapping[str, LayerView], *, drop_fraction: float, progress: float, may_regrow: bool
) -> dict[str, tuple[int, int]]:
    """Plan nothing."""
    return dict.fromkeys(views, (0, 0))


def set_(*, init: str = "zeros") -> UpdateRule:
    """Sparse Evolutionary Training: drop near zero on each side, grow uniformly at random.

    Parameters
    ----------
    init : str
        Name in `topokit.rules.init.INITS`. The official codes differ: ``normal`` in the sparse
        MLP, ``normal_rbm`` in the sparse RBM, ``zeros`` in the masked Keras network.

    Notes
    -----
    Differences from the authors' code: exactly ``floor(zeta * n)`` edges are replaced where
    theirs removes one or two more (`topokit.rules.drop.official_removal` is theirs); growth is
    an exact uniform sample where theirs draws and rejects (the same distribution). As in theirs, an
    edge just dropped may come back, as a new one. Kept edges keep their momentum as in the sparse
    codes; the Keras code resets all of it every epoch. The schedule is the trainer's: the paper
    drops without growing after the last epoch, the sparse MLP code does nothing there.

    References
    ----------
    .. [1] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nature Communications 9, 2018.

    Examples
    --------
    >>> set_(init="normal").drop.__name__
    'signed_magnitude'
    """
    return UpdateRule(drop.signed_magnitude, grow.uniform, init_named(init))


def set_magnitude(*, init: str = "zeros") -> UpdateRule:
    """SET with one threshold for both signs: drop the smallest ``abs(value)``, grow uniformly.

    Parameters
    ----------
    init : str
        Name in `topokit.rules.init.INITS`.

    Notes
    -----
    Many reimplementations call this SET; where the signs are unbalanced it removes other edges
    than the authors' rule, which is `set_`.

    References
    ----------
    .. [1] Mocanu et al., Nature Communications 9, 2018.

    Examples
    --------
    >>> set_magnitude().drop.__name__
    'smallest_magnitude'
    """
    return UpdateRule(drop.smallest_magnitude, grow.uniform, init_named(init))


def random_rewiring(*, init: str = "zeros") -> UpdateRule:
    """Drop and grow uniformly at random: the control that moves edges and selects nothing.

    Parameters
    ----------
    init : str
        Name in `topokit.rules.init.INITS`.

    Examples
    --------
    >>> random_rewiring().drop.__name__, random_rewiring().grow.__name__
    ('random', 'uniform')
    """
    return UpdateRule(drop.random, grow.uniform, init_named(init))
