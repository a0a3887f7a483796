"""A restricted Boltzmann machine: energies, samples, gradients, and what must be refused."""

import copy
import io
import itertools
import math

import numpy as np
import pytest
import torch

from topokit.graph import EdgeUpdate, LayerGraph
from topokit.nn.engine import attach
from topokit.nn.models import MODELS
from topokit.nn.rbm import (
    SparseRBM,
    annealed_log_partition,
    log_likelihood,
    sample_units,
    set_rbm,
)
from topokit.rules.drop import smallest_magnitude
from topokit.rules.grow import uniform
from topokit.rules.rewire import UpdateRule

EDGES = [0, 2, 3, 5, 6, 9, 11]  # of 12


def small(rng, *, edges=EDGES, n_hidden=3, n_visible=4, **options):
    """An RBM in double precision with weights and biases far from zero."""
    graph = LayerGraph.from_edge_ids(edges, (n_hidden, n_visible))
    rbm = SparseRBM(graph, deviation=1.0, rng=rng, **options).double()
    with torch.no_grad():
        rbm.fc1.bias.copy_(torch.from_numpy(rng.standard_normal(n_hidden)))
        rbm.visible_bias.copy_(torch.from_numpy(rng.standard_normal(n_visible)))
    return rbm


def states(n):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64)


def test_free_energy_sums_the_energies_of_hidden_states(rng):
    rbm = small(rng)
    weight = rbm.fc1.to_dense()
    visible, hidden = states(4), states(3)
    energies = -(
        (visible @ rbm.visible_bias)[:, None]
        + (hidden @ rbm.fc1.bias)[None, :]
        + visible @ weight.t() @ hidden.t()
    )
    expected = -torch.logsumexp(-energies, dim=1)
    torch.testing.assert_close(rbm.free_energy(visible), expected)


@pytest.mark.parametrize("kernel", ["csr", "dense"])
def test_conditionals_are_those_of_the_dense_machine(rng, kernel):
    rbm = small(rng, kernel=kernel)
    weight = rbm.fc1.to_dense()
    visible, hidden = states(4), states(3)
    torch.testing.assert_close(rbm(visible), torch.sigmoid(visible @ weight.t() + rbm.fc1.bias))
    torch.testing.assert_close(
        rbm.visible_scores(hidden), (hidden @ weight + rbm.visible_bias).detach()
    )


def test_the_way_back_follows_a_rewiring(rng):
    rbm = small(rng)
    rbm.visible_scores(states(3))
    before = rbm.fc1.graph
    update = EdgeUpdate.from_decisions(before, dropped=[0, 3], grown=[1, 10])
    rbm.fc1.replace_graph(update, rng.standard_normal(7))
    expected = states(3) @ rbm.fc1.to_dense() + rbm.visible_bias
    torch.testing.assert_close(rbm.visible_scores(states(3)), expected.detach())


def test_the_value_of_the_loss_is_the_sampled_reconstruction_error(rng):
    rbm = small(rng, generator=torch.Generator().manual_seed(1))
    data = states(4)
    loss = rbm.batch_loss(data)
    again = torch.Generator().manual_seed(1)
    hidden = sample_units(rbm(data), generator=again)
    guess = torch.sigmoid(rbm.visible_scores(hidden))
    assert float(loss.detach()) == pytest.approx(float((guess - data).square().mean().detach()))
    assert loss.requires_grad


def test_gradients_are_the_difference_of_the_phases(rng):
    rbm = small(rng, generator=torch.Generator().manual_seed(5), persistent=True, chains=6)
    data = states(4)[3:8]
    rbm.batch_loss(data).backward()
    samples = rbm.chains
    positive = rbm(data).t() @ data / len(data)
    negative = rbm(samples).t() @ samples / len(samples)
    dense = (negative - positive).detach().reshape(-1)
    torch.testing.assert_close(rbm.fc1.values.grad, dense[EDGES])
    torch.testing.assert_close(rbm.visible_bias.grad, samples.mean(0) - data.mean(0))
    torch.testing.assert_close(
        rbm.fc1.bias.grad, (rbm(samples).mean(0) - rbm(data).mean(0)).detach()
    )


def test_the_captured_batch_gives_the_gradient_of_absent_edges(rng):
    rbm = small(rng)
    rbm.fc1.capture = True
    rbm.batch_loss(states(4)).backward()
    view = rbm.fc1.view()
    full = (view.output_grad.T @ view.inputs).reshape(-1)
    np.testing.assert_allclose(full[EDGES], rbm.fc1.values.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 2.0])
