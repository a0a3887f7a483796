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
from topokit.nn import SparseConv2d, SparseLinear, choices, rewiring, sparse_layers
from topokit.nn.choices import Draw, numbers, subsets
from topokit.nn.engine import attach
from topokit.nn.kernels import card
from topokit.nn.kernels.graphs import DeviceGraph, DeviceUpdate
from topokit.nn.rewiring import decide, decide_on, fits
from topokit.nn.rule_data import RuleData
from topokit.rules import RULES, UpdateRule, drop, grow
from topokit.rules.budget import PruneTo, ShareByImportance
from topokit.rules.published import ByGradient, gradient_magnitude
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
    "rigl": {},
    "rigl keeping values": {"regrown": "keep"},
    "snfs": {},
    "snfs by layer": {"budgets": "layer"},
    "ctre_sim": {},
    "ctre_sim from zeros": {"init": "zeros"},
    "ctre_seq": {},
    "granet": {"final_density": 0.2},
    "gmp": {"final_density": 0.2},
    "mest": {"gradient_weight": 0.5},
    "gradient_ratio": {},
    "gradient_ratio other": {"importance": "gradient/weight", "init": "normal"},
    "drawn by gradient": {},
    "signed by cosine": {},
}
OWN = {
    "drawn by gradient": UpdateRule(drop.random, grow.gradient, needs=("gradient",)),
    "signed by cosine": UpdateRule(
        drop.signed_magnitude, grow.new_by_cosine, needs=("activations",)
    ),
}
LOOKING = [case for case in CASES if case in OWN or RULES[case.split()[0]](**CASES[case]).needs]


def rule_of(case):
    return OWN[case] if case in OWN else RULES[case.split()[0]](**CASES[case])


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
    monkeypatch.setattr(choices, "enough", lambda n, k: 1)
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


def data_of(layers, rule, seed=0, stalled=False, samples=8):
    """What a rule reads: sums of it are exact, many are equal, and some units are dead."""
    data = RuleData(nn.ModuleDict(layers), layers, rule, samples=None, decay=0.5,
                    track_explored=False)  # fmt: skip
    rng = np.random.default_rng(seed)

    def batch(units, kind):  # four samples of each unit are 1 or -1, all others 0
        at = rng.random((samples, units)).argsort(0) < 4
        of_unit = np.where(at, rng.choice([-1.0, 1.0], (samples, units)), 0.0)
        of_unit[:, rng.random(units) < 0.3] = 0
        return torch.from_numpy(of_unit).to(kind)

    for name, layer in layers.items():
        kind = torch.float32 if layer.values.dtype == torch.bfloat16 else layer.values.dtype
        sides = [batch(layer.n_in, kind), batch(layer.n_out, kind)]
        if "activations" in rule.needs:
            kept = dict(zip(("inputs", "outputs"), sides, strict=True))
            data.memory.setdefault("activations", {})[name] = kept
        for number in range(
            max({"gradient": 1, "momentum": 3}.get(n, 0) for n in ("", *rule.needs))
        ):
            kept = {"inputs": sides[0].roll(number, 0), "output_grad": sides[1]}
            data.memory.setdefault("batches", {}).setdefault(name, {})[str(number)] = kept
    if stalled:
        data.memory["accuracies"] += [0.5] * 50
    return data


