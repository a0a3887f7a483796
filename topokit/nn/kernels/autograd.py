"""The autograd functions behind a sparse product, and the index of a graph they share."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.function import once_differentiable

from topokit.graph import LayerGraph
from topokit.nn.kernels.threads import bounds_of, run_job

__all__ = ["NATIVE", "PRODUCTS", "EdgeIndex", "units_first"]

NATIVE = (torch.float32, torch.float64)  # what the compiled kernels take
BLOCK_BYTES = 512  # of a unit's batch that the kernels take at once
WINDOW_BYTES = 1 << 19  # of activations that stay in a core's own cache while they are gathered
ENOUGH_EDGES = 8  # of a row in a window, at least
FEW = 64  # output units up to which the compiled kernel takes a complete graph back the faster


Gradients = tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None]
"""Of the input, of the edges' values, and the first summed over the batch, if that was free."""


class EdgeIndex:
    """What the kernels need to know of a graph; each part is built once, when first used.

    Parameters
    ----------
    graph : LayerGraph

    Notes
    -----
    The transposed index takes 8 bytes an edge, the flat one (``dense`` only) another 8, and the
    windows of wide layers at most 1.5.
    """

    def __init__(self, graph: LayerGraph) -> None:
        if graph.n_edges >= 2**31 or graph.n_out >= 2**31:
            raise ValueError(f"expected fewer than 2**31 edges and units, got {graph}")
        self.graph = graph
        self._torch: dict[Any, Any] = {}
        self._bounds: dict[tuple[str, int], Any] = {}

    @cached_property
    def transposed(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
        """Per input unit: where its edges start, their output units, their positions."""
        positions = np.arange(self.graph.n_edges, dtype=np.int32)
        by_input = self.graph.to_csr(positions).tocsc()
        starts = by_input.indptr.astype(np.int64)
        return starts, by_input.indices.astype(np.int32), by_input.data

    @cached_property
    def addresses(self) -> tuple[int, int]:
        """Where the graph's row starts and input units are in memory."""
        return self.graph.indptr.ctypes.data, self.graph.indices.ctypes.data

    @cached_property
    def transposed_addresses(self) -> tuple[int, int, int]:
        """Where the transposed index is in memory."""
        starts, units, positions = self.transposed
        return starts.ctypes.data, units.ctypes.data, positions.ctypes.data

    @cached_property
    def _window_table(self) -> NDArray[np.int64] | None:
        """First edge of each row in each window, if several are worth it for whole blocks."""
        graph = self.graph
        most = graph.n_edges // (max(graph.n_out, 1) * ENOUGH_EDGES)
        count = min(-(-graph.n_in * BLOCK_BYTES // WINDOW_BYTES), most)
        return _window_starts(graph, count) if count > 1 else None

    def windows(self, bytes_a_unit: int) -> tuple[int, int, int]:
        """Where each row's edges to each window of units start: address, windows, rows apart.

        Windows of input units whose part of the batch stays in a core's own cache, if rows have
        enough edges to each to be worth it; a single one for batches of under half a block.
        """
        table = self._window_table if 2 * bytes_a_unit >= BLOCK_BYTES else None
        if table is None:
            return self.addresses[0], 1, 1
        return table.ctypes.data, len(table) - 1, self.graph.n_out

    def parts_of_rows(self, parts: int) -> Any:
        """Bounds of output units that split the edges into parts."""
        return self._parts("rows", self.graph.indptr, parts)

    def parts_of_columns(self, parts: int) -> Any:
        """Bounds of input units that split the edges into parts."""
        return self._parts("columns", self.transposed[0], parts)

    def _parts(self, side: str, starts: NDArray[np.int64], parts: int) -> Any:
        if (side, parts) not in self._bounds:
            self._bounds[side, parts] = bounds_of(starts, parts)
        return self._bounds[side, parts]

    def flat(self, device: torch.device) -> torch.Tensor:
        """(n_edges,) int64 edge ids on a device."""
        if ("flat", device) not in self._torch:
            self._torch["flat", device] = torch.from_numpy(self.graph.edge_ids).to(device)
        return self._torch["flat", device]

    def csr(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """CSR arrays and those of the transposed matrix with its positions, on a device."""
        if ("csr", device) not in self._torch:
            arrays = (self.graph.indptr, self.graph.indices, *self.transposed)
            kinds = (np.int64, np.int64, np.int64, np.int64, np.int64)
            self._torch["csr", device] = tuple(
                torch.from_numpy(np.array(array, kind)).to(device)
                for array, kind in zip(arrays, kinds, strict=True)
            )
        return self._torch["csr", device]


def _window_starts(graph: LayerGraph, count: int) -> NDArray[np.int64]:
    """(count + 1, n_out) first edge of each row in each of `count` windows of units; the ends."""
    slots = graph.rows * count + graph.indices // -(-graph.n_in // count)
    sizes = np.bincount(slots, minlength=graph.n_out * count).reshape(graph.n_out, count)
    table = np.empty((count + 1, graph.n_out), np.int64)
    table[0] = graph.indptr[:-1]
    table[1:] = graph.indptr[:-1] + sizes.cumsum(axis=1).T
    return table


def units_first(x: torch.Tensor) -> torch.Tensor:
    """(batch, units) as (units, batch) with a contiguous batch; a copy only where it must be."""
    x = x.detach().t()
    return x if x.shape[1] <= 1 or x.stride(1) == 1 else x.contiguous()


class _Product(torch.autograd.Function):
    """Shared bookkeeping: subclasses say how to multiply forward and backward.

    With `relu` the output is rectified. Its derivative is 0 where the output is, and whoever uses
    the output as the input of another product has just read it: that product's backward pass sets
    those gradients to 0 on the way, sums them over the batch where it can, which is the gradient
    of our bias, and leaves a note which tensor it made. If that very tensor arrives as our
    gradient, nothing is left to be done; else it is masked here.
    """

    @staticmethod
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex, relu: bool) -> torch.Tensor:
        raise AssertionError("defined by each kernel")

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool, gate: bool
    ) -> Gradients:
        raise AssertionError("defined by each kernel")

    @classmethod
    def _forward(
        cls, ctx: Any, x: Any, values: Any, bias: Any, index: EdgeIndex, relu: bool
    ) -> torch.Tensor:
        maker = x.grad_fn
        ctx.maker = maker if getattr(maker, "relu", False) else None
        x = units_first(x)
        y = cls.product(x, values.detach(), bias, index, relu)
        ctx.save_for_backward(x, values, *([y] if relu else []))
        ctx.index, ctx.relu, ctx.gated = index, relu, None
        return y.t()

    @classmethod
    def _backward(cls, ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
        x, values, *output = ctx.saved_tensors
        needs_x, needs_values, needs_bias, *_ = ctx.needs_input_grad
        done = ctx.relu and _is_noted(g, ctx.gated)
        dbias = ctx.gated.sums if done else None
        ctx.gated = None
        g = units_first(g)
        if ctx.relu and not done:
            g = torch.ops.aten.threshold_backward(g, output[0], 0)
        if needs_bias and dbias is None:
            dbias = g.sum(dim=1)
        dx = dvalues = None
        if needs_x or needs_values:
            gate = ctx.maker is not None
            dx, dvalues, sums = cls.gradients(g, x, values.detach(), ctx.index, needs_x, gate)
        if dx is not None:
            dx = dx.t()
            if ctx.maker is not None:
                ctx.maker.gated = _Note(dx, dx._version, sums)
        return dx, dvalues if needs_values else None, dbias if needs_bias else None, None, None


class _Note(NamedTuple):
    """A gradient that is 0 already where an output was, and its sums over the batch."""

    made: torch.Tensor  # held, so that no sum is written into it
    version: int
    sums: torch.Tensor | None


def _is_noted(g: torch.Tensor, note: _Note | None) -> bool:
    """Whether a gradient is the noted tensor, as it was when noted."""
    if note is None:
        return False
    made = note.made
    same = g.data_ptr() == made.data_ptr() and g.shape == made.shape
    return same and g.stride() == made.stride() and made._version == note.version


def _gated(dx: torch.Tensor, x: torch.Tensor, gate: bool) -> torch.Tensor:
    """The gradient, in place 0 where x is not above 0 if `gate`."""
    if gate:
        torch.ops.aten.threshold_backward.grad_input(dx, x, 0, grad_input=dx)
    return dx


class _CompiledProduct(_Product):
    """The compiled CPU kernels."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        return _CompiledProduct._forward(ctx, *args)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
        return _CompiledProduct._backward(ctx, g)

    @staticmethod
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex, relu: bool) -> torch.Tensor:
        graph, batch = index.graph, x.shape[1]
        y = x.new_empty(graph.n_out, batch)
        values = values.contiguous()
        bias = None if bias is None else bias.detach().contiguous()
        starts, *windows = index.windows(_bytes_a_unit(x))
        run_job(
            "forward", x.element_size(), index.parts_of_rows, graph.n_edges * batch,
            (x.data_ptr(), _ld(x), starts, index.addresses[1], values.data_ptr(),
             0 if bias is None else bias.data_ptr(), y.data_ptr(), batch, int(relu), *windows),
        )  # fmt: skip
        return y

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool, gate: bool
    ) -> Gradients:
        graph, batch = index.graph, x.shape[1]
        dvalues = values.new_empty(graph.n_edges) if batch else values.new_zeros(graph.n_edges)
        values, size, work = values.contiguous(), x.element_size(), graph.n_edges * batch
        if not needs_x:
            starts, *windows = index.windows(_bytes_a_unit(x))
            run_job(
                "sampled", size, index.parts_of_rows, work,
                (x.data_ptr(), _ld(x), starts, index.addresses[1], g.data_ptr(), _ld(g),
                 dvalues.data_ptr(), batch, *windows),
            )  # fmt: skip
            return None, dvalues, None
        starts, units, positions = index.transposed_addresses
        dx = x.new_empty(graph.n_in, batch)
        sums = x.new_empty(graph.n_in) if gate and batch else None
        run_job(
            "backward", size, index.parts_of_columns, work,
            (g.data_ptr(), _ld(g), starts, units, positions, values.data_ptr(), x.data_ptr(),
             _ld(x), dx.data_ptr(), dvalues.data_ptr(), batch, int(gate),
             0 if sums is None else sums.data_ptr()),
        )  # fmt: skip
        return dx, dvalues, sums


class _TorchProduct(_Product):
    """``torch.sparse`` CSR: the kernel of other devices and the reference of the compiled one."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        return _TorchProduct._forward(ctx, *args)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
        return _TorchProduct._backward(ctx, g)

    @staticmethod
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex, relu: bool) -> torch.Tensor:
        starts, units, *_ = index.csr(x.device)
        matrix = torch.sparse_csr_tensor(starts, units, values, index.graph.shape)
        y = matrix @ x.contiguous()
        y = y if bias is None else y + bias[:, None]
        return y.clamp_(min=0) if relu else y

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool, gate: bool
    ) -> Gradients:
        n_out, n_in = index.graph.shape
        starts, units, t_starts, t_units, positions = index.csr(x.device)
        g, dx = g.contiguous(), None
        if needs_x:
            matrix = torch.sparse_csr_tensor(t_starts, t_units, values[positions], (n_in, n_out))
            dx = _gated(matrix @ g, x, gate)
        if not values.numel() or not x.shape[1]:
            return dx, torch.zeros_like(values), None
        pattern = torch.sparse_csr_tensor(starts, units, torch.zeros_like(values), (n_out, n_in))
        sampled = torch.sparse.sampled_addmm(pattern, g, x.t(), beta=0.0)
        return dx, sampled.values(), None


class _DenseProduct(_Product):
    """A dense matrix with zeros where no edge is: O(n_out * n_in) memory for the step."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        return _DenseProduct._forward(ctx, *args)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
        return _DenseProduct._backward(ctx, g)

    @staticmethod
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex, relu: bool) -> torch.Tensor:
        weight = _scattered(values, index)
        y = weight @ x if bias is None else torch.addmm(bias.detach()[:, None], weight, x)
        return y.clamp_(min=0) if relu else y

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool, gate: bool
    ) -> Gradients:
        n_out, n_in = index.graph.shape
        complete = values.numel() == n_out * n_in
        if complete and n_out <= FEW and needs_x and x.device.type == "cpu" and x.dtype in NATIVE:
            return _CompiledProduct.gradients(g, x, values, index, needs_x, gate)
        dx = _gated(_scattered(values, index).t() @ g, x, gate) if needs_x else None
        full = (g @ x.t()).reshape(-1)
        return dx, full if complete else full[index.flat(full.device)], None


def _scattered(values: torch.Tensor, index: EdgeIndex) -> torch.Tensor:
    """(n_out, n_in) matrix of the edge values; a view of them if every edge is there."""
    n_out, n_in = index.graph.shape
    if values.numel() == n_out * n_in:
        return values.reshape(n_out, n_in)
    weight = values.new_zeros(n_out * n_in)
    weight[index.flat(values.device)] = values
    return weight.view(n_out, n_in)


def _bytes_a_unit(x: torch.Tensor) -> int:
    """Bytes of a unit's batch that the kernels read at once."""
    return min(x.shape[1] * x.element_size(), BLOCK_BYTES)


def _ld(x: torch.Tensor) -> int:
    """Elements from one unit to the next."""
    return x.stride(0)


PRODUCTS: dict[str, type[_Product]] = {
    "compiled": _CompiledProduct,
    "torch": _TorchProduct,
    "dense": _DenseProduct,
}
"""Autograd functions ``apply(x, values, bias, index, relu)`` of a (batch, n_in) input, by name."""
