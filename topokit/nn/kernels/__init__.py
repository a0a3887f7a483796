"""One product, y = x W^T + b with W given by a graph and its edge values, in three ways.

``csr``
    On the CPU the compiled kernels of `topokit.nn.kernels.cpu`: activations are kept as
    ``(units, batch)`` in memory, handed over as transposed views, so that every edge reads one
    contiguous row and no layer copies its input. On other devices ``torch.sparse`` CSR.
``dense``
    The edges are scattered into an ``(n_out, n_in)`` matrix and multiplied by the library.
``auto``
    Whichever is faster, from a measured crossover; `choose_kernel` says why.

All are one autograd function each and agree to rounding. The gradient of W exists at its edges
only.
"""

from __future__ import annotations

import numpy as np
import torch

from topokit.graph import LayerGraph, check_per_edge
from topokit.nn.kernels.autograd import NATIVE, PRODUCTS, EdgeIndex

__all__ = ["KERNELS", "EdgeIndex", "choose_kernel", "edge_product"]

KERNELS = ("auto", "csr", "dense")

# Densities above which the dense product is faster, forward and backward, for batches of up to
# LARGE_BATCH and for larger ones, whose rows no longer fit the nearest caches: measured on the CPU
# by benchmarks/training_step.py --crossover. For other devices an assumption.
CROSSOVER = (0.8, 0.35)
ASSUMED = 0.05
LARGE_BATCH = 256


def choose_kernel(
    kernel: str,
    graph: LayerGraph,
    device: torch.device | str = "cpu",
    *,
    batch: int = 128,
) -> tuple[str, str]:
    """Return the kernel in use, ``"csr"`` or ``"dense"``, and the reason in words.

    Parameters
    ----------
    kernel : {"auto", "csr", "dense"}
    graph : LayerGraph
    device : torch.device or str
    batch : int
        Number of samples.

    Raises
    ------
    ValueError
        If there is no such kernel.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids(range(0, 10**6, 100), (1000, 1000))
    >>> choose_kernel("auto", graph)
    ('csr', 'density 0.01 is below the crossover 0.8 measured on cpu, batch 128')
    """
    kind = torch.device(device).type
    choice = "dense" if _is_dense(kernel, graph, kind, batch) else "csr"
    if kernel != "auto":
        return choice, "asked for"
    if graph.n_edges == graph.n_out * graph.n_in:
        return choice, "the graph is complete"
    side = "above" if choice == "dense" else "below"
    origin = f"measured on cpu, batch {batch}" if kind == "cpu" else f"assumed on {kind}"
    limit = _crossover(kind, batch)
    return choice, f"density {graph.density:.2g} is {side} the crossover {limit:g} {origin}"


def _is_dense(kernel: str, graph: LayerGraph, kind: str, batch: int) -> bool:
    """Whether the dense product is to be taken: `choose_kernel` without its words."""
    if kernel not in KERNELS:
        raise ValueError(f"expected a kernel of {', '.join(KERNELS)}, got {kernel!r}")
    if kernel != "auto":
        return kernel == "dense"
    cells = graph.n_out * graph.n_in
    return graph.n_edges == cells or graph.n_edges > _crossover(kind, batch) * cells


def _crossover(kind: str, batch: int) -> float:
    """Density above which the dense product is faster."""
    return CROSSOVER[batch > LARGE_BATCH] if kind == "cpu" else ASSUMED


def edge_product(
    x: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    index: EdgeIndex,
    kernel: str = "auto",
    *,
    relu: bool = False,
) -> torch.Tensor:
    """Return ``x W^T + bias``, W having `values` at the edges of a graph and zeros elsewhere.

    Parameters
    ----------
    x : (..., n_in) tensor
        Any strides. A transposed view of ``(n_in, batch)`` memory is used without a copy.
    values : (n_edges,) tensor
        In the order of ``graph.indices``.
    bias : (n_out,) tensor or None
    index : EdgeIndex
    kernel : {"auto", "csr", "dense"}
    relu : bool
        Rectify the result on the way, and its gradient on the way back: the numbers of
        ``torch.relu`` without its passes over memory.

    Returns
    -------
    (..., n_out) tensor
        In memory a transposed view of ``(n_out, batch)``.

    Raises
    ------
    ValueError
        If sizes do not match.
    TypeError
        If dtypes or devices do not match.

    Notes
    -----
    ``csr`` takes O(n_edges * batch) time and O(n_edges) memory besides activations; ``dense``
    O(n_out * n_in) memory for the scattered matrix and its gradient. float16 and bfloat16 are
    computed in float32 and rounded once. Gradients can be taken once, not twice.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 2, 3], (2, 2))
    >>> values = torch.tensor([1.0, 2.0, 3.0])
    >>> edge_product(torch.ones(1, 2), values, None, EdgeIndex(graph), "dense")
    tensor([[1., 5.]])
    """
    graph = index.graph
    if x.shape[-1:] != (graph.n_in,):
        raise ValueError(f"expected an input of shape (..., {graph.n_in}), got {tuple(x.shape)}")
    check_per_edge(graph, values)
    if x.dtype != values.dtype and torch.is_autocast_enabled(x.device.type):
        x = x.to(values.dtype)
    for name, other in (("input", x), ("bias", bias)):
        if other is None:
            continue
        if other.dtype != values.dtype or other.device != values.device:
            raise TypeError(
                f"expected the {name} in {values.dtype} on {values.device} like the edge values, "
                f"got {other.dtype} on {other.device}; convert with .to()"
            )
    rows = x
    if x.ndim != 2:
        rows = x.reshape(-1, graph.n_in) if graph.n_in else x.new_zeros(_lead(x), 0)
    kind = x.device.type
    dense = _is_dense(kernel, graph, kind, rows.shape[0])
    function = PRODUCTS["dense" if dense else "compiled" if kind == "cpu" else "torch"]
    if x.dtype in NATIVE or dense:
        y = function.apply(rows, values, bias, index, relu)
    else:
        wide = None if bias is None else bias.float()
        y = function.apply(rows.float(), values.float(), wide, index, relu).to(x.dtype)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], graph.n_out)


def _lead(x: torch.Tensor) -> int:
    return int(np.prod(x.shape[:-1], dtype=np.int64))
