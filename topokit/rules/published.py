"""One factory for each published rule; keyword arguments are its hyper-parameters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.rules import drop, grow
from topokit.rules.budget import (
    PruneTo,
    ShareByImportance,
    by_leaving,
    cubic_density,
    drop_by,
    falling,
    network_or_layer,
    path_weights,
)
from topokit.rules.init import init_named, keep_regrown, zero_or_kept
from topokit.rules.rewire import Drop, Extras, LayerView, Step, UpdateRule

__all__ = [
    "ByGradient",
    "SPARSE_START",
    "UNTIL",
    "ctre_seq",
    "ctre_sim",
    "deep_r",
    "gmp",
    "gradient_magnitude",
    "gradient_ratio",
    "granet",
    "itop",
    "mest",
    "no_change",
    "path_weight",
    "random_rewiring",
    "rigl",
    "same_as",
    "sensitivity",
    "set_",
    "set_magnitude",
    "snfs",
    "static",
]


def same_as(rule: str, other: str, difference: str) -> None:
    """Warn that a rule made with its default settings equals another one.

    Parameters
    ----------
    rule, other : str
        Names in `topokit.rules.RULES`.
    difference : str
        Where they are equal, and the parameter that makes the difference.
    """
    message = f"the rule {rule!r} with its default settings equals {other!r} {difference}"
    warnings.warn(message, UserWarning, stacklevel=3)


def static() -> UpdateRule:
    """Keep the initial edges: the baseline with a fixed sparse topology.

    No change is planned in any layer, whatever the drop fraction.

    References
    ----------
    .. [1] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nature Communications 9:2383, 2018 (FixProb).

    Examples
    --------
    >>> static().plan({}, drop_fraction=0.3, progress=0.0)
    {}
    """
    return UpdateRule(drop.nothing, grow.uniform, plan=no_change)


def no_change(
    views: Mapping[str, LayerView], *, drop_fraction: float, progress: float
) -> dict[str, tuple[int, int]]:
    """Plan nothing."""
    return dict.fromkeys(views, (0, 0))


def set_(*, removal: str = "exact", init: str = "zeros") -> UpdateRule:
    """Sparse Evolutionary Training: drop the smallest weights of each sign, grow at random.

    Parameters
    ----------
    removal : str
        ``"exact"``: ``floor(zeta * n)`` edges are replaced. ``"official"``: those that the authors'
        code removes, which are one to three more (`topokit.rules.drop.official_removal`).
    init : str
        Name in `topokit.rules.init.INITS`. The official codes differ: ``normal`` in the sparse
        MLP, ``normal_rbm`` in the sparse RBM, ``zeros`` in the masked Keras network.

    Raises
    ------
    ValueError
        If a name is unknown.

    Notes
    -----
    Differences from the authors' code: with ``removal="exact"``, exactly ``floor(zeta * n)`` edges
    are replaced, where their code also removes the edges at its two thresholds; with
    ``"official"``, the same edges as theirs, except that a layer keeps an edge, a complete layer is
    not changed, and a drop fraction of 0 removes none. Growth is an exact uniform sample, where
    their code draws and rejects (the same distribution). As in their code, an edge
    just dropped may be grown again, as a new one. Kept edges keep their momentum as in the sparse
    codes; the Keras code resets all of it every epoch. The schedule is set by the trainer: the
    paper drops without growing after the last epoch, the sparse MLP code does nothing there.

    References
    ----------
    .. [1] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nature Communications 9:2383, 2018.

    Examples
    --------
    >>> set_(init="normal").drop.__name__
    'signed_magnitude'
    """
    if removal not in ("exact", "official"):
        raise ValueError(f"expected removal to be 'exact' or 'official', got {removal!r}")
    if removal == "exact":
        return UpdateRule(drop.signed_magnitude, grow.uniform, init_named(init))
    return by_leaving(_official, grow.uniform, init)


def _official(views: Mapping[str, LayerView], drop_fraction: float) -> dict[str, NDArray[np.int64]]:
    """Return the positions that the authors' SET code removes from each layer."""
    none = np.empty(0, np.int64)
    return {
        name: drop.official_removal(view.values, drop_fraction) if drop_fraction else none
        for name, view in views.items()
    }


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
    .. [1] Mocanu et al., Nature Communications 9:2383, 2018.

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
    start = zero_or_kept(regrown)
    return UpdateRule(drop.smallest_magnitude, grow.gradient, start, needs=("gradient",))


