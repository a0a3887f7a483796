"""Exact answers of named graphs: spectra, structure, distances, exponents of published data."""

from importlib import resources

import networkx as nx
import numpy as np
import pytest

from topokit.generators import GENERATORS, generate
from topokit.graph import LayerGraph
from topokit.graph.convert import from_networkx, to_networkx
from topokit.measures import (
    LAYER_MEASURES,
    NETWORK_MEASURES,
    fit_power_law,
    gini,
    singular_values,
    topology_distance,
)
from topokit.measures.connectivity import distances
from topokit.measures.expansion import universal_cover_radius
from topokit.measures.powerlaw import log_zeta
from topokit.measures.structure import pair_clustering

layer = LAYER_MEASURES


def complete(n_out, n_in):
    return LayerGraph.from_edge_ids(range(n_out * n_in), (n_out, n_in))


def circulant(n, steps):
    rows = np.repeat(np.arange(n), len(steps))
    return LayerGraph.from_edge_ids(rows * n + (rows + np.tile(steps, n)) % n, (n, n))


def sides(graph):
    """A bipartite networkx graph as a layer."""
    for part in nx.connected_components(graph):
        colour = nx.bipartite.color(graph.subgraph(part))
        nx.set_node_attributes(graph, colour, "bipartite")
    return from_networkx(graph)


def double_cover(graph):
    """Each unit feeds the copies of its neighbours."""
    a = nx.to_numpy_array(graph)
    return LayerGraph.from_edge_ids(np.flatnonzero(a), a.shape)


def plane(q):
    n = q * q + q + 1
    return GENERATORS["projective_plane"](n, n, density=(q + 1) / n, rng=np.random.default_rng(0))


def affine_plane_3():
    """Nine points, twelve lines of AG(2, 3): points are the inputs."""
    lines = [[(x, (m * x + b) % 3) for x in range(3)] for m in range(3) for b in range(3)]
    lines += [[(c, y) for y in range(3)] for c in range(3)]
    ids = [9 * i + 3 * x + y for i, line in enumerate(lines) for x, y in line]
    return LayerGraph.from_edge_ids(ids, (12, 9))


HEAWOOD = circulant(7, [0, 1, 3])
PAPPUS = sides(nx.pappus_graph())
DESARGUES = double_cover(nx.petersen_graph())
MOEBIUS_KANTOR = sides(nx.moebius_kantor_graph())
TUTTE_COXETER = sides(nx.LCF_graph(30, [-13, -9, 7, -7, 9, 13], 5))
CUBE_3, CUBE_4 = (sides(nx.hypercube_graph(d)) for d in (3, 4))
ROOT = np.sqrt

