"""Initial topologies from a file, from a finished run or from data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from topokit.generators import randomized_twin
from topokit.graph import LayerGraph, Topology, chain_widths
from topokit.graph.convert import as_topology
from topokit.rules.budget import check_budgets, global_lowest
from topokit.rules.drop import lowest
from topokit.tables import Table, choose, is_integer

__all__ = ["INITIAL_TOPOLOGIES", "check_start", "from_file", "from_run", "snip"]

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
    """Read the initial topology from a file: a topology, masks, or a sparse or pruned network.

    Parameters
    ----------
    x, y : array
        Not used.
    widths : sequence of int
        Units of each layer, input first, that the file must have.
    density : None
        Not used: the edges are those of the file.
    rng : numpy.random.Generator
        Not used.
    path : str
        A topology saved by `topokit.save_topology` (``.npz``), or another file or run directory
        that `topokit.topology_of` reads.

    Returns
    -------
    dict of LayerGraph
        Layers ``fc1``, ``fc2``, ... in the order of the file; ``conv1``, ... keep their names.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it is damaged, or its layers have other widths.

    Notes
    -----
    O(n_edges), for dense masks O(n_out * n_in).

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
    found = as_topology(source)
    convolutions = {name: graph for name, graph in found.items() if name.startswith("conv")}
    others = [graph for name, graph in found.items() if name not in convolutions]
    layers = {f"fc{i}": graph for i, graph in enumerate(others, start=1)}
    if chain_widths(layers) != list(widths):
        words = ", ".join(f"{g.n_in} -> {g.n_out}" for g in others) or "no layers"
        raise ValueError(
            f"topology.path: expected layers of widths {list(widths)} in {source}, got {words}"
        )
    return {**convolutions, **layers}


def from_run(
    x: Array,
    y: Array,
    /,
    *,
    widths: Sequence[int],
    density: Sequence[float] | None = None,
    rng: np.random.Generator,
    run: str,
    edges: str = "same",
    weights: str = "fresh",
) -> Topology:
    """Start from the last graphs of a finished run, as they are or rearranged, and its weights.

    What a network has learnt is in its graph, in where the graph's hubs are, and in the weights;
    `edges` and `weights` keep one without the others.

    Parameters
    ----------
    x, y : array
        Not used.
    widths : sequence of int
        Units of each layer, input first, that the run must have.
    density : None
        Not used: the edges are those of the run.
    rng : numpy.random.Generator
        Draws what `edges` rearranges.
    run : str
        A finished run: the name of a run beside this one (in the same folder), or a path.
    edges : str
        ``"same"``: all as they are. ``"null"``: a random graph in each layer, in which every unit
        has its degrees (see `topokit.randomized_twin`). ``"moved"``: the graph of each layer with
        its units on both sides in random order, so that degrees and structure are those of other
        units; the same unit is no longer a hub of both its layers.
    weights : str
        ``"fresh"``: as any new network has. ``"signs"``: new absolute values with the signs of the
        run's. ``"values"``: the run's, with its biases and all other parameters. The last two need
        ``edges="same"``.

    Returns
    -------
    dict of LayerGraph
        Layers of the run. Weights are taken over by the run that is started.

    Raises
    ------
    ValueError
        If there is no finished run, its layers have other widths, or a choice is unknown.

    Notes
    -----
    O(n_edges), for null samples 20 times that.

    Examples
    --------
    >>> import tempfile, topokit as tk
    >>> path = os.path.join(tempfile.mkdtemp(), "first")
    >>> history = tk.run("set_mlp_digits", path, epochs=1, **{"model.widths": [64, 20, 10]})
    >>> rng = np.random.default_rng(0)
    >>> moved = from_run(
    ...     np.empty(0), np.empty(0), widths=[64, 20, 10], run=path, edges="moved", rng=rng
    ... )
    >>> sorted(moved["fc1"].fan_in) == sorted(history.topology(-1)["fc1"].fan_in)
    True
    """
    check_start(edges=edges, weights=weights)
    source = Path(os.path.expanduser(run))
    if not (source / "DONE").is_file():
        raise ValueError(
            f"topology.run: expected a finished run to start from at {source}, found "
            f"{'an unfinished one' if (source / 'config.toml').is_file() else 'none'}"
        )
    found = as_topology(source)
    if chain_widths(found) != list(widths):
        words = ", ".join(f"{g.n_in} -> {g.n_out}" for g in found.values())
        raise ValueError(
            f"topology.run: expected layers of widths {list(widths)} in {source}, got {words}"
        )
    return {name: EDGES[edges](graph, rng) for name, graph in found.items()}


