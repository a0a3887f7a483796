"""Runs that differ only in their seed, trained together: each is what it is alone."""

import logging
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from tests.marks import fast_where
from tests.unit.test_experiments_captured import StandIn, without_capturable
from tests.unit.test_experiments_sweep import Here
from topokit.cli import main
from topokit.experiments import captured, together, worker
from topokit.experiments.config import load_recipe
from topokit.experiments.loop import Training, read_checkpoint, train
from topokit.experiments.preparation import first_topology, make_optimizer, prepare_run
from topokit.experiments.record import History
from topokit.experiments.recorder import EpochRecorder
from topokit.experiments.rundir import RunDirectory
from topokit.experiments.runs import _build, plan_of, resume
from topokit.experiments.samples import Samples, shuffled_together
from topokit.experiments.study import study_from
from topokit.experiments.sweep import sweep
from topokit.experiments.together import Together, grouped
from topokit.experiments.verify import verify
from topokit.graph import LayerGraph
from topokit.nn.activations import dropped_out
from topokit.nn.kernels import EdgeIndex, products
from topokit.nn.kernels.graphs import DeviceGraph, DeviceUpdate, side_by_side
from topokit.nn.rewiring import decide_on

pytestmark = pytest.mark.slow

TINY = ["epochs=3", "data.n_train=130", "data.n_test=30", "batch_size=20",
        "model.widths=[64,30,20,10]"]  # fmt: skip
DROPOUT = ["model.dropout=0.3", "model.activation=srelu"]
CASES = {
    "set": [],
    "by magnitude": ["rule.name=set_magnitude"],
    "random": ["rule.name=random"],
    "static": ["rule.name=static"],
    "gradients of a batch": ["rule.name=rigl"],
    "gradients within epochs": ["rule.name=rigl", "rule.every=3"],
    "gradients of many steps": ["rule.name=snfs"],
    "validation accuracy": ["rule.name=ctre_seq"],
    "rewired within epochs": ["rule.every=2"],
    "after every step": ["rule.every=1", "epochs=2"],
    "other densities": ["rule.name=gmp", "rule.final_density=0.05"],
    "edges removed at the end": ["rule.final=drop"],
    "not to the end": ["rule.stop=1"],
    "srelu and dropout": DROPOUT,
    "all relu": ["model.activation=all_relu"],
    "decay by the optimizer": ["optimizer.weight_decay=1e-3", "optimizer.nesterov=true"],
    "decay in every step": ["optimizer.decay_per_step=1e-3"],
    "without momentum": ["optimizer.momentum=0"],
    "adam": ["optimizer.name=adam", "optimizer.lr=0.001", "optimizer.momentum=0"],
    "learning rate": ["optimizer.lr_schedule=cosine"],
    "squared error": ["model.loss=squared_error", "optimizer.lr=0.3"],
    "slope at the output": ["model.loss=squared_error_output_slope", "optimizer.lr=0.3"],
    "dense layers": ["topology.density=0.9"],
    "dense in large batches": ["topology.density=0.5", "data.n_train=500", "batch_size=300"],
}


def made(settings, seed, dtype=np.float32):
    given = settings if any("topology" in s for s in settings) else ["topology.epsilon=3"]
    config = load_recipe("set_mlp_digits").override([*TINY, *settings, *given, f"seed={seed}"])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if dtype == np.float64 else torch.float32)
    try:
        parts = prepare_run(config, None)
        state = _build(config, first_topology(config, parts), parts, torch.device("cpu"))
    finally:
        torch.set_default_dtype(before)
    data = parts.data
    pairs = ((data.x_train, data.y_train), (data.x_test, data.y_test))
    return config, state, tuple(Samples(x.astype(dtype), y) for x, y in pairs)


def alone(settings, seeds=2, dtype=np.float32):
    found = []
    for seed in range(seeds):
        config, state, data = made(settings, seed, dtype)
        found.append((list(train(state, data, plan_of(config))), state))
    return found