def both(layers, rule, seed=0, fixed=(), growing=True, fraction=0.3, **captured):
    """The changes of a device and those of the CPU, after checking that they are the same."""
    streams = [np.random.default_rng(seed) for _ in range(2)]
    share = {"drop_fraction": fraction, "progress": 0.5, "fixed": fixed, "growing": growing}
    assert fits(rule, layers.values())
    data = [data_of(layers, rule, seed, **captured) for _ in range(2)]
    ours = decide(data[0], rule, rng=streams[0], **share)
    decide_on("cpu", False)
    theirs = decide(data[1], rule, rng=streams[1], **share)
    assert not any(entry in each.memory for each in data for entry in ("batches", "activations"))
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
    for seed in range(2):
        rng = np.random.default_rng(seed)
        layers = layers_of(rng, graphs_of(rng, (0.2, 0.5, 0.98), (9, 14, 12, 7)), dtype)
        for options in ({}, {"growing": False}, {"fixed": {"fc1"}}, {"fraction": 1.0}):
            changes = both(layers, rule_of(case), seed, **options)
            if case.split()[0] not in ("gmp", "granet", "snfs"):  # whose layers share a budget
                assert ("fc1" in changes) == (case != "static" and "fixed" not in options)
            assert changes or case == "static"


@pytest.mark.parametrize("case", LOOKING)
def test_changes_do_not_depend_on_blocks(case, monkeypatch):
    layers = layers_of(
        np.random.default_rng(0),
        graphs_of(np.random.default_rng(0), (0.6, 0.5), (9, 14, 12)),
        torch.float64,
    )
    for cells in (1, 40, 10**6):
        monkeypatch.setattr(choices, "BLOCK_CELLS", cells)
        both(layers, rule_of(case), 3)
        both(layers, rule_of(case), 3, fraction=1.0)


def test_edges_without_score_are_ordered_by_random_numbers_only_where_they_are_needed(
    rng, monkeypatch
):
    layers = layers_of(rng, graphs_of(rng, (0.2, 0.3), (30, 40, 35)), torch.float64)
    drawn, original = [], choices.uniforms
    monkeypatch.setattr(choices, "uniforms", lambda *a: drawn.append(a) or original(*a))
    both(layers, rule_of("rigl"), samples=64, fraction=0.05)
    assert not drawn
    layers = layers_of(rng, graphs_of(rng, (0.6, 0.3), (30, 40, 35)), torch.float64)
    both(layers, rule_of("rigl"), fraction=1.0)
    assert drawn


def test_growth_by_similarity_becomes_random_once_a_run_has_stalled(rng):
    layers = layers_of(rng, graphs_of(rng, (0.2, 0.3), (30, 40, 35)), torch.float64)
    rule = rule_of("ctre_seq")
    found = [both(layers, rule, stalled=stalled)["fc0"][0] for stalled in (False, True)]
    uniform = both(layers, rule_of("set_magnitude from a uniform law"))["fc0"][0]
    assert found[0] != found[1]
    assert found[1] == uniform


