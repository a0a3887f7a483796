"""One factory for each published rule; keyword arguments are its hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.rules import drop, grow
from topokit.rules.budget import (
    drop_by,
    network_or_layer,
    path_weights,
    prune_to,
    share_by_importance,
)
from topokit.rules.init import init_named, keep_regrown
from topokit.rules.rewire import Drop, Extras, LayerView, UpdateRule, zeros

__all__ = [
    "ctre_seq",
    "ctre_sim",
    "deep_r",
    "gmp",
    "granet",
    "itop",
    "mest",
    "path_weight",
    "random_rewiring",
    "rigl",
    "sensitivity",
    "set_",
    "set_magnitude",
    "snfs",
    "static",
]


def static() -> UpdateRule:
    """Keep the initial edges: the baseline with a fixed sparse topology.

    No change is planned in any layer, whatever the drop fraction.

    Examples
    --------
    >>> static().plan({}, drop_fraction=0.3, progress=0.0)
    {}
    """
    return UpdateRule(drop.nothing, grow.uniform, plan=_no_change)


def _no_change(
    views: Mapping[str, LayerView], *, drop_fraction: float, progress: float
) -> dict[str, tuple[int, int]]:
    """Plan nothing."""
    return dict.fromkeys(views, (0, 0))


def set_(*, init: str = "zeros") -> UpdateRule:
    """Sparse Evolutionary Training: drop the smallest weights of each sign, grow at random.

    Parameters
    ----------
    init : str
        Name in `topokit.rules.init.INITS`. The official codes differ: ``normal`` in the sparse
        MLP, ``normal_rbm`` in the sparse RBM, ``zeros`` in the masked Keras network.

    Notes
    -----
    Differences from the authors' code: exactly ``floor(zeta * n)`` edges are replaced, where their
    code removes one or two more (`topokit.rules.drop.official_removal`); growth is an exact uniform
    sample, where their code draws and rejects (the same distribution). As in their code, an edge
    just dropped may be grown again, as a new one. Kept edges keep their momentum as in the sparse
    codes; the Keras code resets all of it every epoch. The schedule is set by the trainer: the
    paper drops without growing after the last epoch, the sparse MLP code does nothing there.

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
    """Drop and grow uniformly at random: the control that moves edges without any selection.

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
    """Cosine similarity growth, with random edges in place of those just dropped.

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

    Differences from the authors' code, all corrections. Similarities are those of the weights that
    are rewired; in their code the first update follows the first mini-batch, when all scores are
    still zero, so that the lowest flat indices become hubs, and later updates lag by a mini-batch.
    Possible edges of dead units, which have score 0, are drawn at random after all others and not
    in index order. Random replacements are neither an edge already chosen (in their code its weight
    doubles) nor one just dropped. Randomness comes from `rng`, not from string hashes. Ties in
    magnitude are broken by edge id, not by noise. No matrix of similarities is stored.

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
    """Cosine similarity growth; random growth once validation accuracy has stopped improving.

    Parameters
    ----------
    init : str
        Name in `topokit.rules.init.INITS`.

    Notes
    -----
    Needs what `ctre_sim` needs, and ``extra["stalled"]``: whether validation accuracy has ever
    failed to improve for 40 successive epochs (`topokit.rules.memory.stalled`), which switches to
    random growth for the rest of the run. Edges just dropped are scored like all others, and keep
    their value if they are grown again; the authors' code keeps their momentum, too, which starts
    at 0 here. The corrections listed in `ctre_sim` apply.

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
        Value of an edge dropped and grown again in one rewiring: ``"zero"`` as in the paper's
        algorithm, or ``"keep"`` as in the authors' code.

    Raises
    ------
    ValueError
        If `regrown` is neither.

    Notes
    -----
    Needs the inputs and output gradients of the last batch, O(samples * (n_in + n_out)) memory
    beyond the edges; the dense gradient is formed by row blocks of bounded size, in
    O(samples * n_out * n_in) time. New edges have weight zero. The cosine decay of the drop
    fraction, the interval and the last step are set by the schedule.

    Differences from the authors' code: the optimizer state of a regrown edge starts at 0 also with
    ``"keep"``; whether the rewiring replaces the gradient step (in their code it does) is up to the
    trainer; ties in magnitude are broken by edge id, not by noise; possible edges with zero
    gradient (dead units) are drawn at random, not in index order.

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
    """Sparse networks from scratch: grow by momentum, most in layers of large mean momentum.

    Parameters
    ----------
    budgets : str
        ``"network"``: edges dropped anywhere are divided over layers in proportion to the mean
        ``abs(momentum)`` of their edges. ``"layer"``: each layer grows as many as it drops.

    Raises
    ------
    ValueError
        If `budgets` is neither.

    Notes
    -----
    Needs the inputs and output gradients of recent batches, older ones scaled down by the
    momentum factor (`topokit.rules.memory.decayed`), so that the gradient by row blocks is the
    dense momentum; the authors' code stores that matrix. Memory beyond the edges: a bounded block,
    and O(samples * (n_in + n_out)) for each of the 45 batches (at momentum 0.9) whose weight is
    above 1 %.

    Differences from the authors' code: the number dropped is rounded down, not up; a layer may
    be filled completely, not to 99 %; no layer loses its last edge; momentum is summed over the
    momentum window only.

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


