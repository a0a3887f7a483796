import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.measures.spectral import (
    network_algebraic_connectivity,
    network_normalized_gap,
    network_spectral_gap,
)


def complete(n_out, n_in):
    return LayerGraph.from_edge_ids(range(n_out * n_in), (n_out, n_in))


def random_layer(n_out, n_in, density, rng):
    mask = rng.random((n_out, n_in)) < density
    return LayerGraph.from_edge_ids(np.flatnonzero(mask), (n_out, n_in))


def dense_answers(widths, blocks):
    starts = np.concatenate([[0], np.cumsum(widths)])
    a = np.zeros((starts[-1],) * 2)
    for (i, j), graph in blocks.items():
        b = graph.to_csr().toarray()
        a[starts[j] : starts[j + 1], starts[i] : starts[i + 1]] = b
        a[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] = b.T
    values = np.linalg.eigvalsh(a)
    degree = a.sum(0)
    mu = np.linalg.eigvalsh(np.diag(degree) - a)[1]
    keep = degree > 0
    n = a[keep][:, keep] / np.sqrt(np.outer(degree[keep], degree[keep]))
    return values[-1] - values[-2], 1 - np.linalg.eigvalsh(n)[-2], max(mu, 0)


@pytest.mark.parametrize("widths", [[9, 7, 5], [60, 80, 70, 10], [1, 90, 90]])
@pytest.mark.parametrize("density", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("skip", [None, (0, 2), (1, 3)])
def test_networks_agree_with_dense_linear_algebra(widths, density, skip):
    rng = np.random.default_rng(len(widths))
    blocks = {
        (i, i + 1): random_layer(widths[i + 1], widths[i], density, rng)
        for i in range(len(widths) - 1)
    }
    topology = {f"fc{i + 1}": graph for (i, _), graph in blocks.items()}
    skips = None
    if skip is not None and skip[1] < len(widths):
        skips = {skip: random_layer(widths[skip[1]], widths[skip[0]], 0.1, rng)}
        blocks |= skips
    got = [
        measure(topology, skips=skips)
        for measure in (
            network_spectral_gap,
            network_normalized_gap,
            network_algebraic_connectivity,
        )
    ]
    np.testing.assert_allclose(got, dense_answers(widths, blocks), atol=1e-8)


@pytest.mark.parametrize("n", [10, 90])
def test_dense_networks_have_closed_forms(n):
    three = {f"fc{i}": complete(n, n) for i in range(3)}
    exact = 2 * n * (np.cos(np.pi / 5) - np.cos(2 * np.pi / 5))
    assert network_spectral_gap(three) == pytest.approx(exact, abs=1e-8)
    assert network_algebraic_connectivity(three) == pytest.approx(n * (2 - np.sqrt(2)), abs=1e-8)
    assert network_spectral_gap({"fc1": complete(1, 1)}) == 1  # no other singular value
    two = {"fc1": complete(3, 4), "fc2": complete(2, 3)}
    assert network_spectral_gap(two) == pytest.approx(np.sqrt(18), abs=1e-10)
    assert network_algebraic_connectivity(two) == pytest.approx(3, abs=1e-10)


def test_skip_connections_mend_a_broken_network():
    rng = np.random.default_rng(0)
    empty = LayerGraph.from_edge_ids([], (5, 6))
    topology = {"fc1": complete(6, 4), "fc2": empty, "fc3": complete(3, 5)}
    assert network_algebraic_connectivity(topology) == 0
    assert network_normalized_gap(topology) == 0
    skips = {(0, 2): random_layer(5, 4, 1.0, rng)}
    assert network_algebraic_connectivity(topology, skips=skips) > 0
    assert network_normalized_gap(topology, skips=skips) > 0


@pytest.mark.parametrize("at", [(0, 1), (2, 0), (0, 9), (-1, 2)])
def test_skips_that_do_not_fit_are_named(at):
    topology = {"fc1": complete(6, 4), "fc2": complete(5, 6)}
    with pytest.raises(ValueError, match="expected skip connections from a block"):
        network_spectral_gap(topology, skips={at: complete(5, 4)})
