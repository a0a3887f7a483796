r"""The product behind a sparse layer, ``y = x W^T + b``, and the kernels that compute it.

W has entries at the edges of a graph only, and so has its gradient. A layer chooses by name:

``csr``
    On the CPU the compiled kernels of `topokit.nn.kernels.cpu`, on graphics cards those of
    `topokit.nn.kernels.card` (where triton is installed), elsewhere ``torch.sparse``.
``dense``
    The edges are scattered into an ``(n_out, n_in)`` matrix, which torch multiplies.
``auto``
    Whichever is faster, from a measured crossover; `choose_kernel` returns the reason.

The modules, from the layer down: this one checks the input and chooses (`edge_product`);
`autograd` has the autograd function of eager training, `chain` that of several layers at once
(`edge_chain`), and `ops` the operators of everything else;
`products` has the ways of computing (`PRODUCTS`) and `EdgeIndex`, which derives the arrays they
need from a graph; `threads` describes a kernel's arguments and runs it on torch's threads; `cpu` is
the compiled code. For graphics cards `card` has the arrays of a graph and launches the kernels of
`card_kernels`, which are written in Triton.

**Two paths.** Ordinary training takes the autograd function: one node for product, bias and ReLU,
with `card` also for dropout after it, and one backward kernel; on the CPU one node for layers that
follow each other, with one call of compiled code forward and one backward. Where torch follows the
computation (`torch.compile`, ``torch.export``, ``torch.func``, forward-mode differentiation,
tracing), and for gradients that are differentiated again, the product is made of three operators of
the library ``topokit``, each the derivative of the others, or with ``dense`` of torch's own. There
``auto`` chooses by the density alone, so that what is compiled for one batch is right for another.

**Number types.** float32 and float64 are computed as they are, float16 and bfloat16 in float32 and
rounded once, complex64 and complex128 as products of real and imaginary parts; other types are
refused. On a card the kernels take float16 and bfloat16 as they are, with sums in float32 that
are rounded once. Under automatic mixed precision the product keeps the precision of the edge
values, in every layer and kernel.

**Arguments of a kernel.** A kernel gets one record of 64-bit integers: a header, then the kernel's
own fields, named and explained in `topokit.nn.kernels.threads`. A field is an address, a size or a
flag. Activations are ``(units, batch)`` in memory, the batch contiguous, with a stride from one
unit to the next, and are passed between layers as transposed views, so no layer copies its input.
Per-edge arrays are in the order of ``graph.indices``, that is of rows; kernels over columns get
each edge's position in that order. A *block* is 512 bytes of each unit's batch, small enough for
the first-level cache; a *tile* is a range of input units whose blocks fit the second-level cache.

**How threads share the work.** The rows (or columns) of a kernel are split into parts of about
equally many edges, four for each thread. Every thread runs the same compiled function on the same
record: it claims the next part by an atomic counter until none is left. Small products run on the
calling thread alone.

**Guarantees of a kernel.** It writes every element of its outputs, also in rows and columns without
edges, so outputs may be uninitialised. A part writes to its own rows alone, and the order of sums
within a row does not depend on the part, so results are the same bit for bit for any number of
threads. Sums over edges are taken in the order of edges within a tile (in backward products four at
a time); the order of sums over the batch depends on the machine's vector length, so two machines
agree up to rounding. A nan in the input reaches the output. Kernels allocate no memory, raise no
errors and release the GIL.

**How kernels are tested** (``tests/unit/test_nn_kernels.py``). Against dense algebra and
``gradcheck`` in double precision, over random graphs with empty and full rows and over batches
around every block and vector size; outputs in memory filled with nan, so that an element left out
shows; with one thread and several for equality of bits; tiles of several sizes; and the cache of
compiled code against edits of the source. A fault put into any kernel must make them fail.

**How to add a kernel.**

1. In `threads` add a NamedTuple of its arguments, and put the class last in `ARGUMENTS`.
2. In `cpu` write ``_name(call, first, last, dtype)``, which computes rows ``first`` to ``last - 1``
   with plain loops over arrays made by ``_matrix`` and ``_vector``, and add a branch to
   ``_run_part``.
3. Call it by ``run_kernel(Name(...), item_bytes=..., bounds=..., work=...)`` from an autograd
   function. Give every tensor whose address you pass a name that outlives the call.
4. Test it against the same formula in torch operations: forward, ``gradcheck``, odd batches, two
   threads.

For another device none of this is needed: write a class in a new module with the interface of
`topokit.nn.kernels.products.Product`, put it into `PRODUCTS`, and say with `use_on_device` where it
is to be used, as `card` does.

The Triton kernels are tested on machines without a card by Triton's interpreter
(``tests/unit/test_nn_card.py``), on a card by the same tests and by ``benchmarks/gpu.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from topokit.graph import LayerGraph, check_per_edge
from topokit.nn.kernels import card  # noqa: F401  adds its way of computing to PRODUCTS
from topokit.nn.kernels.autograd import Drawn, EdgeProduct
from topokit.nn.kernels.chain import EdgeChain, Link
from topokit.nn.kernels.ops import (
    Edges,
    autocast_on,
    composed,
    composed_product,
    edges_of,
    without_memory,
)
from topokit.nn.kernels.products import (
    FEW_OUTPUTS,
    NATIVE,
    PRODUCTS,
    EdgeIndex,
    sparse_product,
)

__all__ = [
    "DTYPES",
    "KERNEL_CHOICES",
    "EdgeIndex",
    "Edges",
    "check_input",
    "check_types",
    "choose_kernel",
    "edge_chain",
    "edge_product",
]

KERNEL_CHOICES = ("auto", "csr", "dense")
"""Valid values of a layer's ``kernel``."""

