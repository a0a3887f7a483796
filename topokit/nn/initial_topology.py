"""Starts that are no random graph: a file with a user's masks, and SNIP's most sensitive edges."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.graph import LayerGraph, Topology, chain_widths
from topokit.graph.convert import load_topology
from topokit.nn.extract import topology_of
from topokit.rules.budget import global_lowest
from topokit.rules.drop import lowest

__all__ = ["STARTS", "from_file", "snip"]

Array = NDArray[Any]


def from_file(
    x: Array,
    y: Array,
    /,
    *,
    widths: Sequence[int],
    density: Sequence[float] | None = None,
    rng: np.random.Generator,
    path: str,
) -> Topology:
    """Start from the edges in a file: a topology, masks, or a sparse or pruned network.

    Parameters
    ----------
    x, y : array
        Not looked at.
    widths : sequence of int
        Of the network that is to start.
    density : None
        The edges are those of the file.
    rng : numpy.random.Generator
        Not drawn from.
    path : str
        A topology saved by `topokit.save_topology` (``.npz``), or a checkpoint that
        `topokit.topology_of` reads.

    Returns
    -------
    dict of LayerGraph
        Layers ``fc1``, ``fc2``, ... in the order of the file; ``conv1``, ... keep their names.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it is damaged, or its layers have other widths.

    Examples
    --------
    >>> import tempfile
    >>> from topokit.graph.convert import save_topology
    >>> path = os.path.join(tempfile.mkdtemp(), "mask.npz")
    >>> save_topology(path, {"mask": LayerGraph.from_edge_ids([0, 5], (2, 3))})
    >>> from_file(np.empty(0), np.empty(0), widths=[3, 2], path=path, rng=np.random.default_rng(0))
    {'fc1': LayerGraph(3 -> 2, 2 edges)}
    """
    source = Path(os.path.expanduser(path))
    found = load_topology(source) if source.suffix.lower() == ".npz" else topology_of(source)
    kernels = {name: graph for name, graph in found.items() if name.startswith("conv")}
    others = [graph for name, graph in found.items() if name not in kernels]
    layers = {f"fc{i}": graph for i, graph in enumerate(others, start=1)}
    if chain_widths(layers) != list(widths):
        words = ", ".join(f"{g.n_in} -> {g.n_out}" for g in others) or "no layers"
        raise ValueError(
            f"topology.path: expected layers of widths {list(widths)} in {source}, got {words}"
        )
    return {**kernels, **layers}


def snip(
    x: Array,
    y: Array,
    /,
    *,
    widths: Sequence[int],
    density: Sequence[float],
    rng: np.random.Generator,
    samples: int = 128,
    budgets: str = "network",
    block_cells: int = 1 << 22,
) -> Topology:
    r"""Start from the edges to whose removal the loss of the untrained network is most sensitive.

    A dense ReLU network is drawn at random, and every weight scored by
    :math:`|w \, \partial L / \partial w|` on one batch; the highest scores stay.

    Parameters
    ----------
    x : (n, widths[0]) array
        Training samples.
    y : (n,) int array
        Their classes.
    widths : sequence of int
        Units of each layer, input first.
    density : sequence of float
        Of each layer, in (0, 1]; with ``budgets="network"`` only their sum of edges counts.
    rng : numpy.random.Generator
        Draws the batch and the dense weights, normal with variance ``2 / n_in``.
    samples : int
        In the batch.
    budgets : {"network", "layer"}
        One ranking for the whole network, as in the paper, or one for each layer. Every layer
        keeps its best edge.
    block_cells : int
        Bound on the cells of a layer that are formed at once (at least one row).

    Returns
    -------
    dict of LayerGraph
        With exactly the budget's edges.

    Raises
    ------
    ValueError
        If the samples do not fit the widths or have no labels, or a choice is unknown.

    Notes
    -----
    Dense weights are drawn anew, block by block, whenever they are needed, so no layer is ever
    held whole: memory O(samples * units + edges * layers + block_cells), time
    O(samples * n_out * n_in).

    Differences from the authors' code: weights of the sparse network are drawn anew by the model's
    own initialisation; dense weights are normal with He's variance where theirs have variance
    scaling by 1 / n_in; no layer is ever left without edges; edges of score 0 (dead units) come
    last, in random order.

    References
    ----------
    .. [1] Lee, Ajanthan, Torr, "SNIP: single-shot network pruning based on connection
       sensitivity", ICLR 2019.

    Examples
    --------
    Only the first of three inputs varies; its edges are the ones that matter.

    >>> x, y = np.zeros((40, 3)), np.arange(40) % 2
    >>> x[:, 0] = y + 1
    >>> rng = np.random.default_rng(0)
    >>> start = snip(x, y, widths=[3, 9, 2], density=[0.1, 0.5], budgets="layer", rng=rng)
    >>> start["fc1"].fan_out
    array([3, 0, 0])
    """
    x, y = np.asarray(x, np.float32), np.asarray(y)
    if x.ndim != 2 or x.shape[1] != widths[0]:
        raise ValueError(
            f"the start 'snip' needs a network whose first layer sees the samples: expected "
            f"{x.shape[-1]} inputs, got {widths[0]}"
        )
    if not y.size or y.min() < 0:
        raise ValueError("the start 'snip' needs samples with labels, got none")
    if budgets not in ("network", "layer"):
        raise ValueError(f"expected budgets to be 'network' or 'layer', got {budgets!r}")
    if samples < 1:
        raise ValueError(f"expected samples of at least 1, got {samples}")
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    counts = [max(1, round(d * a * b)) for d, (a, b) in zip(density, shapes, strict=True)]
    batch = rng.permutation(len(x))[:samples]
    dense = _Dense(shapes, int(rng.integers(2**62)), block_cells)
    most = [min(a * b, sum(counts)) for a, b in shapes] if budgets == "network" else counts
    best = _most_sensitive(dense, x[batch], y[batch], most)
    if budgets == "network":
        taken = global_lowest(
            {
                str(i): -scores[np.argsort(-scores, kind="stable")][1:]
                for i, (_, scores) in enumerate(best)
            },
            sum(counts) - len(best),
            caps={str(i): scores.size - 1 for i, (_, scores) in enumerate(best)},
        )
        counts = [1 + n for n in taken.values()]
    return {
        f"fc{i}": LayerGraph.from_edge_ids(ids[lowest(-scores, n)], shape)
        for i, ((ids, scores), n, shape) in enumerate(zip(best, counts, shapes, strict=True), 1)
    }


def _shared(best: list[tuple[Array, Array]], total: int) -> list[int]:
    """How many edges each layer has among the network's best, and one at least."""
    rest = {str(i): np.sort(-scores)[1:] for i, (_, scores) in enumerate(best)}
    caps = {name: scores.size for name, scores in rest.items()}
    return [1 + n for n in global_lowest(rest, total - len(best), caps=caps).values()]


