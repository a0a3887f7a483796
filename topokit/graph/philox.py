"""Philox 4x32-10: random numbers that are a function of a key and a counter, in compiled loops.

Number i of a key is computed from i alone, so all numbers can be drawn at once, in any order and on
any device: integer arithmetic gives the same bits everywhere. Loads numba: see
`topokit.graph.kernels`.

References
----------
.. [1] Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
.. [2] Lemire, "Fast random integer generation in an interval", ACM TOMACS 29, 2019.
.. [3] Wichura, "Algorithm AS 241: The percentage points of the normal distribution", Applied
   Statistics 37, 1988.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from topokit.graph.kernels import compiled

__all__ = ["block", "integers", "normals", "pair", "uniforms", "uniforms_where"]

_ROUNDS = 10
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _32, _11, _1 = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(11), np.uint64(1)
_ONE = 1 << 53  # values of the 53 bits of a float
_LN2 = math.log(2)


@compiled
def block(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, k0: np.uint64, k1: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return the four words of a counter of four words and a key of two; words have 32 bits."""
    for _ in range(_ROUNDS):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@compiled
def pair(key: np.uint64, half: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return numbers ``2 * half`` and ``2 * half + 1`` of a key, of 64 bits each.

    They are the first two words and the other two of block `half`. Of key, counter and numbers the
    low word comes first.
    """
    zero = np.uint64(0)
    w0, w1, w2, w3 = block(half & _LOW, half >> _32, zero, zero, key & _LOW, key >> _32)
    return w0 | (w1 << _32), w2 | (w3 << _32)


@compiled
def integers(key: np.uint64, start: int, stop: int, n: int) -> NDArray[np.int64]:
    """Return the integers below `n` that numbers `start` to `stop` of a key give, in their order.

    Number x gives ``x * n // 2**64``. The ``2**64 % n`` numbers that would make some integers more
    likely than others, those with ``x * n % 2**64 < 2**64 % n``, give none: all integers are
    exactly equally likely, and the result is almost always ``stop - start`` long. 1 <= n < 2**62.
    """
    size = np.uint64(n)
    n0, n1 = size & _LOW, size >> _32
    unequal = (np.uint64(0) - size) % size  # 2**64 % n
    result, count = np.empty(stop - start, np.int64), 0
    even, odd = pair(key, np.uint64(start) >> _1)
    for at in range(start, stop):
        if not at & 1:
            even, odd = pair(key, np.uint64(at) >> _1)
        x = odd if at & 1 else even
        if x * size < unequal:  # the product modulo 2**64
            continue
        x0, x1 = x & _LOW, x >> _32
        middle = x1 * n0 + ((x0 * n0) >> _32)
        other = x0 * n1 + (middle & _LOW)
        result[count] = np.int64(x1 * n1 + (middle >> _32) + (other >> _32))
        count += 1
    return result[:count]


@compiled
def _odd(x: np.uint64) -> np.int64:
    """Return an odd integer below 2**53: the upper 52 bits of a number, and a one."""
    return np.int64(x >> _11) | 1


@compiled
def uniforms(key: np.uint64, at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return numbers `at` of a key as odd multiples of ``2**-53`` between 0 and 1."""
    result, last = np.empty(at.size, np.float64), np.int64(-1)
    even = odd = np.uint64(0)
    for i in range(at.size):
        if at[i] >> 1 != last:
            last = at[i] >> 1
            even, odd = pair(key, np.uint64(last))
        result[i] = _odd(odd if at[i] & 1 else even) / _ONE
    return result


@compiled
def uniforms_where(key: np.uint64, first: int, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the numbers of `uniforms` at ``first + i`` for each i at which a flat mask is true."""
    result, count = np.empty(np.count_nonzero(mask), np.float64), 0
    last, even, odd = -1, np.uint64(0), np.uint64(0)
    for i in range(mask.size):
        if mask[i]:
            at = first + i
            if at >> 1 != last:
                last = at >> 1
                even, odd = pair(key, np.uint64(last))
            result[count] = _odd(odd if at & 1 else even) / _ONE
            count += 1
    return result


@compiled
def _log(x: float) -> float:
    """Return the natural logarithm of a number from ``2**-53`` to 1, in plain arithmetic.

    A function of the system's library may differ between machines in the last digit. 12 terms of
    ``2 artanh((m - 1) / (m + 1))``, for x = m 2**e and m from sqrt(1/2) to sqrt(2).
    """
    exponent = 0
    while x < 0.5:
        x, exponent = x * 2.0, exponent - 1
    if x < 0.7071067811865476:
        x, exponent = x * 2.0, exponent - 1
    s = (x - 1.0) / (x + 1.0)
    square, sum_ = s * s, 0.0
    for k in range(23, 0, -2):
        sum_ = sum_ * square + 1.0 / k
    return exponent * _LN2 + 2.0 * s * sum_


_CENTRE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
     4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
     1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
     2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
     4.2313330701600911252e1, 1.0),
)  # fmt: skip
_MIDDLE = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
     1.27045825245236838258e0, 3.64784832476320460504e0, 5.76949722146069140550e0,
     4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
     1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940e0,
     2.05319162663775882187e0, 1.0),
)  # fmt: skip
_FAR = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
     2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580e0,
     5.46378491116411436990e0, 6.65790464350110377720e0),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
     7.86869131145613259100e-4, 1.48753612908506148525e-2, 1.36929880922735805310e-1,
     5.99832206555887937690e-1, 1.0),
)  # fmt: skip


@compiled
def _ratio(polynomials: tuple[tuple[float, ...], tuple[float, ...]], x: float) -> float:
    """Return the ratio of two polynomials, highest coefficients first."""
    above, below = 0.0, 0.0
    for i in range(8):
        above, below = above * x + polynomials[0][i], below * x + polynomials[1][i]
    return above / below


@compiled
def _quantile(odd: np.int64) -> float:
    """Return the quantile of N(0, 1) at ``odd / 2**53``, by algorithm AS 241."""
    q = (odd - _ONE // 2) / _ONE
    if abs(q) <= 0.425:
        return q * _ratio(_CENTRE, 0.180625 - q * q)
    r = math.sqrt(-_log(min(odd, _ONE - odd) / _ONE))
    z = _ratio(_MIDDLE, r - 1.6) if r <= 5.0 else _ratio(_FAR, r - 5.0)
    return -z if q < 0 else z


@compiled
def normals(key: np.uint64, n: int) -> NDArray[np.float64]:
    """Return the first `n` numbers of a key as draws from N(0, 1), by the inverse of its law.

    Only sums, products, quotients and square roots, each of which IEEE 754 defines to the last
    bit: equal wherever they are computed so (torch's square root on the CPU is not) and
    multiplication and addition are not fused.
    """
    result = np.empty(n, np.float64)
    for at in range(0, n, 2):
        even, odd = pair(key, np.uint64(at) >> _1)
        result[at] = _quantile(_odd(even))
        if at + 1 < n:
            result[at + 1] = _quantile(_odd(odd))
    return result