def all_rounds(group):
    found = {training: [] for training in group.left}
    while group.left:
        for training, outcome in group.round():
            found[training].append(outcome)
    return [(epochs, training.state) for training, epochs in found.items()]


def group_of(settings, seeds=2, dtype=np.float32):
    several = [made(settings, seed, dtype) for seed in range(seeds)]
    trainings = [Training(state, data, plan_of(config)) for config, state, data in several]
    return Together(trainings, partial(make_optimizer, several[0][0].optimizer))


def tensors(value):
    """All numbers in nested dictionaries, with where they are."""
    if isinstance(value, dict):
        return {(k, *at): t for k, item in value.items() for at, t in tensors(item).items()}
    if isinstance(value, list):
        return tensors(dict(enumerate(value)))
    return {(): value}


def equal(one, other):
    one, other = tensors(one), tensors(other)
    assert one.keys() == other.keys()
    for key, value in one.items():
        same = torch.equal if torch.is_tensor(value) else lambda a, b: a == b
        assert same(value, other[key]), key


def assert_same(found, expected, *, exact=True):
    for (epochs, state), (others, other) in zip(found, expected, strict=True):
        assert [epoch.index for epoch in epochs] == [epoch.index for epoch in others]
        for epoch, theirs in zip(epochs, others, strict=True):
            assert epoch.topology == theirs.topology
            assert epoch.explored == theirs.explored
            for name in ("train_loss", "test_loss", "test_accuracy"):
                tolerance = 0 if exact else 1e-12
                assert epoch.metrics[name] == pytest.approx(theirs.metrics[name], abs=tolerance)
        assert torch.equal(state.dropout.get_state(), other.dropout.get_state())
        for name, rng in state.rngs.items():
            assert rng.bit_generator.state == other.rngs[name].bit_generator.state
        if exact:
            mine, theirs = (s.to_bytes() for s in (state, other))
            equal(*(content(each) for each in (mine, theirs)))


def content(sealed):
    import io

    from topokit.graph.checksums import unseal

    unseal(sealed)
    return torch.load(io.BytesIO(sealed), weights_only=True)


FAST = ("set", "gradients of a batch", "rewired within epochs", "srelu and dropout", "adam")


@pytest.mark.parametrize("name", fast_where(FAST.__contains__, CASES))
def test_runs_together_are_those_alone_bit_for_bit(name):
    assert_same(all_rounds(group_of(CASES[name])), alone(CASES[name]))


def test_double_precision_too():
    found = all_rounds(group_of(DROPOUT, 3, np.float64))
    assert_same(found, alone(DROPOUT, 3, np.float64))


@pytest.mark.parametrize("name", ["set", "dense layers", "srelu and dropout"])
def test_computed_in_one_call_they_differ_by_rounding(name, monkeypatch):
    """The way of a graphics card, here: dense layers and losses of all runs at once."""
    expected = alone(CASES[name], 3, np.float64)
    monkeypatch.setattr(products, "ONE_BY_ONE", ())
    group = group_of(CASES[name], 3, np.float64)
    assert_same(all_rounds(group), expected, exact=False)


@pytest.mark.parametrize("name", ["set", "srelu and dropout", "gradients of a batch", "adam",
                                  "rewired within epochs", "other densities"])  # fmt: skip
def test_recorded_steps_of_all_runs(name, monkeypatch):
    from topokit.nn import fused, kernels
    from topokit.nn.kernels.products import PRODUCTS

    stand_in = StandIn()
    monkeypatch.setattr(kernels, "sparse_product", lambda kind: PRODUCTS["torch"])
    monkeypatch.setattr(fused, "edge_chain", lambda x, layers: None)
    expected = alone(CASES[name])
    monkeypatch.setattr(together, "graphs_of", lambda device: stand_in)
    monkeypatch.setattr(captured, "why_not", without_capturable(captured.why_not))
    original = captured.Steps.__init__

    def begin(self, graphs, model, optimizer, engine, **options):
        stand_in.begin(model, optimizer, engine)
        original(self, graphs, model, optimizer, engine, **options)

    monkeypatch.setattr(captured.Steps, "__init__", begin)
    found = all_rounds(group_of(CASES[name]))
    assert_same(found, expected)
    assert stand_in.replayed > 2
    once = name not in ("other densities",)
    assert (stand_in.recorded == 1) == once
    for epochs, _ in found:
        assert sum(epoch.steps["replayed"] for epoch in epochs) == stand_in.replayed
        for epoch in epochs:
            assert epoch.steps["replayed"] + sum(epoch.steps["one_by_one"].values()) == 7
    looked_at = "steps whose activations the rule looks at" in found[0][0][0].steps["one_by_one"]
    assert looked_at == (name == "gradients of a batch")


