"""Generators that promise it draw every graph equally often: all graphs counted, chi-squared."""

import itertools

import numpy as np
import pytest
from scipy.stats import chisquare

from topokit.generators import GENERATORS, graph_with_degrees, randomized_twin
from topokit.generators.degrees import switched_twin
from topokit.graph import LayerGraph, sample_absent

LEVEL = 1e-4  # of each test; a bias of a fifth has a p-value below 1e-10


def graphs_with(fan_in, fan_out):
    """All graphs with these degrees, as tuples of edge ids."""
    n = len(fan_out)
    rows = [list(itertools.combinations(range(n), k)) for k in fan_in]
    found = []
    for choice in itertools.product(*rows):
        if np.bincount([j for row in choice for j in row], minlength=n).tolist() == list(fan_out):
            found.append(tuple(i * n + j for i, row in enumerate(choice) for j in row))
    return found


def p_uniform(draw, graphs, size):
    """p-value of the counts of the graphs among so many draws."""
    counts = dict.fromkeys(graphs, 0)
    for _ in range(size):
        counts[tuple(draw().edge_ids.tolist())] += 1
    return chisquare(list(counts.values())).pvalue


DEGREES = [
    ([1, 1, 1], [1, 1, 1]),
    ([2, 2, 1], [2, 2, 1]),
    ([1, 2, 3], [2, 2, 1, 1]),
    ([3, 3, 1, 1], [3, 2, 2, 1]),  # nearly nested
    ([4, 3, 1, 1], [3, 3, 2, 1]),  # two graphs, one swap apart
]


@pytest.mark.parametrize(("fan_in", "fan_out"), DEGREES)
@pytest.mark.parametrize("name", ["graph_with_degrees", "randomized_twin", "switched_twin"])
def test_graphs_with_given_degrees(fan_in, fan_out, name):
    graphs = graphs_with(fan_in, fan_out)
    shape, rng = (len(fan_in), len(fan_out)), np.random.default_rng(1)
    first = LayerGraph.from_edge_ids(graphs[0], shape)
    draw = {
        "graph_with_degrees": lambda: graph_with_degrees(fan_in, fan_out, rng=rng),
        "randomized_twin": lambda: randomized_twin(first, rng=rng),
        "switched_twin": lambda: switched_twin(first, rng=rng),
    }[name]
    assert p_uniform(draw, graphs, 100 * len(graphs)) > LEVEL


@pytest.mark.slow
def test_biregular_and_configuration():
    rng = np.random.default_rng(2)
    graphs = graphs_with([2] * 4, [2] * 4)
    assert len(graphs) == 90
    make = GENERATORS["biregular"]
    assert p_uniform(lambda: make(4, 4, density=0.5, rng=rng), graphs, 4500) > LEVEL
    given = graphs_with([2, 2, 1], [2, 2, 1])
    degrees = {"fan_in": [2, 2, 1], "fan_out": [2, 2, 1]}
    configured = GENERATORS["configuration"]
    drawn = p_uniform(lambda: configured(3, 3, density=5 / 9, rng=rng, **degrees), given, 500)
    assert drawn > LEVEL
    # five edges: the larger degrees are at random units, and all their graphs equally likely
    uneven = [
        g
        for rows in {(2, 2, 1), (2, 1, 2), (1, 2, 2)}
        for columns in {(2, 2, 1), (2, 1, 2), (1, 2, 2)}
        for g in graphs_with(rows, columns)
    ]
    assert p_uniform(lambda: make(3, 3, density=5 / 9, rng=rng), uneven, 50 * len(uneven)) > LEVEL


def test_sets_of_edges():
    rng = np.random.default_rng(3)
    make = GENERATORS["erdos_renyi"]
    for n_edges in (2, 4):
        graphs = list(itertools.combinations(range(6), n_edges))
        density = n_edges / 6
        drawn = p_uniform(lambda d=density: make(3, 2, density=d, rng=rng), graphs, 1000)
        assert drawn > LEVEL
    some = LayerGraph.from_edge_ids([0, 4], (2, 4))
    free = list(itertools.combinations([1, 2, 3, 5, 6, 7], 3))
    counts = dict.fromkeys(free, 0)
    for _ in range(1000):
        counts[tuple(sample_absent(some, 3, rng).tolist())] += 1
    assert chisquare(list(counts.values())).pvalue > LEVEL


def test_set_sampler_draws_cells_with_replacement():
    """Three draws among four cells: distinct cells by their known probabilities."""
    rng, make = np.random.default_rng(4), GENERATORS["set_sampler"]
    expected: dict[tuple[int, ...], float] = {}
    for cells in itertools.product(range(4), repeat=3):
        key = tuple(sorted(set(cells)))
        expected[key] = expected.get(key, 0) + 1 / 64
    counts = dict.fromkeys(expected, 0)
    for _ in range(1500):
        counts[tuple(make(2, 2, density=0.75, rng=rng).edge_ids.tolist())] += 1
    frequencies = [1500 * p for p in expected.values()]
    assert chisquare(list(counts.values()), frequencies).pvalue > LEVEL
