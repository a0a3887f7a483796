"""The ways to compute a sparse product and its gradients, and the index of a graph they share.

Plain functions of tensors without gradients: `topokit.nn.kernels.autograd` and `ops` make them
differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from topokit.graph import LayerGraph
from topokit.nn.kernels.graphs import DeviceGraph, by_input_unit, tensors_of
from topokit.nn.kernels.threads import (
    BLOCK_BYTES,
    EdgeGradient,
    Gather,
    Kernel,
    ProductBackward,
    ProductForward,
    equal_edge_bounds,
    equal_row_bounds,
    run_kernel,
)

__all__ = [
    "BLOCK_BYTES",
    "NATIVE",
    "PRODUCTS",
    "EdgeIndex",
    "Product",
    "backward_kernel",
    "edge_kernel",
    "few_outputs",
    "forward_kernel",
    "gathered",
    "one_by_one",
    "sparse_product",
    "samples_first",
    "units_first",
    "use_on_device",
]

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
# gradients for the layer before. On a card in float32 both products are faster by the sparse
# kernels: 4000 x 10 with a batch of 128 took 22 us of a step where dense ones took 47, 1000 x 10
# with 100 samples 15 where they took 36 (one H200, 2026-11-27); other numbers were not measured.
FEW_OUTPUTS = 32

ONE_BY_ONE = ("cpu",)  # devices on which models side by side have the numbers of single ones

Gradients = tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None]
"""Gradient of the input, if needed; of the edges' values; and the sums of the first over the
batch, if the kernel had them at no cost."""

Arrays = TypeVar("Arrays", bound=tuple[torch.Tensor, ...])


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
        self._kept: dict[Any, Any] = {}
        self._bounds: dict[tuple[str, int], Any] = {}
        self.plans: dict[Any, Any] = {}  # of chains that begin here: `topokit.nn.kernels.chain`

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

    def on(self, device: torch.device, make: Callable[..., Arrays]) -> Arrays:
        """Return ``make(self, device)``, tensors made from the graph; kept after the first call."""
        if (device, make) not in self._kept:
            self._kept[device, make] = make(self, device)
        return self._kept[device, make]

    def flat(self, device: torch.device) -> torch.Tensor:
        """Return the (n_edges,) int64 edge ids on a device; kept after the first call."""
        return self.on(device, _edge_ids)[0]

    def csr(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return the CSR arrays and those of `transposed` as int64 tensors on a device; kept."""
        return self.on(device, _csr)

    def pairs_with(self, before: EdgeIndex) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return each tensor made of another graph, with the same of this one."""
        return [
            pair
            for (device, make), old in before._kept.items()
            for pair in zip(old, self.on(device, make), strict=True)
        ]

    def take_over(self, before: EdgeIndex) -> None:
        """Have the tensors of another index, which loses them, instead of one's own.

        To be called once those were overwritten (`pairs_with`): a step that was recorded reads them
        there.
        """
        if before is not self:  # the graph may be the same, and its values in other memory
            self._kept.update(before._kept)
            before._kept.clear()


def _edge_ids(index: EdgeIndex, device: torch.device) -> tuple[torch.Tensor, ...]:
    graph = index.graph
    if isinstance(graph, DeviceGraph) and graph.ids.device == device:
        return (graph.ids.clone(),)
    return (torch.from_numpy(graph.edge_ids).to(device),)


def _ids_in_groups(index: EdgeIndex, device: torch.device) -> tuple[torch.Tensor, ...]:
    return (torch.from_numpy(index.graph.ids_in_groups).to(device),)


def _csr(index: EdgeIndex, device: torch.device) -> tuple[torch.Tensor, ...]:
    pointers, units = tensors_of(index.graph, device)
    return pointers, units.long(), *(t.long() for t in by_input_unit(index.graph, device))


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


def samples_first(y: torch.Tensor) -> torch.Tensor:
    """Return (units, batch) as (batch, units), a tensor of its own on the same memory.

    Torch refuses to change a view made in an autograd function in place, as
    ``nn.ReLU(inplace=True)`` does.

    Examples
    --------
    >>> y = torch.zeros(2, 3)
    >>> samples_first(y).shape, samples_first(y).fill_(1)._is_view(), int(y.sum())
    (torch.Size([3, 2]), False, 6)
    """
    size, stride = (y.shape[1], y.shape[0]), (y.stride(1), y.stride(0))
    return y.new_empty(0).set_(y.untyped_storage(), y.storage_offset(), size, stride)


def gathered(x: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """Return some samples, (units, batch), of a contiguous (n, units) tensor of the CPU.

    Parameters
    ----------
    x : (n, units) tensor
        Of one of the `NATIVE` dtypes.
    samples : (batch,) int64 tensor
        Contiguous; below n.

    Examples
    --------
    >>> gathered(torch.arange(6.0).view(3, 2), torch.tensor([2, 0]))
    tensor([[4., 0.],
            [5., 1.]])
    """
    units, batch = x.shape[1], len(samples)
    y = x.new_empty(units, batch)
    call = Gather(x.data_ptr(), x.stride(0), samples.data_ptr(), y.data_ptr(), batch)
    bounds = equal_row_bounds(units)
    run_kernel(call, item_bytes=x.element_size(), bounds=bounds, work=units * batch)
    return y


class Product:
    """Base class of the ways to compute a product. All tensors are (units, batch), without graph.

    A method may return tensors in uninitialised memory that it has filled completely.
    """

    dtypes: tuple[torch.dtype, ...] = NATIVE  # number types that it takes
    drops = False  # whether it has `dropped`

    @staticmethod
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex, relu: bool) -> torch.Tensor:
        """Return ``W x + bias``, (n_out, batch), for x of shape (n_in, batch)."""
        raise NotImplementedError  # abstract: every way of computing defines it

    @staticmethod
    def dropped(x: Any, values: Any, bias: Any, index: EdgeIndex, drawn: Any) -> torch.Tensor:
        """Return the product after ReLU and then dropout by `topokit.nn.kernels.autograd.Drawn`."""
        raise NotImplementedError  # only where `drops`

    @staticmethod
    def transposed(g: Any, values: Any, index: EdgeIndex) -> torch.Tensor:
        """Return ``W^T g``, (n_in, batch), for g of shape (n_out, batch)."""
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


def _masked(dx: torch.Tensor, x: torch.Tensor, mask: bool) -> torch.Tensor:
    """Return the gradient, with `mask` set to 0 in place where x is not above 0."""
    if mask:
        torch.ops.aten.threshold_backward.grad_input(dx, x, 0, grad_input=dx)
    return dx


# Kernels of a graph. Addresses are those of tensors of a batch, or 0 where they come later.


def forward_kernel(
    index: EdgeIndex, batch: int, item_bytes: int, *, relu: bool, **addresses: int
) -> Kernel:
    """Return the kernel of ``W x + bias``."""
    row_pointers, n_tiles, tile_stride = index.tiles(_block_bytes(batch, item_bytes))
    call = ProductForward(
        **(dict.fromkeys(("x", "x_stride", "values", "bias", "y"), 0) | addresses),
        row_pointers=row_pointers,
        units=index.addresses[1],
        batch=batch,
        relu=relu,
        n_tiles=n_tiles,
        tile_stride=tile_stride,
    )
    return Kernel(call, item_bytes, index.row_bounds, index.graph.n_edges * batch)


def edge_kernel(index: EdgeIndex, batch: int, item_bytes: int, **addresses: int) -> Kernel:
    """Return the kernel of the gradients of the edges' values alone."""
    row_pointers, n_tiles, tile_stride = index.tiles(_block_bytes(batch, item_bytes))
    call = EdgeGradient(
        **(dict.fromkeys(("x", "x_stride", "g", "g_stride", "gradient"), 0) | addresses),
        row_pointers=row_pointers,
        units=index.addresses[1],
        batch=batch,
        n_tiles=n_tiles,
        tile_stride=tile_stride,
    )
    return Kernel(call, item_bytes, index.row_bounds, index.graph.n_edges * batch)


