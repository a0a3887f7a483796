"""Every measure against an oracle that computes it in another way, on thousands of small graphs.

``python tests/campaigns/measures.py --count 3000 --write``. The oracles use dense matrices
of numpy, networkx, Python integers and search by brute force, never the code of topokit. Each
graph's units are also renumbered at random, which must not change a measure.
"""

import itertools
import math
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import networkx as nx
import numpy as np
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.campaigns import common
from topokit.generators import GENERATORS
from topokit.graph import EdgeUpdate, LayerGraph
from topokit.measures import (
    CHANGE_MEASURES,
    LAYER_MEASURES,
    NETWORK_MEASURES,
    VERDICTS,
    kept_core,
)

NAN = float("nan")
TOLERANCE = 1e-6  # worst error against an oracle, relative to values above 1
LOOSE = {  # measures that are rounded, or found by a search in the oracle
    "universal_cover_margin": 3e-3,
    "power_law.alpha": 1e-4,
    "power_law.versus_poisson": 1e-3,
    "power_law.versus_exponential": 1e-3,
}
EVERY = {"universal_cover_margin": 50}  # oracles that are slow, on every so many graphs only
TITLE = "Measures against oracles"


# --- graphs


def ids_of(pairs, shape):
    """Return the layer graph of pairs (output unit, input unit)."""
    return LayerGraph.from_edge_ids(sorted({a * shape[1] + b for a, b in pairs}), shape)


def tree(n_out, n_in, rng):
    """A random spanning tree: both sides joined with as few edges as possible."""
    inputs, outputs, pairs = [0], [0], [(0, 0)]
    rest = [("in", i) for i in range(1, n_in)] + [("out", i) for i in range(1, n_out)]
    for at in rng.permutation(len(rest)):
        side, unit = rest[at]
        if side == "in":
            pairs.append((int(rng.choice(outputs)), unit))
            inputs.append(unit)
        else:
            pairs.append((unit, int(rng.choice(inputs))))
            outputs.append(unit)
    return ids_of(pairs, (n_out, n_in))


def copies(graph, times, isolated):
    """Equal components, and isolated units on both sides."""
    rows, columns = graph.rows, graph.indices.astype(int)
    pairs = [
        (int(r) + i * graph.n_out, int(c) + i * graph.n_in)
        for i in range(times)
        for r, c in zip(rows, columns, strict=True)
    ]
    return ids_of(pairs, (times * graph.n_out + isolated, times * graph.n_in + isolated))


def tied(rng):
    """Components with equally many units: some with more edges, some not, in random order."""
    size = int(rng.integers(2, 5))
    path = [(i, i) for i in range(size)] + [(i, i + 1) for i in range(size - 1)]
    cycle = [*path, (size - 1, 0)]
    full = [(i, j) for i in range(size) for j in range(size)]
    blocks = [[path, cycle, full][i] for i in rng.integers(0, 3, rng.integers(2, 5))]
    pairs = [(a + i * size, b + i * size) for i, block in enumerate(blocks) for a, b in block]
    return ids_of(pairs, (size * len(blocks), size * len(blocks)))


def degenerate(rng):
    """Graphs with an empty side, without edges, complete, or with a single unit or edge."""
    shape = [(0, 0), (0, 3), (4, 0), (1, 1), (1, 6), (5, 1), (3, 4), (2, 2)][rng.integers(8)]
    cells = shape[0] * shape[1]
    n_edges = [0, cells, min(1, cells)][rng.integers(3)]
    return LayerGraph.from_edge_ids(np.sort(rng.permutation(cells)[:n_edges]), shape)


def generated(name):
    """Graphs of a generator, of random size and density."""

    def draw(rng):
        for _ in range(50):
            n_in, n_out = (int(n) for n in rng.integers(2, 26, 2))
            try:
                return GENERATORS[name](n_in, n_out, density=float(rng.uniform(0.03, 0.6)), rng=rng)
            except ValueError:  # sizes that this family does not have
                continue
        return GENERATORS["erdos_renyi"](n_in, n_out, density=0.2, rng=rng)

    return draw


