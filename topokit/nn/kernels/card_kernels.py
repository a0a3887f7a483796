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

A batch and the strides of activations are given in units of `VEC` samples, the largest power of two
up to 16 that divides them. The compiler then knows that rows begin and end at multiples of it and
reads four numbers of float32 at once. With batches of 100, which it would otherwise read one by
one, products of 1000 x 1000 units then took 55 to 70 % of the time (one H200).

Sums are taken in `ACC`, float64 for float64 numbers and float32 for all others, and rounded once.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["add_parts", "backward", "forward", "sampled"]

# Numbers for which no kernels of their own are compiled where they are 1 or divisible by 16.
SIZES = (
    "x_stride", "y_stride", "mask_stride", "g_stride", "dx_stride",
    "n_parts", "n_rows", "n_longer", "batch", "limit", "scale",
)  # fmt: skip


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
def _samples(block, batch, BLOCK: tl.constexpr, VEC: tl.constexpr):
    """Return the samples of a block, and which of them there are; `batch` is in units of `VEC`."""
    bb = block * BLOCK + tl.arange(0, BLOCK)
    return bb, bb // VEC < batch


@triton.jit
def _finished(
    total, row, bb, there, bias, x, x_stride,
    BIAS: tl.constexpr, RELU: tl.constexpr, MASK: tl.constexpr, ACC: tl.constexpr,
    VEC: tl.constexpr,
):  # fmt: skip
    """Return a row's sums after bias and ReLU, or set to 0 where the input is not above 0.

    Comparisons are such that nan stays nan.
    """
    if BIAS:
        total += tl.load(bias + row).to(ACC)
    if RELU:
        total = tl.where(total <= 0, 0.0, total)
    if MASK:
        own = tl.load(x + row.to(tl.int64) * x_stride * VEC + bb, mask=there, other=0.0)
        total = tl.where(own <= 0, 0.0, total)
    return total


@triton.jit
def _dropped(
    total, row, bb, there, bits, limit, scale, batch, DTYPE: tl.constexpr, VEC: tl.constexpr
):
    """Return a row's sums, rounded to `DTYPE`, times a scale where bits reach a limit, else 0.

    `scale` are the bits of a float64, as Triton passes numbers as float32.
    """
    drawn = tl.load(bits + row.to(tl.int64) * batch * VEC + bb, mask=there, other=0)
    factor = tl.where(drawn >= limit, scale.to(tl.float64, bitcast=True).to(total.dtype), 0.0)
    return total.to(DTYPE).to(total.dtype) * factor


