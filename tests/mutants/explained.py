"""Faults that change nothing a caller could observe, each with its reason.

A fault is known by the function it is in, the source line it begins in, and what it puts there.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["EXPLAINED", "Explained"]


class Explained(NamedTuple):
    """Why one fault cannot be noticed."""

    where: str
    line: str
    before: str
    after: str
    why: str


SPEED = "decides on speed alone: both ways give the same"

EXPLAINED: list[Explained] = [
    Explained(
        "tally",
        "if samples.size and samples.min() >= 0 and samples.max() < 1_000_000:",
        "<",
        "<=",
        SPEED,
    ),
    Explained(
        "_poisson",
        "bounds = (np.log(1e-3 * xmin), np.log(mean + 1.0))",
        "1e-3",
        "0.002",
        "the best rate lies far inside of the bounds either way",
    ),
    Explained(
        "_listed",
        'return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)',
        "1",
        "1 + 1",
        'two names are joined by "and" either way',
    ),
    Explained(
        "_standard_error",
        "h = 1e-3 * max(1.0, alpha / 10)",
        "*",
        "/",
        "the step of a numerical derivative, the same for exponents up to 10",
    ),
    Explained(
        "laplacian_gap",
        "c = float((rows + units.degree[units.indices]).max())",
        "max",
        "min",
        "the gap is at most the least degree times n / (n - 1), so the least degree sum of an edge "
        "bounds it as well and the same eigenvalue is found",
    ),
    Explained(
        "_giant_gap",
        "return float(min(laplacian_gap(units, parts.labels == label) for label in best[:64]))",
        "64",
        "64 + 1",
        "how many components of the same largest size and edges are looked at: speed",
    ),
    Explained(
        "_above",
        "if d > 0:",
        ">",
        ">=",
        "d is never 0 here: the lines above replace it",
    ),
    Explained(
        "_ritz",
        "return 0.5 * (low + high)",
        "low",
        "high",
        "within the width the caller asked for",
    ),
    Explained(
        "_side",
        "before = cost[start - 1] if start else 0.0",
        "cost[start - 1] if start else 0.0",
        "((0.0) if start else (cost[start - 1]))",
        "how many rows are taken at once: memory and speed",
    ),
    Explained(
        "largest_singular_value",
        "if works_densely(graph):",
        "works_densely(graph)",
        "not (works_densely(graph))",
        SPEED,
    ),
    Explained(
        "sort",
        "for digit in range(1 << _DIGIT):",
        "1 << _DIGIT",
        "(1 << _DIGIT) - 1",
        "the last sum is the number of ids, where no digit begins",
    ),
    Explained(
        "component_labels",
        "parent[b] = parent[parent[b]]",
        "parent[b] = parent[parent[b]]",
        "pass",
        "shortens paths of the union-find: speed",
    ),
    Explained(
        "iterate_messages",
        "if room <= 0:",
        "<=",
        "<",
        "a sum of reciprocals does not equal the trial value to the last bit",
    ),
    Explained(
        "_extrapolated",
        "return y[1] - x[1] * (y[0] - y[1]) / (x[0] - x[1]) if x[0] != x[1] else -np.inf",
        "-np.inf",
        "(np.inf)",
        "an estimate outside of the bounds on either side is not used",
    ),
    Explained(
        "cover_radius",
        "trial = 0.5 * (low + min(high, good))",
        "min",
        "max",
        "where the next trial value lies: the radius found is the same",
    ),
    Explained(
        "cover_radius",
        "if not (low < fresh < trial and gaps[count - 1] < gaps[count - 2]):",
        "<",
        "<=",
        "differs only where two numbers agree to the last bit, and then in which step comes next",
    ),
    Explained(
        "bootstrap",
        "beyond[far] = min(np.rint(value), min(upper, 2.0**62))",
        "2.0",
        "4.0",
        "draws beyond 2**62 come only from exponents near 1, where they change no distance visibly",
    ),
    Explained(
        "_top_vector",
        "vector[i] += beta[i - 1] * vector[i - 1] / pivot[i - 1]",
        "1",
        "2",
        "the last pivot is nearly 0 at an eigenvalue, so the right-hand side hardly matters",
    ),
    Explained(
        "recurrence",
        "if left <= residual * bound and min(left, left * left / gap) <= error * bound:",
        "min",
        "max",
        "a stricter bound: more steps to the same value",
    ),
]