SPECTRA = {
    "K(3,5)": (complete(3, 5), [ROOT(15), 0, 0], 3),
    "cycle of 12": (circulant(6, [0, 1]), [2, ROOT(3), ROOT(3), 1, 1, 0], 0.2679491924),
    "path of 6": (sides(nx.path_graph(6)), [1.801938, 1.246980, 0.445042], 2 - ROOT(3)),
    "star": (complete(1, 9), [3], 1),
    "cube 3": (CUBE_3, [3, 1, 1, 1], 2),
    "cube 4": (CUBE_4, [4, 2, 2, 2, 2, 0, 0, 0], 2),
    "Heawood": (HEAWOOD, [3] + [ROOT(2)] * 6, 1.5857864376),
    "Pappus": (PAPPUS, [3] + [ROOT(3)] * 6 + [0, 0], 1.2679491924),
    "Desargues": (DESARGUES, [3] + [2] * 4 + [1] * 5, 1),
    "Moebius-Kantor": (MOEBIUS_KANTOR, [3] + [ROOT(3)] * 4 + [1] * 3, 3 - ROOT(3)),
    "crown 6": (circulant(6, [1, 2, 3, 4, 5]), [5] + [1] * 5, 4),
    "biplane 11": (circulant(11, [1, 3, 4, 5, 9]), [5] + [ROOT(3)] * 10, 5 - ROOT(3)),
    "plane 13": (circulant(13, [0, 1, 3, 9]), [4] + [ROOT(3)] * 12, 4 - ROOT(3)),
    "design 15": (circulant(15, [0, 1, 2, 4, 5, 8, 10]), [7] + [2] * 14, 5),
    "AG(2,3)": (affine_plane_3(), [ROOT(12)] + [ROOT(3)] * 8, None),
    "circulant 12": (
        circulant(12, [0, 1, 2, 3]),
        [4, 3.346065, 3.346065, 1.732051, 1.732051, 1, 1, 0.896575, 0.896575, 0, 0, 0],
        4 - 3.346065,
    ),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_spectra_and_connectivity(name):
    graph, values, connectivity = SPECTRA[name]
    np.testing.assert_allclose(singular_values(graph), values, atol=1e-6)
    second = values[1] if len(values) > 1 else 0
    assert layer["spectral_gap"](graph) == pytest.approx(values[0] - second, abs=1e-6)
    if connectivity is not None:
        assert layer["algebraic_connectivity"](graph) == pytest.approx(connectivity, abs=1e-6)


@pytest.mark.parametrize(
    ("q", "connectivity"),
    [(2, 1.5857864376), (3, 2.2679491924), (5, 3.7639320225), (7, 5.3542486889),
     (11, 8.6833752096)],
)  # fmt: skip
def test_projective_planes(q, connectivity):
    graph = plane(q)
    assert graph.shape == (q * q + q + 1,) * 2
    assert layer["algebraic_connectivity"](graph) == pytest.approx(connectivity, abs=1e-9)
    assert layer["spectral_gap"](graph) == pytest.approx(q + 1 - ROOT(q), abs=1e-9)
    assert layer["ramanujan_margin"](graph) == pytest.approx(ROOT(q), abs=1e-9)
    assert layer["butterflies"](graph) == 0


@pytest.mark.slow
def test_large_multiplicities():
    graph = sides(nx.hypercube_graph(12))
    assert layer["spectral_gap"](graph) == pytest.approx(2, abs=1e-8)
    assert layer["normalized_spectral_gap"](graph) == pytest.approx(2 / 12, abs=1e-9)
    assert layer["algebraic_connectivity"](graph) == pytest.approx(2, abs=1e-8)


def test_spanning_trees_of_complete_layers():
    b = complete(3, 5).to_csr().toarray()
    a = np.block([[np.zeros((5, 5)), b.T], [b, np.zeros((3, 3))]])
    mu = np.linalg.eigvalsh(np.diag(a.sum(0)) - a)
    assert np.prod(mu[1:]) / 8 == pytest.approx(2025)
    assert mu[1] == pytest.approx(layer["algebraic_connectivity"](complete(3, 5)))


@pytest.mark.parametrize(
    ("name", "size", "components"), [("de_bruijn", 16, 8), ("butterfly", 16, 8)]
)
def test_stages_are_disjoint_complete_blocks(name, size, components):
    graph = GENERATORS[name](size, size, density=2 / size, rng=np.random.default_rng(0))
    np.testing.assert_allclose(singular_values(graph), [2] * 8 + [0] * 8, atol=1e-9)
    assert layer["components"](graph) == components
    assert layer["algebraic_connectivity"](graph) == 0
    assert layer["normalized_spectral_gap"](graph) == 0


@pytest.mark.parametrize(
    ("graph", "radius"),
    [(complete(3, 4), 3.14626437), (affine_plane_3(), 3.14626437), (circulant(9, [0, 1]), 2)],
)
def test_radius_of_the_universal_cover(graph, radius):
    assert universal_cover_radius(graph) == pytest.approx(radius, abs=1e-6)


@pytest.mark.parametrize(
    ("graph", "count"),
    [
        (complete(3, 5), 30),
        (CUBE_3, 6),
        (CUBE_4, 24),
        (sides(nx.hypercube_graph(5)), 80),
        (circulant(6, [1, 2, 3, 4, 5]), 90),
        (circulant(11, [1, 3, 4, 5, 9]), 55),
        (circulant(13, [0, 1, 3, 9]), 0),
        (circulant(15, [0, 1, 2, 4, 5, 8, 10]), 315),
    ],
)
def test_butterflies(graph, count):
    assert layer["butterflies"](graph) == count


@pytest.mark.parametrize(
    ("graph", "value"),
    [
        (complete(4, 6), 1),
        (circulant(2, [0, 1]), 1),
        (circulant(3, [0, 1]), 0),
        (sides(nx.path_graph(7)), 0),
        (HEAWOOD, 0),
        (CUBE_3, 1 / 2),
        (CUBE_4, 1 / 3),
        (circulant(4, [1, 2, 3]), 1 / 2),
    ],
)
def test_robins_alexander(graph, value):
    assert layer["robins_alexander"](graph) == pytest.approx(value)


@pytest.mark.parametrize(
    ("graph", "values"),
    [
        (complete(3, 4), (1, 1, 1)),
        (circulant(3, [0, 1]), (1 / 3, 1 / 2, 1 / 2)),
        (CUBE_3, (1 / 2, 2 / 3, 2 / 3)),
        (HEAWOOD, (1 / 5, 1 / 3, 1 / 3)),
        (sides(nx.path_graph(4)), (1 / 2, 1, 1 / 2)),
    ],
)
def test_pair_clustering(graph, values):
    assert pair_clustering(graph) == pytest.approx(values)
    oracle = to_networkx(graph)
    for value, mode in zip(pair_clustering(graph), ("dot", "min", "max"), strict=True):
        assert value == pytest.approx(nx.bipartite.average_clustering(oracle, mode=mode))


@pytest.mark.parametrize(
    ("graph", "mean", "diameter"),
    [
        (complete(3, 4), 10 / 7, 2),
        (CUBE_3, 12 / 7, 3),
        (CUBE_4, 32 / 15, 4),
        (HEAWOOD, 27 / 13, 3),
        (DESARGUES, 50 / 19, 5),
        (TUTTE_COXETER, 83 / 29, 4),
    ],
)
def test_distances(graph, mean, diameter):
    assert distances(graph) == pytest.approx((mean, diameter))


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 4), (5, 9)])
def test_distances_of_complete_layers(n, m):
    mean = 2 * (n * m + n * (n - 1) + m * (m - 1)) / ((n + m) * (n + m - 1))
    assert distances(complete(n, m)).mean == pytest.approx(mean)


