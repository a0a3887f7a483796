"""Expanders: the best of group lifts of complete bipartite graphs and of random graphs.

How `expander` chooses. A lift exists for block sizes q that are prime powers only, so it has to be
cropped to the layer's size and to lose or gain edges, which costs some of its small second
singular value. `_plans` lists all block sizes and numbers of shifts near the density and forecasts
that cost with random-matrix formulas; forecasts are wrong by up to a tenth, so they only rank the
plans. For each of the six best a few tables of shifts are drawn, the best is built, fitted and
measured. The best plans of this first round, one to three according to the number of edges, get
many draws, and the graph of the smallest measured second singular value is returned, a random
near-biregular one if no lift is better. Draws are compared by the exact spectrum of the lift
(`topokit.generators.lifts`), which costs far less than building the graph, and a draw is dropped
as soon as it is known to be worse than the best so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topokit.generators.adapt import fit, level
from topokit.generators.fields import prime_power
from topokit.generators.lifts import Group, lifted, products, second_by_characters
from topokit.generators.provenance import note, separate_notes
from topokit.generators.random import biregular
from topokit.generators.sampling import IntArray, Shuffle, complement, edge_count, shuffled
from topokit.graph import LayerGraph
from topokit.graph.spectra import leading_singular_values, mean_degree_bound

__all__ = ["expander", "ramanujan"]

WIDE = 100  # largest block size over number of blocks tried; at 1000 no lift was better
LARGE = 3_000_000  # edges above which a lift is tried only if its forecast is a tenth better


@dataclass(frozen=True, slots=True)
class _Plan:
    """A lift of K(a, b) by a group, with t shifts for each pair of blocks.

    `forecast` is the second singular value to expect after fitting, over that of a random graph.
    """

    group: Group
    t: int
    a: int
    b: int
    forecast: float

    @property
    def density(self) -> float:
        return self.t / self.group.order


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A graph of the wanted size and density, and its second singular value."""

    sigma: float
    graph: LayerGraph
    notes: tuple[str, ...]


