import numpy as np
import pytest
from matplotlib.figure import Figure

from topokit.generators import erdos_renyi
from topokit.graph import LayerGraph
from topokit.plots.layer import (
    adjacency,
    degree_distribution,
    degree_histogram,
    input_map,
    null_ccdf,
)


@pytest.fixture
def ax():
    return Figure().add_subplot()


def line(ax, label):
    return next(found for found in ax.lines if found.get_label() == label)


@pytest.mark.parametrize("side", ["fan_in", "fan_out"])
def test_the_distribution_is_the_share_of_units_with_at_least_k_links(ax, rng, side):
    graph = erdos_renyi(50, 40, density=0.2, rng=rng)
    degree_distribution(graph, side=side, ax=ax)
    k, share = line(ax, "this graph").get_data()
    degrees = getattr(graph, side)
    assert np.allclose(share, [np.mean(degrees >= at) for at in k])


def test_the_null_is_the_exact_law_of_a_layer_of_that_size():
    # Two of four cells, two a row: P(K >= 1) = 1 - C(2, 2) / C(4, 2) and P(K >= 2) = 1 / 6.
    graph = LayerGraph.from_edge_ids([0, 3], (2, 2))
    k, share = null_ccdf(graph, "fan_in")
    assert dict(zip(k.tolist(), share.tolist(), strict=True))[1] == pytest.approx(5 / 6)
    assert np.all(np.diff(share) <= 0)


def test_the_share_of_isolated_units_is_written(ax):
    degree_distribution(LayerGraph.from_edge_ids([0, 1, 2], (4, 4)), ax=ax)
    assert [text.get_text() for text in ax.texts] == ["75.0 % isolated"]


def test_the_first_graph_is_drawn_where_given(ax, rng):
    graph = erdos_renyi(20, 20, density=0.3, rng=rng)
    degree_distribution(graph, initial=graph, ax=ax)
    assert np.array_equal(line(ax, "first epoch").get_ydata(), line(ax, "this graph").get_ydata())


def test_an_unknown_side_is_refused(ax):
    with pytest.raises(ValueError, match="expected side 'fan_in' or 'fan_out', got 'rows'"):
        degree_distribution(LayerGraph.from_edge_ids([0], (1, 1)), side="rows", ax=ax)


def test_the_histogram_counts_every_unit_once(ax, rng):
    graph = erdos_renyi(30, 25, density=0.2, rng=rng)
    degree_histogram(graph, side="fan_out", ax=ax)
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == np.bincount(graph.fan_out).tolist()


def test_blocks_of_a_large_adjacency_are_densities(ax, rng):
    graph = erdos_renyi(1000, 900, density=0.01, rng=rng)
    adjacency(graph, ax=ax)
    blocks = ax.images[0].get_array()
    assert blocks.shape == (400, 400)
    assert blocks.max() <= 1
    rows, columns = (
        np.histogram(np.arange(n) + 0.5, bins=np.linspace(0, n, 401))[0] for n in (900, 1000)
    )
    assert (blocks * np.outer(rows, columns)).sum() == pytest.approx(graph.n_edges)


def test_a_pixel_of_the_input_map_is_a_fan_out(ax):
    graph = LayerGraph.from_edge_ids([0, 6, 7], (2, 6))
    input_map(graph, image_shape=(2, 3), ax=ax)
    assert ax.images[0].get_array().tolist() == [[2, 1, 0], [0, 0, 0]]


def test_an_image_of_another_size_is_refused(ax):
    with pytest.raises(ValueError, match="expected an image of 6 pixels, got 2 x 2"):
        input_map(LayerGraph.from_edge_ids([0], (2, 6)), image_shape=(2, 2), ax=ax)
