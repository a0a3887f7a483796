"""Compiled loops of the power-law fit: likelihood, scan of x_min, bootstrap.

Imported on first use, since it loads numba. All sums are relative to the first value x of the
support, sum (k / x)**-a, so that nothing overflows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.graph.kernels import compiled

__all__ = ["bootstrap", "scan"]

TERMS = 10  # summed directly before the Euler-Maclaurin remainder takes over
GAP = 16  # a gap between values up to which probabilities are subtracted one by one
LARGEST = 1000.0  # exponent


@compiled
def _decay(z: float) -> tuple[float, float, float]:
    """(1 - exp(-z)) / z and its first two derivatives."""
    if abs(z) < 0.02:
        return (
            1 - z / 2 + z * z / 6 - z**3 / 24 + z**4 / 120,
            -0.5 + z / 3 - z * z / 8 + z**3 / 30 - z**4 / 144,
            1 / 3 - z / 4 + z * z / 10 - z**3 / 36 + z**4 / 168,
        )
    e = np.exp(-z)
    return (
        (1 - e) / z,
        (e * (1 + z) - 1) / (z * z),
        (2 - e * (z * z + 2 * z + 2)) / (z * z * z),
    )


@compiled
def _rest(a: float, y: float, x: float) -> tuple[float, float, float]:
    """Euler-Maclaurin terms after the integral at y, with minus first and second derivative."""
    log = np.log(y / x)
    q = np.exp(-a * log)
    third = a * (a + 1) * (a + 2)
    third_1, third_2 = 3 * a * a + 6 * a + 2, 6 * a + 6
    pair = (a + 3) * (a + 4)
    fifth = third * pair
    fifth_1 = third_1 * pair + third * (2 * a + 7)
    fifth_2 = third_2 * pair + 2 * third_1 * (2 * a + 7) + 2 * third
    c3, c5 = 1 / (720 * y**3), 1 / (30240 * y**5)
    p = 0.5 + a / (12 * y) - third * c3 + fifth * c5
    p_1 = 1 / (12 * y) - third_1 * c3 + fifth_1 * c5
    p_2 = -third_2 * c3 + fifth_2 * c5
    return q * p, q * (log * p - p_1), q * (log * log * p - 2 * log * p_1 + p_2)


@compiled
def _sums(a: float, x: float, start: float, upper: float) -> tuple[float, float, float]:
    """Sums of (k/x)**-a, times log(k/x), times its square, over k = start..upper."""
    s0, s1, s2 = 0.0, 0.0, 0.0
    y = start
    if a > 0.2 * start or start < 20:
        for _ in range(TERMS):
            if y > upper:
                return s0, s1, s2
            log = np.log(y / x)
            t = np.exp(-a * log)
            s0 += t
            s1 += t * log
            s2 += t * log * log
            y += 1
    if y > upper:
        return s0, s1, s2
    r0, r1, r2 = _rest(a, y, x)
    s0 += r0
    s1 += r1
    s2 += r2
    log = np.log(y / x)
    q = np.exp(-a * log) * y
    if np.isinf(upper):
        p = 1 / (a - 1)
        s0 += q * p
        s1 += q * (log * p + p * p)
        s2 += q * (log * log * p + 2 * log * p * p + 2 * p * p * p)
        return s0, s1, s2
    end = upper + 1
    e0, e1, e2 = _rest(a, end, x)
    length = np.log(end / y)
    f0, f1, f2 = _decay((a - 1) * length)
    q *= length
    s0 += q * f0 - e0
    s1 += q * (log * f0 - length * f1) - e1
    s2 += q * (log * log * f0 - 2 * log * length * f1 + length * length * f2) - e2
    return s0, s1, s2


@compiled
def _exponent(mean_log: float, x: float, upper: float, guess: float) -> float:
    """Maximum-likelihood exponent: Newton steps on the convex cost in a shrinking bracket."""
    low = 1.01 if np.isinf(upper) else 1e-3
    high = LARGEST
    target = mean_log - np.log(x)
    a = min(max(guess, low + 0.01), LARGEST / 2)
    for _ in range(80):
        s0, s1, s2 = _sums(a, x, x, upper)
        slope = target - s1 / s0
        bend = s2 / s0 - (s1 / s0) ** 2
        if slope < 0:
            low = a
        else:
            high = a
        new = a - slope / bend if bend > 0 else -1.0
        if not low < new < high:
            new = 0.5 * (low + high)
        step = abs(new - a)
        a = new
        if step < 1e-10 * a:
            break
    return a


@compiled
def _distance(
    a: float,
    x: float,
    values: NDArray[np.float64],
    above: NDArray[np.float64],
    first: int,
    upper: float,
    best: float,
) -> float:
    """Kolmogorov-Smirnov distance of the tail from position `first`; given up beyond `best`.

    Taken at both ends of every flat stretch of the empirical distribution.
    """
    norm, _, _ = _sums(a, x, x, upper)
    fitted, at, worst = 1.0, x, 0.0
    for i in range(first, values.size):
        v = values[i]
        if v - at > GAP:
            fitted = _sums(a, x, v, upper)[0] / norm
        else:
            while at < v:
                fitted -= np.exp(-a * np.log(at / x)) / norm
                at += 1
        share = above[i] / above[first]
        worst = max(worst, abs(fitted - share))
        fitted -= np.exp(-a * np.log(v / x)) / norm
        at = v + 1
        share = above[i + 1] / above[first]
        worst = max(worst, abs(fitted - share))
        if worst > best or max(fitted, share) < worst:
            break
    return worst


@compiled
def scan(
    values: NDArray[np.float64], counts: NDArray[np.float64], xmin: float, upper: float
) -> tuple[float, float, float, float]:
    """Best tail of a table of at least two positive values: exponent, start, size, distance.

    `xmin` 0 tries every value but the last.
    """
    m = values.size
    above, logs = np.zeros(m + 1), np.zeros(m + 1)
    for i in range(m - 1, -1, -1):
        above[i] = above[i + 1] + counts[i]
        logs[i] = logs[i + 1] + counts[i] * np.log(values[i])
    best, alpha, start, size = np.inf, np.nan, np.nan, 0.0
    guess = 0.0
    for first in range(m - 1 if xmin == 0 else 1):
        x = values[first] if xmin == 0 else xmin
        mean_log = logs[first] / above[first]
        if guess == 0.0:
            guess = 1 + 1 / max(mean_log - np.log(x - 0.5), 1e-6)
        guess = _exponent(mean_log, x, upper, guess)
        distance = _distance(guess, x, values, above, first, upper, best)
        if distance < best:
            best, alpha, start, size = distance, guess, x, above[first]
    return alpha, start, size, best


@compiled
def _find(cumulative: NDArray[np.float64], guide: NDArray[np.int64], u: float) -> int:
    """Position of the first cumulative value above u; its length if there is none."""
    at = guide[int(u * guide.size)]
    while at < cumulative.size and cumulative[at] <= u:
        at += 1
    return at


@compiled
def _guide(cumulative: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """Where to begin looking, for each of `size` equal parts of [0, 1)."""
    guide = np.empty(size, np.int64)
    at = 0
    for i in range(size):
        while at < cumulative.size and cumulative[at] <= i / size:
            at += 1
        guide[i] = at
    return guide


@compiled
def bootstrap(
    head: NDArray[np.float64],
    head_share: NDArray[np.float64],
    tail_share: float,
    alpha: float,
    start: float,
    cumulative: NDArray[np.float64],
    upper: float,
    xmin: float,
    n: int,
    replicates: int,
    distance: float,
    rng: Any,
) -> int:
    """Count the replicates whose best tail is at least as far from its fit as `distance`.

    Each of n values is from the law on start..upper (tabulated in `cumulative`, continuous
    beyond) with probability `tail_share`, else one of `head` with cumulative `head_share`.
    """
    guide = _guide(cumulative, 2 * cumulative.size + 64)
    head_guide = _guide(head_share, 2 * head_share.size + 64)
    hist, head_hist = np.zeros(cumulative.size), np.zeros(head.size)
    beyond = np.empty(n)
    edge = start + cumulative.size - 0.5
    worse = 0
    for _ in range(replicates):
        far, last = 0, 0
        for _ in range(n):
            if head.size and rng.random() >= tail_share:
                head_hist[min(_find(head_share, head_guide, rng.random()), head.size - 1)] += 1
                continue
            at = _find(cumulative, guide, rng.random())
            if at < cumulative.size:
                hist[at] += 1
                last = max(last, at)
                continue
            u = rng.random()
            if np.isinf(upper):
                value = edge * (1 - u) ** (-1 / (alpha - 1))
            else:
                length = np.log((upper + 0.5) / edge)
                if abs(alpha - 1) * length < 1e-12:
                    value = edge * np.exp(u * length)
                else:
                    inner = np.log1p(u * np.expm1((1 - alpha) * length))
                    value = edge * np.exp(inner / (1 - alpha))
            beyond[far] = min(np.rint(value), min(upper, 2.0**62))
            far += 1
        values, counts = np.empty(head.size + last + 1 + far), np.empty(head.size + last + 1 + far)
        m = 0
        for i in range(head.size):
            if head_hist[i] > 0 and head[i] > 0 and head[i] >= xmin:
                values[m], counts[m] = head[i], head_hist[i]
                m += 1
            head_hist[i] = 0
        for i in range(last + 1):
            if hist[i] > 0:
                values[m], counts[m] = start + i, hist[i]
                m += 1
                hist[i] = 0
        if far:
            for value in np.sort(beyond[:far]):
                if m and values[m - 1] == value:
                    counts[m - 1] += 1
                else:
                    values[m], counts[m] = value, 1.0
                    m += 1
        if m >= 2 and scan(values[:m], counts[:m], xmin, upper)[3] >= distance:
            worse += 1
    return worse
