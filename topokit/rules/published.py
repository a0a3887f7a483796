"""One factory for each published rule; keyword arguments are its hyper-parameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from topokit.rules import drop, grow
from topokit.rules.budget import network_or_layer, share_by_importance
from topokit.rules.init import init_named, keep_regrown
from topokit.rules.rewire import LayerView, UpdateRule, zeros

__all__ = [
    "ctre_seq",
    "ctre_sim",
    "random_rewiring",
    "rigl",
    "set_",
    "set_magnitude",
    "snfs",
    "static",
]


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


def ctre_sim(*, init: str = "he_uniform") -> UpdateRule:
    """Cosine similarity and random growth at once: what was just dropped comes back at random only.

    Drops the smallest magnitudes; takes the absent edges whose two units' activations have the
    largest absolute cosine similarity; replaces those dropped just now by random ones.

    Parameters
    ----------
    init : str
        Name in `topokit.rules.init.INITS`; the authors' options are ``he_uniform`` (their released
        example), ``normal``, ``half_std`` and ``zeros``.

    Notes
    -----
    Needs ``inputs`` and ``outputs`` (after the activation function; the last layer's softmax) over
    the training samples, O(samples * (n_in + n_out)) memory; a subsample approximates them.
    Scores are taken by row blocks; time is O(samples * n_out * n_in).

    Differences from the authors' code, all corrections: similarities belong to the weights that
    are rewired (there, the first update follows the first mini-batch with scores still zero, so
    the lowest flat indices become hubs, and later ones are a mini-batch late); cells of dead
    units, which score 0, are drawn at random after all others and not in index order; random
    replacements hit neither a cell already chosen (there, its weight doubles) nor one just
    dropped; randomness comes from `rng` and not from string hashes; ties in magnitude are broken
    by edge id, not by noise; no matrix of similarities is stored.

    References
    ----------
    .. [1] Atashgahi et al., "A brain-inspired algorithm for training highly sparse neural
       networks", Machine Learning 111, 2022.

    Examples
    --------
    >>> ctre_sim().needs
    ('activations',)
    """
    return UpdateRule(
        drop.smallest_magnitude,
        grow.new_by_cosine,
        keep_regrown(init_named(init)),
        needs=("activations",),
    )


def ctre_seq(*, init: str = "he_uniform") -> UpdateRule:
    """Cosine similarity growth first, random growth for good once validation accuracy stalls.

    Parameters
    ----------
    init : str
        Name in `topokit.rules.init.INITS`.

    Notes
    -----
    Needs what `ctre_sim` needs, and ``extra["stalled"]``: whether validation accuracy has ever
    failed to improve for 40 epochs running (`topokit.rules.memory.stalled`), which switches to
    random growth and never back. Just dropped edges compete with all others and keep their value
    if they return; the authors' code keeps their momentum too, here it starts clean. The
    corrections listed in `ctre_sim` apply.

    References
    ----------
    .. [1] Atashgahi et al., Machine Learning 111, 2022.

    Examples
    --------
    >>> ctre_seq().needs
    ('activations', 'stalled')
    """
    return UpdateRule(
        drop.smallest_magnitude,
        grow.cosine_or_random,
        keep_regrown(init_named(init)),
        needs=("activations", "stalled"),
    )


def rigl(*, regrown: str = "zero") -> UpdateRule:
    """Rigged Lottery: drop the smallest magnitudes, grow the largest gradients.

    Parameters
    ----------
    regrown : str
        Value of an edge dropped and grown again at once: ``"zero"`` as the paper's algorithm
        reads, or ``"keep"`` as the authors' code does.

    Raises
    ------
    ValueError
        If `regrown` is neither.

    Notes
    -----
    Needs the inputs and output gradients of the last batch, O(samples * (n_in + n_out)) memory
    beyond the edges; the dense gradient is formed by row blocks of bounded size, in
    O(samples * n_out * n_in) time. New edges start at zero. The cosine decay of the drop fraction,
    the interval and the stop step are the schedule's.

    Differences from the authors' code: optimizer state of a regrown edge starts clean also with
    ``"keep"``; whether the rewiring replaces the gradient step (there it does) is the trainer's;
    magnitude ties are broken by edge id, not by noise; cells with zero gradient (dead units) are
    drawn at random, not in index order.

    References
    ----------
    .. [1] Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020.

    Examples
    --------
    >>> rigl().needs
    ('gradient',)
    """
    if regrown not in ("zero", "keep"):
        raise ValueError(f"expected regrown to be 'zero' or 'keep', got {regrown!r}")
    return UpdateRule(
        drop.smallest_magnitude,
        grow.gradient,
        zeros if regrown == "zero" else keep_regrown(zeros),
        needs=("gradient",),
    )


def snfs(*, budgets: str = "network") -> UpdateRule:
    """Sparse networks from scratch: grow by momentum, where the mean momentum is largest.

    Parameters
    ----------
    budgets : str
        ``"network"``: edges dropped anywhere are divided over layers in proportion to the mean
        ``abs(momentum)`` of their edges. ``"layer"``: each layer grows what it drops.

    Raises
    ------
    ValueError
        If `budgets` is neither.

    Notes
    -----
    Needs the inputs and output gradients of recent batches, older ones scaled down by the
    momentum factor (`topokit.rules.memory.decayed`), so that the gradient by row blocks is the
    dense momentum; the authors keep that matrix. Memory beyond the edges: O(samples * (n_in +
    n_out)) for each of the 45 batches (at momentum 0.9) whose weight is above 1 %, and a bounded
    block.

    Differences from the authors' code: the number dropped is rounded down, not up; a layer may
    be filled completely, not to 99 %; no layer loses its last edge; momentum is that of the
    captured window.

    References
    ----------
    .. [1] Dettmers and Zettlemoyer, "Sparse networks from scratch: faster training without losing
       performance", 2019.

    Examples
    --------
    >>> snfs(budgets="layer").needs
    ('momentum',)
    """
    plan = share_by_importance(lambda view: np.abs(view.edge_grad()))
    return UpdateRule(
        drop.smallest_magnitude,
        grow.gradient,
        needs=("momentum",),
        plan=network_or_layer(plan, budgets),
    )
