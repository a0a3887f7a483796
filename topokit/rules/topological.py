"""Cannistraci-Hebb link prediction on a layer: scores of absent edges by their 3-paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from topokit.graph import LayerGraph
from topokit.rules.budget import (
    PruneTo,
    by_leaving,
    dead_edges,
    falling,
    sigmoid_density,
    surplus,
)
from topokit.rules.drop import lowest, softly
from topokit.rules.grow import best_positive, sample_by_score
from topokit.rules.init import init_named
from topokit.rules.published import SPARSE_START, UNTIL, same_as
from topokit.rules.rewire import Drop, Grow, LayerView, Plan, UpdateRule, drop_count, per_layer
from topokit.tables import choose

__all__ = ["cht", "chts", "chtss", "l3_scores", "relative_magnitude"]

_SCORES = ("CH3-L3p", "CH2-L3p", "CH3-L3n", "CH2-L3n")


def relative_magnitude(view: LayerView) -> NDArray[np.float64]:
    """Return for each edge ``abs(w)`` over the sum of its column plus over the sum of its row.

    Examples
    --------
    >>> view = LayerView(LayerGraph.from_edge_ids([0, 1, 2], (2, 2)), np.array([1.0, -3, 1]))
    >>> relative_magnitude(view).tolist()
    [0.75, 1.75, 1.5]
    """
    graph, size = view.graph, np.abs(view.values).astype(float)
    columns = np.bincount(graph.indices, weights=size, minlength=graph.n_in)[graph.indices]
    rows = np.bincount(graph.rows, weights=size, minlength=graph.n_out)[graph.rows]
    result = np.zeros(graph.n_edges)
    for sums in (columns, rows):
        result += np.divide(size, sums, out=np.zeros(graph.n_edges), where=sums > 0)
    return result


def l3_scores(
    graph: LayerGraph, *, method: str = "CH3-L3p", block_cells: int = 1 << 22
) -> Callable[[slice], NDArray[Any]]:
    r"""Return a function of row blocks: Cannistraci-Hebb scores from paths of length three.

    For an absent edge between input u and output v, over all paths u - z1 - z2 - v with z1 an
    output and z2 an input unit,

    .. math:: \text{CH3-L3p} = \sum \frac{1}{\sqrt{(1 + e_1)(1 + e_2)}}, \qquad
              \text{CH2-L3p} = \sum \sqrt{\frac{(1 + i_1)(1 + i_2)}{(1 + e_1)(1 + e_2)}}

    and over all units z on such paths, each once,

    .. math:: \text{CH3-L3n} = \sum \frac{1}{1 + e_z}, \qquad
              \text{CH2-L3n} = \sum \frac{1 + i_z}{1 + e_z}

    where i is the number of a unit's edges to other units on such paths between u and v, and e the
    number of its edges neither to these units nor to u or v.

    Parameters
    ----------
    graph : LayerGraph
    method : str
        ``"CH3-L3p"``, ``"CH2-L3p"``, ``"CH3-L3n"`` or ``"CH2-L3n"``.
    block_cells : int
        Bound on the cells of intermediate sparse products, which sets how many rows are scored at
        once; at least one is.

    Returns
    -------
    callable
        ``scores(rows) -> (len(rows), n_in)``, not negative; meaningful at absent edges only.

    Raises
    ------
    ValueError
        If the method is unknown.

    Notes
    -----
    Time O(number of 3-paths). Memory O(n_edges + block_cells + the largest row's fan-in * n_in).
    The node-based scores (n) are those of the authors' matrix code, of cost O(n^3) there.

    References
    ----------
    .. [1] Zhang et al., "Epitopological learning and Cannistraci-Hebb network shape intelligence
       brain-inspired theory for ultra-sparse advantage in deep learning", ICLR 2024.
    .. [2] Zhang et al., "Brain network science modelling of sparse neural networks enables
       Transformers and LLMs to perform as fully connected", NeurIPS 2025, arXiv 2501.19107.

    Examples
    --------
    The path 0 - 0 - 1 - 1 has no other edges around it: its end points score 1.

    >>> graph = LayerGraph.from_edge_ids([0, 1, 3], (2, 2))
    >>> l3_scores(graph)(slice(0, 2))[1, 0].item()
    1.0
    """
    if method not in _SCORES:
        raise ValueError(f"unknown method {method!r}; expected one of {', '.join(_SCORES)}")
    # Only absent edges (v, u) that some 3-path u - z1 - z2 - v joins have a score, so the paths are
    # formed as sparse products and no matrix of all pairs exists. For each edge (v, z2) of a few
    # rows v, the row of `first` has z1's factor: the common neighbours of v and z1 (that is z1's
    # edges inside the community, i) come from B B^T, and 1 + e = degree - i. `second` has z2's
    # factor for each u, from B^T B. Multiplying along z1 and adding over z2 (the matrix `which`)
    # sums over all paths; for scores over units, z1's factors are added over the units z1 next to
    # u, and z2's over those next to v. The work is the number of 3-paths; rows are taken a few at a
    # time, as many as have block_cells / n_in edges together, which bounds the products.
    b = graph.to_csr().astype(float)
    bt = b.T.tocsr()
    fan_in, fan_out = graph.fan_in.astype(float), graph.fan_out.astype(float)
    step, by_path = max(1, block_cells // max(1, graph.n_in)), method.endswith("p")

    def weights(common: Any, degree: Callable[[Any], NDArray[np.float64]]) -> Any:
        """Return one factor of the path score from numbers of common neighbours."""
        common = common.tocsr()
        outside = degree(common) - common.data  # 1 + e
        inside = 1 + common.data if method.startswith("CH2") else 1.0
        factor = np.where(outside > 0, inside / np.maximum(outside, 1), 0.0)
        if by_path:
            factor = np.sqrt(factor)
        return sp.csr_array((factor, common.indices, common.indptr), shape=common.shape)

    def score_rows(start: int, stop: int) -> NDArray[np.float64]:
        """Return the scores of the rows start to stop - 1."""
        lo, hi = graph.indptr[start], graph.indptr[stop]
        if lo == hi:
            return np.zeros((stop - start, graph.n_in))
        first = weights(b[start:stop] @ bt, lambda c: fan_in[c.indices])  # z1 of v

        def second(z2: NDArray[Any]) -> Any:
            """Return z2's factor for each u, one row for each of some units z2."""
            return weights(bt[z2] @ b, lambda c: np.repeat(fan_out[z2], np.diff(c.indptr)))

        z2, local = graph.indices[lo:hi], graph.rows[lo:hi] - start
        if not by_path:
            near = np.unique(z2)
            return (first @ b + b[start:stop][:, near] @ second(near)).toarray()
        which = sp.csr_array(
            (np.ones(hi - lo), (local, np.arange(hi - lo))), shape=(stop - start, hi - lo)
        )
        through = (bt[z2].multiply(first[local]).tocsr() @ b).multiply(second(z2))
        return (which @ through.tocsr()).toarray()

    def scores(rows: slice) -> NDArray[np.float64]:
        start, stop = rows.start, rows.stop
        parts = []
        while start < stop:
            reach = np.searchsorted(graph.indptr, graph.indptr[start] + step, side="right") - 1
            end = min(max(int(reach), start + 1), stop)
            parts.append(score_rows(start, end))
            start = end
        return np.concatenate(parts) if parts else np.zeros((0, graph.n_in))

    return scores


def cht(
    *,
    method: str = "CH3-L3p",
    soft: bool = False,
    removal: str = "magnitude",
    soft_removal: bool = False,
    chain_removal: bool = False,
    init: str = "zeros",
) -> UpdateRule:
    """Cannistraci-Hebb training: drop small weights, grow by link prediction, no gradients.

    Parameters
    ----------
    method : str
        ``"CH3-L3p"``, ``"CH2-L3p"``, ``"CH3-L3n"`` or ``"CH2-L3n"``; see `l3_scores`.
    soft : bool
        Draw edges in proportion to the scores instead of taking the best ones.
    removal : str
        ``"magnitude"``, or ``"relative"`` to row and column sums (the authors' ``ri``).
    soft_removal : bool
        Draw the edges that stay in proportion to their importance to the power of
        ``1 + 2 * progress`` (`topokit.rules.drop.softly`), so that removal becomes less random as
        training proceeds.
    chain_removal : bool
        Also drop edges that are then on no path from input to output; each layer grows as many
        edges as it loses.
    init : str
        Name in `topokit.rules.init.INITS`.

    Raises
    ------
    ValueError
        If a name is unknown, or `soft_removal` and `chain_removal` are both true; with
        `chain_removal`, when the rule is applied to layers that do not chain.

    Notes
    -----
    Memory beyond the edges as `l3_scores` states: bounded blocks of rows, never all pairs of units.

    Differences from the authors' code: if fewer edges score above 0 than are to grow, all of these
    grow and the rest is drawn uniformly. There, the constant 1e-5 is then added to all scores: with
    soft growth an edge of score 0 can be drawn before one with a score, with a probability of about
    1e-5 of that score, and with hard growth the whole layer could become dense. Chain removal works
    with hard growth too (there it ends in NotImplementedError); the early stop per layer and the
    initialisation from feature correlations are left out (any generator can start it). Their
    adaptive drop fraction is the schedule ``cosine``.
    Scores are taken on the graph without the dropped edges, which may regrow. Chain removal never
    takes a layer's last edge; layers that keep their graph lose nothing to it.

    References
    ----------
    .. [1] Zhang et al., "Epitopological learning and Cannistraci-Hebb network shape intelligence
       brain-inspired theory for ultra-sparse advantage in deep learning", ICLR 2024.
    .. [2] Zhang et al., "Brain network science modelling of sparse neural networks enables
       Transformers and LLMs to perform as fully connected", NeurIPS 2025, arXiv 2501.19107
       (soft growth and removal, relative removal, CH2-L3n).

    Examples
    --------
    >>> cht(soft=True).needs
    ()
    """
    importance = choose("removal", removal, _REMOVALS)
    if soft_removal and chain_removal:
        raise ValueError("expected soft_removal or chain_removal, got both")
    grow = _by_scores(method, soft=soft)
    if chain_removal:
        return by_leaving(_small_and_cut_off(importance), grow, init)
    if soft_removal:
        return UpdateRule(_softly(importance, 1.0, 3.0), grow, init_named(init))

    def least(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return lowest(importance(view), n)

    return UpdateRule(least, grow, init_named(init))


def chts(
    *,
    method: str = "CH2-L3n",
    removal: str = "magnitude",
    first_exponent: float = 1.0,
    last_exponent: float = 3.0,
    init: str = "zeros",
) -> UpdateRule:
    """Cannistraci-Hebb training with a soft rule (CHTs): edges are dropped and grown by sampling.

    Parameters
    ----------
    method : str
        Scores in proportion to which edges are grown; see `l3_scores`.
    removal : str
        Importance of edges: ``"magnitude"``, or ``"relative"`` to row and column sums.
    first_exponent, last_exponent : float
        Edges that stay are drawn in proportion to their importance to this power, which goes
        linearly from the first to the last over the rewirings; at least 0. In the paper the power
        is ``delta / (1 - delta)`` with delta from 0.5 to 0.75, that is 1 to 3; the authors'
        language models use 1 to 9.
    init : str
        Name in `topokit.rules.init.INITS`.

    Raises
    ------
    ValueError
        If a name is unknown or an exponent is negative.

    Notes
    -----
    Use the schedule ``cosine``, the authors' adaptive drop fraction, and any start; theirs are
    correlations of the input features and bipartite receptive fields (``receptive_field``). Time
    and memory are those of `l3_scores`.

    Differences from the authors' code: weights of 0 are dropped first, where theirs count as 1e-12;
    edges without a score are grown last, as stated for `cht`; edges that lead nowhere are not
    removed (`cht` can with ``chain_removal=True``); a head of attention is not treated as a layer
    of its own. Their released code for language models grows the highest scores, not a sample,
    also where it is told ``CH2_L3n_soft``: that is ``cht(method="CH2-L3n", soft_removal=True)``.

    References
    ----------
    .. [1] Zhang et al., "Brain network science modelling of sparse neural networks enables
       Transformers and LLMs to perform as fully connected", NeurIPS 2025, arXiv 2501.19107.

    Examples
    --------
    >>> chts().needs, chts(last_exponent=9).drop.__name__
    ((), 'soft_drop')
    """
    return _soft_rule(method, removal, first_exponent, last_exponent, init, per_layer, None)


def chtss(
    *,
    final_density: float | None = None,
    initial_density: float = 0.5,
    decay_end: float = 1.0,
    steepness: float = 6.0,
    method: str = "CH2-L3n",
    removal: str = "magnitude",
    first_exponent: float = 1.0,
    last_exponent: float = 3.0,
    init: str = "zeros",
) -> UpdateRule:
    """CHTs whose density falls along a sigmoid (CHTss); ``chts`` unless final_density is set.

    At each rewiring, first prune, then drop and grow as `chts`.

    Parameters
    ----------
    final_density, initial_density : float
        Of each layer, in (0, 1]. The density falls with training progress as
        `topokit.rules.budget.sigmoid_density`. A layer that is sparser already is not pruned: there
        the rule equals `chts`. So without `final_density`, which is then 0.1, there is a warning.
    decay_end : float
        Share of the rewirings at which the density is final, in (0, 1]; 0.8 in the authors' example
        of a language model.
    steepness : float
        Of the sigmoid, positive.
    method, removal, first_exponent, last_exponent, init
        As for `chts`. Pruning always goes by relative importance.

    Raises
    ------
    ValueError
        If a name is unknown or a number out of range.

    Notes
    -----
    The differences stated for `chts`, and: pruning, dropping and growing are one update; every
    layer keeps an edge. The authors' code can also prune the network to one threshold; here, each
    layer is pruned to the density, as in their examples.

    References
    ----------
    .. [1] Zhang et al., NeurIPS 2025, arXiv 2501.19107.

    Examples
    --------
    >>> chtss(final_density=0.05).needs
    ()
    """
    if final_density is None:
        final_density = UNTIL
        same_as("chtss", "chts", SPARSE_START)
    density = falling(
        sigmoid_density, initial_density, final_density, end=decay_end, steepness=steepness
    )
    plan = PruneTo(density, regrow=True, each=True)
    return _soft_rule(method, removal, first_exponent, last_exponent, init, plan, density)


def _magnitude(view: LayerView) -> NDArray[Any]:
    return np.abs(view.values)


_REMOVALS = {"magnitude": _magnitude, "relative": relative_magnitude}


def _by_scores(method: str, *, soft: bool) -> Grow:
    """Return a function that grows the edges of best score, or draws by score."""
    l3_scores(LayerGraph.from_edge_ids([], (0, 0)), method=method)  # an unknown name is refused
    growing = sample_by_score if soft else best_positive

    def grow(
        view: LayerView, occupied: LayerGraph, n: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        return growing(occupied, n, l3_scores(occupied, method=method), rng)

    return grow


def _softly(
    importance: Callable[[LayerView], NDArray[Any]],
    first: float,
    last: float,
    density: Callable[[float], float] | None = None,
) -> Drop:
    """Return a function that drops softly, after pruning to a density by relative importance."""

    def soft_drop(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        progress = float(view.extra.get("progress", 0.0))
        exponent = first + (last - first) * progress
        n_pruned = 0 if density is None else min(n, surplus(view.graph, density(progress)))
        if not n_pruned:
            return softly(importance(view), n, rng, exponent=exponent)
        pruned = lowest(relative_magnitude(view), n_pruned)
        rest = np.delete(np.arange(view.graph.n_edges), pruned)
        chosen = softly(importance(view)[rest], n - n_pruned, rng, exponent=exponent)
        return np.sort(np.concatenate([pruned, rest[chosen]]))

    return soft_drop


def _soft_rule(
    method: str,
    removal: str,
    first: float,
    last: float,
    init: str,
    plan: Plan,
    density: Callable[[float], float] | None,
) -> UpdateRule:
    """Return the rule that `chts` and `chtss` share."""
    importance = choose("removal", removal, _REMOVALS)
    if not (first >= 0 and last >= 0):
        raise ValueError(f"expected exponents of at least 0, got {first} and {last}")
    drop = _softly(importance, first, last, density)
    return UpdateRule(drop, _by_scores(method, soft=True), init_named(init), plan=plan)


def _small_and_cut_off(
    importance: Callable[[LayerView], NDArray[Any]],
) -> Callable[[Mapping[str, LayerView], float], dict[str, NDArray[np.int64]]]:
    """Return a function that names the least important edges, then those on no path through all."""

    def leaving(
        views: Mapping[str, LayerView], drop_fraction: float
    ) -> dict[str, NDArray[np.int64]]:
        stays = {name: bool(view.extra.get("fixed", False)) for name, view in views.items()}
        small = {
            name: lowest(
                importance(view), 0 if stays[name] else drop_count(view.graph, drop_fraction)
            )
            for name, view in views.items()
        }
        kept = {name: np.ones(view.graph.n_edges, bool) for name, view in views.items()}
        for name, positions in small.items():
            kept[name][positions] = False
        dead = dead_edges(views, kept)
        return {
            name: np.concatenate([small[name], dead[name]]) for name in views if not stays[name]
        }

    return leaving