def expander(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    draws: int | None = None,
    shuffle: Shuffle = "both",
) -> LayerGraph:
    r"""Best expander we know for a size and density: a group lift fitted to the layer.

    The layer is divided into blocks of q units, q a prime power, and each pair of blocks is
    joined by t shifts of the additive group of the field of q elements, t / q being near the
    density. Shifts are inner products of random distinct vectors over the field, plus a set of t
    offsets with small Fourier coefficients; so with t = 1 and one coordinate there is no 4-cycle.
    All singular values are those of small matrices, one for each character: many draws are
    compared exactly; the best is built, cropped within one block on each side, and edges are
    removed or added up to the exact number. This is done for several q. The second singular
    values of these graphs, and of the best of three random biregular ones, are measured, and the
    graph with the smallest is returned. Above density 1/2 the complement is taken.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    draws : int, optional
        How many lifts of the best q to compare, by default as many as take about 0.1 s; a tenth
        as many of each other q.
    shuffle : {"none", "fan_in", "fan_out", "both"}
        Which sides to renumber at random; "none" leaves blocks of consecutive units.

    Returns
    -------
    LayerGraph
        `describe` gives the second singular value, the margin to
        ``sqrt(fan_out - 1) + sqrt(fan_in - 1)`` and the lift that was chosen.

    Raises
    ------
    ValueError
        If a size or the density is out of range, or `draws` is below 1.

    Notes
    -----
    Guarantee: exact number of edges; degrees within one on both sides; second singular value
    (up to three million edges) no larger than that of the best of three near-biregular random
    graphs, and 5 to 50 % below the mean-degree bound at moderate degrees.
    Cost: 0.3 s at ten thousand edges, about 1 s for each further 100,000: some ten candidates
    are built and measured, each in O(edges) for each Lanczos step. Above three million edges
    only where a lift promises a gain of a tenth; else a single random graph is taken at once.

    A lift gains over a random graph where blocks are nearly as many as their units, or a power
    of that: its small matrices are then most of a Fourier matrix, whose singular values are all
    equal. In very wide and very sparse layers nothing is gained, and the random graph is taken.
    The use of fields of prime-power order, and the choice by the value measured after fitting, are
    specific to this implementation.

    References
    ----------
    .. [1] Fossorier, "Quasi-cyclic low-density parity-check codes from circulant permutation
       matrices", IEEE Transactions on Information Theory 50, 2004.
    .. [2] Marcus, Spielman, Srivastava, "Interlacing families I: bipartite Ramanujan graphs of
       all degrees", Annals of Mathematics 182, 2015.

    Examples
    --------
    >>> graph = expander(784, 1000, density=0.01, rng=np.random.default_rng(0))
    >>> bool(leading_singular_values(graph)[1] < 5.32 < mean_degree_bound(graph))
    True
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if draws is not None and draws < 1:
        raise ValueError(f"expected at least 1 draw, got {draws}")
    cells = n_in * n_out
    if 2 * n_edges > cells:
        inner = expander(
            n_in, n_out, density=1 - n_edges / cells, rng=rng, draws=draws, shuffle=shuffle
        )
        note("complement of a graph of the remaining density")
        return complement(inner)
    effort = int(np.clip(1_000_000 // max(n_edges, 1), 1, 3))
    tries = 1 if n_edges > LARGE else 3
    plans = _plans(n_in, n_out, n_edges)
    with separate_notes():
        graph = ramanujan(n_in, n_out, density=density, rng=rng, tries=tries)
    sigma = _second(graph) if plans else 0.0
    reason = f"no lift is better here: a random near-biregular graph, the best of {tries}"
    best = _Candidate(sigma, graph, (reason,))
    first = [
        (_better(best, plan, _draws(plan, draws) // 10 + 1, n_edges, rng), plan) for plan in plans
    ]
    first = sorted((pair for pair in first if pair[0] is not best), key=lambda pair: pair[0].sigma)
    for found, plan in first[:effort]:
        best = min(best, found, key=lambda candidate: candidate.sigma)
        best = _better(best, plan, _draws(plan, draws), n_edges, rng, n_built=effort)
    for text in best.notes:
        note(text)
    return shuffled(best.graph, shuffle, rng)


def ramanujan(
    n_in: int, n_out: int, *, density: float, rng: np.random.Generator, tries: int = 50
) -> LayerGraph:
    """Random near-biregular graph, drawn until its second singular value is below the bound.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    tries : int
        After this many draws the best one is returned. At widths near 1000 the first is usually
        below the bound. With degree 1 on a side no graph is.

    Returns
    -------
    LayerGraph
        Ramanujan where degrees are constant, otherwise below the bound of the mean degrees, unless
        every try fails.

    Raises
    ------
    ValueError
        If a size or the density is out of range, or `tries` is below 1.

    Notes
    -----
    Guarantee: exact number of edges; degrees within one on both sides; best of the tries.
    Cost: O(edges) for each Lanczos step of each try.

    References
    ----------
    .. [1] Brito, Dumitriu, Harris, "Spectral gap in random bipartite biregular graphs and
       applications", Combinatorics, Probability and Computing 31, 2022.

    Examples
    --------
    >>> graph = ramanujan(800, 1000, density=0.01, rng=np.random.default_rng(0))
    >>> bool(leading_singular_values(graph)[1] <= mean_degree_bound(graph))
    True
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if tries < 1:
        raise ValueError(f"expected at least 1 try, got {tries}")
    best, lowest = None, np.inf
    for _ in range(tries):
        with separate_notes():
            graph = biregular(n_in, n_out, density=density, rng=rng)
        if best is None:
            best = graph
        if (
            tries == 1
            or min(n_in, n_out) < 2
            or n_edges <= max(n_in, n_out)
            or n_edges == n_in * n_out
        ):
            return graph
        sigma = leading_singular_values(graph)[1]
        if sigma < lowest:
            best, lowest = graph, sigma
        if lowest <= mean_degree_bound(graph):
            break
    assert best is not None
    return best


def _second(graph: LayerGraph) -> float:
    """Return the second singular value to ten digits, so that ties keep the order of candidates."""
    return float(f"{leading_singular_values(graph)[1]:.10g}")