def sized(make):
    """Graphs of a function of random sizes."""
    return lambda rng: make(int(rng.integers(2, 25)), int(rng.integers(2, 25)), rng)


KINDS = {
    "degenerate": degenerate,
    "tied components": tied,
    "copies": lambda rng: copies(
        GENERATORS["erdos_renyi"](5, 4, density=0.4, rng=rng), int(rng.integers(2, 4)), 1
    ),
    "tree": sized(tree),
    "path": sized(
        lambda n, _, rng: ids_of([(i, j) for i in range(n) for j in (i, i + 1) if j < n], (n, n))
    ),
    "cycle": sized(
        lambda n, _, rng: ids_of([(i, j % n) for i in range(n) for j in (i, i + 1)], (n, n))
    ),
    "star": sized(lambda n, m, rng: ids_of([(0, j) for j in range(m)], (n, m))),
    "matching": sized(lambda n, m, rng: ids_of([(i, i) for i in range(min(n, m))], (n, m))),
    "with isolated units": sized(
        lambda n, m, rng: copies(
            GENERATORS["erdos_renyi"](m, n, density=0.15, rng=rng), 1, int(rng.integers(1, 4))
        )
    ),
} | {name: generated(name) for name in GENERATORS}


# --- oracles of layers: functions of the dense 0/1 matrix, outputs x inputs


def gini(x):
    """Mean difference of all pairs over twice the mean."""
    if x.size == 0 or x.sum() == 0:
        return NAN
    return np.abs(x[:, None] - x).sum() / (2 * x.size**2 * x.mean())


def summary(name, x, n_other):
    """Moments and inequality of the degrees of one side."""
    n, total = x.size, int(x.sum())
    if n == 0:
        values = [NAN] * 5 + [0]
    else:
        dispersion, p = NAN, NAN
        if total:
            dispersion = x.var() / x.mean()
            cells = n * n_other
            if n > 1 and cells > total:
                spread = ((x - x.mean()) ** 2).sum()
                scale = x.mean() * Fraction(cells - total, cells - 1)
                p = stats.chi2.sf(spread / float(scale), n - 1)
        values = [x.mean(), dispersion, p, x.max(), gini(x), np.sum(x == 0)]
    fields = ("mean", "dispersion", "dispersion_p", "maximum", "gini", "isolated")
    yield from zip((f"{name}.{f}" for f in fields), values, strict=True)


def evenness(name, x):
    """Entropies, effective number of units, hub share, skewness, excess."""
    fields = ("entropy", "edge_entropy", "effective_number", "hub_share", "skewness", "excess")
    values = [NAN] * 6
    if x.sum():
        k = sorted(map(int, x), reverse=True)
        top = math.ceil(Fraction(1, 100) * len(k))
        varies = len(set(k)) > 1
        values = [
            stats.entropy(list(np.unique(x, return_counts=True)[1])),
            stats.entropy(k) / np.log(len(k)) if len(k) > 1 else NAN,
            sum(k) ** 2 / sum(d * d for d in k),
            sum(k[:top]) / sum(k),
            stats.skew(x) if varies else NAN,
            sum(d * d for d in k) / sum(k),
        ]
    yield from zip((f"{name}.{f}" for f in fields), values, strict=True)


def log_sum(logs):
    """Logarithm of the sum of exponentials."""
    return logs.max() + math.log(np.exp(logs - logs.max()).sum())


def tail_laws(values, counts, xmin, upper):
    """Exponent and distance of the best bounded power law on one tail, by plain sums."""
    k = np.arange(xmin, upper + 1.0)
    n = counts.sum()

    def norm(a):
        return log_sum(-a * np.log(k))

    logs = counts @ np.log(values)
    found = minimize_scalar(
        lambda a: a * logs + n * norm(a), bounds=(1e-3, 1000), options={"xatol": 1e-11}
    )
    above = np.array([counts[values >= j].sum() for j in k]) / n
    mass = np.exp(-found.x * np.log(k) - norm(found.x))
    fitted = mass[::-1].cumsum()[::-1]
    return found.x, np.abs(above - fitted).max()


