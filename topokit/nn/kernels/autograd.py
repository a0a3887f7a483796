"""Autograd functions of a sparse product, and the index of a graph that they share."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.function import once_differentiable

from topokit.graph import LayerGraph
from topokit.nn.kernels.threads import (
    BLOCK_BYTES,
    EdgeGradient,
    ProductBackward,
    ProductForward,
    equal_edge_bounds,
    run_kernel,
)

__all__ = ["BLOCK_BYTES", "NATIVE", "PRODUCTS", "EdgeIndex", "Product", "units_first"]

NATIVE = (torch.float32, torch.float64)
"""Number types that the compiled kernels take."""

# A tile's blocks (both defined in `topokit.nn.kernels`) take TILE_BYTES, about a core's
# second-level cache. Rows must have ENOUGH_EDGES in a tile on average, or the loops over tiles cost
# more than they save.
TILE_BYTES = 1 << 19
ENOUGH_EDGES = 8

# Output units up to which the backward product of a complete graph, in practice a network's last
# layer, is faster by the compiled kernel than by torch: 1.25 times with 4000 x 10, and slower with
# 1000 x 64. Its few rows of gradients stay in the first-level cache, and the kernel also sums the
# gradients for the layer before.
FEW_OUTPUTS = 32

Gradients = tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None]
"""Gradient of the input, if needed; of the edges' values; and the sums of the first over the
batch, if the kernel had them at no cost."""


class EdgeIndex:
    """Arrays that the kernels derive from a graph; each is built once, when first used.

    Parameters
    ----------
    graph : LayerGraph
        With fewer than 2**31 edges and output units.

    Raises
    ------
    ValueError
        If the graph is larger.

    Notes
    -----
    The transposed index takes 8 bytes for each edge, edge ids (``dense`` only) another 8, and the
    tiles of wide layers at most 1.5. Building them is O(n_edges).
    """

    def __init__(self, graph: LayerGraph) -> None:
        if graph.n_edges >= 2**31 or graph.n_out >= 2**31:
            raise ValueError(f"expected fewer than 2**31 edges and units, got {graph}")
        self.graph = graph
        self._torch: dict[Any, Any] = {}
        self._bounds: dict[tuple[str, int], Any] = {}

    @cached_property
    def transposed(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
        """Column pointers (n_in + 1,), and each edge's output unit and position, by input unit.

        The position is that in ``graph.indices``, and thus in the edge values.
        """
        positions = np.arange(self.graph.n_edges, dtype=np.int32)
        by_input = self.graph.to_csr(positions).tocsc()
        pointers = by_input.indptr.astype(np.int64)
        return pointers, by_input.indices.astype(np.int32), by_input.data

    @cached_property
    def addresses(self) -> tuple[int, int]:
        """Addresses of the graph's row pointers and input units."""
        return self.graph.indptr.ctypes.data, self.graph.indices.ctypes.data

    @cached_property
    def transposed_addresses(self) -> tuple[int, int, int]:
        """Addresses of the arrays of `transposed`."""
        pointers, units, positions = self.transposed
        return pointers.ctypes.data, units.ctypes.data, positions.ctypes.data

    @cached_property
    def _tile_pointers(self) -> NDArray[np.int64] | None:
        """First edge of each row in each tile of input units; None where one tile is best."""
        graph = self.graph
        most = graph.n_edges // (max(graph.n_out, 1) * ENOUGH_EDGES)
        count = min(-(-graph.n_in * BLOCK_BYTES // TILE_BYTES), most)
        return _tile_pointers(graph, count) if count > 1 else None

    def tiles(self, block_bytes: int) -> tuple[int, int, int]:
        """Return the address of the row pointers, the number of tiles and the tile stride.

        Parameters
        ----------
        block_bytes : int
            Bytes of a unit's batch that a kernel processes at once. Below half a block, one tile is
            used.
        """
        table = self._tile_pointers if 2 * block_bytes >= BLOCK_BYTES else None
        if table is None:
            return self.addresses[0], 1, 1
        return table.ctypes.data, len(table) - 1, self.graph.n_out

    def row_bounds(self, parts: int) -> Any:
        """Return bounds of output units that split the edges into parts."""
        return self._parts("rows", self.graph.indptr, parts)

    def column_bounds(self, parts: int) -> Any:
        """Return bounds of input units that split the edges into parts."""
        return self._parts("columns", self.transposed[0], parts)

    def _parts(self, side: str, pointers: NDArray[np.int64], parts: int) -> Any:
        if (side, parts) not in self._bounds:
            self._bounds[side, parts] = equal_edge_bounds(pointers, parts)
        return self._bounds[side, parts]

    def flat(self, device: torch.device) -> torch.Tensor:
        """Return the (n_edges,) int64 edge ids on a device; kept after the first call."""
        if ("flat", device) not in self._torch:
            self._torch["flat", device] = torch.from_numpy(self.graph.edge_ids).to(device)
        return self._torch["flat", device]

    def csr(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return the CSR arrays and those of `transposed` as int64 tensors on a device; kept."""
        if ("csr", device) not in self._torch:
            arrays = (self.graph.indptr, self.graph.indices, *self.transposed)
            self._torch["csr", device] = tuple(
                torch.from_numpy(np.array(array, np.int64)).to(device) for array in arrays
            )
        return self._torch["csr", device]


def _tile_pointers(graph: LayerGraph, count: int) -> NDArray[np.int64]:
    """Return (count + 1, n_out): the first edge of each row in each of `count` tiles, and ends."""
    slots = graph.rows * count + graph.indices // -(-graph.n_in // count)
    sizes = np.bincount(slots, minlength=graph.n_out * count).reshape(graph.n_out, count)
    table = np.empty((count + 1, graph.n_out), np.int64)
    table[0] = graph.indptr[:-1]
    table[1:] = graph.indptr[:-1] + sizes.cumsum(axis=1).T
    return table


def units_first(x: torch.Tensor) -> torch.Tensor:
    """Return (batch, units) as (units, batch) with a contiguous batch, copied only if necessary."""
    x = x.detach().t()
    return x if x.shape[1] <= 1 or x.stride(1) == 1 else x.contiguous()


# ReLU within the product, and its derivative without reading the memory again.
#
# With `relu` the kernel that computes y also rectifies it. The derivative is 0 where y is 0, so the
# gradient g of y must be set to 0 there before it is used. A separate operation would read and
# write all of g once more. But if y is the input of another product, that product's backward kernel
# reads y and writes the gradient dx, which is g. So:
#
# 1. Forward, a product notes whether its input was made by a product with relu (`ctx.maker`).
# 2. Backward, it sets dx to 0 where its input is 0, sums dx over the batch if its kernel can
#    (that is the maker's bias gradient), and leaves a `_Masked` record of dx with the maker.
# 3. The maker compares the gradient it gets with that record. If it is the same tensor, unchanged,
#    masking and bias gradient are done. Otherwise (y was used twice, a hook changed the gradient)
#    the maker masks the gradient; masking twice is harmless.


class Product(torch.autograd.Function):
    """Base class of the ways to compute a product; subclasses define `product` and `gradients`.

    ``apply(x, values, bias, index, relu)`` maps a (batch, n_in) input to (batch, n_out).
    """

    @staticmethod
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex, relu: bool) -> torch.Tensor:
        """Return the product, (n_out, batch), for x of shape (n_in, batch)."""
        raise NotImplementedError  # abstract: every way of computing defines it

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool, mask: bool
    ) -> Gradients:
        """Return the gradients for the gradient g of the output, (n_out, batch).

        The gradient of x, (n_in, batch), is computed only if `needs_x`, and with `mask` set to 0
        where x is not above 0.
        """
        raise NotImplementedError  # abstract: every way of computing defines it

    @classmethod
    def _forward(
        cls, ctx: Any, x: Any, values: Any, bias: Any, index: EdgeIndex, relu: bool
    ) -> torch.Tensor:
        maker = x.grad_fn
        ctx.maker = maker if getattr(maker, "relu", False) else None
        x = units_first(x)
        y = cls.product(x, values.detach(), bias, index, relu)
        ctx.save_for_backward(x, values, *([y] if relu else []))
        ctx.index, ctx.relu, ctx.masked = index, relu, None
        return y.t()

    @classmethod
    def _backward(cls, ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
        x, values, *output = ctx.saved_tensors
        needs_x, needs_values, needs_bias, *_ = ctx.needs_input_grad
        done = ctx.relu and _is_unchanged(g, ctx.masked)
        dbias = ctx.masked.sums if done else None
        ctx.masked = None
        g = units_first(g)
        if ctx.relu and not done:
            g = torch.ops.aten.threshold_backward(g, output[0], 0)
        if needs_bias and dbias is None:
            dbias = g.sum(dim=1)
        dx = dvalues = None
        if needs_x or needs_values:
            mask = ctx.maker is not None
            dx, dvalues, sums = cls.gradients(g, x, values.detach(), ctx.index, needs_x, mask)
        if dx is not None:
            dx = dx.t()
            if ctx.maker is not None:
                ctx.maker.masked = _Masked(dx, dx._version, sums)
        return dx, dvalues if needs_values else None, dbias if needs_bias else None, None, None


class _Masked(NamedTuple):
    """A gradient already set to 0 where an output is 0, and its sums over the batch."""

    gradient: torch.Tensor  # held, so that autograd does not add another gradient into it
    version: int
    sums: torch.Tensor | None


def _is_unchanged(g: torch.Tensor, masked: _Masked | None) -> bool:
    """Return whether a gradient is the recorded tensor, unchanged since."""
    if masked is None:
        return False
    made = masked.gradient
    same = g.data_ptr() == made.data_ptr() and g.shape == made.shape
    return same and g.stride() == made.stride() and made._version == masked.version


def _masked(dx: torch.Tensor, x: torch.Tensor, mask: bool) -> torch.Tensor:
    """Return the gradient, with `mask` set to 0 in place where x is not above 0."""
    if mask:
        torch.ops.aten.threshold_backward.grad_input(dx, x, 0, grad_input=dx)
    return dx


class _CompiledProduct(Product):
    """The product by the compiled kernels of `topokit.nn.kernels.cpu`."""

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
        row_pointers, n_tiles, tile_stride = index.tiles(_block_bytes(x))
        call = ProductForward(
            x=x.data_ptr(),
            x_stride=x.stride(0),
            row_pointers=row_pointers,
            units=index.addresses[1],
            values=values.data_ptr(),
            bias=0 if bias is None else bias.data_ptr(),
            y=y.data_ptr(),
            batch=batch,
            relu=relu,
            n_tiles=n_tiles,
            tile_stride=tile_stride,
        )
        run_kernel(
            call,
            item_bytes=x.element_size(),
            bounds=index.row_bounds,
            work=graph.n_edges * batch,
        )
        return y

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool, mask: bool
    ) -> Gradients:
        graph, batch = index.graph, x.shape[1]
        dvalues = values.new_empty(graph.n_edges) if batch else values.new_zeros(graph.n_edges)
        item_bytes, work = x.element_size(), graph.n_edges * batch
        if not needs_x:
            row_pointers, n_tiles, tile_stride = index.tiles(_block_bytes(x))
            edge_gradient = EdgeGradient(
                x=x.data_ptr(),
                x_stride=x.stride(0),
                row_pointers=row_pointers,
                units=index.addresses[1],
                g=g.data_ptr(),
                g_stride=g.stride(0),
                gradient=dvalues.data_ptr(),
                batch=batch,
                n_tiles=n_tiles,
                tile_stride=tile_stride,
            )
            run_kernel(edge_gradient, item_bytes=item_bytes, bounds=index.row_bounds, work=work)
            return None, dvalues, None
        column_pointers, units, positions = index.transposed_addresses
        values = values.contiguous()
        dx = x.new_empty(graph.n_in, batch)
        sums = x.new_empty(graph.n_in) if mask and batch else None
        both = ProductBackward(
            g=g.data_ptr(),
            g_stride=g.stride(0),
            column_pointers=column_pointers,
            units=units,
            positions=positions,
            values=values.data_ptr(),
            x=x.data_ptr(),
            x_stride=x.stride(0),
            dx=dx.data_ptr(),
            gradient=dvalues.data_ptr(),
            batch=batch,
            relu=mask,
            sums=0 if sums is None else sums.data_ptr(),
        )
        run_kernel(both, item_bytes=item_bytes, bounds=index.column_bounds, work=work)
        return dx, dvalues, sums


class _TorchProduct(Product):
    """The product by ``torch.sparse``: for other devices, and to test the compiled kernels."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        return _TorchProduct._forward(ctx, *args)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
        return _TorchProduct._backward(ctx, g)

    @staticmethod
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex, relu: bool) -> torch.Tensor:
        pointers, units, *_ = index.csr(x.device)
        matrix = torch.sparse_csr_tensor(pointers, units, values, index.graph.shape)
        y = matrix @ x.contiguous()
        y = y if bias is None else y + bias[:, None]
        return y.clamp_(min=0) if relu else y

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool, mask: bool
    ) -> Gradients:
        n_out, n_in = index.graph.shape
        pointers, units, t_pointers, t_units, positions = index.csr(x.device)
        g, dx = g.contiguous(), None
        if needs_x:
            matrix = torch.sparse_csr_tensor(t_pointers, t_units, values[positions], (n_in, n_out))
            dx = _masked(matrix @ g, x, mask)
        if not values.numel() or not x.shape[1]:
            return dx, torch.zeros_like(values), None
        pattern = torch.sparse_csr_tensor(pointers, units, torch.zeros_like(values), (n_out, n_in))
        sampled = torch.sparse.sampled_addmm(pattern, g, x.t(), beta=0.0)
        return dx, sampled.values(), None


class _DenseProduct(Product):
    """The product by a dense matrix with zeros between the edges: O(n_out * n_in) memory."""

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
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool, mask: bool
    ) -> Gradients:
        n_out, n_in = index.graph.shape
        complete = values.numel() == n_out * n_in
        if (
            complete
            and n_out <= FEW_OUTPUTS
            and needs_x
            and x.device.type == "cpu"
            and x.dtype in NATIVE
        ):
            return _CompiledProduct.gradients(g, x, values, index, needs_x, mask)
        dx = _masked(_scattered(values, index).t() @ g, x, mask) if needs_x else None
        full = (g @ x.t()).reshape(-1)
        return dx, full if complete else full[index.flat(full.device)], None


def _scattered(values: torch.Tensor, index: EdgeIndex) -> torch.Tensor:
    """Return the (n_out, n_in) matrix of the edge values; a view if the graph is complete."""
    n_out, n_in = index.graph.shape
    if values.numel() == n_out * n_in:
        return values.reshape(n_out, n_in)
    weight = values.new_zeros(n_out * n_in)
    weight[index.flat(values.device)] = values
    return weight.view(n_out, n_in)


def _block_bytes(x: torch.Tensor) -> int:
    """Return the bytes of a unit's batch that the kernels process at once."""
    return min(x.shape[1] * x.element_size(), BLOCK_BYTES)


PRODUCTS: dict[str, type[Product]] = {
    "compiled": _CompiledProduct,
    "torch": _TorchProduct,
    "dense": _DenseProduct,
}
"""Ways to compute a product, by name; `topokit.nn.kernels` chooses."""
