"""Compiled sparse products: rows of vectors gathered along edges, written as LLVM vector code.

Imported on first use, by `topokit.nn.kernels` alone, since it loads numba. All arrays are passed
as addresses of C-contiguous memory in which the batch runs fastest: activations are
``(units, batch)`` with `ld` elements from one unit to the next. The functions release the GIL and
touch only the rows (or columns) ``first..last - 1``, so that callers may split the work between
threads: no result depends on how it was split.

The vectors are spelled out, since compilers neither keep a batch of accumulators in registers nor
use 512-bit vectors on their own: `REGISTERS` vectors of `VECTOR_BYTES` stand for one unit's batch,
read once for each edge. Batches of other sizes mask the last vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core.extending import intrinsic

__all__ = ["REGISTERS", "VECTOR_BYTES", "backward", "forward", "sampled"]

_FEATURES = llvm.get_host_cpu_features()
VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32
REGISTERS = 8 if VECTOR_BYTES == 64 else 4
GROUP = 4  # edges handled at once: their sums over the batch are reduced together

_I64, _I32 = ir.IntType(64), ir.IntType(32)


class _Lanes:
    """Vector loads, stores and sums of one element type, the last vector masked."""

    def __init__(self, builder: ir.IRBuilder, real: ir.Type, lanes: ir.Value) -> None:
        self.builder, self.real = builder, real
        self.bytes = 4 if isinstance(real, ir.FloatType) else 8
        self.width = VECTOR_BYTES // self.bytes
        self.type = ir.VectorType(real, self.width)
        self.zero = ir.Constant(self.type, [ir.Constant(real, 0.0)] * self.width)
        iota = ir.Constant(
            ir.VectorType(_I64, self.width), [ir.Constant(_I64, i) for i in range(self.width)]
        )
        self.mask = builder.icmp_signed("<", iota, self.splat(lanes, _I64))

    def splat(self, scalar: ir.Value, kind: ir.Type | None = None) -> ir.Value:
        vector = ir.Constant(ir.VectorType(kind or self.real, self.width), ir.Undefined)
        first = self.builder.insert_element(vector, scalar, ir.Constant(_I32, 0))
        order = ir.Constant(ir.VectorType(_I32, self.width), [ir.Constant(_I32, 0)] * self.width)
        return self.builder.shuffle_vector(first, vector, order)

    def _intrinsic(self, stem: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
        name = f"llvm.{stem}.v{self.width}f{self.bytes * 8}"
        if stem.startswith("masked"):
            name += ".p0"
        module = self.builder.module
        if name in module.globals:
            return module.globals[name]
        return ir.Function(module, ir.FunctionType(result, arguments), name)

    def _pointer(self, address: ir.Value, vector: int) -> ir.Value:
        offset = ir.Constant(_I64, vector * VECTOR_BYTES)
        return self.builder.inttoptr(self.builder.add(address, offset), self.type.as_pointer())

    def load(self, address: ir.Value, vector: int, *, last: bool) -> ir.Value:
        pointer = self._pointer(address, vector)
        if not last:
            return self.builder.load(pointer, align=self.bytes)
        function = self._intrinsic(
            "masked.load", self.type, [pointer.type, _I32, self.mask.type, self.type]
        )
        align = ir.Constant(_I32, self.bytes)
        return self.builder.call(function, [pointer, align, self.mask, self.zero])

    def store(self, value: ir.Value, address: ir.Value, vector: int, *, last: bool) -> None:
        pointer = self._pointer(address, vector)
        if not last:
            self.builder.store(value, pointer, align=self.bytes)
            return
        function = self._intrinsic(
            "masked.store", ir.VoidType(), [self.type, pointer.type, _I32, self.mask.type]
        )
        align = ir.Constant(_I32, self.bytes)
        self.builder.call(function, [value, pointer, align, self.mask])

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        function = self._intrinsic("fmuladd", self.type, [self.type] * 3)
        return self.builder.call(function, [a, b, c])

    def sums(self, vectors: list[ir.Value]) -> list[ir.Value]:
        """Sums of the lanes of `GROUP` vectors (or of one), always in the same order.

        Vectors are packed two and two while they are halved, so that a group costs little more
        than one.
        """
        parts, groups = vectors, 1
        while len(parts) > 1:
            groups *= 2
            lanes = self.width // groups
            parts = [
                self._halved(parts[i], parts[i + 1], groups // 2, lanes)
                for i in range(0, len(parts), 2)
            ]
        vector, lanes = parts[0], self.width // groups
        while lanes > 1:
            lanes //= 2
            vector = self._halved(vector, None, groups, lanes)
        return [
            self.builder.extract_element(vector, ir.Constant(_I32, i)) for i in range(len(vectors))
        ]

    def _halved(self, a: ir.Value, b: ir.Value | None, groups: int, lanes: int) -> ir.Value:
        """Add the upper `lanes` of each group to the lower ones, in one vector or two."""
        starts = [2 * lanes * group for group in range(groups)]
        if b is not None:
            starts += [a.type.count + start for start in starts]
        lower = [start + lane for start in starts for lane in range(lanes)]
        low, high = (
            self.builder.shuffle_vector(
                a,
                a if b is None else b,
                ir.Constant(
                    ir.VectorType(_I32, len(lower)), [ir.Constant(_I32, i + at) for i in lower]
                ),
            )
            for at in (0, lanes)
        )
        return self.builder.fadd(low, high)


def _element(builder: ir.IRBuilder, address: ir.Value, at: ir.Value, kind: ir.Type) -> ir.Value:
    """Pointer to element `at` of an array."""
    size = 4 if kind in (_I32, ir.FloatType()) else 8
    offset = builder.mul(at, ir.Constant(_I64, size))
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def _scalar(builder: ir.IRBuilder, address: ir.Value, at: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.load(_element(builder, address, at, kind))


def _row_address(
    builder: ir.IRBuilder, base: ir.Value, units: ir.Value, edge: ir.Value, ld_bytes: ir.Value
) -> ir.Value:
    """Address of the batch of the unit at the other end of an edge."""
    unit = builder.sext(_scalar(builder, units, edge, _I32), _I64)
    return builder.add(base, builder.mul(unit, ld_bytes))


Body = Callable[[ir.IRBuilder, _Lanes, list[ir.Value], list[ir.Value]], list[ir.Value]]


def _edges(
    builder: ir.IRBuilder, lanes: _Lanes, count: ir.Value, start: list[ir.Value], body: Body
) -> list[ir.Value]:
    """Loop over edges, `GROUP` at once, with values carried in registers; return the last ones."""
    group = ir.Constant(_I64, GROUP)
    zero, whole = ir.Constant(_I64, 0), builder.sub(count, builder.srem(count, group))
    carried = _loop(builder, lanes, (zero, whole, GROUP), start, body)
    return _loop(builder, lanes, (whole, count, 1), carried, body)


def _loop(
    builder: ir.IRBuilder,
    lanes: _Lanes,
    span: tuple[ir.Value, ir.Value, int],
    start: list[ir.Value],
    body: Body,
) -> list[ir.Value]:
    """Loop from one edge to another by a step."""
    before, (first, last, step) = builder.block, span
    head = builder.append_basic_block("edges")
    inside = builder.append_basic_block("edge")
    after = builder.append_basic_block("done")
    builder.branch(head)
    builder.position_at_end(head)
    edge = builder.phi(_I64)
    edge.add_incoming(first, before)
    carried = [builder.phi(value.type) for value in start]
    for phi, value in zip(carried, start, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", edge, last), inside, after)
    builder.position_at_end(inside)
    edges = [builder.add(edge, ir.Constant(_I64, i)) for i in range(step)]
    following = body(builder, lanes, edges, carried)
    edge.add_incoming(builder.add(edge, ir.Constant(_I64, step)), builder.block)
    for phi, value in zip(carried, following, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return carried


def _by_width(builder: ir.IRBuilder, vectors: ir.Value, emit: Callable[[int], None]) -> None:
    """Emit code for each number of vectors from 1 to `REGISTERS` and choose at run time."""
    end = builder.append_basic_block("end")
    choice = builder.switch(vectors, end)
    for count in range(1, REGISTERS + 1):
        block = builder.append_basic_block(f"vectors_{count}")
        choice.add_case(ir.Constant(_I64, count), block)
        builder.position_at_end(block)
        emit(count)
        builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def _gather_row(typing, x, ld, units, values, count, y, start, vectors, tail):
    """Write y[:] = start + sum over edges of value * x[unit, :]."""
    signature = types.void(*([types.int64] * 6), start, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, ld, units, values, count, y, start, vectors, tail = arguments
        lanes = _Lanes(builder, start.type, tail)
        ld_bytes = builder.mul(ld, ir.Constant(_I64, lanes.bytes))

        def emit(width: int) -> None:
            def body(builder: Any, lanes: Any, edges: Any, sums: Any) -> Any:
                for edge in edges:
                    row = _row_address(builder, x, units, edge, ld_bytes)
                    value = lanes.splat(_scalar(builder, values, edge, lanes.real))
                    sums = [
                        lanes.fma(value, lanes.load(row, k, last=k == width - 1), total)
                        for k, total in enumerate(sums)
                    ]
                return sums

            sums = _edges(builder, lanes, count, [lanes.splat(start)] * width, body)
            for k, total in enumerate(sums):
                lanes.store(total, y, k, last=k == width - 1)

        _by_width(builder, vectors, emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _dot_row(typing, x, ld, units, count, g, gradient, unit, more, vectors, tail):
    """Write gradient[edge] = <g, x[unit, :]>, added to what is there if `more`."""
    signature = types.void(*([types.int64] * 6), unit, *([types.int64] * 3))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, ld, units, count, g, gradient, unit, more, vectors, tail = arguments
        lanes = _Lanes(builder, unit.type, tail)
        ld_bytes = builder.mul(ld, ir.Constant(_I64, lanes.bytes))

        def emit(width: int) -> None:
            own = [lanes.load(g, k, last=k == width - 1) for k in range(width)]

            def body(builder: Any, lanes: Any, edges: Any, sums: Any) -> Any:
                rows = [_row_address(builder, x, units, edge, ld_bytes) for edge in edges]
                dots = [lanes.zero] * len(edges)
                for k in range(width):
                    for i, row in enumerate(rows):
                        other = lanes.load(row, k, last=k == width - 1)
                        dots[i] = lanes.fma(own[k], other, dots[i])
                _accumulate(builder, lanes, dots, gradient, edges, more)
                return sums

            _edges(builder, lanes, count, [], body)

        _by_width(builder, vectors, emit)
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
    vectors,
    tail,
):
    """Write dx[:] = sum of value * g[unit, :] and gradient[at] = <x, g[unit, :]> in one pass."""
    signature = types.void(*([types.int64] * 9), unit, *([types.int64] * 3))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        g, ld, units, at, values, count, x, dx, gradient, unit, more, vectors, tail = arguments
        lanes = _Lanes(builder, unit.type, tail)
        ld_bytes = builder.mul(ld, ir.Constant(_I64, lanes.bytes))

        def emit(width: int) -> None:
            own = [lanes.load(x, k, last=k == width - 1) for k in range(width)]

            def body(builder: Any, lanes: Any, edges: Any, sums: Any) -> Any:
                rows = [_row_address(builder, g, units, edge, ld_bytes) for edge in edges]
                places = [builder.sext(_scalar(builder, at, edge, _I32), _I64) for edge in edges]
                weights = [
                    lanes.splat(_scalar(builder, values, place, lanes.real)) for place in places
                ]
                dots, sums = [lanes.zero] * len(edges), list(sums)
                for k in range(width):
                    for i, row in enumerate(rows):
                        other = lanes.load(row, k, last=k == width - 1)
                        dots[i] = lanes.fma(own[k], other, dots[i])
                        sums[k] = lanes.fma(weights[i], other, sums[k])
                _accumulate(builder, lanes, dots, gradient, places, more)
                return sums

            sums = _edges(builder, lanes, count, [lanes.zero] * width, body)
            for k, total in enumerate(sums):
                lanes.store(total, dx, k, last=k == width - 1)

        _by_width(builder, vectors, emit)
        return context.get_dummy_value()

    return signature, generate


def _accumulate(
    builder: ir.IRBuilder,
    lanes: _Lanes,
    products: list[ir.Value],
    base: ir.Value,
    places: list[ir.Value],
    more: ir.Value,
) -> None:
    """Store the sums of vectors at ``base[places]``, added to what is there if `more`."""
    wanted = builder.icmp_signed("!=", more, ir.Constant(_I64, 0))
    for total, at in zip(lanes.sums(products), places, strict=True):
        place = _element(builder, base, at, lanes.real)
        old = builder.select(wanted, builder.load(place), ir.Constant(lanes.real, 0.0))
        builder.store(builder.fadd(old, total), place)


def _compiled(function: Callable[..., None]) -> Any:
    """Compile on first use, kept on disk where there is a place to keep it."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither this folder nor a cache folder can be written to
        return njit(nogil=True)(function)