def test_edges_just_dropped_are_grown_only_if_no_others_are_left(rng):
    nearly = np.setdiff1d(np.arange(20 * 30), rng.choice(20 * 30, 9, replace=False))
    layers = layers_of(rng, [LayerGraph.from_edge_ids(nearly, (20, 30))], torch.float64)
    for fraction in (0.01, 0.03, 0.5, 1.0):
        both(layers, rule_of("ctre_sim"), fraction=fraction)


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
    tried, original = [], choices.Drawing.__call__
    monkeypatch.setattr(choices, "enough", lambda n, k: max(1, k // 4))
    monkeypatch.setattr(
        choices.Drawing, "__call__", lambda *args: tried.append(0) or original(*args)
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


@pytest.mark.slow
def test_large_layers_and_the_last_free_places(rng):
    n = 300
    absent = rng.choice(n * n, 5, replace=False)
    nearly = LayerGraph.from_edge_ids(np.setdiff1d(np.arange(n * n), absent), (n, n))
    sparse = LayerGraph.from_edge_ids(np.unique(rng.integers(0, 10**9, 4000)), (10**4, 10**5))
    layers = layers_of(rng, [nearly, sparse], torch.float32, ties=False)
    for case in ("set", "set_magnitude", "random"):
        both(layers, rule_of(case), fraction=0.3)
    layers.popitem()  # O(n_out * n_in) time where absent edges have a score
    for case in ("rigl", "ctre_sim"):
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


def error_of(layers, rule, there, spoil, **options):
    decide_on("cpu", there)
    data = data_of(layers, rule)
    spoil(data)
    share = {"drop_fraction": 0.3, "progress": 0.5, "fixed": (), **options}
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError) as caught,  # the text is compared
    ):
        decide(data, rule, rng=np.random.default_rng(0), **share)
    decide_on("cpu")
    return str(caught.value)


@pytest.mark.parametrize("case", LOOKING)
def test_errors_of_what_was_captured_are_those_of_the_cpu(case, rng, monkeypatch):
    top = grow.top_absent
    monkeypatch.setattr(grow, "top_absent", lambda *args: top(*args, block_cells=30))
    for module in (choices, rewiring):
        monkeypatch.setattr(module, "BLOCK_CELLS", 30)
    layers = layers_of(rng, graphs_of(rng, (0.2, 0.3), (9, 14, 12)), torch.float64)
    rule = rule_of(case)
    entry = "activations" if "activations" in rule.needs else "batches"

    def nothing(data):
        del data.memory[entry]["fc1"]

    def not_a_number(name, number):
        def spoil(data):
            kept = data.memory[entry][name]
            kept = kept if entry == "activations" else kept["0"]
            for side in ["inputs", "outputs"] if entry == "activations" else ["output_grad"]:
                kept[side] = kept[side].clone()
                kept[side][2, 7] = number

        return spoil

    def both_kinds(data):
        not_a_number("fc0", float("nan"))(data)
        layers["fc1"].values.data[0] = float("nan")

    def none_of_one_length(data):
        kept = data.memory[entry]["fc0"]
        kept = kept if entry == "activations" else kept["0"]
        kept["inputs"] = kept["inputs"][:5]

    found = {}
    spoiled = [nothing, none_of_one_length]
    if case.split()[0] not in ("ctre_sim", "ctre_seq", "signed"):  # nan is similar to nothing
        spoiled += [not_a_number("fc1", float("nan"))]
    spoiled += [not_a_number("fc0", float("inf"))]
    for spoil in spoiled:
        if spoil is spoiled[-1] and case.split()[0] in ("mest", "gradient_ratio"):
            continue
        found[spoil] = [error_of(layers, rule, there, spoil) for there in (True, False)]
    if case not in ("signed by cosine", "drawn by gradient", "snfs"):
        found[both_kinds] = [error_of(layers, rule, there, both_kinds) for there in (True, False)]
    for ours, theirs in found.values():
        assert ours == theirs


def mine(view, n, rng):
    return drop.smallest_magnitude(view, n, rng)


def test_what_is_decided_by_the_cpu(rng):
    graph = graphs_of(rng, (0.4,), (9, 8))[0]
    plain = [SparseLinear(graph, rng=0)]
    assert fits(RULES["set"](), plain)
    others = [
        RULES["set"](removal="official"), RULES["set"](init="half_std"), RULES["deep_r"](),
        RULES["itop"](growth="unfired"), RULES["path_weight"](), RULES["srigl"](), RULES["cht"](),
        UpdateRule(mine, grow.uniform), UpdateRule(drop.random, grow.uniform, init=mine),
        UpdateRule(drop.random, grow.uniform, needs=("sensitivity",)),
        UpdateRule(drop.random, grow.gradient, needs=("gradient", "activations")),
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
    twice = [SimpleNamespace(values=torch.ones(1), groups=1, n_out=2, n_in=2**30)] * 2
    assert fits(RULES["set"](), twice[:1])
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


def test_growth_that_does_not_watch_accuracy_goes_on_after_it_has_stalled(rng):
    layers = layers_of(rng, graphs_of(rng, (0.2, 0.3), (30, 40, 35)), torch.float64)
    for way, entry in ((grow.new_by_cosine, "activations"), (grow.gradient, "gradient")):
        rule = UpdateRule(drop.smallest_magnitude, way, needs=(entry, "stalled"))
        found = [both(layers, rule, stalled=stalled)["fc0"][0] for stalled in (False, True)]
        assert found[0] == found[1]


def test_growth_that_watches_accuracy_needs_to_be_told(rng):
    layers = layers_of(rng, graphs_of(rng, (0.2, 0.3), (9, 14, 12)), torch.float64)
    rule = UpdateRule(drop.random, grow.cosine_or_random, needs=("activations",))
    for there in (True, False):
        assert "needs extra['stalled']" in error_of(layers, rule, there, lambda data: None)


class Last(ByGradient):
    def __call__(self, view, n, rng):
        return np.arange(view.graph.n_edges)[-n:]


class Few(PruneTo):
    def __call__(self, views, **share):
        return dict.fromkeys(views, (1, 1))


class Fewer(ShareByImportance):
    __call__ = Few.__call__


def test_subclasses_are_asked_themselves(rng):
    layers = layers_of(rng, graphs_of(rng, (0.2, 0.3), (9, 14, 12)), torch.float64)
    half = lambda progress: 0.5  # noqa: E731
    for own in (
        UpdateRule(Last(0.5), grow.gradient, needs=("gradient",)),
        rule_of("granet")._replace(plan=Few(half, True)),
        rule_of("snfs")._replace(plan=Fewer(gradient_magnitude)),
    ):
        assert not fits(own, layers.values())


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
    for rule, seed in (("set", 0), ("set_magnitude", 1), ("random", 2), ("rigl", 3)):
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


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["rigl", "snfs", "ctre_sim", "ctre_seq", "granet", "mest"])
@pytest.mark.parametrize("samples", [False, True])
def test_loops_choose_the_same_edges_in_float64_and_resumed_ones_too(rule, samples):
    params = {"mest": {"gradient_weight": 1.0}, "granet": {"final_density": 0.2}}.get(rule, {})
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((60, 12)))

    def loop_of(there, until=None, state=None):
        decide_on("cpu", there)
        model = network(0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
        engine = attach(model, optimizer, rule, every=4, rng=0, epoch_steps=10, total=30,
                        samples=x if samples else None, **params)  # fmt: skip
        if state is not None:
            model.load_state_dict(state[0])
            optimizer.load_state_dict(state[1])
            engine.load_state_dict(state[2])
        batch = torch.empty(8, 12, dtype=torch.float64)  # that every step loads anew
        for step in range(engine.steps, until or 30):
            batch.copy_(x[step : step + 8])
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            if engine.steps % 10 == 0:
                engine.end_epoch(0.5)
        states = model.state_dict(), optimizer.state_dict(), engine.state_dict()
        return engine, copy.deepcopy(states)

    (ours, state), (theirs, other) = loop_of(True), loop_of(False)
    assert ours.updates == theirs.updates == 7
    assert all(isinstance(update, DeviceUpdate) for update in ours.last.values())
    assert not any(isinstance(update, DeviceUpdate) for update in theirs.last.values())
    assert ours.topology == theirs.topology
    assert ours.last == theirs.last
    for there, whole in ((True, state), (False, other)):
        for until in (11, 19):
            _, half = loop_of(there, until)
            engine, resumed = loop_of(there, None, half)
            assert engine.topology == ours.topology
            for name, tensor in whole[0].items():
                assert torch.equal(resumed[0][name], tensor), name
            assert resumed[2]["rng"] == whole[2]["rng"]


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
    """Counts what would be launched on a card, and what would wait for it."""

    views = ("view", "slice", "select", "split", "split_with_sizes", "unsqueeze", "expand", "t",
             "detach", "alias", "transpose", "reshape", "_unsafe_view")  # fmt: skip
    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "unique",
               "repeat_interleave", "_unique2", "unique_consecutive", "histc")  # fmt: skip
    read = ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")
    count = 0

    def __init__(self):
        super().__init__()
        self.waits = []
        self.inner = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        self.count += name not in self.views
        by_mask = name in ("index", "index_put_") and any(
            part is not None and part.dtype == torch.bool for part in args[1]
        )
        told = name == "repeat_interleave" and kwargs.get("output_size") is not None
        if not self.inner and not told and (name in self.waiting or by_mask):
            self.waits.append(name)
        return function(*args, **kwargs)

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()

        def counted(name, original):
            def read(tensor, *args):
                self.waits.append(name)
                self.inner = True
                try:
                    return original(tensor, *args)
                finally:
                    self.inner = False

            return read

        for name in self.read:
            self.patch.setattr(torch.Tensor, name, counted(name, getattr(torch.Tensor, name)))
        return super().__enter__()

    def __exit__(self, *error):
        self.patch.undo()
        return super().__exit__(*error)


