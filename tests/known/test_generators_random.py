"""Expected counts and degree moments of the random families."""

import numpy as np
import pytest

from topokit.generators import GENERATORS


def dispersion(degrees):
    return np.var(degrees) / np.mean(degrees)


@pytest.mark.parametrize(
    ("n_in", "n_out", "epsilon", "distinct"),
    [(784, 1000, 13, 22852), (1000, 10, 13, 7310), (784, 1000, 20, 34880), (1000, 10, 20, 8674)],
)
def test_set_sampler_loses_the_published_number_of_edges(n_in, n_out, epsilon, distinct):
    cells = n_in * n_out
    darts = epsilon * (n_in + n_out)
    drawn = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        if darts <= cells:
            graph = GENERATORS["set_sampler"](n_in, n_out, density=darts / cells, rng=rng)
            drawn.append(graph.n_edges)
        else:
            drawn.append(np.unique(rng.integers(0, cells, darts)).size)
    assert np.mean(drawn) == pytest.approx(distinct, abs=5 * np.sqrt(cells * 0.01 / 30) + 5)


def test_exact_erdos_renyi_has_hypergeometric_degrees():
    values = [
        dispersion(
            GENERATORS["erdos_renyi"](
                784, 1000, density=0.01, rng=np.random.default_rng(seed)
            ).fan_out
        )
        for seed in range(150)
    ]
    assert np.mean(values) == pytest.approx(0.98874, abs=4 * np.std(values) / np.sqrt(150))


def test_bernoulli_counts_are_binomial():
    draw = GENERATORS["erdos_renyi_bernoulli"]
    counts = [
        draw(60, 50, density=0.2, rng=np.random.default_rng(seed)).n_edges for seed in range(400)
    ]
    assert np.mean(counts) == pytest.approx(600, abs=4 * np.sqrt(480 / 400))
    assert np.var(counts) == pytest.approx(480, rel=0.3)


@pytest.mark.parametrize(
    ("name", "side"), [("fixed_fan_in", "fan_in"), ("fixed_fan_out", "fan_out")]
)
@pytest.mark.parametrize("density", [0.01, 0.3, 0.62, 0.9])
def test_one_side_is_exact_and_the_other_binomial(name, side, density):
    graph = GENERATORS[name](400, 500, density=density, rng=np.random.default_rng(0))
    assert np.ptp(getattr(graph, side)) <= 1
    other = graph.fan_out if side == "fan_in" else graph.fan_in
    assert dispersion(other) == pytest.approx(1 - density, abs=0.3 * (1 - density))


def test_subsets_of_a_row_are_equally_likely():
    counts = {}
    for seed in range(1200):
        graph = GENERATORS["fixed_fan_in"](4, 1, density=0.5, rng=np.random.default_rng(seed))
        key = tuple(graph.indices.tolist())
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 6
    assert sum((c - 200) ** 2 / 200 for c in counts.values()) < 20.5
