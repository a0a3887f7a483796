"""The autograd functions behind a sparse product, and the index of a graph they share."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.function import once_differentiable

from topokit.graph import LayerGraph

__all__ = ["PRODUCTS", "EdgeIndex"]

SERIAL_WORK = 1 << 21  # edges times batch below which threads cost more than they save

_log = logging.getLogger("topokit.nn")


class EdgeIndex:
    """What the kernels need to know of a graph; each part is built once, when first used.

    Parameters
    ----------
    graph : LayerGraph

    Notes
    -----
    The transposed index takes 8 bytes an edge, the flat one (``dense`` only) another 8.
    """

    def __init__(self, graph: LayerGraph) -> None:
        if graph.n_edges >= 2**31 or graph.n_out >= 2**31:
            raise ValueError(f"expected fewer than 2**31 edges and units, got {graph}")
        self.graph = graph
        self._torch: dict[Any, Any] = {}

    @cached_property
    def transposed(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
        """Per input unit: where its edges start, their output units, their positions."""
        positions = np.arange(self.graph.n_edges, dtype=np.int32)
        by_input = self.graph.to_csr(positions).tocsc()
        starts = by_input.indptr.astype(np.int64)
        return starts, by_input.indices.astype(np.int32), by_input.data

    @cached_property
    def address(self) -> int:
        """Where the graph's input units are in memory."""
        return self.graph.indices.ctypes.data

    @cached_property
    def transposed_addresses(self) -> tuple[int, int]:
        """Where the transposed index's units and positions are in memory."""
        _, units, positions = self.transposed
        return units.ctypes.data, positions.ctypes.data

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


def _units_first(x: torch.Tensor) -> torch.Tensor:
    """(batch, units) as (units, batch) with a contiguous batch; a copy only where it must be."""
    x = x.detach().t()
    return x if x.shape[1] <= 1 or x.stride(1) == 1 else x.contiguous()


class _Product(torch.autograd.Function):
    """Shared bookkeeping: subclasses say how to multiply forward and backward."""

    @staticmethod
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex) -> torch.Tensor:
        raise AssertionError("defined by each kernel")

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        raise AssertionError("defined by each kernel")

    @classmethod
    def _forward(cls, ctx: Any, x: Any, values: Any, bias: Any, index: EdgeIndex) -> torch.Tensor:
        x = _units_first(x)
        ctx.save_for_backward(x, values)
        ctx.index = index
        return cls.product(x, values.detach(), bias, index).t()

    @classmethod
    def _backward(cls, ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
        x, values = ctx.saved_tensors
        needs_x, needs_values, needs_bias, _ = ctx.needs_input_grad
        g = _units_first(g)
        dx = dvalues = None
        if needs_x or needs_values:
            dx, dvalues = cls.gradients(g, x, values.detach(), ctx.index, needs_x)
        return (
            dx.t() if dx is not None else None,
            dvalues if needs_values else None,
            g.sum(dim=1) if needs_bias else None,
            None,
        )


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
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex) -> torch.Tensor:
        graph, batch = index.graph, x.shape[1]
        y = x.new_empty(graph.n_out, batch)
        start = np.zeros(graph.n_out, _kind(x)) if bias is None else _array(bias.detach())
        values, size = values.contiguous(), x.element_size()
        compiled, width = _compiled(), _width(x)
        _split(
            graph.indptr,
            batch,
            lambda first, last: compiled.forward(
                x.data_ptr(), _ld(x), graph.indptr, index.address, values.data_ptr(),
                start, y.data_ptr(), first, last, batch, size, width,
            ),
        )  # fmt: skip
        return y

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        graph, batch = index.graph, x.shape[1]
        dvalues = values.new_empty(graph.n_edges) if batch else values.new_zeros(graph.n_edges)
        values, size, one = values.contiguous(), x.element_size(), _kind(x)(1)
        compiled, width = _compiled(), _width(x)
        if not needs_x:
            _split(
                graph.indptr,
                batch,
                lambda first, last: compiled.sampled(
                    x.data_ptr(), _ld(x), graph.indptr, index.address, g.data_ptr(),
                    _ld(g), dvalues.data_ptr(), one, first, last, batch, size, width,
                ),
            )  # fmt: skip
            return None, dvalues
        starts, (units, positions) = index.transposed[0], index.transposed_addresses
        dx = x.new_empty(graph.n_in, batch)
        _split(
            starts,
            batch,
            lambda first, last: compiled.backward(
                g.data_ptr(), _ld(g), starts, units, positions,
                values.data_ptr(), x.data_ptr(), _ld(x), dx.data_ptr(), dvalues.data_ptr(), one,
                first, last, batch, size, width,
            ),
        )  # fmt: skip
        return dx, dvalues


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
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex) -> torch.Tensor:
        starts, units, *_ = index.csr(x.device)
        matrix = torch.sparse_csr_tensor(starts, units, values, index.graph.shape)
        y = matrix @ x.contiguous()
        return y if bias is None else y + bias[:, None]

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        n_out, n_in = index.graph.shape
        starts, units, t_starts, t_units, positions = index.csr(x.device)
        g, dx = g.contiguous(), None
        if needs_x:
            matrix = torch.sparse_csr_tensor(t_starts, t_units, values[positions], (n_in, n_out))
            dx = matrix @ g
        if not values.numel() or not x.shape[1]:
            return dx, torch.zeros_like(values)
        pattern = torch.sparse_csr_tensor(starts, units, torch.zeros_like(values), (n_out, n_in))
        sampled = torch.sparse.sampled_addmm(pattern, g, x.t(), beta=0.0)
        return dx, sampled.values()


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
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex) -> torch.Tensor:
        weight = _scattered(values, index)
        return weight @ x if bias is None else torch.addmm(bias.detach()[:, None], weight, x)

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        dx = _scattered(values, index).t() @ g if needs_x else None
        full = (g @ x.t()).reshape(-1)
        complete = full.numel() == values.numel()
        return dx, full if complete else full[index.flat(full.device)]


