"""The sparse product as operators of torch, which can be differentiated any number of times.

Three operators of the library ``topokit`` take the values of a graph's edges, or make them, and
columns of units. With W the (n_out, n_in) matrix of the values:

``product(values, x, ...)``
    ``W x``, (n_out, batch), for x of shape (n_in, batch).
``transposed_product(values, g, ...)``
    ``W^T g``, (n_in, batch), for g of shape (n_out, batch).
``edge_sums(g, x, ...)``
    ``<g[i], x[j]>``, (n_edges,), for each edge from unit j to unit i.

Each is linear in both tensors, and its derivatives in both are the other two (`_DERIVATIVES`), so
they have derivatives of any order. The graph is passed as tensors, the layer's buffers, so that a
compiled program follows a graph that changes. What the kernels derive from it (`EdgeIndex`) is kept
as long as the tensors live and are not written to.

`composed_product` makes a layer's output of them. It is used where torch follows a computation
instead of just running it (`composed`); everywhere else the autograd function of
`topokit.nn.kernels.autograd` is faster: one node instead of three, and one backward kernel instead
of two.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd import forward_ad
from torch.utils.weak import WeakTensorKeyDictionary

from topokit.graph import LayerGraph
from topokit.nn.kernels.graphs import tensors_of
from topokit.nn.kernels.products import EdgeIndex, Product, sparse_product, units_first

__all__ = [
    "Edges",
    "array_of",
    "autocast_on",
    "composed",
    "composed_gradients",
    "composed_product",
    "dense_weight",
    "edges_of",
    "without_memory",
    "index_of",
    "uncompiled",
]


class Edges(NamedTuple):
    """A graph as torch's transformations can follow it: its tensors, and its sizes as numbers."""

    indptr: torch.Tensor
    indices: torch.Tensor
    n_out: int
    n_in: int
    n_edges: int  # a field: torch 2.6 cannot compile properties of named tuples


_transformed = torch._C._are_functorch_transforms_active
"""Whether a transformation of ``torch.func`` (grad, vmap, ...) is being applied."""


def _check_levels() -> None:
    """Raise a ValueError within two levels of forward-mode differentiation.

    Torch takes the ``jvp`` of an autograd function as constant in the outer level, without a word.
    """
    kinds = [level.key() for level in torch._C._functorch.get_interpreter_stack() or ()]
    if kinds.count(torch._C._functorch.TransformType.Jvp) > 1:
        raise ValueError(
            "expected one level of forward-mode differentiation (jvp, jacfwd) of a sparse product, "
            "got two: use torch.func.hessian or jacfwd(jacrev(f)), or layers with kernel='dense'"
        )


def autocast_on(x: torch.Tensor) -> bool:
    """Return whether automatic mixed precision is on for a tensor's device."""
    kind = x.device.type
    return kind != "meta" and torch.is_autocast_enabled(kind)


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def without_memory(x: torch.Tensor) -> bool:
    """Return whether a tensor may have no memory of its own that kernels could read.

    Nor do kernels read that of a negative view, such as the imaginary part of ``z.conj()``, which
    holds the numbers with the other sign.
    """
    return type(x) not in _PLAIN or x.device.type == "meta" or x.is_neg()


def composed(x: torch.Tensor) -> bool:
    """Return whether torch follows a computation, so that it has to be made of operators.

    True while compiling, exporting or tracing, in transformations of ``torch.func``, in
    forward-mode differentiation, for tensors without memory, and in modes that look at operators.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
        or without_memory(x)
        or torch._C._functorch.is_legacy_batchedtensor(x)  # of ``is_grads_batched=True``
    )


# Loads the compiler when it is called. One function for all that are excluded, as torch attaches to
# it what refers to it: a cycle, which would hold an engine whose method it is.
@torch._disable_dynamo
def _excluded(function: Callable[..., Any], args: tuple[Any, ...], options: Any) -> Any:
    return function(*args, **options)


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that torch's compiler leaves as it is.

    ``torch.compiler.disable`` says the same, but loads the compiler, which takes as long as to load
    torch. Before anybody else has loaded it, nothing is compiled.
    """

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if "torch._dynamo" in sys.modules:
            return _excluded(function, args, options)
        return function(*args, **options)

    return call


# ---------------------------------------------------------------------------------------------
# From tensors to what the kernels need.

