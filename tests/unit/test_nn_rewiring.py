"""Rewirings decided on a device, compared with those of the CPU edge for edge.

There is no card here: the same operations run on the CPU's tensors, where `decide_on` allows it.
"""

import copy
import itertools
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from topokit.experiments import captured, loop
from topokit.experiments.config import load_recipe
from topokit.experiments.record import History
from topokit.experiments.runs import run
from topokit.graph import EdgeUpdate, LayerGraph, philox, same_edges
from topokit.nn import SparseConv2d, SparseLinear, rewiring, sparse_layers
from topokit.nn.engine import attach
from topokit.nn.kernels import card
from topokit.nn.kernels.graphs import DeviceGraph, DeviceUpdate
from topokit.nn.rewiring import Draw, decide, decide_on, fits, numbers, subsets
from topokit.nn.rule_data import RuleData
from topokit.rules import RULES, UpdateRule, drop, grow
from topokit.rules.stream import Stream

CPU = torch.device("cpu")
TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
CASES = {
    "set": {},
    "set from a normal law": {"init": "normal"},
    "set_magnitude": {},
    "set_magnitude from a uniform law": {"init": "he_uniform"},
    "random": {"init": "glorot"},
    "static": {},
}


def rule_of(case):
    return RULES[case.split()[0]](**CASES[case])


@pytest.fixture(autouse=True)
def on_the_device():
    decide_on("cpu")
    yield
    decide_on("cpu", False)


# Random numbers.


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_numbers_are_those_of_the_compiled_function(key, half):
    ours = numbers(torch.tensor([[key & 0xFFFFFFFF], [key >> 32]]), torch.tensor([half]))
    theirs = philox.pair(np.uint64(key), np.uint64(half))
    assert [value % 2**64 for value in ours[0].tolist()] == [int(value) for value in theirs]


@st.composite
def draws(draw):
    n = draw(st.one_of(st.integers(1, 40), st.integers(1, 2**33), st.integers(1, 2**60)))
    k = draw(st.integers(0, min(n, 60)))
    return Draw(draw(st.integers(0, 2**64 - 1)), n, k)


@given(st.lists(draws(), max_size=4), st.booleans())
def test_subsets_are_those_of_the_stream(wanted, wait):
    found, missing = subsets(wanted, CPU, wait=wait)
    assert not missing
    for own, chosen in zip(wanted, found, strict=True):
        assert chosen.tolist() == Stream(own.key).subset(own.n, own.k).tolist()


def test_too_few_numbers_are_noticed_and_more_are_drawn(monkeypatch):
    monkeypatch.setattr(rewiring, "enough", lambda n, k: 1)
    few, missing = subsets([Draw(3, 50, 9), Draw(4, 50, 1)], CPU)
    assert missing
    assert [len(chosen) for chosen in few] == [9, 1]
    for wanted in ([Draw(3, 50, 9)], [Draw(3, 50, 44), Draw(5, 50, 2)]):
        found, missing = subsets(wanted, CPU, wait=True)
        assert not missing
        assert found[0].tolist() == Stream(3).subset(50, wanted[0].k).tolist()


# One rewiring.


def graphs_of(rng, densities, widths):
    """Random graphs: some rows without edges, and one with all."""
    graphs = []
    for density, (n_in, n_out) in zip(densities, itertools.pairwise(widths), strict=True):
        cells = rng.random((n_out, n_in)) < density
        if density < 0.9:
            cells[rng.integers(n_out)] = True
            cells[rng.integers(n_out)] = False
        cells[0, 0] = True
        graphs.append(LayerGraph.from_edge_ids(np.flatnonzero(cells), (n_out, n_in)))
    return graphs


def layers_of(rng, graphs, dtype, *, ties=True):
    layers = {}
    for i, graph in enumerate(graphs):
        values = rng.standard_normal(graph.n_edges)
        if ties:
            values = (values * 3).round() / 4 * np.where(rng.random(graph.n_edges) < 0.5, 1, -1)
        layer = SparseLinear(graph, rng=0).to(dtype)
        layer.values.data = torch.from_numpy(values).to(dtype)
        layers[f"fc{i}"] = layer
    return layers


