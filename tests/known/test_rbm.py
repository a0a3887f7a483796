"""Gradients and likelihoods against exact answers, on machines small enough to enumerate."""

import itertools

import numpy as np
import pytest
import torch

from tests.marks import fast_where
from topokit.data import load_data
from topokit.graph import LayerGraph
from topokit.nn.engine import attach
from topokit.nn.rbm import SparseRBM, annealed_log_partition, exact_log_partition, log_likelihood

EDGES = [0, 2, 3, 5, 6, 9, 11]  # of the 12 cells of 4 visible and 3 hidden units
SAMPLES = 200_000


def states(n):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64)


def machine(rng, *, edges=EDGES, **options):
    rbm = SparseRBM(
        LayerGraph.from_edge_ids(edges, (3, 4)), deviation=1.0, rng=rng, **options
    ).double()
    with torch.no_grad():
        rbm.fc1.bias.copy_(torch.from_numpy(rng.standard_normal(3)))
        rbm.visible_bias.copy_(torch.from_numpy(rng.standard_normal(4)))
    return rbm


def parts(rbm):
    """Weight matrix and biases, written out by hand."""
    weight = torch.zeros(12, dtype=torch.float64)
    weight[rbm.fc1.graph.edge_ids] = rbm.fc1.values.detach()
    return weight.view(3, 4), rbm.visible_bias.detach(), rbm.fc1.bias.detach()


def transition(rbm):
    """(16, 16) probabilities of a Gibbs step from one visible state to another."""
    weight, a, c = parts(rbm)
    visible, hidden = states(4), states(3)
    up, down = torch.sigmoid(visible @ weight.t() + c), torch.sigmoid(hidden @ weight + a)
    to_hidden = (up[:, None] * hidden + (1 - up[:, None]) * (1 - hidden)).prod(dim=2)
    to_visible = (down[:, None] * visible + (1 - down[:, None]) * (1 - visible)).prod(dim=2)
    return to_hidden @ to_visible


def gradients(rbm, data, model):
    """Gradients, one after another, from weights of the 16 visible states in both phases."""
    (weight, _, c), ids = parts(rbm), rbm.fc1.graph.edge_ids
    visible = states(4)
    hidden = torch.sigmoid(visible @ weight.t() + c)
    difference = model - data
    return torch.cat(
        [
            torch.einsum("s,sj,si->ji", difference, hidden, visible).reshape(-1)[ids],
            difference @ hidden,
            difference @ visible,
        ]
    )


def flat(rbm):
    grads = (rbm.fc1.values.grad, rbm.fc1.bias.grad, rbm.visible_bias.grad)
    return torch.cat([g.reshape(-1) for g in grads])


@pytest.mark.parametrize("edges", [EDGES, list(range(12))], ids=["sparse", "complete"])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_the_mean_gradient_of_cd_is_the_exact_one(rng, steps, edges):
    generator = torch.Generator().manual_seed(11)
    rbm = machine(rng, edges=edges, cd_steps=steps, generator=generator)
    start = torch.zeros(16, dtype=torch.float64)
    start[[3, 9, 14]] = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    exact = gradients(rbm, start, start @ torch.linalg.matrix_power(transition(rbm), steps))
    counts = (start * SAMPLES).round().long()
    rbm.batch_loss(states(4).repeat_interleave(counts, dim=0)).backward()
    # each entry is a mean of SAMPLES independent numbers in [0, 1]: its deviation is at most this
    bound = 0.5 / np.sqrt(SAMPLES)
    assert float((flat(rbm) - exact).abs().max()) < 4 * bound
    assert float(exact.abs().max()) > 40 * bound


