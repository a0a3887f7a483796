import copy
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.strategies import edge_updates, layer_graphs
from topokit.graph import (
    EdgeUpdate,
    LayerGraph,
    chain_widths,
    check_chain,
    same_edges,
    sample_absent,
    top_absent,
)


@given(layer_graphs())
def test_edge_ids_and_csr_round_trip(graph):
    assert same_edges(LayerGraph.from_edge_ids(graph.edge_ids, graph.shape), graph)
    assert graph.fan_in.sum() == graph.fan_out.sum() == graph.n_edges
    dense = graph.to_csr().toarray()
    assert np.array_equal(np.flatnonzero(dense), graph.edge_ids)
    assert np.array_equal(dense.sum(axis=1), graph.fan_in)
    assert np.array_equal(dense.sum(axis=0), graph.fan_out)


@given(layer_graphs())
def test_graphs_stay_immutable_through_copies(graph):
    for copied in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert same_edges(copied, graph)
        assert not copied.indices.flags.writeable
        assert not copied.indptr.flags.writeable


@given(layer_graphs(), layer_graphs())
def test_graphs_are_equal_if_shape_and_edges_are(a, b):
    same = a.shape == b.shape and a.edge_ids.tolist() == b.edge_ids.tolist()
    assert (a == b) == same
    assert (a != b) != same
    again = LayerGraph.from_edge_ids(a.edge_ids, a.shape)
    assert again == a
    assert again is not a
    assert hash(again) == hash(a)
    assert {again, a} == {a}
    assert {a: 1}[again] == 1
    assert {"fc1": again} == {"fc1": a}


def test_shapes_and_places_of_edges_decide():
    graph = LayerGraph.from_edge_ids([1, 2], (2, 3))
    others = [([1, 2], (3, 2)), ([1, 3], (2, 3)), ([1], (2, 3)), ([], (2, 3)), ([], (3, 2))]
    graphs = [graph, *(LayerGraph.from_edge_ids(ids, shape) for ids, shape in others)]
    assert len(set(graphs)) == len(graphs)


def test_other_types_are_left_to_decide_for_themselves():
    graph = LayerGraph.from_edge_ids([1, 2], (2, 3))
    update = EdgeUpdate.between(graph, graph)
    for value in (graph, update):
        assert value.__eq__("graph") is NotImplemented
        assert value != 3
        assert value is not None
    assert graph != update

    class Anything:
        def __eq__(self, other):
            return True

        __hash__ = None

    assert graph == Anything()


def test_changes_are_equal_if_graphs_and_sources_are():
    graph = LayerGraph.from_edge_ids([1, 2], (2, 3))
    kept = EdgeUpdate.between(graph, graph)
    regrown = EdgeUpdate.from_decisions(graph, [0], [1])
    assert kept == EdgeUpdate.between(graph, graph)
    assert hash(kept) == hash(EdgeUpdate.between(graph, graph))
    assert kept != regrown
    assert regrown == EdgeUpdate.from_decisions(graph, [0], [1])


def test_graphs_can_be_referred_to_weakly_and_not_be_given_attributes():
    graph = LayerGraph.from_edge_ids([1, 2], (2, 3))
    assert weakref.ref(graph)() is graph
    with pytest.raises((AttributeError, TypeError)):
        graph.shape = (3, 2)
    with pytest.raises((AttributeError, TypeError)):
        graph.colour = "red"


def test_one_value_for_each_edge():
    graph = LayerGraph.from_edge_ids([1, 2], (2, 3))
    assert graph.to_csr([5, 6]).toarray().tolist() == [[0, 5, 6], [0, 0, 0]]
    with pytest.raises(ValueError, match=r"one value for each of the 2 edges, got shape \(3,\)"):
        graph.to_csr([1, 2, 3])
    update = EdgeUpdate.between(graph, graph)
    assert update.carry(np.ones((2, 4))).shape == (2, 4)
    with pytest.raises(ValueError, match=r"one value for each of the 2 edges, got shape \(3, 4\)"):
        update.carry(np.ones((3, 4)))