def data_of(layers, rule):
    return RuleData(nn.ModuleDict(layers), layers, rule, samples=None, decay=0.9,
                    track_explored=False)  # fmt: skip


def both(layers, rule, seed=0, fixed=(), growing=True, fraction=0.3):
    """The changes of a device and those of the CPU, after checking that they are the same."""
    streams = [np.random.default_rng(seed) for _ in range(2)]
    share = {"drop_fraction": fraction, "progress": 0.5, "fixed": fixed, "growing": growing}
    assert fits(rule, layers.values())
    ours = decide(data_of(layers, rule), rule, rng=streams[0], **share)
    decide_on("cpu", False)
    theirs = decide(data_of(layers, rule), rule, rng=streams[1], **share)
    decide_on("cpu")
    assert streams[0].bit_generator.state == streams[1].bit_generator.state
    assert list(ours) == list(theirs)
    for name, (update, values) in ours.items():
        other, expected = theirs[name]
        assert isinstance(update, DeviceUpdate)
        assert not isinstance(other, DeviceUpdate)
        assert (update.n_grown, update.n_dropped) == (other.n_grown, other.n_dropped)
        assert update == other
        assert update.after.n_edges == len(update.after.indices)
        assert update.after.longest == (max(other.after.fan_in), max(other.after.fan_out))
        assert torch.equal(values, torch.from_numpy(expected).to(values.dtype))
        assert values.dtype == layers[name].values.dtype
    return ours


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", CASES)
def test_changes_are_those_of_the_cpu(case, dtype):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        layers = layers_of(rng, graphs_of(rng, (0.2, 0.5, 0.98), (9, 14, 12, 7)), dtype)
        for options in ({}, {"growing": False}, {"fixed": {"fc1"}}, {"fraction": 1.0}):
            changes = both(layers, rule_of(case), seed, **options)
            assert ("fc1" in changes) == (case != "static" and "fixed" not in options)


@given(st.data())
def test_any_small_layer(data):
    n_out, n_in = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    ids = sorted(data.draw(st.sets(st.integers(0, n_out * n_in - 1), min_size=1)))
    graph = LayerGraph.from_edge_ids(ids, (n_out, n_in))
    number = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, float("inf"), 1e-300])
    values = data.draw(st.lists(number, min_size=len(ids), max_size=len(ids)))
    layer = SparseLinear(graph, rng=0).double()
    layer.values.data = torch.tensor(values, dtype=torch.float64)
    case = data.draw(st.sampled_from([*CASES]))
    fraction = data.draw(st.sampled_from([0.3, 0.7, 1.0]))
    growing = fraction < 1 or data.draw(st.booleans())
    if not growing and graph.n_absent and case != "static":
        return  # would leave no edge
    both({"fc0": layer}, rule_of(case), data.draw(st.integers(0, 9)), fraction=fraction)


def test_complete_layers_and_none_that_moves(rng):
    whole = LayerGraph.from_edge_ids(range(12), (3, 4))
    layers = layers_of(rng, [whole], torch.float32)
    assert both(layers, rule_of("set")) == {}
    layers = layers_of(rng, [whole, *graphs_of(rng, (0.5,), (8, 9))], torch.float32)
    assert list(both(layers, rule_of("set"))) == ["fc1"]
    assert both(layers, rule_of("set"), fixed={"fc0", "fc1"}) == {}


@pytest.mark.parametrize("case", ["set", "random"])
def test_changes_do_not_depend_on_how_many_numbers_are_drawn(case, rng, monkeypatch):
    layers = layers_of(rng, graphs_of(rng, (0.2, 0.6), (9, 14, 12)), torch.float32)
    tried, original = [], rewiring._first_distinct
    monkeypatch.setattr(rewiring, "enough", lambda n, k: max(1, k // 4))
    monkeypatch.setattr(
        rewiring, "_first_distinct", lambda *args: tried.append(0) or original(*args)
    )
    both(layers, rule_of(case))
    assert len(tried) > 2


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda u: pickle.loads(pickle.dumps(u))]
)
def test_changes_can_be_copied(copied, rng):
    layers = layers_of(rng, graphs_of(rng, (0.3,), (9, 8)), torch.float32)
    ((update, _),) = both(layers, RULES["set"]()).values()
    again = copied(update)
    assert again == update
    assert np.array_equal(again.source, update.source)
    assert again.n_grown == update.n_grown


