"""Compiled sparse products: rows of vectors gathered along edges.

Imported on first use, by `topokit.nn.kernels.threads` alone, since it loads numba. All arrays are
passed as addresses of C-contiguous memory in which the batch runs fastest: activations are
``(units, batch)`` with `ld` elements from one unit to the next.

A *job* is an array of integers: the next part to do, the number of parts, the address of their
bounds (rows ``bounds[p]..bounds[p + 1] - 1`` are part p), the bytes of a number (4 or 8), which
kernel (its place in `KERNELS`), and what the kernel is told. Any number
of threads may be let loose on one job; each takes the next part until none is left, and a part
writes only to its own rows (or columns), so no result depends on who did what.

Kernels over rows visit the units that edges read in *windows* of consecutive ones, small enough
for a near cache: pointers[window * apart + i] is the first edge of row i in a window, and that of
the next window its end; with one window and ``apart`` 1 they are the row starts of the graph.
Over columns, which read and write two more rows each, windows gained nothing.
"""

from __future__ import annotations

from functools import cache, reduce
from typing import Any

from llvmlite import ir
from numba import cfunc, float32, float64, njit, types
from numba.core.extending import intrinsic

from topokit.nn.kernels.llvm import (
    I32,
    I64,
    REGISTERS,
    VECTOR_BYTES,
    Lanes,
    accumulate,
    begun,
    by_width,
    element,
    over_edges,
    row_address,
    scalar,
)

__all__ = ["KERNELS", "dropped", "real", "srelu", "srelu_back", "take", "word", "work"]

KERNELS = ("forward", "sampled", "backward", "srelu", "srelu_back", "dropped")