def gradient_magnitude(view: LayerView) -> NDArray[Any]:
    """Return ``abs(dL/dw)`` of the edges, or of the momentum where that was captured."""
    return np.abs(view.edge_grad())


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
    .. [1] Dettmers, Zettlemoyer, "Sparse networks from scratch: faster training without losing
       performance", arXiv 1907.04840, 2019.

    Examples
    --------
    >>> snfs(budgets="layer").needs
    ('momentum',)
    """
    plan = ShareByImportance(gradient_magnitude)
    return UpdateRule(
        drop.smallest_magnitude,
        grow.gradient,
        needs=("momentum",),
        plan=network_or_layer(plan, budgets),
    )


@dataclass(frozen=True)
class ByGradient:
    """Drop the edges of lowest importance, which magnitudes of weight and gradient make.

    Parameters
    ----------
    how : float or str
        The weight of the gradient in the sum of both, or which is divided by which:
        ``"weight/gradient"`` or ``"gradient/weight"``.
    """

    how: float | str

    @property
    def __name__(self) -> str:
        return "by_gradient"

    def importance(self, weight: Any, gradient: Any) -> Any:
        """Return the importance of edges, given magnitudes: arrays, or tensors."""
        if not isinstance(self.how, str):
            return weight + self.how * gradient
        if self.how == "gradient/weight":
            return gradient / (weight + 1e-8)
        return weight / (gradient + 1e-8)

    def __call__(self, view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the positions that leave."""
        weight = np.abs(view.values).astype(float)
        return drop.lowest(self.importance(weight, gradient_magnitude(view)), n)


def mest(*, gradient_weight: float | None = None) -> UpdateRule:
    """Drop low ``abs(w) + lambda * abs(dL/dw)``; ``set_magnitude`` unless gradient_weight is set.

    This is memory-economic sparse training (MEST); grown edges are drawn uniformly.

    Parameters
    ----------
    gradient_weight : float, optional
        Lambda, at least 0. The default is 0.01, with a warning: where gradients are small beside
        weights, so little of them does not change which edges are lowest, and the rule equals
        `set_magnitude`. The default of the authors' repository is 0, magnitude alone.

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
    >>> mest(gradient_weight=0.1).needs, mest(gradient_weight=0).needs
    (('gradient',), ())
    """
    if gradient_weight is None:
        gradient_weight = 0.01
        same_as("mest", "set_magnitude", "where gradients are small; set gradient_weight")
    if not gradient_weight >= 0:
        raise ValueError(f"expected a gradient_weight of at least 0, got {gradient_weight}")

    if gradient_weight == 0:
        return UpdateRule(drop.smallest_magnitude, grow.uniform)
    return UpdateRule(ByGradient(gradient_weight), grow.uniform, needs=("gradient",))


def itop(*, growth: str | None = None) -> UpdateRule:
    """In-time over-parameterization: grow new edges; ``set_magnitude`` unless growth='unfired'.

    Drop the smallest magnitudes, grow edges that have never been active before.

    Parameters
    ----------
    growth : str, optional
        ``"unfired"`` grows never-active edges first (others when none is left); ``"random"``, the
        paper's SET-ITOP, grows uniformly, which makes the rule equal `set_magnitude`: it is the
        default, with a warning. RigL-ITOP is `rigl` on ITOP's schedule.

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
    if growth not in ("unfired", "random", None):
        raise ValueError(f"expected growth to be 'unfired' or 'random', got {growth!r}")
    if growth is None:
        same_as("itop", "set_magnitude", "on the same schedule; growth='unfired' differs")
    if growth != "unfired":
        return UpdateRule(drop.smallest_magnitude, grow.uniform)
    return UpdateRule(drop.smallest_magnitude, grow.never_active, needs=("explored",))


def _theta(view: LayerView) -> NDArray[Any]:
    """Return DEEP R's theta: weight times sign when grown; infinite if that sign was 0."""
    sign = np.asarray(view.required("sign"))
    return np.where(sign == 0, np.inf, view.values * sign)


