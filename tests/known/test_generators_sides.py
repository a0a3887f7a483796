"""Which side of a layer a choice of side concerns, and units drawn without preference."""

import numpy as np
import pytest

from topokit.generators import GENERATORS
from topokit.generators.sampling import even_degrees

SHAPE = (200, 300)  # n_in, n_out


def spread(degrees):
    """Standard deviation over that of a random side with as many edges."""
    return degrees.std() / np.sqrt(degrees.mean())


@pytest.mark.parametrize(
    ("family", "argument", "least"),
    [("chung_lu", "heavy", 2.0), ("preferential_attachment", "heavy", 2.0), ("hub", "side", 2.0)],
)
def test_the_side_named_has_the_uneven_degrees(family, argument, least):
    uneven = {}
    for side in ("fan_in", "fan_out"):
        graph = GENERATORS[family](
            *SHAPE, density=0.03, rng=np.random.default_rng(0), **{argument: side}
        )
        uneven[side] = spread(graph.fan_out), spread(graph.fan_in)
    assert uneven["fan_out"][0] > least > 1.3 > uneven["fan_out"][1]
    assert uneven["fan_in"][1] > least > 1.3 > uneven["fan_in"][0]


@pytest.mark.parametrize("family", ["chung_lu", "preferential_attachment"])
def test_by_default_both_sides_are_uneven(family):
    graph = GENERATORS[family](*SHAPE, density=0.03, rng=np.random.default_rng(0))
    assert min(spread(graph.fan_out), spread(graph.fan_in)) > 1.3


@pytest.mark.parametrize("shuffle", ["none", "fan_in", "fan_out", "both"])
def test_units_of_the_side_named_are_renumbered(shuffle):
    plain, graph = (
        GENERATORS["nested"](40, 40, density=0.3, rng=np.random.default_rng(0), shuffle=word)
        for word in ("none", shuffle)
    )
    for side in ("fan_in", "fan_out"):
        same = np.array_equal(getattr(graph, side), getattr(plain, side))
        assert same is (shuffle not in (side, "both"))
        assert np.array_equal(np.sort(getattr(graph, side)), np.sort(getattr(plain, side)))


def test_the_units_with_one_edge_more_are_drawn_without_preference():
    rng = np.random.default_rng(0)
    drawn = np.array([even_degrees(23, 10, rng) for _ in range(1000)])
    assert (drawn.sum(axis=1) == 23).all()
    assert (np.isin(drawn, [2, 3])).all()
    larger = (drawn == 3).sum(axis=0)
    assert np.abs(larger - 300).max() < 5 * np.sqrt(1000 * 0.3 * 0.7)
    together = ((drawn[:, 0] == 3) & (drawn[:, 1] == 3)).sum()  # 3/10 * 2/9 of all
    assert abs(together - 1000 / 15) < 5 * np.sqrt(1000 / 15)
