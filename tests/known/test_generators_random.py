"""Expected counts and degree moments of the random families."""

import numpy as np
import pytest

from topokit.generators import GENERATORS
from topokit.generators.sampling import even_degrees
from topokit.measures import power_law_of


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


def test_the_larger_of_even_degrees_are_at_random_units():
    rng = np.random.default_rng(0)
    drawn = np.array([even_degrees(23, 6, rng) for _ in range(3000)])
    assert set(np.unique(drawn)) == {3, 4}
    assert (drawn.sum(axis=1) == 23).all()
    larger = (drawn == 4).sum(axis=0)  # five of six units in each draw, each unit equally often
    assert sum((larger - 2500) ** 2 / (3000 * 5 / 36)) * 5 / 6 < 20.5  # 0.1 %, 5 degrees of freedom


@pytest.mark.parametrize(("side", "n", "other"), [("fan_in", 60, 80), ("fan_out", 80, 60)])
def test_hubs_are_on_the_side_of_their_degrees(side, n, other):
    graph = GENERATORS["hub"](80, 60, density=0.1, hubs=3, side=side, rng=0)
    degrees = getattr(graph, side)
    assert degrees.size == n
    assert sorted(degrees)[-4:] == [sorted(degrees)[-4], other, other, other]
    assert sorted(degrees)[-4] < 8
    default = GENERATORS["hub"](80, 60, density=0.1, hubs=3, rng=0)
    assert (default.fan_out == 60).sum() == 3


@pytest.mark.parametrize("name", ["chung_lu", "preferential_attachment"])
@pytest.mark.parametrize(("heavy", "even"), [("fan_in", "fan_out"), ("fan_out", "fan_in")])
def test_the_heavy_side_is_the_one_that_is_named(name, heavy, even):
    graph = GENERATORS[name](400, 400, density=0.02, heavy=heavy, rng=0)
    assert dispersion(getattr(graph, heavy)) > 4
    assert dispersion(getattr(graph, even)) < 1.5


@pytest.mark.parametrize("side", ["fan_in", "fan_out"])
@pytest.mark.parametrize("attractiveness", [0.5, 1.0, 3.0])
def test_attachment_to_a_fixed_side_is_polyas_urn(side, attractiveness):
    """Degrees are about negative binomial: broad, but with no heavier tail."""
    sizes = (2000, 500) if side == "fan_in" else (500, 2000)
    found, verdicts = [], set()
    for seed in range(6):
        graph = GENERATORS["preferential_attachment"](
            *sizes, density=0.01, heavy=side, attractiveness=attractiveness, rng=seed
        )
        found.append(getattr(graph, side).var())
        verdicts.add(power_law_of(graph, side).verdict)
    # a little below the urn's, as no unit is joined twice
    assert np.mean(found) == pytest.approx(20 + 20**2 / attractiveness, rel=0.2)
    assert verdicts == {"broad"}


def test_shuffling_renumbers_the_units_of_the_named_side_only():
    draw = GENERATORS["nested"]  # in order its degrees fall on both sides
    for shuffle, sides in (
        ("none", ()),
        ("fan_in", ("fan_in",)),
        ("fan_out", ("fan_out",)),
        ("both", ("fan_in", "fan_out")),
    ):
        graph = draw(30, 40, density=0.4, shuffle=shuffle, rng=0)
        for side in ("fan_in", "fan_out"):
            assert (np.diff(getattr(graph, side)) <= 0).all() == (side not in sides), shuffle
