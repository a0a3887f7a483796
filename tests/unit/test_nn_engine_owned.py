"""The engine knows its layers, optimizers and averages; what it cannot know is refused."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.marks import fast_where
from topokit.graph import LayerGraph, same_edges
from topokit.nn import SparseLinear, sparse_layers
from topokit.nn.densify import densify
from topokit.nn.engine import attach, sparsify
from topokit.rules import RULES
from topokit.rules.stream import GROWTH


def small(rng=0):
    rng = np.random.default_rng(rng)
    parts = []
    for n_in, n_out in ((8, 7), (7, 4)):
        ids = np.sort(rng.permutation(n_in * n_out)[: n_in * n_out // 2])
        parts += [SparseLinear(LayerGraph.from_edge_ids(ids, (n_out, n_in)), rng=rng), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def backward(model, seed=0):
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((12, 8))).float()
    nn.functional.cross_entropy(model(x), torch.arange(12) % 4).backward()


def fit(model, *optimizers, steps=1):
    for number in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        backward(model, number)
        for optimizer in optimizers:
            optimizer.step()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


# Optimizers.


def test_an_optimizer_made_before_sparsify_is_refused(rng):
    model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))
    optimizer = torch.optim.Adam(model.parameters())
    sparsify(model, density=0.3, rng=rng)
    message = "holds the values of layers 0, 2, .* make the optimizer after sparsify"
    with pytest.raises(ValueError, match=message):
        attach(model, optimizer, every=1, rng=rng)


@pytest.mark.parametrize("rule", ["set", "snfs", "rigl"])
def test_layers_of_two_optimizers(rng, rule):
    model = small()
    first, second = sgd(model[0].parameters()), sgd(model[2].parameters())
    with pytest.raises(ValueError, match=r"layers 2, .* pass all optimizers as a list, or name"):
        attach(model, first, rule, every=1, total=9, rng=rng)
    with pytest.raises(ValueError, match=r"expected each parameter in one optimizer, got .* '2'"):
        attach(model, [first, second, sgd(model[2].parameters())], rule, every=1, rng=rng)
    engine = attach(model, [first, second], rule, every=2, total=9, rng=0)
    twin = small()
    together = sgd(twin.parameters())
    other = attach(twin, together, rule, every=2, total=9, rng=0)
    fit(model, first, second, steps=7)
    fit(twin, together, steps=7)
    assert (engine.steps, engine.updates) == (other.steps, other.updates) == (7, 3)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    for optimizer, layer, same in ((first, model[0], twin[0]), (second, model[2], twin[2])):
        a, b = optimizer.state[layer.values], together.state[same.values]
        assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])


def test_steps_of_several_optimizers_count_when_all_have_stepped(rng):
    model = small()
    first, second = sgd(model[0].parameters()), sgd(model[2].parameters())
    engine = attach(model, [first, second], "rigl", every=1, rng=rng)
    engine.detach()
    third = sgd([nn.Parameter(torch.ones(2))])  # without sparse layers: its steps do not count
    engine = attach(model, [third, first, second], "rigl", every=1, rng=rng)
    counts = []
    for optimizer in (first, first, second, second, first):
        model.zero_grad()
        backward(model)
        optimizer.step()
        counts.append(engine.steps)
    assert counts == [0, 0, 1, 1, 2]


def test_a_skipped_layer_needs_no_optimizer_and_a_frozen_one_is_left_alone(rng):
    model = small()
    engine = attach(model, sgd(model[0].parameters()), "set", every=1, skip=["2"], rng=rng)
    fit(model, engine.optimizer, steps=2)
    assert list(engine.last) == ["0"]
    engine.detach()
    model[0].requires_grad_(False)
    optimizer = sgd(model[2].parameters())
    for rule in ("rigl", "ctre_sim"):
        engine = attach(model, optimizer, rule, every=1, rng=rng)
        fit(model, optimizer, steps=2)
        assert set(engine.last) <= {"2"}
        engine.detach()


def test_a_parameter_replaced_later_is_noticed(rng):
    model = small()
    optimizer = sgd(model.parameters())
    attach(model, optimizer, "set", every=1, rng=rng)
    model[0].values = nn.Parameter(model[0].values.detach().clone())
    with pytest.raises(ValueError, match="holds the values of layers 0"):
        fit(model, optimizer)
    model = small()
    optimizer = sgd(model.parameters())
    attach(model, optimizer, "set", every=1, rng=rng)
    model[0] = SparseLinear(model[0].graph, rng=rng)
    with pytest.raises(ValueError, match="layers that the model had when the engine was attached"):
        optimizer.step()


# Models and engines.


def test_a_second_engine_is_refused_until_the_first_is_detached_or_gone(rng):
    model = small()
    optimizer = sgd(model.parameters())
    engine = attach(model, optimizer, "set", every=1, rng=rng)
    with pytest.raises(ValueError, match=r"no engine rewires, got 0, 2; call detach\(\)"):
        attach(model, optimizer, "set", every=1, rng=rng)
    engine.detach()
    engine = attach(model, optimizer, "set", every=1, rng=rng)
    optimizer = sgd(model.parameters())
    del engine
    attach(model, optimizer, "set", every=1, rng=rng)


def test_several_models_are_one_in_a_module_list(rng):
    models = nn.ModuleList([small(0), small(1)])
    with pytest.raises(ValueError, match=r"got list; several models go into a torch.nn.ModuleList"):
        attach(list(models), sgd(models.parameters()), every=1, rng=rng)
    with pytest.raises(ValueError, match="expected samples=None with several models"):
        attach(models, sgd(models.parameters()), samples=torch.ones(3, 8), every=1, rng=rng)
    for rule in ("rigl", "ctre_sim"):
        optimizer = sgd(models.parameters())
        engine = attach(models, optimizer, rule, every=2, rng=rng)
        for _ in range(4):
            optimizer.zero_grad()
            for model in models:
                backward(model)
            optimizer.step()
        assert engine.updates == 2
        assert set(engine.topology) == {"0.0", "0.2", "1.0", "1.2"}
        engine.detach()


@pytest.mark.parametrize("rule", ["rigl", "ctre_sim", "set"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_free_of_the_engine(rng, rule, copied):
    model = small()
    optimizer = sgd(model.parameters())
    engine = attach(model, optimizer, rule, every=1, rng=rng)
    twin = copied(model)
    graphs = {name: layer.graph for name, layer in sparse_layers(twin).items()}
    fit(model, optimizer, steps=2)
    assert not any(layer.capture for layer in sparse_layers(twin).values())
    fit(twin, sgd(twin.parameters()), steps=2)
    assert all(same_edges(layer.graph, graphs[n]) for n, layer in sparse_layers(twin).items())
    other = attach(twin, sgd(twin.parameters()), rule, every=1, rng=rng)
    fit(twin, other.optimizer)
    assert (engine.updates, other.updates) == (2, 1)
    with pytest.raises(TypeError, match=r"expected engine.state_dict\(\) to save it"):
        copied(engine)


def test_an_engine_says_what_it_does(rng):
    model = small()
    optimizer = sgd(model.parameters())
    engine = attach(model, optimizer, "rigl", every=2, rng=rng)
    fit(model, optimizer, steps=5)
    assert repr(engine) == (
        "Engine: rigl every 2 steps, 5 steps and 2 rewirings so far\n"
        "  2 sparse layers (0, 2), 42 edges, SGD"
    )
    engine.detach()
    assert "so far, detached\n" in repr(engine)
    engine = attach(model, optimizer, RULES["set"](), every="epoch", rng=rng)
    assert " each epoch, 0 steps and 0 rewirings so far" in repr(engine)


def test_a_step_within_the_backward_pass_is_refused(rng):
    model = small()
    optimizer = sgd(model.parameters())
    attach(model, optimizer, "set", every=1, rng=rng)
    model[2].values.register_post_accumulate_grad_hook(lambda _: optimizer.step())
    with pytest.raises(ValueError, match="expected optimizer steps after the backward pass"):
        backward(model)


# Averages.

AVERAGES = {
    "equal weights": AveragedModel,
    "exponential": lambda m: AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    "exponential, buffers": lambda m: AveragedModel(
        m, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True
    ),
}


def by_hand(average, model):
    with torch.no_grad():
        for a, b in zip(average.parameters(), model.parameters(), strict=True):
            a.lerp_(b, 0.1)


@pytest.mark.parametrize("kind", [*AVERAGES, "by hand"])
@pytest.mark.parametrize("rule", ["set", "gmp"])
def test_a_registered_average_is_that_of_each_edge(rng, kind, rule):
    """At learning rate 0 the average of an edge is its weight."""
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    options = {"init": "normal"} if rule == "set" else {"final_density": 0.2}
    engine = attach(model, optimizer, rule, every=1, total=9, rng=rng, **options)
    average = engine.average(AVERAGES.get(kind, copy.deepcopy)(model))
    for number in range(6):
        if kind == "by hand":
            by_hand(average, model)
        else:
            average.update_parameters(model)
        fit(model, optimizer, steps=1)
        for a, b in zip(
            sparse_layers(average).values(), sparse_layers(model).values(), strict=True
        ):
            assert same_edges(a.graph, b.graph)
            torch.testing.assert_close(a.values, b.values, rtol=1e-5, atol=1e-6)
        assert engine.updates == number + 1
    average(torch.ones(2, 8))


@pytest.mark.parametrize("kind", [*AVERAGES, "state by hand"])
@pytest.mark.parametrize(
    "used", ["forward", "saved", "copied", "moved", "copied whole", "pickled", "densified"]
)
def test_an_average_that_does_not_follow_is_refused_when_it_is_used(rng, kind, used):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(model, optimizer, "set", every=1, rng=rng)
    average = AVERAGES.get(kind, copy.deepcopy)(model)
    if kind == "state by hand":
        fit(model, optimizer)
        with torch.no_grad():
            pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
            for a, b in pairs:
                a.copy_(0.9 * a + 0.1 * b)
    else:
        average.update_parameters(model)
        fit(model, optimizer)
        average.update_parameters(model)
    use = {
        "forward": lambda: average(torch.ones(2, 8)), "saved": average.state_dict,
        "copied": lambda: [layer.graph for layer in sparse_layers(average).values()],
        "moved": average.double, "copied whole": lambda: copy.deepcopy(average),
        "pickled": lambda: [pickle.dumps(layer) for layer in sparse_layers(average).values()],
        "densified": lambda: densify(average),
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"overwritten in place .* registered with engine.average"):
        use[used]()


@pytest.mark.parametrize("rule", ["set", "granet"])
def test_averages_kept_as_arrays_can_be_moved_by_hand(rule):
    model = small()
    optimizer = sgd(model.parameters())
    options = {"final_density": 0.2} if rule == "granet" else {}
    engine = attach(model, optimizer, rule, every=2, total=9, rng=0, **options)
    copied = engine.average(AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75)))
    copied.update_parameters(model)
    mine = {name: v.values.detach().numpy().copy() for name, v in sparse_layers(model).items()}
    updates = 0
    for seed in range(8):
        optimizer.zero_grad()
        backward(model, seed)
        optimizer.step()
        now = {name: v.values.detach().numpy() for name, v in sparse_layers(model).items()}
        if engine.updates > updates:
            updates = engine.updates
            for name, update in engine.last.items():
                mine[name] = update.carry(mine[name], now[name][update.grown])
        mine = {name: kept + 0.25 * (now[name] - kept) for name, kept in mine.items()}
        copied.update_parameters(model)
    assert updates == 4
    for kept, layer in zip(mine.values(), sparse_layers(copied).values(), strict=True):
        np.testing.assert_allclose(kept, layer.values.detach().numpy(), rtol=1e-5, atol=1e-7)


def test_only_a_copy_with_the_same_graphs_is_an_average(rng):
    model = small()
    optimizer = sgd(model.parameters())
    engine = attach(model, optimizer, "set", every=1, rng=rng)
    early = copy.deepcopy(model)
    fit(model, optimizer)
    for wrong in (early, model, nn.Linear(3, 3)):
        with pytest.raises(ValueError, match="copy of the model with its present graphs"):
            engine.average(wrong)
    average = engine.average(copy.deepcopy(model))
    average.load_state_dict(early.state_dict())
    with pytest.raises(ValueError, match="expected averages with the graph of layer '0'"):
        fit(model, optimizer)


def test_copies_and_moves_of_a_good_model_are_good(rng):
    model = small()
    for changed in (copy.deepcopy(model), copy.deepcopy(model).double(), AveragedModel(model)):
        changed.load_state_dict(changed.state_dict())
        dtype = next(changed.parameters()).dtype
        assert changed(torch.ones(2, 8, dtype=dtype)).shape == (2, 4)
    swa = AveragedModel(model, use_buffers=True)
    for _ in range(3):
        swa.update_parameters(model)
    torch.testing.assert_close(swa(torch.ones(2, 8)), model(torch.ones(2, 8)))


# States loaded while training.


@pytest.mark.parametrize("rule", list(RULES))
def test_weights_restored_while_training_goes_on(rng, rule):
    """Optimizer state and memories stay with the edges that are in both graphs."""
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    engine = attach(
        model, optimizer, rule, every=2, total=40, epoch_steps=50, drop_fraction=0.4, rng=rng
    )
    average = engine.average(copy.deepcopy(model))
    best = copy.deepcopy(model.state_dict())
    start = engine.topology
    fit(model, optimizer, steps=7)
    changed = any(not same_edges(graph, start[n]) for n, graph in engine.topology.items())
    held = {}
    for name, layer in sparse_layers(model).items():
        moments = optimizer.state[layer.values]["exp_avg"].tolist()
        held[name] = dict(zip(layer.graph.edge_ids.tolist(), moments, strict=True))
    if changed:
        with pytest.warns(UserWarning, match="load the states of optimizer and engine, too"):
            model.load_state_dict(best)
    else:
        model.load_state_dict(best)
    for name, layer in sparse_layers(model).items():
        assert same_edges(layer.graph, start[name])
        assert same_edges(sparse_layers(average)[name].graph, start[name])
        now = optimizer.state[layer.values]["exp_avg"].tolist()
        old = [held[name].get(edge, 0.0) for edge in layer.graph.edge_ids.tolist()]
        assert now == old
        for entry in ("sign", "sensitivity"):
            if entry in engine.memory:
                assert len(engine.memory[entry][name]) == layer.nnz
    fit(model, optimizer, steps=4)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
@pytest.mark.parametrize("rule", ["set", "gmp", "sensitivity"])
def test_a_state_of_model_optimizer_and_engine_goes_back_exactly(rng, rule, order):
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    parts = [model, optimizer, attach(model, optimizer, rule, every=2, total=30, rng=1)]
    fit(model, optimizer, steps=3)
    saved = copy.deepcopy([part.state_dict() for part in parts])
    ends = []
    for _ in range(2):
        fit(model, optimizer, steps=8)
        ends.append([p.detach().clone() for p in model.parameters()])
        load = [(parts[at].load_state_dict, copy.deepcopy(saved[at])) for at in order]
        with pytest.warns(UserWarning, match="was replaced by that of a loaded state"):
            _ = [call(state) for call, state in load]
    for a, b in zip(*ends, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("rule", "steps", "stream", "warned"),
    [("set", 3, None, True), ("set", 3, "another", True), ("random", 3, None, True),
     ("set", 3, GROWTH, False), ("set", 1, None, False), ("static", 3, None, False)],
)  # fmt: skip
def test_a_state_of_another_stream_of_growth_warns_if_it_has_drawn(rule, steps, stream, warned):
    parts = []
    for _ in range(2):
        model = small()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        parts.append([model, optimizer, attach(model, optimizer, rule, every=2, rng=1)])
    fit(*parts[0][:2], steps=steps)
    states = copy.deepcopy([part.state_dict() for part in parts[0]])
    assert states[2]["growth"] == GROWTH
    states[2]["growth"] = stream
    if stream is None:
        del states[2]["growth"]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for part, state in zip(parts[1], states, strict=True):
            part.load_state_dict(state)
    words = [str(each.message) for each in seen]
    assert any("random growth drew from another stream" in text for text in words) == warned
    fit(*parts[1][:2], steps=2)
    assert parts[1][2].updates == (steps + 2) // 2


def test_states_of_different_steps_are_refused(rng):
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    engine = attach(model, optimizer, "set", every=2, rng=1)
    fit(model, optimizer, steps=1)
    saved = copy.deepcopy([optimizer.state_dict(), engine.state_dict()])
    fit(model, optimizer, steps=4)
    with pytest.raises(ValueError, match="expected the model to have the graphs of the state"):
        engine.load_state_dict(saved[1])
    optimizer.load_state_dict(saved[0])
    with pytest.raises(ValueError, match="state of layer '0' is that of another graph"):
        fit(model, optimizer)
    with pytest.raises(RuntimeError, match="expected assign=False for a model that an engine"):
        model.load_state_dict(model.state_dict(), assign=True)


@pytest.mark.parametrize("rule", ["deep_r", "sensitivity"])
def test_layers_whose_weights_are_drawn_again(rng, rule):
    model = small()
    optimizer = sgd(model.parameters())
    engine = attach(model, optimizer, rule, every=3, total=100, rng=rng)
    fit(model, optimizer, steps=2)
    torch.manual_seed(1)
    old = model[0].values.detach().clone()
    model.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
    assert not torch.equal(old, model[0].values)
    assert not model[0].bias.any()
    if rule == "deep_r":
        signs = np.sign(model[0].values.detach().numpy())
        assert np.array_equal(engine.memory["sign"]["0"], signs)
    else:
        assert not engine.memory["sensitivity"]["0"].any()
    fit(model, optimizer, steps=2)


@pytest.mark.parametrize(
    "make", fast_where(lambda make: make is sgd, [sgd, torch.optim.Adam, torch.optim.Rprop])
)
@pytest.mark.parametrize(("every", "stop_at"), [(3, 4), (3, 6), ("epoch", 3), ("epoch", 5)])
@pytest.mark.parametrize("rule", ["snfs", "rigl", "ctre_sim", "sensitivity", "deep_r", "granet"])
def test_a_loop_stopped_anywhere_goes_on_as_if_it_had_not(rule, every, stop_at, make, tmp_path):
    def parts():
        model = small()
        optimizer = make(model.parameters())
        return model, optimizer, attach(model, optimizer, rule, every=every, total=30, rng=3)

    def run(model, optimizer, engine, steps):
        for number in steps:
            optimizer.zero_grad()
            backward(model, 2 * number)
            backward(model, 2 * number + 1)
            optimizer.step()
            if number + 1 == stop_at:
                yield
            if number % 3 == 2:
                engine.end_epoch(0.1)

    whole, stopped, resumed = parts(), parts(), parts()
    list(run(*whole, range(10)))
    next(run(*stopped, range(10)))
    torch.save([part.state_dict() for part in stopped], tmp_path / "state.pt")
    for part, state in zip(resumed, torch.load(tmp_path / "state.pt"), strict=True):
        part.load_state_dict(state)
    if stop_at % 3 == 0:
        resumed[2].end_epoch(0.1)
    list(run(*resumed, range(stop_at, 10)))
    assert whole[2].updates == resumed[2].updates
    for a, b in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(a, b)
    for name, graph in whole[2].topology.items():
        assert same_edges(graph, resumed[2].topology[name])