_INDICES = WeakTensorKeyDictionary()
_SLICES = WeakTensorKeyDictionary()


def array_of(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a copy of a plain tensor as array, also within a transformation of ``torch.func``."""
    with torch._C._DisableFuncTorch():  # which would take part in what is computed
        return np.array(tensor.detach().cpu().numpy())


def edges_of(index: EdgeIndex, device: torch.device) -> Edges:
    """Return a graph as tensors of their own; operators find `index` by them."""
    graph = index.graph
    indptr, indices = tensors_of(graph, device)
    _kept(_INDICES, indptr, indices, graph.n_in, lambda: index)
    return Edges(indptr, indices, graph.n_out, graph.n_in, graph.n_edges)


def index_of(indptr: torch.Tensor, indices: torch.Tensor, n_in: int) -> EdgeIndex:
    """Return the index of a graph that is given as tensors; kept while they stay the same.

    Raises
    ------
    ValueError
        If the tensors do not describe a graph.
    """

    def make() -> EdgeIndex:
        rows, columns = array_of(indptr), array_of(indices)
        return EdgeIndex(LayerGraph((len(rows) - 1, n_in), rows, columns))

    return _kept(_INDICES, indptr, indices, n_in, make)


def _slices_of(indptr: torch.Tensor, indices: torch.Tensor, n_in: int) -> list[Any]:
    """Return the graphs of stacked tensors one by one; kept while these stay the same."""
    return _kept(
        _SLICES,
        indptr,
        indices,
        n_in,
        lambda: [(a.clone(), b.clone()) for a, b in zip(indptr, indices, strict=True)],
    )


def _kept(
    store: WeakTensorKeyDictionary,
    indptr: torch.Tensor,
    indices: torch.Tensor,
    n_in: int,
    make: Callable[[], Any],
) -> Any:
    """Return what was made from two tensors, made again if one was replaced or written to.

    The store must not keep them alive, so nothing that is made may refer to them.
    """
    stamp = (n_in, *(0 if t.is_inference() else t._version for t in (indptr, indices)))
    found = store.get(indices)
    if found is not None and found[0] == stamp and found[1]() is indptr:
        return found[2]
    made = make()
    store[indices] = (stamp, weakref.ref(indptr), made)
    return made


# ---------------------------------------------------------------------------------------------
# The operators.


def _product(
    values: torch.Tensor, x: torch.Tensor, indptr: torch.Tensor, indices: torch.Tensor, n_in: int
) -> torch.Tensor:
    index, way = index_of(indptr, indices, n_in), sparse_product(x.device.type)
    wide = _wide(x.dtype, way)
    y = way.product(_columns(x, wide), values.detach().to(wide), None, index, False)
    return y.to(x.dtype).contiguous()


def _transposed_product(
    values: torch.Tensor, g: torch.Tensor, indptr: torch.Tensor, indices: torch.Tensor, n_in: int
) -> torch.Tensor:
    index, way = index_of(indptr, indices, n_in), sparse_product(g.device.type)
    wide = _wide(g.dtype, way)
    dx = way.transposed(_columns(g, wide), values.detach().to(wide), index)
    return dx.to(g.dtype).contiguous()


def _edge_sums(
    g: torch.Tensor, x: torch.Tensor, indptr: torch.Tensor, indices: torch.Tensor, n_in: int
) -> torch.Tensor:
    index, way = index_of(indptr, indices, n_in), sparse_product(x.device.type)
    wide = _wide(x.dtype, way)
    values = x.new_empty(index.graph.n_edges, dtype=wide)
    _, sums, _ = way.gradients(_columns(g, wide), _columns(x, wide), values, index, False, False)
    return sums.to(x.dtype)


def _wide(dtype: torch.dtype, way: type[Product]) -> torch.dtype:
    """Return the number type in which the kernels are to be given numbers."""
    return dtype if dtype in way.dtypes else torch.float32


def _columns(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return (units, batch) with a contiguous batch, in a number type."""
    return units_first(x.to(dtype).t())


_SIGNATURE = "(Tensor a, Tensor b, Tensor indptr, Tensor indices, int n_in) -> Tensor"
_LIBRARY = torch.library.Library("topokit", "DEF")
_KERNELS: dict[str, Callable[..., torch.Tensor]] = {
    "product": _product,
    "transposed_product": _transposed_product,
    "edge_sums": _edge_sums,
}
_FAKE: dict[str, Callable[..., torch.Tensor]] = {
    "product": lambda v, x, indptr, *_: x.new_empty(indptr.shape[0] - 1, x.shape[1]),
    "transposed_product": lambda v, g, indptr, indices, n: g.new_empty(n, g.shape[1]),
    "edge_sums": lambda g, x, indptr, indices, n: x.new_empty(indices.shape[0]),
}
# Of each operator the gradients of a and of b for the gradient g of its result.
_DERIVATIVES: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    "product": (
        lambda values, x, g, *edges: edge_sums(g, x, *edges),
        lambda values, x, g, *edges: transposed_product(values, g, *edges),
    ),
    "transposed_product": (
        lambda values, y, g, *edges: edge_sums(y, g, *edges),
        lambda values, y, g, *edges: product(values, g, *edges),
    ),
    "edge_sums": (
        lambda y, x, g, *edges: product(g, x, *edges),
        lambda y, x, g, *edges: transposed_product(g, y, *edges),
    ),
}


