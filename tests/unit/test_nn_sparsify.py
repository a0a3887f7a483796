"""What `sparsify` keeps, what it names, and the report."""

import copy
import functools
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import topokit as tk
from topokit.graph import same_edges
from topokit.nn import SparseLinear, SparsifyWarning, sparse_layers, sparsity_report
from topokit.nn.sparsity import LayerSparsity


@pytest.fixture(autouse=True)
def fixed_weights():
    torch.manual_seed(0)


KINDS = {
    "linear": (lambda **o: nn.Linear(8, 6, **o), (3, 8)),
    "conv": (lambda **o: nn.Conv2d(4, 6, 3, groups=2, **o), (2, 4, 6, 6)),
    "up": (lambda **o: nn.ConvTranspose1d(4, 6, 3, **o), (2, 4, 6)),
    "attention": (lambda **o: nn.MultiheadAttention(8, 2, add_bias_kv=True, **o), (5, 2, 8)),
    "lstm": (lambda **o: nn.LSTM(4, 3, num_layers=2, **o), (5, 2, 4)),
    "cell": (lambda **o: nn.GRUCell(4, 3, **o), (2, 4)),
}


def called(module, x):
    outputs = module(x, x, x) if hasattr(module, "num_heads") else module(x)
    return outputs[0] if isinstance(outputs, tuple) else outputs


@pytest.mark.parametrize("kind", list(KINDS))
def test_frozen_parameters_stay_frozen(kind):
    for frozen in ("weight", "bias", ""):
        module = KINDS[kind][0]()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(frozen not in name)
        sparse = tk.sparsify(module, density=0.5, rng=0)
        for name, parameter in sparse.named_parameters():
            original = "weight" if name.endswith("values") else "bias"
            assert parameter.requires_grad == (frozen not in original), name
    module = KINDS[kind][0]()
    sparse = tk.sparsify(module, density=0.5, rng=0)
    assert all(parameter.requires_grad for parameter in sparse.parameters())


def test_one_frozen_weight_of_several():
    lstm = nn.LSTM(4, 3, num_layers=2)
    lstm.weight_hh_l0.requires_grad_(False)
    lstm.bias_ih_l1.requires_grad_(False)
    sparse = tk.sparsify(lstm, density=0.5, rng=0)
    frozen = [name for name, p in sparse.named_parameters() if not p.requires_grad]
    assert frozen == ["weight_hh_l0.values", "weight_ih_l1.bias"]


@pytest.mark.parametrize("kind", list(KINDS))
def test_hooks_and_their_handles_move_along(kind):
    make, shape = KINDS[kind]
    model = nn.ModuleDict({"a": make()})
    calls = []
    handles = [
        model["a"].register_forward_pre_hook(lambda *_: calls.append("before")),
        model["a"].register_forward_hook(lambda *_: calls.append("after")),
        model["a"].register_forward_hook(
            lambda module, args, kwargs, out: calls.append("keywords"), with_kwargs=True
        ),
        model["a"].register_full_backward_hook(lambda *_: calls.append("backward")),
    ]
    tk.sparsify(model, density=0.5, rng=0)
    x = torch.randn(shape, requires_grad=True)
    called(model["a"], x).sum().backward()
    assert sorted(calls) == ["after", "backward", "before", "keywords"]
    for handle in handles:
        handle.remove()
    called(model["a"], x).sum().backward()
    assert len(calls) == 4


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_mode_and_attributes_stay(kind, dtype):
    module = KINDS[kind][0](dtype=dtype).eval()
    module.role = "first"
    sparse = tk.sparsify(module, density=0.5, rng=0)
    assert all(parameter.dtype == dtype for parameter in sparse.parameters())
    assert not any(part.training for part in sparse.modules())
    assert sparse.role == "first"
    sparse.train()
    assert all(part.training for part in sparse.modules())


class MaskedLinear(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(mask.shape))
        self.register_buffer("mask", mask)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def parametrized():
    return parametrizations.weight_norm(nn.Linear(4, 4))


def pruned(leaf="weight", module=None):
    module = nn.Linear(4, 4) if module is None else module
    prune.random_unstructured(module, leaf, 0.5)
    return module