class _Dense:
    """Dense layers that exist a block of rows at a time, the same values each time."""

    def __init__(self, shapes: list[tuple[int, int]], seed: int, block_cells: int) -> None:
        self.shapes, self.seed, self.block_cells = shapes, seed, block_cells

    def rng(self, *place: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *place])

    def blocks(self, layer: int) -> Iterator[tuple[slice, Array]]:
        n_out, n_in = self.shapes[layer]
        step = max(1, self.block_cells // max(1, n_in))
        for start in range(0, n_out, step):
            rows = slice(start, min(start + step, n_out))
            weight = self.rng(layer, start, 0).standard_normal(
                (rows.stop - start, n_in), dtype=np.float32
            )
            yield rows, weight * np.float32(np.sqrt(2 / n_in))


def _most_sensitive(
    dense: _Dense, x: Array, y: Array, most: list[int]
) -> list[tuple[Array, Array]]:
    """The `most` most sensitive edges of each layer: ids, increasing, and scores."""
    inputs = [x]
    for layer, (n_out, _) in enumerate(dense.shapes):
        answer = np.empty((len(x), n_out), np.float32)
        for rows, weight in dense.blocks(layer):
            answer[:, rows] = inputs[-1] @ weight.T
        inputs.append(np.maximum(answer, 0) if layer < len(dense.shapes) - 1 else answer)
    scores = np.exp(inputs[-1] - inputs[-1].max(axis=1, keepdims=True))
    gradient = scores / scores.sum(axis=1, keepdims=True)
    gradient[np.arange(len(y)), y] -= 1
    result = []
    for layer in range(len(dense.shapes) - 1, -1, -1):
        fed, n_in = inputs[layer], dense.shapes[layer][1]
        back = np.zeros_like(fed)
        ids, values = np.empty(0, np.int64), np.empty(0, np.float32)
        for rows, weight in dense.blocks(layer):
            block = np.abs(weight * (gradient[:, rows].T @ fed)).ravel()
            idle = block == 0
            block[idle] = -dense.rng(layer, rows.start, 1).random(np.count_nonzero(idle))
            chosen = lowest(-block, min(most[layer], block.size))
            ids = np.concatenate([ids, chosen + rows.start * n_in])
            values = np.concatenate([values, block[chosen]])
            keep = lowest(-values, min(most[layer], values.size))
            ids, values = ids[keep], values[keep]
            back += gradient[:, rows] @ weight
        result.append((ids, values))
        gradient = back * (fed > 0)
    return result[::-1]


STARTS: dict[str, Callable[..., Topology]] = {"file": from_file, "snip": snip}
"""Starts by name: ``(x, y, /, *, widths, density, rng, **params) -> Topology``."""