def test_assortativity_is_undefined_where_degrees_are_equal():
    for graph in (complete(3, 5), HEAWOOD, CUBE_4, complete(1, 6)):
        assert np.isnan(layer["assortativity"](graph))


def test_one_spectrum_two_graphs():
    """The cube of dimension 4 and the Hoffman graph: no spectrum tells them apart."""
    hoffman = from_hoffman()
    for name in ("spectral_gap", "normalized_spectral_gap", "algebraic_connectivity"):
        assert layer[name](hoffman) == pytest.approx(layer[name](CUBE_4))
    np.testing.assert_allclose(singular_values(hoffman), singular_values(CUBE_4), atol=1e-9)
    assert not nx.is_isomorphic(to_networkx(hoffman), to_networkx(CUBE_4))


def from_hoffman():
    """Switch the cube of dimension 4 at the neighbourhood of one vertex (Godsil and McKay)."""
    graph = nx.hypercube_graph(4)
    start = (0, 0, 0, 0)
    switched = set(graph[start])
    for vertex in list(graph):
        linked = [v for v in switched if graph.has_edge(vertex, v)]
        if vertex not in switched and len(linked) == len(switched) / 2:
            for other in switched:
                if graph.has_edge(vertex, other):
                    graph.remove_edge(vertex, other)
                else:
                    graph.add_edge(vertex, other)
    return sides(graph)


@pytest.mark.parametrize(
    ("mean", "exact"), [(1, 0.5237776118), (5, 0.2490960185), (10, 0.1772865341)]
)
def test_gini_of_poisson_degrees(mean, exact):
    from scipy.special import ive
    from scipy.stats import poisson

    assert float(ive(0, 2 * mean) + ive(1, 2 * mean)) == pytest.approx(exact, abs=1e-10)
    quantiles = poisson.ppf((np.arange(40_000) + 0.5) / 40_000, mean)
    assert gini(quantiles) == pytest.approx(exact, abs=1e-4)


def test_evenness_of_equal_and_single_shares():
    even = layer["evenness_fan_in"](HEAWOOD)
    assert (even.edge_entropy, even.effective_number, even.entropy) == pytest.approx((1, 7, 0))
    assert layer["evenness_fan_in"](complete(1, 5)).effective_number == 1


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0, 2.5])
def test_bounded_likelihood_is_unbiased_for_flat_laws(alpha):
    from topokit.measures.powerlaw import fit_tail, sample_zeta, tally

    free = {1.2: 1.363, 1.5: 1.559, 2.0: 2.006, 2.5: 2.5}[alpha]
    found = []
    for seed in range(60):
        sample = tally(sample_zeta(784, alpha=alpha, upper=784, rng=np.random.default_rng(seed)))
        bounded, unbounded = (fit_tail(sample, xmin=1, upper=u).alpha for u in (784, np.inf))
        found.append((bounded, unbounded))
    np.testing.assert_allclose(np.mean(found, axis=0), [alpha, free], atol=0.02)