def test_a_graph_does_not_see_later_changes_of_the_callers_arrays():
    indices = np.array([0, 1], np.int32)
    graph = LayerGraph((1, 2), np.array([0, 2]), indices)
    indices[0] = 7
    assert graph.indices.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("shape", "indptr", "indices", "message"),
    [
        ((1, 2), [0, 2], [1, 0], "increase strictly"),
        ((1, 2), [0, 2], [1, 1], "increase strictly"),
        ((1, 2), [0, 1], [2], "input units in 0..1"),
        ((1, 2), [0, 2], [0], "rise from 0 to 1"),
        ((2, 2), [0, 1], [0], r"indptr of shape \(3,\)"),
        ((-1, 2), [0], [], "non-negative"),
    ],
)
def test_invalid_graphs_are_refused(shape, indptr, indices, message):
    with pytest.raises(ValueError, match=message):
        LayerGraph(shape, np.array(indptr), np.array(indices, np.int32))


@pytest.mark.parametrize(
    ("ids", "message"), [([1, 1], "distinct"), ([4], r"0\.\.3"), ([-1], r"0\.\.3")]
)
def test_invalid_edge_ids_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        LayerGraph.from_edge_ids(ids, (2, 2))


@given(edge_updates())
def test_carry_moves_each_kept_edge_and_no_other(update):
    carried = update.carry(update.before.edge_ids, fill=-1)
    kept = ~update.grown
    assert np.array_equal(carried[kept], update.after.edge_ids[kept])
    assert np.all(carried[~kept] == -1)
    assert update.n_dropped - update.n_grown == update.before.n_edges - update.after.n_edges


@given(layer_graphs(n_in=5, n_out=4), layer_graphs(n_in=5, n_out=4))
def test_between_keeps_exactly_the_common_edges(a, b):
    update = EdgeUpdate.between(a, b)
    common = np.intersect1d(a.edge_ids, b.edge_ids)
    assert np.array_equal(b.edge_ids[~update.grown], common)


@given(layer_graphs(min_side=1), st.integers(0, 2**32 - 1), st.data())
def test_sample_absent_never_hits_an_edge(graph, seed, data):
    n_absent = graph.n_in * graph.n_out - graph.n_edges
    k = data.draw(st.integers(0, n_absent))
    ids = sample_absent(graph, k, np.random.default_rng(seed))
    assert ids.size == np.unique(ids).size == k
    assert not np.isin(ids, graph.edge_ids).any()


def test_sample_absent_is_uniform(rng):
    graph = LayerGraph.from_edge_ids([0, 3, 7, 8], (4, 6))
    counts = np.zeros(24)
    for k in (2, 15):
        for _ in range(2000):
            counts[sample_absent(graph, k, rng)] += 1
    absent = np.setdiff1d(np.arange(24), graph.edge_ids)
    assert counts[graph.edge_ids].sum() == 0
    assert stats.chisquare(counts[absent]).pvalue > 1e-3


def test_sample_absent_says_what_is_possible(rng):
    graph = LayerGraph.from_edge_ids([0], (1, 2))
    with pytest.raises(ValueError, match="cannot pick 2 absent edges: only 1 are absent"):
        sample_absent(graph, 2, rng)


@given(layer_graphs(min_side=1), st.integers(1, 30), st.integers(0, 2**32 - 1), st.data())
def test_top_absent_equals_a_full_sort_whatever_the_block(graph, block, seed, data):
    scores = np.random.default_rng(seed).integers(0, 4, graph.shape).astype(float)
    absent = np.setdiff1d(np.arange(graph.n_in * graph.n_out), graph.edge_ids)
    k = data.draw(st.integers(0, absent.size))
    order = np.lexsort((absent, -scores.ravel()[absent]))
    found = top_absent(graph, k, lambda rows: scores[rows], block_cells=block)
    assert np.array_equal(found, np.sort(absent[order[:k]]))


