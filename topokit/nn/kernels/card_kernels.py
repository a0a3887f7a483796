"""The sparse product and its gradients as Triton kernels, for graphics cards.

One source for all: forward product, transposed product, gradients of input and edges in one pass,
and gradients of edges alone. `topokit.nn.kernels.card` launches them and says which numbers they
get; this module imports triton, so only `card` imports it, and only when a kernel is run.

A program computes a *part* of a row (of a column, in backward products) for a block of the batch.
Activations are (units, batch) with a contiguous batch, so an edge is one read of consecutive
numbers. Rows of ordinary length are one part, and program ``k`` computes row ``k``. Where a layer
has longer rows (`SPLIT`), parts are listed: their row, first edge, end, and the slot of a workspace
to which the sum of a part of a longer row goes; the slots of a row are then added in their order by
`add_parts`. No memory is written by two programs, so nothing depends on which comes first.

Sums are taken in `ACC`, float64 for float64 numbers and float32 for all others, and rounded once.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["add_parts", "backward", "forward", "sampled"]


@triton.jit
def _part(parts, k, n_parts, SPLIT: tl.constexpr):
    """Return row, first edge, end and slot of a part; -1 is the slot of a whole row.

    `parts` are row pointers, or four rows of numbers, one for each part.
    """
    if SPLIT:
        row = tl.load(parts + k)
        first = tl.load(parts + n_parts + k)
        end = tl.load(parts + 2 * n_parts + k)
        slot = tl.load(parts + 3 * n_parts + k)
    else:
        row = k
        first = tl.load(parts + k)
        end = tl.load(parts + k + 1)
        slot = -1
    return row, first, end, slot


@triton.jit
def _finished(
    total, row, bb, there, bias, x, x_stride,
    BIAS: tl.constexpr, RELU: tl.constexpr, MASK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Return a row's sums after bias and ReLU, or set to 0 where the input is not above 0.

    Comparisons are such that nan stays nan.
    """
    if BIAS:
        total += tl.load(bias + row).to(ACC)
    if RELU:
        total = tl.where(total <= 0, 0.0, total)
    if MASK:
        own = tl.load(x + row.to(tl.int64) * x_stride + bb, mask=there, other=0.0)
        total = tl.where(own <= 0, 0.0, total)
    return total


