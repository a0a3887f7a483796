import numpy as np
import pytest

from topokit.generators import generate


def test_exactly_one_budget():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="exactly one of density and epsilon, got neither"):
        generate([4, 3], "erdos_renyi", rng=rng)
    with pytest.raises(ValueError, match=r"got density 0\.5 and epsilon 2"):
        generate([4, 3], "erdos_renyi", density=0.5, epsilon=2, rng=rng)


@pytest.mark.parametrize("epsilon", [-1, float("nan")])
def test_epsilon_is_not_negative(epsilon):
    with pytest.raises(ValueError, match="expected epsilon >= 0"):
        generate([4, 3], "erdos_renyi", epsilon=epsilon, rng=np.random.default_rng(0))


@pytest.mark.parametrize("widths", [[4], [], "43", 4])
def test_two_widths_at_least(widths):
    with pytest.raises(ValueError, match="expected at least two widths"):
        generate(widths, "erdos_renyi", density=0.5, rng=np.random.default_rng(0))


def test_epsilon_counts_edges_layer_by_layer():
    topology = generate([784, 1000, 10], "erdos_renyi", epsilon=13, rng=np.random.default_rng(0))
    assert [graph.n_edges for graph in topology.values()] == [23192, 10000]


def test_epsilon_is_the_budget_of_another_allocation():
    topology = generate(
        [784, 1000, 1000, 10],
        "erdos_renyi",
        epsilon=5,
        densities="uniform",
        rng=np.random.default_rng(0),
    )
    graphs = list(topology.values())
    assert sum(g.n_edges for g in graphs) == pytest.approx(5 * 1784 + 5 * 2000 + 5 * 1010, abs=2)
    assert graphs[0].density == pytest.approx(graphs[1].density, rel=1e-3)


def test_epsilon_beyond_all_edges_is_dense():
    topology = generate([6, 5], "biregular", epsilon=99, rng=np.random.default_rng(0))
    assert topology["fc1"].n_edges == 30