def _same(graph: LayerGraph, rng: np.random.Generator) -> LayerGraph:
    return graph


def _null(graph: LayerGraph, rng: np.random.Generator) -> LayerGraph:
    return randomized_twin(graph, rng=rng)


def _moved(graph: LayerGraph, rng: np.random.Generator) -> LayerGraph:
    """Return an isomorphic graph: the units of each side in random order."""
    (n_out, n_in), ids = graph.shape, graph.edge_ids
    rows, columns = rng.permutation(n_out)[ids // n_in], rng.permutation(n_in)[ids % n_in]
    return LayerGraph.from_edge_ids(np.sort(rows * n_in + columns), graph.shape)


EDGES: dict[str, Callable[[LayerGraph, np.random.Generator], LayerGraph]] = {
    "same": _same, "null": _null, "moved": _moved,
}  # fmt: skip
"""What a run that starts from another one has of its graphs."""

WEIGHTS = ("fresh", "signs", "values")
"""What a run that starts from another one has of its weights."""


def check_start(*, edges: str = "same", weights: str = "fresh", **_: Any) -> None:
    """Raise a ValueError unless these are choices of `from_run` that go together.

    Examples
    --------
    >>> check_start(edges="null", weights="signs")
    Traceback (most recent call last):
    ValueError: topology.weights: expected 'fresh' with edges 'null', whose edges are others than
    those the weights belong to, got 'signs'
    """
    choose("choice of edges", edges, EDGES)
    choose("choice of weights", weights, dict.fromkeys(WEIGHTS))
    if edges != "same" and weights != "fresh":
        raise ValueError(
            f"topology.weights: expected 'fresh' with edges {edges!r}, whose edges are others than "
            f"those the weights belong to, got {weights!r}"
        )


# SNIP scores every possible edge of a dense network, so its cost is that of dense training for one
# batch, but nothing dense needs to be held. Idea: the dense weights come from a random generator
# keyed by layer and first row of a block, so a block of rows can be drawn again whenever it is
# needed: once forward, once backward. Each layer keeps only its best candidates so far, at most as
# many as the network's budget. Why this way: a layer of 65,536 x 400,000 has 26 billion possible
# edges, 100 GB of weights alone, while the budget may be a few million.


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
    r"""Return the edges to whose removal the loss of an untrained network is most sensitive (SNIP).

    A dense ReLU network is drawn at random, and every weight scored by
    :math:`|w \, \partial L / \partial w|` on one batch; the highest scores are kept.

    Parameters
    ----------
    x : (n, widths[0]) array, or scipy.sparse array
        Training samples.
    y : (n,) int array
        Their classes.
    widths : sequence of int
        Units of each layer, input first.
    density : sequence of float
        Density of each layer, in (0, 1]; with ``budgets="network"`` only the total number of edges
        is used.
    rng : numpy.random.Generator
        Draws the batch and the dense weights, normal with variance ``2 / n_in``.
    samples : int
        Size of the batch, at least 1.
    budgets : {"network", "layer"}
        Rank the edges of the whole network, as in the paper, or those of each layer. Every layer
        keeps at least its best edge.
    block_cells : int
        Number of dense weights that are computed at once; at least one row is.

    Returns
    -------
    dict of LayerGraph
        Layers ``fc1``, ``fc2``, ... with exactly the budget's number of edges in all.

    Raises
    ------
    ValueError
        If the samples do not fit the widths or have no labels, or a choice is unknown.

    Notes
    -----
    Memory O(samples * units + edges * layers + block_cells), time O(samples * n_out * n_in): dense
    weights are drawn block by block and never kept.

    Differences from the authors' code: the sparse network has initial weights of its own, not those
    that were scored; dense weights have He's variance 2 / n_in where theirs have 1 / n_in; no layer
    is left without edges; edges of score 0 (dead units) are ranked last, in random order.

    References
    ----------
    .. [1] Lee, Ajanthan, Torr, "SNIP: single-shot network pruning based on connection
       sensitivity", ICLR 2019.

    Examples
    --------
    Only the first of three inputs varies; only its edges matter.

    >>> x, y = np.zeros((40, 3)), np.arange(40) % 2
    >>> x[:, 0] = y + 1
    >>> rng = np.random.default_rng(0)
    >>> topology = snip(x, y, widths=[3, 9, 2], density=[0.1, 0.5], budgets="layer", rng=rng)
    >>> topology["fc1"].fan_out
    array([3, 0, 0])
    """
    x, y = _samples(x), np.asarray(y)
    if x.ndim != 2 or x.shape[1] != widths[0]:
        raise ValueError(
            f"the initial topology 'snip' needs a network whose first layer has the samples as "
            f"input: expected {x.shape[-1]} inputs, got {widths[0]}"
        )
    known = y.dtype.kind in "iub"
    if not y.size or (known and y.min() < 0):
        raise ValueError("the initial topology 'snip' needs samples with labels, got none")
    if not known or y.shape != x.shape[:1]:
        raise ValueError(
            f"the initial topology 'snip' needs a class for each sample: expected {x.shape[0]} "
            f"whole numbers, got {y.dtype} of shape {y.shape}"
        )
    if y.max() >= widths[-1]:
        raise ValueError(
            f"the initial topology 'snip' needs an output unit for each class: expected labels in "
            f"0..{widths[-1] - 1}, got {y.max()}"
        )
    check_budgets(budgets)
    if not is_integer(samples, 1):
        raise ValueError(f"expected samples of at least 1, got {samples}")
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    if density is None or len(density) != len(shapes) or not all(0 < d <= 1 for d in density):
        raise ValueError(
            f"expected a density in (0, 1] for each of {len(shapes)} layers, got {density}"
        )
    counts = [max(1, round(d * a * b)) for d, (a, b) in zip(density, shapes, strict=True)]
    batch = rng.permutation(x.shape[0])[:samples]
    inputs = _samples(x[batch], dense=True)
    if not np.isfinite(inputs).all():
        raise ValueError("the initial topology 'snip' needs samples without nan, got some")
    dense = _Dense(shapes, int(rng.integers(2**62)), block_cells)
    most = [min(a * b, sum(counts)) for a, b in shapes] if budgets == "network" else counts
    best = _most_sensitive(dense, inputs, y[batch].astype(np.int64), most)
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


def _samples(x: Any, dense: bool = False) -> Any:
    """Return samples as an array of float32, or, unless they are to be dense, a sparse one."""
    sparse = bool(sp.issparse(x))
    if sparse and not dense:
        return x
    return x.toarray() if sparse else np.asarray(x, np.float32)


class _Dense:
    """Random dense layers, drawn in blocks of rows: the same values whenever a block is drawn."""

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
    """Return ids, increasing, and scores of the `most` most sensitive edges of each layer.

    One forward pass stores the inputs of each layer; one backward pass from the gradient of the
    cross-entropy scores the possible edges block by block.
    """
    inputs = [x]
    for layer, (n_out, _) in enumerate(dense.shapes):
        output = np.empty((len(x), n_out), np.float32)
        for rows, weight in dense.blocks(layer):
            output[:, rows] = inputs[-1] @ weight.T
        inputs.append(np.maximum(output, 0) if layer < len(dense.shapes) - 1 else output)
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


INITIAL_TOPOLOGIES: dict[str, Callable[..., Topology]] = {
    "file": from_file, "run": from_run, "snip": snip,
}  # fmt: skip
"""Functions ``(x, y, /, *, widths, density, rng, **params) -> Topology`` by name."""
INITIAL_TOPOLOGIES = Table("initial topology", INITIAL_TOPOLOGIES)