@triton.jit
def forward(
    x, x_stride, values, bias, y, y_stride, mask, mask_stride,
    parts, n_parts, n_rows, units, positions, partial, batch,
    SPLIT: tl.constexpr, PERMUTED: tl.constexpr, BIAS: tl.constexpr, RELU: tl.constexpr,
    MASK: tl.constexpr, ACC: tl.constexpr, EDGES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write ``W x + bias``, or with `PERMUTED` values ``W^T x``, for a part and a block."""
    row, first, end, slot = _part(parts, tl.program_id(0), n_parts, SPLIT)
    bb = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = bb < batch
    total = tl.zeros((BLOCK,), ACC)
    for start in range(first, end, EDGES):
        edges = start + tl.arange(0, EDGES)
        some = edges < end
        unit = tl.load(units + edges, mask=some, other=0).to(tl.int64)
        if PERMUTED:
            edges = tl.load(positions + edges, mask=some, other=0)
        weights = tl.load(values + edges, mask=some, other=0.0).to(ACC)
        inputs = tl.load(
            x + unit[:, None] * x_stride + bb[None, :],
            mask=some[:, None] & there[None, :], other=0.0,
        ).to(ACC)  # fmt: skip
        total += tl.sum(weights[:, None] * inputs, 0)
    if SPLIT:
        tl.store(partial + slot.to(tl.int64) * batch + bb, total, mask=there & (slot >= 0))
        there = there & (slot == -1) & (row < n_rows)
        row = tl.minimum(row, n_rows - 1)
    total = _finished(total, row, bb, there, bias, mask, mask_stride, BIAS, RELU, MASK, ACC)
    to = y + tl.cast(row, tl.int64) * y_stride + bb
    tl.store(to, total.to(y.dtype.element_ty), mask=there)


@triton.jit
def backward(
    g, g_stride, values, x, x_stride, dx, dx_stride, gradient, sums,
    parts, n_parts, n_rows, units, positions, partial, batch,
    SPLIT: tl.constexpr, MASK: tl.constexpr, SUMS: tl.constexpr, ACC: tl.constexpr,
    EDGES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of an input unit and of its edges; `BLOCK` holds the whole batch.

    With `MASK` the first is set to 0 where the input is not above 0; `SUMS` also writes its sum
    over the batch.
    """
    row, first, end, slot = _part(parts, tl.program_id(0), n_parts, SPLIT)
    bb = tl.arange(0, BLOCK)
    there = bb < batch
    if SPLIT:
        whole = (slot == -1) & (row < n_rows)
        row = tl.minimum(row, n_rows - 1)
    at = tl.cast(row, tl.int64)
    own = tl.load(x + at * x_stride + bb, mask=there, other=0.0).to(ACC)
    total = tl.zeros((BLOCK,), ACC)
    for start in range(first, end, EDGES):
        edges = start + tl.arange(0, EDGES)
        some = edges < end
        unit = tl.load(units + edges, mask=some, other=0).to(tl.int64)
        place = tl.load(positions + edges, mask=some, other=0)
        weights = tl.load(values + place, mask=some, other=0.0).to(ACC)
        outer = tl.load(
            g + unit[:, None] * g_stride + bb[None, :],
            mask=some[:, None] & there[None, :], other=0.0,
        ).to(ACC)  # fmt: skip
        total += tl.sum(weights[:, None] * outer, 0)
        edge_sums = tl.sum(outer * own[None, :], 1)
        tl.store(gradient + place, edge_sums.to(gradient.dtype.element_ty), mask=some)
    if SPLIT:
        tl.store(partial + slot.to(tl.int64) * batch + bb, total, mask=there & (slot >= 0))
        there = there & whole
    if MASK:
        total = tl.where(own <= 0, 0.0, total)
    tl.store(dx + at * dx_stride + bb, total.to(dx.dtype.element_ty), mask=there)
    if SUMS:
        over = tl.sum(tl.where(there, total, 0.0), 0).to(sums.dtype.element_ty)
        if SPLIT:
            tl.store(sums + row, over, mask=whole)
        else:
            tl.store(sums + row, over)


@triton.jit
def add_parts(
    partial, longer, n_longer, n_rows, bias, x, x_stride, y, y_stride, sums, batch,
    BIAS: tl.constexpr, RELU: tl.constexpr, MASK: tl.constexpr, SUMS: tl.constexpr,
    ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the rows that have several parts: their slots of the workspace, added in order.

    `longer` is three rows of numbers, for each such row: the row, its first slot, their number. The
    list may be longer than needed; `n_rows` stands where there is none. With `SUMS`, `BLOCK` holds
    the whole batch.
    """
    k = tl.program_id(0)
    row = tl.load(longer + k)
    first = tl.load(longer + n_longer + k)
    count = tl.load(longer + 2 * n_longer + k)
    bb = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    valid = row < n_rows
    there = (bb < batch) & valid
    row = tl.minimum(row, n_rows - 1)
    total = tl.zeros((BLOCK,), ACC)
    for slot in range(first, first + count):
        total += tl.load(partial + tl.cast(slot, tl.int64) * batch + bb, mask=there, other=0.0)
    total = _finished(total, row, bb, there, bias, x, x_stride, BIAS, RELU, MASK, ACC)
    to = y + row.to(tl.int64) * y_stride + bb
    tl.store(to, total.to(y.dtype.element_ty), mask=there)
    if SUMS:
        over = tl.sum(tl.where(there, total, 0.0), 0).to(sums.dtype.element_ty)
        tl.store(sums + row, over, mask=valid)


@triton.jit
def sampled(
    x, x_stride, g, g_stride, gradient, parts, n_parts, n_rows, units, batch,
    SPLIT: tl.constexpr, WHOLE: tl.constexpr, ACC: tl.constexpr,
    EDGES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the edges of a part of an output unit.

    `WHOLE` says that a block holds the whole batch; the unit's gradient is then read once.
    """
    row, first, end, _ = _part(parts, tl.program_id(0), n_parts, SPLIT)
    if SPLIT:
        row = tl.minimum(row, n_rows - 1)
    at = g + tl.cast(row, tl.int64) * g_stride
    lanes = tl.arange(0, BLOCK)
    if WHOLE:
        own = tl.load(at + lanes, mask=lanes < batch, other=0.0).to(ACC)
    for start in range(first, end, EDGES):
        edges = start + tl.arange(0, EDGES)
        some = edges < end
        unit = tl.load(units + edges, mask=some, other=0).to(tl.int64)
        rows = x + unit[:, None] * x_stride
        if WHOLE:
            bb = lanes
            inputs = tl.load(
                rows + bb[None, :], mask=some[:, None] & (bb < batch)[None, :], other=0.0
            ).to(ACC)
            total = tl.sum(inputs * own[None, :], 1)
        else:
            total = tl.zeros((EDGES,), ACC)
            for block in range(0, batch, BLOCK):
                bb = block + lanes
                outer = tl.load(at + bb, mask=bb < batch, other=0.0).to(ACC)
                inputs = tl.load(
                    rows + bb[None, :], mask=some[:, None] & (bb < batch)[None, :], other=0.0
                ).to(ACC)
                total += tl.sum(inputs * outer[None, :], 1)
        tl.store(gradient + edges, total.to(gradient.dtype.element_ty), mask=some)