def test_top_absent_refuses_nan():
    graph = LayerGraph.from_edge_ids([], (2, 2))
    with pytest.raises(ValueError, match="without nan"):
        top_absent(graph, 1, lambda rows: np.full((2, 2), np.nan))


@pytest.mark.parametrize(("dropped", "words"), [([-1], "got -1..-1"), ([0, 2], "got 0..2")])
def test_only_positions_of_edges_can_be_dropped(dropped, words):
    before = LayerGraph.from_edge_ids([0, 1], (1, 3))
    with pytest.raises(ValueError, match=rf"positions of edges to drop in 0..1, {words}"):
        EdgeUpdate.from_decisions(before, dropped=dropped, grown=[])


def test_a_matrix_may_be_changed_and_the_graph_stays():
    graph, values = LayerGraph.from_edge_ids([0, 1, 3], (2, 2)), np.array([0.0, 2.0, 3.0])
    matrix = graph.to_csr(values)
    matrix.eliminate_zeros()
    matrix.data[:] = 7
    assert (matrix.toarray().tolist(), values.tolist()) == ([[0, 7], [0, 7]], [0, 2, 3])
    assert graph.edge_ids.tolist() == [0, 1, 3]


@pytest.mark.parametrize("wrong", [[0.9], [1j], ["0"], [True], [2**70], np.array([0], "M8[s]")])
def test_indices_that_are_no_integers_are_refused(wrong):
    graph = LayerGraph.from_edge_ids([1], (1, 3))
    for make in (
        lambda: LayerGraph((1, 3), [0, 1], wrong),
        lambda: LayerGraph((1, 3), [*wrong, *wrong], [1]),
        lambda: LayerGraph.from_edge_ids(wrong, (1, 3)),
        lambda: EdgeUpdate(graph, graph, wrong),
        lambda: EdgeUpdate.from_decisions(graph, wrong, []),
        lambda: EdgeUpdate.from_decisions(graph, [], wrong),
    ):
        with pytest.raises(ValueError, match="expected integers as"):
            make()


def test_indices_and_shapes_are_not_cut_to_fit():
    for index in (2**32, -(2**32), 2**31):
        with pytest.raises(ValueError, match=r"expected input units in -2147483648\.\."):
            LayerGraph((1, 3), [0, 1], [index])
    with pytest.raises(ValueError, match="expected edge ids in -9223"):
        LayerGraph.from_edge_ids(np.array([2**64 - 1], np.uint64), (1, 3))
    for shape in ((1.5, 3), ("1", 3), (1,), (1, 2, 3), 5, None, (1, 2**31), (2**40, 2**30)):
        with pytest.raises(ValueError, match=r"expected a shape \(n_out, n_in\)"):
            LayerGraph(shape, [0, 1], [1])
        with pytest.raises(ValueError, match=r"expected a shape \(n_out, n_in\)"):
            LayerGraph.from_edge_ids([], shape)
    assert LayerGraph(np.array([1, 3]), [0, 1], np.array([2], np.uint8)).indices.tolist() == [2]


@pytest.mark.parametrize(
    "names",
    [
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        ("h.0.query", "h.0.key", "h.0.value"),
        ("wq", "wk", "wv"),
        ("x.to_q", "x.to_k", "x.to_v"),
        ("self.Q_proj", "self.K_proj", "self.out_proj"),
    ],
)
def test_an_attention_is_no_chain_whatever_its_widths(names):
    square = LayerGraph.from_edge_ids(range(9), (3, 3))
    topology = {"fc": square} | dict.fromkeys(names, square)
    assert chain_widths(topology) is None
    with pytest.raises(ValueError, match=f"{names[0]} and {names[1]} read the same units"):
        check_chain(topology, "a measure")
    apart = {f"block{i}.{name}": square for i, name in enumerate(names)}
    assert chain_widths(apart) == [3] * 4
