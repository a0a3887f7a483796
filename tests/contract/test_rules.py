"""Promises of every rule in the table; no rule is named here."""

import dataclasses
import functools
import inspect
import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from tests.marks import fast_where
from topokit.data.samples import Data
from topokit.experiments.loop import TrainPlan, TrainState, train
from topokit.generators import GENERATORS, generate, generate_layers
from topokit.graph import LayerGraph, same_edges, sample_absent
from topokit.nn import sparse_layers
from topokit.nn.layers import EdgeLayer
from topokit.nn.models import LAYERS, MODELS, SEQUENCES, UNSUPERVISED, inputs_of
from topokit.rules import RULES, SCHEDULES, LayerView, UpdateRule, rewire
from topokit.rules.rewire import rewire_network
from topokit.tables import parameters_of

EVERY_RULE = pytest.mark.parametrize("name", RULES)


def some_graph(shape, n_edges, rng):
    empty = LayerGraph.from_edge_ids([], shape)
    return LayerGraph.from_edge_ids(sample_absent(empty, n_edges, rng), shape)


def full_view(graph, rng, samples=7, dtype=np.float32):
    """A view with all that a rule may ask for; weights distinct, half the units dead."""
    values = rng.standard_normal(graph.n_edges).astype(dtype)
    inputs = np.maximum(rng.standard_normal((samples, graph.n_in)), 0).astype(dtype)
    outputs = np.maximum(rng.standard_normal((samples, graph.n_out)), 0).astype(dtype)
    inputs[:, ::2] = 0
    output_grad = rng.standard_normal((samples, graph.n_out)).astype(dtype)
    seen = np.union1d(graph.edge_ids, np.arange(0, graph.n_in * graph.n_out, 3))
    flipped = rng.random(graph.n_edges) < 0.2
    extra = {
        "explored": LayerGraph.from_edge_ids(seen, graph.shape),
        "sign": np.where(flipped, -1, 1) * np.sign(values),
        "sensitivity": rng.random(graph.n_edges),
        "stalled": False,
    }
    return LayerView(graph, values, inputs, outputs, output_grad, extra)


def chain(rng, widths=(12, 9, 10, 6), density=0.3):
    return {
        f"fc{i + 1}": full_view(some_graph((b, a), int(density * a * b), rng), rng)
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    }


def arrays_of(view):
    arrays = [view.values, view.inputs, view.outputs, view.output_grad]
    arrays += [view.graph.indptr, view.graph.indices]
    return [*arrays, view.extra["sign"], view.extra["sensitivity"]]


def apply(views, rule, **changes):
    options = {"drop_fraction": 0.3, "progress": 0.5, "rng": np.random.default_rng(3)}
    return rewire_network(views, rule, **{**options, **changes})


@EVERY_RULE
def test_is_a_documented_factory_of_an_update_rule(name):
    factory = RULES[name]
    assert isinstance(factory(), UpdateRule)
    assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(factory).parameters.values())
    assert "Examples" in (inspect.getdoc(factory) or "")


@EVERY_RULE
def test_exactly_the_planned_edges_leave_and_enter(name, rng):
    rule, views = RULES[name](), chain(rng)
    changes = apply(views, rule)
    dropped = grown = 0
    for layer, (update, values) in changes.items():
        view = views[layer]
        assert update.before is view.graph
        kept = ~update.grown
        left = np.setdiff1d(np.arange(view.graph.n_edges), update.source[kept])
        assert left.size == update.n_dropped
        new = update.after.edge_ids[update.grown]
        stayed = view.graph.edge_ids[update.source[kept]]
        assert not np.isin(new, stayed).any()
        assert values.dtype == view.values.dtype
        assert values.shape == (update.after.n_edges,)
        assert np.array_equal(values[kept], view.values[update.source[kept]])
        assert np.isfinite(values).all()
        assert update.after.n_edges >= 1
        dropped += update.n_dropped
        grown += update.n_grown
    assert grown <= dropped


@EVERY_RULE
def test_says_how_many_and_keeps_its_word_layer_by_layer(name, rng):
    rule = RULES[name]()
    views = chain(rng)
    changes = apply(views, rule)
    if rule.prepare is None:
        plan = rule.plan(views, drop_fraction=0.3, progress=0.5)
        moved = {layer: (u.n_dropped, u.n_grown) for layer, (u, _) in changes.items()}
        assert moved == {layer: counts for layer, counts in plan.items() if any(counts)}


CAPTURES = {
    "gradient": {"inputs", "output_grad"},
    "momentum": {"inputs", "output_grad"},
    "activations": {"inputs", "outputs"},
}


