"""Compiled loops of the measures: universal cover radius, power-law fit.

Imported on first use, since it loads numba. Loops over edges are in `topokit.measures.edge_loops`,
those of the spectra in `topokit.graph.lanczos`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.graph.kernels import compiled

__all__ = [
    "bootstrap",
    "cover_radius",
    "iterate_messages",
    "scan",
]

ROUNDS = 20_000  # limit for one trial value; fewer than 100 are needed except near the radius
MESSAGES = 3_000_000_000  # limit on rounds times edges in all; band-like layers would need more
CLOSE = 1e-9  # relative difference at which two successive estimates of the radius agree

TERMS = 10  # summed directly before the Euler-Maclaurin remainder, as in topokit.measures.powerlaw
GAP = 16  # a gap between values up to which probabilities are subtracted one by one
STEEPEST = 1000.0  # largest exponent


# Universal cover radius. The spectral radius of the universal cover is the least trial value t at
# which the messages x(u -> v) = 1 / (t - sum of x(w -> u) over other neighbours w) have a positive
# fixed point. At a trial value, messages that begin below the fixed point rise to it; if there is
# none, one of the sums passes t, which proves that t is below the radius. A round costs O(edges).
# Bisection would need 30 trials with ever more rounds, since convergence slows down at the radius.
# But the distance t - radius is a smooth function of the square of the gap between the rate of
# convergence and 1, so two or three trials from above extrapolate to the radius, and each trial
# begins with the messages of the one before, which lie below its own fixed point.
@compiled
def iterate_messages(
    indptr: NDArray[np.int64],
    indices: NDArray[np.uint32],
    n_in: int,
    trial: float,
    up: NDArray[np.float64],
    down: NDArray[np.float64],
    rounds: int,
) -> tuple[bool, float, int]:
    """Iterate messages from below towards their fixed point.

    Change `up` (input to output unit) and `down` in place. Return whether there is a fixed point,
    the rate (the factor by which changes finally shrink), and the number of rounds.
    """
    n_out = indptr.size - 1
    sums = np.zeros(n_in)
    for e in range(indices.size):
        sums[indices[e]] += down[e]
    before, rate = 0.0, 0.0
    for count in range(rounds):
        change, largest = 0.0, 0.0
        for j in range(n_in):
            if sums[j] >= trial:
                return False, 1.0, count + 1
        fresh = np.zeros(n_in)
        for row in range(n_out):
            total = 0.0
            for e in range(indptr[row], indptr[row + 1]):
                room = trial - (sums[indices[e]] - down[e])
                if room <= 0:
                    return False, 1.0, count + 1
                up[e] = 1 / room
                total += up[e]
            if total >= trial:
                return False, 1.0, count + 1
            for e in range(indptr[row], indptr[row + 1]):
                room = trial - (total - up[e])
                if room <= 0:
                    return False, 1.0, count + 1
                new = 1 / room
                change = max(change, abs(new - down[e]))
                largest = max(largest, new)
                down[e] = new
                fresh[indices[e]] += new
        sums = fresh
        if change < 1e-13 * largest:
            return True, rate, count + 1
        now = change / before if before > 0 else 0.0
        if count > 8 and now < 1 and abs(now - rate) < 1e-7 * (1 - now):
            return True, now, count + 1
        rate, before = now, change
    return True, min(rate, 1.0), rounds


@compiled
def _extrapolated(trials: NDArray[np.float64], gaps: NDArray[np.float64], count: int) -> float:
    """Extrapolate to the trial value at which the gap between the rate and 1 is 0.

    The last two or three points are fitted by radius + a gap^2 (+ b gap^3).
    """
    x, y = gaps[:count] ** 2, trials[:count]
    if count < 3:
        return y[1] - x[1] * (y[0] - y[1]) / (x[0] - x[1]) if x[0] != x[1] else -np.inf
    z = gaps[:count] ** 3
    one, two = x[0] - x[2], x[1] - x[2]
    three, four = z[0] - z[2], z[1] - z[2]
    area = one * four - two * three
    if area == 0:
        return -np.inf
    first = ((y[0] - y[2]) * four - (y[1] - y[2]) * three) / area
    second = (one * (y[1] - y[2]) - two * (y[0] - y[2])) / area
    return y[2] - first * x[2] - second * z[2]


@compiled
def cover_radius(
    indptr: NDArray[np.int64],
    indices: NDArray[np.uint32],
    n_in: int,
    lower: float,
    upper: float,
) -> float:
    """Return the least trial value between the bounds at which messages have a fixed point.

    A trial value at which they have none becomes the lower bound; nan if the limit on messages
    is reached.
    """
    low, high = lower, upper
    up, down = np.full(indices.size, 1 / (1.1 * upper)), np.full(indices.size, 1 / (1.1 * upper))
    trials, gaps = np.zeros(3), np.zeros(3)
    good = 1.1 * upper
    left = MESSAGES // max(indices.size, 1)
    _, rate, rounds = iterate_messages(indptr, indices, n_in, good, up, down, min(ROUNDS, left))
    trials[0], gaps[0] = good, 1 - rate
    count = 1
    trial, estimate = 1.02 * upper, -1.0
    up_new, down_new = up.copy(), down.copy()
    for _ in range(300):
        left -= rounds
        if left <= 0:
            return np.nan
        up_new[:], down_new[:] = up, down
        fits, rate, rounds = iterate_messages(
            indptr, indices, n_in, trial, up_new, down_new, min(ROUNDS, left)
        )
        if not fits:
            low = max(low, trial)
            trial = 0.5 * (low + min(high, good))
        else:
            if count == 3:
                trials[:2], gaps[:2] = trials[1:].copy(), gaps[1:].copy()
                count = 2
            trials[count], gaps[count] = trial, 1 - rate
            count += 1
            fresh = _extrapolated(trials, gaps, count)
            if not (low < fresh < trial and gaps[count - 1] < gaps[count - 2]):
                fresh = low
            agrees = abs(fresh - estimate) < CLOSE * trial and trial - fresh < 1e-3 * trial
            high, good = min(high, trial), trial
            up[:], down[:] = up_new, down_new
            if agrees and fresh > low:
                return fresh
            estimate = fresh
            trial = fresh + 0.15 * (trial - fresh)
        if min(high, good) - low < 0.1 * CLOSE * good:
            break
    return min(high, good)


@compiled
def _decay(z: float) -> tuple[float, float, float]:
    """Return (1 - exp(-z)) / z and its first two derivatives, by a series near 0."""
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
    """Return the Euler-Maclaurin terms after the integral at y, for (k/x)**-a.

    With minus their first and with their second derivative in a.
    """
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
    """Return the sums over k = start..upper of (k/x)**-a times 1, log(k/x) and log(k/x)**2."""
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
    """Return the most likely exponent, by Newton steps on the convex cost within a bracket."""
    low = 1.01 if np.isinf(upper) else 1e-3
    high = STEEPEST
    target = mean_log - np.log(x)
    a = min(max(guess, low + 0.01), STEEPEST / 2)
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
    """Return the Kolmogorov-Smirnov distance of the tail that begins at position `first`.

    The difference is taken at both ends of each flat part of the empirical distribution. The loop
    stops once the distance is above `best`.
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