def vuong(values, counts, xmin, upper, alpha):
    """Vuong's statistics against Poisson and exponential laws on the same support."""
    k, n = np.arange(xmin, upper + 1.0), counts.sum()
    power = -alpha * np.log(values) - log_sum(-alpha * np.log(k))
    for log_c in (lambda x: -gammaln(x + 1), lambda x: 0 * x):

        def log_p(theta, log_c=log_c):
            return theta * values + log_c(values) - log_sum(theta * k + log_c(k))

        found = minimize_scalar(
            lambda t, f=log_p: -counts @ f(t), bounds=(-60, 60), options={"xatol": 1e-11}
        )
        d = power - log_p(found.x)
        sd = np.sqrt(counts @ (d - counts @ d / n) ** 2 / n)
        yield counts @ d / np.sqrt(n) / sd if sd > 1e-6 else None


def power_law(name, x, n_other):
    """Fit, and the words for degrees without randomness; None where several answers are right."""
    positive = x[x > 0].astype(int)
    values, counts = np.unique(positive, return_counts=True)
    words = {
        "empty": x.size == 0 or x.sum() == 0,
        "complete": x.size > 0 and x.sum() > 0 and x.min() == n_other,
        "regular": x.size > 0 and x.sum() > 0 and x.min() == x.max() < n_other,
    }
    for word, holds in words.items():
        if holds:
            yield f"{name}.verdict", VERDICTS.index(word)
    fields = ("alpha", "xmin", "n_tail", "ks_distance", "versus_poisson", "versus_exponential")
    if values.size < 2:
        empty = [NAN, NAN, 0, NAN, NAN, NAN]
        yield from zip((f"{name}.{f}" for f in fields), empty, strict=True)
        return
    tried = []
    for i in range(values.size - 1):
        late = 2 * values[i] > n_other and 2 * values[0] <= n_other
        if i and (late or values[i] > n_other - 2):  # as the docstring of fit_tail says
            continue
        rest = values[i:].astype(float), counts[i:].astype(float)
        alpha, distance = tail_laws(*rest, values[i], n_other)
        tried.append((distance, alpha, i))
    least = min(d for d, _, _ in tried)
    yield f"{name}.ks_distance", least
    near = [t for t in tried if t[0] < least + 1e-6]
    if len(near) > 1 or not 0.01 < near[0][1] < 200:
        return
    _, alpha, i = near[0]
    yield f"{name}.alpha", alpha
    yield f"{name}.xmin", values[i]
    yield f"{name}.n_tail", counts[i:].sum()
    rest = values[i:].astype(float), counts[i:].astype(float)
    for law, z in zip(fields[4:], vuong(*rest, values[i], n_other, alpha), strict=True):
        if z is not None:
            yield f"{name}.{law}", z


def singular(b):
    """The two largest singular values, 0 where there is no second."""
    found = np.linalg.svd(b.astype(float), compute_uv=False) if b.size else np.zeros(0)
    return [*found, 0.0, 0.0][:2]


def ramanujan(b):
    """Bound with the mean degrees of the units that have edges, less the second value."""
    e = b.sum()
    used = [np.count_nonzero(b.sum(axis)) for axis in (0, 1)]
    if e == 0 or e / max(used) < 2:
        return NAN
    return sum(np.sqrt(e / n - 1) for n in used) - singular(b)[1]


def to_nx(b):
    """The bipartite graph: inputs first, then outputs."""
    graph = nx.Graph()
    graph.add_nodes_from(range(b.shape[1]), bipartite=0)
    graph.add_nodes_from(range(b.shape[1], sum(b.shape)), bipartite=1)
    graph.add_edges_from((int(c), int(r) + b.shape[1]) for r, c in zip(*np.nonzero(b), strict=True))
    return graph