def published(name):
    """A data set of Clauset, Shalizi and Newman, shipped with an oracle."""
    pytest.importorskip("powerlaw")
    path = resources.files("powerlaw") / "reference_data" / name
    return np.loadtxt(str(path)).astype(np.int64)


@pytest.mark.parametrize(
    ("name", "n", "alpha", "xmin", "n_tail"),
    [("words.txt", 18_855, 1.95, 7, 2958), ("terrorism.txt", 9101, 2.4, 12, 547)],
)
def test_published_power_laws(name, n, alpha, xmin, n_tail):
    sample = published(name)
    fit = fit_power_law(sample)
    assert (fit.n, fit.xmin, fit.n_tail) == (n, xmin, n_tail)
    assert fit.alpha == pytest.approx(alpha, abs=0.05)  # printed with an error of 0.02 and more


@pytest.mark.parametrize("name", ["words.txt", "terrorism.txt", "blackouts.txt"])
def test_published_data_agree_with_igraph(name):
    igraph = pytest.importorskip("igraph")
    sample = published(name)
    fit = fit_power_law(sample)
    other = igraph.power_law_fit(sample.tolist(), method="discrete", p_precision=0.5)
    assert fit.xmin == other.xmin
    assert fit.alpha == pytest.approx(other.alpha, abs=1e-4)
    tail = sample[sample >= fit.xmin]
    likelihood = -fit.alpha * np.log(tail).sum() - tail.size * float(log_zeta(fit.alpha, fit.xmin))
    assert likelihood == pytest.approx(other.L, abs=1e-3)


def test_paths_of_dense_networks_beyond_integers():
    wide = {f"fc{i}": complete(64, 64) for i in range(12)}
    assert NETWORK_MEASURES["active_flow"](wide).log10_paths == pytest.approx(13 * np.log10(64))


@pytest.mark.parametrize(
    ("family", "widths", "density"),
    [("butterfly", [16] * 5, 2 / 16), ("radix", [100] * 3, 0.1)],
)
def test_one_path_for_every_pair(family, widths, density):
    topology = generate(widths, family, density=density, rng=np.random.default_rng(0))
    product = np.eye(widths[0])
    for graph in topology.values():
        product = graph.to_csr() @ product
    assert (product == 1).all()


def of_masks(masks):
    return {
        f"fc{i}": LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)
        for i, mask in enumerate(masks)
    }


def test_distance_between_topologies():
    rng = np.random.default_rng(0)
    first, second = rng.random((12, 20)) < 0.4, rng.random((6, 12)) < 0.4
    order = rng.permutation(12)
    a, b = of_masks([first, second]), of_masks([first[order], second[:, order]])
    assert topology_distance(a, a) == topology_distance(a, b) == topology_distance(b, a) == 0
    left = np.zeros((5, 10), bool)
    left[:, :5] = True
    assert topology_distance(of_masks([left]), of_masks([~left])) == 1


@pytest.mark.parametrize("n", [1000, 20_000])
def test_long_paths_are_solved_by_factoring(n):
    """A path of 2n units, zigzag between the sides: no Lanczos iteration gets there."""
    rows = np.arange(n)
    ids = np.concatenate([rows * n + rows, rows[:-1] * n + rows[1:]])
    graph = LayerGraph.from_edge_ids(ids, (n, n))
    units = 2 * n
    top, second = (2 * np.cos(k * np.pi / (units + 1)) for k in (1, 2))
    assert layer["spectral_gap"](graph) == pytest.approx(top - second, abs=1e-12)
    exact = 2 - 2 * np.cos(np.pi / units)
    assert layer["algebraic_connectivity"](graph) == pytest.approx(exact, rel=1e-4)
    exact = 1 - np.cos(np.pi / (units - 1))
    assert layer["normalized_spectral_gap"](graph) == pytest.approx(exact, rel=1e-4)
