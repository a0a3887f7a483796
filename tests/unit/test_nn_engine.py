import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tests.marks import fast_where
from topokit.graph import LayerGraph, same_edges, sample_absent
from topokit.nn import SparseConv2d, SparseLinear, sparse_layers
from topokit.nn.engine import attach, sparsify
from topokit.rules import RULES, UpdateRule
from topokit.rules.drop import smallest_magnitude
from topokit.rules.grow import uniform
from topokit.rules.rewire import Memory


def random_layer(n_in, n_out, *, density, rng):
    empty = LayerGraph.from_edge_ids([], (n_out, n_in))
    ids = sample_absent(empty, round(density * n_in * n_out), rng)
    return LayerGraph.from_edge_ids(ids, (n_out, n_in))


class Classifier(nn.Module):
    """A transformer encoder with a head tied to nothing."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens):
        return self.head(self.encoder(self.embed(tokens)).mean(1))


def conv_net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 36, 20), nn.ReLU(), nn.Linear(20, 3),
    )  # fmt: skip


class Block(nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(n_out), nn.BatchNorm2d(n_out)
        same = stride == 1 and n_in == n_out
        self.around = nn.Identity() if same else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x):
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.around(x))


def res_net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), Block(8, 8, 1), Block(8, 16, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


PARTS = [*(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")), "linear1", "linear2"]
MODELS = {"transformer": Classifier, "conv": conv_net, "resnet": res_net}


def examples(kind):
    generator = torch.Generator().manual_seed(0)
    if kind == "transformer":
        x = torch.randint(11, (24, 7), generator=generator)
    else:
        x = torch.randn(24, 1, 8, 8, generator=generator)
    return x, torch.arange(24) % 3


def fit(model, optimizer, x, y, steps):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


SEVEN = ("set", "rigl", "snfs", "itop", "deep_r", "sensitivity", "mest")


@pytest.mark.parametrize(
    ("rule", "kind"),
    fast_where(
        lambda rule, kind: rule == "set" or kind == "conv", itertools.product(SEVEN, MODELS)
    ),
)
def test_a_users_model_is_sparsified_and_rewired(rng, kind, rule):
    torch.manual_seed(0)
    model = MODELS[kind]()
    assert sparsify(model, generator=random_layer, density=0.3, rng=rng) is model
    layers = sparse_layers(model)
    names = {
        "transformer": [*(f"encoder.layers.{i}.{part}" for i in (0, 1) for part in PARTS), "head"],
        "conv": ["0", "2", "5", "7"],
        "resnet": ["0", "1.conv1", "1.conv2", "2.conv1", "2.conv2", "2.around", "5"],
    }[kind]  # fmt: skip
    assert list(layers) == names
    total = sum(layer.nnz for layer in layers.values())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen = []
    engine = attach(
        model, optimizer, rule, every=5, rng=rng,
        recorder=lambda step, topology: seen.append((step, topology)),
    )  # fmt: skip
    x, y = examples(kind)
    losses = fit(model, optimizer, x, y, 40)
    assert losses[-1] < losses[0] / 1.2
    assert [step for step, _ in seen] == list(range(0, 41, 5))
    assert engine.updates == 8
    assert not all(same_edges(seen[0][1][n], seen[-1][1][n]) for n in names)
    assert sum(graph.n_edges for graph in seen[-1][1].values()) == total
    for layer in layers.values():
        moments = optimizer.state[layer.values]["exp_avg"]
        assert moments.shape == layer.values.shape
    model.eval()
    with torch.no_grad():
        twin = copy.deepcopy(model)
        torch.testing.assert_close(twin(x), model(x))


def test_rewiring_drops_the_smallest_and_carries_momentum(rng):
    model = nn.Sequential(SparseLinear(random_layer(20, 10, density=0.3, rng=rng), rng=rng))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    engine = attach(model, optimizer, "set_magnitude", every=1000, rng=rng, drop_fraction=0.25)
    fit(model, optimizer, torch.ones(5, 20), torch.arange(5), 2)
    layer = model[0]
    before, momentum = layer.view(), optimizer.state[layer.values]["momentum_buffer"].clone()
    update = engine.rewire()["0"]
    kept = update.source[update.source >= 0]
    assert update.n_dropped == update.n_grown == 15
    gone = np.setdiff1d(np.arange(60), kept)
    assert np.abs(before.values[gone]).max() <= np.abs(before.values[kept]).min()
    now = optimizer.state[layer.values]["momentum_buffer"].numpy()
    assert np.array_equal(now, update.carry(momentum.numpy()))


def test_total_schedule_skip_and_detach(rng):
    model = nn.Sequential(
        SparseLinear(random_layer(20, 12, density=0.3, rng=rng), rng=rng),
        SparseLinear(random_layer(12, 10, density=0.3, rng=rng), rng=rng),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first, second = (layer.graph for layer in model)
    engine = attach(model, optimizer, every=2, total=6, schedule="cosine", skip=["1"], rng=rng)
    moved = []
    for _ in range(4):
        fit(model, optimizer, torch.ones(5, 20), torch.arange(5), 2)
        moved.append(not same_edges(model[0].graph, first))
        first = model[0].graph
    assert moved == [True, True, False, False]
    assert (engine.updates, engine.steps) == (2, 6)
    assert same_edges(model[1].graph, second)
    engine.detach()
    engine = attach(model, optimizer, UpdateRule(smallest_magnitude, uniform), every=1, rng=rng)
    engine.detach()
    fit(model, optimizer, torch.ones(5, 20), torch.arange(5), 2)
    assert same_edges(model[0].graph, first)


def test_capture_is_on_only_when_a_rule_will_look(rng):
    model = nn.Sequential(SparseLinear(random_layer(20, 10, density=0.3, rng=rng), rng=rng))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, "rigl", every=3, rng=rng)
    seen = []
    for _ in range(6):
        seen.append(model[0].capture)
        fit(model, optimizer, torch.ones(5, 20), torch.arange(5), 1)
    assert seen == [False, False, True] * 2


def test_sparsify_keeps_weights_on_request_and_skips(rng):
    model = conv_net()
    weight, bias = model[5].weight.clone(), model[5].bias.clone()
    sparsify(model, generator=random_layer, epsilon=3, skip=["7"], init=None, rng=rng)
    assert isinstance(model[0], SparseConv2d)
    assert isinstance(model[7], nn.Linear)
    assert model[2].graph.groups == 2
    assert model[2].nnz == 3 * (72 + 8)
    assert model[5].nnz == 3 * (8 * 36 + 20)
    mask = torch.from_numpy(model[5].graph.to_csr().toarray())
    assert torch.equal(model[5].to_dense(), weight * mask)
    assert torch.equal(model[5].bias, bias)
    alone = sparsify(nn.Linear(5, 4).double(), generator=random_layer, density=0.5, rng=rng)
    assert isinstance(alone, SparseLinear)
    assert alone.values.dtype == torch.float64


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_state_of_the_optimizer_moves_with_its_edge(rng, name):
    model = nn.Sequential(SparseLinear(random_layer(20, 10, density=0.3, rng=rng), rng=rng))
    optimizer = OPTIMIZERS[name](model.parameters())
    engine = attach(model, optimizer, "set_magnitude", every=1000, rng=rng, init="normal")
    fit(model, optimizer, torch.ones(5, 20), torch.arange(5), 3)
    values = model[0].values
    before = {key: entry.clone() for key, entry in optimizer.state[values].items()
              if isinstance(entry, torch.Tensor)}  # fmt: skip
    per_edge = [key for key, entry in before.items() if entry.shape == values.shape]
    assert len(per_edge) == {"sgd": 1, "adam": 3, "adamw": 2}[name]
    update = engine.rewire()["0"]
    for key, entry in optimizer.state[model[0].values].items():
        if key in per_edge:
            old, scale = before[key].numpy(), 0.0
            if key.endswith("_sq"):
                scale = old[update.source[~update.grown]].mean()
            np.testing.assert_allclose(entry.numpy(), update.carry(old, fill=scale), rtol=1e-6)
            assert np.array_equal(entry.numpy()[~update.grown], update.carry(old)[~update.grown])
        elif key in before:
            assert torch.equal(entry, before[key])
    fit(model, optimizer, torch.ones(5, 20), torch.arange(5), 3)


def small_model(rng):
    layers = (SparseLinear(random_layer(a, b, density=0.4, rng=rng), rng=rng)
              for a, b in ((20, 30), (30, 5)))  # fmt: skip
    return nn.Sequential(next(layers), nn.ReLU(), next(layers))


@pytest.mark.parametrize("rule", ["set", "sensitivity"])
def test_accumulated_gradients_are_one_step(rng, rule):
    x, y = torch.from_numpy(rng.standard_normal((24, 20))).float(), torch.arange(24) % 5
    models = [small_model(np.random.default_rng(0)) for _ in range(2)]
    engines = []
    for parts, model in zip((1, 4), models, strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        stream = np.random.default_rng(1)
        engines.append(attach(model, optimizer, rule, every=3, rng=stream))
        for _ in range(9):
            optimizer.zero_grad()
            for part in torch.arange(24).chunk(parts):
                loss = nn.functional.cross_entropy(model(x[part]), y[part])
                (loss / parts).backward()
            optimizer.step()
    assert [(engine.steps, engine.updates) for engine in engines] == [(9, 3)] * 2
    for name, graph in engines[0].topology.items():
        assert same_edges(graph, engines[1].topology[name])
    torch.testing.assert_close(models[0](x), models[1](x), rtol=1e-4, atol=1e-5)


def test_sensitivity_is_that_of_the_weights_the_gradient_was_taken_at(rng):
    model = nn.Sequential(SparseLinear(random_layer(20, 5, density=0.4, rng=rng), rng=rng))
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    engine = attach(model, optimizer, "sensitivity", every=100, rng=rng)
    expected = 0
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(4, 20)).square().mean().backward()
        expected = expected + (model[0].values * model[0].values.grad).detach().abs().numpy()
        optimizer.step()
    np.testing.assert_allclose(engine.memory["sensitivity"]["0"], expected, rtol=1e-5)


def spy(needs, seen):
    """A rule that keeps the views it is shown and replaces edges as SET does."""

    def grow(view, occupied, n, rng):
        seen.append(view)
        return uniform(view, occupied, n, rng)

    return UpdateRule(smallest_magnitude, grow, needs=needs)


def dense_gradient(layer, x):
    """The gradient of all possible edges of a single layer whose loss is the mean square."""
    y = (layer(x) ** 2).mean()
    weight = layer.to_dense().detach().requires_grad_()
    bias = 0 if layer.bias is None else layer.bias.detach()
    ((x @ weight.T + bias) ** 2).mean().backward()
    return y, weight.grad.numpy()


@pytest.mark.parametrize(
    ("needs", "options", "steps", "windows"),
    [
        # momentum 0.5: weights below 1 % after 8 batches; each window ends at its rewiring
        ("momentum", {"every": 12}, 24, [range(4, 12), range(16, 24)]),
        ("momentum", {"every": 5}, 10, [range(5), range(5, 10)]),
        ("momentum", {"every": "epoch", "epoch_steps": 3}, 6, [range(3), range(3, 6)]),
        ("momentum", {"every": "epoch"}, 6, [range(3), range(3, 6)]),
        ("gradient", {"every": 4}, 8, [range(3, 4), range(7, 8)]),
        ("gradient", {"every": "epoch", "epoch_steps": 3}, 6, [range(2, 3), range(5, 6)]),
    ],
)
def test_the_momentum_window_has_the_batches_since_the_last_rewiring(
    rng, needs, options, steps, windows
):
    seen, gradients = [], []
    model = nn.Sequential(SparseLinear(random_layer(9, 6, density=0.4, rng=rng), rng=rng)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    engine = attach(model, optimizer, spy((needs,), seen), rng=rng, **options)
    for step in range(steps):
        x = torch.from_numpy(rng.standard_normal((4, 9)))
        gradients.append(dense_gradient(model[0], x)[1])
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()
        if options["every"] == "epoch" and step % 3 == 2:
            model(torch.ones(2, 9).double())  # an evaluation, which no rule looks at
            engine.end_epoch()
    assert len(seen) == len(windows)
    for view, window in zip(seen, windows, strict=True):
        expected = sum(gradients[i] * 0.5 ** (window[-1] - i) for i in window)
        np.testing.assert_allclose(view.dense_grad(slice(0, 6)), expected, rtol=1e-10)


@pytest.mark.parametrize("every", [3, "epoch"])
def test_sensitivities_start_at_zero_after_each_rewiring(rng, every):
    seen, sums, total = [], [], 0
    model = nn.Sequential(SparseLinear(random_layer(9, 6, density=0.4, rng=rng), rng=rng))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = attach(model, optimizer, spy(("sensitivity",), seen), every=every, rng=rng)
    for step in range(9):
        optimizer.zero_grad()
        model(torch.ones(4, 9)).square().mean().backward()
        total = total + (model[0].values * model[0].values.grad).detach().abs().numpy()
        if step % 3 == 2:
            sums.append(total)
            total = 0
        optimizer.step()
        if every == "epoch" and step % 3 == 2:
            engine.end_epoch()
    for view, expected in zip(seen, sums, strict=True):
        np.testing.assert_allclose(view.extra["sensitivity"], expected, rtol=1e-5)


def test_a_step_reported_by_the_loop_counts_once(rng):
    model = small_model(rng)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = attach(model, optimizer, every=3, rng=rng)
    for _ in range(7):
        fit(model, optimizer, torch.ones(5, 20), torch.arange(5), 1)
        engine.step()
    assert (engine.steps, engine.updates) == (7, 2)


@pytest.mark.parametrize("rule", [name for name in RULES if name != "ctre_seq"])
def test_a_rewiring_off_the_schedule(rng, rule):
    model, (x, y) = small_model(rng), (torch.randn(24, 20), torch.arange(24) % 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    engine = attach(model, optimizer, rule, every=1000, rng=0)
    fit(model, optimizer, x, y, 2)
    if {"gradient", "momentum", "activations"} & set(RULES[rule]().needs):
        with pytest.raises(ValueError, match=r"expected engine\.rewire\(closure\)"):
            engine.rewire()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    before = engine.topology
    update = engine.rewire(lambda: nn.functional.cross_entropy(model(x), y))
    for name, layer in sparse_layers(model).items():
        assert name in update or same_edges(layer.graph, before[name])
        assert torch.equal(layer.bias.grad, gradients[f"{name}.bias"])
    fit(model, optimizer, x, y, 2)
    assert engine.updates == 1
    assert not any(layer.capture for layer in sparse_layers(model).values())


def test_activations_of_given_samples_and_of_the_last_batch(rng):
    model, seen = small_model(rng), []
    x = torch.randn(24, 20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    engine = attach(model, optimizer, spy(("activations",), seen), every=1, samples=x, rng=rng)
    model[1].eval()
    fit(model, optimizer, x[:6], torch.arange(6) % 5, 1)
    assert model.training
    assert not model[1].training
    assert seen[0].inputs.shape == (24, 20)
    np.testing.assert_allclose(seen[1].outputs.sum(axis=1), 1, rtol=1e-5)
    engine.detach()
    attach(model, optimizer, spy(("activations",), seen), every=1, rng=rng)
    fit(model, optimizer, x[:6], torch.arange(6) % 5, 1)
    assert np.array_equal(seen[2].inputs, x[:6].numpy())
    assert seen[3].outputs.shape == (6, 5)


def test_validation_accuracy_is_asked_for(rng):
    model, (x, y) = small_model(rng), (torch.randn(24, 20), torch.arange(24) % 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for options in ({"every": "epoch"}, {"every": 3, "epoch_steps": 2}):
        engine = attach(model, optimizer, "ctre_seq", samples=x, rng=rng, **options)
        fit(model, optimizer, x, y, 2)
        message = r"one for each of 1 finished epochs, got 0; call engine.end_epoch\(accuracy\)"
        if options["every"] == "epoch":
            with pytest.raises(ValueError, match=message):
                engine.end_epoch()
        else:
            engine.end_epoch()
            with pytest.raises(ValueError, match=message):
                fit(model, optimizer, x, y, 1)
        engine.detach()
    engine = attach(model, optimizer, "ctre_seq", every="epoch", samples=x, rng=rng)
    fit(model, optimizer, x, y, 1)
    engine.end_epoch(accuracy=0.5)
    assert (engine.updates, engine.memory["accuracies"]) == (1, [0.5])
    engine.detach()


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("every", ["epoch", 4])
def test_an_engine_goes_on_from_its_state(rng, rule, every, tmp_path):
    """A loop of one's own that is stopped and started again ends as one that never was."""
    x, y = torch.from_numpy(rng.standard_normal((30, 20))).float(), torch.arange(30) % 5

    def make():
        model = small_model(np.random.default_rng(0))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        total = 6 if every == "epoch" else 18
        return model, optimizer, attach(
            model, optimizer, rule, every=every, total=total, schedule="cosine", samples=x,
            epoch_steps=3, rng=7,
        )  # fmt: skip

    def epochs(parts, which):
        model, optimizer, engine = parts
        for epoch in which:
            for i in range(3):
                part = slice(10 * i, 10 * i + 10)
                fit(model, optimizer, x[part], y[part], 1)
            engine.end_epoch(accuracy=0.1 * epoch)

    whole, stopped, resumed = make(), make(), make()
    epochs(whole, range(6))
    epochs(stopped, range(3))
    torch.save([part.state_dict() for part in stopped], tmp_path / "state.pt")
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    for part, state in zip(resumed, states, strict=True):
        part.load_state_dict(state)
    epochs(resumed, range(3, 6))
    assert (whole[2].updates, whole[2].steps) == (resumed[2].updates, resumed[2].steps)
    for a, b in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(a, b)
    for name, graph in whole[2].topology.items():
        assert same_edges(graph, resumed[2].topology[name])


