"""Recorded steps, without a card: a stand-in records a function and calls it at each replay.

As a CUDA graph does, it does nothing while recording, and it insists on the memory that was
recorded: parameters, optimizer state and the arrays of graphs must lie where they were.
"""

import gc
import importlib
import json
import weakref

import numpy as np
import pytest
import torch

from topokit.experiments import captured, loop
from topokit.experiments.config import OptimizerSpec, load_recipe
from topokit.experiments.loop import TrainPlan, train
from topokit.experiments.preparation import _options_on, first_topology, make_optimizer, prepare_run
from topokit.experiments.record import History
from topokit.experiments.runs import _build, plan_of, resume, run
from topokit.experiments.samples import CLASSES
from topokit.nn import rewiring
from topokit.nn.engine import attach
from topokit.nn.layers import sparse_layers
from topokit.nn.rewiring import decide_on

TINY = ["epochs=3", "model.widths=[64,12,10,10]", "data.n_train=90", "data.n_test=20",
        "batch_size=20", "topology.epsilon=2"]  # fmt: skip


class StandIn:
    """Recording without a card."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def begin(self, model, optimizer, engine):
        self.model, self.optimizer, self.engine = model, optimizer, engine

    def tensors(self):
        kept = [*self.model.parameters(), *self.model.buffers()]
        kept = [tensor.data for tensor in kept]
        for state in self.optimizer.state.values():
            kept += [entry for entry in state.values() if torch.is_tensor(entry)]
        return kept

    def memory(self):
        layers = sparse_layers(self.model).values()
        arrays = [a for layer in layers for made in layer.index._kept.values() for a in made]
        graphs = {id(b) for layer in layers for b in layer.buffers()}  # kernels read `arrays`
        held = [*self.model.parameters(), *(b for b in self.model.buffers() if id(b) not in graphs)]
        for parameter in self.model.parameters():
            state = self.optimizer.state[parameter]
            held += [state[key] for key in sorted(state) if torch.is_tensor(state[key])]
        return [(t.data_ptr(), t.shape) for t in [*held, *arrays]]

    def apart(self, call):
        return call()

    def record(self, call, generators):
        self.recorded += 1
        kept = [(t, t.clone()) for t in self.tensors()]
        streams = [generator.get_state() for generator in generators]
        call()
        assert self.engine.paused
        with torch.no_grad():
            for tensor, before in kept:
                tensor.copy_(before)
        for generator, stream in zip(generators, streams, strict=True):
            generator.set_state(stream)
        there = self.memory()
        assert any(layer.index._kept for layer in sparse_layers(self.model).values())

        def replay():
            assert self.memory() == there
            self.replayed += 1
            self.engine.paused = True
            call()
            self.engine.paused = False

        return replay


@pytest.fixture
def stand_in(monkeypatch):
    """Let every training loop record its steps, and products take the arrays of a device."""
    made = StandIn()
    monkeypatch.setattr(loop, "graphs_of", lambda device: made)
    original = captured.Steps.__init__

    def begin(self, graphs, model, optimizer, engine, **options):
        made.begin(model, optimizer, engine)
        original(self, graphs, model, optimizer, engine, **options)

    monkeypatch.setattr(captured.Steps, "__init__", begin)
    return made


@pytest.fixture
def arrays_of_a_device(monkeypatch):
    from topokit.nn import fused, kernels
    from topokit.nn.kernels.products import PRODUCTS

    monkeypatch.setattr(kernels, "sparse_product", lambda kind: PRODUCTS["torch"])
    monkeypatch.setattr(fused, "edge_chain", lambda x, layers: None)  # the CPU's alone


def state_of(settings, recipe="set_mlp_digits"):
    config = load_recipe(recipe).override([*TINY, *settings])
    parts = prepare_run(config, None)
    state = _build(config, first_topology(config, parts), parts, torch.device("cpu"))
    return config, state, parts.data


def trained(settings):
    config, state, data = state_of(settings)
    epochs = list(train(state, data, plan_of(config)))
    return epochs, state


def equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key])


CASES = {
    "set": [],
    "dropout": ["model.dropout=0.3"],
    "srelu": ["model.activation=srelu"],
    "decay in every step": ["optimizer.decay_per_step=1e-3"],
    "adam": ["optimizer.name=adam", "optimizer.lr=0.001", "optimizer.momentum=0"],
    "static": ["rule.name=static"],
    "rewired within epochs": ["rule.every=2"],
    "gradients of the last batch": ["rule.name=rigl"],
    "learning rate": ["optimizer.lr_schedule=cosine"],
    "density that changes": ["rule.name=gmp", "rule.final_density=0.05"],
}


@pytest.mark.parametrize("name", CASES)
def test_replayed_steps_are_those_of_before_bit_for_bit(
    name, stand_in, arrays_of_a_device, monkeypatch
):
    settings = CASES[name]
    monkeypatch.setattr(captured, "why_not", without_capturable(captured.why_not))
    epochs, state = trained(settings)
    assert stand_in.replayed >= 4
    monkeypatch.setattr(loop, "graphs_of", lambda device: None)
    expected, other = trained(settings)
    for mine, theirs in zip(epochs, expected, strict=True):
        drop = {**mine.metrics, "seconds": 0}, {**theirs.metrics, "seconds": 0}
        assert drop[0] == drop[1]
        assert {n: g.edge_ids.tolist() for n, g in mine.topology.items()} == {
            n: g.edge_ids.tolist() for n, g in theirs.topology.items()
        }
        assert theirs.steps is None
    equal(state.model.state_dict(), other.model.state_dict())
    assert torch.equal(state.dropout.get_state(), other.dropout.get_state())
    assert state.step == other.step == 15
    made = [epoch.steps for epoch in epochs]
    assert sum(m["replayed"] for m in made) == stand_in.replayed
    for m in made:
        assert m["replayed"] + sum(m["one_by_one"].values()) == 5
    last = "steps whose activations the rule looks at"
    last = last if name == "gradients of the last batch" else "smaller batches"
    assert made[0]["one_by_one"][last] == made[1]["one_by_one"][last] == 1
    assert made[2]["one_by_one"]["smaller batches"] == 1  # nothing is rewired after it
    assert made[0]["one_by_one"]["first steps, and those after a change"] == 3
    once = name not in ("learning rate", "density that changes")
    assert (stand_in.recorded == 1) == once


def test_what_was_recorded_ends_with_the_training(monkeypatch):
    """No cycle keeps recorded memory until Python looks for cycles.

    Nor where the compiler is loaded, which the optimizers of torch load.
    """
    importlib.import_module("torch._dynamo")
    recorded = []

    class Holding:
        def apart(self, call):
            return call()

        def record(self, call, generators):
            call()
            recorded.append(weakref.ref(call))
            if not generators:  # a rewiring's decision, whose results are needed
                return lambda held=call: held()
            return lambda held=call: None

    for module in (loop, rewiring):
        monkeypatch.setattr(module, "graphs_of", lambda device: Holding())
    config, state, data = state_of(["model.dropout=0.3", "epochs=4"])
    decide_on("cpu")
    gc.collect()
    gc.disable()
    try:
        assert sum(epoch.steps["replayed"] for epoch in train(state, data, plan_of(config))) > 0
        assert [each() for each in recorded] == [None, None]  # a step, and a decision
    finally:
        gc.enable()
        decide_on("cpu", False)


def without_capturable(why_not):
    """On the CPU torch has no Adam whose steps can be recorded; here they can."""

    def asked(model, optimizer, engine, generators):
        reason = why_not(model, optimizer, engine, generators)
        return "" if "capturable" in reason else reason

    return asked


CHANGED = {
    "a layer is frozen": lambda model: model.fc2.values.requires_grad_(False),
    "a bias is frozen": lambda model: model.fc1.bias.requires_grad_(False),
    "dropout": lambda model: setattr(model, "dropout", 0.1),
}


@pytest.mark.parametrize("name", [*CHANGED, "nothing"])
def test_changes_between_epochs_are_recorded_anew(name, stand_in, arrays_of_a_device):
    config, state, data = state_of(["model.dropout=0.3", "rule.name=static", "epochs=4"])
    made = []
    for epoch in train(state, data, plan_of(config)):
        made.append(epoch.steps["one_by_one"].get("first steps, and those after a change", 0))
        if epoch.index == 1 and name in CHANGED:
            CHANGED[name](state.model)
    again = name != "nothing"
    assert made == [3, 0, int(again), 0]
    assert stand_in.recorded == 1 + again


def test_hooks_that_come_between_epochs_are_called(stand_in, arrays_of_a_device):
    config, state, data = state_of(["rule.name=static"])
    seen, reasons = [], []
    for epoch in train(state, data, plan_of(config)):
        reasons.append([*epoch.steps["one_by_one"]])
        if epoch.index == 1:
            state.model.fc1.register_forward_hook(lambda *_: seen.append(state.model.training))
    assert stand_in.recorded == 1
    assert reasons[-1] == ["SparseLinear has hooks, which a replay does not call"]
    assert seen.count(True) == 5


def test_other_memory_is_noticed_by_the_stand_in(stand_in, arrays_of_a_device, monkeypatch):
    monkeypatch.setattr(captured, "moved", lambda layers: True)
    with pytest.raises(AssertionError):
        trained([])


def test_why_steps_are_not_recorded(rng):
    config, state, _ = state_of([])
    model, optimizer = state.model, state.optimizer
    plan = plan_of(config)

    def why(rule="set", model=model, optimizer=optimizer, **params):
        engine = attach(model, optimizer, rule, every=5, rng=0, **params)
        reason = captured.why_not(model, optimizer, engine)
        engine.detach()
        return reason

    assert plan.rule is not None
    assert why() == ""
    assert why("snfs") == ""
    assert "takes part in every step" in why("deep_r", temperature=1e-6)
    assert "adds up the gradients" in why("sensitivity")
    adam = torch.optim.Adam(model.parameters())
    assert "Adam was made without capturable=True" in why(optimizer=adam)
    assert "RMSprop, and not one of" in why(optimizer=torch.optim.RMSprop(model.parameters()))
    parameters = list(model.parameters())
    tensor = torch.optim.SGD(parameters, lr=torch.tensor(0.1), foreach=False)
    assert "has tensors among its options" in why(optimizer=tensor)
    hook = optimizer.register_step_post_hook(lambda *args: None)
    assert why() == "the optimizer has hooks, which a replay does not call"
    hook.remove()
    hook = model.fc1.register_forward_hook(lambda *args: None)
    assert why() == "SparseLinear has hooks, which a replay does not call"
    hook.remove()

    model.dropout = 0.1
    assert why() == "SparseMLP draws from another generator than that of the training"
    engine = attach(model, optimizer, every=5, rng=0)
    assert captured.why_not(model, optimizer, engine, [model.generator]) == ""
    engine.detach()
    model.dropout = 0.0

    class Mine(torch.nn.Sequential):
        pass

    mine = Mine(model)
    assert why(model=mine).startswith("Mine is neither of torch nor of topokit")
    _, rbm, _ = state_of(["model.name=set_rbm", "model.widths=[64,20]"])
    reason = why(model=rbm.model, optimizer=rbm.optimizer)
    assert reason.startswith("SparseRBM computes its loss itself")


def test_the_record_says_how_steps_were_launched(stand_in, arrays_of_a_device, tmp_path, caplog):
    config = load_recipe("set_mlp_digits").override([*TINY, "epochs=2"])
    run(config, tmp_path / "run")
    lines = (tmp_path / "run" / "record.jsonl").read_text().splitlines()
    first, second = (json.loads(line)["steps"] for line in lines[1:])
    assert first == {
        "replayed": 1,
        "one_by_one": {"first steps, and those after a change": 3, "smaller batches": 1},
    }
    assert second == {"replayed": 4, "one_by_one": {"smaller batches": 1}}
    history = History.load(tmp_path / "run")
    assert len(history.epochs) == 2

    def stop(epoch, frame):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "other", progress=stop)
    resumed = resume(tmp_path / "other")
    columns = ["train_loss", "test_loss", "test_accuracy"]
    assert resumed.epochs[columns].equals(history.epochs[columns])


def test_what_torch_cannot_record_is_said_and_computed(stand_in, monkeypatch, tmp_path, caplog):
    def refuse(call, generators):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(stand_in, "record", refuse)
    epochs, _ = trained(["epochs=1"])
    (words,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    reason = "torch could not record a step (operation not permitted when stream is capturing)"
    assert words == f"training steps are launched one by one: {reason}"
    assert epochs[0].steps == {
        "replayed": 0, "one_by_one": {"first steps, and those after a change": 3, reason: 2}
    }  # fmt: skip


def test_options_of_optimizers_are_those_of_the_device():
    assert _options_on("cpu", "sgd") == {}
    assert _options_on("cuda", "sgd") == {"fused": True}
    assert _options_on("cuda", "adamw") == {"fused": True, "capturable": True}
    config, state, data = state_of(
        ["optimizer.name=adam", "optimizer.lr=0.001", "optimizer.momentum=0", "epochs=1"]
    )
    list(train(state, data, plan_of(config)))
    content = state.optimizer.state_dict()
    for group in content["param_groups"]:  # as saved on a card
        group.update(fused=True, capturable=True, foreach=False)
    _, other, _ = state_of(
        ["optimizer.name=adam", "optimizer.lr=0.001", "optimizer.momentum=0", "epochs=1"]
    )
    own = [dict(group, params=0) for group in other.optimizer.param_groups]
    loop.load_optimizer(other.optimizer, content)
    now = [dict(group, params=0, lr=g["lr"]) for group, g in zip(other.optimizer.param_groups, own)]  # noqa: B905  equally many
    assert now == own
    optimizer = make_optimizer(OptimizerSpec("sgd", decay_per_step=0.1), state.model.parameters())
    (hook,) = optimizer._optimizer_step_pre_hooks.values()
    assert hook.recorded


def test_numbers_and_weights_of_samples_are_copied_too(stand_in, arrays_of_a_device, rng):
    from topokit.experiments.samples import NUMBERS, Samples

    settings = ["epochs=1", "model.widths=[64,12,10]"]
    results = []
    for recorded in (True, False):
        _, state, data = state_of(settings)
        y = np.random.default_rng(1).random((len(data.x_train), 10)).astype(np.float32)
        weights = np.random.default_rng(2).random(len(data.x_train)).astype(np.float32)
        samples = Samples(data.x_train, y, weights)
        plan = TrainPlan(
            epochs=1, batch_size=20, objective=NUMBERS, lr=0.01, every="epoch", rule=None
        )
        with pytest.MonkeyPatch.context() as patched:
            if not recorded:
                patched.setattr(loop, "graphs_of", lambda device: None)
            results.append(
                [e.metrics["train_loss"] for e in train(state, (samples, samples), plan)]
            )
    assert results[0] == results[1]
    assert stand_in.replayed == 1
    assert CLASSES.score == "accuracy"