def with_buffer():
    layer = nn.Linear(4, 4)
    layer.register_buffer("mask", torch.ones(4, 4))
    return layer


def with_plain_tensor():
    layer = nn.Linear(4, 4)
    layer.off = torch.ones(4, 4)
    return layer


def attention_with_inner_buffer():
    attention = nn.MultiheadAttention(4, 2)
    attention.out_proj.register_buffer("mask", torch.ones(4, 4))
    return attention


def attention_with_other_projection():
    attention = nn.MultiheadAttention(4, 2)
    attention.out_proj = Doubled(4, 4)
    return attention


def with_state_hook():
    layer = nn.Linear(4, 4)
    layer.register_state_dict_post_hook(lambda *_: None)
    return layer


def with_gradient_hook():
    layer = nn.Linear(4, 4)
    layer.weight.register_hook(lambda gradient: gradient)
    return layer


def with_own_forward():
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: x
    return layer


def with_sparse_tensor():
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(layer.weight.detach().to_sparse())
    return layer


def attention_with_inner_hook():
    attention = nn.MultiheadAttention(4, 2)
    attention.out_proj.register_forward_hook(lambda *_: None)
    return attention


STAY = {
    "Doubled is a subclass of Linear and may compute otherwise": lambda: Doubled(4, 4),
    "its weight is parametrized": parametrized,
    "its weight is computed by torch.nn.utils (RandomUnstructured)": pruned,
    "its weight is computed by torch.nn.utils (RandomUnstructured) ": lambda: pruned(
        "weight_hh_l0", nn.LSTM(4, 3)
    ),
    "it is not initialised; pass a batch through the model first": lambda: nn.LazyLinear(4),
    "there is no sparse MaskedLinear": lambda: MaskedLinear(torch.ones(4, 4)),
    "there is no sparse Bilinear": lambda: nn.Bilinear(4, 4, 4),
    "it holds further tensors (mask)": with_buffer,
    "it holds further tensors (off)": with_plain_tensor,
    "it holds further tensors (mask) ": attention_with_inner_buffer,
    "its out_proj is a Doubled": attention_with_other_projection,
    "it has hooks on its state dict": with_state_hook,
    "its parameters have hooks": with_gradient_hook,
    "its forward method was replaced": with_own_forward,
    "it holds a torch.sparse_coo": with_sparse_tensor,
    "its NonDynamicallyQuantizableLinear has hooks": attention_with_inner_hook,
    "it is of torch.complex64": lambda: nn.Linear(4, 4, dtype=torch.complex64),
    "its parameters are on the meta device": lambda: nn.Linear(4, 4, device="meta"),
}


@pytest.mark.parametrize("reason", list(STAY))
def test_what_cannot_be_replaced_is_named(reason):
    model = nn.ModuleDict({"odd": STAY[reason](), "fc": nn.Linear(4, 3)})
    odd = model["odd"]
    with pytest.warns(SparsifyWarning) as caught:
        tk.sparsify(model, density=0.5, rng=0)
    assert len(caught) == 1
    assert str(caught[0].message).startswith(f"stays dense: odd ({reason.strip()}). ")
    assert caught[0].filename == __file__
    assert model["odd"] is odd
    rows = [row for row in sparsity_report(model).dense if row.name.startswith("odd")]
    assert {row.reason for row in rows} == {reason.strip()}
    with warnings.catch_warnings():  # not chosen, so not missed
        warnings.simplefilter("error")
        tk.sparsify(
            nn.ModuleDict({"odd": odd, "fc": nn.Linear(4, 3)}), density=0.5, skip=["odd"], rng=0
        )
    with pytest.raises(ValueError, match=r"layers that can be replaced .*; stays dense: odd \("):
        tk.sparsify(nn.ModuleDict({"odd": odd}), density=0.5, rng=0)


@pytest.mark.parametrize("other", [nn.Linear(6, 6), nn.Embedding(6, 6), nn.RNN(6, 6)])
def test_tied_weights_stay_tied_and_dense(other):
    model = nn.ModuleDict({"a": other, "b": nn.Linear(6, 6), "c": nn.Linear(6, 6)})
    if isinstance(other, nn.RNN):
        other.weight_ih_l0 = model["b"].weight
    else:
        other.weight = model["b"].weight
    with pytest.warns(SparsifyWarning, match=r"b \(it shares a parameter with a\)"):
        tk.sparsify(model, density=0.5, rng=0)
    assert list(sparse_layers(model)) == ["c"]
    assert any(p is model["b"].weight for p in model["a"].parameters())


