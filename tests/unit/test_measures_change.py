import numpy as np
import pytest

from topokit.graph import EdgeUpdate, LayerGraph
from topokit.measures import expected_explored_fraction, explored_fraction, topology_distance
from topokit.measures.change import expected_jaccard, jaccard, turnover


def layer(shape, n_edges, seed):
    rng = np.random.default_rng(seed)
    return LayerGraph.from_edge_ids(rng.permutation(shape[0] * shape[1])[:n_edges], shape)


def network(seed, density=0.02):
    widths = [60, 80, 70]
    return {
        f"fc{i + 1}": layer((widths[i + 1], widths[i]), int(density * widths[i] * widths[i + 1]), s)
        for i, s in enumerate((2 * seed, 2 * seed + 1))
    }


def test_distance_to_itself_is_zero_under_renumbering():
    a = network(1, density=0.2)
    order = np.random.default_rng(0).permutation(80)
    first, second = a["fc1"], a["fc2"]
    b = {
        "fc1": LayerGraph.from_edge_ids(order[first.rows] * 60 + first.indices, first.shape),
        "fc2": LayerGraph.from_edge_ids(second.rows * 80 + order[second.indices], second.shape),
    }
    assert topology_distance(a, a) == 0
    assert topology_distance(a, b) == pytest.approx(0)


def test_distance_of_disjoint_sources_is_one():
    one = {"fc1": LayerGraph.from_edge_ids([0, 4], (2, 4))}
    two = {"fc1": LayerGraph.from_edge_ids([3, 7], (2, 4))}
    assert topology_distance(one, two) == 1


def test_random_networks_are_far_but_not_at_one():
    one, two = network(1, density=0.1), network(2, density=0.1)
    assert 0.5 < topology_distance(one, two) < 0.95


def test_distance_says_what_is_wrong():
    with pytest.raises(ValueError, match="expected layers of the same shapes"):
        topology_distance(network(1), {"fc1": layer((3, 3), 2, 0)})
    loose = {"a": layer((3, 4), 2, 0), "b": layer((3, 4), 2, 0)}
    with pytest.raises(ValueError, match="expected layers that chain"):
        topology_distance(loose, loose)


def test_independent_layers_overlap_as_expected():
    found = [
        jaccard(EdgeUpdate.between(layer((100, 90), 900, s), layer((100, 90), 900, s + 500)))
        for s in range(100)
    ]
    assert np.mean(found) == pytest.approx(expected_jaccard(900, 900, 9000), rel=0.03)


def test_turnover_of_a_replacement():
    old = LayerGraph.from_edge_ids(range(10), (5, 5))
    new = LayerGraph.from_edge_ids(range(3, 13), (5, 5))
    assert turnover(EdgeUpdate.between(old, new)) == 0.3


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        ([0, 1, 2, 3], [0, 5], 1 / 2),  # a new edge of two, not of the four before
        ([0], [0, 1, 2, 3], 3 / 4),
        ([0, 1], [2, 3], 1.0),
        ([0, 1, 2], [1], 0.0),
        ([], [4], 1.0),
    ],
)
def test_turnover_is_a_share_of_the_edges_of_now(before, after, share):
    graphs = [LayerGraph.from_edge_ids(ids, (2, 3)) for ids in (before, after)]
    assert turnover(EdgeUpdate.between(*graphs)) == share


def test_explored_fraction_follows_its_expectation():
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        graph = layer((50, 60), 300, seed)
        graphs = [graph]
        for _ in range(5):
            kept = rng.permutation(graph.edge_ids)[:210]
            vacant = np.setdiff1d(np.arange(3000), kept)
            ids = np.concatenate([kept, rng.permutation(vacant)[:90]])
            graph = LayerGraph.from_edge_ids(ids, (50, 60))
            graphs.append(graph)
        found.append(explored_fraction(graphs))
    expected = expected_explored_fraction(3000, 300, 0.3, updates=5)
    assert np.mean(found) == pytest.approx(expected, abs=0.002)


def test_explored_fraction_wants_one_shape():
    with pytest.raises(ValueError, match="expected graphs of one shape"):
        explored_fraction([layer((2, 2), 1, 0), layer((2, 3), 1, 0)])


@pytest.mark.parametrize(
    ("arguments", "updates", "message"),
    [
        ((100, 10, 30), 1, r"a drop fraction in \[0, 1\], got 30"),  # percent
        ((100, 10, -0.3), 1, "a drop fraction"),
        ((100, 10, float("nan")), 1, "a drop fraction"),
        ((10, 100, 0.3), 1, "0 to 10 edges, got 100"),
        ((100, -1, 0.3), 1, "0 to 100 edges, got -1"),
        ((100, 10, 0.3), -1, "at least 0 updates, got -1"),
    ],
)
def test_impossible_numbers_have_no_expectation(arguments, updates, message):
    with pytest.raises(ValueError, match=message):
        expected_explored_fraction(*arguments, updates=updates)
    if "edges" in message:
        n_cells, n_edges, _ = arguments
        for before, after in ((n_edges, 5), (5, n_edges)):
            with pytest.raises(ValueError, match=message):
                expected_jaccard(before, after, n_cells)