def laplacian_gap(graph):
    """Second-smallest eigenvalue of the dense Laplacian."""
    return np.linalg.eigvalsh(nx.laplacian_matrix(graph).toarray().astype(float))[1]


def giants(graph):
    """All components with most units and, among these, most edges."""
    parts = [graph.subgraph(p) for p in nx.connected_components(graph)]
    most = max((len(p), p.number_of_edges()) for p in parts)
    return [p for p in parts if (len(p), p.number_of_edges()) == most]


def cover_radius(graph):
    """Spectral radius of the universal cover, by bisection over message passing."""
    directed = [*graph.edges, *(e[::-1] for e in graph.edges)]
    at = {e: i for i, e in enumerate(directed)}
    feeds = [[at[w, u] for w in graph[u] if w != v] for u, v in directed]
    block = np.zeros((len(directed), len(directed)))
    for i, those in enumerate(feeds):
        block[i, those] = 1
    total = np.zeros((graph.number_of_nodes(), len(directed)))
    for i, (_, v) in enumerate(directed):
        total[v, i] = 1

    def holds(t):
        x = np.zeros(len(directed))
        for _ in range(3000):
            room = t - block @ x
            if (room <= 0).any() or (total @ (new := 1 / room) >= t).any():
                return False
            if np.abs(new - x).max() < 1e-10:
                return True
            x = new
        return True

    low, high = 0.0, 2.0 * max(d for _, d in graph.degree)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def mixing(b, second):
    """Largest deviation of any hub block over the bound of the mixing lemma."""
    e = b.sum()
    if e == 0 or not second > 1e-9:
        return NAN
    fan_in, fan_out = b.sum(1), b.sum(0)
    found = []
    for s, t in itertools.product(
        np.unique(fan_in[fan_in > 0])[1:], np.unique(fan_out[fan_out > 0])[1:]
    ):
        one, two = fan_in >= s, fan_out >= t
        left, right = fan_in[one].sum(), fan_out[two].sum()
        bound = second * np.sqrt(left * right * (1 - left / e) * (1 - right / e))
        found.append(abs(b[one][:, two].sum() - left * right / e) / bound)
    return max(found) if found else NAN


def imdb(b):
    """Mean margin of the parts of equal fan-out that count."""
    fan_out, found = b.sum(0), []
    for value in np.unique(fan_out[fan_out >= 3]):
        part = b[:, fan_out == value]
        part = part[part.sum(1) > 0]
        if part.shape[1] >= 3 and part.sum() >= 3 * part.shape[0]:
            found.append(ramanujan(part))
    return np.mean(found) if found else NAN


def nodf(b):
    """Mean overlap of pairs of rows and of columns with decreasing fill, in per cent."""
    pairs = sum(n * (n - 1) / 2 for n in b.shape)
    if not pairs:
        return NAN
    total = 0.0
    for m in (b, b.T):
        for i, j in itertools.permutations(range(m.shape[0]), 2):
            if m[i].sum() > m[j].sum() > 0:
                total += (m[i] & m[j]).sum() / m[j].sum()
    return 100 * total / pairs


def rich_club(b):
    """Edges among the hubs of both sides over those expected, pair by pair."""
    e = b.sum()
    if not e:
        return NAN
    hubs = []
    for k in (b.sum(1), b.sum(0)):
        limit = max(1, sorted(k)[-math.ceil(Fraction(1, 10) * k.size)])
        hubs.append(np.flatnonzero(k >= limit))
    fan_in, fan_out = b.sum(1), b.sum(0)
    expected = sum(min(fan_in[i] * fan_out[j] / e, 1) for i in hubs[0] for j in hubs[1])
    return b[np.ix_(*hubs)].sum() / expected


