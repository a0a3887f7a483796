import numpy as np
import pytest

from topokit.generators import (
    DENSITIES,
    GENERATORS,
    NETWORKS,
    generate,
    graph_with_degrees,
    randomized_twin,
    switched_twin,
)
from topokit.generators.density import layer_densities, shapes_of

WIDTHS = [64, 64, 64, 10]


def test_exactly_one_budget():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="exactly one of density and epsilon, got neither"):
        generate([4, 3], "erdos_renyi", rng=rng)
    with pytest.raises(ValueError, match=r"got density 0\.5 and epsilon 2"):
        generate([4, 3], "erdos_renyi", density=0.5, epsilon=2, rng=rng)


def test_a_list_of_densities_is_a_budget_by_itself():
    rng = np.random.default_rng(0)
    topology = generate([8, 6, 5], "biregular", densities=np.array([0.25, 1]), rng=rng)
    assert [graph.n_edges for graph in topology.values()] == [12, 30]
    with pytest.raises(ValueError, match=r"a list of densities alone, got density 0\.5 with it"):
        generate([8, 6, 5], "biregular", density=0.5, densities=[0.5, 0.5], rng=rng)
    with pytest.raises(ValueError, match="expected one density for each of 2 layers, got 3"):
        generate([8, 6, 5], "biregular", densities=[0.5, 0.5, 0.5], rng=rng)
    with pytest.raises(ValueError, match=r"expected each of densities in \[0, 1\] .* got 2"):
        generate([8, 6, 5], "biregular", densities=[0.5, 2], rng=rng)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_depend_on_each_other_whatever_the_form_of_the_budget(name):
    one = generate(WIDTHS, name, density=0.125, rng=np.random.default_rng(0))
    each = generate(WIDTHS, name, densities=[0.125] * 3, rng=np.random.default_rng(0))
    assert one == each
    alone = GENERATORS[name](64, 64, density=0.125, rng=np.random.default_rng(0))
    assert each["fc1"] == alone
    assert each["fc2"] != alone  # the stride of the second layer is 8, not 1
    assert each["fc2"] == GENERATORS[name](64, 64, density=0.125, stride=8, rng=0)


@pytest.mark.parametrize("densities", [None, *DENSITIES])
@pytest.mark.parametrize("budget", [{"epsilon": 2.0}, {"density": 0.2}])
def test_the_densities_of_layers_are_those_of_the_graphs(budget, densities, rng):
    shares = layer_densities(shapes_of([20, 30, 25, 4]), **budget, densities=densities)
    topology = generate([20, 30, 25, 4], "erdos_renyi", **budget, densities=densities, rng=rng)
    for share, graph in zip(shares, topology.values(), strict=True):
        assert graph.density == pytest.approx(share, abs=1 / (graph.n_in * graph.n_out))


@pytest.mark.parametrize("seed", [0, 7, np.int64(7), np.uint32(7)])
def test_an_integer_is_a_seed(seed):
    def generator():
        return np.random.default_rng(int(seed))

    for name, family in GENERATORS.items():
        assert family(20, 30, density=0.2, rng=seed) == family(
            20, 30, density=0.2, rng=generator()
        ), name
    assert generate([9, 8, 7], "biregular", density=0.5, rng=seed) == generate(
        [9, 8, 7], "biregular", density=0.5, rng=generator()
    )
    graph = GENERATORS["chung_lu"](20, 30, density=0.2, rng=seed)
    for chain in (randomized_twin, switched_twin):
        assert chain(graph, rng=seed) == chain(graph, rng=generator())
    drawn = graph_with_degrees(graph.fan_in, graph.fan_out, rng=seed)
    assert drawn == graph_with_degrees(graph.fan_in, graph.fan_out, rng=generator())


@pytest.mark.parametrize("wrong", [None, True, 1.5, "seed"])
def test_other_kinds_of_seed_are_refused(wrong):
    for draw in (
        lambda: GENERATORS["biregular"](5, 4, density=0.5, rng=wrong),
        lambda: generate([5, 4], "biregular", density=0.5, rng=wrong),
        lambda: randomized_twin(GENERATORS["biregular"](5, 4, density=0.5, rng=0), rng=wrong),
    ):
        with pytest.raises(TypeError, match="or an integer seed such as 0, got"):
            draw()


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


@pytest.mark.parametrize("wrong", [0.3, {"fc1": 0.1, "fc2": 0.2}])
def test_densities_that_are_no_list(wrong, rng):
    with pytest.raises(TypeError, match="densities: expected a list with one for each of 2 layers"):
        generate([20, 10, 5], "erdos_renyi", densities=wrong, rng=rng)