def test_a_shared_bias_stays_shared():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].bias = model[0].bias
    with pytest.warns(SparsifyWarning, match=r"0 \(it shares a parameter with 1\), 1 \("):
        tk.sparsify(model, density=0.5, rng=0)
    assert model[1].bias is model[0].bias


def test_layers_without_any_edge_are_named():
    model = nn.Sequential(nn.Linear(10, 2), nn.Linear(2, 40))
    with pytest.warns(SparsifyWarning, match=r"^without any edge: 0\. topokit\.nn\.sparsity_rep"):
        tk.sparsify(model, density=0.02, rng=0)
    report = sparsity_report(model)
    assert report.empty == ("0",)
    assert "no edges" in str(report)
    assert model(torch.ones(1, 10)).shape == (1, 40)


def test_the_density_of_grouped_convolutions_counts_edges_within_groups():
    depthwise = tk.sparsify(nn.Conv2d(64, 64, 3, groups=64), density=0.25, rng=0)
    assert depthwise.nnz == 144
    assert depthwise.density == 0.25
    assert sparsity_report(depthwise).density == 0.25
    budget = tk.sparsify(nn.Conv1d(32, 32, 3, groups=2), epsilon=2, rng=0)
    assert budget.nnz == 2 * (96 + 32)
    full = tk.sparsify(nn.Conv1d(32, 32, 3, groups=8), epsilon=20, rng=0)
    assert full.nnz == full.graph.n_possible == 384


@pytest.mark.parametrize("generator", ["erdos_renyi", "configuration", "fixed_fan_in"])
def test_generators_make_grouped_graphs(generator):
    if generator not in tk.GENERATORS:
        generator = sorted(tk.GENERATORS)[0]
    conv = tk.sparsify(nn.Conv2d(16, 16, 3, groups=4), density=0.25, generator=generator, rng=0)
    assert conv.graph.groups == 4
    assert conv.nnz == round(0.25 * conv.graph.n_possible)


class Gated(nn.MultiheadAttention):
    def __init__(self):
        super().__init__(4, 2)
        self.gate = nn.Linear(4, 4)


def test_layers_inside_a_subclass_of_attention_are_seen():
    model = nn.ModuleDict({"attn": Gated()})
    with pytest.warns(SparsifyWarning, match=r"attn \(Gated is a subclass of MultiheadAttention"):
        tk.sparsify(model, density=0.5, rng=0)
    assert list(sparse_layers(model)) == ["attn.gate"]
    names = [f"attn.{part}_proj" for part in ("q", "k", "v", "out")]
    assert [row.name for row in sparsity_report(model).layers] == [*names, "attn.gate"]
    assert sorted(tk.topology_of(model)) == sorted([*names, "attn.gate"])


def test_attention_tied_to_a_layer_stays_dense():
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2), "fc": nn.Linear(4, 4)})
    model["attn"].out_proj.weight = model["fc"].weight
    with pytest.raises(ValueError, match=r"stays dense: attn \(it shares .* fc\), fc \(it shares"):
        tk.sparsify(model, density=0.5, rng=0)
    rows = {row.name: row.reason for row in sparsity_report(model).layers}
    assert rows["attn.q_proj"] == "it shares a parameter with fc"


def test_inner_layers_are_chosen_by_name():
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2), "rnn": nn.LSTM(4, 3)})
    tk.sparsify(model, density=0.5, only=["attn", "*hh*"], skip=["attn.out_proj"], rng=0)
    assert list(sparse_layers(model)) == [
        "attn.q_proj", "attn.k_proj", "attn.v_proj", "rnn.weight_hh_l0",
    ]  # fmt: skip
    assert type(model["attn"].out_proj) is nn.Linear
    reasons = {row.name: row.reason for row in sparsity_report(model).dense}
    assert reasons == {"attn.out_proj": "not chosen", "rnn.weight_ih_l0": "not chosen"}
    with pytest.raises(ValueError, match=r"did you mean 'attn.q_proj'"):
        tk.sparsify(nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2)}), density=0.5,
                    skip=["attn.q_prj"], rng=0)  # fmt: skip


