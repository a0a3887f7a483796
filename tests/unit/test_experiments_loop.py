import dataclasses
import itertools

import numpy as np
import pytest
import torch

from tests.marks import fast_where
from topokit.data import load_data
from topokit.experiments.config import OPTIMIZERS, OptimizerSpec
from topokit.experiments.loop import TrainPlan, TrainState, read_checkpoint, tiny_as_zero, train
from topokit.experiments.preparation import make_optimizer
from topokit.graph import EdgeUpdate, LayerGraph, same_edges
from topokit.nn.kernels import threads as kernel_threads
from topokit.nn.layers import EdgeLayer, sparse_layers
from topokit.nn.models import MODELS
from topokit.rules import RULES, SCHEDULES
from topokit.rules.rewire import cosine

WIDTHS = (64, 50, 40, 10)


def graphs(rng):
    return {
        f"fc{i + 1}": LayerGraph.from_edge_ids(rng.choice(a * b, 5 * (a + b), False), (b, a))
        for i, (a, b) in enumerate(itertools.pairwise(WIDTHS))
        if a * b > 5 * (a + b)
    } | {"fc3": LayerGraph.from_edge_ids(np.arange(400), (10, 40))}


def new_state(dropout=0.0, lr=0.05):
    rng, generator = np.random.default_rng(0), torch.Generator()
    generator.manual_seed(0)
    model = MODELS["set_mlp"](graphs(rng), dropout=dropout, rng=rng, generator=generator)
    streams = {name: np.random.default_rng(i) for i, name in enumerate(("order", "rule"))}
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return TrainState(model, optimizer, streams, generator)


@pytest.fixture(scope="module")
def data():
    return load_data("digits", rng=np.random.default_rng(0), n_train=300, n_test=100)


def epochs(data, rule="set", n=3, state=None, **plan):
    state = state or new_state()
    return list(train(state, data, TrainPlan(n, 50, RULES[rule](), **plan))), state


def test_set_and_static_are_identical_until_the_first_rewiring(data):
    (moving, _), (static, _) = epochs(data), epochs(data, "static")
    for key in ("train_loss", "test_loss", "test_accuracy"):
        assert moving[0].metrics[key] == static[0].metrics[key]
    for name in moving[0].topology:
        assert same_edges(moving[0].topology[name], static[2].topology[name])
    assert not same_edges(moving[1].topology["fc1"], static[1].topology["fc1"])
    assert moving[1].metrics["train_loss"] != static[1].metrics["train_loss"]


def test_the_topology_is_kept_after_the_last_epoch(data):
    done, state = epochs(data)
    for name, layer in sparse_layers(state.model).items():
        assert same_edges(layer.graph, done[-1].topology[name])


def test_a_last_removal_as_in_the_paper(data):
    done, state = epochs(data, final="drop")
    edges = [(done[-1].topology[k].n_edges, v.nnz) for k, v in sparse_layers(state.model).items()]
    assert edges[0][1] == edges[0][0] - int(0.3 * edges[0][0])
    assert edges[2] == (400, 400)


def test_a_last_removal_where_rewiring_counts_steps(data):
    done, state = epochs(data, "mest", final="drop", every=4)
    for name, layer in sparse_layers(state.model).items():
        graph = done[-1].topology[name]
        assert layer.nnz == graph.n_edges - (int(0.3 * graph.n_edges) if graph.density < 1 else 0)


@pytest.mark.parametrize("schedule", [None, "constant", "linear", "cosine"])
def test_the_learning_rate_of_each_epoch(data, schedule):
    state, seen = new_state(lr=0.5), []
    state.optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    more = {} if schedule is None else {"lr": 0.08, "lr_schedule": SCHEDULES[schedule]}
    epochs(data, state=state, n=4, **more)
    expected = {
        None: [0.5] * 4,
        "constant": [0.08] * 4,
        "linear": [0.08, 0.06, 0.04, 0.02],
        "cosine": [0.08, 0.04 + 0.04 / 2**0.5, 0.04, 0.04 - 0.04 / 2**0.5],
    }[schedule]
    assert seen == pytest.approx([lr for lr in expected for _ in range(6)])


@pytest.mark.parametrize("every", [None, 4, 6])
def test_an_epoch_has_the_exact_update_of_its_rewiring(data, every):
    """Edges dropped and grown again are visible in it, as they are in no two graphs."""
    done, _ = epochs(data, "random", n=4, every=every, drop_fraction=0.8)
    unknown = [epoch.index for epoch in done if epoch.updates is None]
    assert unknown == ([0, 1] if every == 4 else [0])  # after steps 8 and 12: two rewirings
    regrown = 0
    for before, epoch in itertools.pairwise(done):
        if epoch.updates is None:
            continue
        for name, graph in epoch.topology.items():
            if name not in epoch.updates:
                assert same_edges(before.topology[name], graph)
                continue
            update = epoch.updates[name]
            assert same_edges(update.before, before.topology[name])
            assert same_edges(update.after, graph)
            plain = EdgeUpdate.between(update.before, update.after)
            assert np.array_equal(update.net().source, plain.source)
            regrown += update.n_grown - plain.n_grown
    assert regrown > 0