def test_rules_see_the_units_that_the_machine_learns_from(rng, threshold):
    rbm, seen = small(rng, threshold=threshold), []

    def grow(view, occupied, n, rng):
        seen.append(view)
        return uniform(view, occupied, n, rng)

    x = torch.from_numpy(rng.integers(0, 4, (7, 4)) / 1.0)  # counts
    optimizer = torch.optim.SGD(rbm.parameters(), lr=0.0)
    rule = UpdateRule(smallest_magnitude, grow, needs=("activations",))
    attach(rbm, optimizer, rule, every=1, samples=x, rng=rng)
    rbm.batch_loss(x).backward()
    outputs = rbm(rbm.binary(x)).detach().numpy()
    optimizer.step()
    assert np.array_equal(seen[0].inputs, rbm.binary(x).numpy())
    np.testing.assert_allclose(seen[0].outputs, outputs)


def test_reconstruction_error_draws_nothing(rng):
    rbm = small(rng)
    before = rbm.generator.get_state()
    errors = rbm.reconstruction_error(states(4))
    assert errors.shape == (16,)
    assert bool(((errors >= 0) & (errors <= 1)).all())
    assert torch.equal(errors, rbm.reconstruction_error(states(4)))
    assert torch.equal(before, rbm.generator.get_state())
    hidden = torch.sigmoid(states(4) @ rbm.fc1.to_dense().t() + rbm.fc1.bias)
    guess = torch.sigmoid(hidden @ rbm.fc1.to_dense() + rbm.visible_bias)
    torch.testing.assert_close(errors, (guess - states(4)).square().mean(1).detach())


def test_sampled_reconstruction_errors_are_those_of_the_loss(rng):
    rbm = small(rng, generator=torch.Generator().manual_seed(3))
    errors = rbm.reconstruction_error(states(4), generator=torch.Generator().manual_seed(3))
    loss = rbm.batch_loss(states(4)).detach()
    assert float(errors.mean()) == pytest.approx(float(loss))


def test_units_are_drawn_by_their_probabilities():
    chances = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]).expand(20_000, 5)
    drawn = sample_units(chances, generator=torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) == {0, 1}
    np.testing.assert_allclose(drawn.mean(0), chances[0], atol=4 * 0.5 / np.sqrt(20_000))
    assert drawn[:, 0].sum() == 0
    assert drawn[:, 4].sum() == 20_000


def test_data_are_cut_at_the_threshold_and_flattened(rng):
    rbm = small(rng, threshold=0.25)
    x = torch.tensor([[[0.0, 0.25], [0.3, 1.0]]])
    assert rbm.binary(x).tolist() == [[0, 0, 1, 1]]
    exact = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert torch.equal(rbm.reconstruction_error(x), rbm.reconstruction_error(exact))


def test_what_is_computed_from_nan_is_nan(rng):
    """Not what follows from a 0 in its place, as all comparisons with nan are false."""
    rbm = SparseRBM(LayerGraph.from_edge_ids([0, 5], (2, 3)), rng=rng)
    x = torch.tensor([[0.0, 1.0, math.nan], [0.0, 1.0, 1.0]])
    draws = torch.Generator().manual_seed(0)
    assert rbm.batch_loss(x).isnan()
    assert rbm.reconstruction_error(x).isnan().tolist() == [True, False]
    assert math.isnan(log_likelihood(rbm, x, 0.0))
    estimate = annealed_log_partition(rbm, x, runs=2, betas=3, generator=draws)
    assert all(math.isnan(number) for number in estimate)
    assert torch.equal(rbm.binary(x.bool().to(torch.uint8)), torch.tensor([[0.0, 1, 1], [0, 1, 1]]))


def test_one_seed_makes_one_training(rng):
    def trained():
        rbm = small(np.random.default_rng(7), cd_steps=2, persistent=True, chains=5)
        optimizer = torch.optim.SGD(rbm.parameters(), lr=0.1, momentum=0.9)
        engine = attach(rbm, optimizer, "set", every=3, rng=np.random.default_rng(1))
        for _ in range(8):
            optimizer.zero_grad()
            rbm.batch_loss(states(4)).backward()
            optimizer.step()
        assert engine.updates == 2
        return rbm

    one, two = trained().state_dict(), trained().state_dict()
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_rewiring_moves_momentum_with_its_edges(rng):
    rbm = small(rng)
    optimizer = torch.optim.SGD(rbm.parameters(), lr=0.1, momentum=0.9)
    rbm.batch_loss(states(4)).backward()
    optimizer.step()
    momentum = optimizer.state[rbm.fc1.values]["momentum_buffer"].clone()
    engine = attach(rbm, optimizer, "set", every=99, drop_fraction=0.4, rng=rng)
    values = rbm.fc1.values.detach().clone()
    update = engine.rewire()["fc1"]
    assert update.n_grown == update.n_dropped > 0
    kept = ~update.grown
    moved = optimizer.state[rbm.fc1.values]["momentum_buffer"]
    assert torch.equal(moved[kept], momentum[update.source[kept]])
    assert torch.equal(rbm.fc1.values.detach()[kept], values[update.source[kept]])
    assert not moved[~torch.from_numpy(kept)].any()