def test_large_layers_and_the_last_free_places(rng):
    n = 300
    absent = rng.choice(n * n, 5, replace=False)
    nearly = LayerGraph.from_edge_ids(np.setdiff1d(np.arange(n * n), absent), (n, n))
    sparse = LayerGraph.from_edge_ids(np.unique(rng.integers(0, 10**9, 4000)), (10**4, 10**5))
    layers = layers_of(rng, [nearly, sparse], torch.float32, ties=False)
    for case in ("set", "set_magnitude", "random"):
        both(layers, rule_of(case), fraction=0.3)


# What is refused, and what the CPU decides.


def test_errors_are_those_of_the_cpu(rng):
    layers = layers_of(rng, graphs_of(rng, (0.4,), (9, 8)), torch.float32)
    layers["fc0"].values.data[3] = float("nan")
    for case in ("set", "set_magnitude"):
        data, rule = data_of(layers, rule_of(case)), rule_of(case)
        with pytest.raises(ValueError, match="without nan; did training diverge"):
            decide(data, rule, drop_fraction=0.3, progress=0.0, rng=rng, fixed=())
    rule = rule_of("random")
    with pytest.raises(ValueError, match="at least one edge to stay in layer 'fc0'"):
        decide(data_of(layers, rule), rule, drop_fraction=1.0, progress=0.0, rng=rng, fixed=(),
               growing=False)  # fmt: skip
    rule = UpdateRule(drop.nothing, grow.uniform)
    with pytest.raises(ValueError, match="the static rule keeps every edge"):
        decide(data_of(layers, rule), rule, drop_fraction=0.3, progress=0.0, rng=rng, fixed=())


def mine(view, n, rng):
    return drop.smallest_magnitude(view, n, rng)


def test_what_is_decided_by_the_cpu(rng):
    graph = graphs_of(rng, (0.4,), (9, 8))[0]
    plain = [SparseLinear(graph, rng=0)]
    assert fits(RULES["set"](), plain)
    others = [
        RULES["set"](removal="official"), RULES["set"](init="half_std"), RULES["deep_r"](),
        RULES["itop"](growth="unfired"), RULES["gmp"](final_density=0.1), RULES["path_weight"](),
        UpdateRule(mine, grow.uniform), UpdateRule(drop.random, grow.uniform, init=mine),
        UpdateRule(drop.random, grow.uniform, needs=("gradient",)),
        UpdateRule(drop.random, grow.uniform, plan=lambda views, **share: {}),
    ]  # fmt: skip
    assert not any(fits(rule, plain) for rule in others)
    grouped = SparseConv2d(LayerGraph.from_edge_ids([0], (4, 4), 2), 1, groups=2, rng=0)
    numbers_of_two = SparseLinear(graph, rng=0)
    numbers_of_two.values = nn.Parameter(numbers_of_two.values.detach().to(torch.complex64))
    for layers in ([grouped], [numbers_of_two], []):
        assert not fits(RULES["set"](), layers)
    twice = [SimpleNamespace(values=torch.ones(1), groups=1, n_out=2**31, n_in=2**30)] * 2
    assert not fits(RULES["set"](), twice)
    decide_on("cpu", False)
    assert not fits(RULES["set"](), plain)
    layers = {"fc0": plain[0]}
    decide_on("cpu")
    rule = RULES["set"]()
    options = {"drop_fraction": 0.3, "progress": 0.0, "fixed": ()}
    for alone in (True, False):
        (change,) = decide(data_of(layers, rule), rule, rng=rng, alone=alone, **options).values()
        assert isinstance(change[0], DeviceUpdate) == alone


