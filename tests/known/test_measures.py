"""Answers from theory: spectra, degrees, exponents."""

import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.graph.spectra import leading_singular_values
from topokit.measures import LAYER_MEASURES, NETWORK_MEASURES, gini, singular_values
from topokit.measures.degree import expected_isolated
from topokit.measures.powerlaw import fit_tail, tally
from topokit.measures.spectral import normalized_singular_value

gap = LAYER_MEASURES["spectral_gap"]
mixing = LAYER_MEASURES["normalized_spectral_gap"]
fiedler = LAYER_MEASURES["algebraic_connectivity"]
giant = LAYER_MEASURES["algebraic_connectivity_giant"]
margin = LAYER_MEASURES["ramanujan_margin"]


def complete(n_out, n_in):
    return LayerGraph.from_edge_ids(range(n_out * n_in), (n_out, n_in))


def circulant(n, steps):
    rows = np.repeat(np.arange(n), len(steps))
    return LayerGraph.from_edge_ids(rows * n + (rows + np.tile(steps, n)) % n, (n, n))


def hypercube(d):
    v = np.arange(2**d)
    odd = np.array([bin(x).count("1") % 2 for x in v])
    place = np.where(odd, odd.cumsum() - 1, (1 - odd).cumsum() - 1)
    half = 2 ** (d - 1)
    ids = [place[x] * half + place[x ^ (1 << b)] for x in v[odd == 0] for b in range(d)]
    return LayerGraph.from_edge_ids(ids, (half, half))


def copies(graph, k):
    ids = [
        (i * graph.n_out + graph.rows) * k * graph.n_in + i * graph.n_in + graph.indices
        for i in range(k)
    ]
    return LayerGraph.from_edge_ids(np.concatenate(ids), (k * graph.n_out, k * graph.n_in))


HEAWOOD = circulant(7, [0, 1, 3])


@pytest.mark.parametrize(("n", "m"), [(3, 5), (1, 4), (20, 30), (150, 200), (300, 140)])
def test_complete_layers(n, m):
    graph = complete(n, m)
    assert gap(graph) == pytest.approx(np.sqrt(n * m))
    assert fiedler(graph) == pytest.approx(min(n, m) if n + m > 2 else 2)
    assert normalized_singular_value(graph) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("k", [2, 5, 6, 200, 301])
def test_cycles(k):
    graph = circulant(k, [0, 1])
    exact = np.sort(np.abs(2 * np.cos(np.pi * np.arange(k) / k)))[::-1]
    np.testing.assert_allclose(singular_values(graph), exact, atol=1e-9)
    assert leading_singular_values(graph) == pytest.approx(tuple(exact[:2]), abs=1e-8)
    assert fiedler(graph) == pytest.approx(2 - 2 * np.cos(np.pi / k), abs=1e-8)


def test_heawood():
    np.testing.assert_allclose(singular_values(HEAWOOD), [3] + [np.sqrt(2)] * 6)
    assert gap(HEAWOOD) == pytest.approx(1.5857864376, abs=1e-10)
    assert fiedler(HEAWOOD) == pytest.approx(1.5857864376, abs=1e-10)
    assert normalized_singular_value(HEAWOOD) == pytest.approx(0.4714045208, abs=1e-10)
    assert margin(HEAWOOD) == pytest.approx(np.sqrt(2), abs=1e-9)


@pytest.mark.parametrize("d", [3, 4, 8, 10])
def test_hypercubes(d):
    graph = hypercube(d)
    assert leading_singular_values(graph) == pytest.approx((d, d - 2))
    assert fiedler(graph) == pytest.approx(2)
    assert mixing(graph) == pytest.approx(2 / d)


@pytest.mark.parametrize("n", [1, 2, 40, 700])
def test_stars_and_matchings(n):
    star = complete(1, n)
    assert gap(star) == pytest.approx(np.sqrt(n))
    assert fiedler(star) == pytest.approx(1 if n > 1 else 2)
    matching = LayerGraph.from_edge_ids(np.arange(n) * (n + 1), (n, n))
    assert gap(matching) == pytest.approx(0 if n > 1 else 1)
    assert LAYER_MEASURES["components"](matching) == n
    if n > 1:
        assert fiedler(matching) == 0
        assert mixing(matching) == 0


