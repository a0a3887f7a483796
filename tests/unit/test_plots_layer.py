import numpy as np
import pytest
from matplotlib.figure import Figure

from topokit.generators import erdos_renyi
from topokit.graph import LayerGraph
from topokit.graph.convert import from_scipy
from topokit.measures import power_law_of
from topokit.plots.layer import (
    adjacency,
    ccdf_band,
    degree_distribution,
    degree_histogram,
    input_map,
    null_ccdf,
    random_bulk,
    spectrum,
)
from topokit.plots.parts import shade


@pytest.fixture
def ax():
    return Figure().add_subplot()


def line(ax, label):
    return next(found for found in ax.lines if found.get_label() == label)


@pytest.mark.parametrize("side", ["fan_in", "fan_out"])
def test_the_distribution_is_the_share_of_units_with_degree_at_least_k(ax, rng, side):
    graph = erdos_renyi(50, 40, density=0.2, rng=rng)
    degree_distribution(graph, side=side, ax=ax)
    k, share = line(ax, "this graph (band: 95 %)").get_data()
    degrees = getattr(graph, side)
    assert np.allclose(share, [np.mean(degrees >= at) for at in k])


def test_the_null_is_the_exact_law_of_a_layer_of_that_size():
    # Two of four cells, two in each row: P(K >= 1) = 1 - C(2, 2) / C(4, 2), P(K >= 2) = 1 / 6.
    graph = LayerGraph.from_edge_ids([0, 3], (2, 2))
    k, share = null_ccdf(graph, "fan_in")
    assert dict(zip(k.tolist(), share.tolist(), strict=True))[1] == pytest.approx(5 / 6)
    assert np.all(np.diff(share) <= 0)


def test_the_share_of_isolated_units_is_written(ax):
    degree_distribution(LayerGraph.from_edge_ids([0, 1, 2], (4, 4)), ax=ax)
    assert "this graph (band: 95 %),\n75.0 % isolated" in ax.get_legend_handles_labels()[1]


def test_the_first_graph_is_drawn_where_given(ax, rng):
    graph = erdos_renyi(20, 20, density=0.3, rng=rng)
    degree_distribution(graph, initial=graph, ax=ax)
    assert np.array_equal(
        line(ax, "first epoch").get_ydata(), line(ax, "this graph (band: 95 %)").get_ydata()
    )


def test_an_unknown_side_is_refused(ax):
    with pytest.raises(ValueError, match="expected side 'fan_in' or 'fan_out', got 'rows'"):
        degree_distribution(LayerGraph.from_edge_ids([0], (1, 1)), side="rows", ax=ax)


def test_the_histogram_counts_every_unit_once(ax, rng):
    graph = erdos_renyi(30, 25, density=0.2, rng=rng)
    degree_histogram(graph, side="fan_out", ax=ax)
    heights = {bar.get_x() + 0.5: bar.get_height() for bar in ax.patches}
    counts = np.bincount(graph.fan_out)
    assert heights == {k: counts[k] for k in np.flatnonzero(counts)}
    assert sum(heights.values()) == 30


def test_blocks_of_a_large_adjacency_are_densities(ax, rng):
    graph = erdos_renyi(1000, 900, density=0.01, rng=rng)
    adjacency(graph, ax=ax)
    blocks = ax.images[0].get_array()
    assert blocks.shape == (33, 33)  # 9,000 edges, about 8 in each block
    assert blocks.max() <= 1
    rows, columns = (
        np.histogram(np.arange(n) + 0.5, bins=np.linspace(0, n, 34))[0] for n in (900, 1000)
    )
    assert (blocks * np.outer(rows, columns)).sum() == pytest.approx(graph.n_edges)


def test_a_small_adjacency_shows_every_cell(ax, rng):
    graph = erdos_renyi(300, 200, density=0.01, rng=rng)
    adjacency(graph, ax=ax)
    cells = ax.images[0].get_array()
    assert cells.shape == (200, 300)
    assert set(cells.ravel()) == {0.0, 1.0}
    assert cells.sum() == graph.n_edges


