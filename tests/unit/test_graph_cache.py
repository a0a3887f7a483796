import copy
import functools
import gc
import importlib
import inspect
import pickle
import pkgutil
import weakref

import numpy as np
import pytest
import scipy.sparse as sp

from topokit import measures
from topokit.generators import GENERATORS
from topokit.graph import LayerGraph, remember
from topokit.graph.cache import read_only
from topokit.measures import LAYER_MEASURES


@pytest.fixture
def graph():
    return GENERATORS["chung_lu"](40, 30, density=0.15, rng=0)


def arrays_in(value, seen=None):
    """All arrays reachable in a cached value."""
    if isinstance(value, np.ndarray):
        yield value
    elif sp.issparse(value):
        yield from (value.data, value.indices, value.indptr)
    elif isinstance(value, dict):
        for part in value.values():
            yield from arrays_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from arrays_in(part)
    elif hasattr(value, "__dataclass_fields__") and not isinstance(value, LayerGraph):
        for name in value.__dataclass_fields__:
            yield from arrays_in(getattr(value, name))


def test_results_are_computed_once_for_each_object(graph):
    calls = []

    def build():
        calls.append(1)
        return np.zeros(2)

    first = remember(graph, "zeros", build)
    assert remember(graph, "zeros", build) is first
    equal = LayerGraph.from_edge_ids(graph.edge_ids, graph.shape)
    assert remember(equal, "zeros", build) is not first
    assert len(calls) == 2
    assert remember(copy.deepcopy(graph), "zeros", build) is first  # the same object
    assert remember(pickle.loads(pickle.dumps(graph)), "zeros", build) is not first


def test_cached_results_are_freed_with_their_graph():
    graph = LayerGraph.from_edge_ids([1], (2, 3))
    kept = weakref.ref(remember(graph, "zeros", lambda: np.zeros(2)))
    remember(graph, "itself", functools.partial(tuple, (graph,)))
    del graph
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("name", ["rows", "fan_in", "fan_out"])
def test_arrays_of_a_graph_are_counted_once_and_read_only(graph, name):
    array = getattr(graph, name)
    assert getattr(graph, name) is array
    assert array.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 7


def test_edge_ids_are_a_new_array(graph):
    ids = graph.edge_ids
    ids[:] = 0
    assert np.array_equal(graph.edge_ids, graph.rows * graph.n_in + graph.indices)


@pytest.mark.parametrize("name", LAYER_MEASURES)
def test_what_a_measure_keeps_cannot_be_written_to(name, graph):
    LAYER_MEASURES[name](graph)
    for key, value in graph._cache.items():
        for array in arrays_in(value):
            assert not array.flags.writeable, key


def helpers():
    """Every public function of topokit.measures that takes a graph and nothing else."""
    for info in pkgutil.iter_modules(measures.__path__):
        if "kernels" in info.name:
            continue
        module = importlib.import_module(f"topokit.measures.{info.name}")
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.isfunction(value):
                continue
            needed = [
                parameter
                for parameter in inspect.signature(value).parameters.values()
                if parameter.default is inspect.Parameter.empty
            ]
            if [parameter.annotation for parameter in needed] == ["LayerGraph"]:
                yield pytest.param(value, id=f"{info.name}.{name}")


def called(helper, graph):
    drawn = "rng" in inspect.signature(helper).parameters
    return helper(graph, **({"rng": np.random.default_rng(0)} if drawn else {}))


@pytest.mark.parametrize("helper", list(helpers()))
def test_arrays_that_callers_share_are_read_only(helper, graph):
    first, second = (list(arrays_in(called(helper, graph))) for _ in range(2))
    for one, two in zip(first, second, strict=True):
        if one.size and np.shares_memory(one, two):
            with pytest.raises(ValueError, match="read-only"):
                one[...] = 0


def test_helpers_that_return_arrays_were_found():
    graph = GENERATORS["chung_lu"](40, 30, density=0.15, rng=0)
    found = [one.id for one in helpers() if list(arrays_in(called(one.values[0], graph)))]
    assert "connectivity.components_of" in found


def test_all_kinds_of_values_become_read_only():
    value = read_only(
        {"a": [np.zeros(1), (np.ones(2),)], "b": sp.csr_array(np.eye(2)), "c": "text"}
    )
    assert not any(array.flags.writeable for array in arrays_in(value))
