"""Every entry of the measure tables keeps the contract; nothing here names a measure."""

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.marks import fast_where
from tests.strategies import edge_updates, layer_graphs, topologies
from topokit.graph import EdgeUpdate, LayerGraph, chain_widths
from topokit.measures import CHANGE_MEASURES, CORE, LAYER_MEASURES, NETWORK_MEASURES, measure

TABLES = [LAYER_MEASURES, NETWORK_MEASURES, CHANGE_MEASURES]
ENTRIES = [(name, f) for table in TABLES for name, f in table.items()]


def numbers(value):
    values = value if isinstance(value, tuple) else (value,)
    assert all(isinstance(v, float) for v in values), value
    return np.array(values)


def agree(a, b):
    return np.allclose(numbers(a), numbers(b), rtol=1e-8, atol=1e-8, equal_nan=True)


def renumber(graph, rows, columns):
    ids = rows[graph.rows] * graph.n_in + columns[graph.indices]
    return LayerGraph.from_edge_ids(ids, graph.shape)


EDGE_CASES = [
    LayerGraph.from_edge_ids(ids, shape)
    for shape, ids in [
        ((0, 0), []),
        ((0, 3), []),
        ((3, 0), []),
        ((1, 1), []),
        ((1, 1), [0]),
        ((4, 5), []),
        ((4, 5), [7]),
        ((1, 6), range(6)),
        ((6, 1), range(6)),
        ((3, 4), range(12)),
        ((4, 4), [0, 5, 10, 15]),
    ]
]


@pytest.mark.parametrize("name", LAYER_MEASURES)
@pytest.mark.parametrize("graph", EDGE_CASES, ids=repr)
def test_layer_measures_take_any_graph(name, graph):
    numbers(LAYER_MEASURES[name](graph))


@pytest.mark.parametrize("name", LAYER_MEASURES)
@given(graph=layer_graphs(), seed=st.integers(0, 999))
def test_layer_measures_do_not_see_numbering(name, graph, seed):
    before = graph.edge_ids
    value = LAYER_MEASURES[name](graph)
    rng = np.random.default_rng(seed)
    twin = renumber(graph, rng.permutation(graph.n_out), rng.permutation(graph.n_in))
    assert agree(value, LAYER_MEASURES[name](twin))
    np.testing.assert_array_equal(graph.edge_ids, before)


@pytest.mark.parametrize(
    "name", fast_where(lambda name: name != "universal_cover_margin", LAYER_MEASURES)
)
def test_layer_measures_do_not_see_numbering_of_larger_layers(name, rng):
    graph = LayerGraph.from_edge_ids(np.unique(rng.integers(0, 300 * 200, 2500)), (300, 200))
    twin = renumber(graph, rng.permutation(300), rng.permutation(200))
    assert agree(LAYER_MEASURES[name](graph), LAYER_MEASURES[name](twin))


@pytest.mark.parametrize("name", NETWORK_MEASURES)
@given(topology=topologies(), seed=st.integers(0, 999))
def test_network_measures_do_not_see_numbering(name, topology, seed):
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for n in chain_widths(topology)]
    twin = {
        layer: renumber(graph, orders[i + 1], orders[i])
        for i, (layer, graph) in enumerate(topology.items())
    }
    assert agree(NETWORK_MEASURES[name](topology), NETWORK_MEASURES[name](twin))


@pytest.mark.parametrize("name", NETWORK_MEASURES)
@pytest.mark.parametrize("graph", EDGE_CASES, ids=repr)
def test_network_measures_take_any_layer_and_gaps_in_the_chain(name, graph):
    numbers(NETWORK_MEASURES[name]({"fc1": graph}))
    other = LayerGraph.from_edge_ids([], (2, 9))
    assert np.isnan(numbers(NETWORK_MEASURES[name]({"fc1": graph, "fc2": other}))).all()
    assert np.isnan(numbers(NETWORK_MEASURES[name]({}))).all()


