"""Standard deviations of grown edges' values, as papers and authors' code have them."""

import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.rules.init import INITS
from topokit.rules.rewire import LayerView

GRAPH = LayerGraph.from_edge_ids(range(0, 60, 2), (6, 10))  # mean fan-in 5, mean fan-out 3


@pytest.mark.parametrize(
    ("name", "scale", "uniform"),
    [
        ("he", np.sqrt(2 / 5), False),
        ("glorot", np.sqrt(2 / 8), True),
        ("glorot_dense_uniform", np.sqrt(2 / 16), True),
        ("normal", 0.1, False),
        ("normal_rbm", 0.05, False),
        ("he_uniform", np.sqrt(2 / 10), True),
        ("he_normal", np.sqrt(2 / 10), False),
    ],
)
def test_scale_and_law(name, scale, uniform):
    view = LayerView(GRAPH, np.ones(GRAPH.n_edges))
    drawn = INITS[name](view, np.arange(100_000), np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(0, abs=0.02 * scale)
    assert drawn.std() == pytest.approx(scale, rel=0.01)
    assert np.abs(drawn).max() / scale == pytest.approx(3**0.5 if uniform else 4.4, rel=0.1)