# Densities above which the dense product is faster, forward and backward, for batches of up to
# LARGE_BATCH and for larger ones, whose rows no longer fit the first caches: measured on the CPU
# by benchmarks/training_step.py --crossover.
CROSSOVER = (0.8, 0.35)
LARGE_BATCH = 256

# The same on a graphics card with the kernels of `card`, by what the dense product computes in:
# measured by benchmarks/gpu.py --crossover on one H200 (2026-11-27, torch 2.11, Triton 3.6; a layer
# of 3072 x 4000 units and batches of 128; 4096 x 4096 and batches of 1024).
ON_CARD = {
    "float32": (0.18, 0.15),
    "TF32": (0.057, 0.022),
    "float16 or bfloat16": (0.022, 0.013),
    "float64": (0.07, 0.027),
}
ASSUMED_CROSSOVER = 0.05  # for other devices, and for torch.sparse on a card without triton

Layer = tuple[torch.Tensor, torch.Tensor | None, EdgeIndex, str, bool]
MOST_CELLS = 1 << 22  # activations of a chain that are held although no gradient needs them


def choose_kernel(
    kernel: str,
    graph: LayerGraph,
    device: torch.device | str = "cpu",
    *,
    batch: int = 128,
    dtype: torch.dtype = torch.float32,
) -> tuple[str, str]:
    """Return the kernel in use, ``"csr"`` or ``"dense"``, and the reason in words.

    Parameters
    ----------
    kernel : {"auto", "csr", "dense"}
    graph : LayerGraph
    device : torch.device or str
    batch : int
        Number of samples.
    dtype : torch.dtype
        Number type of edge values and activations. On a graphics card dense products are several
        times faster in half precision, and in float32 where torch may use TF32
        (``torch.set_float32_matmul_precision``), so the choice depends on it; the reason says
        which dense product was compared with.

    Returns
    -------
    (str, str)

    Raises
    ------
    ValueError
        If `kernel` is unknown.

    Notes
    -----
    O(1).

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids(range(0, 10**6, 100), (1000, 1000))
    >>> choose_kernel("auto", graph)
    ('csr', 'density 0.01 is below the crossover 0.8 measured on cpu, batch 128')
    >>> choose_kernel("auto", graph, "cuda", dtype=torch.bfloat16)[0]
    'csr'
    """
    kind = torch.device(device).type
    choice = "dense" if _is_dense(kernel, graph, kind, batch, dtype) else "csr"
    if kernel != "auto":
        return choice, "asked for"
    if graph.n_edges == graph.n_possible:
        few = "" if choice == "dense" else f", with no more than {FEW_OUTPUTS} outputs on a card"
        return choice, f"the graph is complete{few}"
    side = "above" if choice == "dense" else "below"
    limit, origin = _crossover(kind, batch, dtype)
    return choice, f"density {graph.density:.2g} is {side} the crossover {limit:g} {origin}"


def _is_dense(
    kernel: str, graph: LayerGraph | Edges, kind: str, batch: int, dtype: torch.dtype
) -> bool:
    """Return whether the dense product is to be used: `choose_kernel` without the reason."""
    if kernel not in KERNEL_CHOICES:
        raise ValueError(f"expected a kernel of {', '.join(KERNEL_CHOICES)}, got {kernel!r}")
    if kernel != "auto":
        return kernel == "dense"
    groups = graph.groups if isinstance(graph, LayerGraph) else 1
    cells = graph.n_out * graph.n_in // groups
    if graph.n_edges == cells:
        few = graph.n_out <= FEW_OUTPUTS * groups
        return not (few and _dense_kind(kind, dtype) == "float32")
    return graph.n_edges > _crossover(kind, batch, dtype)[0] * cells


