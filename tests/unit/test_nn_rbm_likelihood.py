"""Partition functions of Boltzmann machines: exact sums, estimates, and what must be refused."""

import itertools
import math

import numpy as np
import pytest
import torch

from topokit.graph import LayerGraph
from topokit.nn.rbm import (
    LogPartition,
    SparseRBM,
    _betas,
    _summary,
    annealed_log_partition,
    exact_log_partition,
    log_likelihood,
)


def machine(rng, n_hidden, n_visible, *, n_edges, deviation=1.0):
    ids = np.sort(rng.choice(n_hidden * n_visible, n_edges, replace=False))
    graph = LayerGraph.from_edge_ids(ids, (n_hidden, n_visible))
    rbm = SparseRBM(graph, deviation=deviation, rng=rng).double()
    with torch.no_grad():
        rbm.fc1.bias.copy_(torch.from_numpy(rng.standard_normal(n_hidden)))
        rbm.visible_bias.copy_(torch.from_numpy(rng.standard_normal(n_visible)))
    return rbm


def brute(rbm):
    """The log of the sum over every state of both sides, without any closed form."""
    n_out, n_in = rbm.fc1.graph.shape
    weight = rbm.fc1.to_dense().detach().numpy()
    bias, visible_bias = rbm.fc1.bias.detach().numpy(), rbm.visible_bias.detach().numpy()
    terms = [
        np.dot(visible_bias, v) + np.dot(bias, h) + np.dot(h, weight @ v)
        for v in itertools.product((0, 1), repeat=n_in)
        for h in itertools.product((0, 1), repeat=n_out)
    ]
    return np.logaddexp.reduce(terms)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 1), (4, 4)])
def test_the_exact_sum_is_the_sum_over_all_states(rng, shape):
    rbm = machine(rng, *shape, n_edges=shape[0] * shape[1] * 2 // 3)
    assert exact_log_partition(rbm) == pytest.approx(brute(rbm), abs=1e-10)


def test_the_exact_sum_does_not_depend_on_the_block(rng, monkeypatch):
    rbm = machine(rng, 7, 9, n_edges=20)
    whole = exact_log_partition(rbm)
    monkeypatch.setattr("topokit.nn.rbm.STATES_PER_BLOCK", 48)
    assert exact_log_partition(rbm) == pytest.approx(whole, abs=1e-12)


def test_likelihoods_of_all_states_sum_to_one(rng):
    rbm = machine(rng, 3, 4, n_edges=7)
    log_z = exact_log_partition(rbm)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    total = sum(math.exp(log_likelihood(rbm, state[None], log_z)) for state in states)
    assert total == pytest.approx(1)
    mean = np.mean([log_likelihood(rbm, state[None], log_z) for state in states])
    assert log_likelihood(rbm, states, log_z) == pytest.approx(mean)


def test_annealing_a_machine_without_edges_is_exact(rng):
    rbm = machine(rng, 3, 6, n_edges=0)
    data = torch.from_numpy(rng.integers(2, size=(50, 6))).double()
    generator = torch.Generator().manual_seed(0)
    estimate = annealed_log_partition(rbm, data, runs=400, betas=500, generator=generator)
    exact = exact_log_partition(rbm)
    assert estimate.log_z == pytest.approx(exact, abs=0.02)
    assert estimate.low < exact < estimate.high


def test_one_generator_state_gives_one_estimate(rng):
    rbm = machine(rng, 5, 6, n_edges=12)
    data = torch.from_numpy(rng.integers(2, size=(9, 6))).double()
    made = [
        annealed_log_partition(
            rbm,
            data,
            runs=7,
            betas=np.linspace(0, 1, 50),
            generator=torch.Generator().manual_seed(s),
        )
        for s in (1, 1, 2)
    ]
    assert made[0] == made[1] != made[2]
    assert isinstance(made[0], LogPartition)
    assert 1 <= made[0].effective_runs <= 7
    assert 1 / 7 <= made[0].largest_share <= 1


def test_the_shares_of_known_weights():
    found = _summary(np.log([1.0, 2.0, 5.0]), 0.5)
    assert found.log_z == pytest.approx(0.5 + math.log(8 / 3))
    assert found.largest_share == pytest.approx(5 / 8)
    assert found.effective_runs == pytest.approx(64 / 30)


def test_a_single_run_has_no_interval(rng):
    rbm = machine(rng, 2, 3, n_edges=4)
    estimate = annealed_log_partition(
        rbm, torch.ones(4, 3), runs=1, betas=20, generator=torch.Generator().manual_seed(1)
    )
    assert math.isfinite(estimate.log_z)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_large_machines_cannot_be_enumerated(rng):
    rbm = machine(rng, 25, 30, n_edges=40)
    with pytest.raises(ValueError, match=r"at most 24 visible or hidden units .* got 30 and 25"):
        exact_log_partition(rbm)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, "expected at least 1 run, got 0"),
        ({"betas": 1}, "expected at least 2 betas, got 1"),
        ({"betas": [0.0, 0.5]}, "expected betas that increase from 0 to 1"),
        ({"betas": [0.0, 0.6, 0.5, 1.0]}, "expected betas that increase from 0 to 1"),
        ({"betas": [1.0]}, "expected betas that increase from 0 to 1"),
    ],
)
def test_bad_options_are_refused(rng, options, message):
    rbm = machine(rng, 2, 3, n_edges=4)
    with pytest.raises(ValueError, match=message):
        annealed_log_partition(rbm, torch.ones(4, 3), generator=torch.Generator(), **options)


@pytest.mark.parametrize("count", [2, 3, 10, 29, 14_500])
def test_spread_betas_rise_from_0_to_1(rng, count):
    betas = _betas(count)
    assert len(betas) == count
    assert betas[0] == 0
    assert betas[-1] == 1
    assert min(np.diff(betas)) > 0