def test_a_gibbs_step_has_the_exact_transition_probabilities(rng):
    rbm = machine(rng)
    places = 2 ** torch.arange(3, -1, -1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    for start in (0, 5, 15):
        before = states(4)[start].expand(SAMPLES, 4)
        after = rbm.gibbs(before, steps=1, generator=generator) @ places
        counts = torch.bincount(after.long(), minlength=16).double()
        exact = transition(rbm)[start] * SAMPLES
        statistic = float(((counts - exact).square() / exact).sum())
        assert statistic < 37.7  # the 0.999 quantile of chi-squared with 15 degrees of freedom


@pytest.mark.slow
def test_long_chains_give_the_gradient_of_the_likelihood(rng):
    """With the model's own distribution as negative phase the gradient is that of -log p."""
    rbm = machine(rng, cd_steps=5, persistent=True, chains=SAMPLES)
    rbm.generator.manual_seed(4)
    data = states(4)[[3, 9, 14]]
    for _ in range(12):
        rbm.zero_grad()
        rbm.batch_loss(data).backward()
    estimate = flat(rbm)
    rbm.zero_grad()
    log_z = torch.logsumexp(-rbm.free_energy(states(4)), dim=0)
    (rbm.free_energy(data).mean() + log_z).backward()
    assert float((estimate - flat(rbm)).abs().max()) < 4 * 0.5 / np.sqrt(SAMPLES)


def test_the_gibbs_chain_leaves_the_model_distribution_alone(rng):
    rbm = machine(rng)
    model = torch.softmax(-rbm.free_energy(states(4)).detach(), dim=0)
    torch.testing.assert_close(model @ transition(rbm), model)


class TestAnnealedImportanceSampling:
    """Within 0.1 nat of the exact answer, and the interval covers it."""

    @pytest.mark.parametrize("seed", range(2))
    @pytest.mark.parametrize(
        ("n_visible", "n_hidden", "n_edges", "deviation"),
        fast_where(
            lambda n_visible, *_: n_visible == 12,
            [(12, 10, 40, 1.0), (30, 12, 120, 0.7), (8, 20, 160, 0.5), (100, 16, 300, 0.5)],
        ),
    )
    def test_random_machines(self, n_visible, n_hidden, n_edges, deviation, seed):
        rng = np.random.default_rng(seed)
        ids = np.sort(rng.choice(n_hidden * n_visible, n_edges, replace=False))
        graph = LayerGraph.from_edge_ids(ids, (n_hidden, n_visible))
        rbm = SparseRBM(graph, deviation=deviation, rng=rng)
        with torch.no_grad():
            rbm.visible_bias.copy_(torch.from_numpy(rng.standard_normal(n_visible)))
        data = torch.from_numpy(rng.integers(2, size=(200, n_visible))).float()
        draws = torch.Generator().manual_seed(seed)
        found = annealed_log_partition(rbm, data, runs=100, betas=1000, generator=draws)
        assert abs(found.log_z - exact_log_partition(rbm)) < 0.1

    @pytest.mark.slow
    @pytest.mark.parametrize("persistent", [False, True])
    def test_a_machine_trained_on_digits(self, persistent):
        data = load_data("digits", rng=np.random.default_rng(0))
        x = torch.from_numpy(data.x_train)
        rng = np.random.default_rng(1)
        ids = np.sort(rng.choice(64 * 14, 300, replace=False))
        rbm = SparseRBM(
            LayerGraph.from_edge_ids(ids, (14, 64)), persistent=persistent, chains=50, rng=rng
        )
        optimizer = torch.optim.SGD(rbm.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-4)
        engine = attach(rbm, optimizer, "set", every=27, total=27 * 15, rng=rng)
        before = log_likelihood(rbm, x, exact_log_partition(rbm))
        for _ in range(15):
            for batch in x[torch.from_numpy(rng.permutation(len(x)))].split(50):
                optimizer.zero_grad()
                rbm.batch_loss(batch).backward()
                optimizer.step()
        assert engine.updates == 14
        log_z = exact_log_partition(rbm)
        after = log_likelihood(rbm, x, log_z)
        assert before == pytest.approx(-64 * np.log(2), rel=0.05)
        assert after > before + 15
        draws = torch.Generator().manual_seed(5)
        found = annealed_log_partition(rbm, x, runs=100, betas=1000, generator=draws)
        assert abs(found.log_z - log_z) < 0.1
        assert found.low < log_z < found.high
        test = torch.from_numpy(data.x_test)
        exact = log_likelihood(rbm, test, log_z)
        assert abs(log_likelihood(rbm, test, found.log_z) - exact) < 0.1