@pytest.fixture
def on_the_device(monkeypatch):
    """Rewirings are decided, and products computed, by operations of a device."""
    from topokit.nn import fused, kernels

    monkeypatch.setattr(kernels, "sparse_product", lambda kind: products.PRODUCTS["torch"])
    monkeypatch.setattr(fused, "edge_chain", lambda x, layers: None)
    decide_on("cpu")
    yield
    decide_on("cpu", False)


@pytest.mark.parametrize("name", ["set", "gradients of a batch", "gradients within epochs",
                                  "gradients of many steps", "validation accuracy",
                                  "other densities"])  # fmt: skip
def test_rewiring_stays_on_the_device(name, on_the_device, monkeypatch):
    expected = alone(CASES[name])
    fetched = []
    for kind, method in ((DeviceGraph, "_fetch"), (DeviceUpdate, "source")):
        original = getattr(kind, method)
        call = original.fget if isinstance(original, property) else original

        def read(self, call=call):
            fetched.append(self)
            return call(self)

        again = property(read) if isinstance(original, property) else read
        monkeypatch.setattr(kind, method, again)
    group = group_of(CASES[name])
    found = {training: [] for training in group.left}
    while group.left:
        for training, outcome in group.round():
            assert not isinstance(outcome, Exception)
            found[training].append(outcome)
        if group.left:
            layers = [*group._network.model.children()]
            rewired = [layer.graph for layer in layers if hasattr(layer, "graph")]
            assert all(graph.groups == 2 for graph in rewired)
    assert not fetched
    monkeypatch.undo()
    found = [(epochs, training.state) for training, epochs in found.items()]
    graphs = [graph for epochs, _ in found for e in epochs[1:] for graph in e.topology.values()]
    assert any(isinstance(graph, DeviceGraph) for graph in graphs)
    assert_same(found, expected, exact=False)


def test_runs_that_are_behind_catch_up():
    expected = alone([], 3)
    several = [made([], seed) for seed in range(3)]
    config, state, data = several[1]
    ahead = train(state, data, plan_of(config))
    first = [next(ahead)]
    ahead.close()
    trainings = [Training(state, data, plan_of(config)) for config, state, data in several]
    group = Together(trainings, partial(make_optimizer, config.optimizer))
    sizes = []
    found = {training: [] for training in trainings}
    while group.left:
        done = group.round()
        sizes.append(len(done))
        for training, outcome in done:
            found[training].append(outcome)
    assert sizes == [2, 3, 3]
    found[trainings[1]] = first + found[trainings[1]]
    assert_same([(epochs, training.state) for training, epochs in found.items()], expected)


def test_runs_with_other_numbers_of_samples_take_turns():
    several = [made([f"data.n_train={n}"], seed) for seed, n in enumerate((130, 90, 130))]
    trainings = [Training(state, data, plan_of(config)) for config, state, data in several]
    group = Together(trainings, partial(make_optimizer, several[0][0].optimizer))
    assert [len(group.round()) for _ in range(2)] == [2, 1]
    while group.left:
        group.round()
    again = made(["data.n_train=90"], 1)
    list(train(again[1], again[2], plan_of(again[0])))
    equal(trainings[1].state.model.state_dict(), again[1].model.state_dict())


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "settings", [[], ["rule.name=rigl", "rule.every=1", "epochs=1"], ["rule.every=2"]]
)
def test_a_run_that_diverges_does_not_touch_the_others(settings, which):
    expected = alone(settings, 3)
    group = group_of(settings, 3)
    bad = group.left[which]
    with torch.no_grad():
        bad.state.model.fc2.values.mul_(1e30)
    found = {training: [] for training in group.left}
    while group.left:
        for training, outcome in group.round():
            found[training].append(outcome)
    (error,) = found.pop(bad)
    assert isinstance(error, FloatingPointError)
    assert "the loss became" in str(error)
    assert "(epoch 0); try a learning rate below" in str(error)
    found = [(epochs, training.state) for training, epochs in found.items()]
    assert_same(found, [expected[at] for at in range(3) if at != which])


