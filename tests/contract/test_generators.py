"""Promises of every generator and of every allocation; no family is named here."""

import inspect
from pathlib import Path

import numpy as np
import pytest

import topokit
from topokit.generators import DENSITIES, GENERATORS, describe, generate
from topokit.generators.provenance import guarantee_of
from topokit.graph import LayerGraph, same_edges
from topokit.graph.convert import channel_graph, unrolled_graph
from topokit.tables import parameters_of

EVERY = pytest.mark.parametrize("name", GENERATORS)
SIZES = [(64, 10), (10, 64), (1, 17), (17, 1), (1, 1), (30, 30)]
LARGE = [(784, 1000), (1000, 784)]
SHARES = [0.0, 2e-5, 0.003, 0.01, 0.1, 0.6, 1.0]


def guarantee(name):
    return guarantee_of(GENERATORS[name])


def check(name, n_in, n_out, density, times=2):
    function = GENERATORS[name]
    graph, *again = (
        function(n_in, n_out, density=density, rng=np.random.default_rng(5)) for _ in range(times)
    )
    assert isinstance(graph, LayerGraph)
    assert graph.shape == (n_out, n_in)
    assert all(same_edges(graph, other) for other in again)
    if "exact number of edges" in guarantee(name):
        assert graph.n_edges == round(density * n_in * n_out)
    elif "at most" in guarantee(name):
        assert graph.n_edges <= round(density * n_in * n_out)
    return graph


@EVERY
@pytest.mark.parametrize("size", SIZES)
def test_small_sizes_at_every_density(name, size):
    for density in SHARES:
        check(name, *size, density)


@EVERY
@pytest.mark.parametrize("size", LARGE)
@pytest.mark.slow
def test_layer_sizes_of_the_papers(name, size):
    check(name, *size, 0.01)
    check(name, *size, 0.1, times=1)


@EVERY
@pytest.mark.slow
def test_dense_and_wide_layers(name):
    check(name, 392, 500, 0.6, times=1)
    check(name, 1000, 784, 2e-5)
    check(name, 3072, 4000, 0.01, times=1)


@EVERY
def test_another_seed_gives_another_graph(name):
    function = GENERATORS[name]
    graphs = [function(90, 110, density=0.1, rng=np.random.default_rng(seed)) for seed in range(4)]
    different = [not same_edges(graphs[0], graph) for graph in graphs[1:]]
    assert any(different) == ("deterministic" not in guarantee(name))


@EVERY
def test_global_random_state_is_neither_read_nor_moved(name):
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    graph = GENERATORS[name](40, 30, density=0.1, rng=np.random.default_rng(0))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    again = GENERATORS[name](40, 30, density=0.1, rng=np.random.default_rng(0))
    assert same_edges(graph, again)


@EVERY
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"density": 1.5}, ValueError, r"expected density in \[0, 1\].*got 1.5"),
        ({"density": -0.1}, ValueError, r"expected density in \[0, 1\].*got -0.1"),
        ({"density": float("nan")}, ValueError, r"expected density in \[0, 1\].*got nan"),
        ({"density": "a tenth"}, ValueError, r"expected density in \[0, 1\].*got 'a tenth'"),
        ({"n_in": 0}, ValueError, "expected positive integers n_in and n_out, got n_in 0"),
        ({"n_out": 2.5}, ValueError, "expected positive integers n_in and n_out"),
        (
            {"rng": "3"},
            TypeError,
            "expected rng to be a numpy.random.Generator or an integer seed.*got str",
        ),
    ],
)
def test_wrong_arguments(name, change, error, message):
    arguments = {"n_in": 8, "n_out": 6, "density": 0.5, "rng": np.random.default_rng(0), **change}
    with pytest.raises(error, match=message):
        GENERATORS[name](**arguments)


@EVERY
def test_signature_and_documentation(name):
    function = GENERATORS[name]
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:2] == ["n_in", "n_out"]
    assert all(parameters[k].kind is inspect.Parameter.KEYWORD_ONLY for k in ("density", "rng"))
    for parameter in parameters_of(function).values():
        assert parameter.default is not inspect.Parameter.empty
    doc = inspect.getdoc(function)
    for part in ("Parameters", "Returns", "Notes", "References", "Examples"):
        assert f"\n{part}\n-----" in doc, part
    for line in ("Guarantee:", "Cost:"):
        assert any(x.startswith(line) for x in doc.splitlines()), line
    for parameter in parameters:
        assert parameter in doc


@EVERY
def test_whole_networks(name):
    widths = [64, 81, 30, 10]
    topology = generate(widths, name, density=0.2, rng=np.random.default_rng(1))
    again = generate(widths, name, density=0.2, rng=np.random.default_rng(1))
    assert list(topology) == ["fc1", "fc2", "fc3"]
    for i, layer in enumerate(topology):
        assert topology[layer].shape == (widths[i + 1], widths[i])
        assert same_edges(topology[layer], again[layer])