def backward_kernel(
    index: EdgeIndex, batch: int, item_bytes: int, *, mask: bool, **addresses: int
) -> Kernel:
    """Return the kernel of the gradients of input and values."""
    column_pointers, units, positions = index.transposed_addresses
    given = ("g", "g_stride", "values", "x", "x_stride", "dx", "gradient", "sums")
    call = ProductBackward(
        **(dict.fromkeys(given, 0) | addresses),
        column_pointers=column_pointers,
        units=units,
        positions=positions,
        batch=batch,
        relu=mask,
    )
    return Kernel(call, item_bytes, index.column_bounds, index.graph.n_edges * batch)


class _CompiledProduct(Product):
    """The product by the compiled kernels of `topokit.nn.kernels.cpu`."""

    drops = True

    @staticmethod
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex, relu: bool) -> torch.Tensor:
        return _CompiledProduct._forward(x, values, bias, index, relu=relu)

    @staticmethod
    def dropped(x: Any, values: Any, bias: Any, index: EdgeIndex, drawn: Any) -> torch.Tensor:
        scale = torch.tensor(drawn.scale, dtype=x.dtype)
        given = {"bits": drawn.bits.data_ptr(), "limit": drawn.limit, "scale": scale.data_ptr()}
        return _CompiledProduct._forward(x, values, bias, index, relu=True, **given)

    @staticmethod
    def _forward(
        x: Any, values: Any, bias: Any, index: EdgeIndex, *, relu: bool, **drawn: int
    ) -> torch.Tensor:
        batch = x.shape[1]
        y = x.new_empty(index.graph.n_out, batch)
        values = values.contiguous()
        bias = None if bias is None else bias.detach().contiguous()
        call = forward_kernel(
            index,
            batch,
            x.element_size(),
            relu=relu,
            x=x.data_ptr(),
            x_stride=x.stride(0),
            values=values.data_ptr(),
            bias=0 if bias is None else bias.data_ptr(),
            y=y.data_ptr(),
            **drawn,
        )
        run_kernel(**call._asdict())
        return y

    @staticmethod
    def transposed(g: Any, values: Any, index: EdgeIndex) -> torch.Tensor:
        graph, batch = index.graph, g.shape[1]
        dx = g.new_empty(graph.n_in, batch)
        by_input = values.index_select(0, torch.from_numpy(index.transposed[2]))
        column_pointers, units, _ = index.transposed_addresses
        call = ProductForward(
            x=g.data_ptr(),
            x_stride=g.stride(0),
            row_pointers=column_pointers,
            units=units,
            values=by_input.data_ptr(),
            bias=0,
            y=dx.data_ptr(),
            batch=batch,
            relu=False,
            n_tiles=1,
            tile_stride=1,
        )
        run_kernel(
            call,
            item_bytes=g.element_size(),
            bounds=index.column_bounds,
            work=graph.n_edges * batch,
        )
        return dx

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool, mask: bool
    ) -> Gradients:
        graph, batch, item_bytes = index.graph, x.shape[1], x.element_size()
        dvalues = values.new_empty(graph.n_edges) if batch else values.new_zeros(graph.n_edges)
        given = {
            "g": g.data_ptr(), "g_stride": g.stride(0), "x": x.data_ptr(), "x_stride": x.stride(0),
            "gradient": dvalues.data_ptr(),
        }  # fmt: skip
        if not needs_x:
            run_kernel(**edge_kernel(index, batch, item_bytes, **given)._asdict())
            return None, dvalues, None
        values = values.contiguous()
        dx = x.new_empty(graph.n_in, batch)
        sums = x.new_empty(graph.n_in) if mask and batch else None
        call = backward_kernel(
            index,
            batch,
            item_bytes,
            mask=mask,
            **given,
            values=values.data_ptr(),
            dx=dx.data_ptr(),
            sums=0 if sums is None else sums.data_ptr(),
        )
        run_kernel(**call._asdict())
        return dx, dvalues, sums