def test_when_all_diverge():
    group = group_of([])
    for training in group.left:
        with torch.no_grad():
            training.state.model.fc2.values.mul_(1e30)
    outcomes = [outcome for _, outcome in group.round()]
    assert [type(outcome) for outcome in outcomes] == [FloatingPointError] * 2
    assert group.left == []


def test_an_error_of_a_rule_is_that_of_its_run(monkeypatch):
    expected = alone(["rule.every=2"])
    group = group_of(["rule.every=2"], 3)
    bad = group.left[2]

    def fails():
        raise ValueError("no")

    monkeypatch.setattr(bad.engine, "stepped", fails)
    found = {training: [] for training in group.left}
    while group.left:
        for training, outcome in group.round():
            found[training].append(outcome)
    (error,) = found.pop(bad)
    assert str(error) == "no"
    assert_same([(epochs, training.state) for training, epochs in found.items()], expected)


def test_an_error_of_the_whole_ends_all(monkeypatch):
    group = group_of([])

    def fails(self):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(together.Network, "epoch", fails)
    assert [str(error) for _, error in group.round()] == ["out of memory"] * 2
    assert group.left == []


# The pieces.


def test_graphs_side_by_side(rng):
    graphs = [
        LayerGraph.from_edge_ids(rng.choice(12, size, replace=False), (3, 4)) for size in (5, 0, 12)
    ]
    whole = side_by_side(graphs)
    matrices = sp.block_array(
        [[g.to_csr() if i == j else None for j in range(3)] for i, g in enumerate(graphs)]
    )
    assert whole == LayerGraph.from_edge_ids(
        sorted(r * 12 + c for r, c in zip(*matrices.nonzero(), strict=True)), (9, 12)
    )
    assert whole.groups == 3
    pointers, units = (torch.from_numpy(np.array(a)) for a in (graphs[0].indptr, graphs[0].indices))
    ids = torch.from_numpy(np.array(graphs[0].edge_ids))
    longest = max(graphs[0].fan_in), max(graphs[0].fan_out)
    graphs[0] = DeviceGraph((3, 4), ids, units, pointers, longest)
    there = side_by_side(graphs)
    assert isinstance(there, DeviceGraph)
    assert not graphs[0].fetched
    assert not there.fetched
    assert there.longest == (4, 3)
    assert there.ids.tolist() == whole.edge_ids.tolist()
    assert there == whole


@pytest.mark.parametrize("devices", [("cpu",), ()])
@pytest.mark.parametrize("share", [0.6, 1.0])
def test_dense_products_by_groups(rng, devices, share, monkeypatch):
    monkeypatch.setattr(products, "ONE_BY_ONE", devices)
    count, n_out, n_in, batch = 3, 40, 5, 6
    size = int(share * n_out * n_in)
    graphs = [
        LayerGraph.from_edge_ids(rng.choice(n_out * n_in, size, replace=False), (n_out, n_in))
        for _ in range(count)
    ]
    index = EdgeIndex(side_by_side(graphs))
    values, bias = (torch.from_numpy(rng.standard_normal(n)) for n in (3 * size, count * n_out))
    x, g = (torch.from_numpy(rng.standard_normal((count * n, batch))) for n in (n_in, n_out))
    way = products.PRODUCTS["dense"]
    weight = torch.zeros(count * n_out, count * n_in, dtype=torch.float64)
    weight.view(-1)[torch.from_numpy(index.graph.edge_ids)] = values
    closes = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
    closes(way.product(x, values, None, index, False), weight @ x)
    closes(way.product(x, values, bias, index, True), (weight @ x + bias[:, None]).clamp(min=0))
    closes(way.transposed(g, values, index), weight.T @ g)
    dx, dvalues, _ = way.gradients(g, x, values, index, True, True)
    closes(dx, (weight.T @ g) * (x > 0))
    closes(dvalues, (g @ x.T).view(-1)[torch.from_numpy(index.graph.edge_ids)])