@pytest.mark.parametrize("rule", ["rigl", "snfs", "sensitivity", "ctre_sim"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_automatic_mixed_precision(rng, rule, dtype):
    model, (x, y) = small_model(rng), (torch.randn(24, 20), torch.arange(24) % 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    engine = attach(model, optimizer, rule, every=3, rng=rng)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=dtype == torch.float16)
    losses = []
    for _ in range(21):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert engine.updates == 7
    assert model[0].values.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch hides its own, unless an error
@pytest.mark.parametrize("rule", ["set", "rigl"])
@pytest.mark.slow
def test_a_compiled_forward_follows_every_rewiring(rng, rule):
    x, y = torch.randn(24, 20), torch.arange(24) % 5
    results = []
    for compiled in (False, True):
        model = small_model(np.random.default_rng(0))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        engine = attach(model, optimizer, rule, every=2, rng=np.random.default_rng(1))
        forward = torch.compile(model, backend="aot_eager") if compiled else model
        fit(forward, optimizer, x, y, 9)
        assert engine.updates == 4
        results.append((model(x), forward(x)))
    torch.testing.assert_close(results[1][0], results[1][1])
    torch.testing.assert_close(results[0][0], results[1][0])


@pytest.mark.parametrize(("every", "total"), [(4, 20), (5, 13), (3, 3)])
def test_gradual_pruning_ends_at_its_final_density(rng, every, total):
    model = small_model(rng)
    cells = 20 * 30 + 30 * 5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = attach(model, optimizer, "gmp", every=every, total=total, final_density=0.1, rng=rng)
    fit(model, optimizer, torch.ones(5, 20), torch.arange(5), total)
    n_edges = sum(graph.n_edges for graph in engine.topology.values())
    assert n_edges == (round(0.1 * cells) if total > every else round(0.4 * cells))


def test_layers_are_chosen_by_name_or_pattern(rng):
    def chosen(**options):
        model = sparsify(Classifier(), generator=random_layer, density=0.5, rng=rng, **options)
        return list(sparse_layers(model))

    blocks = [[f"encoder.layers.{i}.{part}" for part in PARTS] for i in (0, 1)]
    assert chosen() == [*blocks[0], *blocks[1], "head"]
    assert chosen(only=["*.linear2", "head"]) == [blocks[0][5], blocks[1][5], "head"]
    assert chosen(only=["encoder"], skip=["encoder.layers.0"]) == blocks[1]
    assert chosen(only=["*.self_attn"], skip=["*.[kv]_proj"]) == [
        block[at] for block in blocks for at in (0, 3)
    ]
    assert chosen(skip=["*.self_attn", "encoder.layers.[01].linear1"]) == [
        blocks[0][5], blocks[1][5], "head",
    ]  # fmt: skip
    with pytest.raises(
        ValueError, match=r"unknown module 'heat'; did you mean 'head'\? \(one of 30 modules"
    ):
        chosen(only=["heat"])
    with pytest.raises(ValueError, match=r"unknown module '\*.linear3'"):
        chosen(skip=["*.linear3"])


def test_shared_modules_stay_shared_and_tied_weights_dense(rng):
    linear, tied = nn.Linear(6, 6), nn.Linear(6, 11)
    model = nn.ModuleDict(
        {"a": linear, "b": nn.Sequential(linear), "e": nn.Embedding(11, 6), "t": tied}
    )
    tied.weight = model["e"].weight
    with pytest.warns(UserWarning, match=r"^stays dense: t \(it shares a parameter with e\)\. "):
        sparsify(model, generator=random_layer, density=0.5, rng=rng)
    assert model["a"] is model["b"][0]
    assert isinstance(model["a"], SparseLinear)
    assert model["t"] is tied


def test_generators_by_name(rng):
    model = sparsify(nn.Sequential(nn.Linear(50, 40)), density=0.1, rng=rng)
    assert model[0].nnz == 200
    with pytest.raises(
        ValueError, match=r"unknown generator 'erdos_reny'; did you mean 'erdos_renyi'"
    ):
        sparsify(nn.Linear(5, 4), generator="erdos_reny", density=0.1, rng=rng)


def test_invalid_input_is_refused_with_a_message(rng):
    with pytest.raises(ValueError, match="exactly one of density and epsilon, got neither"):
        sparsify(conv_net(), rng=rng)
    with pytest.raises(ValueError, match=r"expected density in \[0, 1\] .* got 2"):
        sparsify(conv_net(), density=2, rng=rng)
    with pytest.raises(ValueError, match="expected a budget above 0, got density=None, epsilon=0"):
        sparsify(conv_net(), epsilon=0, rng=rng)
    with pytest.raises(ValueError, match=r"unknown module '9'; modules: 0, 1,"):
        sparsify(conv_net(), density=0.1, skip=["9"], generator=random_layer, rng=rng)
    with pytest.raises(ValueError, match=r"Linear or Conv2d.* and are not skipped, got none"):
        sparsify(nn.ReLU(), density=0.1, generator=random_layer, rng=rng)
    with pytest.raises(ValueError, match="unknown init 'x'; inits: glorot"):
        sparsify(conv_net(), density=0.1, init="x", generator=random_layer, rng=rng)
    model = sparsify(nn.Sequential(nn.Linear(9, 9)), generator=random_layer, density=0.5, rng=rng)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for message, options in {
        "did you mean 'rigl'": {"rule": "rigle"},
        "parameter 'drop_fractoin' of rule 'set'; did you mean 'drop_f": {"drop_fractoin": 0.1},
        "unknown parameter 'inti' of rule 'set'; did you mean 'init'": {"inti": "zeros"},
        'every: expected "epoch" or a positive number of steps, got 0': {"every": 0},
        "total: expected a positive whole number, got 0": {"total": 0},
        "drop_fraction: expected a number from 0 to 1, got 2": {"drop_fraction": 2},
        'grown_state: expected "neutral", "zero" or .* got \'x\'': {"grown_state": "x"},
        "grown_state: expected .* got {'exp_avg': 'y'}": {"grown_state": {"exp_avg": "y"}},
        "skip: expected a list of names, got '0'": {"skip": "0"},
        "total number of steps for the schedule 'cosine'": {"schedule": "cosine"},
        "unknown sparse layer '3'; sparse layers: 0": {"skip": ["3"]},
        "unknown drop-fraction schedule 'wave'": {"schedule": "wave"},
        "parameters of a rule named, got .'a'.": {"rule": RULES["set"](), "a": 1},
        "a rule that needs .*, got .'luck'.": {
            "rule": UpdateRule(smallest_magnitude, uniform, needs=("luck",))
        },
        r"expected epoch_steps .* with a rule that watches validation": {"rule": "ctre_seq"},
        "expected epoch_steps .* with stop=3": {"stop": 3},
    }.items():
        with pytest.raises(ValueError, match=message):
            attach(model, optimizer, **{"every": 1, "rng": rng, **options})
    with pytest.raises(ValueError, match="expected a model with sparse layers"):
        attach(nn.ReLU(), optimizer, every=1, rng=rng)


def by_age(seen):
    """A rule that drops the edges that survived most rewirings, from a memory of its own."""

    def drop(view, n, rng):
        seen.append(view.extra["age"].copy())
        return np.sort(np.argsort(-view.extra["age"], kind="stable")[:n])

    age = Memory(
        lambda view: np.zeros(view.graph.n_edges),
        lambda update, age, values: np.where(update.grown, 0.0, update.carry(age) + 1),
    )
    return UpdateRule(drop, uniform, memory={"age": age})


def test_a_rule_may_define_its_own_memory(rng):
    graph = random_layer(9, 6, density=0.5, rng=rng)
    model, seen = nn.Sequential(SparseLinear(graph, rng=rng)), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = attach(model, optimizer, by_age(seen), every=1, drop_fraction=0.25, rng=rng)
    expected = dict.fromkeys(graph.edge_ids, 0.0)
    for _ in range(5):
        before = engine.topology["0"]
        fit(model, optimizer, torch.ones(4, 9), torch.arange(4), 1)
        assert seen[-1].tolist() == [expected[edge] for edge in before.edge_ids]
        update = engine.last["0"]
        kept = set(before.edge_ids[update.source[update.source >= 0]])
        expected = {e: expected[e] + 1 if e in kept else 0.0 for e in update.after.edge_ids}
    state = engine.state_dict()
    engine.detach()
    other = attach(model, torch.optim.SGD(model.parameters()), by_age([]), every=1, rng=0)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.memory["age"]["0"], list(expected.values()))


def test_the_names_of_other_memories_are_taken(rng):
    model = small_model(rng)
    rule = by_age([])._replace(memory={"sign": by_age([]).memory["age"]})
    with pytest.raises(ValueError, match="another name for the rule's memory, got sign"):
        attach(model, torch.optim.SGD(model.parameters()), rule, every=1, rng=rng)


def remembers(start, carry=lambda update, kept, values: update.carry(kept)):
    return UpdateRule(smallest_magnitude, uniform, memory={"first": Memory(start, carry)})


def one_layer(rng, **options):
    model = nn.Sequential(SparseLinear(random_layer(9, 6, density=0.5, rng=rng), rng=rng))
    return model, torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options})