def test_memory_grows_with_the_edges():
    linear = nn.Linear(1, 1)
    lstm = tk.sparsify(nn.LSTM(64, 64), density=0.01, rng=0)
    edges = sum(layer.nnz for layer in sparse_layers(lstm).values())
    numbers = sum(parameter.numel() for parameter in lstm.parameters())
    assert numbers == edges + 2 * 256
    held = sum(buffer.numel() for buffer in lstm.buffers())
    assert held == edges + 2 * (256 + 1) + 2 * 2
    assert linear.weight.numel() == 1


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 4, 8))
        self.norm = nn.LayerNorm([4, 8])
        self.table = nn.Embedding(5, 8)
        self.fc = nn.Linear(8, 3)
        self.head = nn.Linear(3, 2)


def test_the_report_lists_every_layer_with_its_reason(capsys):
    made = []
    tk.sparsify(Vision(), density=0.5, skip=["head"], report=made.append, rng=0)
    [report] = made
    assert [(row.name, row.reason) for row in report.layers] == [
        ("position", "a matrix, no layer"), ("table", "a table, no layer"), ("fc", ""),
        ("head", "in `skip`"),
    ]  # fmt: skip
    assert report.sparse == (LayerSparsity("fc", "SparseLinear", 8, 3, 12, 24),)
    assert report.density == report.sparse[0].density == 0.5
    assert repr(report) == "<SparsityReport: 1 sparse layers, 3 dense>"
    tk.sparsify(Vision(), density=0.5, only=["fc"], report=print, rng=0)
    assert capsys.readouterr().out == (
        "layer     kind          in  out  edges  density\n"
        "position  Vision         -    -     32    1.000  dense: a matrix, no layer\n"
        "table     Embedding      8    5     40    1.000  dense: a table, no layer\n"
        "fc        SparseLinear   8    3     12    0.500\n"
        "head      Linear         3    2      6    1.000  dense: not among `only`\n"
        "1 sparse layers with 12 edges (density 0.5), 3 dense\n"
    )
    assert np.isnan(sparsity_report(nn.ReLU()).density)
    names = ["q_proj", "k_proj", "v_proj", "out_proj"]
    for model, at in (
        (nn.MultiheadAttention(4, 2), ""),
        (nn.Sequential(nn.MultiheadAttention(4, 2)), "0."),
    ):
        assert [row.name for row in sparsity_report(model).layers] == [f"{at}{n}" for n in names]


# Models as people train them.


class BasicBlock(nn.Module):
    def __init__(self, n_in, n_out, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x):
        around = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + around)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16))
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