def test_dropout_by_several_streams():
    x = torch.ones(6, 7)
    streams = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    whole = dropped_out(x, 0.4, streams)
    for seed, part, mine in zip((3, 4), whole.chunk(2), streams, strict=True):
        other = torch.Generator().manual_seed(seed)
        assert torch.equal(part, dropped_out(torch.ones(3, 7), 0.4, other))
        assert torch.equal(mine.get_state(), other.get_state())


@pytest.mark.parametrize("devices", [("cpu",), ()])
def test_batches_of_several_runs(rng, devices, monkeypatch):
    monkeypatch.setattr(products, "ONE_BY_ONE", devices)
    x, y = rng.random((7, 4), np.float32), rng.integers(0, 3, 7)
    samples = Samples(x, y)
    rngs = [np.random.default_rng(seed) for seed in (5, 6)]
    others = [samples.shuffled(3, np.random.default_rng(seed)) for seed in (5, 6)]
    for batch in shuffled_together([samples, samples], 3, rngs):
        for at, own in enumerate(map(next, others)):
            assert torch.equal(batch.x[:, at], own.x)
            assert torch.equal(batch.y[at], own.y)


def test_which_runs_are_trained_together():
    recipe = load_recipe("set_mlp_digits")
    configs = {f"a{i}": recipe.override([f"seed={i}"]) for i in range(3)}
    configs |= {f"b{i}": recipe.override([f"seed={i}", "epochs=2"]) for i in range(2)}
    configs["rule"] = recipe.override(["rule.name=deep_r", "rule.temperature=1e-6"])
    configs["rbm"] = load_recipe("set_rbm_mnist")
    configs["c"] = recipe.override(["epochs=9"])
    groups, why = grouped(configs, 2)
    assert groups == [("a0", "a1"), ("a2",), ("b0", "b1"), ("rule",), ("rbm",), ("c",)]
    assert why == {
        "rule deep_r takes part in every step": ["rule"],
        "only networks of model set_mlp can be, and theirs is set_rbm": ["rbm"],
        "no other run differs in its seed alone": ["c"],
    }


# Sweeps.

SETTINGS = {
    "epochs": 3, "batch_size": 300, "model.widths": [64, 20, 10], "measures.names": ["fan_in"],
}  # fmt: skip


def small(seeds=(0, 1, 2), **tables):
    base = {"name": "small", "recipe": "set_mlp_digits", "seeds": list(seeds)}
    return study_from({"study": base, "settings": SETTINGS, **tables})


STUDY = small(arms=[{"name": "SET"}, {"name": "net", "settings": {"rule.name": "deep_r",
              "rule.temperature": 1e-6}}])  # fmt: skip


@pytest.fixture(scope="module")
def by_itself(tmp_path_factory):
    return sweep(small(), tmp_path_factory.mktemp("sweeps") / "alone", executor=Here())


def assert_same_runs(folder, expected, names=("seed0", "seed1", "seed2")):
    for name in names:
        mine, other = folder / "runs" / name, expected.directory / "runs" / name
        assert verify(mine).intact
        assert {p.name for p in mine.rglob("*")} == {p.name for p in other.rglob("*")}
        one, two = (read_checkpoint(path / "checkpoint.pt") for path in (mine, other))
        equal(one, two)
        one, two = (History.load(path) for path in (mine, other))
        for epoch in one.recorded:
            assert one.topology(epoch) == two.topology(epoch)
        assert one.epochs.drop(columns="seconds").equals(two.epochs.drop(columns="seconds"))
        assert one.measures.equals(two.measures)
        assert {**one.environment, "started": ""} == {**two.environment, "started": ""}


