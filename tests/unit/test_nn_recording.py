"""Decisions of rewirings that are recorded and replayed, without a card.

The stand-in for a CUDA graph keeps the memory of the first call: a replay reads its inputs there
and writes its results there, whoever else has that memory.
"""

import gc
import itertools
import logging
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from tests.unit.test_nn_rewiring import Count, data_of, graphs_of, layers_of, rule_of
from topokit.nn import choices, rewiring, sparse_layers
from topokit.nn.choices import words
from topokit.nn.engine import attach
from topokit.nn.kernels.graphs import DeviceUpdate, Row, Sizes
from topokit.nn.kernels.recording import CudaGraphs, Recorded
from topokit.nn.models import set_mlp
from topokit.nn.rewiring import decide, decide_on
from topokit.rules import drop


class Memory:
    """In place of CUDA graphs: results stay in the memory of the recorded call."""

    def __init__(self, fail=False):
        self.apart_calls = self.recorded = self.replayed = 0
        self.fail = fail

    def apart(self, call):
        self.apart_calls += 1
        return call()

    def record(self, call, generators):
        if self.fail:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        self.recorded += 1
        held = dict(zip(call.__code__.co_freevars, call.__closure__, strict=True))
        inputs, results = (held[name].cell_contents for name in ("own", "results"))
        there = [each.data_ptr() for each in inputs]
        call()
        memory = list(results)
        for each in memory:
            each.fill_(1)  # recording computes nothing

        def replay():
            assert [each.data_ptr() for each in inputs] == there
            self.replayed += 1
            with _disable_current_modes():
                call()
                for old, new in zip(memory, results, strict=True):
                    old.copy_(new)
                results[:] = memory

        return replay


@pytest.fixture
def memory(monkeypatch):
    made = Memory()
    monkeypatch.setattr(rewiring, "graphs_of", lambda device: made)
    decide_on("cpu")
    yield made
    decide_on("cpu", False)


def test_a_function_is_recorded_at_its_second_call():
    graphs, made = Memory(), []
    recorded = Recorded(graphs)

    def make():
        made.append(0)
        return lambda x, y: [x + y, x > y]

    kept = []
    for i in range(5):
        results = recorded("sum", make, [torch.tensor([1.0, i]), torch.tensor([2.0, 1.0])])
        kept.append((results, [[3.0, i + 1.0], [False, i > 1]]))
    assert [[each.tolist() for each in results] for results, _ in kept] == [e for _, e in kept]
    assert (graphs.apart_calls, graphs.recorded, graphs.replayed, len(made)) == (1, 1, 4, 1)
    (other,) = recorded("minus", lambda: lambda x: [-x], [torch.ones(1)])
    assert other.tolist() == [-1]
    recorded("sum", make, [torch.zeros(2), torch.zeros(2)])  # forgotten meanwhile
    assert (graphs.apart_calls, graphs.recorded, graphs.replayed, len(made)) == (3, 1, 4, 2)


def test_what_cannot_be_recorded_is_called_as_usual(caplog):
    recorded = Recorded(Memory(fail=True))
    with caplog.at_level(logging.WARNING):
        found = [recorded("key", lambda: lambda x: [2 * x], [torch.ones(1)]) for _ in range(4)]
    assert [each.tolist() for (each,) in found] == [[2.0]] * 4
    assert recorded.why == "torch could not record it (operation not permitted)"
    assert len(caplog.messages) == 1


def test_a_call_that_failed_does_not_count_as_the_first():
    graphs = Memory()
    recorded, fails = Recorded(graphs), [True, False, False]

    def make():
        def twice(x):
            if fails and fails.pop(0):
                raise RuntimeError("out of memory")
            return [2 * x]

        return twice

    with pytest.raises(RuntimeError, match="out of memory"):
        recorded("key", make, [torch.ones(1)])
    for expected in ((2, 0), (2, 1), (2, 1)):
        (found,) = recorded("key", make, [torch.ones(1)])
        assert found.tolist() == [2.0]
        assert (graphs.apart_calls, graphs.recorded) == expected
    assert recorded.why == ""