@triton.jit(do_not_specialize=SIZES)
def forward(
    x, x_stride, values, bias, y, y_stride, mask, mask_stride,
    parts, n_parts, n_rows, units, positions, partial, batch, bits, limit, scale,
    SPLIT: tl.constexpr, PERMUTED: tl.constexpr, BIAS: tl.constexpr, RELU: tl.constexpr,
    MASK: tl.constexpr, DROP: tl.constexpr, ACC: tl.constexpr, EDGES: tl.constexpr,
    BLOCK: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """Write ``W x + bias``, or with `PERMUTED` values ``W^T x``, for a part and a block."""
    row, first, end, slot = _part(parts, tl.program_id(0), n_parts, SPLIT)
    bb, there = _samples(tl.program_id(1), batch, BLOCK, VEC)
    total = tl.zeros((BLOCK,), ACC)
    for start in range(first, end, EDGES):
        edges = start + tl.arange(0, EDGES)
        some = edges < end
        unit = tl.load(units + edges, mask=some, other=0).to(tl.int64)
        if PERMUTED:
            edges = tl.load(positions + edges, mask=some, other=0)
        weights = tl.load(values + edges, mask=some, other=0.0).to(ACC)
        inputs = tl.load(
            x + (unit * x_stride * VEC)[:, None] + bb[None, :],
            mask=some[:, None] & there[None, :], other=0.0,
        ).to(ACC)  # fmt: skip
        total += tl.sum(weights[:, None] * inputs, 0)
    if SPLIT:
        at = slot.to(tl.int64) * batch * VEC
        tl.store(partial + at + bb, total, mask=there & (slot >= 0))
        there = there & (slot == -1) & (row < n_rows)
        row = tl.minimum(row, n_rows - 1)
    total = _finished(total, row, bb, there, bias, mask, mask_stride, BIAS, RELU, MASK, ACC, VEC)
    if DROP:
        dtype: tl.constexpr = y.dtype.element_ty
        total = _dropped(total, row, bb, there, bits, limit, scale, batch, dtype, VEC)
    to = y + tl.cast(row, tl.int64) * y_stride * VEC + bb
    tl.store(to, total.to(y.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=SIZES)
def backward(
    g, g_stride, values, x, x_stride, dx, dx_stride, gradient, sums,
    parts, n_parts, n_rows, units, positions, partial, batch,
    SPLIT: tl.constexpr, MASK: tl.constexpr, SUMS: tl.constexpr, ACC: tl.constexpr,
    EDGES: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """Write the gradients of an input unit and of its edges; `BLOCK` holds the whole batch.

    With `MASK` the first is set to 0 where the input is not above 0; `SUMS` also writes its sum
    over the batch.
    """
    row, first, end, slot = _part(parts, tl.program_id(0), n_parts, SPLIT)
    bb, there = _samples(0, batch, BLOCK, VEC)
    if SPLIT:
        whole = (slot == -1) & (row < n_rows)
        row = tl.minimum(row, n_rows - 1)
    at = tl.cast(row, tl.int64)
    own = tl.load(x + at * x_stride * VEC + bb, mask=there, other=0.0).to(ACC)
    total = tl.zeros((BLOCK,), ACC)
    for start in range(first, end, EDGES):
        edges = start + tl.arange(0, EDGES)
        some = edges < end
        unit = tl.load(units + edges, mask=some, other=0).to(tl.int64)
        place = tl.load(positions + edges, mask=some, other=0)
        weights = tl.load(values + place, mask=some, other=0.0).to(ACC)
        outer = tl.load(
            g + (unit * g_stride * VEC)[:, None] + bb[None, :],
            mask=some[:, None] & there[None, :], other=0.0,
        ).to(ACC)  # fmt: skip
        total += tl.sum(weights[:, None] * outer, 0)
        edge_sums = tl.sum(outer * own[None, :], 1)
        tl.store(gradient + place, edge_sums.to(gradient.dtype.element_ty), mask=some)
    if SPLIT:
        to = slot.to(tl.int64) * batch * VEC
        tl.store(partial + to + bb, total, mask=there & (slot >= 0))
        there = there & whole
    if MASK:
        total = tl.where(own <= 0, 0.0, total)
    tl.store(dx + at * dx_stride * VEC + bb, total.to(dx.dtype.element_ty), mask=there)
    if SUMS:
        over = tl.sum(tl.where(there, total, 0.0), 0).to(sums.dtype.element_ty)
        if SPLIT:
            tl.store(sums + row, over, mask=whole)
        else:
            tl.store(sums + row, over)


@triton.jit(do_not_specialize=SIZES)
def add_parts(
    partial, longer, n_longer, n_rows, bias, x, x_stride, y, y_stride, sums, batch,
    bits, limit, scale,
    BIAS: tl.constexpr, RELU: tl.constexpr, MASK: tl.constexpr, DROP: tl.constexpr,
    SUMS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr,
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
    bb, there = _samples(tl.program_id(1), batch, BLOCK, VEC)
    valid = row < n_rows
    there = there & valid
    row = tl.minimum(row, n_rows - 1)
    total = tl.zeros((BLOCK,), ACC)
    for slot in range(first, first + count):
        at = tl.cast(slot, tl.int64) * batch * VEC
        total += tl.load(partial + at + bb, mask=there, other=0.0)
    total = _finished(total, row, bb, there, bias, x, x_stride, BIAS, RELU, MASK, ACC, VEC)
    if DROP:
        dtype: tl.constexpr = y.dtype.element_ty
        total = _dropped(total, row, bb, there, bits, limit, scale, batch, dtype, VEC)
    to = y + row.to(tl.int64) * y_stride * VEC + bb
    tl.store(to, total.to(y.dtype.element_ty), mask=there)
    if SUMS:
        over = tl.sum(tl.where(there, total, 0.0), 0).to(sums.dtype.element_ty)
        tl.store(sums + row, over, mask=valid)


@triton.jit(do_not_specialize=SIZES)
def sampled(
    x, x_stride, g, g_stride, gradient, parts, n_parts, n_rows, units, batch,
    SPLIT: tl.constexpr, WHOLE: tl.constexpr, ACC: tl.constexpr,
    EDGES: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the edges of a part of an output unit.

    `WHOLE` says that a block holds the whole batch; the unit's gradient is then read once.
    """
    row, first, end, _ = _part(parts, tl.program_id(0), n_parts, SPLIT)
    if SPLIT:
        row = tl.minimum(row, n_rows - 1)
    at = g + tl.cast(row, tl.int64) * g_stride * VEC
    if WHOLE:
        bb, there = _samples(0, batch, BLOCK, VEC)
        own = tl.load(at + bb, mask=there, other=0.0).to(ACC)
    for start in range(first, end, EDGES):
        edges = start + tl.arange(0, EDGES)
        some = edges < end
        unit = tl.load(units + edges, mask=some, other=0).to(tl.int64)
        rows = x + (unit * x_stride * VEC)[:, None]
        if WHOLE:
            both = some[:, None] & there[None, :]
            inputs = tl.load(rows + bb[None, :], mask=both, other=0.0).to(ACC)
            total = tl.sum(inputs * own[None, :], 1)
        else:
            total = tl.zeros((EDGES,), ACC)
            for block in range(0, batch * VEC, BLOCK):
                bb, there = _samples(block // BLOCK, batch, BLOCK, VEC)
                outer = tl.load(at + bb, mask=there, other=0.0).to(ACC)
                inputs = tl.load(
                    rows + bb[None, :], mask=some[:, None] & there[None, :], other=0.0
                ).to(ACC)
                total += tl.sum(inputs * outer[None, :], 1)
        tl.store(gradient + edges, total.to(gradient.dtype.element_ty), mask=some)
