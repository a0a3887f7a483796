import copy
import gc
import pickle
import weakref
from dataclasses import asdict

import numpy as np
import pytest

from topokit.generators import GENERATORS, describe, generate
from topokit.generators.provenance import note, provenance_of
from topokit.graph import LayerGraph


def draw(name, n_in, n_out, density, **params):
    return GENERATORS[name](n_in, n_out, density=density, rng=np.random.default_rng(0), **params)


def test_a_graph_knows_its_family_and_what_was_asked():
    facts = describe(draw("small_world", 30, 40, 0.1, beta=0.5))
    assert facts.family == "small_world"
    assert facts.params == {"beta": 0.5, "shuffle": "none"}
    assert facts.requested_edges == facts.n_edges == 120
    assert facts.guarantee.startswith("exact number of edges")
    assert facts.repairs == ()
    assert asdict(facts)["components"] >= 1


def test_graphs_from_elsewhere_do_not():
    graph = draw("biregular", 30, 40, 0.1)
    for other in (
        LayerGraph.from_edge_ids(graph.edge_ids, graph.shape),
        pickle.loads(pickle.dumps(graph)),
    ):
        facts = describe(other)
        assert (facts.family, facts.params, facts.repairs) == (None, {}, ())
        assert facts.requested_edges is None
        assert facts.sigma_2 == describe(graph).sigma_2
    assert copy.deepcopy(graph) is graph


@pytest.mark.parametrize(
    ("name", "arguments", "repair"),
    [
        ("lps", (500, 600, 0.01), "cropped from 660 -> 660 units"),
        ("hypercube", (16, 16, 0.5), "48 edges added between units of the smallest degrees"),
        ("projective_plane", (7, 7, 2 / 7), "7 of 21 edges thinned"),
        ("margulis", (49, 49, 0.1), "double edges merged"),
        ("expander", (60, 50, 0.8), "complement of a graph of the remaining density"),
        ("expander", (60, 50, 0.02), "no lift is better here"),
        ("expander", (784, 1000, 0.01), "a lift of K(8, 10) by a group of 101"),
        ("biregular", (60, 50, 0.3), "double edges swapped"),
        ("biregular", (60, 50, 0.7), "complement of a graph of the remaining density"),
        ("rmat", (60, 50, 0.9), "drawn uniformly"),
    ],
)
def test_repairs_are_recorded(name, arguments, repair):
    assert any(repair in text for text in describe(draw(name, *arguments)).repairs)


def test_families_built_on_others_have_their_own_name():
    assert describe(draw("x_net", 30, 40, 0.1)).family == "x_net"
    assert describe(draw("benes", 32, 32, 0.125)).family == "benes"
    topology = generate([32] * 4, "benes", density=0.125, rng=np.random.default_rng(0))
    assert [describe(graph).family for graph in topology.values()] == ["benes"] * 3
    topology = generate([40, 60], "lps", density=0.1, rng=np.random.default_rng(0))
    assert describe(topology["fc1"]).repairs[0] == "cropped from 168 -> 168 units"


def test_a_family_of_the_users_own_is_recorded_too():
    def diagonal(n_in, n_out, *, density, rng):
        note("half of the edges left out")
        return LayerGraph.from_edge_ids([0], (n_out, n_in))

    GENERATORS["diagonal"] = diagonal
    try:
        graph = generate([4, 3], "diagonal", density=0.5, rng=np.random.default_rng(0))["fc1"]
    finally:
        del GENERATORS["diagonal"]
    facts = describe(graph)
    assert (facts.family, facts.requested_edges, facts.n_edges) == ("diagonal", 6, 1)
    assert facts.repairs == ("half of the edges left out",)


def test_provenance_belongs_to_one_object_and_is_freed_with_it():
    base = LayerGraph.from_edge_ids(range(9), (3, 3))
    graph = draw("double_cover", 3, 3, 1.0, base=base)
    equal = LayerGraph.from_edge_ids(graph.edge_ids, graph.shape)
    assert equal == graph
    assert provenance_of(equal) is None
    assert provenance_of(graph).params["base"] is base
    kept = weakref.ref(base)
    del base, graph
    gc.collect()
    assert kept() is None


def test_units_without_edges_and_single_units():
    facts = describe(draw("erdos_renyi", 1, 5, 0.0))
    assert (facts.components, facts.fan_in, facts.fan_out) == (6, (0, 0), (0, 0))
    assert np.isnan(facts.sigma_2)
    for edges in ([], [7], [7, 601], [7, 8, 1201]):
        facts = describe(LayerGraph.from_edge_ids(edges, (500, 600)))
        assert facts.sigma_1 == pytest.approx([0, 1, 1, np.sqrt(2)][len(edges)])
        assert facts.sigma_2 == pytest.approx(float(len(edges) > 1))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (4, 0)])
def test_a_side_without_units_has_no_degrees(shape):
    facts = describe(LayerGraph.from_edge_ids([], shape))
    assert (facts.n_out, facts.n_in) == shape
    assert facts.components == sum(shape)
    assert not facts.biregular
    undefined = [facts.sigma_1, facts.sigma_2, facts.bound, facts.margin]
    assert np.isnan(undefined).all()
    assert np.isnan(facts.fan_in).all() == (shape[0] == 0)
    assert np.isnan(facts.fan_out).all() == (shape[1] == 0)