class Card:
    """In place of ``torch.cuda``: two cards, each with a current stream, of which one is current.

    As torch does, a stream is set together with its card, and a recording that fails leaves its own
    stream set.
    """

    def __init__(self, monkeypatch):
        self.at, self.streams, self.notes = 0, [self.made(i, f"main {i}") for i in range(2)], []
        self.generators_on = []  # the cards where memory was taken for them
        for name in ("Stream", "CUDAGraph", "current_stream", "set_stream", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "device", self.device)

    def made(self, index, name):
        def wait_stream(other):
            self.notes.append(f"{name} waits for {other.name}")

        return SimpleNamespace(index=index, name=name, wait_stream=wait_stream)

    def Stream(self, device):
        return self.made(device.index, "own")

    def CUDAGraph(self):
        def register_generator_state(generator):
            self.generators_on.append(self.at)

        return SimpleNamespace(register_generator_state=register_generator_state)

    def current_stream(self, device=None):
        return self.streams[self.at if device is None else device.index]

    def set_stream(self, stream):
        self.at, self.streams[stream.index] = stream.index, stream

    @contextmanager
    def device(self, device):
        before, self.at = self.at, device.index
        try:
            yield
        finally:
            self.at = before

    @contextmanager
    def stream(self, stream):
        at, before = self.at, self.streams[stream.index]
        self.set_stream(stream)
        try:
            yield
        finally:
            self.set_stream(before)
            self.at = at

    @contextmanager
    def graph(self, graph, *, stream):
        assert self.at == stream.index  # torch waits for the current card's work
        before = self.current_stream()
        self.set_stream(stream)
        yield
        self.set_stream(before)


@pytest.mark.parametrize("fail", [False, True])
def test_streams_and_cards_are_those_of_before_after_recording(fail, monkeypatch):
    card = Card(monkeypatch)
    graphs, seen = CudaGraphs(torch.device("cuda", 1)), []
    generator = SimpleNamespace(device=torch.device("cuda", 1))

    def call():
        seen.append((card.at, card.current_stream().name, gc.isenabled()))
        if fail:
            raise RuntimeError("operation not permitted when stream is capturing")

    for each in (graphs.apart, lambda call: graphs.record(call, [generator])):
        if fail:
            with pytest.raises(RuntimeError, match="not permitted"):
                each(call)
        else:
            each(call)
        assert (card.at, [each.name for each in card.streams]) == (0, ["main 0", "main 1"])
        assert gc.isenabled()
    # Python must not end another recording, held by a cycle, while one is made.
    assert seen == [(1, "own", True), (1, "own", False)]
    assert card.generators_on == [1]
    assert card.notes == ["own waits for main 1", "main 1 waits for own"]


def rewired(rule, there, *, times=6, dtype=torch.float32, params=(), **options):
    """Every change of a network that is rewired some times, and its last state."""
    decide_on("cpu", there)
    rng = np.random.default_rng(0)
    graphs = graphs_of(rng, (0.2, 0.3, 0.98), (14, 20, 16, 9))
    topology = {f"fc{i + 1}": graph for i, graph in enumerate(graphs)}
    model = set_mlp(topology, rng=0).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    engine = attach(model, optimizer, rule, every=10**6, rng=1, **options, **dict(params))
    x = torch.from_numpy(rng.standard_normal((times, 8, 14))).to(dtype)
    changes = []
    for batch in x:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        for layer in sparse_layers(model).values():  # with ties
            layer.values.data.mul_(8).round_().div_(8)
        changes.append(engine.rewire())
    decide_on("cpu")
    return changes, {name: value.tolist() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("rule", "params", "dtype"),
    [
        ("set", {}, torch.float64),
        ("set", {"init": "normal"}, torch.float32),
        ("set_magnitude", {"init": "he_uniform"}, torch.bfloat16),
    ],
)
def test_replays_choose_what_the_cpu_chooses(memory, rule, params, dtype):
    ours, state = rewired(rule, True, dtype=dtype, params=params)
    theirs, other = rewired(rule, False, dtype=dtype, params=params)
    assert (memory.apart_calls, memory.recorded, memory.replayed) == (1, 1, 5)
    assert all(isinstance(u, DeviceUpdate) for change in ours for u in change.values())
    assert ours == theirs  # all of them, also those made before the last replays
    assert state == other
    for change in ours:
        for update in change.values():
            graph = update.after
            columns, rows, positions = (each.numpy() for each in graph.transposed)
            by_input = graph.to_csr(np.arange(graph.n_edges)).tocsc()
            assert np.array_equal(columns, by_input.indptr)
            assert np.array_equal(rows, by_input.indices)
            assert np.array_equal(positions, by_input.data)