def _crossover(kind: str, batch: int, dtype: torch.dtype) -> tuple[float, str]:
    """Return the density above which the dense product is faster, and how it is known."""
    large = batch > LARGE_BATCH
    if kind == "cpu":
        return CROSSOVER[large], f"measured on cpu, batch {batch}"
    against = _dense_kind(kind, dtype)
    if not against:
        return ASSUMED_CROSSOVER, f"assumed on {kind}"
    known = f"measured with batches of {1024 if large else 128} against dense {against} on an H200"
    return ON_CARD[against][large], known


def _dense_kind(kind: str, dtype: torch.dtype) -> str:
    """Return which dense product a card's kernels compete with; "" where there are none."""
    if kind != "cuda" or sparse_product(kind) is not PRODUCTS["triton"]:
        return ""
    if dtype in (torch.float16, torch.bfloat16):
        return "float16 or bfloat16"
    if dtype == torch.float32 and _uses_tf32():
        return "TF32"
    return "float64" if dtype == torch.float64 else "float32"


def _uses_tf32() -> bool:
    """Return whether torch multiplies float32 matrices in TF32 on a card."""
    settings = torch.backends.cuda.matmul
    # Newer versions have two settings, and refuse to read the older once the newer was set.
    precision = getattr(settings, "fp32_precision", None)
    return settings.allow_tf32 if precision is None else precision == "tf32"


def edge_product(
    x: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    index: EdgeIndex | Edges,
    kernel: str = "auto",
    *,
    relu: bool = False,
    drawn: Drawn | None = None,
) -> torch.Tensor:
    """Return ``x W^T + bias``, W having `values` at the edges of a graph and zeros elsewhere.

    Parameters
    ----------
    x : (..., n_in) tensor
        Any strides. A transposed view of ``(n_in, batch)`` memory is used without a copy.
    values : (n_edges,) tensor
        In the order of ``graph.indices``.
    bias : (n_out,) tensor or None
    index : EdgeIndex or Edges
        A graph; as `Edges` where it is to be an input of what is compiled or transformed.
    kernel : {"auto", "csr", "dense"}
    relu : bool
        Apply ReLU to the result within the kernel, and its derivative within the backward kernel:
        the same values as ``torch.relu``, without reading and writing the activations again.
    drawn : Drawn, optional
        Apply dropout, by bits in the order of (n_out, batch) memory. After ReLU within the kernel,
        if that of the product is compiled, with the same values.

    Returns
    -------
    (..., n_out) tensor
        In memory a transposed view of ``(n_out, batch)``.

    Raises
    ------
    ValueError
        If sizes do not match.
    TypeError
        If dtypes or devices do not match, or are not supported.

    Notes
    -----
    ``csr`` takes O(n_edges * batch) time and O(n_edges) memory besides activations; ``dense``
    O(n_out * n_in) memory for the scattered matrix and its gradient. Number types are those of
    `DTYPES`. Gradients of any order exist; forward-mode differentiation is possible once, with
    ``dense`` any number of times.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 2, 3], (2, 2))
    >>> values = torch.tensor([1.0, 2.0, 3.0])
    >>> edge_product(torch.ones(1, 2), values, None, EdgeIndex(graph), "dense")
    tensor([[1., 5.]])
    """
    check_input(x)
    if autocast_on(x):
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(values.dtype) if x.is_floating_point() else x
            return edge_product(x, values, bias, index, kernel, relu=relu, drawn=drawn)
    follow = isinstance(index, Edges) or without_memory(x) or composed(values)
    follow = follow or (bias is not None and without_memory(bias))
    edges = index if isinstance(index, Edges) else index.graph
    _check(x, values, bias, edges)
    rows = x
    if x.ndim != 2:
        rows = x.reshape(-1, edges.n_in) if edges.n_in else x.new_zeros(_samples(x), 0)
    batch = 0 if follow else rows.shape[0]  # what is compiled for one batch is used for another
    dense = _is_dense(kernel, edges, x.device.type, batch, x.dtype)
    if follow or x.is_complex():
        if not isinstance(index, Edges):
            index = edges_of(index, x.device)
        y = composed_product(rows, values, bias, index, dense=dense)
        y = torch.relu(y) if relu else y
    else:
        way = PRODUCTS["dense"] if dense else sparse_product(x.device.type)
        if rows.stride(0) != 1 and rows.shape[0] > 1:
            rows = rows.t().contiguous().t()
        if x.dtype in way.dtypes:
            within = drawn if relu and way.drops else None
            y = EdgeProduct.apply(rows, values, bias, index, relu, way, within)
            drawn = drawn if within is None else None
        else:
            wide = None if bias is None else bias.float()
            y = EdgeProduct.apply(rows.float(), values.float(), wide, index, relu, way).to(x.dtype)
    if drawn is not None:
        y = drawn.applied(y.t().contiguous().t())
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], edges.n_out)


