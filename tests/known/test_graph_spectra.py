"""One engine for singular values: every function that uses it equals a dense decomposition."""

import functools
import importlib
from pathlib import Path

import numpy as np
import pytest

import topokit
from topokit.generators import GENERATORS, describe
from topokit.graph import LayerGraph, spectra
from topokit.graph.spectra import (
    largest_singular_value,
    leading_singular_values,
    mean_degree_bound,
    ramanujan_margin,
    singular_values,
)
from topokit.measures import LAYER_MEASURES, weighted_gaps
from topokit.measures.spectral import normalized_singular_value


def with_isolated(graph, inputs, outputs, rng):
    """Put a graph among units that have no edges, in random places."""
    columns = np.sort(rng.permutation(graph.n_in + inputs)[: graph.n_in])
    rows = np.sort(rng.permutation(graph.n_out + outputs)[: graph.n_out])
    n_in, n_out = graph.n_in + inputs, graph.n_out + outputs
    return LayerGraph.from_edge_ids(rows[graph.rows] * n_in + columns[graph.indices], (n_out, n_in))


def blocks(*graphs):
    """Graphs side by side: a layer of several components."""
    shape = sum(g.n_out for g in graphs), sum(g.n_in for g in graphs)
    ids, row, column = [], 0, 0
    for g in graphs:
        ids.append((g.rows + row) * shape[1] + g.indices + column)
        row, column = row + g.n_out, column + g.n_in
    return LayerGraph.from_edge_ids(np.concatenate(ids), shape)


@functools.cache
def layers():
    """Layers of every kind by name, drawn when the first test asks for one."""
    rng = np.random.default_rng(5)

    def draw(name, n_in, n_out, density, **params):
        return GENERATORS[name](n_in, n_out, density=density, rng=rng, **params)

    random, wide = draw("erdos_renyi", 150, 130, 0.05), draw("erdos_renyi", 40, 900, 0.1)
    ring = draw("small_world", 300, 300, 0.02, beta=0.0)
    hubs = draw("chung_lu", 120, 140, 0.06)
    regular = draw("biregular", 120, 90, 0.1)
    return {
        "random": random,
        "random with isolated units": with_isolated(random, 30, 7, rng),
        "regular": regular,
        "regular with isolated inputs": with_isolated(regular, 25, 0, rng),
        "regular with isolated outputs": with_isolated(regular, 0, 40, rng),
        "hubs with isolated units": with_isolated(hubs, 11, 13, rng),
        "small side": wide,
        "small side with isolated units": with_isolated(wide, 60, 60, rng),
        "band": ring,
        "two components": blocks(random, regular),
        "equal components": with_isolated(blocks(regular, regular), 9, 9, rng),
        "complete with isolated units": with_isolated(draw("erdos_renyi", 9, 8, 1.0), 90, 80, rng),
        "expander": draw("expander", 128, 160, 0.05),
    }


LAYERS = (
    "random", "random with isolated units", "regular", "regular with isolated inputs",
    "regular with isolated outputs", "hubs with isolated units", "small side",
    "small side with isolated units", "band", "two components", "equal components",
    "complete with isolated units", "expander",
)  # fmt: skip


def dense(graph, values=None):
    return np.linalg.svd(graph.to_csr(values).toarray(), compute_uv=False)


@pytest.mark.parametrize("name", LAYERS)
def test_singular_values_are_those_of_a_dense_decomposition(name):
    graph = layers()[name]
    found = dense(graph)
    assert leading_singular_values(graph) == pytest.approx(found[:2], rel=1e-8, abs=1e-8)
    np.testing.assert_allclose(singular_values(graph), found, atol=1e-8)
    gap = LAYER_MEASURES["spectral_gap"](graph)
    assert gap == pytest.approx(found[0] - found[1], abs=1e-7)
    facts = describe(graph)
    assert (facts.sigma_1, facts.sigma_2) == leading_singular_values(graph)


@pytest.mark.parametrize("name", LAYERS)
def test_the_margin_of_a_description_is_the_measure(name):
    graph = layers()[name]
    used = np.count_nonzero(graph.fan_in), np.count_nonzero(graph.fan_out)
    bound = sum(np.sqrt(graph.n_edges / units - 1) for units in used)
    facts = describe(graph)
    assert facts.margin == LAYER_MEASURES["ramanujan_margin"](graph) == ramanujan_margin(graph)
    assert facts.bound == mean_degree_bound(graph) == pytest.approx(bound)
    assert facts.margin == pytest.approx(bound - dense(graph)[1], abs=1e-7)


@pytest.mark.parametrize("ids", [[], [0], [0, 4, 8], [0, 1, 2, 3]])
def test_margins_without_edges_or_of_low_degree_are_undefined(ids):
    graph = LayerGraph.from_edge_ids(ids, (3, 4))
    assert np.isnan(describe(graph).margin)
    assert np.isnan(LAYER_MEASURES["ramanujan_margin"](graph))


@pytest.mark.parametrize("name", LAYERS)
def test_isolated_units_change_no_singular_value(name):
    graph = layers()[name]
    more = with_isolated(graph, 17, 5, np.random.default_rng(0))
    assert leading_singular_values(more) == pytest.approx(leading_singular_values(graph), rel=1e-9)
    assert describe(more).margin == pytest.approx(describe(graph).margin, abs=1e-8, nan_ok=True)


@pytest.mark.parametrize("name", LAYERS)
def test_weighted_values_are_those_of_a_dense_decomposition(name):
    graph, rng = layers()[name], np.random.default_rng(1)
    sizes, signs = rng.lognormal(0, 1, graph.n_edges), rng.choice([-1.0, 1.0], graph.n_edges)
    found = dense(graph, sizes)
    assert leading_singular_values(graph, sizes) == pytest.approx(found[:2], rel=1e-8)
    assert largest_singular_value(graph, sizes) == pytest.approx(found[0], rel=1e-8)
    np.testing.assert_allclose(singular_values(graph, sizes), found, atol=1e-8 * found[0])
    norm = largest_singular_value(graph, sizes * signs)
    assert norm == pytest.approx(dense(graph, sizes * signs)[0], rel=1e-8)
    left, right = np.bincount(graph.rows, sizes), np.bincount(graph.indices, sizes)
    scaled = sizes / np.sqrt(left[graph.rows] * right[graph.indices])
    second = dense(graph, scaled)[1]
    assert normalized_singular_value(graph, sizes) == pytest.approx(second, abs=1e-8)
    gaps = weighted_gaps(graph, sizes * signs)
    assert gaps == pytest.approx(
        (found[0] - found[1], 1 - found[1] / found[0], 1 - second), rel=1e-7, abs=1e-7
    )


def test_values_of_ones_are_the_graph_itself():
    graph = layers()["random with isolated units"]
    ones = np.ones(graph.n_edges)
    assert leading_singular_values(graph, ones) == pytest.approx(leading_singular_values(graph))
    assert normalized_singular_value(graph, ones) == pytest.approx(normalized_singular_value(graph))


def test_generators_measures_and_plots_share_one_engine():
    """Each name has one function: whatever module holds one of a name, it is the engine's."""
    names = [name for name in spectra.__all__ if name[0].islower()]
    for room in ("generators", "measures", "plots"):
        for path in Path(topokit.__file__).parent.glob(f"{room}/[a-z]*.py"):
            module = importlib.import_module(f"topokit.{room}.{path.stem}")
            for name in names:
                assert getattr(module, name, None) in (None, getattr(spectra, name)), (path, name)
            assert "eigsh" not in path.read_text(encoding="utf-8"), path