def test_a_sweep_together_is_the_same_sweep(tmp_path, by_itself):
    executor = Here()
    result = sweep(small(), tmp_path / "s", executor=executor, together=10)
    assert executor.sizes == [3]
    assert result.failures == {}
    pd.testing.assert_frame_equal(result.frame, by_itself.frame, check_exact=True)
    assert_same_runs(tmp_path / "s", by_itself)


def test_other_runs_go_one_by_one_and_that_is_said(tmp_path, caplog):
    executor = Here()
    with caplog.at_level(logging.INFO, logger="topokit.experiments"):
        result = sweep(STUDY, tmp_path / "s", executor=executor, together=2)
    assert executor.sizes == [2, 1, 1, 1, 1]
    assert not result.failures
    assert result.frame["run"].nunique() == 6
    said = "trained one by one: net-seed0, net-seed1, net-seed2 (rule deep_r takes part in every"
    assert said in caplog.text


def test_refused_before_work_starts(tmp_path):
    one = small(seeds=[0])
    with pytest.raises(ValueError, match=r"that can be trained together \(seed0: no other run"):
        sweep(one, tmp_path / "s", executor=Here(), together=2)
    cnn = small(arms=[{"name": "a", "settings": {"rule.name": "sensitivity"}}])
    with pytest.raises(ValueError, match="rule sensitivity adds up the gradients of all steps"):
        sweep(cnn, tmp_path / "s", executor=Here(), together=2)
    with pytest.raises(ValueError, match="together: expected at least 1, got 0"):
        sweep(small(), tmp_path / "s", executor=Here(), together=0)
    assert not (tmp_path / "s").exists()


def interrupted(monkeypatch, error, *, name, epoch):
    """Let the record of an epoch of a run fail, once it is written but for the checkpoint."""
    original = RunDirectory.write

    def write(self, file, content):
        last = read_lines(self)
        if file == "checkpoint.pt" and self.name == name and last == epoch:
            raise error
        original(self, file, content)

    def read_lines(run):
        return len(run.read().lines) - 1 if (run.path / "record.jsonl").exists() else -1

    monkeypatch.setattr(RunDirectory, "write", write)


def test_an_interrupted_sweep_goes_on_alone_or_together(tmp_path, by_itself):
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, KeyboardInterrupt(), name="seed1", epoch=1)
        with pytest.raises(KeyboardInterrupt):
            sweep(small(), tmp_path / "s", executor=Here(), together=3)
    runs = {name: RunDirectory(tmp_path / "s/runs" / name) for name in ("seed0", "seed1", "seed2")}
    assert [len(run.read().lines) for run in runs.values()] == [2, 2, 1]
    assert [read_checkpoint(run.checkpoint)["epoch"] for run in runs.values()] == [2, 1, 1]
    resume(runs["seed2"].path)  # alone
    result = sweep(small(), tmp_path / "s", executor=Here(), together=3)
    assert result.failures == {}
    assert_same_runs(tmp_path / "s", by_itself)


def test_begun_alone_and_finished_together(tmp_path, by_itself):
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, KeyboardInterrupt(), name="seed1", epoch=2)
        with pytest.raises(KeyboardInterrupt):
            sweep(small(), tmp_path / "s", executor=Here())
    result = sweep(small(), tmp_path / "s", executor=Here(), together=3)
    assert result.failures == {}
    assert_same_runs(tmp_path / "s", by_itself)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), FloatingPointError("No space left"),
     SystemExit("No space left")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_a_run_that_cannot_be_recorded_fails_by_itself(tmp_path, by_itself, error):
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, error, name="seed1", epoch=1)
        result = sweep(small(), tmp_path / "s", executor=Here(), together=3)
    assert list(result.failures) == ["seed1"]
    assert "No space left" in result.failures["seed1"]
    assert_same_runs(tmp_path / "s", by_itself, ["seed0", "seed2"])
    result = sweep(small(), tmp_path / "s", executor=Here(), together=3)
    assert result.failures == {}
    assert_same_runs(tmp_path / "s", by_itself)