# Of the second rewiring, for one layer and for each further one, and waits. The arrays by input
# unit, which products of gradients need, are made there.
LAUNCHES = {"set": (265, 16, 1), "set_magnitude": (225, 18, 1), "random": (230, 32, 2),
            "static": (5, 5, 0), "rigl": (140, 78, 1), "snfs": (200, 134, 2),
            "ctre_sim": (360, 160, 2), "ctre_seq": (185, 122, 1), "granet": (155, 85, 2),
            "mest": (255, 48, 1)}  # fmt: skip


@pytest.mark.parametrize("case", LAUNCHES)
def test_few_operations_and_waits(case):
    first, each, waits = LAUNCHES[case]
    counts = {}
    for n_layers in (1, 3):
        rng = np.random.default_rng(0)
        widths = (30,) * (n_layers + 1)
        layers = layers_of(rng, graphs_of(rng, (0.3,) * n_layers, widths), torch.float32)
        rule, row = rule_of(case), None
        for _ in range(2):
            data = data_of(layers, rule, samples=64)
            data.row = row
            with Count() as seen:
                decide(data, rule, drop_fraction=0.1, progress=0.0, rng=rng, fixed=())
            row = data.row
        counts[n_layers] = seen.count
        assert len(seen.waits) == waits, seen.waits
    assert counts[1] <= first
    assert counts[3] - counts[1] <= 2 * each


