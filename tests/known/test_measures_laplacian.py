"""Algebraic connectivity by elimination, beside dense linear algebra and theorems."""

import functools
import itertools

import numpy as np
import pytest

from topokit.generators import GENERATORS
from topokit.graph import LayerGraph
from topokit.graph.spectra import joined
from topokit.measures import laplacian
from topokit.measures.connectivity import components_of, labels_of, largest_components
from topokit.measures.edge_loops import largest_sum, quotient
from topokit.measures.laplacian import laplacian_gap
from topokit.measures.spectral import algebraic_connectivity_giant, network_algebraic_connectivity


def of_pairs(pairs, shape):
    return LayerGraph.from_edge_ids(sorted({a * shape[1] + b for a, b in pairs}), shape)


def path(n):
    return of_pairs([(i, j) for i in range(n) for j in (i, i + 1) if j < n], (n, n))


def cycle(n):
    return of_pairs([(i, j % n) for i in range(n) for j in (i, i + 1)], (n, n))


def random_tree(n, rng):
    """A tree that grows by random units: many leaves, long branches."""
    sides = ([0], [0])
    pairs = [(0, 0)]
    for _ in range(2 * n - 2):
        side = int(len(sides[0]) > len(sides[1]))
        new = len(sides[side])
        other = int(rng.choice(sides[1 - side]))
        pairs.append((new, other) if side == 0 else (other, new))
        sides[side].append(new)
    return of_pairs(pairs, (len(sides[0]), len(sides[1])))


def with_leaves(graph, chains, rng):
    """Add chains of edges that end in a unit of degree 1, of random length up to three edges."""
    pairs = list(zip(graph.rows.tolist(), graph.indices.tolist(), strict=True))
    n_out, n_in = graph.shape
    for _ in range(chains):
        row = int(rng.integers(graph.n_out))
        for step in range(int(rng.integers(1, 4))):
            if step % 2 == 0:
                pairs.append((row, n_in))
                n_in += 1
            else:
                pairs.append((n_out, n_in - 1))
                row, n_out = n_out, n_out + 1
    return of_pairs(pairs, (n_out, n_in))


def bridged(one, two):
    """Two graphs and a single edge between them."""
    pairs = list(zip(one.rows.tolist(), one.indices.tolist(), strict=True))
    pairs += [
        (int(a) + one.n_out, int(b) + one.n_in) for a, b in zip(two.rows, two.indices, strict=True)
    ]
    return of_pairs([*pairs, (0, one.n_in)], (one.n_out + two.n_out, one.n_in + two.n_in))


def copies(graph, times):
    n_out, n_in = graph.shape
    pairs = [
        (int(a) + i * n_out, int(b) + i * n_in)
        for i in range(times)
        for a, b in zip(graph.rows, graph.indices, strict=True)
    ]
    return of_pairs(pairs, (n_out * times, n_in * times))


def draw(name, n_in, n_out, density, seed, **params):
    rng = np.random.default_rng(seed)
    return GENERATORS[name](n_in, n_out, density=density, rng=rng, **params)


@functools.cache
def layers():
    """Layers of many kinds by name, drawn when the first test asks for one."""
    rng = np.random.default_rng(3)
    random = draw("erdos_renyi", 150, 130, 0.06, 1)
    return {
        "random": random,
        "few edges": draw("erdos_renyi", 200, 180, 0.012, 2),
        "with chains": with_leaves(random, 20, rng),
        "equal chains": with_leaves(draw("biregular", 90, 90, 0.1, 4), 1, rng),
        "tree": random_tree(140, rng),
        "path": path(90),
        "cycle": cycle(100),
        "hubs": draw("chung_lu", 160, 150, 0.05, 5),
        "attached": draw("preferential_attachment", 150, 150, 0.04, 6),
        "small world": draw("small_world", 150, 150, 0.03, 7),
        "blocks": draw("block", 160, 160, 0.08, 8),
        "hypercube": draw("hypercube", 128, 128, 8 / 128, 9),
        "complete but for a matching": of_pairs(
            [(i, j) for i in range(80) for j in range(80) if i != j], (80, 80)
        ),
        "few against many": draw("erdos_renyi", 300, 5, 0.5, 10),
        "bridge": bridged(random, draw("erdos_renyi", 90, 90, 0.1, 11)),
        "bridge between copies": bridged(random, random),
        "ramanujan": draw("ramanujan", 98, 98, 6 / 98, 12),
    }