@EVERY_RULE
def test_works_with_what_it_says_it_needs_and_nothing_more(name, rng):
    rule, views = RULES[name](), chain(rng)
    assert set(rule.needs) <= {*CAPTURES, *views["fc1"].extra}
    allowed = set().union(*(CAPTURES.get(need, set()) for need in rule.needs))
    spare = {
        layer: dataclasses.replace(
            view,
            extra={key: value for key, value in view.extra.items() if key in rule.needs},
            **{key: None for key in ("inputs", "outputs", "output_grad") if key not in allowed},
        )
        for layer, view in views.items()
    }
    first, second = apply(views, rule), apply(spare, rule)
    assert list(first) == list(second)
    for layer, (update, values) in first.items():
        assert same_edges(update.after, second[layer][0].after)
        assert np.array_equal(values, second[layer][1])


@EVERY_RULE
def test_nothing_to_do_changes_nothing(name, rng):
    view = chain(rng)["fc1"]
    update, values = rewire(view, RULES[name](), n_drop=0, n_grow=0, rng=rng)
    assert same_edges(update.after, view.graph)
    assert np.array_equal(values, view.values)
    assert not update.grown.any()


@EVERY_RULE
def test_a_seed_decides_everything(name, rng):
    views = chain(rng)
    first = apply(views, RULES[name](), rng=np.random.default_rng(5))
    again = apply(views, RULES[name](), rng=np.random.default_rng(5))
    assert list(first) == list(again)
    for (update, values), (update2, values2) in zip(first.values(), again.values(), strict=True):
        assert same_edges(update.after, update2.after)
        assert np.array_equal(values, values2)
        assert np.array_equal(update.source, update2.source)


@EVERY_RULE
def test_views_are_only_read(name, rng):
    views = chain(rng)
    for view in views.values():
        for array in arrays_of(view):
            array.flags.writeable = False
    apply(views, RULES[name]())


@EVERY_RULE
@pytest.mark.parametrize(
    ("shape", "n_edges"),
    [((3, 4), 0), ((3, 4), 1), ((1, 1), 1), ((3, 4), 12), ((3, 4), 11), ((0, 5), 0), ((1, 9), 3)],
)
def test_tiny_empty_and_complete_layers(name, shape, n_edges, rng):
    graph = some_graph(shape, n_edges, rng)
    changes = apply({"only": full_view(graph, rng)}, RULES[name]())
    for update, values in changes.values():
        assert update.after.n_edges == values.size >= 1


@EVERY_RULE
def test_fixed_layers_stay(name, rng):
    assert "fc2" not in apply(chain(rng), RULES[name](), fixed=["fc2"])


@EVERY_RULE
def test_many_rewirings_never_empty_a_layer(name, rng):
    views = chain(rng, widths=(8, 2, 6), density=0.4)
    for step in range(8):
        changes = apply(views, RULES[name](), progress=step / 8, drop_fraction=0.5, rng=rng)
        for layer, (update, _) in changes.items():
            assert update.after.n_edges >= 1
            views[layer] = full_view(update.after, rng)


@EVERY_RULE
def test_both_degree_sequences_can_move(name, rng):
    views = chain(rng, widths=(40, 30, 30, 20))
    told = " ".join(inspect.getdoc(RULES[name]).split())
    keeps_fan_in = "each output unit keeps its number of inputs" in told
    changes = apply(views, RULES[name]())
    for update, _ in changes.values():
        assert np.array_equal(update.before.fan_in, update.after.fan_in) == keeps_fan_in
        assert not np.array_equal(update.before.fan_out, update.after.fan_out)
    assert changes or not any(map(any, RULES[name]().plan(
        views, drop_fraction=0.3, progress=0.5).values()))  # fmt: skip


@EVERY_RULE
@pytest.mark.slow
def test_no_rule_forms_all_pairs_of_units(name, rng):
    """36 million cells: 288 MB as numbers, 36 MB as bits; a few bounded blocks are allowed."""
    graph = some_graph((6000, 6000), 9000, rng)
    values, shape = rng.standard_normal(9000).astype(np.float32), (3, 6000)
    batch = (np.maximum(rng.standard_normal(shape), 0).astype(np.float32) for _ in range(3))
    extra = {"explored": graph, "sign": np.sign(values), "stalled": False}
    view = LayerView(graph, values, *batch, {**extra, "sensitivity": rng.random(9000)})
    tracemalloc.start()
    apply({"only": view}, RULES[name](), drop_fraction=0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def needs_no_parameter(generator):
    given = {"n_in", "n_out", "density", "rng"}
    return all(
        p.default is not p.empty or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) or key in given
        for key, p in inspect.signature(generator).parameters.items()
    )


STARTS = [n for n, g in GENERATORS.items() if needs_no_parameter(g)]


@functools.cache
def topology_of(start):
    return generate([16, 12, 12, 6], start, density=0.25, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("start", "name"),
    fast_where(
        lambda start, name: name == "set" or start == "erdos_renyi",
        itertools.product(STARTS, RULES),
    ),
)
def test_any_generator_starts_any_rule(name, start, rng):
    topology = topology_of(start)
    views = {layer: full_view(graph, rng) for layer, graph in topology.items()}
    for update, values in apply(views, RULES[name]()).values():
        assert 1 <= update.after.n_edges == values.size