def edge_chain(x: torch.Tensor, layers: Sequence[Layer]) -> torch.Tensor | None:
    """Return the output of layers that follow each other, computed as one node of torch's graph.

    Values and gradients are those of `edge_product`, one layer after the other, bit for bit.

    Parameters
    ----------
    x : (batch, n_in) tensor
    layers : sequence of (values, bias, index, kernel, relu)
        As for `edge_product`; with `relu` all but the last.

    Returns
    -------
    (batch, n_out) tensor or None
        None where the layers have to be computed one by one: on other devices than the CPU, in
        other number types than float32 and float64, where torch follows the computation, without
        samples, if the activations take much memory and are not needed for gradients, and if a
        size or a type is wrong, so that the error is that of the layer.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 2, 3], (2, 2))
    >>> values, index = torch.tensor([1.0, 2.0, 3.0]), EdgeIndex(graph)
    >>> edge_chain(torch.ones(1, 2), [(values, None, index, "auto", True)] * 2)
    tensor([[ 1., 17.]])
    """
    plain = isinstance(x, torch.Tensor) and x.layout is torch.strided and not x.is_nested
    plain = plain and x.ndim == 2 and x.dtype in NATIVE and len(x) > 0
    if not plain or composed(x) or autocast_on(x):
        return None
    width, batch, links = x.shape[1], x.shape[0], []
    for values, bias, index, kernel, relu in layers:
        graph = index.graph
        for tensor, size in ((values, graph.n_edges), (bias, graph.n_out)):
            if tensor is not None and (
                without_memory(tensor)
                or tensor.device.type != "cpu"
                or tensor.dtype != x.dtype
                or tensor.shape != (size,)
            ):
                return None
        if graph.n_in != width or x.device.type != "cpu":
            return None
        width = graph.n_out
        links.append(Link(index, relu, _is_dense(kernel, graph, "cpu", batch, x.dtype)))
    if not torch.is_grad_enabled():
        cells = batch * sum(link.edges.graph.n_out for link in links)
        if cells > MOST_CELLS:
            return None
    if x.stride(0) != 1 and batch > 1:
        x = x.t().contiguous().t()
    parameters = [layer[0] for layer in layers] + [layer[1] for layer in layers]
    return EdgeChain.apply(x, tuple(links), *parameters)


DTYPES = (*NATIVE, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)
"""Number types of edge values."""


def _check(
    x: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None, edges: LayerGraph | Edges
) -> None:
    """Raise a ValueError if sizes do not match, a TypeError if dtypes or devices do not."""
    if x.shape[-1:] != (edges.n_in,):
        raise ValueError(f"expected an input of shape (..., {edges.n_in}), got {tuple(x.shape)}")
    check_per_edge(edges, values)  # type: ignore[arg-type]  # which needs the number of edges alone
    if bias is not None and bias.shape != (edges.n_out,):
        raise ValueError(f"expected a bias of shape ({edges.n_out},), got {tuple(bias.shape)}")
    check_types(x, values, bias)


def check_input(x: object) -> None:
    """Raise a TypeError unless an input is a dense tensor.

    Examples
    --------
    >>> check_input(torch.eye(2).to_sparse())
    Traceback (most recent call last):
    TypeError: expected a dense tensor as input, got one of torch.sparse_coo; x.to_dense() is one
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"expected a torch.Tensor as input, got {type(x).__name__}")
    if x.is_nested:
        raise TypeError(
            "expected a dense tensor as input, got a nested one; x.to_padded_tensor(0.0) is one"
        )
    if x.layout is not torch.strided:
        raise TypeError(
            f"expected a dense tensor as input, got one of {x.layout}; x.to_dense() is one"
        )


def check_types(x: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Raise a TypeError unless edge values are numbers, of the dtype and device of the others."""
    if values.dtype not in DTYPES:
        kinds = ", ".join(str(kind).removeprefix("torch.") for kind in DTYPES)
        raise TypeError(f"expected edge values of one of {kinds}, got {values.dtype}")
    for name, other in (("input", x), ("bias", bias)):
        if other is None:
            continue
        if other.dtype != values.dtype or other.device != values.device:
            raise TypeError(
                f"expected the {name} in {values.dtype} on {values.device} like the edge values, "
                f"got {other.dtype} on {other.device}; convert with .to()"
            )


def _samples(x: torch.Tensor) -> int:
    """Return the number of samples of an input without units."""
    return int(np.prod(x.shape[:-1], dtype=np.int64))