@pytest.mark.slow
def test_contrastive_divergence_learns_a_pattern(rng):
    graph = LayerGraph.from_edge_ids(range(0, 160, 3), (10, 16))
    rbm = SparseRBM(graph, rng=rng)
    prototypes = torch.from_numpy(rng.integers(2, size=(2, 16))).float()
    data = prototypes[torch.from_numpy(rng.integers(2, size=200))]
    optimizer = torch.optim.SGD(rbm.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    before = float(rbm.reconstruction_error(data).mean())
    for _ in range(100):
        for batch in data.split(20):
            optimizer.zero_grad()
            rbm.batch_loss(batch).backward()
            optimizer.step()
    assert before > 0.2
    assert float(rbm.reconstruction_error(data).mean()) < 0.02


def test_copies_and_saved_states_go_on_alike(rng):
    rbm = small(rng, persistent=True, chains=4)
    rbm.batch_loss(states(4))
    twin = copy.deepcopy(rbm)
    buffer = io.BytesIO()
    torch.save(rbm.state_dict(), buffer)
    buffer.seek(0)
    third = small(np.random.default_rng(3), persistent=True, chains=4)
    third.load_state_dict(torch.load(buffer, weights_only=True))
    third.generator.set_state(rbm.generator.get_state())
    values = {float(machine.batch_loss(states(4)).detach()) for machine in (rbm, twin, third)}
    assert len(values) == 1
    assert torch.equal(rbm.chains, twin.chains)
    assert torch.equal(rbm.chains, third.chains)


def test_without_persistence_there_are_no_chains(rng):
    rbm = small(rng)
    assert rbm.chains is None
    assert "chains" not in rbm.state_dict()


def test_no_edges_and_single_units_work(rng):
    rbm = SparseRBM(LayerGraph.from_edge_ids([], (1, 1)), rng=rng)
    loss = rbm.batch_loss(torch.ones(3, 1))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert rbm.fc1.values.grad.shape == (0,)


def test_set_rbm_is_in_the_table_and_takes_one_layer(rng):
    graph = LayerGraph.from_edge_ids(EDGES, (3, 4))
    assert isinstance(MODELS["set_rbm"]({"fc1": graph}, rng=rng), SparseRBM)
    with pytest.raises(ValueError, match=r"expected one layer, .* got fc1, fc2"):
        set_rbm({"fc1": graph, "fc2": graph}, rng=rng)
    with pytest.raises(ValueError, match="got none"):
        set_rbm({}, rng=rng)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cd_steps": 0}, "expected cd_steps of at least 1, got 0"),
        ({"chains": 0}, "expected chains of at least 1, got 0"),
        ({"deviation": -1.0}, "expected a deviation of at least 0, got -1.0"),
        ({"kernel": "fast"}, "expected a kernel of auto, csr, dense, got 'fast'"),
    ],
)
def test_bad_options_are_refused(rng, options, message):
    with pytest.raises(ValueError, match=message):
        SparseRBM(LayerGraph.from_edge_ids([0], (1, 2)), rng=rng, **options)


@pytest.mark.parametrize("persistent", [False, True])
def test_a_machine_too_large_for_a_dense_matrix_trains(rng, persistent):
    n_visible, n_hidden = 200_000, 100_000  # 80 GB as a matrix
    ids = np.unique(rng.integers(n_visible * n_hidden, size=300_000))
    graph = LayerGraph.from_edge_ids(ids, (n_hidden, n_visible))
    rbm = SparseRBM(graph, persistent=persistent, chains=2, rng=rng)
    optimizer = torch.optim.SGD(rbm.parameters(), lr=0.1, momentum=0.9)
    engine = attach(rbm, optimizer, "set", every=1, total=3, rng=rng)
    for _ in range(3):
        optimizer.zero_grad()
        rbm.batch_loss(torch.ones(2, n_visible)).backward()
        assert rbm.fc1.values.grad.shape == (graph.n_edges,)
        optimizer.step()
    assert engine.updates == 2
    assert rbm.fc1.nnz == graph.n_edges