def test_other_numbers_of_edges_are_recorded_anew(memory):
    shares = itertools.cycle([0.1, 0.1, 0.1, 0.4, 0.4, 0.4])
    drawn = [next(shares) for _ in range(6)]
    options = {"schedule": lambda step, total: drawn[min(step, 5)], "total": 10**7}
    ours, _ = rewired("set", True, **options)
    theirs, _ = rewired("set", False, **options)
    assert ours == theirs
    assert memory.replayed + memory.apart_calls == 6


def test_too_few_numbers_are_noticed_after_a_replay(memory, monkeypatch):
    theirs, _ = rewired("set", False)
    original = choices.enough
    monkeypatch.setattr(choices, "enough", lambda n, k: original(n, k) // 3)
    ours, _ = rewired("set", True)
    assert ours == theirs
    assert memory.apart_calls > 1


def test_large_networks_are_not_recorded(memory, monkeypatch):
    theirs, _ = rewired("set", False)
    monkeypatch.setattr(rewiring, "MOST_RECORDED", 20)
    ours, _ = rewired("set", True)
    assert ours == theirs
    assert (memory.apart_calls, memory.recorded) == (0, 0)


def test_values_that_are_no_numbers_are_refused_by_a_replay(memory, rng):
    layers = layers_of(rng, graphs_of(rng, (0.2, 0.3), (9, 14, 12)), torch.float32)
    rule = rule_of("set")
    data = data_of(layers, rule)
    share = {"drop_fraction": 0.3, "progress": 0.0, "fixed": ()}
    for _ in range(3):
        decide(data, rule, rng=rng, **share)
    assert memory.replayed == 2
    layers["fc1"].values.data[3] = torch.nan
    with pytest.raises(ValueError, match="without nan; did training diverge"):
        decide(data, rule, rng=rng, **share)
    layers["fc1"].values.data[:] = torch.nan
    with pytest.raises(ValueError, match="without nan; did training diverge"):
        decide(data, rule, rng=rng, **share)


class Devices(TorchDispatchMode):
    """Notes operations that have tensors of two devices."""

    def __init__(self):
        super().__init__()
        self.count, self.mixed = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count += 1
        leaves = tree_leaves((args, kwargs, result))
        found = {leaf.device.type for leaf in leaves if torch.is_tensor(leaf)}
        if found != {"meta"}:
            self.mixed.append(str(function))
        return result


@pytest.mark.parametrize("how", [drop.signed_magnitude, drop.smallest_magnitude])
def test_what_is_recorded_reads_nothing_and_brings_nothing(how):
    # A tensor of torch's device "meta" has no numbers: reading one, or a size that depends on one,
    # is an error. So a decision that runs there can be recorded on a card.
    meta = torch.device("meta")
    sizes = (Sizes(40, 30, 300, 90, 90), Sizes(20, 40, 200, 60, 60))
    decision = rewiring._Decision(how, Row(sizes, meta), ((990, 90), (660, 60)), 0)
    inputs = [torch.empty(size.n_edges, device=meta) for size in sizes]
    inputs += [torch.empty(size.n_edges, device=meta, dtype=torch.int64) for size in sizes]
    inputs.append(words([1, 2], meta))
    decision(*inputs)  # which sets up constants
    with Devices() as seen:
        results = decision(*inputs)
    assert seen.count > 100
    assert not seen.mixed
    assert results[0].shape == (500,)


def test_few_operations_besides_a_replay(memory):
    rng = np.random.default_rng(0)
    layers = layers_of(rng, graphs_of(rng, (0.3,) * 3, (30,) * 4), torch.float32)
    rule = rule_of("set")
    data = data_of(layers, rule)
    for _ in range(3):
        with Count() as seen:
            decide(data, rule, drop_fraction=0.1, progress=0.0, rng=rng, fixed=())
    assert memory.replayed == 2
    assert seen.waits == ["tolist"]
    assert seen.count <= 40