LAYERS = (
    "random", "few edges", "with chains", "equal chains", "tree", "path", "cycle", "hubs",
    "attached", "small world", "blocks", "hypercube", "complete but for a matching",
    "few against many", "bridge", "bridge between copies", "ramanujan",
)  # fmt: skip


def dense_gap(graph):
    """The second-smallest eigenvalue of the largest component's Laplacian; the least of several."""
    units = joined([graph])
    adjacency = units.matrix().toarray()
    parts = components_of(graph)
    found = []
    for label in largest_components(graph):
        inside = np.flatnonzero(parts.labels == label)
        a = adjacency[np.ix_(inside, inside)]
        found.append(np.linalg.eigvalsh(np.diag(a.sum(axis=0)) - a)[1])
    return min(found)


@pytest.fixture
def always_eliminating(monkeypatch):
    """Have every graph solved by elimination that is not solved densely."""
    monkeypatch.setattr(laplacian, "UNEVEN", 0)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_many_kinds(name, always_eliminating):
    graph = layers()[name]
    fresh = LayerGraph(graph.shape, graph.indptr, graph.indices)
    units = joined([fresh])
    among = components_of(fresh).labels == largest_components(fresh)[0]
    exact = dense_gap(fresh)
    assert laplacian_gap(units, among) == pytest.approx(exact, rel=1e-10, abs=1e-12)
    assert algebraic_connectivity_giant(fresh) == pytest.approx(exact, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", ["with chains", "hubs", "bridge"])
def test_a_layer_turned_round_or_of_a_network_has_the_same_value(name, always_eliminating):
    graph = layers()[name]
    turned = of_pairs(zip(graph.indices, graph.rows, strict=True), graph.shape[::-1])
    exact = algebraic_connectivity_giant(graph)
    assert algebraic_connectivity_giant(turned) == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("seed", range(4))
def test_networks_of_several_layers(seed, always_eliminating):
    rng = np.random.default_rng(seed)
    widths = [60, 70, 50, 40]
    layers = {
        f"fc{i + 1}": with_leaves(draw("erdos_renyi", a, b, 0.12, seed * 7 + i), 0, rng)
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    }
    units = joined(list(layers.values()))
    adjacency = units.matrix().toarray()
    connected = units.degree.min() > 0 and labels_of(units).max() == 0
    exact = np.linalg.eigvalsh(np.diag(adjacency.sum(axis=0)) - adjacency)[1] if connected else 0
    assert network_algebraic_connectivity(layers) == pytest.approx(exact, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("n", [70, 200, 500])
def test_paths_and_cycles_have_their_theorem(n):
    assert algebraic_connectivity_giant(path(n)) == pytest.approx(
        2 - 2 * np.cos(np.pi / (2 * n)), rel=1e-8
    )
    flat = 2 - 2 * np.cos(np.pi / n)  # a biregular layer, from its second singular value
    assert algebraic_connectivity_giant(cycle(n)) == pytest.approx(flat, rel=1e-6)


def test_the_least_of_equally_large_components_counts(always_eliminating):
    rng = np.random.default_rng(0)
    graph = copies(with_leaves(draw("erdos_renyi", 80, 80, 0.1, 1), 5, rng), 2)
    assert components_of(graph).number >= 2
    assert algebraic_connectivity_giant(graph) == pytest.approx(dense_gap(graph), rel=1e-10)


@pytest.mark.parametrize("first", [0.2, 0.5, 0.9, 0.97])
def test_the_first_estimate_does_not_decide_the_result(first, always_eliminating, monkeypatch):
    monkeypatch.setattr(laplacian, "_first_estimate", lambda units, among: first)
    for name in ("with chains", "few edges", "bridge", "tree"):
        graph = layers()[name]
        fresh = LayerGraph(graph.shape, graph.indptr, graph.indices)
        assert algebraic_connectivity_giant(fresh) == pytest.approx(dense_gap(fresh), rel=1e-10)


def test_the_eigenvalue_that_leads_at_the_first_t_is_not_the_smallest():
    """Leaves lead where t is close to their degree, the bridge has the smallest eigenvalue."""
    rng = np.random.default_rng(5)
    side = with_leaves(draw("biregular", 100, 100, 0.12, 1), 30, rng)
    graph = bridged(side, side)
    units = joined([graph])
    every = np.ones(units.degree.size, bool)
    exact = dense_gap(graph)
    assert exact < 0.02
    assert laplacian._first_estimate(units, every) > 20 * exact
    norm = largest_sum(units.indptr, units.indices, units.first, units.degree)
    assert laplacian._by_elimination(units, every, norm) == pytest.approx(exact, rel=1e-10)


def test_a_value_at_the_smallest_degree_is_left_to_the_other_method():
    """K_{n,m}: the connectivity is the smallest degree, where D - t is singular."""
    graph = LayerGraph.from_edge_ids(range(3 * 200), (3, 200))
    units = joined([graph])
    every = np.ones(203, bool)
    assert laplacian._by_elimination(units, every, 203.0) is None
    assert laplacian_gap(units) == pytest.approx(3, rel=1e-10)


@pytest.mark.parametrize("leaves", [1, 8, 30])
def test_a_hub_with_few_leaves_has_a_value_just_below_theirs(leaves):
    """One unit joined to all of the other side, which is regular, and to leaves.

    The leaves with sum 0 have the eigenvalue 1, and Lanczos on c - L may take it for the smallest:
    that is just below, with one value at the leaves, one at the hub, and one at each side.
    """
    d, n = 12, 25_000
    side = draw("biregular", n, n, d / n, 1)
    graph = LayerGraph(
        (n + 1, n + leaves),
        np.append(side.indptr, side.indptr[-1] + n + leaves),
        np.append(side.indices, np.arange(n + leaves, dtype=np.int32)),
    )
    sizes = np.array([leaves, 1, n, n], float)  # leaves, hub, the side that it sees, the other
    joins = np.array([[0, 1, 0, 0], [leaves, 0, n, 0], [0, 1, 0, d], [0, 0, d, 0]], float)
    laplacian_of_parts = np.diag(joins.sum(axis=1)) - joins
    roots = np.sqrt(sizes)
    symmetric = roots[:, None] * laplacian_of_parts / roots
    exact = np.linalg.eigvalsh((symmetric + symmetric.T) / 2)[1]
    assert 1 - 2e-3 < exact < 1
    assert algebraic_connectivity_giant(graph) == pytest.approx(exact, rel=1e-8)


def test_wide_layers_with_wider_tolerances(monkeypatch, always_eliminating):
    monkeypatch.setattr("topokit.graph.spectra.LARGE", 0)
    for name in ("with chains", "few edges", "hubs", "attached", "bridge", "small world"):
        graph = layers()[name]
        fresh = LayerGraph(graph.shape, graph.indptr, graph.indices)
        exact = dense_gap(fresh)
        assert algebraic_connectivity_giant(fresh) == pytest.approx(exact, rel=1e-8, abs=1e-9)


def test_the_quotient_and_its_residual():
    graph = layers()["with chains"]
    units = joined([graph])
    x = np.random.default_rng(0).standard_normal(units.degree.size)
    dense = np.diag(units.degree) - units.matrix().toarray()
    value, left = quotient(units.indptr, units.indices, units.first, units.degree, x)
    assert value == pytest.approx(x @ dense @ x / (x @ x), rel=1e-12)
    assert left == pytest.approx(np.linalg.norm(dense @ x - value * x) / np.linalg.norm(x))