def test_a_pixel_of_the_input_map_is_a_fan_out(ax):
    graph = LayerGraph.from_edge_ids([0, 6, 7], (2, 6))
    input_map(graph, image_shape=(2, 3), ax=ax)
    assert ax.images[0].get_array().tolist() == [[2, 1, 0], [0, 0, 0]]


def test_the_input_map_of_shuffled_pixels_is_that_of_the_image(ax):
    image = LayerGraph.from_edge_ids([0, 6, 7], (2, 6))
    order = np.array([3, 0, 5, 1, 4, 2])
    shuffled = from_scipy(image.to_csr()[:, order])  # unit i reads pixel order[i]
    input_map(shuffled, image_shape=(2, 3), order=order, ax=ax)
    assert ax.images[0].get_array().tolist() == [[2, 1, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="expected an order of 6 pixels"):
        input_map(image, order=[0, 1, 2, 3, 4, 4], ax=Figure().add_subplot())


def test_the_input_map_of_colours_adds_their_edges(ax):
    graph = LayerGraph.from_edge_ids([0, 1, 4, 8], (1, 12))  # three channels of 2 x 2
    input_map(graph, ax=ax)
    assert ax.images[0].get_array().tolist() == [[3, 1], [0, 0]]


@pytest.mark.parametrize("k", [1, 1000])
def test_the_degrees_of_a_regular_layer_are_seen(k, ax):
    graph = LayerGraph.from_edge_ids(np.arange(10 * k), (10, k))
    degree_distribution(graph, label="mine", ax=ax)
    (line,) = (line for line in ax.lines if line.get_label() == "mine")
    assert line.get_xydata().tolist() == [[k, 1]]
    assert line.get_marker() == "o"
    assert ax.get_xlim()[1] < 10 * k
    degree_distribution(LayerGraph.from_edge_ids(range(9), (9, 30000)), ax=ax)
    assert ax.get_xlim()[0] < 1 <= k < ax.get_xlim()[1]


def test_an_image_of_another_size_is_refused(ax):
    with pytest.raises(ValueError, match="expected an image of 6 pixels, got 2 x 2"):
        input_map(LayerGraph.from_edge_ids([0], (2, 6)), image_shape=(2, 2), ax=ax)


def test_the_band_is_that_of_a_bootstrap(rng):
    degrees = rng.poisson(3, 200)
    k, low, high = ccdf_band(degrees)
    drawn = rng.choice(degrees, (4000, degrees.size))
    shares = (drawn[:, :, None] >= k).mean(axis=1)
    np.testing.assert_allclose(low, np.quantile(shares, 0.025, axis=0), atol=0.011)
    np.testing.assert_allclose(high, np.quantile(shares, 0.975, axis=0), atol=0.011)


def test_the_null_is_drawn_in_steps_as_the_degrees_are(ax, rng):
    graph = erdos_renyi(200, 150, density=0.2, rng=rng)
    degree_distribution(graph, ax=ax)
    null = line(ax, "random graph")
    assert null.get_drawstyle() == line(ax, "this graph (band: 95 %)").get_drawstyle()
    k, share = null_ccdf(graph, "fan_in")
    found = dict(zip(k.tolist(), share.tolist(), strict=True))
    assert all(found[at] == value for at, value in null.get_xydata().tolist())


def test_limits_are_those_of_the_degrees(ax, rng):
    degree_distribution(erdos_renyi(784, 1000, density=0.09, rng=rng), ax=ax)
    low, high = ax.get_xlim()
    assert 35 < low < 50
    assert 95 < high < 115


def law(ax):
    """The steps of the best power law, or None, and what the legend says of it."""
    (found,) = (one for one in ax.lines if "power law" in str(one.get_label()))
    return (found if len(found.get_xdata()) else None), found.get_label()


@pytest.mark.parametrize(
    ("degrees", "words"),
    [
        (np.arange(41, 51), "(10 units in the tail)"),  # fitted by a power law with alpha > 20
        (np.repeat(np.arange(41, 51), 10), "(tail from 4"),
    ],
)
def test_no_law_is_drawn_over_a_short_tail(ax, degrees, words):
    ids = np.concatenate([row * 60 + np.arange(k) for row, k in enumerate(degrees)])
    degree_distribution(LayerGraph.from_edge_ids(ids, (degrees.size, 60)), ax=ax)
    drawn, said = law(ax)
    assert drawn is None
    assert words in said or "units in the tail" in said
    assert "verdict:" in said


def test_the_law_is_the_one_that_was_fitted_up_to_the_largest_possible_degree(ax, rng):
    degrees = np.minimum(rng.zipf(2.2, 600), 100)
    ids = np.concatenate([row * 100 + np.arange(k) for row, k in enumerate(degrees)])
    graph = LayerGraph.from_edge_ids(ids, (600, 100))
    degree_distribution(graph, ax=ax)
    drawn, said = law(ax)
    fit = power_law_of(graph, "fan_in")
    weights = np.arange(int(fit.xmin), 101.0) ** -fit.alpha
    above = weights[::-1].cumsum()[::-1] / weights.sum() * fit.tail_share
    np.testing.assert_allclose(drawn.get_ydata(), above[: drawn.get_ydata().size], rtol=1e-6)
    assert f"α = {fit.alpha:.2f},\nk = {fit.xmin:.0f} to 100; verdict:" in said


def test_two_maps_have_one_scale(rng):
    first, last = (erdos_renyi(16, n, density=0.5, rng=rng) for n in (10, 30))
    limits = []
    for graph, other in ((first, last), (last, first)):
        ax = input_map(graph, compared_with=other, ax=Figure().add_subplot())
        limits.append(ax.images[0].get_clim())
    assert limits[0] == limits[1]


@pytest.mark.parametrize(("n_in", "n_out"), [(300, 300), (600, 200)])
def test_the_bulk_of_a_random_layer_is_that_of_marchenko_and_pastur(n_in, n_out, rng):
    graph = erdos_renyi(n_in, n_out, density=0.2, rng=rng)
    values = np.linalg.svd(graph.to_csr().toarray() - graph.density, compute_uv=False)
    np.testing.assert_allclose(random_bulk(graph), values, atol=0.03 * values[0])


def test_the_edge_of_the_bulk_is_the_sum_of_the_roots():
    # 40 x 90 at density one half: standard deviation 1/2, so values lie between
    # (sqrt(90) - sqrt(40)) / 2 and (sqrt(90) + sqrt(40)) / 2.
    graph = LayerGraph.from_edge_ids(np.arange(0, 3600, 2), (40, 90))
    bulk = random_bulk(graph)
    assert bulk.max() < 0.5 * 5 * np.sqrt(10) < 1.1 * bulk.max()
    assert bulk.min() > 0.5 * 1 * np.sqrt(10) > 0.8 * bulk.min()


def test_a_full_and_an_empty_layer_have_no_bulk():
    assert random_bulk(LayerGraph.from_edge_ids(range(6), (2, 3))).size == 0
    assert random_bulk(LayerGraph.from_edge_ids([], (2, 3))).size == 0


def test_only_the_first_two_singular_values_of_a_wide_layer_are_drawn(ax, rng):
    spectrum(erdos_renyi(1600, 1600, density=0.004, rng=rng), ax=ax)
    assert line(ax, "this graph, first two").get_ydata().size == 2


def test_a_hub_makes_no_bars_without_units(ax):
    ids = np.concatenate([np.arange(5000), [5000, 10_000]])  # degrees 5000, 1 and 1
    degree_histogram(LayerGraph.from_edge_ids(ids, (3, 5000)), ax=ax)
    assert [(bar.get_x() + 0.5, bar.get_height()) for bar in ax.patches] == [(1, 2), (5000, 1)]


@pytest.mark.parametrize("color", ["none", "#ffffff", (0, 0, 0, 0)])
def test_shades_on_transparent_axes_are_those_on_the_paper_behind(ax, color):
    ax.set_facecolor(color)
    ax.figure.set_facecolor(color)
    assert shade(ax, "#000000", 0.1) == "#e6e6e6"
    ax.figure.set_facecolor("#000000")
    assert shade(ax, "#000000", 0.1) == ("#e6e6e6" if color == "#ffffff" else "#000000")
