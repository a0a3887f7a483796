"""Rules that keep a structure of the graph: a unit's number of inputs, N:M patterns, blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topokit.graph import LayerGraph, distinct, top_absent
from topokit.rules.budget import by_leaving
from topokit.rules.drop import NAN, lowest, smallest_magnitude
from topokit.rules.init import zero_or_kept
from topokit.rules.rewire import (
    Extras,
    Grow,
    Init,
    LayerView,
    Memory,
    UpdateRule,
    drop_count,
)
from topokit.rules.stream import absent_drawn, stream_of
from topokit.tables import is_integer, is_number, need

__all__ = ["best_of_each_block", "block_sparse", "n_to_m", "srigl"]

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
        n_blocks = -(-n_in // size)

        def wanted(unit: int, present: NDArray[np.int64]) -> NDArray[np.int64]:
            lost = np.bincount(_inputs(before, unit) // size, minlength=n_blocks)
            return lost - np.bincount(present // size, minlength=n_blocks)

        return _largest_gradients(view, occupied, missing, size, wanted, rng)

    return grow


def _largest_gradients(
    view: LayerView,
    occupied: LayerGraph,
    missing: NDArray[np.int64],
    size: int,
    wanted: Callable[[int, NDArray[np.int64]], NDArray[np.int64]],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return ids of absent edges of largest gradient, so many for each unit and block of inputs.

    Parameters
    ----------
    missing : (n_out,) array
        How many edges each output unit gets.
    size : int
        Input units in a block.
    wanted : callable
        ``wanted(unit, present)``, how many of each block, given the unit's present inputs.
    """
    n_in = occupied.n_in
    width, height = n_in // occupied.groups, max(1, occupied.n_out // occupied.groups)
    step = max(1, _BLOCK // max(1, n_in))
    grown, stream = [np.empty(0, np.int64)], stream_of(rng)
    for start in range(0, occupied.n_out, step):
        lost = missing[start : start + step]
        if not lost.any():
            continue
        scores = _magnitudes(view, slice(start, start + lost.size))
        for row in np.flatnonzero(lost):
            unit = start + int(row)
            first = unit // height * width  # of the columns of the unit's group
            present = _inputs(occupied, unit)
            free = first + np.delete(np.arange(width), present - first)
            # best first within each block; those wanted are the first ones of their block
            ties = stream.uniforms(unit * n_in + free)
            order = np.lexsort((ties, -scores[row, free], free // size))
            block = free[order] // size
            rank = np.arange(free.size) - np.searchsorted(block, block)
            grown.append(unit * n_in + free[order[rank < wanted(unit, present)[block]]])
    return np.sort(np.concatenate(grown))


def _magnitudes(view: LayerView, rows: slice) -> NDArray[Any]:
    """Return ``abs(dL/dw)`` of all possible edges of some rows."""
    scores = np.abs(view.dense_grad(rows))
    if np.isnan(scores).any():
        raise ValueError("expected gradients without nan; did training diverge?")
    return scores


def _inputs(graph: LayerGraph, unit: int) -> NDArray[np.int64]:
    """Return the input units of an output unit."""
    return graph.indices[graph.indptr[unit] : graph.indptr[unit + 1]].astype(np.int64)


def srigl(*, regrown: str = "zero", gamma_sal: float | None = None) -> UpdateRule:
    """Structured RigL: as `rigl`, but each output unit keeps its number of inputs.

    The smallest magnitudes of the layer are dropped; then each unit that lost edges grows as many,
    those of largest gradient. From a start of constant fan-in, it stays constant.

    Parameters
    ----------
    regrown : str
        Value of an edge dropped and grown again in one rewiring: ``"zero"`` or ``"keep"``, as in
        the authors' code.
    gamma_sal : float, optional
        In (0, 1]: ablate units, as the authors do (0.3 in their convolutional networks, 0.95 in
        transformers). An edge is salient if its magnitude is among those that stay or its gradient
        among those of the layer's n largest, n being the number of edges replaced. A unit with
        fewer than ``max(1, floor(gamma_sal * k))`` salient ones, where k is the fan-in without
        ablation, loses all its edges. The others all get the same fan-in, the largest that the
        layer's initial number of edges allows; so a layer may have fewer edges than at the start,
        by less than its number of units. Units of the last layer are never ablated, and as many
        others stay as are needed for the edges. An ablated unit whose gradients become salient
        returns.

    Raises
    ------
    ValueError
        If `regrown` is neither, or `gamma_sal` out of range; when it is asked to grow other than as
        many edges as it drops; with `gamma_sal`, if a layer has fewer edges than output units.

    Notes
    -----
    Needs the inputs and output gradients of the last batch, O(samples * (n_in + n_out)) memory
    beyond the edges; gradients are formed by row blocks of bounded size.

    Differences from the authors' code: there units are ablated by default; a start of varying
    fan-in is refused there, and here keeps each unit's fan-in or, with `gamma_sal`, becomes
    constant; weights of 0 are not dropped beyond the drop fraction; edges of ablated units all
    leave, where theirs may keep some if there are more of them than edges to drop; a unit with more
    edges than the new fan-in loses its smallest, there arbitrary ones; gradients of 0 are never
    salient; the optimizer's state of kept edges is carried, where theirs is masked.

    References
    ----------
    .. [1] Lasby, Golubeva, Evci, Nica, Ioannou, "Dynamic sparse training with structured sparsity",
       ICLR 2024, arXiv 2305.02299.

    Examples
    --------
    >>> srigl().needs
    ('gradient',)
    """
    init = zero_or_kept(regrown)
    if gamma_sal is not None:
        good = is_number(gamma_sal) and 0 < gamma_sal <= 1
        need(good, "gamma_sal", "a number above 0 and at most 1", gamma_sal)
        return _ablating(float(gamma_sal), init)
    return UpdateRule(smallest_magnitude, best_of_each_block(None), init, needs=("gradient",))


def _ablating(gamma: float, init: Init) -> UpdateRule:
    """Return the rule that ablates units of few salient edges and makes the fan-in constant."""

    def prepare(views: Mapping[str, LayerView], drop_fraction: float) -> Extras:
        last = [*views][-1:]
        return {
            name: dict(zip(("leaving", "fan_in"), decided, strict=True))
            for name, view in views.items()
            if not view.extra.get("fixed")
            for decided in [_ablation(view, 0.0 if name in last else gamma, drop_fraction)]
        }

    def plan(
        views: Mapping[str, LayerView], *, drop_fraction: float, progress: float
    ) -> dict[str, tuple[int, int]]:
        counts = {}
        for name, view in views.items():
            n_drop = view.required("leaving").size
            counts[name] = n_drop, int(view.required("fan_in").sum()) - view.graph.n_edges + n_drop
        return counts

    def drop(view: LayerView, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return view.required("leaving")

    def grow(
        view: LayerView, occupied: LayerGraph, n: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        missing = view.required("fan_in") - occupied.fan_in
        size = max(1, occupied.n_in)
        return _largest_gradients(
            view, occupied, missing, size, lambda unit, _: missing[unit : unit + 1], rng
        )

    budget = Memory(lambda view: np.array([view.graph.n_edges]), lambda update, kept, values: kept)
    return UpdateRule(
        drop, grow, init, needs=("gradient",), prepare=prepare, plan=plan,
        memory={"budget": budget},
    )  # fmt: skip


def _ablation(
    view: LayerView, gamma: float, drop_fraction: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions that leave a layer, and the fan-in of each unit after the rewiring.

    Idea: count the salient edges of each unit, ablate those with too few, share the layer's edges
    equally among the others; then drop what ablated units have, the smallest of the rest up to the
    drop fraction, and what exceeds the new fan-in. O(n_edges log n_edges) besides the gradients.
    """
    graph, n_drop = view.graph, drop_count(view.graph, drop_fraction)
    if not n_drop:
        return np.empty(0, np.int64), graph.fan_in
    budget = int(view.extra.get("budget", [graph.n_edges])[0])
    fan_in, width = budget // graph.n_out, graph.n_in // graph.groups
    if not fan_in:
        raise ValueError(
            f"a rule that ablates units needs at least one edge for each, got {budget} edges for "
            f"{graph.n_out} output units"
        )
    magnitude, rows = np.abs(view.values), graph.rows
    stays = magnitude > 0
    stays[lowest(magnitude, n_drop)] = False
    salient = distinct(np.concatenate([graph.edge_ids[stays], _steepest(view, n_drop)]))
    counts = np.bincount(salient // graph.n_in, minlength=graph.n_out)
    needed = -(-budget // width)
    fewest = min(max(1, int(gamma * fan_in)), int(np.sort(counts)[-needed])) if gamma else 0
    active = counts >= fewest
    target = np.where(active, min(width, budget // int(np.count_nonzero(active))), 0)
    # ablated units first, then the smallest magnitudes
    order = np.lexsort((np.arange(graph.n_edges), magnitude, active[rows]))
    leaves = np.zeros(graph.n_edges, bool)
    leaves[order[: max(n_drop, np.count_nonzero(~active[rows]))]] = True
    rest = np.flatnonzero(~leaves)
    rest = rest[np.lexsort((-magnitude[rest], rows[rest]))]  # by unit, the largest first
    rank = np.arange(rest.size) - np.searchsorted(rows[rest], rows[rest])
    leaves[rest[rank >= target[rows[rest]]]] = True
    return np.flatnonzero(leaves), target


def _steepest(view: LayerView, n: int) -> NDArray[np.int64]:
    """Return the ids of the n possible edges of largest gradient, those of gradient 0 left out."""
    graph = view.graph
    none = LayerGraph.from_edge_ids([], graph.shape, graph.groups)
    n = min(n, graph.n_possible)
    ids = top_absent(none, n, lambda part: _magnitudes(view, part), block_cells=_BLOCK)
    chosen = LayerGraph.from_edge_ids(ids, graph.shape, graph.groups)
    alone = LayerView(chosen, np.zeros(n), view.inputs, output_grad=view.output_grad)
    return ids[alone.edge_grad() != 0]


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
    .. [1] Mishra et al., "Accelerating sparse deep neural networks", arXiv 2104.08378, 2021 (the
       2:4 pattern).

    Examples
    --------
    >>> n_to_m(m=8).needs
    ('gradient',)
    """
    if m < 2:
        raise ValueError(f"expected m of at least 2, got {m}")
    return srigl(regrown=regrown)._replace(grow=best_of_each_block(m))


def block_sparse(*, size: int = 4) -> UpdateRule:
    """Drop and grow blocks of ``size x size`` edges: those of smallest mean magnitude, at random.

    The weight matrix is divided into square blocks. The blocks of smallest mean magnitude leave, as
    many as the drop fraction allows; then blocks without edges, drawn uniformly, get all theirs,
    with weight 0. Blocks that have only a part of their edges are completed before. So from a start
    of whole blocks they stay whole, and any other start becomes one of blocks over the rewirings.

    Parameters
    ----------
    size : int
        Output units and input units of a block, at least 2. Of a convolution the columns are those
        of the stored weight, channels times kernel cells. At the borders blocks are smaller where
        it does not divide the sizes; the number of edges then stays exact by a last block that is
        not complete.

    Raises
    ------
    ValueError
        If `size` is below 2 or a weight is ``nan``.

    Notes
    -----
    O(n_edges log n_edges); never forms all blocks.

    The paper trains language models that are always sparse by dropping the smallest magnitudes and
    re-allocating at random, with blocks of up to 16 x 16. Our interpretation, as the code could not
    be checked: a block's importance is the mean of its magnitudes (the order of the L1 norm among
    whole blocks); grown weights are 0; drops and growth are layer by layer.

    References
    ----------
    .. [1] Dietrich, Gressmann, Orr, Chelombiev, Justus, Luschi, "Towards structured dynamic sparse
       pre-training of BERT", arXiv 2108.06277, 2021.

    Examples
    --------
    Of three blocks of 2 x 2 the second has the smallest weights:

    >>> graph = LayerGraph.from_edge_ids([0, 1, 2, 3, 6, 7, 8, 9, 16, 17, 22, 23], (4, 6))
    >>> view = LayerView(graph, np.array([9.0, 9, 1, 1, 9, 9, 1, 1, 9, 9, 9, 9]))
    >>> rule = block_sparse(size=2)
    >>> extras = rule.prepare({"fc1": view}, 0.34)
    >>> rule.drop(LayerView(graph, view.values, extra=extras["fc1"]), 4, None).tolist()
    [2, 3, 6, 7]
    """
    if not is_integer(size, 2):
        raise ValueError(f"expected a block size of at least 2, got {size!r}")

    def leaving(
        views: Mapping[str, LayerView], drop_fraction: float
    ) -> dict[str, NDArray[np.int64]]:
        return {
            name: _smallest_blocks(view, size, drop_count(view.graph, drop_fraction))
            for name, view in views.items()
        }

    def grow(
        view: LayerView, occupied: LayerGraph, n: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        ids = _random_blocks(occupied, size, n, rng)
        return LayerGraph.from_ids_in_groups(ids, occupied.shape, occupied.groups).edge_ids

    return by_leaving(leaving, grow, "zeros")


class _Blocks(NamedTuple):
    """The square blocks of a matrix of `rows` x `columns` cells; both are numbered by rows."""

    rows: int
    columns: int
    size: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-self.rows // self.size), -(-self.columns // self.size)

    def of(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the block of each cell."""
        row, column = np.divmod(cells, self.columns)
        return row // self.size * self.shape[1] + column // self.size

    def cells(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the cells of some blocks, block by block."""
        first = np.divmod(blocks, self.shape[1])
        row, column = (
            (at * self.size)[:, None] + np.arange(self.size)
            for at in first
        )  # fmt: skip
        row, column = row[:, :, None], column[:, None, :]
        return (row * self.columns + column)[(row < self.rows) & (column < self.columns)]

    def sizes(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of cells of each block."""
        row, column = np.divmod(blocks, self.shape[1])
        high = np.minimum(self.size, self.rows - row * self.size)
        return high * np.minimum(self.size, self.columns - column * self.size)


def _blocks_of(graph: LayerGraph, size: int) -> _Blocks:
    """Return the blocks of the matrix of a graph's possible edges."""
    return _Blocks(graph.n_out, graph.n_in // graph.groups, size)


def _smallest_blocks(view: LayerView, size: int, most: int) -> NDArray[np.int64]:
    """Return positions of the edges of blocks of smallest mean magnitude, at most `most` edges."""
    magnitude = np.abs(view.values)
    if np.isnan(magnitude).any():
        raise ValueError(NAN)
    if not most:
        return np.empty(0, np.int64)
    own = _blocks_of(view.graph, size).of(view.graph.ids_in_groups)
    _, at, counts = np.unique(own, return_inverse=True, return_counts=True)
    means = np.bincount(at, magnitude) / counts
    order = np.lexsort((np.arange(means.size), means))
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    leaving = np.count_nonzero(counts[order].cumsum() <= most)
    by_block = np.argsort(rank[at], kind="stable")
    return by_block[: counts[order[:leaving]].sum()]


def _random_blocks(
    occupied: LayerGraph, size: int, n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return n absent cells that complete blocks, and then whole blocks, both in random order.

    Blocks without edges are absent edges of a graph whose units are rows and columns of blocks.
    """
    blocks, taken = _blocks_of(occupied, size), occupied.ids_in_groups
    touched, counts = np.unique(blocks.of(taken), return_counts=True)
    partial = rng.permutation(touched[counts < blocks.sizes(touched)])
    grown, step = [np.empty(0, np.int64)], max(1, _BLOCK // size**2)
    for start in range(0, partial.size, step):
        cells = blocks.cells(partial[start : start + step])
        grown.append(cells[~np.isin(cells, taken)][:n])
        n -= grown[-1].size
    while n:
        rest = LayerGraph.from_edge_ids(touched, blocks.shape)
        some = absent_drawn(rest, min(rest.n_absent, -(-n // size**2)), rng)
        grown.append(blocks.cells(rng.permutation(some))[:n])
        n -= grown[-1].size
        touched = distinct(np.concatenate([touched, some]))
    return np.sort(np.concatenate(grown))