class TransformerModel(nn.Module):
    """A language model whose output is tied to its embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(13, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 13, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.encoder(self.embed(tokens), mask, is_causal=True)).mean(1)


class RecurrentModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(13, 8)
        self.rnn = nn.LSTM(8, 12, num_layers=2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(12, 13)

    def forward(self, tokens):
        return self.head(self.rnn(self.embed(tokens))[0]).mean(1)


def tokens():
    return torch.randint(13, (6, 7), generator=torch.Generator().manual_seed(0))


MODELS = {
    "resnet": (ResNet, lambda: torch.randn(6, 3, 32, 32), 11, []),
    "transformer": (TransformerModel, tokens, 12, ["embed", "head"]),
    "recurrent": (RecurrentModel, tokens, 5, ["embed"]),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_is_reported_trained_rewired_measured_and_plotted(name):
    make, inputs, n_sparse, dense = MODELS[name]
    reference, model, reports = make(), make(), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = tk.sparsify(model, density=0.3, report=reports.append, rng=0)
    messages = [str(w.message) for w in caught if w.category is SparsifyWarning]
    tied = "stays dense: head (it shares a parameter with embed)."
    assert [message.split(" topokit")[0] for message in messages] == [tied] * ("head" in dense)
    assert len(reports[0].sparse) == n_sparse
    assert [row.name for row in reports[0].dense] == dense
    layers = sparse_layers(model)
    assert set(layers) == set(tk.topology_of(reference)) - set(dense)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    engine = tk.attach(model, optimizer, "set", every=1, rng=0)
    x, y = inputs(), torch.arange(6) % 5
    before = engine.topology
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        assert all(layer.values.grad is not None for layer in layers.values())
        optimizer.step()
    assert engine.updates == 2
    assert any(not same_edges(before[layer], engine.topology[layer]) for layer in before)
    found = tk.topology_of(model)
    for layer, graph in engine.topology.items():
        assert same_edges(found[layer], graph)
    assert set(found) - set(engine.topology) == {"head"} & set(dense)
    frame = tk.measure(found, ["evenness_fan_in"])
    assert set(frame["layer"]) >= set(layers)
    tk.plots.degree_distribution(found[next(iter(layers))])
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        torch.testing.assert_close(twin(x), model.eval()(x))


class Pair(NamedTuple):
    """A layer and its activation, as code keeps them together."""

    layer: nn.Module
    activation: nn.Module


def in_list(first, last):
    return [first, torch.relu, last]


def in_tuple(first, last):
    return (first, (torch.relu, last))


def in_named_tuple(first, last):
    return [Pair(first, torch.relu), last]


def in_dict(first, last):
    return {"all": [first, torch.relu, last]}


def as_methods(first, last):
    return [first.forward, torch.relu, last.__call__]


def as_partial(first, last):
    return [functools.partial(nn.Module.__call__, first), torch.relu, functools.partial(last)]


def in_hidden_module(first, last):
    return [nn.Sequential(first, nn.ReLU(), last)]  # within a list: no child of the model


HOLDERS = [
    in_list, in_tuple, in_named_tuple, in_dict, as_methods, as_partial, in_hidden_module,
]  # fmt: skip


class Holding(nn.Module):
    """A model whose forward calls what an attribute holds beside the children."""

    def __init__(self, holder):
        super().__init__()
        self.first, self.last = nn.Linear(8, 6), nn.Linear(6, 3)
        self.steps = holder(self.first, self.last)

    def forward(self, x, steps=None):
        steps = self.steps if steps is None else steps
        for step in steps.values() if isinstance(steps, dict) else steps:
            x = self(x, step) if isinstance(step, list | tuple) else step(x)
        return x


@pytest.mark.parametrize("holder", HOLDERS)
def test_layers_are_replaced_wherever_the_model_holds_them(holder):
    model = tk.sparsify(Holding(holder), density=0.5, init=None, rng=0)
    x = torch.randn(4, 8)
    expected = model.last(torch.relu(model.first(x)))
    torch.testing.assert_close(model(x), expected)
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    dense = tk.densify(model)
    torch.testing.assert_close(dense(x), expected)
    dense(x).sum().backward()
    assert all(parameter.grad is not None for parameter in dense.parameters())
    assert type(model.first) is SparseLinear


def test_a_holder_stays_the_same_object():
    model = Holding(in_list)
    model.again, model.others = model.steps, {nn.ReLU(), model.first}
    steps = model.steps
    tk.sparsify(model, density=0.5, rng=0)
    assert model.steps is steps is model.again
    assert steps[0] is model.first
    assert model.first in model.others


class Tied(nn.Module):
    """An autoencoder of which a layer stands in two places."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.decoder = nn.ModuleList([self.encoder[0], nn.Linear(6, 6)])


@pytest.mark.parametrize(
    ("choice", "sparse"),
    [
        ({"skip": ["decoder"]}, {"encoder.1"}),
        ({"skip": ["decoder.0"]}, {"encoder.1", "decoder.1"}),
        ({"skip": ["encoder"]}, {"decoder.1"}),
        ({"only": ["decoder"]}, {"encoder.0", "decoder.1"}),
        ({"only": ["decoder.?"], "skip": ["decoder.1"]}, {"encoder.0"}),
        ({"only": ["encoder.0"]}, {"encoder.0"}),
    ],
)
def test_a_shared_layer_is_chosen_by_each_of_its_names(choice, sparse):
    model = tk.sparsify(Tied(), density=0.5, rng=0, **choice)
    assert {name for name, m in model.named_modules() if isinstance(m, SparseLinear)} == sparse
    assert model.encoder[0] is model.decoder[0]