def mest(*, gradient_weight: float = 0.01) -> UpdateRule:
    """Memory-economic sparse training: drop low ``abs(w) + lambda * abs(dL/dw)``, grow uniformly.

    Parameters
    ----------
    gradient_weight : float
        Lambda, at least 0. The default of the authors' repository is 0, that is, magnitude alone.

    Raises
    ------
    ValueError
        If it is negative.

    Notes
    -----
    Needs the last batch's inputs and output gradients, O(samples * (n_in + n_out)) memory, but the
    gradient at present edges only: O(samples * n_edges) time, in bounded blocks. New edges have
    weight zero. Difference from the authors' code: the edge count is constant; their elastic
    mutation, which lowers the number of edges that move, is a falling drop fraction here, and the
    soft memory bound, which grows edges before it prunes, is left out.

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

    def least_salient(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return drop.lowest(np.abs(view.values) + gradient_weight * np.abs(view.edge_grad()), n)

    if gradient_weight == 0:
        return UpdateRule(drop.smallest_magnitude, grow.uniform)
    return UpdateRule(least_salient, grow.uniform, needs=("gradient",))


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
    ITOP differs from other rules mostly by its schedule: an update every 1,500 (random) or 4,000
    (gradient) steps, drop fraction 0.5 with cosine decay. ``"unfired"`` needs
    ``extra["explored"]``, which `topokit.rules.memory.explore` updates; its density is exactly the
    explored fraction. Its memory is O(edges explored), up to n_out * n_in in the long run.
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


def _theta(view: LayerView) -> NDArray[Any]:
    """Return DEEP R's theta: weight times sign when grown; infinite if that sign was 0."""
    sign = np.asarray(view.required("sign"))
    return np.where(sign == 0, np.inf, view.values * sign)


def deep_r(*, seed: int = 0, start: float = 1e-12) -> UpdateRule:
    """DEEP R: an edge whose weight crosses zero is dropped, a random absent one is grown.

    Parameters
    ----------
    seed : int
        Determines the fixed sign of every possible edge (a hash of its id: nothing is stored).
    start : float
        Absolute value of a grown edge's weight.

    Raises
    ------
    ValueError
        If `start` is not positive.

    Notes
    -----
    As many edges are replaced as have crossed zero, whatever the drop fraction. Needs
    ``extra["sign"]``, the sign each edge was grown with (`topokit.rules.memory.birth_signs`). The
    L1 penalty and the noise of every step are left to the optimizer and are not part of this rule.
    Apply the rule after every step, or after every epoch; in the second case a weight that crosses
    zero twice within an epoch is not noticed.

    Differences from the authors' code: initial edges have the sign of their initial weight; growth
    draws from all absent edges, those just dropped included, without replacement.

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
        return drop.lowest(_theta(view), n)

    def fixed_sign(
        view: LayerView, ids: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[Any]:
        tiny = max(start, float(np.finfo(view.values.dtype).smallest_subnormal))
        return np.where(_hash_bit(ids, seed), tiny, -tiny)

    return UpdateRule(crossed_first, grow.uniform, fixed_sign, needs=("sign",), plan=_crossings)


def _crossings(
    views: Mapping[str, LayerView], *, drop_fraction: float, progress: float
) -> dict[str, tuple[int, int]]:
    """Plan to replace every edge that crossed zero; none in a complete layer."""
    result = {}
    for name, view in views.items():
        n = int(np.count_nonzero(_theta(view) <= 0)) if view.graph.n_absent else 0
        result[name] = (n, n)
    return result


def _hash_bit(ids: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return a fair random bit for each id, fixed by the seed (the SplitMix64 finalizer)."""
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64) + np.uint64((seed * 2 + 1) * 0x9E3779B97F4A7C15 % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z >> np.uint64(63)).astype(bool)


def gmp(*, final_density: float = 0.1, initial_density: float = 1.0) -> UpdateRule:
    """Gradual magnitude pruning: only drop, down a cubic density schedule, over the whole network.

    Parameters
    ----------
    final_density, initial_density : float
        Over all rewired layers together; in (0, 1]. The density falls with training progress as
        `topokit.rules.budget.cubic_density`, and is final at the last rewiring. A network that is
        sparser already is not changed.

    Raises
    ------
    ValueError
        If not ``0 < final_density <= initial_density <= 1``.

    Notes
    -----
    The drop fraction is ignored. Differences from published implementations: the threshold is
    global over layers, where the original prunes each layer to the same sparsity; every layer keeps
    an edge.

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
    the edges; gradients of absent edges are formed by bounded row blocks. Pruning and replacing are
    one update here, which drops the smallest magnitudes for both. Differences from the authors'
    code: the density follows the share of rewirings done unless the trainer gives another
    `progress` (in their code, between the first and the last pruning step); every layer keeps an
    edge.

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

    This is topokit's own interpretation of evolutionary sparse training with criteria over whole
    paths. It is not the method of any paper: the idea comes from [1]_, the text of which was not
    available.

    Parameters
    ----------
    budgets : str
        ``"network"``: the least important edges of the network are dropped, wherever they are (at
        most twice a layer's share), and each layer grows its share, so edges move between layers.
        ``"layer"``: each layer grows as many as it drops.
    init : str
        Name in `topokit.rules.init.INITS`. With ``zeros``, a grown edge whose weight has not
        changed is dropped before all others.

    Raises
    ------
    ValueError
        If a name is unknown; when applied to layers that do not chain.

    Notes
    -----
    The importance of an edge is the sum, over all paths from input to output through it, of the
    product of ``abs(weight)`` along the path (`topokit.rules.budget.path_weights`), from one
    forward and one backward product, O(edges). It sums to the same number in each layer, so that
    layers can be compared. Biases and activation functions are ignored.

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
    ``abs(weight * gradient)``, which the trainer accumulates and sets to zero at each rewiring. To
    first order, each term is the change of the loss if the weight were set to zero.

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