@pytest.mark.parametrize("name", CHANGE_MEASURES)
@given(update=edge_updates(), seed=st.integers(0, 999))
def test_change_measures_do_not_see_numbering(name, update, seed):
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(update.before.n_out), rng.permutation(update.before.n_in)
    twin = EdgeUpdate.between(
        renumber(update.before, rows, columns), renumber(update.after, rows, columns)
    )
    plain = EdgeUpdate.between(update.before, update.after)
    assert agree(CHANGE_MEASURES[name](plain), CHANGE_MEASURES[name](twin))


@pytest.mark.parametrize(("name", "function"), ENTRIES)
def test_docstrings_are_complete(name, function):
    for section in ("Returns", "References", "Examples"):
        assert f"{section}\n" in function.__doc__, (name, section)


@settings(max_examples=10)
@given(topology=topologies())
def test_measure_gives_the_core(topology):
    frame = measure(topology, previous=topology)
    assert list(frame.columns) == ["layer", "measure", "value"]
    assert frame["value"].dtype == np.float64
    assert not frame.duplicated(["layer", "measure"]).any()
    layers = list(dict.fromkeys(frame["layer"]))
    assert layers == [*topology, "network"]
    assert {m.split(".")[0] for m in frame["measure"]} == set(CORE)


@pytest.mark.parametrize(("name", "function"), ENTRIES)
def test_docstrings_say_range_cost_and_how_often(name, function):
    lines = [line.strip() for line in function.__doc__.splitlines()]
    assert any(line.startswith("Range: ") for line in lines), name
    cost = next(line for line in lines if line.startswith("Cost: "))
    assert ("every epoch" in cost) == (name in CORE)
    assert ("on demand" in cost) == (name not in CORE)


def test_core_names_are_in_the_tables():
    assert set(CORE) <= {name for table in TABLES for name in table}


def copies(topology):
    """The same graphs as new objects, about which nothing is remembered."""
    return {name: LayerGraph.from_edge_ids(g.edge_ids, g.shape) for name, g in topology.items()}


def some_network():
    rng = np.random.default_rng(3)
    widths, hubs = [90, 80, 100], rng.pareto(1.2, 90) + 0.2
    mask = rng.random((80, 90)) < 0.05 * hubs
    mask[:3], mask[:, :2] = False, False
    first = LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)
    second = LayerGraph.from_edge_ids(np.unique(rng.integers(0, 8000, 700)), (100, 80))
    assert chain_widths({"a": first, "b": second}) == widths
    return {"fc1": first, "fc2": second}


EVERY = list(dict.fromkeys(name for table in TABLES for name in table))


@pytest.fixture(scope="module")
def alone():
    """Each measure of graphs about which nothing is remembered yet."""
    topology = some_network()
    return {n: measure(copies(topology), [n], previous=copies(topology)) for n in EVERY}


@pytest.mark.parametrize(
    "order", fast_where(lambda order: order == "random", ["table", "reverse", "random"])
)
def test_each_measure_alone_equals_it_after_all_others(alone, order):
    names = {"table": EVERY, "reverse": EVERY[::-1]}.get(order)
    names = names or list(np.random.default_rng(0).permutation(EVERY))
    topology = some_network()
    previous = copies(topology)
    for name in names:
        found = measure(topology, [str(name)], previous=previous)
        pd.testing.assert_frame_equal(found, alone[name], check_exact=True)
        again = measure(topology, [str(name)], previous=previous)
        pd.testing.assert_frame_equal(again, alone[name], check_exact=True)


@pytest.mark.parametrize("name", [*LAYER_MEASURES, *NETWORK_MEASURES, *CHANGE_MEASURES])
def test_a_measure_can_be_sent_to_another_process(name):
    for table in (LAYER_MEASURES, NETWORK_MEASURES, CHANGE_MEASURES):
        if name in table:
            assert pickle.loads(pickle.dumps(table[name])) is table[name]