def deep_r(
    *, l1: float = 0.0, temperature: float = 0.0, seed: int = 0, start: float = 1e-12
) -> UpdateRule:
    """DEEP R: an edge whose weight crosses zero is dropped, a random absent one is grown.

    Parameters
    ----------
    l1 : float
        Strength alpha of the L1 prior, at least 0: every step, the optimizer's learning rate times
        alpha is taken from each weight's absolute value. 1e-5 in the authors' script.
    temperature : float
        T, at least 0: every step, noise from N(0, 2 * lr * T) is added to each weight, with the
        optimizer's learning rate lr.
    seed : int
        Determines the fixed sign of every possible edge (a hash of its id: nothing is stored).
    start : float
        Absolute value of a grown edge's weight.

    Raises
    ------
    ValueError
        If `start` is not positive, or `l1` or `temperature` is negative.

    Notes
    -----
    As many edges are replaced as have crossed zero, whatever the drop fraction. Needs
    ``extra["sign"]``, the sign each edge was grown with (`topokit.rules.memory.birth_signs`).
    With plain SGD, a prior, a temperature and a rewiring after every step (``every=1``) the rule is
    the paper's; both are 0 by default, which leaves gradients alone to carry weights over zero.
    They are added after every step of the optimizer, also after the last rewiring, from the random
    numbers of the rewiring, in layers that are rewired. If edges are replaced after every epoch, a
    weight that crosses zero twice within one is not noticed, and a weight that has crossed is
    trained until the epoch ends.

    Differences from the authors' code: the noise has the paper's standard deviation
    ``sqrt(2 * lr * T)``, in their script it is ``lr * 1e-5``; initial edges have the sign of their
    initial weight; growth draws from all absent edges, those just dropped included, without
    replacement.

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
    for name, value in (("l1", l1), ("temperature", temperature)):
        if not value >= 0:
            raise ValueError(f"expected {name} of at least 0, got {value}")

    def crossed_first(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return drop.lowest(_theta(view), n)

    def fixed_sign(
        view: LayerView, ids: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[Any]:
        tiny = max(start, float(np.finfo(view.values.dtype).smallest_subnormal))
        return np.where(_hash_bit(ids, seed), tiny, -tiny)

    def prior_and_noise(view: LayerView, lr: float, rng: np.random.Generator) -> NDArray[Any]:
        values = view.values - lr * l1 * np.asarray(view.required("sign"))
        if temperature:
            values = values + math.sqrt(2 * lr * temperature) * rng.standard_normal(values.size)
        return values

    step: Step | None = prior_and_noise if l1 or temperature else None
    needs = ("sign",)
    return UpdateRule(
        crossed_first, grow.uniform, fixed_sign, needs=needs, plan=_crossings, step=step
    )


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


UNTIL = 0.1  # the final density of rules that prune
SPARSE_START = f"on a start of density {UNTIL} or less; set final_density below that of the start"


def gmp(*, final_density: float | None = None, initial_density: float = 1.0) -> UpdateRule:
    """Gradual magnitude pruning down a cubic density; ``static`` unless final_density is set.

    Edges of smallest magnitude in the whole network are dropped, and none is grown.

    Parameters
    ----------
    final_density, initial_density : float
        Over all rewired layers together; in (0, 1]. The density falls with training progress as
        `topokit.rules.budget.cubic_density`, and is final at the last rewiring. A network that is
        sparser already is not changed: there the rule equals `static`. So without `final_density`,
        which is then 0.1, there is a warning.

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
    .. [1] Zhu, Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
       compression", arXiv 1710.01878, 2017.

    Examples
    --------
    >>> gmp(final_density=0.05).needs
    ()
    """
    if final_density is None:
        final_density = UNTIL
        same_as("gmp", "static", SPARSE_START)
    plan = PruneTo(falling(cubic_density, initial_density, final_density), regrow=False)
    return UpdateRule(drop.smallest_magnitude, grow.uniform, plan=plan)


def granet(*, final_density: float | None = None, initial_density: float = 0.5) -> UpdateRule:
    """GraNet: prune gradually, drop and grow by gradient; ``rigl`` unless final_density is set.

    Pruning is by magnitude over the whole network, dropping and growing in every layer.

    Parameters
    ----------
    final_density, initial_density : float
        As in `gmp`. On a network that is no denser than the final density, the rule equals `rigl`;
        without `final_density`, which is then 0.1, there is a warning.

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
    >>> granet(final_density=0.05).needs
    ('gradient',)
    """
    if final_density is None:
        final_density = UNTIL
        same_as("granet", "rigl", SPARSE_START)
    plan = PruneTo(falling(cubic_density, initial_density, final_density), regrow=True)
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
    .. [1] Naji, Abtahi, Marvasti, "Efficient sparse artificial neural networks", arXiv 2103.07674,
       2021.

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
    .. [1] Naji, Abtahi, Marvasti, "Efficient sparse artificial neural networks", arXiv 2103.07674,
       2021.
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


def gradient_ratio(*, importance: str = "weight/gradient", init: str = "zeros") -> UpdateRule:
    """Drop by the ratio of weight and gradient magnitude, either way round, grow uniformly.

    These are the criteria *reciprocal sensitivity* and *sensitivity* of [1]_. They are ascribed to
    [2]_, the text of which was not available; `path_weight` and `sensitivity` are topokit's own
    readings of that paper.

    Parameters
    ----------
    importance : str
        ``"weight/gradient"``: edges of least ``abs(w) / (abs(g) + 1e-8)`` are dropped, small
        weights that still change (reciprocal sensitivity). ``"gradient/weight"``: edges of least
        ``abs(g) / (abs(w) + 1e-8)``, large weights that have settled (sensitivity).
    init : str
        Name in `topokit.rules.init.INITS`.

    Raises
    ------
    ValueError
        If a name is unknown.

    Notes
    -----
    Needs the last batch's inputs and output gradients, O(samples * (n_in + n_out)) memory, but the
    gradient at present edges only: O(samples * n_edges) time, in bounded blocks. Difference from
    the code of [1]_: the number of edges is rounded down, where theirs is rounded up.

    References
    ----------
    .. [1] Nowak, Grooten, Mocanu, Tabor, "Fantastic weights and how to find them: where to prune in
       dynamic sparse training", NeurIPS 2023.
    .. [2] Naji, Abtahi, Marvasti, "Efficient sparse artificial neural networks", arXiv 2103.07674,
       2021.

    Examples
    --------
    >>> gradient_ratio(importance="gradient/weight").needs
    ('gradient',)
    """
    if importance not in ("weight/gradient", "gradient/weight"):
        raise ValueError(
            f"expected importance to be 'weight/gradient' or 'gradient/weight', got {importance!r}"
        )

    return UpdateRule(ByGradient(importance), grow.uniform, init_named(init), needs=("gradient",))