def test_too_few_samples_to_hold_some_out(data):
    few = dataclasses.replace(data, x_train=data.x_train[:9], y_train=data.y_train[:9])
    with pytest.raises(ValueError, match="at least 10 training samples, got 9"):
        epochs(few, "ctre_seq")


def test_no_update_at_or_after_the_stop_epoch_nor_in_skipped_layers(data):
    done, _ = epochs(data, n=4, stop=2)
    assert not same_edges(done[0].topology["fc1"], done[1].topology["fc1"])
    assert same_edges(done[1].topology["fc1"], done[2].topology["fc1"])
    done, _ = epochs(data, skip=("fc1",))
    assert same_edges(done[0].topology["fc1"], done[-1].topology["fc1"])
    assert not same_edges(done[0].topology["fc2"], done[-1].topology["fc2"])


@pytest.mark.parametrize("every", [None, 4])
def test_the_explored_fraction_counts_every_graph_there_was(data, every, monkeypatch, tmp_path):
    seen, original = {}, EdgeLayer.replace_graph

    def spied(self, update, *args, **kwargs):
        original(self, update, *args, **kwargs)
        seen.setdefault(update.after.shape, set()).update(update.after.edge_ids.tolist())

    monkeypatch.setattr(EdgeLayer, "replace_graph", spied)
    state, plan = new_state(), TrainPlan(4, 50, RULES["set"](), every=every)
    for layer in sparse_layers(state.model).values():
        seen[layer.graph.shape] = set(layer.graph.edge_ids.tolist())
    for stop in (1, 3):  # the second part goes on from a checkpoint
        for epoch in train(state, data, plan):
            if every is None:
                assert epoch.explored is None
            else:
                assert epoch.explored == {
                    k: len(seen[g.shape]) / (g.n_in * g.n_out) for k, g in epoch.topology.items()
                }
            if epoch.index == stop:
                (tmp_path / "checkpoint.pt").write_bytes(state.to_bytes())
                state = new_state()
                state.restore(read_checkpoint(tmp_path / "checkpoint.pt"))
                break


@pytest.mark.parametrize(("epochs_", "stop"), [(4, None), (4, 2), (3, 0)])
@pytest.mark.parametrize("every", [1, 4, 6])
def test_no_update_at_or_after_the_stop_step_nor_after_the_last(data, epochs_, stop, every):
    state, seen = new_state(), []
    rule = RULES["random"]()
    spy = rule._replace(drop=lambda *args: (seen.append(state.step), rule.drop(*args))[1])
    plan = TrainPlan(epochs_, 50, spy, every=every, stop=stop)
    list(train(state, data, plan))
    end = 6 * (epochs_ if stop is None else stop)
    assert state.step == 6 * epochs_
    assert sorted(set(seen)) == list(range(every, end, every))


@pytest.mark.parametrize("more", [{}, {"every": 4}, {"stop": 3}, {"every": 5, "stop": 2}])
@pytest.mark.parametrize("rule", ["gmp", "granet"])
def test_gradual_pruning_ends_at_its_final_density(data, rule, more):
    state = new_state()
    cells = sum(layer.n_in * layer.n_out for layer in sparse_layers(state.model).values())
    done = list(train(state, data, TrainPlan(5, 50, RULES[rule](final_density=0.04), **more)))
    total = [sum(g.n_edges for g in epoch.topology.values()) for epoch in done]
    assert total[-1] == round(0.04 * cells)
    assert all(a >= b for a, b in itertools.pairwise(total))


@pytest.mark.parametrize("stop", [None, 2])
def test_the_drop_fraction_falls_to_nothing_where_rewiring_ends(data, stop):
    counts = []
    rule = RULES["random"]()
    spy = rule._replace(drop=lambda view, n, rng: (counts.append(n), rule.drop(view, n, rng))[1])
    list(train(new_state(), data, TrainPlan(4, 50, spy, every=1, stop=stop, schedule=cosine,
                                            skip=("fc2", "fc3"))))  # fmt: skip
    steps = 6 * (stop or 4)
    expected = [int(0.3 * cosine(step, steps) * 570 + 1e-9) for step in range(1, steps)]
    assert counts == [n for n in expected if n]


@pytest.mark.parametrize("every", [None, 4])
@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_trains_and_its_state_can_be_saved(data, rule, every, tmp_path):
    done, state = epochs(data, rule, every=every)
    total = [sum(g.n_edges for g in epoch.topology.values()) for epoch in done]
    assert all(a >= b for a, b in itertools.pairwise(total))
    assert all(g.n_edges > 0 for g in done[-1].topology.values())
    assert np.isfinite(done[-1].metrics["test_loss"])
    (tmp_path / "checkpoint.pt").write_bytes(state.to_bytes())
    checkpoint = read_checkpoint(tmp_path / "checkpoint.pt")
    other = new_state()
    other.restore(checkpoint)
    assert other.epoch == 3
    for name, layer in sparse_layers(other.model).items():
        assert same_edges(layer.graph, sparse_layers(state.model)[name].graph)


