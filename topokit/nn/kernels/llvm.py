"""Vector code written out in LLVM's language: what the compiled kernels are put together from.

The vectors are spelled out, since compilers neither keep a batch of accumulators in registers nor
use 512-bit vectors on their own: `REGISTERS` vectors of `VECTOR_BYTES` stand for one unit's batch,
read once for each edge. Batches of other sizes mask the last vector.

Compiled code is cached by the state of `topokit.nn.kernels.cpu` alone: who changes this file
touches that one.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.binding as llvm
from llvmlite import ir

__all__ = [
    "I32",
    "I64",
    "REGISTERS",
    "VECTOR_BYTES",
    "Lanes",
    "accumulate",
    "begun",
    "by_width",
    "element",
    "over_edges",
    "row_address",
    "scalar",
]

_FEATURES = llvm.get_host_cpu_features()
VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32
REGISTERS = 8 if VECTOR_BYTES == 64 else 4
GROUP = 4  # edges handled at once: their sums over the batch are reduced together

I64, I32 = ir.IntType(64), ir.IntType(32)


class Lanes:
    """Vector loads, stores and sums of one element type, the last vector masked."""

    def __init__(self, builder: ir.IRBuilder, real: ir.Type, lanes: ir.Value) -> None:
        self.builder, self.real = builder, real
        self.bytes = 4 if isinstance(real, ir.FloatType) else 8
        self.width = VECTOR_BYTES // self.bytes
        self.type = ir.VectorType(real, self.width)
        self.zero = ir.Constant(self.type, [ir.Constant(real, 0.0)] * self.width)
        iota = ir.Constant(
            ir.VectorType(I64, self.width), [ir.Constant(I64, i) for i in range(self.width)]
        )
        self.mask = builder.icmp_signed("<", iota, self.splat(lanes, I64))

    def splat(self, scalar: ir.Value, kind: ir.Type | None = None) -> ir.Value:
        """Every lane the same number."""
        vector = ir.Constant(ir.VectorType(kind or self.real, self.width), ir.Undefined)
        first = self.builder.insert_element(vector, scalar, ir.Constant(I32, 0))
        order = ir.Constant(ir.VectorType(I32, self.width), [ir.Constant(I32, 0)] * self.width)
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
        offset = ir.Constant(I64, vector * VECTOR_BYTES)
        return self.builder.inttoptr(self.builder.add(address, offset), self.type.as_pointer())

    def load(self, address: ir.Value, vector: int, *, last: bool) -> ir.Value:
        """Vector number `vector` from an address; lanes past the end of the `last` are zero."""
        pointer = self._pointer(address, vector)
        if not last:
            return self.builder.load(pointer, align=self.bytes)
        function = self._intrinsic(
            "masked.load", self.type, [pointer.type, I32, self.mask.type, self.type]
        )
        align = ir.Constant(I32, self.bytes)
        return self.builder.call(function, [pointer, align, self.mask, self.zero])

    def store(self, value: ir.Value, address: ir.Value, vector: int, *, last: bool) -> None:
        """Write a vector; lanes past the end of the `last` stay as they are."""
        pointer = self._pointer(address, vector)
        if not last:
            self.builder.store(value, pointer, align=self.bytes)
            return
        function = self._intrinsic(
            "masked.store", ir.VoidType(), [self.type, pointer.type, I32, self.mask.type]
        )
        align = ir.Constant(I32, self.bytes)
        self.builder.call(function, [value, pointer, align, self.mask])

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """``a * b + c``, rounded once where the machine can."""
        function = self._intrinsic("fmuladd", self.type, [self.type] * 3)
        return self.builder.call(function, [a, b, c])

    def where_positive(self, test: ir.Value, value: ir.Value, wanted: ir.Value) -> ir.Value:
        """The value where `test` is above 0 (or no number), else 0; all of it unless `wanted`."""
        below = self.builder.fcmp_ordered("<=", test, self.zero)
        gated = self.builder.select(below, self.zero, value)
        return self.builder.select(wanted, gated, value)

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
            self.builder.extract_element(vector, ir.Constant(I32, i)) for i in range(len(vectors))
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
                    ir.VectorType(I32, len(lower)), [ir.Constant(I32, i + at) for i in lower]
                ),
            )
            for at in (0, lanes)
        )
        return self.builder.fadd(low, high)


def element(builder: ir.IRBuilder, address: ir.Value, at: ir.Value, kind: ir.Type) -> ir.Value:
    """Pointer to element `at` of an array."""
    size = 4 if kind in (I32, ir.FloatType()) else 8
    offset = builder.mul(at, ir.Constant(I64, size))
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def scalar(builder: ir.IRBuilder, address: ir.Value, at: ir.Value, kind: ir.Type) -> ir.Value:
    """Element `at` of an array."""
    return builder.load(element(builder, address, at, kind))


def row_address(
    builder: ir.IRBuilder, base: ir.Value, units: ir.Value, edge: ir.Value, ld_bytes: ir.Value
) -> ir.Value:
    """Address of the batch of the unit at the other end of an edge."""
    unit = builder.sext(scalar(builder, units, edge, I32), I64)
    return builder.add(base, builder.mul(unit, ld_bytes))


Body = Callable[[ir.IRBuilder, Lanes, list[ir.Value], list[ir.Value]], list[ir.Value]]


def over_edges(
    builder: ir.IRBuilder, lanes: Lanes, count: ir.Value, start: list[ir.Value], body: Body
) -> list[ir.Value]:
    """Loop over edges, `GROUP` at once, with values carried in registers; return the last ones."""
    group = ir.Constant(I64, GROUP)
    zero, whole = ir.Constant(I64, 0), builder.sub(count, builder.srem(count, group))
    carried = _loop(builder, lanes, (zero, whole, GROUP), start, body)
    return _loop(builder, lanes, (whole, count, 1), carried, body)


def _loop(
    builder: ir.IRBuilder,
    lanes: Lanes,
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
    edge = builder.phi(I64)
    edge.add_incoming(first, before)
    carried = [builder.phi(value.type) for value in start]
    for phi, value in zip(carried, start, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", edge, last), inside, after)
    builder.position_at_end(inside)
    edges = [builder.add(edge, ir.Constant(I64, i)) for i in range(step)]
    following = body(builder, lanes, edges, carried)
    edge.add_incoming(builder.add(edge, ir.Constant(I64, step)), builder.block)
    for phi, value in zip(carried, following, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return carried


def by_width(builder: ir.IRBuilder, vectors: ir.Value, emit: Callable[[int], None]) -> None:
    """Emit code for each number of vectors from 1 to `REGISTERS` and choose at run time."""
    end = builder.append_basic_block("end")
    choice = builder.switch(vectors, end)
    for count in range(1, REGISTERS + 1):
        block = builder.append_basic_block(f"vectors_{count}")
        choice.add_case(ir.Constant(I64, count), block)
        builder.position_at_end(block)
        emit(count)
        builder.branch(end)
    builder.position_at_end(end)


def begun(
    builder: ir.IRBuilder,
    lanes: Lanes,
    address: ir.Value,
    start: ir.Value,
    adding: ir.Value,
    width: int,
) -> list[ir.Value]:
    """What sums begin with: the vectors at an address if `adding`, else a start."""
    return [
        builder.select(adding, lanes.load(address, k, last=k == width - 1), start)
        for k in range(width)
    ]


def accumulate(
    builder: ir.IRBuilder,
    lanes: Lanes,
    products: list[ir.Value],
    base: ir.Value,
    places: list[ir.Value],
    more: ir.Value,
) -> None:
    """Store the sums of vectors at ``base[places]``, added to what is there if `more`."""
    wanted = builder.icmp_signed("!=", more, ir.Constant(I64, 0))
    for total, at in zip(lanes.sums(products), places, strict=True):
        place = element(builder, base, at, lanes.real)
        old = builder.select(wanted, builder.load(place), ir.Constant(lanes.real, 0.0))
        builder.store(builder.fadd(old, total), place)