Operator = Callable[..., torch.Tensor]


def _registered(name: str) -> Operator:
    """Register an operator, and return a function that calls it in any transformation."""
    _LIBRARY.define(name + _SIGNATURE, tags=(torch.Tag.pt2_compliant_tag,))
    operator = getattr(torch.ops.topokit, name)

    def call(*arguments: Any) -> torch.Tensor:
        # torch.func knows autograd functions with `vmap` and `jvp`, but no derivatives of operators
        if not _transformed():
            return operator(*arguments)
        _check_levels()
        return bilinear.apply(*arguments)

    def batched(info: Any, dims: Any, *arguments: Any) -> tuple[torch.Tensor, int]:
        by_columns = name != "edge_sums"
        return _batched(call, by_columns, info.batch_size, dims, *arguments)

    bilinear = _bilinear(operator, call, batched, *_DERIVATIVES[name])
    _LIBRARY.impl(name, _KERNELS[name], "CompositeExplicitAutograd")
    _LIBRARY.impl(name, bilinear.apply, "Autograd")
    torch.library.register_fake(f"topokit::{name}", _FAKE[name])
    torch.library.register_vmap(f"topokit::{name}", batched)
    return call


def _batched(
    call: Operator,
    by_columns: bool,
    count: int,
    dims: Any,
    a: torch.Tensor,
    b: torch.Tensor,
    indptr: torch.Tensor,
    indices: torch.Tensor,
    n_in: int,
) -> tuple[torch.Tensor, int]:
    """Return the results of `count` calls of an operator, and the dimension in which they follow.

    `dims` has the dimension of each argument in which its values for the calls follow, None if all
    calls have the same. `by_columns`: the operator takes each column of b by itself.
    """
    a, b, indptr, indices = (
        t if dim is None else t.movedim(dim, 0)
        for t, dim in zip((a, b, indptr, indices), dims[:4], strict=True)
    )
    over_a, over_b, *over_graph = (dim is not None for dim in dims[:4])
    if by_columns and not over_a and not any(over_graph):  # all columns at once
        columns = b.movedim(0, 1).reshape(b.shape[1], count * b.shape[2])
        result = call(a, columns, indptr, indices, n_in)
        return result.reshape(result.shape[0], count, b.shape[2]), 1
    graphs = [(indptr, indices)] * count
    if any(over_graph):
        stacked = (
            t if over else t.expand(count, *t.shape)
            for t, over in zip((indptr, indices), over_graph, strict=True)
        )
        graphs = _slices_of(next(stacked), next(stacked), n_in)
    results = [
        call(a[k] if over_a else a, b[k] if over_b else b, *graph, n_in)
        for k, graph in enumerate(graphs)
    ]
    return torch.stack(results), 0


