"""Rules that keep a structure of the graph: each unit's number of inputs, N:M patterns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from topokit.graph import LayerGraph
from topokit.rules.drop import smallest_magnitude
from topokit.rules.init import keep_regrown
from topokit.rules.rewire import Grow, LayerView, UpdateRule, zeros

__all__ = ["best_of_each_block", "n_to_m", "srigl"]

_BLOCK = 1 << 22  # cells of a block of rows


def best_of_each_block(m: int | None) -> Grow:
    """Return a function that replaces what each block of inputs of each output unit lost.

    Where a unit lost edges from one block, the absent edges of largest ``abs(dL/dw)`` from that
    block are grown, as many as were lost; those without gradient are drawn uniformly, after those
    with one. It reads ``view.inputs`` and ``view.output_grad``.

    Parameters
    ----------
    m : int or None
        Blocks are m consecutive input units, the last of them what is left; None is one block.

    Returns
    -------
    callable
        ``grow(view, occupied, n, rng) -> (n,) edge ids``. It raises a ValueError if `n` is not the
        number of edges that were dropped. Time O(samples * n_out * n_in + n_out * n_in log n_in),
        in bounded blocks of rows.

    Examples
    --------
    The second unit lost both its edges; its gradients are 3, 1 and 2.

    >>> before = LayerGraph.from_edge_ids([0, 1, 3, 4], (2, 3))
    >>> view = LayerView(before, np.ones(4), inputs=np.array([[3.0, 1, 2]]),
    ...                  output_grad=np.array([[1.0, 1]]))
    >>> occupied, rng = LayerGraph.from_edge_ids([0, 1], (2, 3)), np.random.default_rng(0)
    >>> best_of_each_block(None)(view, occupied, 2, rng).tolist()
    [3, 5]
    >>> best_of_each_block(2)(view, occupied, 2, rng).tolist()
    [3, 4]
    """

    def grow(
        view: LayerView, occupied: LayerGraph, n: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        before, n_in = view.graph, occupied.n_in
        missing = before.fan_in - occupied.fan_in
        if n != missing.sum():
            raise ValueError(
                f"a rule that keeps each unit's fan-in grows as many edges as it drops: expected "
                f"n_grow={missing.sum()}, got {n}"
            )
        size = max(1, n_in) if m is None else m
        width, height = n_in // occupied.groups, max(1, occupied.n_out // occupied.groups)
        step = max(1, _BLOCK // max(1, n_in))
        grown = [np.empty(0, np.int64)]
        for start in range(0, occupied.n_out, step):
            lost = missing[start : start + step]
            if not lost.any():
                continue
            scores = np.abs(view.dense_grad(slice(start, start + lost.size)))
            if np.isnan(scores).any():
                raise ValueError("expected gradients without nan; did training diverge?")
            for row in np.flatnonzero(lost):
                unit = start + int(row)
                first = unit // height * width  # of the columns of the unit's group
                present = _inputs(occupied, unit)
                free = first + np.delete(np.arange(width), present - first)
                n_blocks = -(-n_in // size)
                wanted = np.bincount(_inputs(before, unit) // size, minlength=n_blocks)
                wanted -= np.bincount(present // size, minlength=n_blocks)
                # best first within each block; those wanted are the first ones of their block
                order = np.lexsort((rng.random(free.size), -scores[row, free], free // size))
                block = free[order] // size
                rank = np.arange(free.size) - np.searchsorted(block, block)
                grown.append(unit * n_in + free[order[rank < wanted[block]]])
        return np.sort(np.concatenate(grown))

    return grow


def _inputs(graph: LayerGraph, unit: int) -> NDArray[np.int64]:
    """Return the input units of an output unit."""
    return graph.indices[graph.indptr[unit] : graph.indptr[unit + 1]].astype(np.int64)


def srigl(*, regrown: str = "zero") -> UpdateRule:
    """Structured RigL: as `rigl`, but each output unit keeps its number of inputs.

    The smallest magnitudes of the layer are dropped; then each unit that lost edges grows as many,
    those of largest gradient. From a start of constant fan-in, it stays constant.

    Parameters
    ----------
    regrown : str
        Value of an edge dropped and grown again in one rewiring: ``"zero"`` or ``"keep"``, as in
        the authors' code.

    Raises
    ------
    ValueError
        If `regrown` is neither; when it is asked to grow other than as many edges as it drops.

    Notes
    -----
    Needs the inputs and output gradients of the last batch, O(samples * (n_in + n_out)) memory
    beyond the edges; gradients are formed by row blocks of bounded size.

    Differences from the authors' code: units are not ablated (there, a unit of which too few edges
    are salient loses all of them, and the others get larger fan-ins); a start of varying fan-in is
    refused there and keeps each unit's fan-in here; weights of 0 are not dropped beyond the drop
    fraction; the optimizer's state of kept edges is carried, where theirs is masked.

    References
    ----------
    .. [1] Lasby, Golubeva, Evci, Nica, Ioannou, "Dynamic sparse training with structured sparsity",
       ICLR 2024, arXiv 2305.02299.

    Examples
    --------
    >>> srigl().needs
    ('gradient',)
    """
    if regrown not in ("zero", "keep"):
        raise ValueError(f"expected regrown to be 'zero' or 'keep', got {regrown!r}")
    init = zeros if regrown == "zero" else keep_regrown(zeros)
    return UpdateRule(smallest_magnitude, best_of_each_block(None), init, needs=("gradient",))


def n_to_m(*, m: int = 4, regrown: str = "zero") -> UpdateRule:
    """RigL within an N:M pattern: no more than N of each M consecutive inputs, as in the start.

    The smallest magnitudes of the layer are dropped; then each output unit that lost edges from m
    consecutive input units grows as many from these, those of largest gradient. So each output unit
    keeps its number of inputs from every m consecutive ones: from an N:M start, the pattern stays
    N:M. It is topokit's own combination of `rigl` with such a pattern, not a published method.

    Parameters
    ----------
    m : int
        Size of a block of consecutive input units, at least 2; hardware supports 2 of 4. Where it
        does not divide the number of inputs, the last block is smaller.
    regrown : str
        As in `rigl`.

    Raises
    ------
    ValueError
        If a parameter is out of range; when it is asked to grow other than as many edges as it
        drops.

    Notes
    -----
    Needs what `srigl` needs. A full block cannot change: with N = M, nothing moves.

    References
    ----------
    .. [1] Mishra et al., "Accelerating sparse deep neural networks", 2021, arXiv 2104.08378 (the
       2:4 pattern).

    Examples
    --------
    >>> n_to_m(m=8).needs
    ('gradient',)
    """
    if m < 2:
        raise ValueError(f"expected m of at least 2, got {m}")
    return srigl(regrown=regrown)._replace(grow=best_of_each_block(m))
