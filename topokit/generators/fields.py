"""Arithmetic of finite fields of prime-power order, by tables of logarithms."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from topokit.generators.sampling import IntArray

__all__ = [
    "Field",
    "digit_sum",
    "field_of_order",
    "field_order",
    "is_prime",
    "nearest",
    "prime_power",
    "primes_near",
]


def is_prime(n: int) -> bool:
    """Return whether `n` is a prime, by trial division."""
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def primes_near(n: int) -> tuple[int, int]:
    """Return the largest prime up to `n` (2 if there is none) and the smallest above `n`."""
    below, above = max(n, 2), max(n, 2) + 1
    while not is_prime(below):
        below -= 1
    while not is_prime(above):
        above += 1
    return below, above


def prime_power(n: int) -> tuple[int, int] | None:
    """Return the prime and the exponent of a prime power, or None.

    Examples
    --------
    >>> prime_power(27), prime_power(13), prime_power(12), prime_power(1)
    ((3, 3), (13, 1), None, None)
    """
    if n < 2:
        return None
    p = next((d for d in range(2, int(n**0.5) + 1) if n % d == 0), n)
    k = 0
    while n % p == 0:
        n, k = n // p, k + 1
    return (p, k) if n == 1 else None


def nearest(n: int, suits: Callable[[int], bool]) -> list[int]:
    """Return the largest suitable number up to `n`, if there is one, and the smallest above."""
    below = next((k for k in range(n, 1, -1) if suits(k)), None)
    above = next(k for k in itertools.count(max(n + 1, 2)) if suits(k))
    return [above] if below is None else [below, above]


def field_order(
    q: int | None, fits: Callable[[int], bool], what: str, kind: str = "prime power"
) -> int:
    """Return q if it is of the kind and fits; without q, the smallest such number.

    Kinds are "prime power", "prime", and these with a remainder, such as "prime power, 3 modulo
    4". Otherwise raise a ValueError that names the nearest numbers that are right.
    """

    def suits(k: int) -> bool:
        power = prime_power(k)
        right = power is not None and (kind.startswith("prime power") or power[1] == 1)
        return right and (" modulo 4" not in kind or k % 4 == int(kind.split()[-3]))

    if q is None:
        return next(k for k in itertools.count(2) if suits(k) and fits(k))
    if not suits(q):
        near = nearest(q, suits)
        words = " and ".join(map(str, near)) + (" are" if len(near) > 1 else " is")
        raise ValueError(f"q must be a {kind}; {words} the nearest to {q}")
    if not fits(q):
        best = next(k for k in itertools.count(2) if suits(k) and fits(k))
        raise ValueError(f"q must be a {kind} that gives {what}; {best} is the smallest, got {q}")
    return q


def digit_sum(x: IntArray, y: IntArray, base: int, length: int) -> IntArray:
    """Return sums without carry of numbers of `length` digits, array by array.

    Examples
    --------
    >>> digit_sum(np.array(5), np.array(4), 3, 2).tolist()  # 12 and 11 in base 3
    6
    """
    if length == 1:
        return (x + y) % base
    weights = [base**i for i in range(length)]
    return sum(((x // w + y // w) % base * w for w in weights), np.zeros((), np.int64))


@dataclass(frozen=True, slots=True)
class Field:
    """The field of ``q = p**k`` elements, numbered 0..q-1 by their digits in base p.

    Attributes
    ----------
    q, p, k : int
    exp : (q - 1,) int64
        Powers of a primitive element.
    log : (q,) int64
        Their exponents; ``log[0]`` is undefined.
    """

    q: int
    p: int
    k: int
    exp: IntArray
    log: IntArray

    def add(self, a: IntArray, b: IntArray) -> IntArray:
        """Return the sum of elements, array by array."""
        return digit_sum(np.asarray(a), np.asarray(b), self.p, self.k)

    def subtract(self, a: IntArray, b: IntArray) -> IntArray:
        """Return the difference of elements, array by array."""
        return self.add(a, self.multiply(b, np.array(self.p - 1)))

    def multiply(self, a: IntArray, b: IntArray) -> IntArray:
        """Return the product of elements, array by array."""
        a, b = np.asarray(a), np.asarray(b)
        product = self.exp[(self.log[a] + self.log[b]) % (self.q - 1)]
        return np.where((a == 0) | (b == 0), 0, product)

    @property
    def squares(self) -> IntArray:
        """The squares other than 0, increasing."""
        return np.sort(self.exp[:: 2 if self.p > 2 else 1])


@functools.lru_cache(maxsize=16)
def field_of_order(q: int) -> Field:
    """Build the field of q elements, q a prime power.

    The reduction rule is the first monic polynomial whose root is primitive. Each polynomial tried
    costs O(q).

    Raises
    ------
    ValueError
        If q is not a prime power.

    Examples
    --------
    >>> f = field_of_order(4)
    >>> f.add(2, 3).tolist(), f.multiply(2, 3).tolist(), f.multiply(2, 2).tolist()
    (1, 1, 3)
    """
    power = prime_power(q)
    if power is None:
        raise ValueError(f"expected a prime power, got {q}")
    p, k = power
    for rule in range(1, q):
        exp = _powers(p, k, rule)
        if len(exp) == q - 1:
            break
    log = np.zeros(q, np.int64)
    log[exp] = np.arange(q - 1)
    return Field(q, p, k, np.array(exp, np.int64), log)


def _powers(p: int, k: int, rule: int) -> list[int]:
    """Return powers of x until one repeats, where x**k is the element numbered `rule`."""
    top = p ** (k - 1)
    digits = [rule // p**i % p for i in range(k)]
    seen, value = [1], 1
    while True:
        high, low = divmod(value, top)
        value = low * p
        value = sum(((value // p**i + high * d) % p) * p**i for i, d in enumerate(digits))
        if value == 1 or value == 0 or len(seen) >= p**k:
            return seen
        seen.append(value)