def test_rows_of_memory_are_checked_when_they_are_fetched():
    ids, pointers = torch.tensor([4, 0]), torch.tensor([0, 1, 2])
    broken = DeviceGraph((2, 3), ids, torch.tensor([1, 5], dtype=torch.int32), pointers, (1, 1))
    with pytest.raises(ValueError, match=r"expected input units in 0\.\.2"):
        _ = broken.indices


# In a training loop.


def network(seed, dtype=torch.float64, widths=(12, 20, 15, 6)):
    rng = np.random.default_rng(seed)
    graphs = graphs_of(rng, (0.3, 0.5, 0.8), widths)
    parts = [SparseLinear(graph, rng=rng).to(dtype) for graph in graphs]
    return nn.Sequential(parts[0], nn.ReLU(), parts[1], nn.ReLU(), parts[2])


def trained(there, optimizer, rule="set", steps=5, seed=0, **options):
    decide_on("cpu", there)
    model = network(seed)
    optimizer = optimizer(model.parameters())
    engine = attach(model, optimizer, rule, every=1, rng=seed, **options)
    average = engine.average(copy.deepcopy(model))
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((8, 12)))
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model, optimizer, engine, average


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


@pytest.mark.parametrize("grown_state", ["neutral", "zero"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_belongs_to_edges_moves_with_them(name, grown_state):
    for rule, seed in (("set", 0), ("set_magnitude", 1), ("random", 2)):
        options = {"rule": rule, "seed": seed, "grown_state": grown_state}
        runs = [trained(there, OPTIMIZERS[name], **options) for there in (True, False)]
        (model, optimizer, engine, average), (other, theirs, cpu, mean) = runs
        assert all(isinstance(update, DeviceUpdate) for update in engine.last.values())
        pairs = zip(sparse_layers(model).values(), sparse_layers(other).values(), strict=True)
        for own, expected in pairs:
            assert torch.equal(own.values, expected.values)
            a, b = optimizer.state[own.values], theirs.state[expected.values]
            for entry in b.keys() - {"graph"}:
                assert torch.equal(torch.as_tensor(a[entry]), torch.as_tensor(b[entry])), entry
        for a, b in ((model, other), (average, mean)):
            assert a.state_dict().keys() == b.state_dict().keys()
            for entry, tensor in b.state_dict().items():
                assert torch.equal(a.state_dict()[entry], tensor)
        assert engine.last == cpu.last
        assert engine.topology == cpu.topology
        stamps = [[s.get("graph") for s in o.state_dict()["state"].values()]
                  for o in (optimizer, theirs)]  # fmt: skip
        assert stamps[0] == stamps[1]
        ours, expected = engine.state_dict(), cpu.state_dict()
        assert {**ours, "memory": 0} == {**expected, "memory": 0}
        engine.load_state_dict(expected)


@pytest.fixture
def arrays_of_a_device(monkeypatch):
    from topokit.nn import fused, kernels
    from topokit.nn.kernels.products import PRODUCTS

    monkeypatch.setattr(kernels, "sparse_product", lambda kind: PRODUCTS["torch"])
    monkeypatch.setattr(fused, "edge_chain", lambda x, layers: None)


def test_nothing_is_fetched_until_somebody_reads(arrays_of_a_device):
    model, _, engine, _ = trained(True, OPTIMIZERS["sgd"])
    graphs = engine.topology
    assert all(isinstance(graph, DeviceGraph) for graph in graphs.values())
    updates = engine.last
    for name, update in updates.items():
        assert update.after is graphs[name]
        assert not update.before.fetched
        assert not update.after.fetched
    for layer in sparse_layers(model).values():
        layer.index.on(CPU, card.by_output), layer.index.on(CPU, card.by_input)
        layer.index.flat(CPU)
    assert not any(graph.fetched for graph in graphs.values())
    for name, graph in graphs.items():
        own = pickle.loads(pickle.dumps(graph))
        assert type(own) is LayerGraph
        assert own == graph
        assert hash(own) == hash(graph)
        assert updates[name] == EdgeUpdate(updates[name].before, own, updates[name].source)
        np.testing.assert_array_equal(updates[name].grown, updates[name].source < 0)


def test_edges_explored_within_epochs_are_known_at_the_end_of_one(monkeypatch):
    def run_of(there, most):
        monkeypatch.setattr("topokit.nn.rule_data.MOST_WAITING", most)
        decide_on("cpu", there)
        model = network(0)
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        from topokit.nn.engine import Engine
        from topokit.rules import Rewiring

        options = Rewiring(every=1)
        engine = Engine(model, optimizer, RULES["set"](), options, track_explored=True,
                        rng=np.random.default_rng(0))  # fmt: skip
        for _ in range(6):
            model(torch.ones(2, 12, dtype=torch.float64)).sum().backward()
            optimizer.step()
        waiting = sum(len(ids) for ids in engine._data._grown.values())
        found = engine.explored, {n: v.tolist() for n, v in engine.memory["explored"].items()}
        saved = engine.state_dict()["memory"]["explored"]
        assert found[1] == {n: v.tolist() for n, v in saved.items()}
        return found, waiting

    expected, waiting = run_of(False, 4)
    assert waiting == 0
    for most in (4, 0):
        found, waiting = run_of(True, most)
        assert found == expected
        assert (waiting > 0) == (most > 0)


class Count(TorchDispatchMode):
    """Counts what would be launched on a card."""

    views = ("view", "slice", "select", "split", "split_with_sizes", "unsqueeze", "expand", "t",
             "detach", "alias", "transpose", "reshape", "_unsafe_view")  # fmt: skip
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ not in self.views
        return function(*args, **(kwargs or {}))


def test_few_operations_and_two_waits():
    rng = np.random.default_rng(0)
    counts = {}
    for n_layers in (1, 3):
        widths = (30,) * (n_layers + 1)
        layers = layers_of(rng, graphs_of(rng, (0.3,) * n_layers, widths), torch.float32)
        rule = RULES["set"]()
        with Count() as seen:
            decide(data_of(layers, rule), rule, drop_fraction=0.3, progress=0.0, rng=rng, fixed=())
        counts[n_layers] = seen.count
    assert counts[1] < 215
    assert counts[3] - counts[1] < 2 * 40


RUN = ["epochs=4", "model.widths=[64,20,14,10]", "data.n_train=90", "data.n_test=20",
       "batch_size=20", "topology.epsilon=3", "seed=3"]  # fmt: skip
SETTINGS = {
    "set": [],
    "set within epochs": ["rule.every=2"],
    "magnitude": ["rule.name=set_magnitude", "rule.init=normal"],
    "random": ["rule.name=random"],
    "removing at the end": ["rule.final=drop"],
}


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.slow
def test_runs_are_those_of_the_cpu(name, recorded, tmp_path, arrays_of_a_device, monkeypatch):
    if recorded:
        from tests.unit.test_experiments_captured import StandIn

        stand_in, original = StandIn(), captured.Steps.__init__
        monkeypatch.setattr(loop, "graphs_of", lambda device: stand_in)

        def begin(self, graphs, model, optimizer, engine, **options):
            stand_in.begin(model, optimizer, engine)
            original(self, graphs, model, optimizer, engine, **options)

        monkeypatch.setattr(captured.Steps, "__init__", begin)
    config = load_recipe("set_mlp_digits").override([*RUN, *SETTINGS[name]])
    histories = []
    for there in (True, False):
        decide_on("cpu", there)
        run(config, tmp_path / str(there))
        histories.append(History.load(tmp_path / str(there)))
    ours, theirs = histories
    for frame, others in (("epochs", ["run", "seconds"]), ("measures", ["run"])):
        own, other = (getattr(h, frame).drop(columns=others) for h in histories)
        assert own.equals(other)
    for epoch in theirs.epochs["epoch"]:
        for layer, graph in theirs.topology(epoch).items():
            assert same_edges(ours.topology(epoch)[layer], graph)
    if recorded:
        assert stand_in.replayed > 10