# Scan of x_min (Clauset, Shalizi, Newman, 2009, section 3.3). Each distinct value begins a
# candidate tail: fit its exponent, take the Kolmogorov-Smirnov distance, keep the least, of equal
# ones that of the longest tail. Sizes and sums of logarithms of all tails are suffix sums; an
# exponent costs a few Newton steps from the one before, each O(1) by Euler-Maclaurin summation;
# a distance is stopped once it exceeds the least so far, or once nothing further can exceed it. So
# the cost is O(m^2) at most for m distinct values, and near O(m) in practice. A grid over alpha or
# a table of the zeta function, as in other packages, limits precision and the support.
@compiled
def scan(
    values: NDArray[np.float64], counts: NDArray[np.float64], xmin: float, upper: float
) -> tuple[float, float, float, float]:
    """Return exponent, x_min, size and distance of the best tail of at least two positive values.

    With `xmin` 0 every value but the last is tried, up to half of `upper` where there is one: just
    below the upper end a few values are possible, which any law fits without a distance.
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
        if first > 0 and (x > upper - 2 or (2 * x > upper and 2 * values[0] <= upper)):
            break
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
    """Return the position of the first cumulative value above u, or the length if there is none."""
    at = guide[int(u * guide.size)]
    while at < cumulative.size and cumulative[at] <= u:
        at += 1
    return at


@compiled
def _guide(cumulative: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """Return the first position to search from, for each of `size` equal parts of [0, 1)."""
    guide = np.empty(size, np.int64)
    at = 0
    for i in range(size):
        while at < cumulative.size and cumulative[at] <= i / size:
            at += 1
        guide[i] = at
    return guide


# Semi-parametric bootstrap. A replicate draws each of its n values from the fitted law with
# probability n_tail / n, else from the observed values below x_min, and is fitted as the sample
# was, scan of x_min included; p is the share of replicates that are farther from their own fit.
# Values are drawn by inversion with a guide table (O(1) each) straight into a histogram, which is
# the table of distinct values that the scan needs: nothing is sorted but the rare values beyond
# the tabulated support. A replicate costs O(n) draws and one scan.
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

    Each of n values is drawn from the law on start..upper (tabulated in `cumulative`, continuous
    beyond) with probability `tail_share`, else from `head` with cumulative shares `head_share`.
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
