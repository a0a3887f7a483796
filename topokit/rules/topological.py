"""Cannistraci-Hebb link prediction on a layer: scores of absent edges by their 3-paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from topokit.graph import LayerGraph
from topokit.rules.budget import dead_edges
from topokit.rules.drop import lowest, softly
from topokit.rules.grow import best_positive, sample_by_score
from topokit.rules.init import init_named
from topokit.rules.rewire import Drop, Extras, Grow, LayerView, Prepare, UpdateRule, drop_count

__all__ = ["cht", "l3_scores", "relative_magnitude"]

_SCORES = ("CH3-L3p", "CH2-L3p")
_REMOVALS = ("magnitude", "relative")


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

    where, for each of z1 and z2, i is the number of its edges to other units on such paths between
    u and v, and e the number of its edges neither to these units nor to u or v.

    Parameters
    ----------
    graph : LayerGraph
    method : str
        ``"CH3-L3p"`` or ``"CH2-L3p"``.
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

    References
    ----------
    .. [1] Zhang et al., "Epitopological learning and Cannistraci-Hebb network shape intelligence
       brain-inspired theory for ultra-sparse advantage in deep learning", ICLR 2024.

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
    # edges inside the community, i) come from B B^T, and e = degree - i. `second` has z2's factor
    # for each u, from B^T B. Multiplying along z1 and adding over z2 (the matrix `which`) sums over
    # all paths. The work is the number of 3-paths; rows are taken a few at a time, as many as have
    # block_cells / n_in edges together, which bounds the products.
    b = graph.to_csr().astype(float)
    bt = b.T.tocsr()
    fan_in, fan_out = graph.fan_in.astype(float), graph.fan_out.astype(float)
    step = max(1, block_cells // max(1, graph.n_in))

    def weights(common: Any, degree: Callable[[Any], NDArray[np.float64]]) -> Any:
        """Return one factor of the path score from numbers of common neighbours."""
        common = common.tocsr()
        outside = degree(common) - common.data  # 1 + e
        factor = np.where(outside > 0, 1 / np.sqrt(np.maximum(outside, 1)), 0.0)
        if method == "CH2-L3p":
            factor *= np.sqrt(1 + common.data)
        return sp.csr_array((factor, common.indices, common.indptr), shape=common.shape)

    def score_rows(start: int, stop: int) -> NDArray[np.float64]:
        """Return the scores of the rows start to stop - 1."""
        lo, hi = graph.indptr[start], graph.indptr[stop]
        if lo == hi:
            return np.zeros((stop - start, graph.n_in))
        z2, local = graph.indices[lo:hi], graph.rows[lo:hi] - start
        first = weights(b[start:stop] @ bt, lambda c: fan_in[c.indices])[local]  # z1 of (v, z2)
        second = weights(
            bt[z2] @ b, lambda c: np.repeat(fan_out[z2], np.diff(c.indptr))
        )  # u of (v, z2)
        through = (bt[z2].multiply(first).tocsr() @ b).multiply(second)
        which = sp.csr_array(
            (np.ones(hi - lo), (local, np.arange(hi - lo))), shape=(stop - start, hi - lo)
        )
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
        ``"CH3-L3p"`` or ``"CH2-L3p"``; see `l3_scores`.
    soft : bool
        Draw edges in proportion to the scores (CHTs) instead of taking the best ones.
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

    Differences from the authors' code: if fewer edges score above 0 than are to grow, the rest is
    drawn uniformly (there, a constant 1e-5 is added, and with hard growth the whole layer could
    become dense); chain removal works with hard growth too (there it ends in NotImplementedError);
    the node-based matrix form, the adaptive drop fraction, the early stop per layer
    and the initialisation from feature correlations are left out (any generator can start it).
    Scores are taken on the graph without the dropped edges, which may regrow. Chain removal never
    takes a layer's last edge.

    References
    ----------
    .. [1] Zhang et al., ICLR 2024; Zhang et al., "Brain network science modelling of sparse
       neural networks enables transformers and LLMs to perform as fully connected", 2024.

    Examples
    --------
    >>> cht(soft=True).needs
    ()
    """
    l3_scores(LayerGraph.from_edge_ids([], (0, 0)), method=method)
    if removal not in _REMOVALS:
        raise ValueError(f"unknown removal {removal!r}; expected one of {', '.join(_REMOVALS)}")
    if soft_removal and chain_removal:
        raise ValueError("expected soft_removal or chain_removal, got both")
    choose = sample_by_score if soft else best_positive

    def importance(view: LayerView) -> NDArray[Any]:
        return np.abs(view.values) if removal == "magnitude" else relative_magnitude(view)

    def drop(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        if soft_removal:
            exponent = 1 + 2 * float(view.extra.get("progress", 0.0))
            return softly(importance(view), n, rng, exponent=exponent)
        return lowest(importance(view), n)

    def grow(
        view: LayerView, occupied: LayerGraph, n: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        return choose(occupied, n, l3_scores(occupied, method=method), rng)

    if not chain_removal:
        return UpdateRule(drop, grow, init_named(init))
    return _with_chain_removal(importance, grow, init)


def _with_chain_removal(
    importance: Callable[[LayerView], NDArray[Any]], grow: Grow, init: str
) -> UpdateRule:
    """Return the rule that drops the least important edges, then those on no input-output path."""

    def prepare(views: Mapping[str, LayerView], drop_fraction: float) -> Extras:
        small = {
            name: lowest(importance(view), drop_count(view.graph, drop_fraction))
            for name, view in views.items()
        }
        kept = {name: np.ones(view.graph.n_edges, bool) for name, view in views.items()}
        for name, positions in small.items():
            kept[name][positions] = False
        dead = dead_edges(views, kept)
        return {name: {"leaving": np.concatenate([small[name], dead[name]])} for name in views}

    def plan(
        views: Mapping[str, LayerView], *, drop_fraction: float, progress: float
    ) -> dict[str, tuple[int, int]]:
        result = {}
        for name, view in views.items():
            graph = view.graph
            n = min(view.required("leaving").size, max(0, graph.n_edges - 1))
            result[name] = (n, n) if graph.n_absent else (0, 0)
        return result

    def drop(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        leaving = view.required("leaving")
        if n > leaving.size:
            raise ValueError(f"expected n_drop of at most {leaving.size}, got {n}")
        return np.sort(leaving[:n])

    typed_prepare: Prepare = prepare
    typed_drop: Drop = drop
    return UpdateRule(typed_drop, grow, init_named(init), prepare=typed_prepare, plan=plan)
