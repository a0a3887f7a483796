import networkx as nx
import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.graph.convert import to_networkx
from topokit.measures.connectivity import (
    active_flow,
    distances,
    efficiency,
    robustness,
    robustness_curve,
)


def random_layer(n_out, n_in, n_edges, seed):
    ids = np.random.default_rng(seed).permutation(n_out * n_in)[:n_edges]
    return LayerGraph.from_edge_ids(ids, (n_out, n_in))


@pytest.mark.parametrize("seed", range(8))
def test_distances_agree_with_networkx(seed):
    graph = random_layer(15, 20, 20 + 4 * seed, seed)
    oracle = to_networkx(graph)
    parts = sorted(nx.connected_components(oracle), key=len)
    if len(parts) > 1 and len(parts[-1]) == len(parts[-2]):
        pytest.skip("two largest components")
    giant = oracle.subgraph(parts[-1])
    found = distances(graph)
    assert found.mean == pytest.approx(nx.average_shortest_path_length(giant))
    assert found.diameter == nx.diameter(giant)
    assert efficiency(graph) == pytest.approx(nx.global_efficiency(oracle))


def test_distances_of_components_of_one_size_are_pooled():
    two_paths = LayerGraph.from_edge_ids([0, 1, 10, 14], (4, 4))
    assert distances(two_paths).diameter == 2
    assert np.isnan(distances(LayerGraph.from_edge_ids([], (3, 3)))).all()


def test_hubs_hold_a_star_together():
    star = LayerGraph.from_edge_ids(range(9), (1, 9))
    rng = np.random.default_rng(0)
    assert robustness_curve(star, points=11, rng=rng).giant[1] == pytest.approx(0.1)
    removed, giant = robustness_curve(star, order="random", points=11, rng=rng)
    assert removed[0] == giant[-1] == 0
    assert (np.diff(giant) <= 1e-12).all()


def test_random_layers_survive_longer_than_hubs_of_the_same_size():
    hubs = LayerGraph.from_edge_ids(range(600), (60, 200))
    assert robustness(random_layer(60, 200, 600, 0)) > robustness(hubs) + 0.1


def test_the_area_is_that_of_the_curve_where_degrees_differ():
    nested = LayerGraph.from_edge_ids([0, 1, 2, 3, 4, 5, 6, 8, 9, 12], (4, 4))
    found = robustness_curve(nested, points=9, rng=np.random.default_rng(0))
    area = float(np.trapezoid(found.giant, found.removed))
    assert robustness(nested) == pytest.approx(area, abs=0.08)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "best"}, "expected order 'hubs' or 'random', got 'best'"),
        ({"points": 1}, "expected at least 2 points, got 1"),
        ({"rng": None}, "expected rng="),
    ],
)
def test_wrong_options_are_named(options, message):
    star = LayerGraph.from_edge_ids(range(4), (1, 4))
    with pytest.raises(ValueError, match=message):
        robustness_curve(star, **{"rng": np.random.default_rng(0), **options})


def test_paths_are_counted_beside_dead_ends_with_many_more():
    # 40 units joined completely for 250 layers, which lead nowhere, beside a single thread
    n, depth = 41, 250
    dead = [n * row + column for row in range(40) for column in range(40)]
    inner = LayerGraph.from_edge_ids([*dead, 40 * n + 40], (n, n))
    last = LayerGraph.from_edge_ids([40 * n + 40], (n, n))
    topology = {f"fc{i}": inner if i < depth - 1 else last for i in range(depth)}
    found = active_flow(topology)
    assert found.log10_paths == 0.0
    assert found.edges == pytest.approx(depth / ((depth - 1) * 1601 + 1))
