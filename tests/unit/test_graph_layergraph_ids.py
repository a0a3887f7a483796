import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topokit.graph import (
    EdgeUpdate,
    LayerGraph,
    distinct,
    positions_in,
    random_subset,
    sample_absent,
    sorted_ids,
    union,
)

ids_lists = st.lists(st.integers(0, 2**62), max_size=40)


@given(ids_lists)
def test_sorting_by_digits_is_sorting(ids):
    array = np.array(ids, np.int64)
    before = array.copy()
    assert sorted_ids(array).tolist() == sorted(ids)
    assert distinct(array).tolist() == sorted(set(ids))
    np.testing.assert_array_equal(array, before)


def test_sorting_takes_negative_ids_too():
    assert sorted_ids(np.array([3, -1, 2])).tolist() == [-1, 2, 3]


@pytest.mark.parametrize(("n", "k"), [(1, 0), (1, 1), (10, 4), (10, 5), (1000, 499), (2**40, 5000)])
def test_random_subsets_are_distinct_and_in_range(n, k):
    subset = random_subset(n, k, np.random.default_rng(0))
    assert subset.size == k
    assert np.all(subset[1:] > subset[:-1])
    assert k == 0 or 0 <= subset[0] <= subset[-1] < n


def test_every_small_subset_is_equally_likely():
    rng = np.random.default_rng(1)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(6000):
        key = tuple(random_subset(7, 3, rng).tolist())
        counts[key] = counts.get(key, 0) + 1
    expected = 6000 / 35
    chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
    assert len(counts) == 35
    assert chi2 < 65  # the 99.9 % point of 34 degrees of freedom


@given(st.integers(0, 6), st.integers(0, 6), st.data())
def test_absent_cells_are_the_ones_no_edge_takes(n_out, n_in, data):
    cells = n_out * n_in
    ids = data.draw(st.sets(st.integers(0, cells - 1))) if cells else set()
    graph = LayerGraph.from_edge_ids(sorted(ids), (n_out, n_in))
    absent = sample_absent(graph, cells - len(ids), np.random.default_rng(0))
    assert sorted([*absent.tolist(), *ids]) == list(range(cells))


@pytest.mark.parametrize("grown", [[1], [0, 0], [5, 5]])
def test_an_edge_that_stays_cannot_be_grown_nor_one_twice(grown):
    graph = LayerGraph.from_edge_ids([1, 2], (2, 3))
    with pytest.raises(ValueError, match="expected absent edges to grow"):
        EdgeUpdate.from_decisions(graph, [1], grown)


@pytest.mark.parametrize("grown", [[-1], [6]])
def test_grown_edges_must_lie_in_the_layer(grown):
    graph = LayerGraph.from_edge_ids([1, 2], (2, 3))
    with pytest.raises(ValueError, match=r"expected edge ids in 0\.\.5"):
        EdgeUpdate.from_decisions(graph, [], grown)


@given(st.sets(st.integers(0, 30)), st.lists(st.integers(-3, 33)))
def test_positions_are_those_of_a_search_one_by_one(members, ids):
    ordered = np.array(sorted(members), np.int64)
    found = positions_in(ordered, np.array(ids, np.int64))
    assert found.dtype == np.int64
    assert found.tolist() == [sorted(members).index(i) if i in members else -1 for i in ids]


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_unions_of_sorted_ids_are_unions_of_sets(one, two):
    both = union(np.array(sorted(one), np.int64), np.array(sorted(two), np.int64))
    assert both.tolist() == sorted(one | two)
