"""Rules that keep a structure of the graph: each unit's number of inputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from topokit.graph import LayerGraph
from topokit.rules.drop import smallest_magnitude
from topokit.rules.init import keep_regrown
from topokit.rules.rewire import LayerView, UpdateRule, zeros

__all__ = ["best_of_each_unit", "srigl"]

_BLOCK = 1 << 22  # cells of a block of rows


def best_of_each_unit(
    view: LayerView, occupied: LayerGraph, n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Grow in each output unit as many edges as it lost, those of largest ``abs(dL/dw)``.

    Edges without gradient are drawn uniformly, after those with one. Read ``view.inputs`` and
    ``view.output_grad``. Time O(samples * n_out * n_in + n_out * n_in log n_in), in bounded blocks
    of rows.

    Raises
    ------
    ValueError
        If `n` is not the number of edges that were dropped.

    Examples
    --------
    The second unit lost both its edges; its gradients are 3, 1 and 2.

    >>> before = LayerGraph.from_edge_ids([0, 1, 3, 4], (2, 3))
    >>> view = LayerView(before, np.ones(4), inputs=np.array([[3.0, 1, 2]]),
    ...                  output_grad=np.array([[1.0, 1]]))
    >>> occupied = LayerGraph.from_edge_ids([0, 1], (2, 3))
    >>> best_of_each_unit(view, occupied, 2, np.random.default_rng(0)).tolist()
    [3, 5]
    """
    missing = view.graph.fan_in - occupied.fan_in
    if n != missing.sum():
        raise ValueError(
            f"a rule that keeps each unit's fan-in grows as many edges as it drops: expected "
            f"n_grow={missing.sum()}, got {n}"
        )
    width = occupied.n_in // occupied.groups
    height = max(1, occupied.n_out // occupied.groups)
    step = max(1, _BLOCK // max(1, occupied.n_in))
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
            present = occupied.indices[occupied.indptr[unit] : occupied.indptr[unit + 1]]
            free = first + np.delete(np.arange(width), present - first)
            ranked = np.lexsort((rng.random(free.size), -scores[row, free]))
            grown.append(unit * occupied.n_in + free[ranked[: lost[row]]])
    return np.sort(np.concatenate(grown))


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
    return UpdateRule(smallest_magnitude, best_of_each_unit, init, needs=("gradient",))
