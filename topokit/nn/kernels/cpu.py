"""The compiled CPU kernels, in numba.

Imported on first use, by `topokit.nn.kernels.threads` alone, since numba takes a while to import.
`topokit.nn.kernels` describes a kernel's arguments and guarantees, and how to add a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core.extending import intrinsic

from topokit.nn.kernels import threads
from topokit.nn.kernels.threads import (
    ARGUMENTS,
    BLOCK_BYTES,
    HEADER,
    Descent,
    Dropout,
    EdgeGradient,
    Gather,
    ProductBackward,
    ProductForward,
    SReLUBackward,
    SReLUForward,
)

__all__ = ["compiled", "source_digest"]

# Freedoms given to the compiler. ELEMENTWISE: a * b + c may be rounded once, but sums over edges
# are taken in the order of edges, whatever the machine's vector length. SUMS: sums over the batch
# may be taken in any fixed order, without which no compiler uses vector instructions for them.
ELEMENTWISE = {"contract"}
SUMS = {"contract", "reassoc", "nsz"}


# ---------------------------------------------------------------------------------------------
# From integers to arrays. These functions are all that numba does not offer itself.


@intrinsic
def _pointer(typing, address):
    """Return an integer as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@intrinsic
def _claim(typing, counter):
    """Add 1 to the counter at an address, atomically, and return its previous value."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(types.int64), generate


@intrinsic
def _rounded_once(typing, a, b, c):
    """Return ``a * b + c``, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, b, c), generate


@njit(inline="always")
def _vector(address, size, dtype):
    return carray(_pointer(address), size, dtype)


@njit(inline="always")
def _matrix(address, rows, stride, dtype):
    return carray(_pointer(address), (rows, stride), dtype)


@njit(inline="always")
def _units(address, size):
    """Return units or positions as unsigned, so that numba omits the test for negative indices."""
    return carray(_pointer(address), size, np.uint32)


def _record(kind: type[Any] | None = None) -> np.dtype[Any]:
    """Return the record type of a kernel: the header, then the fields of its arguments."""
    fields = HEADER if kind is None else (*HEADER, *kind._fields)
    return np.dtype([(name, np.int64) for name in fields])


# ---------------------------------------------------------------------------------------------
# Sparse products.
#
# Idea. Activations are (units, batch) in memory, so an edge of weight w from unit j to unit i adds
# w times one contiguous row, x[j], to another, y[i]: vector instructions without gathers. The
# rows that an output unit needs are scattered; a product takes about the time of reading them
# from the second-level cache.
#
# Four edges at once (`GROUP`): the sums in y[i] are then loaded and stored once for four rows read
# instead of once for each, and the four rows arrive at the same time.
#
# Blocks of the batch (BLOCK_BYTES of each unit): y[i] and the rows being read stay in the
# first-level cache however large the batch is, and one block of all units is likely to fit the
# second-level one.
#
# Tiles of input units (`EdgeIndex.tiles`): where even a block of all units does not fit, forward
# products and edge gradients visit the edges tile by tile, so that rows are read again while they
# are still in the cache. Backward products read and write two more rows for each unit; tiles did
# not make them faster.
#
# The loops over k are plain; numba turns them into vector instructions, if they count from 0: of
# other indices it tests whether they are negative. An earlier version
# generated these as LLVM code, with all sums of a block in registers and masked remainders: 400
# lines, and slower by a seventh to a half with AVX2 once four edges were processed at a time
# (benchmarks/training_step.py; not measured with AVX-512).

GROUP = 4