@pytest.mark.parametrize("every", fast_where(lambda every: every is None, [None, 4]))
@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_resumes_as_if_never_stopped(data, rule, every, tmp_path):
    plan = TrainPlan(4, 50, RULES[rule](), every=every)
    whole, state = epochs(data, rule, n=4, state=new_state(dropout=0.2), every=every)
    stopped = new_state(dropout=0.2)
    run = train(stopped, data, plan)
    next(run)
    next(run)
    (tmp_path / "checkpoint.pt").write_bytes(stopped.to_bytes())
    resumed = new_state(dropout=0.2)
    resumed.restore(read_checkpoint(tmp_path / "checkpoint.pt"))
    rest = list(train(resumed, data, plan))
    for a, b in zip(whole[2:], rest, strict=True):
        assert all(a.metrics[k] == b.metrics[k] for k in a.metrics if k != "seconds")
        assert all(same_edges(a.topology[k], b.topology[k]) for k in a.topology)
    for a, b in zip(state.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_the_configuration_exists_and_trains(data, name):
    state = new_state()
    spec = OptimizerSpec(name, lr=0.01, weight_decay=0.001)
    state.optimizer = make_optimizer(spec, state.model.parameters())
    assert type(state.optimizer).__name__.lower() == name
    group = state.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.01, 0.001)
    done, _ = epochs(data, state=state, n=2)
    assert done[1].metrics["train_loss"] < done[0].metrics["train_loss"]


def test_momentum_reaches_the_optimizer():
    spec = OptimizerSpec("sgd", lr=0.1, momentum=0.8, nesterov=True)
    group = make_optimizer(spec, [torch.nn.Parameter(torch.ones(1))]).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.8, True)


def test_validation_samples_are_never_trained_on(data):
    """Rules that watch accuracy hold out a tenth of the training set."""
    _, state = epochs(data, "ctre_seq")
    assert state.step == 3 * 6  # 270 samples in batches of 50
    assert len(state.memory["accuracies"]) == 3


def test_divergence_is_named(data):
    with pytest.raises(FloatingPointError, match=r"at step \d+ .* below 1e\+20"):
        epochs(data, state=new_state(lr=1e20))


def test_checkpoints_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none"):
        read_checkpoint(tmp_path / "none.pt")
    torch.save({"model": {}}, tmp_path / "part.pt")
    with pytest.raises(ValueError, match="lacks"):
        read_checkpoint(tmp_path / "part.pt")
    (tmp_path / "bad.pt").write_bytes(b"bad")
    with pytest.raises(ValueError, match="is damaged"):
        read_checkpoint(tmp_path / "bad.pt")


def halves_below_the_normal_range():
    """How many of many halves of the smallest normal number are not 0, by all threads."""
    smallest = torch.full((1 << 17,), torch.finfo(torch.float32).tiny)
    return int((smallest * 0.5).view(torch.int32).count_nonzero())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_all_threads_take_tiny_numbers_for_0(threads):
    used = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert halves_below_the_normal_range() == 1 << 17
        with tiny_as_zero():
            assert halves_below_the_normal_range() == 0
            with tiny_as_zero():
                assert halves_below_the_normal_range() == 0
            assert halves_below_the_normal_range() == 0
        assert halves_below_the_normal_range() == 1 << 17
        with pytest.raises(ZeroDivisionError), tiny_as_zero():
            _ = 1 / 0
        assert halves_below_the_normal_range() == 1 << 17
    finally:
        torch.set_num_threads(used)


def test_threads_that_cannot_be_told_are_left_alone(monkeypatch):
    used = torch.get_num_threads()
    monkeypatch.setattr(kernel_threads, "_gomp_parallel", lambda: None)
    torch.set_num_threads(2)
    try:
        with tiny_as_zero():
            assert halves_below_the_normal_range() == 1 << 17
    finally:
        torch.set_num_threads(used)


@pytest.mark.parametrize("before", [False, True])
def test_numbers_below_the_normal_range_are_taken_for_0(data, before):
    below = torch.tensor([1e-20])

    def kept():
        return bool(below * below)  # 1e-40

    state = new_state()
    unused = (data.x_train == 0).all(0)  # their edges have no gradient
    torch.set_flush_denormal(before)
    try:
        run = train(state, data, TrainPlan(4, 50))
        next(run)
        assert kept() is not before  # what is measured between epochs is the caller's
        layer = sparse_layers(state.model)["fc1"]
        velocities = state.optimizer.state[layer.values]["momentum_buffer"]
        edges = torch.from_numpy(unused[layer.graph.indices])
        assert edges.any()
        assert not velocities[edges].any()
        velocities[edges] = 3e-38
        list(run)  # 18 steps: 0.9 ** 18 of that is 4.5e-39
        assert not velocities[edges].any()
        assert velocities[~edges].any()
        assert kept() is not before
    finally:
        torch.set_flush_denormal(False)