DEEP = {
    "resnet": {"depth": 8, "channels": (4, 6, 8), "image": (1, 8, 8), "classes": 4},
    "wide_resnet": {"depth": 10, "widen": 1, "image": (1, 8, 8), "classes": 4},
    "gpt": {"vocabulary": 12, "context": 4, "width": 8, "blocks": 1, "heads": 2},
}


def model_for(kind, start, rng):
    """A small model of a kind, its data, and the topology a generator starts it with."""
    make = MODELS[kind]
    if kind in LAYERS:
        topology = generate_layers(LAYERS[kind](**DEEP[kind]), start, density=0.3, rng=rng)
        model = make(topology, **DEEP[kind], rng=rng)
        of_classes = "vocabulary" if kind in SEQUENCES else "classes"
        n_classes = DEEP[kind][of_classes]
        if kind in SEQUENCES:
            x = rng.integers(n_classes, size=(40, 4)).astype(np.float32)
            y = rng.integers(n_classes, size=(40, 4))
        else:
            x = rng.random((40, 64)).astype(np.float32)
            y = rng.integers(n_classes, size=40)
        return model, Data("random", x, y, x, y, n_classes)
    options = {"image": (1, 4, 4), "channels": (4,)} if "image" in parameters_of(make) else {}
    widths = [inputs_of(kind, 16, **options), 12, 10, 4]
    layers = 1 if kind in UNSUPERVISED else 3
    density = 0.3
    topology = generate(widths[: layers + 1], start, density=density, rng=rng)
    model = make(topology, **options, rng=rng)
    x = rng.random((40, 16)).astype(np.float32)
    y = rng.integers(4, size=40)
    return model, Data("random", x, y, x, y, 4)


PAIRS = list(itertools.product(RULES, MODELS))


@pytest.mark.parametrize(
    ("case", "pair"),
    fast_where(lambda _, pair: pair[0] == "set" or pair[1] == "set_mlp", enumerate(PAIRS)),
    ids=map("-".join, PAIRS),
)
def test_every_model_trains_under_every_rule(case, pair, rng, monkeypatch):
    """Kept edges keep value and state bit for bit, grown ones start neutrally.

    The generator that starts and the optimizer vary from case to case.
    """
    (name, kind), start = pair, STARTS[case % len(STARTS)]
    optimizer = (torch.optim.SGD, torch.optim.AdamW)[case % 2]
    model, data = model_for(kind, start, rng)
    more = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    moved, original = [], EdgeLayer.replace_graph

    def checked(self, update, values, optimizers):
        (keeper,) = optimizers
        old, state = self.view().values.copy(), keeper.state[self.values]
        entries = {k: e.clone().numpy() for k, e in state.items() if isinstance(e, torch.Tensor)}
        original(self, update, values, optimizers)
        now, kept = self.view().values, ~update.grown
        assert np.array_equal(now[kept], old[update.source[kept]])
        assert self.values.numel() == update.after.n_edges >= 1
        per_edge = {k for k, e in entries.items() if e.shape == old.shape}
        assert len(per_edge) >= 1
        for key in per_edge:
            carried, start = entries[key][update.source[kept]], 0.0
            if key == "exp_avg_sq" and carried.size:
                start = carried.mean(dtype=np.float64)
            assert np.array_equal(state[key].numpy()[kept], carried)
            np.testing.assert_allclose(state[key].numpy()[update.grown], start, rtol=1e-4)
        moved.append(update)

    monkeypatch.setattr(EdgeLayer, "replace_graph", checked)
    streams = {stream: np.random.default_rng(i) for i, stream in enumerate(("order", "rule"))}
    made = optimizer(model.parameters(), lr=0.02, **more)
    state = TrainState(model, made, streams, torch.Generator().manual_seed(0))
    rule = RULES[name]()
    before = {k: v.graph for k, v in sparse_layers(model).items()}
    try:
        done = list(train(state, data, TrainPlan(3, 10, rule, drop_fraction=0.3)))
    except ValueError as error:  # rules of paths refuse networks that branch
        if kind in LAYERS and "expected layers that chain" in str(error):
            return
        raise
    total = [sum(g.n_edges for g in epoch.topology.values()) for epoch in done]
    assert all(a >= b for a, b in itertools.pairwise(total))
    assert all(same_edges(before[layer], done[0].topology[layer]) for layer in before)
    assert np.isfinite(done[-1].metrics["train_loss"])


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_start_at_one_and_never_rise(name):
    factors = [SCHEDULES[name](step, 10) for step in range(14)]
    assert factors[0] == 1
    assert all(0 <= b <= a for a, b in itertools.pairwise(factors))
    assert len(set(factors[10:])) == 1
    assert SCHEDULES[name](0, 0) == 1