def _bilinear(
    operator: Operator,
    call: Operator,
    batched: Callable[..., tuple[torch.Tensor, int]],
    gradient_a: Operator,
    gradient_b: Operator,
) -> type[torch.autograd.Function]:
    """Return an operator as an autograd function, which `call` calls in transformations."""

    class Bilinear(torch.autograd.Function):
        """An operator that is linear in a and in b, for torch's autograd and for torch.func."""

        @staticmethod
        def forward(*arguments: Any) -> torch.Tensor:
            with torch._C._AutoDispatchBelowAutograd():
                return operator(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            *tensors, ctx.n_in = inputs
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
            a, b, *graph = ctx.saved_tensors
            needs_a, needs_b, *_ = ctx.needs_input_grad
            da = gradient_a(a, b, g, *graph, ctx.n_in) if needs_a else None
            db = gradient_b(a, b, g, *graph, ctx.n_in) if needs_b else None
            return da, db, None, None, None

        @staticmethod
        def jvp(ctx: Any, da: Any, db: Any, *_: Any) -> torch.Tensor:
            a, b, *graph = ctx.saved_tensors
            of_a = None if da is None else call(da, b, *graph, ctx.n_in)
            of_b = None if db is None else call(a, db, *graph, ctx.n_in)
            if of_a is None or of_b is None:
                return of_b if of_a is None else of_a  # type: ignore[return-value]  # never both
            return of_a + of_b

        vmap = staticmethod(batched)

    return Bilinear


product: Operator = _registered("product")
transposed_product: Operator = _registered("transposed_product")
edge_sums: Operator = _registered("edge_sums")


# ---------------------------------------------------------------------------------------------
# A layer's output.


def composed_product(
    x: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    edges: Edges,
    *,
    dense: bool,
) -> torch.Tensor:
    """Return ``x W^T + bias``, (batch, n_out), made of operators of torch and of this module.

    Parameters
    ----------
    x : (batch, n_in) tensor
    values : (n_edges,) tensor
        Complex numbers too: as the products of their real and imaginary parts.
    bias : (n_out,) tensor or None
    edges : Edges
    dense : bool
        Whether to multiply by the dense matrix, of O(n_out * n_in) memory.
    """
    if dense or torch.onnx.is_in_onnx_export():  # ONNX has operators for dense matrices alone
        return torch.nn.functional.linear(x, dense_weight(values, edges), bias)
    graph = (edges.indptr, edges.indices, edges.n_in)
    if not values.is_complex():
        y = product(values, x.t(), *graph).t()
    else:
        batch, both = x.shape[0], torch.cat([x.real, x.imag]).t()
        by_real = product(values.real, both, *graph).t()
        by_imaginary = product(values.imag, both, *graph).t()
        y = torch.complex(
            by_real[:batch] - by_imaginary[batch:], by_real[batch:] + by_imaginary[:batch]
        )
    return y if bias is None else y + bias


def composed_gradients(
    g: torch.Tensor,
    x: torch.Tensor,
    values: torch.Tensor,
    edges: Edges,
    *,
    dense: bool,
    needs: tuple[bool, bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the gradients of x and of real values for the gradient g of their product.

    `needs` says which of the two are needed. The arguments are those of `composed_product`, whose
    derivatives these are.
    """
    needs_x, needs_values = needs
    if dense:
        dx = g @ dense_weight(values, edges) if needs_x else None
        return dx, (g.t() @ x).reshape(-1)[_flat(edges)] if needs_values else None
    graph = (edges.indptr, edges.indices, edges.n_in)
    dx = transposed_product(values, g.t(), *graph).t() if needs_x else None
    return dx, edge_sums(g.t(), x.t(), *graph) if needs_values else None


def dense_weight(values: torch.Tensor, edges: Edges, groups: int = 1) -> torch.Tensor:
    """Return the (n_out, n_in / groups) matrix of edge values, by torch's own operators.

    With several groups all edges join an output unit to an input unit of the same group.
    """
    width = edges.n_in // groups
    if edges.n_edges == edges.n_out * width:
        return values.reshape(edges.n_out, width)
    weight = values.new_zeros(edges.n_out * width).scatter(0, _flat(edges, groups), values)
    return weight.reshape(edges.n_out, width)


def _flat(edges: Edges, groups: int = 1) -> torch.Tensor:
    """Return the (n_edges,) positions of edges in that matrix, flattened."""
    # an edge's row is the number of rows that end at its position or before
    ends = edges.indptr[1:-1].long()
    counts = ends.new_zeros(edges.n_edges + 1).scatter_add(0, ends, torch.ones_like(ends))
    rows, width = counts[:-1].cumsum(0), edges.n_in // groups
    columns = edges.indices.long()
    if groups > 1:
        columns = columns - rows // (edges.n_out // groups) * width
    return rows * width + columns
