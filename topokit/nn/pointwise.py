"""Compiled passes over activations: S-shaped ReLU and dropout.

Also what every compiled kernel reads its orders with: a *job* is an array of integers, described
in `topokit.nn.compiled`, which alone imports this, and whose cache knows nothing of this file:
who changes this file touches that one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core.extending import intrinsic

from topokit.nn.vectors import I64, element, scalar

__all__ = ["dropped", "real", "srelu", "srelu_back", "take", "word"]

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