class _TorchProduct(Product):
    """The product by ``torch.sparse``: for other devices, and to test the compiled kernels."""

    @staticmethod
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex, relu: bool) -> torch.Tensor:
        pointers, units, *_ = index.csr(x.device)
        matrix = torch.sparse_csr_tensor(pointers, units, values, index.graph.shape)
        y = matrix @ x.contiguous()
        y = y if bias is None else y + bias[:, None]
        return y.clamp_(min=0) if relu else y

    @staticmethod
    def transposed(g: Any, values: Any, index: EdgeIndex) -> torch.Tensor:
        _, _, pointers, units, positions = index.csr(g.device)
        shape = (index.graph.n_in, index.graph.n_out)
        return torch.sparse_csr_tensor(pointers, units, values[positions], shape) @ g.contiguous()

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool, mask: bool
    ) -> Gradients:
        dx = _masked(_TorchProduct.transposed(g, values, index), x, mask) if needs_x else None
        if not values.numel() or not x.shape[1]:
            return dx, torch.zeros_like(values), None
        pointers, units, *_ = index.csr(x.device)
        pattern = torch.sparse_csr_tensor(
            pointers, units, torch.zeros_like(values), index.graph.shape
        )
        sampled = torch.sparse.sampled_addmm(pattern, g.contiguous(), x.t(), beta=0.0)
        return dx, sampled.values(), None