@pytest.mark.parametrize(
    "carry", [lambda update, kept, values: update.carry(kept), lambda update, kept, values: values]
)
def test_a_memory_of_values_does_not_follow_the_training(carry, rng):
    model, optimizer = one_layer(rng)
    engine = attach(model, optimizer, remembers(lambda v: v.values, carry), every=100, rng=rng)
    for _ in range(2):
        kept = engine.memory["first"]["0"].copy()
        fit(model, optimizer, torch.ones(4, 9), torch.arange(4), 2)
        assert not np.array_equal(model[0].values.detach().numpy(), kept)
        np.testing.assert_array_equal(engine.memory["first"]["0"], kept)
        engine.rewire()


@pytest.mark.parametrize("rule", ["sensitivity", "deep_r"])
def test_a_state_can_be_loaded_twice(rule, rng):
    model, optimizer = one_layer(rng)
    engine = attach(model, optimizer, rule, every=100, total=500, rng=rng)
    fit(model, optimizer, torch.ones(4, 9), torch.arange(4), 2)
    state = engine.state_dict()
    before = copy.deepcopy(state["memory"])
    engine.load_state_dict(state)
    fit(model, optimizer, torch.ones(4, 9), torch.arange(4), 2)
    for entry in set(before) - {"accuracies", "trained"}:
        assert torch.equal(state["memory"][entry]["0"], before[entry]["0"])


