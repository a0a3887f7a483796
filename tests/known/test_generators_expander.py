"""Certificates of the expanders, exact spectra of lifts, interlacing, complements."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topokit.generators import GENERATORS, describe
from topokit.generators.adapt import crop
from topokit.generators.lifts import Group, lifted, products, second_by_characters, two_lifted
from topokit.generators.sampling import complement
from topokit.graph import LayerGraph, same_edges
from topokit.graph.spectra import leading_singular_values, mean_degree_bound


def dense_singular_values(graph):
    return np.linalg.svd(graph.to_csr().toarray(), compute_uv=False)


def four_cycles(graph):
    gram = (graph.to_csr() @ graph.to_csr().T).toarray()
    shared = gram[np.triu_indices(graph.n_out, 1)]
    return int((shared * (shared - 1) / 2).sum())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.slow
def test_expander_at_the_size_of_the_set_mlp(seed):
    graph = GENERATORS["expander"](784, 1000, density=0.01, rng=np.random.default_rng(seed))
    facts = describe(graph, requested_density=0.01)
    assert facts.n_edges == facts.requested_edges == 7840
    assert facts.components == 1
    assert facts.fan_in == (7, 8)
    assert facts.fan_out == (10, 10)
    assert facts.sigma_2 <= 5.32
    assert facts.margin > 0.29


@pytest.mark.parametrize(
    ("n_in", "n_out", "density", "most"),
    [
        (784, 1000, 0.03, 1.0),
        (784, 1000, 0.1, 0.97),
        (1000, 784, 0.05, 0.97),
        (1000, 1000, 0.006, 0.98),
        (1000, 10, 0.3, 0.97),
        (300, 100, 0.05, 0.9),
        (64, 10, 0.6, 0.7),
    ],
)
def test_expander_beats_the_bound(n_in, n_out, density, most):
    graph = GENERATORS["expander"](n_in, n_out, density=density, rng=np.random.default_rng(0))
    facts = describe(graph)
    assert facts.components == 1
    assert facts.sigma_2 <= most * facts.bound


@pytest.mark.parametrize(
    ("n_in", "n_out", "density", "order"),
    [(300, 300, 0.03, None), (300, 300, 0.04, 25), (512, 512, 0.05, 23), (64, 64, 0.1, 9)],
)
def test_expander_is_better_than_random_graphs_where_blocks_are_many(n_in, n_out, density, order):
    rng = np.random.default_rng(1)
    facts = describe(GENERATORS["expander"](n_in, n_out, density=density, rng=rng))
    even = describe(GENERATORS["biregular"](n_in, n_out, density=density, rng=rng))
    assert facts.sigma_2 < 0.93 * even.sigma_2
    assert (facts.fan_in, facts.fan_out) == (even.fan_in, even.fan_out)
    assert order is None or f"group of {order}," in facts.repairs[0]


@settings(max_examples=25)
@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 1), st.integers(0, 99))
@pytest.mark.slow
def test_expander_has_degrees_within_one(n_in, n_out, density, seed):
    graph = GENERATORS["expander"](n_in, n_out, density=density, rng=np.random.default_rng(seed))
    assert graph.n_edges == round(density * n_in * n_out)
    assert np.ptp(graph.fan_in) <= 1
    assert np.ptp(graph.fan_out) <= 1


@pytest.mark.slow
def test_expander_of_a_wide_layer_is_ten_percent_below_the_bound():
    graph = GENERATORS["expander"](3072, 4000, density=0.01, rng=np.random.default_rng(0))
    facts = describe(graph)
    assert facts.n_edges == 122_880
    assert facts.components == 1
    assert facts.sigma_2 <= 0.9 * facts.bound


@pytest.mark.slow
def test_expander_with_a_million_edges_is_regular():
    graph = GENERATORS["expander"](100_000, 100_000, density=1e-4, rng=np.random.default_rng(0))
    assert set(graph.fan_in) == set(graph.fan_out) == {10}


@pytest.mark.parametrize(("a", "b", "h"), [(3, 4, 7), (5, 5, 11), (2, 6, 12), (4, 3, 2)])
def test_spectrum_of_a_lift_is_that_of_small_matrices(a, b, h):
    rng = np.random.default_rng(a + b)
    shifts = rng.integers(0, h, (a, b))
    graph = lifted(shifts, Group(h))
    assert set(graph.fan_in) == {a}
    assert set(graph.fan_out) == {b}
    values = dense_singular_values(graph)
    assert values[0] == pytest.approx(np.sqrt(a * b))
    assert second_by_characters(shifts, Group(h)) == pytest.approx(values[1])


@pytest.mark.parametrize(("p", "k"), [(2, 2), (2, 3), (3, 2), (5, 1)])
def test_lifts_by_fields_have_the_spectrum_of_their_characters(p, k):
    rng, group = np.random.default_rng(p), Group(p, k)
    offsets = rng.permutation(group.order)[:2]
    for given_offsets in (None, offsets):
        shifts = products(3, 4, group, rng)
        graph = lifted(shifts, group, offsets=given_offsets)
        times = 1 if given_offsets is None else 2
        assert set(graph.fan_in) == {3 * times}
        values = dense_singular_values(graph)
        assert values[0] == pytest.approx(times * np.sqrt(12))
        assert second_by_characters(shifts, group, offsets=given_offsets) == pytest.approx(
            values[1]
        )


def test_the_lift_by_all_products_of_a_field_is_a_net():
    graph = lifted(products(8, 8, Group(2, 3), np.random.default_rng(0)), Group(2, 3))
    assert four_cycles(graph) == 0
    assert np.unique(dense_singular_values(graph).round(9)) == pytest.approx([0, np.sqrt(8), 8])


def test_a_lift_above_the_limit_is_given_up():
    shifts = np.random.default_rng(0).integers(0, 101, (8, 10))
    sigma = second_by_characters(shifts, Group(101))
    assert second_by_characters(shifts, Group(101), limit=sigma) == pytest.approx(sigma)
    assert sigma - 1 < second_by_characters(shifts, Group(101), limit=sigma - 1) <= sigma + 1e-9


def test_spectrum_of_a_lift_with_several_offsets():
    rng = np.random.default_rng(0)
    shifts, offsets = rng.integers(0, 13, (4, 5)), np.array([0, 2, 9])
    values = dense_singular_values(lifted(shifts, Group(13), offsets=offsets))
    assert values[0] == pytest.approx(3 * np.sqrt(20))
    assert second_by_characters(shifts, Group(13), offsets=offsets) == pytest.approx(values[1])


def test_multiplicative_and_greedy_lifts_have_no_four_cycles():
    rng = np.random.default_rng(0)
    multiplicative = GENERATORS["cyclic_lift"](808, 1010, density=1 / 101, rng=rng)
    assert four_cycles(multiplicative) == 0
    greedy = GENERATORS["cyclic_lift"](800, 1000, density=0.01, shifts="greedy", rng=rng)
    assert four_cycles(greedy) == 0
    assert set(greedy.fan_in) == {8}


def test_array_code_has_girth_but_no_expansion():
    rng = np.random.default_rng(0)
    graph = GENERATORS["cyclic_lift"](808, 1010, density=1 / 101, shifts="array", rng=rng)
    assert four_cycles(graph) == 0
    assert leading_singular_values(graph) == pytest.approx([np.sqrt(80), 8.270], abs=1e-3)


def test_cropping_never_raises_a_singular_value():
    graph = GENERATORS["biregular"](120, 90, density=0.1, rng=np.random.default_rng(0))
    small = crop(graph, 100, 70)
    assert (dense_singular_values(small) <= dense_singular_values(graph)[:70] + 1e-9).all()


def test_complement_of_a_biregular_graph_keeps_the_second_singular_value():
    graph = GENERATORS["biregular"](60, 40, density=0.1, rng=np.random.default_rng(0))
    other = complement(graph)
    assert leading_singular_values(other)[1] == pytest.approx(leading_singular_values(graph)[1])


@pytest.mark.parametrize("size", [(800, 1000, 0.01), (1000, 1000, 0.006), (1000, 200, 0.04)])
def test_ramanujan_by_rejection(size):
    n_in, n_out, density = size
    graph = GENERATORS["ramanujan"](n_in, n_out, density=density, rng=np.random.default_rng(0))
    assert leading_singular_values(graph)[1] <= mean_degree_bound(graph)
    assert describe(graph).biregular


def test_random_lift_is_biregular_and_near_the_bound():
    graph = GENERATORS["random_lift"](800, 1000, density=0.01, rng=np.random.default_rng(0))
    facts = describe(graph)
    assert facts.repairs == ()
    assert facts.biregular
    assert facts.sigma_2 == pytest.approx(5.627, abs=0.08)


def test_spectrum_of_a_two_lift_is_the_old_one_and_that_of_the_signs():
    rng = np.random.default_rng(0)
    graph = GENERATORS["biregular"](24, 18, density=0.2, rng=rng)
    signs = rng.integers(0, 2, graph.n_edges)
    new = np.linalg.svd(graph.to_csr(1.0 - 2 * signs).toarray(), compute_uv=False)
    both = np.sort(np.concatenate([dense_singular_values(graph), new]))[::-1]
    assert dense_singular_values(two_lifted(graph, signs)) == pytest.approx(both)


@pytest.mark.parametrize("seed", range(3))
def test_repeated_two_lifts_are_ramanujan(seed):
    graph = GENERATORS["two_lift"](1024, 1280, density=1 / 128, rng=np.random.default_rng(seed))
    facts = describe(graph)
    assert facts.repairs == ()
    assert facts.biregular
    assert facts.components == 1
    assert facts.margin >= 0


def test_progressive_edge_growth_has_no_four_cycles_and_beats_random_graphs():
    graph = GENERATORS["peg"](800, 1000, density=0.01, rng=np.random.default_rng(0))
    facts = describe(graph)
    assert facts.fan_out == (10, 10)
    assert 7 <= facts.fan_in[0] <= facts.fan_in[1] <= 9
    assert four_cycles(graph) == 0
    assert facts.sigma_2 < 5.42


def test_progressive_edge_growth_avoids_longer_cycles_while_it_can():
    graph = GENERATORS["peg"](60, 60, density=2 / 60, rng=np.random.default_rng(0), depth=20)
    small = GENERATORS["peg"](60, 60, density=1 / 60, rng=np.random.default_rng(0))
    assert set(graph.fan_in) == set(graph.fan_out) == {2}
    assert describe(graph).components == 1  # one Hamiltonian cycle: every end goes farthest
    assert describe(small).components == 60
    with pytest.raises(ValueError, match="expected a depth of at least 1, got 0"):
        GENERATORS["peg"](6, 6, density=0.5, rng=np.random.default_rng(0), depth=0)


@pytest.mark.parametrize("q", [13, 25, 101])
def test_double_cover_of_paley_graphs(q):
    draw = GENERATORS["double_cover"]
    share = (q - 1) / 2 / q
    graph = draw(q, q, density=share, base="paley", rng=np.random.default_rng(0))
    values = np.unique(np.round(dense_singular_values(graph), 6))
    expected = [(np.sqrt(q) - 1) / 2, (np.sqrt(q) + 1) / 2, (q - 1) / 2]
    assert values == pytest.approx(expected, abs=1e-5)


def test_double_cover_has_the_absolute_eigenvalues_of_its_base():
    draw = GENERATORS["double_cover"]
    graph = draw(101, 101, density=6 / 101, rng=np.random.default_rng(0))
    matrix = graph.to_csr().toarray()
    assert np.array_equal(matrix, matrix.T)
    assert matrix.trace() == 0
    assert set(graph.fan_in) == {6}
    eigenvalues = np.sort(np.abs(np.linalg.eigvalsh(matrix)))[::-1]
    assert dense_singular_values(graph) == pytest.approx(eigenvalues)
    chordal = draw(97, 97, density=3 / 97, base="chordal_cycle", rng=np.random.default_rng(0))
    assert 2.5 < describe(chordal).sigma_2 < 3


def test_double_cover_of_any_graph():
    cycle = [i * 5 + (i + step) % 5 for i in range(5) for step in (1, 4)]
    base = LayerGraph.from_edge_ids(cycle, (5, 5))
    draw = GENERATORS["double_cover"]
    graph = draw(5, 5, density=0.4, base=base, rng=np.random.default_rng(0))
    assert same_edges(graph, base)
    assert describe(graph).components == 1
    for wrong, message in [
        (LayerGraph.from_edge_ids([1], (5, 5)), "expected base to be a symmetric graph"),
        ("petersen", "expected base to be 'random_regular', 'paley', 'chordal_cycle' or a"),
    ]:
        with pytest.raises(ValueError, match=message):
            draw(5, 5, density=0.4, base=wrong, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="expected base to have at least 6 units, got 5"):
        draw(6, 5, density=0.4, base=base, rng=np.random.default_rng(0))


def test_shuffles_keep_everything_but_the_order():
    graphs = {
        shuffle: GENERATORS["net"](
            60, 64, density=0.1, shuffle=shuffle, rng=np.random.default_rng(3)
        )
        for shuffle in ("none", "fan_in", "fan_out", "both")
    }
    for graph in graphs.values():
        assert sorted(graph.fan_in) == sorted(graphs["none"].fan_in)
        assert sorted(graph.fan_out) == sorted(graphs["none"].fan_out)
        assert dense_singular_values(graph) == pytest.approx(dense_singular_values(graphs["none"]))
    assert np.array_equal(graphs["fan_out"].fan_in, graphs["none"].fan_in)
    assert np.array_equal(graphs["fan_in"].fan_out, graphs["none"].fan_out)
    assert not same_edges(graphs["both"], graphs["none"])