def correlation(x, y):
    """Pearson's correlation, nan where one of the two does not vary."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return NAN
    return np.corrcoef(x, y)[0, 1]


def robustness(graph):
    """Area under the giant component's curve, classes of equal degree removed in turn."""
    n = graph.number_of_nodes()
    if not n:
        return NAN
    degree, left = dict(graph.degree), graph.copy()
    x, y = [0.0], [max(map(len, nx.connected_components(graph))) / n]
    for value in sorted(set(degree.values()), reverse=True):
        left.remove_nodes_from([u for u in degree if degree[u] == value])
        x.append(1 - len(left) / n)
        y.append(max(map(len, nx.connected_components(left)), default=0) / n)
    return sum((b - a) * (p + q) / 2 for a, b, p, q in zip(x, x[1:], y, y[1:], strict=False))


def layer_oracle(b):
    """Yield the name and value of every layer measure."""
    b = b.astype(int)
    e, graph = b.sum(), to_nx(b)
    n = sum(b.shape)
    fan_in, fan_out = b.sum(1), b.sum(0)
    yield from summary("fan_in", fan_in, b.shape[1])
    yield from summary("fan_out", fan_out, b.shape[0])
    yield from evenness("evenness_fan_in", fan_in)
    yield from evenness("evenness_fan_out", fan_out)
    yield from power_law("power_law", fan_in, b.shape[1])
    yield from power_law("power_law_fan_out", fan_out, b.shape[0])
    first, second = singular(b)
    yield "spectral_gap", first - second if e else NAN
    scaled = b[fan_in > 0][:, fan_out > 0]
    scaled = scaled / np.sqrt(np.outer(scaled.sum(1), scaled.sum(0)))
    normal = singular(scaled)[1]
    yield "normalized_spectral_gap", 1 - normal if e else NAN
    yield "ramanujan_margin", ramanujan(b)
    yield "algebraic_connectivity", laplacian_gap(graph) if n > 1 else NAN
    yield "components", nx.number_connected_components(graph)
    largest = giants(graph) if n else []
    yield "giant_share", len(largest[0]) / n if n else NAN
    yield "algebraic_connectivity_giant", min(map(laplacian_gap, largest)) if e else NAN
    with_edges = sum(len(p) > 1 for p in nx.connected_components(graph))
    if with_edges == 1 and e < 80:
        yield "universal_cover_margin", lambda: cover_radius(graph) - second
    elif with_edges != 1:
        yield "universal_cover_margin", NAN
    yield "imdb", imdb(b)
    yield "mixing_certificate", mixing(b, normal)
    squares = [float((k * k).sum()) for k in (fan_in, fan_out)]
    yield "percolation", (squares[0] / e - 1) * (squares[1] / e - 1) if e else NAN
    common_out = b @ b.T
    pairs = common_out[np.triu_indices(b.shape[0], 1)]
    yield "butterflies", float((pairs * (pairs - 1) // 2).sum())
    yield "robins_alexander", nx.bipartite.robins_alexander_clustering(graph) if n else 0.0
    for mode, field in (("dot", "union"), ("min", "smaller"), ("max", "larger")):
        value = nx.bipartite.latapy_clustering(graph, mode=mode) if n else {}
        yield f"pair_clustering.{field}", np.mean([*value.values()]) if n else NAN
    rows, columns = np.nonzero(b)
    yield "assortativity", correlation(fan_out[columns], fan_in[rows])
    yield "nestedness", nodf(b)
    yield "rich_club", rich_club(b)
    yield "efficiency", nx.global_efficiency(graph) if n > 1 else NAN
    far = [
        d
        for part in (largest if e else [])
        for u, reach in nx.all_pairs_shortest_path_length(part)
        for v, d in reach.items()
        if u != v
    ]
    yield "distances.mean", np.mean(far) if far else NAN
    yield "distances.diameter", max(far) if far else NAN
    yield "robustness", robustness(graph)


# --- oracles of networks and changes


def network_oracle(matrices):
    """Yield the name and value of every network measure of a chain of dense matrices."""
    widths = [matrices[0].shape[1], *(m.shape[0] for m in matrices)]
    start = np.concatenate([[0], np.cumsum(widths)])
    n = int(start[-1])
    a = np.zeros((n, n))
    for i, m in enumerate(matrices):
        a[start[i + 1] : start[i + 2], start[i] : start[i + 1]] = m
    a = a + a.T
    graph = nx.from_numpy_array(a)
    e = graph.number_of_edges()
    if e:
        values = np.sort(np.linalg.eigvalsh(a))[::-1]
        yield "network_spectral_gap", values[0] - max(values[1], 0.0)
        on = a.sum(0) > 0
        inner = a[on][:, on]
        scaled = inner / np.sqrt(np.outer(inner.sum(0), inner.sum(0)))
        yield "network_normalized_gap", 1 - np.sort(np.linalg.eigvalsh(scaled))[-2]
    else:
        yield "network_spectral_gap", NAN
        yield "network_normalized_gap", NAN
    yield "algebraic_connectivity", laplacian_gap(graph) if n > 1 else NAN
    yield "components", nx.number_connected_components(graph)
    yield "giant_share", max(map(len, nx.connected_components(graph))) / n
    down, up = [[1] * widths[0]], [[1] * widths[-1]]
    for m in matrices:
        down.append([sum(down[-1][j] for j in np.flatnonzero(row)) for row in m])
    for m in reversed(matrices):
        up.insert(0, [sum(up[0][i] for i in np.flatnonzero(column)) for column in m.T])
    active = sum(
        bool(down[i][c]) and bool(up[i + 1][r])
        for i, m in enumerate(matrices)
        for r, c in zip(*np.nonzero(m), strict=True)
    )
    hidden = [
        bool(d) and bool(u)
        for i in range(1, len(matrices))
        for d, u in zip(down[i], up[i], strict=True)
    ]
    cells, paths = sum(m.size for m in matrices), sum(down[-1])
    yield "active_flow.units", np.mean(hidden) if hidden else NAN
    yield "active_flow.edges", active / e if e else NAN
    yield "active_flow.effective_density", active / cells if cells else NAN
    yield "active_flow.log10_paths", math.log10(paths) if paths else NAN
    found = [correlation(one.sum(1), two.sum(0)) for one, two in itertools.pairwise(matrices)]
    known = [value for value in found if not math.isnan(value)]
    yield "hub_alignment", np.mean(known) if known else NAN


def change_oracle(before, after, cells):
    """Yield the name and value of every change measure of two sets of edges."""
    one, two = set(before.tolist()), set(after.tolist())
    yield "turnover", len(two - one) / len(two) if two else NAN
    overlap = len(one & two) / len(one | two) if one | two else NAN
    yield "jaccard", overlap
    chance = NAN
    if cells and (one or two):
        both = Fraction(len(one) * len(two), cells)
        chance = float(both / (len(one) + len(two) - both))
    yield "jaccard_excess", (overlap - chance) / (1 - chance) if chance < 1 else NAN


# --- comparison


class Book:
    """Worst differences by measure, and the faults found."""

    def __init__(self):
        self.rows, self.faults = {}, []

    def note(self, name, column, found, expected, where):
        """Compare two values; a difference in nan, or one above the tolerance, is a fault."""
        row = self.rows.setdefault(
            name, {"graphs": 0, "undefined": 0, "oracle": 0.0, "numbering": 0.0}
        )
        if column == "oracle":
            row["graphs"] += 1
            row["undefined"] += math.isnan(expected)
        if math.isnan(found) or math.isnan(expected):
            off = 0.0 if math.isnan(found) and math.isnan(expected) else math.inf
        else:
            off = abs(found - expected) / max(1.0, abs(expected))
        row[column] = max(row[column], off)
        key = name.replace("_fan_out.", ".")
        if off > LOOSE.get(key, TOLERANCE):
            self.faults.append(f"{name} ({column}) of {where}: {found!r}, expected {expected!r}")


def flat(measures, argument):
    """Yield the name and value of each measure, tuples field by field."""
    for name, function in measures.items():
        value = function(argument)
        if hasattr(value, "_fields"):
            yield from ((f"{name}.{f}", float(v)) for f, v in value._asdict().items())
        else:
            yield name, float(value)


def renumbered(graph, rng):
    """The same layer with the units of both sides renumbered."""
    rows, columns = rng.permutation(graph.n_out), rng.permutation(graph.n_in)
    ids = rows[graph.rows] * graph.n_in + columns[graph.indices.astype(int)]
    return LayerGraph.from_edge_ids(np.sort(ids), graph.shape)


def dense(graph):
    """The 0/1 matrix of a layer, outputs x inputs."""
    b = np.zeros(graph.shape, int)
    b[graph.rows, graph.indices.astype(int)] = 1
    return b


def compare(book, prefix, found, oracle, where, number):
    """Note every measure of one graph against its oracle."""
    for name, expected in oracle:
        if number % EVERY.get(name, 1):
            continue
        expected = float(expected() if callable(expected) else expected)
        book.note(prefix + name, "oracle", found[name], expected, where)


def one_graph(book, kind, graph, rng, number):
    """Compare all measures of one graph, of a network that begins with it, and of a change."""
    where = f"{kind} {number} {graph.shape}"
    measures = {k: f for k, f in LAYER_MEASURES.items() if not number % EVERY.get(k, 1)}
    found = dict(flat(measures, graph))
    compare(book, "", found, layer_oracle(dense(graph)), where, number)
    for name, value in flat(measures, renumbered(graph, rng)):
        book.note(name, "numbering", value, found[name], where)
    if graph.n_in and graph.n_out:
        layers = [graph]
        for _ in range(int(rng.integers(0, 3))):
            width, density = int(rng.integers(1, 9)), float(rng.uniform(0.1, 0.7))
            layers.append(
                GENERATORS["erdos_renyi"](layers[-1].n_out, width, density=density, rng=rng)
            )
        topology = {f"fc{i}": layer for i, layer in enumerate(layers)}
        values = dict(flat(NETWORK_MEASURES, topology))
        oracle = network_oracle([dense(layer) for layer in layers])
        compare(book, "network: ", values, oracle, where, 0)
    other = graph.edge_ids[rng.random(graph.n_edges) < 0.7]
    cells = graph.n_in * graph.n_out
    if cells:
        other = np.union1d(other, rng.integers(0, cells, max(1, graph.n_edges // 4)))
    later = LayerGraph.from_edge_ids(other, graph.shape)
    values = dict(flat(CHANGE_MEASURES, EdgeUpdate.between(graph, later)))
    compare(book, "change: ", values, change_oracle(graph.edge_ids, other, cells), where, 0)
    share = int(rng.integers(0, 100))
    kept = kept_core(graph, rng.normal(size=graph.n_edges), share / 100)
    expected = graph.n_edges - math.floor(Fraction(share, 100) * graph.n_edges)
    book.note("kept_core: edges", "oracle", float(kept.n_edges), float(expected), where)


def campaign(count, seed):
    """Return the section: a table by measure, and the faults."""
    book, drawn = Book(), dict.fromkeys(KINDS, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            kind = list(KINDS)[number % len(KINDS)]
            drawn[kind] += 1
            one_graph(book, kind, KINDS[kind](rng), rng, number)
    rows = [
        [
            f"`{name}`",
            row["graphs"],
            row["undefined"],
            f"{row['oracle']:.0e}",
            f"{row['numbering']:.0e}",
        ]
        for name, row in book.rows.items()
    ]
    kinds = sum(n > 0 for n in drawn.values())
    head = ["measure", "graphs", "of these nan", "worst error", "worst change by renumbering"]
    return [
        f"{count} graphs of {kinds} kinds (every generator; empty, tiny, tied, disconnected ones), "
        "each measure against an",
        "independent oracle. Errors are relative for values above 1, and nan must meet nan.",
        f"Beyond the tolerance: {len(book.faults)}.",
        "",
        *([f"- {fault}" for fault in book.faults[:20]] + [""] if book.faults else []),
        *common.table(head, rows),
    ]


if __name__ == "__main__":
    sys.exit(common.main("measures", TITLE, campaign, count=3000))