def test_designs_and_circulants():
    biplane = circulant(11, [1, 3, 4, 5, 9])
    np.testing.assert_allclose(singular_values(biplane), [5] + [np.sqrt(3)] * 10)
    crown = circulant(6, [1, 2, 3, 4, 5])
    np.testing.assert_allclose(singular_values(crown), [5, 1, 1, 1, 1, 1])
    assert fiedler(crown) == pytest.approx(4)
    twelve = singular_values(circulant(12, [0, 1, 2, 3]))
    np.testing.assert_allclose(twelve[:3], [4, 3.346065, 3.346065], atol=1e-6)
    banded = circulant(2000, range(10))
    assert leading_singular_values(banded)[1] == pytest.approx(9.99959288, abs=1e-8)
    assert fiedler(banded) == pytest.approx(4.07116276e-4, abs=1e-10)


@pytest.mark.parametrize("k", [2, 40])
def test_disjoint_copies(k):
    graph = copies(HEAWOOD, k)
    assert gap(graph) == pytest.approx(0, abs=1e-7)
    assert (fiedler(graph), mixing(graph)) == (0, 0)
    assert giant(graph) == pytest.approx(3 - np.sqrt(2))


@pytest.mark.parametrize("n", [10, 90])
def test_dense_networks(n):
    three = {f"fc{i}": complete(n, n) for i in range(3)}
    assert NETWORK_MEASURES["algebraic_connectivity"](three) == pytest.approx(
        n * (2 - np.sqrt(2)), abs=1e-8
    )
    two = {"fc1": complete(3, 4), "fc2": complete(2, 3)}
    assert NETWORK_MEASURES["algebraic_connectivity"](two) == pytest.approx(3)


def test_an_isolated_unit_changes_connectivity_only():
    wider = LayerGraph.from_edge_ids(HEAWOOD.rows * 8 + HEAWOOD.indices, (7, 8))
    for name in ("spectral_gap", "normalized_spectral_gap", "algebraic_connectivity_giant"):
        assert LAYER_MEASURES[name](wider) == pytest.approx(LAYER_MEASURES[name](HEAWOOD))
    assert fiedler(wider) == 0
    assert LAYER_MEASURES["components"](wider) == 2


def test_gini_values():
    assert gini([4, 4, 4]) == 0
    assert gini(range(1, 11)) == pytest.approx(0.3)
    assert gini([0] * 9 + [3]) == pytest.approx(0.9)


def test_dispersion_null_mean():
    rng = np.random.default_rng(0)
    values = []
    for _ in range(200):
        ids = np.unique(rng.integers(0, 784_000, 7900))
        ids = rng.permutation(ids)[:7840]
        graph = LayerGraph.from_edge_ids(ids, (1000, 784))
        values.append(LAYER_MEASURES["fan_out"](graph).dispersion)
    assert np.mean(values) == pytest.approx(0.98873851, abs=0.012)
    assert 784 * expected_isolated(784, 1000, 7840) == pytest.approx(0.033629, abs=1e-6)
    assert 1000 * expected_isolated(1000, 784, 7840) == pytest.approx(0.376942, abs=1e-6)


def test_exponents_by_hand():
    assert fit_tail(tally(np.array([1, 1, 1, 2])), xmin=1).alpha == pytest.approx(
        2.95236743, abs=1e-7
    )
    assert fit_tail(tally(np.array([2, 2, 3, 5])), xmin=2).alpha == pytest.approx(
        2.82676854, abs=1e-7
    )


@pytest.mark.slow
def test_random_layers_never_have_exponents_between_two_and_three():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        degrees = rng.binomial(784, 0.006, 784)
        assert fit_tail(tally(degrees), upper=784).alpha > 3