@njit(inline="always")
def _block(call, at):
    """Return the offset in bytes of a row's block at sample `at`, and its number of samples."""
    return at * call.item_bytes, min(BLOCK_BYTES // call.item_bytes, call.batch - at)


@njit(inline="always")
def _put(target, position, value, at):
    """Write a sum over the first block of the batch; add those over later ones."""
    target[position] = target[position] + value if at else value


@njit(fastmath=ELEMENTWISE)
def _add_rows(row, size, x, units, values, edge, stop):
    """Add value * x[unit, :size] over edges to ``row[:size]``, in the order of edges."""
    while edge + GROUP <= stop:
        a, b, c, d = x[units[edge]], x[units[edge + 1]], x[units[edge + 2]], x[units[edge + 3]]
        va, vb, vc, vd = values[edge], values[edge + 1], values[edge + 2], values[edge + 3]
        for k in range(size):
            row[k] = (((row[k] + va * a[k]) + vb * b[k]) + vc * c[k]) + vd * d[k]
        edge += GROUP
    while edge < stop:
        a, va = x[units[edge]], values[edge]
        for k in range(size):
            row[k] += va * a[k]
        edge += 1


@njit(fastmath=ELEMENTWISE)
def _drop(x, y, bits, limit, scale, size, dtype):
    """Write x to y, times `scale` where the bits of an element reach the limit, else times 0."""
    for k in range(size):
        y[k] = x[k] * (scale if bits[k] >= limit else dtype(0))


@njit
def _product_forward(call, first, last, dtype):
    pointers, bias = _vector(call.row_pointers, 1, np.int64), _vector(call.bias, last, dtype)
    units, values = _units(call.units, 1), _vector(call.values, 1, dtype)
    scale = _vector(call.scale, 1, dtype)[0] if call.bits else dtype(1)
    for at in range(0, call.batch, BLOCK_BYTES // call.item_bytes):
        offset, size = _block(call, at)
        x = _matrix(call.x + offset, 1, call.x_stride, dtype)
        y = _matrix(call.y + offset, last, call.batch, dtype)
        for tile in range(call.n_tiles):
            here = tile * call.tile_stride
            for i in range(first, last):
                row = y[i]
                if tile == 0:
                    start = bias[i] if call.bias else dtype(0)
                    for k in range(size):
                        row[k] = start
                edge, stop = pointers[here + i], pointers[here + call.tile_stride + i]
                _add_rows(row, size, x, units, values, edge, stop)
                if call.relu and tile == call.n_tiles - 1:
                    for k in range(size):
                        row[k] = dtype(0) if row[k] <= 0 else row[k]  # nan stays
                if call.bits and tile == call.n_tiles - 1:
                    bits = _vector(call.bits + 2 * (i * call.batch + at), size, np.int16)
                    _drop(row, row, bits, np.int16(call.limit), scale, size, dtype)


@njit(fastmath=SUMS)
def _edge_gradient(call, first, last, dtype):
    pointers, zero = _vector(call.row_pointers, 1, np.int64), dtype(0)
    units, gradient = _units(call.units, 1), _vector(call.gradient, 1, dtype)
    for at in range(0, call.batch, BLOCK_BYTES // call.item_bytes):
        offset, size = _block(call, at)
        x = _matrix(call.x + offset, 1, call.x_stride, dtype)
        g = _matrix(call.g + offset, last, call.g_stride, dtype)
        for tile in range(call.n_tiles):
            here = tile * call.tile_stride
            for i in range(first, last):
                own = g[i]
                edge, stop = pointers[here + i], pointers[here + call.tile_stride + i]
                while edge + GROUP <= stop:
                    a, b = x[units[edge]], x[units[edge + 1]]
                    c, d = x[units[edge + 2]], x[units[edge + 3]]
                    sa, sb, sc, sd = zero, zero, zero, zero
                    for k in range(size):
                        sa += own[k] * a[k]
                        sb += own[k] * b[k]
                        sc += own[k] * c[k]
                        sd += own[k] * d[k]
                    _put(gradient, edge, sa, at)
                    _put(gradient, edge + 1, sb, at)
                    _put(gradient, edge + 2, sc, at)
                    _put(gradient, edge + 3, sd, at)
                    edge += GROUP
                while edge < stop:
                    a, sa = x[units[edge]], zero
                    for k in range(size):
                        sa += own[k] * a[k]
                    _put(gradient, edge, sa, at)
                    edge += 1


@njit(fastmath=SUMS)
def _product_backward(call, first, last, dtype):
    pointers, zero = _vector(call.column_pointers, last + 1, np.int64), dtype(0)
    units, positions = _units(call.units, 1), _units(call.positions, 1)
    values, gradient = _vector(call.values, 1, dtype), _vector(call.gradient, 1, dtype)
    sums = _vector(call.sums, last, dtype)
    for at in range(0, call.batch, BLOCK_BYTES // call.item_bytes):
        offset, size = _block(call, at)
        g = _matrix(call.g + offset, 1, call.g_stride, dtype)
        x = _matrix(call.x + offset, last, call.x_stride, dtype)
        dx = _matrix(call.dx + offset, last, call.batch, dtype)
        for j in range(first, last):
            own, row = x[j], dx[j]
            for k in range(size):
                row[k] = zero
            edge, stop = pointers[j], pointers[j + 1]
            while edge + GROUP <= stop:
                a, b = g[units[edge]], g[units[edge + 1]]
                c, d = g[units[edge + 2]], g[units[edge + 3]]
                pa, pb = positions[edge], positions[edge + 1]
                pc, pd = positions[edge + 2], positions[edge + 3]
                va, vb, vc, vd = values[pa], values[pb], values[pc], values[pd]
                sa, sb, sc, sd = zero, zero, zero, zero
                for k in range(size):
                    sa += own[k] * a[k]
                    sb += own[k] * b[k]
                    sc += own[k] * c[k]
                    sd += own[k] * d[k]
                    row[k] += va * a[k] + vb * b[k] + vc * c[k] + vd * d[k]
                _put(gradient, pa, sa, at)
                _put(gradient, pb, sb, at)
                _put(gradient, pc, sc, at)
                _put(gradient, pd, sd, at)
                edge += GROUP
            while edge < stop:
                a, pa, sa = g[units[edge]], positions[edge], zero
                va = values[pa]
                for k in range(size):
                    sa += own[k] * a[k]
                    row[k] += va * a[k]
                _put(gradient, pa, sa, at)
                edge += 1
            if call.relu:
                for k in range(size):
                    row[k] = zero if own[k] <= 0 else row[k]
            if call.sums:
                total = zero
                for k in range(size):
                    total += row[k]
                _put(sums, j, total, at)


# ---------------------------------------------------------------------------------------------
# Elementwise kernels. By torch operations, SReLU reads the activations a dozen times forward and
# backward each, which costs more than the sparse products of a step; here it reads them once each.


@njit(fastmath=ELEMENTWISE)
def _srelu_forward(call, first, last, dtype):
    x, y = _matrix(call.x, last, call.x_stride, dtype), _matrix(call.y, last, call.batch, dtype)
    t_left, a_left = _vector(call.t_left, last, dtype), _vector(call.a_left, last, dtype)
    t_width, a_right = _vector(call.t_width, last, dtype), _vector(call.a_right, last, dtype)
    zero, one = dtype(0), dtype(1)
    for i in range(first, last):
        left = t_left[i]
        right = left + abs(t_width[i])
        lower, upper = a_left[i] - one, a_right[i] - one
        source, target = x[i], y[i]
        for k in range(call.batch):
            below, above = source[k] - left, source[k] - right
            low = below if below < zero else zero
            high = above if above > zero else zero
            target[k] = source[k] + lower * low + upper * high


@njit(fastmath=SUMS)
def _srelu_backward(call, first, last, dtype):
    units, batch = call.units, call.batch
    x, g = _matrix(call.x, last, call.x_stride, dtype), _matrix(call.g, last, call.g_stride, dtype)
    dx, gradients = _matrix(call.dx, last, batch, dtype), _matrix(call.gradients, 4, units, dtype)
    t_left, a_left = _vector(call.t_left, last, dtype), _vector(call.a_left, last, dtype)
    t_width, a_right = _vector(call.t_width, last, dtype), _vector(call.a_right, last, dtype)
    zero, one = dtype(0), dtype(1)
    for i in range(first, last):
        left, width = t_left[i], t_width[i]
        right = left + abs(width)
        lower, upper = a_left[i] - one, a_right[i] - one
        source, given, target = x[i], g[i], dx[i]
        left_sum, right_sum, low_sum, high_sum = zero, zero, zero, zero
        for k in range(batch):
            below, above = source[k] - left, source[k] - right
            inside_low = given[k] if below <= zero else zero
            inside_high = given[k] if above >= zero else zero
            left_sum += inside_low
            right_sum += inside_high
            low_sum += inside_low * below
            high_sum += inside_high * above
            target[k] = given[k] + lower * inside_low + upper * inside_high
        sign = one if width > zero else (-one if width < zero else zero)
        gradients[0, i] = -(lower * left_sum + upper * right_sum)
        gradients[1, i] = low_sum
        gradients[2, i] = -(upper * right_sum * sign)
        gradients[3, i] = high_sum


@njit
def _dropout(call, first, last, dtype):
    x, y = _vector(call.x, last, dtype)[first:], _vector(call.y, last, dtype)[first:]
    bits, scale = _vector(call.bits, last, np.int16)[first:], _vector(call.scale, 1, dtype)[0]
    _drop(x, y, bits, np.int16(call.limit), scale, last - first, dtype)


@njit
def _gather(call, first, last, dtype):
    x, y = _matrix(call.x, 1, call.x_stride, dtype), _matrix(call.y, last, call.batch, dtype)
    samples, k = _vector(call.samples, call.batch, np.int64), 0
    while k + 8 <= call.batch:  # eight numbers fill a vector register
        a, b, c, d = x[samples[k]], x[samples[k + 1]], x[samples[k + 2]], x[samples[k + 3]]
        e, f, g, h = x[samples[k + 4]], x[samples[k + 5]], x[samples[k + 6]], x[samples[k + 7]]
        for j in range(first, last):
            row = y[j]
            row[k], row[k + 1], row[k + 2], row[k + 3] = a[j], b[j], c[j], d[j]
            row[k + 4], row[k + 5], row[k + 6], row[k + 7] = e[j], f[j], g[j], h[j]
        k += 8
    while k < call.batch:
        a = x[samples[k]]
        for j in range(first, last):
            y[j, k] = a[j]
        k += 1


# Weights. The roundings are those of torch's operations, so nothing is left to the compiler.


@njit
def _descent(call, first, last, dtype):
    weights, gradient, buffer = (
        _vector(call.weights, last, dtype)[first:],
        _vector(call.gradient, last, dtype)[first:],
        _vector(call.momentum, last, dtype)[first:],
    )
    settings = _vector(call.settings, 4, dtype)
    decay, momentum, part, rate = settings[0], settings[1], settings[2], settings[3]
    decays, begins = call.decays != 0, call.begins != 0
    moves, nesterov = call.momentum != 0, call.nesterov != 0
    for k in range(last - first):
        weight, change = weights[k], gradient[k]
        if decays:
            change = _rounded_once(weight, decay, change)
        if moves:
            total = change if begins else _rounded_once(change, part, buffer[k] * momentum)
            buffer[k] = total
            change = _rounded_once(total, momentum, change) if nesterov else total
        weights[k] = _rounded_once(change, rate, weight)


# ---------------------------------------------------------------------------------------------
# The one compiled function, for each size of numbers.

_HEAD = _record()
_KINDS = (
    ProductForward, EdgeGradient, ProductBackward, SReLUForward, SReLUBackward, Dropout, Descent,
    Gather,
)  # fmt: skip
(
    _PRODUCT_FORWARD, _EDGE_GRADIENT, _PRODUCT_BACKWARD, _SRELU_FORWARD, _SRELU_BACKWARD, _DROPOUT,
    _DESCENT, _GATHER,
) = (_record(kind) for kind in _KINDS)  # fmt: skip
(
    _FORWARD_NUMBER, _EDGE_NUMBER, _BACKWARD_NUMBER, _SRELU_NUMBER, _SRELU_BACK_NUMBER,
    _DROPOUT_NUMBER, _DESCENT_NUMBER, _,
) = (ARGUMENTS.index(kind) for kind in _KINDS)  # fmt: skip


@njit
def _run_part(address, kernel, first, last, dtype):
    """Compute rows first to last - 1 by the kernel that a record names."""
    place = _pointer(address)
    if kernel == _FORWARD_NUMBER:
        _product_forward(carray(place, 1, _PRODUCT_FORWARD)[0], first, last, dtype)
    elif kernel == _EDGE_NUMBER:
        _edge_gradient(carray(place, 1, _EDGE_GRADIENT)[0], first, last, dtype)
    elif kernel == _BACKWARD_NUMBER:
        _product_backward(carray(place, 1, _PRODUCT_BACKWARD)[0], first, last, dtype)
    elif kernel == _SRELU_NUMBER:
        _srelu_forward(carray(place, 1, _SRELU_FORWARD)[0], first, last, dtype)
    elif kernel == _SRELU_BACK_NUMBER:
        _srelu_backward(carray(place, 1, _SRELU_BACKWARD)[0], first, last, dtype)
    elif kernel == _DROPOUT_NUMBER:
        _dropout(carray(place, 1, _DROPOUT)[0], first, last, dtype)
    elif kernel == _DESCENT_NUMBER:
        _descent(carray(place, 1, _DESCENT)[0], first, last, dtype)
    else:
        _gather(carray(place, 1, _GATHER)[0], first, last, dtype)


def _entry_of(digest: int, item_bytes: int) -> Callable[[int], int]:
    """Return the function to compile, which claims parts of a record until none is left.

    Then it goes on with the record of the next kernel, if there is one; only one thread may do so.
    """
    dtype = {4: np.float32, 8: np.float64}[item_bytes]

    def run_parts(address):
        while True:
            head = carray(_pointer(address), 1, _HEAD)[0]
            bounds = _vector(head.bounds, head.n_parts + 1, np.int64)
            part = _claim(address)  # next_part is the record's first field
            while part < head.n_parts:
                _run_part(address, head.kernel, bounds[part], bounds[part + 1], dtype)
                part = _claim(address)
            if head.next == 0:
                break
            address += head.next
        return digest

    return run_parts


def source_digest(*paths: str) -> int:
    """Return a number that changes with the files, by default those that are compiled."""
    text = b"\0".join(Path(path).read_bytes() for path in paths or (__file__, threads.__file__))
    return int.from_bytes(sha256(text).digest()[:7], "big")


@cache
def compiled(item_bytes: int) -> int:
    """Return the address of the compiled ``int64 run_parts(int64 record)`` for numbers of a size.

    Compiling takes some seconds; the result is kept on disk if a folder is writable. numba finds it
    by the function's file and by the values of its closure. The closure contains the digest of all
    files that are compiled, so that an edit of any of them leads to a new compilation. The function
    returns that digest.
    """
    function, signature = _entry_of(source_digest(), item_bytes), types.int64(types.int64)
    try:
        return cfunc(signature, cache=True)(function).address
    except RuntimeError:  # neither this folder nor a cache folder can be written to
        return cfunc(signature)(function).address