@intrinsic
def _gather_row(typing, x, ld, units, values, count, y, start, add, relu, vectors, tail):
    """Write y[:] = start + sum over edges of value * x[unit, :], not below 0 if `relu`.

    If `add`, y[:] takes the place of the start.
    """
    signature = types.void(*([types.int64] * 6), start, *([types.int64] * 4))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, ld, units, values, count, y, start, add, relu, vectors, tail = arguments
        adding = builder.icmp_signed("!=", add, ir.Constant(I64, 0))
        wanted = builder.icmp_signed("!=", relu, ir.Constant(I64, 0))
        lanes = Lanes(builder, start.type, tail)
        ld_bytes = builder.mul(ld, ir.Constant(I64, lanes.bytes))

        def emit(width: int) -> None:
            def body(builder: Any, lanes: Any, edges: Any, sums: Any) -> Any:
                for edge in edges:
                    row = row_address(builder, x, units, edge, ld_bytes)
                    value = lanes.splat(scalar(builder, values, edge, lanes.real))
                    sums = [
                        lanes.fma(value, lanes.load(row, k, last=k == width - 1), total)
                        for k, total in enumerate(sums)
                    ]
                return sums

            first = begun(builder, lanes, y, lanes.splat(start), adding, width)
            sums = over_edges(builder, lanes, count, first, body)
            for k, total in enumerate(sums):
                result = lanes.where_positive(total, total, wanted)
                lanes.store(result, y, k, last=k == width - 1)

        by_width(builder, vectors, emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _dot_row(typing, x, ld, units, count, g, gradient, unit, more, vectors, tail):
    """Write gradient[edge] = <g, x[unit, :]>, added to what is there if `more`."""
    signature = types.void(*([types.int64] * 6), unit, *([types.int64] * 3))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, ld, units, count, g, gradient, unit, more, vectors, tail = arguments
        lanes = Lanes(builder, unit.type, tail)
        ld_bytes = builder.mul(ld, ir.Constant(I64, lanes.bytes))

        def emit(width: int) -> None:
            own = [lanes.load(g, k, last=k == width - 1) for k in range(width)]

            def body(builder: Any, lanes: Any, edges: Any, sums: Any) -> Any:
                rows = [row_address(builder, x, units, edge, ld_bytes) for edge in edges]
                dots = [lanes.zero] * len(edges)
                for k in range(width):
                    for i, row in enumerate(rows):
                        other = lanes.load(row, k, last=k == width - 1)
                        dots[i] = lanes.fma(own[k], other, dots[i])
                accumulate(builder, lanes, dots, gradient, edges, more)
                return sums

            over_edges(builder, lanes, count, [], body)

        by_width(builder, vectors, emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _both_column(
    typing,
    g,
    ld,
    units,
    at,
    values,
    count,
    x,
    dx,
    gradient,
    unit,
    more,
    gate,
    total,
    vectors,
    tail,
):
    """Write dx[:] = sum of value * g[unit, :] and gradient[at] = <x, g[unit, :]> in one pass.

    If `gate`, dx is 0 where x is not above 0. The sum of dx goes to address `total`, unless 0.
    """
    signature = types.void(*([types.int64] * 9), unit, *([types.int64] * 5))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        g, ld, units, at, values, count, x, dx, gradient, unit, more, *rest = arguments
        gate, total, vectors, tail = rest
        summed = builder.icmp_signed("!=", total, ir.Constant(I64, 0))
        wanted = builder.icmp_signed("!=", gate, ir.Constant(I64, 0))
        lanes = Lanes(builder, unit.type, tail)
        ld_bytes = builder.mul(ld, ir.Constant(I64, lanes.bytes))

        def emit(width: int) -> None:
            own = [lanes.load(x, k, last=k == width - 1) for k in range(width)]

            def body(builder: Any, lanes: Any, edges: Any, sums: Any) -> Any:
                rows = [row_address(builder, g, units, edge, ld_bytes) for edge in edges]
                places = [builder.sext(scalar(builder, at, edge, I32), I64) for edge in edges]
                weights = [
                    lanes.splat(scalar(builder, values, place, lanes.real)) for place in places
                ]
                dots, sums = [lanes.zero] * len(edges), list(sums)
                for k in range(width):
                    for i, row in enumerate(rows):
                        other = lanes.load(row, k, last=k == width - 1)
                        dots[i] = lanes.fma(own[k], other, dots[i])
                        sums[k] = lanes.fma(weights[i], other, sums[k])
                accumulate(builder, lanes, dots, gradient, places, more)
                return sums

            sums = over_edges(builder, lanes, count, [lanes.zero] * width, body)
            results = [lanes.where_positive(x, y, wanted) for x, y in zip(own, sums, strict=True)]
            for k, result in enumerate(results):
                lanes.store(result, dx, k, last=k == width - 1)
            with builder.if_then(summed):
                whole = reduce(builder.fadd, results)
                accumulate(builder, lanes, [whole], total, [ir.Constant(I64, 0)], more)

        by_width(builder, vectors, emit)
        return context.get_dummy_value()

    return signature, generate


@njit(inline="always")
def _vectors(batch, at, width):
    """Number of vectors of the block of the batch that starts at `at`, and lanes of the last."""
    lanes = min(REGISTERS * width, batch - at)
    vectors = (lanes + width - 1) // width
    return vectors, lanes - (vectors - 1) * width


@njit(inline="always")
def _forward(job, first, last, one, size):
    """Write y[i, :batch] = bias[i] + sum over edges of value * x[unit, :batch] (its ReLU if told).

    y has ld batch.
    """
    x, ld, pointers, units = word(job, 5), word(job, 6), word(job, 7), word(job, 8)
    values, bias, y, batch = word(job, 9), word(job, 10), word(job, 11), word(job, 12)
    relu, windows, apart = word(job, 13), word(job, 14), word(job, 15)
    width = VECTOR_BYTES // size
    for at in range(0, batch, REGISTERS * width):
        vectors, tail = _vectors(batch, at, width)
        for window in range(windows):
            rectify = relu if window == windows - 1 else 0
            for i in range(first, last):
                begin, end = _span(pointers, window * apart + i, apart)
                start = real(bias, i, one) if bias else one - one
                _gather_row(
                    x + at * size, ld, units + begin * 4, values + begin * size, end - begin,
                    y + (i * batch + at) * size, start, window, rectify, vectors, tail,
                )  # fmt: skip


@njit(inline="always")
def _span(pointers, at, apart):
    """First edge of a row in a window, and the first of the same row in the next."""
    return word(pointers, at), word(pointers, at + apart)


@njit(inline="always")
def _sampled(job, first, last, one, size):
    """Write gradient[edge] = <g[i, :], x[unit, :]> for the edges of rows first..last - 1."""
    x, ld, pointers, units = word(job, 5), word(job, 6), word(job, 7), word(job, 8)
    g, ldg, gradient, batch = word(job, 9), word(job, 10), word(job, 11), word(job, 12)
    windows, apart = word(job, 13), word(job, 14)
    width = VECTOR_BYTES // size
    for at in range(0, batch, REGISTERS * width):
        vectors, tail = _vectors(batch, at, width)
        for window in range(windows):
            for i in range(first, last):
                begin, end = _span(pointers, window * apart + i, apart)
                _dot_row(
                    x + at * size, ld, units + begin * 4, end - begin,
                    g + (i * ldg + at) * size, gradient + begin * size, one, 1 if at else 0,
                    vectors, tail,
                )  # fmt: skip


@njit(inline="always")
def _backward(job, first, last, one, size):
    """Write dx[j, :], its sum, and the gradient of the edges of columns first..last - 1."""
    g, ldg, pointers, units = word(job, 5), word(job, 6), word(job, 7), word(job, 8)
    at_edge, values, x, ldx = word(job, 9), word(job, 10), word(job, 11), word(job, 12)
    dx, gradient, batch, gate = word(job, 13), word(job, 14), word(job, 15), word(job, 16)
    totals = word(job, 17)
    width = VECTOR_BYTES // size
    for at in range(0, batch, REGISTERS * width):
        vectors, tail = _vectors(batch, at, width)
        for j in range(first, last):
            begin = word(pointers, j)
            _both_column(
                g + at * size, ldg, units + begin * 4, at_edge + begin * 4, values,
                word(pointers, j + 1) - begin, x + (j * ldx + at) * size,
                dx + (j * batch + at) * size, gradient, one, 1 if at else 0, gate,
                totals + j * size if totals else 0, vectors, tail,
            )  # fmt: skip


@njit(inline="always")
def _part(job, first, last, one, size):
    """Do one part with the kernel asked for."""
    kernel = word(job, 4)
    if kernel == 0:
        _forward(job, first, last, one, size)
    elif kernel == 1:
        _sampled(job, first, last, one, size)
    elif kernel == 2:
        _backward(job, first, last, one, size)
    elif kernel == 3:
        srelu(job, first, last, one, size)
    elif kernel == 4:
        srelu_back(job, first, last, one, size)
    else:
        dropped(job, first, last, one, size)


def _work(job):
    """Do parts of a job until none is left."""
    part = take(job)
    while part < word(job, 1):
        first, last = word(word(job, 2), part), word(word(job, 2), part + 1)
        if word(job, 3) == 4:
            _part(job, first, last, float32(1), 4)
        else:
            _part(job, first, last, float64(1), 8)
        part = take(job)


@cache
def work() -> int:
    """Address of the compiled ``void work(int64 *job)``, kept on disk where there is a place."""
    options: Any = {"fastmath": {"reassoc", "contract", "nsz"}}  # sums in the order of vectors
    try:
        return cfunc(types.void(types.int64), cache=True, **options)(_work).address
    except RuntimeError:  # neither this folder nor a cache folder can be written to
        return cfunc(types.void(types.int64), **options)(_work).address


I16 = ir.IntType(16)


@intrinsic
def word(typing, address, at):
    """Integer number `at` of an array of 64-bit integers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return scalar(builder, arguments[0], arguments[1], I64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def real(typing, address, at, one):
    """Element `at` of an array of the type of `one`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return scalar(builder, arguments[0], arguments[1], arguments[2].type)

    return one(types.int64, types.int64, one), generate


@intrinsic
def put(typing, address, at, value):
    """Write element `at` of an array of the type of `value`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, at, value = arguments
        builder.store(value, element(builder, address, at, value.type))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, value), generate


@intrinsic
def _short(typing, address, at):
    """Integer number `at` of an array of 16-bit integers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        offset = builder.mul(arguments[1], ir.Constant(I64, 2))
        place = builder.inttoptr(builder.add(arguments[0], offset), I16.as_pointer())
        return builder.sext(builder.load(place), I64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def take(typing, job):
    """Take the next part of a job: no other thread gets the same."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], I64.as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(I64, 1), "seq_cst")

    return types.int64(types.int64), generate


@njit(inline="always")
def srelu(job, first, last, one, size):
    """Write y = t_l + a_l (x - t_l) left of t_l, x between, and so on right of t_l + |width|."""
    x, ld, y, batch = word(job, 5), word(job, 6), word(job, 7), word(job, 8)
    t_left, a_left, t_width, a_right = word(job, 9), word(job, 10), word(job, 11), word(job, 12)
    zero = one - one
    for i in range(first, last):
        left = real(t_left, i, one)
        right = left + abs(real(t_width, i, one))
        lower, upper = real(a_left, i, one) - one, real(a_right, i, one) - one
        source, target = x + i * ld * size, y + i * batch * size
        for j in range(batch):
            value = real(source, j, one)
            below, above = value - left, value - right
            low = below if below < zero else zero
            high = above if above > zero else zero
            put(target, j, value + lower * low + upper * high)


@njit(inline="always")
def srelu_back(job, first, last, one, size):
    """Write the gradients of the input and of the four numbers of each unit."""
    x, ld, g, ldg = word(job, 5), word(job, 6), word(job, 7), word(job, 8)
    t_left, a_left, t_width, a_right = word(job, 9), word(job, 10), word(job, 11), word(job, 12)
    dx, grads, units, batch = word(job, 13), word(job, 14), word(job, 15), word(job, 16)
    zero = one - one
    for i in range(first, last):
        left, width = real(t_left, i, one), real(t_width, i, one)
        right = left + abs(width)
        lower, upper = real(a_left, i, one) - one, real(a_right, i, one) - one
        source, given, target = x + i * ld * size, g + i * ldg * size, dx + i * batch * size
        left_sum, right_sum, low_sum, high_sum = zero, zero, zero, zero
        for j in range(batch):
            value, gradient = real(source, j, one), real(given, j, one)
            below, above = value - left, value - right
            inside_low = gradient if below <= zero else zero
            inside_high = gradient if above >= zero else zero
            left_sum += inside_low
            right_sum += inside_high
            low_sum += inside_low * below
            high_sum += inside_high * above
            put(target, j, gradient + lower * inside_low + upper * inside_high)
        sign = one if width > zero else (-one if width < zero else zero)
        put(grads, i, -(lower * left_sum + upper * right_sum))
        put(grads, units + i, low_sum)
        put(grads, 2 * units + i, -(upper * right_sum * sign))
        put(grads, 3 * units + i, high_sum)


@njit(inline="always")
def dropped(job, first, last, one, size):
    """Write y = x times a scale where 16 random bits are at least a limit, else x times 0."""
    x, bits, y, limit = word(job, 5), word(job, 6), word(job, 7), word(job, 8)
    scale = real(word(job, 9), 0, one)
    zero = one - one
    for i in range(first, last):
        put(y, i, real(x, i, one) * (scale if _short(bits, i) >= limit else zero))