def _scattered(values: torch.Tensor, index: EdgeIndex) -> torch.Tensor:
    """(n_out, n_in) matrix of the edge values; a view of them if every edge is there."""
    n_out, n_in = index.graph.shape
    if values.numel() == n_out * n_in:
        return values.reshape(n_out, n_in)
    weight = values.new_zeros(n_out * n_in)
    weight[index.flat(values.device)] = values
    return weight.view(n_out, n_in)


def _kind(x: torch.Tensor) -> Any:
    return np.float32 if x.dtype == torch.float32 else np.float64


def _array(x: torch.Tensor) -> NDArray[Any]:
    return x.contiguous().numpy()


def _ld(x: torch.Tensor) -> int:
    """Elements from one unit to the next."""
    return x.stride(0)


def _width(x: torch.Tensor) -> int:
    return _compiled().VECTOR_BYTES // x.element_size()


@cache
def _compiled() -> Any:
    """The compiled module, imported (and on first use on a machine compiled) when needed."""
    _log.info("loading the sparse kernels; compiling them takes a few seconds once per machine")
    from topokit.nn import compiled

    return compiled


def _split(starts: NDArray[np.int64], batch: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(first, last)`` on all rows, split by edges between torch's threads."""
    rows, edges, threads = starts.size - 1, int(starts[-1]), torch.get_num_threads()
    if threads == 1 or rows < threads or edges * batch < SERIAL_WORK:
        work(0, rows)
        return
    shares = np.searchsorted(starts, np.linspace(0, edges, threads + 1)[1:-1])
    bounds = [0, *np.clip(shares, 0, rows).tolist(), rows]
    others = [
        _pool(os.getpid(), threads).submit(work, first, last)
        for first, last in itertools.pairwise(bounds[1:])
    ]
    try:
        work(bounds[0], bounds[1])
    finally:
        wait(others)  # they write into memory of this call
    for other in others:
        other.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Worker threads of this process; the kernels release the interpreter's lock."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="topokit-kernel")


PRODUCTS: dict[str, type[_Product]] = {
    "compiled": _CompiledProduct,
    "torch": _TorchProduct,
    "dense": _DenseProduct,
}
"""Autograd functions ``apply(x, values, bias, index)`` of a (batch, n_in) input, by name."""