@_compiled
def forward(x, ld, pointers, units, values, bias, y, first, last, batch, itemsize, width):
    """Write y[i, :batch] = bias[i] + sum over edges of value * x[unit, :batch]; y has ld batch."""
    block = REGISTERS * width
    for at in range(0, batch, block):
        lanes = min(block, batch - at)
        vectors = (lanes + width - 1) // width
        tail = lanes - (vectors - 1) * width
        for i in range(first, last):
            begin = pointers[i]
            _gather_row(
                x + at * itemsize, ld, units + begin * 4, values + begin * itemsize,
                pointers[i + 1] - begin, y + (i * batch + at) * itemsize, bias[i], vectors, tail,
            )  # fmt: skip


@_compiled
def sampled(x, ld, pointers, units, g, ldg, gradient, unit, first, last, batch, itemsize, width):
    """Write gradient[edge] = <g[i, :], x[unit, :]> for the edges of rows first..last - 1."""
    block = REGISTERS * width
    for at in range(0, batch, block):
        lanes = min(block, batch - at)
        vectors = (lanes + width - 1) // width
        tail = lanes - (vectors - 1) * width
        for i in range(first, last):
            begin = pointers[i]
            _dot_row(
                x + at * itemsize, ld, units + begin * 4, pointers[i + 1] - begin,
                g + (i * ldg + at) * itemsize, gradient + begin * itemsize, unit,
                1 if at else 0, vectors, tail,
            )  # fmt: skip


@_compiled
def backward(
    g, ldg, pointers, units, at_edge, values, x, ldx, dx, gradient, unit, first, last, batch,
    itemsize, width,
):  # fmt: skip
    """Write dx[j, :] and the gradient of the edges of columns first..last - 1 in one pass."""
    block = REGISTERS * width
    for at in range(0, batch, block):
        lanes = min(block, batch - at)
        vectors = (lanes + width - 1) // width
        tail = lanes - (vectors - 1) * width
        for j in range(first, last):
            begin = pointers[j]
            _both_column(
                g + at * itemsize, ldg, units + begin * 4, at_edge + begin * 4, values,
                pointers[j + 1] - begin, x + (j * ldx + at) * itemsize,
                dx + (j * batch + at) * itemsize, gradient, unit, 1 if at else 0, vectors, tail,
            )  # fmt: skip