def test_a_memory_that_no_checkpoint_holds_is_refused(rng):
    model, optimizer = one_layer(rng)
    message = "memory 'first' of the rule: expected an array of numbers, got "
    for wrong in (0, None, np.array(["a"])):
        with pytest.raises(ValueError, match=message):
            attach(model, optimizer, remembers(lambda v, x=wrong: x), every=1, rng=rng)
    rule = remembers(lambda view: view.values, lambda *_: 3)
    engine = attach(model, optimizer, rule, every=100, rng=rng)
    with pytest.raises(ValueError, match=message + "3"):
        engine.rewire()
    engine.detach()
    rule = UpdateRule(smallest_magnitude, uniform, memory={"first": len})
    with pytest.raises(ValueError, match="memory 'first' of the rule: expected a Memory, got"):
        attach(model, optimizer, rule, every=1, rng=rng)


def test_only_rules_with_a_momentum_window_mind_the_optimizers_momentum(rng):
    for momentum in (1.0, 1.5):
        model, optimizer = one_layer(rng, momentum=momentum)
        attach(model, optimizer, "set", every=1, rng=rng).detach()
        with pytest.raises(ValueError, match=f"expected a number below 1, got {momentum}"):
            attach(model, optimizer, "snfs", every=1, total=10, rng=rng)


def test_a_rule_that_ablates_units_goes_on_from_its_state(rng):
    """The number of edges that it shares among the units is in the engine's state."""
    x, y = torch.randn(24, 20, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 5

    def start():
        model = small_model(np.random.default_rng(0))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, attach(model, optimizer, "srigl", every=1, rng=1, gamma_sal=0.9)

    model, optimizer, engine = start()
    edges = model[0].nnz
    fit(model, optimizer, x, y, 3)
    states = copy.deepcopy([part.state_dict() for part in (model, optimizer, engine)])
    again = start()
    for part, state in zip(again, states, strict=True):
        part.load_state_dict(state)
    assert engine.memory["budget"]["0"].tolist() == [edges]
    for which, by in ((model, optimizer), again[:2]):
        fit(which, by, x, y, 4)
    assert (again[0][0].graph.fan_in == 0).any()
    for name, graph in engine.topology.items():
        assert same_edges(graph, again[2].topology[name])
        assert len(set(graph.fan_in) - {0}) == 1