def test_a_run_that_another_process_writes(tmp_path, by_itself, monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE", 0.05)
    sweep(small(seeds=[1]), tmp_path / "s", executor=Here(), until=None)
    for path in (tmp_path / "s/runs/seed1").glob("*"):
        if path.name in ("DONE", "timing.json") or path.suffix == ".parquet":
            path.unlink()
    with RunDirectory(tmp_path / "s/runs/seed1").lock():
        result = sweep(small(), tmp_path / "s", executor=Here(), together=3)
    assert list(result.failures) == ["seed1"]
    assert "another process is writing to the run" in result.failures["seed1"]
    result = sweep(small(), tmp_path / "s", executor=Here(), together=3)  # all epochs are there
    assert result.failures == {}
    assert_same_runs(tmp_path / "s", by_itself)


def test_a_diverging_run_says_where_its_last_state_is(tmp_path, by_itself, monkeypatch):
    original = worker.run_several

    def poisoned(course):
        if course.directory.name == "seed1":
            with torch.no_grad():
                course.state.model.fc1.values.mul_(1e30)
        return EpochRecorder(course.directory, course.config, course.state)

    monkeypatch.setattr(together, "recorder_of", poisoned)
    assert original is worker.run_several
    result = sweep(small(), tmp_path / "s", executor=Here(), together=3)
    assert list(result.failures) == ["seed1"]
    assert "the loss became" in result.failures["seed1"]
    assert "no epoch was finished in" in result.failures["seed1"]
    assert_same_runs(tmp_path / "s", by_itself, ["seed0", "seed2"])


def test_time_that_is_up(tmp_path, by_itself):
    import datetime as dt

    past = dt.datetime(2020, 1, 1)
    result = sweep(small(), tmp_path / "s", executor=Here(), together=3, until=past)
    assert result.unfinished == ("seed0", "seed1", "seed2")
    assert not (tmp_path / "s/runs").exists()
    with pytest.MonkeyPatch.context() as patch:
        asked = iter([False, False, True])
        patch.setattr(worker, "_is_past", lambda until: next(asked))
        result = sweep(small(), tmp_path / "s", executor=Here(), together=3, until=past)
    assert result.unfinished == ("seed0", "seed1", "seed2")
    assert [len(RunDirectory(p).read().lines) for p in (tmp_path / "s/runs").glob("*")] == [1] * 3
    sweep(small(), tmp_path / "s", executor=Here(), together=3)
    assert_same_runs(tmp_path / "s", by_itself)


def test_a_lost_worker_is_said_of_each_run(tmp_path):
    from topokit.experiments.sweep import _run_all

    class Dies(Executor):
        def submit(self, fn, /, *args):
            future = Future()
            for task in args:
                Path(task.directory).mkdir(exist_ok=True)
            future.set_exception(BrokenProcessPool("died"))
            return future

    tasks = {name: worker.Task(str(tmp_path / name), "", None, ()) for name in ("a", "b")}
    ended = []
    failures = _run_all(
        tasks, [("a", "b")], lambda: nullcontext(Dies()), lambda *of: ended.append(of)
    )
    assert failures == dict.fromkeys(("a", "b"), "its worker died 3 times: died")
    assert len(ended) == 2


def test_at_the_command_line(tmp_path, capsys, monkeypatch):
    study = tmp_path / "study.toml"
    study.write_text(small().to_toml(), encoding="utf-8")
    from topokit.experiments import sweep as sweeping

    monkeypatch.setattr(sweeping, "choose_pool", lambda *options: nullcontext(Here()))
    out = str(tmp_path / "s")
    arguments = ["sweep", str(study), "--out", out, "--together", "2", "--device", "cpu"]
    assert main([*arguments, "--workers", "1"]) == 0
    assert "3 runs done, 0 failed" in capsys.readouterr().out
    assert main(["sweep", str(study), "--out", out, "--gather", "--together", "2"]) == 2
    assert "expected --gather alone" in capsys.readouterr().err
