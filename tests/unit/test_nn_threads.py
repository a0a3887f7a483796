"""How many threads a kernel runs on is chosen by what was faster; results do not depend on it."""

import numpy as np
import pytest
import torch

from topokit.graph import LayerGraph
from topokit.nn import SparseLinear
from topokit.nn.kernels import threads
from topokit.nn.kernels.threads import BLOCK_CALLS, BLOCKS_BETWEEN, TRIAL_CALLS, Choice

ROUND = BLOCK_CALLS * BLOCKS_BETWEEN + TRIAL_CALLS


def share_of_many(choice, calls, many, one):
    """Let calls take so long with several threads and with one; return the share of the former."""
    used = []
    for call in range(calls):
        used.append(choice.many)
        choice.note((many if choice.many else one) * (1 + 0.1 * np.sin(call)))
    return np.mean(used)


@pytest.mark.parametrize("speedup", [1.2, 1.9])
def test_idle_cores_are_used(speedup):
    assert share_of_many(Choice(), 5 * ROUND, 1.0, speedup) > 0.97


@pytest.mark.parametrize("slowdown", [1.5, 14])
def test_busy_cores_are_left_alone(slowdown):
    choice = Choice()
    assert share_of_many(choice, 5 * ROUND, slowdown, 1.0) < 0.04
    assert share_of_many(choice, 5 * ROUND, 0.7, 1.0) > 0.7  # idle again
    assert share_of_many(choice, 5 * ROUND, slowdown, 1.0) < 0.3 / slowdown + 0.2


def test_a_sudden_load_is_noticed_after_two_blocks():
    choice = Choice()
    share_of_many(choice, ROUND, 0.7, 1.0)
    assert choice.many
    assert share_of_many(choice, 3 * BLOCK_CALLS + TRIAL_CALLS, 10, 1.0) < 0.7
    assert not choice.many


def test_one_slow_call_changes_nothing_for_long():
    choice = Choice()
    share_of_many(choice, ROUND, 0.7, 1.0)
    choice.note(100.0)
    assert share_of_many(choice, ROUND, 0.7, 1.0) > 0.9


def test_both_ways_give_the_same_bits(monkeypatch):
    rng, results, used = np.random.default_rng(0), [], []
    graph = LayerGraph.from_edge_ids(np.flatnonzero(rng.random(300 * 200) < 0.2), (300, 200))
    x = torch.from_numpy(rng.standard_normal((64, 200))).float()
    before = torch.get_num_threads()
    run = threads._run_on_threads
    monkeypatch.setattr(threads, "_run_on_threads", lambda e, r, n: (used.append(n), run(e, r, n)))
    try:
        for many in (False, True):
            torch.set_num_threads(2)
            monkeypatch.setattr(threads, "_CHOICES", {})
            monkeypatch.setattr(Choice, "note", lambda self, seconds: None)
            if not many:
                monkeypatch.setattr(threads.Choice, "__init__", lambda s: setattr(s, "many", False))
            else:
                monkeypatch.setattr(threads.Choice, "__init__", lambda s: setattr(s, "many", True))
            layer, own = SparseLinear(graph, rng=0), x.clone().requires_grad_()
            layer(own).square().sum().backward()
            results.append([own.grad, layer.values.grad])
    finally:
        torch.set_num_threads(before)
    assert used == [1, 1, 2, 2]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