class _DenseProduct(Product):
    """The product by a dense matrix with zeros between the edges: O(n_out * n_in) memory.

    Of a graph with groups by a matrix for each of them, O(n_out * n_in / groups) in all.
    """

    dtypes = (*NATIVE, torch.float16, torch.bfloat16)

    @staticmethod
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex, relu: bool) -> torch.Tensor:
        weight = _scattered(values, index)
        if weight.ndim == 3:
            y = _by_groups(weight, _parts_of(x, index), bias)
        else:
            y = weight @ x if bias is None else torch.addmm(bias.detach()[:, None], weight, x)
        return y.clamp_(min=0) if relu else y

    @staticmethod
    def transposed(g: Any, values: Any, index: EdgeIndex) -> torch.Tensor:
        weight = _scattered(values, index)
        if weight.ndim == 3:
            return _by_groups(weight.mT, _parts_of(g, index))
        return weight.t() @ g

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool, mask: bool
    ) -> Gradients:
        graph = index.graph
        if few_outputs(index) and needs_x and x.device.type == "cpu" and x.dtype in NATIVE:
            return _CompiledProduct.gradients(g, x, values, index, needs_x, mask)
        dx = _masked(_DenseProduct.transposed(g, values, index), x, mask) if needs_x else None
        if graph.groups == 1:
            full = (g @ x.t()).reshape(-1)
        else:
            full = _by_groups(_parts_of(g, index), _parts_of(x, index).mT).reshape(-1)
        complete = graph.n_edges == graph.n_possible
        return dx, full if complete else full[_ids_on(index, full.device)], None


def few_outputs(index: EdgeIndex) -> bool:
    """Return whether the backward product of a graph is compiled although it is complete."""
    graph = index.graph
    return graph.n_out <= FEW_OUTPUTS * graph.groups and graph.n_edges == graph.n_possible


def _scattered(values: torch.Tensor, index: EdgeIndex) -> torch.Tensor:
    """Return the (n_out, n_in) matrix of the edge values; a view if the graph is complete.

    With groups (groups, n_out / groups, n_in / groups), a matrix for each.
    """
    graph, weight = index.graph, values
    if values.numel() != graph.n_possible:
        weight = values.new_zeros(graph.n_possible)
        weight[_ids_on(index, values.device)] = values
    n_out, n_in = graph.shape
    if (groups := graph.groups) == 1:
        return weight.reshape(n_out, n_in)
    return weight.reshape(groups, n_out // groups, n_in // groups)


def _ids_on(index: EdgeIndex, device: torch.device) -> torch.Tensor:
    """Return the places of the edges in the matrices of `_scattered`."""
    if index.graph.groups == 1:
        return index.flat(device)
    return index.on(device, _ids_in_groups)[0]


def one_by_one(x: torch.Tensor) -> bool:
    """Return whether models side by side are computed one by one where torch computes them.

    On the CPU, with the numbers that each has alone; elsewhere all in one call.

    Examples
    --------
    >>> one_by_one(torch.ones(2))
    True
    """
    return x.device.type in ONE_BY_ONE


def _parts_of(x: torch.Tensor, index: EdgeIndex) -> torch.Tensor:
    """Return (groups * units, batch) as (groups, units, batch)."""
    return x.unflatten(0, (index.graph.groups, -1))


def _by_groups(weight: torch.Tensor, x: torch.Tensor, bias: Any = None) -> torch.Tensor:
    """Return (groups, n, m) matrices times (groups, m, k) ones, as (groups * n, k), plus a bias.

    One by one on some devices, with the numbers of products of single matrices.
    """
    columns = None if bias is None else bias.detach().view(len(weight), -1, 1)
    if not one_by_one(x):
        y = torch.bmm(weight, x) if columns is None else torch.baddbmm(columns, weight, x)
        return y.flatten(0, 1)
    pairs = list(zip(weight, x, strict=True))
    if columns is None:
        return torch.cat([a @ b for a, b in pairs])
    return torch.cat([torch.addmm(c, *pair) for c, pair in zip(columns, pairs, strict=True)])


def _block_bytes(batch: int, item_bytes: int) -> int:
    """Return the bytes of a unit's batch that the kernels process at once."""
    return min(batch * item_bytes, BLOCK_BYTES)


PRODUCTS: dict[str, type[Product]] = {
    "compiled": _CompiledProduct,
    "torch": _TorchProduct,
    "dense": _DenseProduct,
}
"""Ways to compute a product, by name."""

_SPARSE = {"cpu": "compiled"}  # the sparse way of each type of device, else torch's


def sparse_product(device: str) -> type[Product]:
    """Return the sparse way for a type of device."""
    return PRODUCTS[_SPARSE.get(device, "torch")]


def use_on_device(device: str, name: str) -> None:
    """Let a type of device have the sparse way of that name."""
    _SPARSE[device] = name