@EVERY
def test_the_error_for_an_unknown_parameter_lists_the_valid_ones(name):
    with pytest.raises(ValueError, match=f"unknown parameter 'colour' of generator '{name}'"):
        generate([4, 3], name, density=0.5, rng=np.random.default_rng(0), colour="red")


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("density", [0.0, 0.001, 0.02, 0.1, 0.5, 0.9, 1.0])
def test_allocations_meet_the_budget(name, density):
    shapes = [(300, 784), (100, 300), (10, 100), (1, 10)]
    shares = DENSITIES[name](shapes, density=density)
    sizes = [a * b for a, b in shapes]
    assert all(0 <= p <= 1 for p in shares)
    total = sum(p * n for p, n in zip(shares, sizes, strict=True))
    assert total == pytest.approx(density * sum(sizes), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("name", DENSITIES)
def test_allocations_refuse_a_wrong_density(name):
    with pytest.raises(ValueError, match=r"expected density in \[0, 1\].*got 2"):
        DENSITIES[name]([(3, 4)], density=2)


def test_the_error_for_an_unknown_name_gives_the_nearest():
    rng = np.random.default_rng(0)
    nearest = next(iter(GENERATORS))
    with pytest.raises(ValueError, match=f"unknown generator '{nearest}x'.*did you mean"):
        generate([4, 3], nearest + "x", density=0.5, rng=rng)
    with pytest.raises(ValueError, match=r"unknown allocation 'erkk'.*did you mean 'erk'"):
        generate([4, 3], nearest, density=0.5, densities="erkk", rng=rng)


@EVERY
def test_convolutions_have_the_graph_of_their_channels_or_of_all_kernel_cells(name):
    draw, kernel = GENERATORS[name], 9
    channels = draw(16, 24, density=0.25, rng=np.random.default_rng(2))
    repeated = unrolled_graph(channels, kernel)
    assert repeated.shape == (24, 16 * kernel)
    assert repeated.n_edges == channels.n_edges * kernel
    assert same_edges(channel_graph(repeated, kernel), channels)
    cells = draw(16 * kernel, 24, density=0.25, rng=np.random.default_rng(2))
    assert cells.shape == repeated.shape
    assert set(channel_graph(cells, kernel).fan_in) <= set(range(17))


@EVERY
def test_a_graph_knows_its_family_and_parameters(name):
    graph = GENERATORS[name](30, 40, density=0.1, rng=np.random.default_rng(0))
    facts = describe(graph)
    assert facts.family == name
    assert facts.params == {
        key: parameter.default for key, parameter in parameters_of(GENERATORS[name]).items()
    }
    assert facts.guarantee == guarantee(name)
    assert facts.requested_edges == 120
    assert facts.components >= 1
    assert facts.fan_in[0] == graph.fan_in.min()
    assert 0 <= facts.sigma_2 <= facts.sigma_1


@EVERY
def test_orders_only_shuffle_units(name):
    if "shuffle" not in parameters_of(GENERATORS[name]):
        pytest.skip("no order to shuffle")
    for shuffle in ("none", "fan_in", "fan_out", "both"):
        graph = GENERATORS[name](40, 50, density=0.2, shuffle=shuffle, rng=np.random.default_rng(1))
        assert graph.shape == (50, 40)
        assert describe(graph).params["shuffle"] == shuffle
    with pytest.raises(ValueError, match="shuffle to be one of none, fan_in, fan_out, both, got"):
        GENERATORS[name](40, 50, density=0.2, shuffle="all", rng=np.random.default_rng(1))


@EVERY
@pytest.mark.parametrize(
    ("old", "new"), [("in", "input units is called 'fan_out'"), ("out", "output .* 'fan_in'")]
)
def test_the_error_for_an_old_name_of_a_side_gives_the_new_one(name, old, new):
    words = {"shuffle", "heavy", "side"} & set(parameters_of(GENERATORS[name]))
    for word in words:
        with pytest.raises(ValueError, match=f"expected {word} to be one of .*{new}"):
            GENERATORS[name](40, 50, density=0.2, rng=0, **{word: old})


@EVERY
def test_parameters_that_are_no_number_are_refused(name):
    for key, parameter in parameters_of(GENERATORS[name]).items():
        if isinstance(parameter.default, float):
            with pytest.raises(ValueError, match=r"got .*nan"):
                GENERATORS[name](40, 50, density=0.2, rng=0, **{key: float("nan")})


@pytest.mark.parametrize(
    ("name", "key"), [("preferential_attachment", "attractiveness"), ("block", "ratio")]
)
def test_parameters_without_a_limit_are_finite(name, key):
    """An infinite attractiveness would attach by degree alone, the reverse of a large one."""
    with pytest.raises(ValueError, match=r"finite.*got .*inf"):
        GENERATORS[name](40, 50, density=0.2, rng=0, **{key: float("inf")})


def test_the_catalogue_shows_what_families_guarantee_today():
    page = Path(topokit.__file__).parent.parent / "figures/TOPOLOGIES.md"
    rows = [line.split(" | ") for line in page.read_text(encoding="utf-8").splitlines()]
    shown = {row[0].removeprefix("| "): row[1] for row in rows if len(row) == 3}
    assert {name: shown.get(name) for name in GENERATORS} == {
        name: guarantee(name) for name in GENERATORS
    }