@pytest.mark.parametrize("case", ["rigl", "snfs", "ctre_seq"])
def test_steps_that_are_looked_at_wait_for_nothing(case, arrays_of_a_device):
    model = network(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    engine = attach(model, optimizer, case, every=50, rng=0, epoch_steps=50)
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((8, 12)))
    for number in range(48):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        with Count() as seen:
            optimizer.step()
        assert not seen.waits, number
    assert ("batches" in engine.memory) == (case == "snfs")


RUN = ["epochs=4", "model.widths=[64,20,14,10]", "data.n_train=90", "data.n_test=20",
       "batch_size=20", "topology.epsilon=3", "seed=3"]  # fmt: skip
SETTINGS = {
    "set": [],
    "set within epochs": ["rule.every=2"],
    "magnitude": ["rule.name=set_magnitude", "rule.init=normal"],
    "random": ["rule.name=random"],
    "removing at the end": ["rule.final=drop"],
    "gradients": ["rule.name=rigl", "rule.every=2"],
    "momentum": ["rule.name=snfs"],
    "similarities": ["rule.name=ctre_seq", "rule.init=he_uniform"],
}


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.slow
def test_runs_are_those_of_the_cpu(name, recorded, tmp_path, arrays_of_a_device, monkeypatch):
    if recorded:
        from tests.unit.test_experiments_captured import StandIn
        from tests.unit.test_nn_recording import Memory

        stand_in, original = StandIn(), captured.Steps.__init__
        monkeypatch.setattr(loop, "graphs_of", lambda device: stand_in)
        monkeypatch.setattr(rewiring, "graphs_of", lambda device: Memory())

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
        assert stand_in.replayed > (1 if name == "momentum" else 9)