def _plans(n_in: int, n_out: int, n_edges: int, keep: int = 6) -> list[_Plan]:
    """Return lifts close to the size and density, in order of the forecast, at most `keep`."""
    if n_edges < 2 * max(n_in, n_out):
        return []
    share = n_edges / (n_in * n_out)
    widest = max(1.35 / share, 2 * np.sqrt(max(n_in, n_out)))
    random = np.sqrt(1 - share) * (np.sqrt(share * n_in) + np.sqrt(share * n_out))
    found = []
    for t in range(1, int(1.35 * share * widest) + 1):
        least, most = max(2 * t, t / (1.35 * share)), min(t / (0.75 * share), widest)
        for h in range(int(np.ceil(least)), int(most) + 1):
            power, a, b = prime_power(h), -(-n_in // h), -(-n_out // h)
            if power is not None and min(a, b) >= max(2, h / WIDE):
                sigma = _after_fitting(_forecast(a, b, h, t), t / h, share, n_in, n_out)
                found.append(_Plan(Group(*power), t, a, b, sigma / random))
    highest = 1.08 if n_edges <= LARGE else 0.9
    found = [plan for plan in found if plan.forecast < highest]
    return sorted(found, key=lambda plan: plan.forecast)[:keep]


def _forecast(a: int, b: int, h: int, t: int) -> float:
    """Forecast the second singular value of a lift before it is fitted to the layer.

    With one shift its matrices are a x b corners of a Fourier matrix of order n, a power of h.
    Their largest singular values are nearly those of corners of random unitary matrices; t
    shifts multiply them by the largest Fourier coefficient of a flat set of t.
    """
    n = h
    while n < max(a, b):
        n *= h
    flat = 1.0 if t == 1 else 1.95 if t == 2 else 1.2 * np.sqrt(t * (1 - t / h))
    corner = np.sqrt(a * (1 - b / n)) + np.sqrt(b * (1 - a / n))
    return float(flat * (np.sqrt(n) if a + b >= n else corner))


def _after_fitting(sigma: float, built: float, share: float, n_in: int, n_out: int) -> float:
    """Forecast the second singular value after edges are removed, or added, at random."""
    kept = min(share / built, 1.0)
    variance = built * kept * (1 - kept) + max(share - built, 0.0)
    return float(np.hypot(kept * sigma, np.sqrt(variance) * (np.sqrt(n_in) + np.sqrt(n_out))))


def _draws(plan: _Plan, wanted: int | None) -> int:
    """Return the number of draws: as wanted, or as many as take about 0.1 s."""
    low, high = sorted((plan.a, plan.b))
    work = (plan.group.order // 2) * (low**2 * high * 4 + 25 * low**3 + 2e4)
    return wanted or int(np.clip(5e8 / work, 2, 300))


def _better(
    best: _Candidate,
    plan: _Plan,
    draws: int,
    n_edges: int,
    rng: np.random.Generator,
    n_built: int = 1,
) -> _Candidate:
    """Return the best of several random lifts, fitted and measured, or the best so far."""
    (n_out, n_in), h = best.graph.shape, plan.group.order
    limit = best.sigma / min(1.0, n_edges / (n_in * n_out) / plan.density)
    offsets = _flat_set(plan.group, plan.t, rng)
    found: list[tuple[float, IntArray]] = []
    for _ in range(draws):
        shifts = products(plan.a, plan.b, plan.group, rng)
        sigma = second_by_characters(shifts, plan.group, offsets=offsets, limit=limit)
        if sigma < limit:
            found = sorted([*found, (sigma, shifts)], key=lambda pair: pair[0])[:n_built]
            limit = found[-1][0] if len(found) == n_built else limit
    for _, shifts in found:
        with separate_notes() as notes:
            note(f"a lift of K({plan.a}, {plan.b}) by a group of {h}, {plan.t} shifts an edge")
            graph = lifted(shifts, plan.group, offsets=offsets, n_in=n_in, n_out=n_out)
            graph = level(fit(graph, n_in, n_out, n_edges, rng), rng=rng)
        sigma = _second(graph)
        if sigma < best.sigma:
            best = _Candidate(sigma, graph, tuple(notes))
    return best


def _flat_set(group: Group, t: int, rng: np.random.Generator, draws: int = 100) -> IntArray:
    """Return, of many random sets of t elements, that of the smallest largest character sum."""
    if t == 1:
        return np.zeros(1, np.int64)
    characters = group.characters()[:, None]
    sets = [rng.permutation(group.order)[:t] for _ in range(draws)]
    return min(sets, key=lambda s: np.abs(group.values(characters, s).sum(axis=1)).max())
