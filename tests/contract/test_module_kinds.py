"""Every kind of module that is made sparse computes what its dense original computes, masked.

The oracle is torch: the dense module with its weights set to zero where the graph has no edge.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import topokit as tk
from topokit.graph import same_edges
from topokit.nn import sparse_layers, sparsity_report
from topokit.nn.attention import SparseMultiheadAttention
from topokit.nn.kinds import joined, matrix_of, weights_of
from topokit.nn.recurrent import SparseRecurrent, SparseRecurrentCell

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@pytest.fixture(autouse=True)
def fixed_weights():
    torch.manual_seed(0)


def tensor(*shape):
    return torch.randn(*shape, dtype=torch.double)


def packed(batch_first=False, width=4):
    lengths = [5, 2, 4]
    x = tensor(3, 5, width) if batch_first else tensor(5, 3, width)
    return pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=False)


class Conv1D(nn.Module):
    """As in transformers' GPT-2: a linear layer whose weight is (in, out)."""

    __module__ = "transformers.pytorch_utils"
    __qualname__ = "Conv1D"

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.weight = nf, nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


x2, x3 = (2, 4, 7, 6), (2, 4, 5, 4, 6)
# A dense module and arguments of its forward.
KINDS = {
    "linear": (lambda: nn.Linear(7, 5), lambda: [tensor(3, 2, 7)]),
    "gpt_linear": (lambda: Conv1D(5, 7), lambda: [tensor(3, 2, 7)]),
    "linear_without_bias": (lambda: nn.Linear(7, 5, bias=False), lambda: [tensor(3, 7)]),
    "conv1d": (
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2), lambda: [tensor(2, 4, 11)]
    ),
    "conv1d_same": (
        lambda: nn.Conv1d(4, 6, 4, padding="same", groups=2), lambda: [tensor(4, 9)]
    ),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1)), lambda: [tensor(*x2)]),
    "conv2d_same": (
        lambda: nn.Conv2d(4, 6, (4, 3), padding="same", dilation=(1, 2)), lambda: [tensor(*x2)]
    ),
    "conv2d_valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid"), lambda: [tensor(*x2)]),
    "conv2d_reflect": (
        lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), lambda: [tensor(*x2)]
    ),
    "conv2d_replicate": (
        lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate"), lambda: [tensor(*x2)]
    ),
    "conv2d_circular": (
        lambda: nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular", bias=False),
        lambda: [tensor(*x2)],
    ),
    "conv2d_groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), lambda: [tensor(*x2)]),
    "conv2d_depthwise": (
        lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4), lambda: [tensor(*x2)]
    ),
    "conv3d": (
        lambda: nn.Conv3d(4, 6, (2, 1, 3), stride=(2, 1, 1), padding=1, dilation=(1, 1, 2)),
        lambda: [tensor(*x3)],
    ),
    "conv3d_groups": (
        lambda: nn.Conv3d(4, 6, 2, padding="same", groups=2, padding_mode="circular"),
        lambda: [tensor(*x3)],
    ),
    "up1d": (
        lambda: nn.ConvTranspose1d(4, 6, 3, stride=3, padding=2, output_padding=2),
        lambda: [tensor(2, 4, 5)],
    ),
    "up2d": (
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=2, output_padding=1, dilation=(1, 3)),
        lambda: [tensor(*x2)],
    ),
    "up2d_groups": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=(2, 3), padding=1, groups=2),
        lambda: [tensor(4, 3, 3)],
    ),
    "up2d_size": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), lambda: [tensor(2, 4, 3, 3), [8, 7]]
    ),
    "up3d": (
        lambda: nn.ConvTranspose3d(4, 6, 2, stride=2, groups=2), lambda: [tensor(1, 4, 2, 3, 2)]
    ),
    "attention": (lambda: nn.MultiheadAttention(8, 2), lambda: [tensor(5, 3, 8)] * 3),
    "attention_cross": (
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True, bias=False),
        lambda: [tensor(3, 5, 8), tensor(3, 7, 6), tensor(3, 7, 4)],
    ),
    "attention_extended": (
        lambda: nn.MultiheadAttention(8, 4, add_bias_kv=True, add_zero_attn=True),
        lambda: [tensor(5, 3, 8), tensor(4, 3, 8), tensor(4, 3, 8)],
    ),
    "attention_unbatched": (lambda: nn.MultiheadAttention(8, 2), lambda: [tensor(5, 8)] * 3),
    "lstm": (lambda: nn.LSTM(4, 3), lambda: [tensor(5, 2, 4)]),
    "lstm_everything": (
        lambda: nn.LSTM(4, 3, num_layers=2, bidirectional=True, proj_size=2, batch_first=True),
        lambda: [tensor(2, 5, 4), (tensor(4, 2, 2), tensor(4, 2, 3))],
    ),
    "lstm_packed": (
        lambda: nn.LSTM(4, 3, num_layers=2, bidirectional=True), lambda: [packed()]
    ),
    "gru": (lambda: nn.GRU(4, 3, num_layers=2), lambda: [tensor(5, 2, 4), tensor(2, 2, 3)]),
    "gru_unbatched": (lambda: nn.GRU(4, 3, bidirectional=True), lambda: [tensor(5, 4)]),
    "lstm_unbatched": (
        lambda: nn.LSTM(4, 3, batch_first=True),
        lambda: [tensor(5, 4), (tensor(1, 3), tensor(1, 3))],
    ),
    "gru_packed": (
        lambda: nn.GRU(4, 3, batch_first=True), lambda: [packed(True), tensor(1, 3, 3)]
    ),
    "rnn": (lambda: nn.RNN(4, 3, bias=False), lambda: [tensor(5, 2, 4)]),
    "rnn_relu": (
        lambda: nn.RNN(4, 3, nonlinearity="relu", bidirectional=True), lambda: [tensor(5, 2, 4)]
    ),
    "lstm_cell": (
        lambda: nn.LSTMCell(4, 3), lambda: [tensor(2, 4), (tensor(2, 3), tensor(2, 3))]
    ),
    "gru_cell": (lambda: nn.GRUCell(4, 3), lambda: [tensor(4)]),
    "rnn_cell": (
        lambda: nn.RNNCell(4, 3, nonlinearity="relu"), lambda: [tensor(2, 4), tensor(2, 3)]
    ),
}  # fmt: skip


def dense_weights(module):
    """Name of each layer, its tensor and how it is stored."""
    for weight in weights_of(module):
        yield weight.layer, getattr(module, weight.leaf), weight
    if isinstance(module, nn.MultiheadAttention):
        yield "out_proj", module.out_proj.weight, weights_of(module.out_proj)[0]


def masked(dense, sparse):
    """The dense module with zeros where the sparse one has no edge."""
    with torch.no_grad():
        for layer, stored, weight in dense_weights(dense):
            graph = sparse.get_submodule(layer).graph if layer else sparse.graph
            mask = torch.zeros(graph.n_possible, dtype=torch.bool)
            mask[torch.from_numpy(graph.ids_in_groups)] = True
            matrix = matrix_of(weight, stored)
            ids = matrix_of(weight, torch.arange(stored.numel()).view_as(stored))
            stored.view(-1)[ids.reshape(-1)[~mask]] = 0
            assert matrix.numel() == graph.n_possible
    return dense


def flat(outputs):
    if isinstance(outputs, PackedSequence):
        return [outputs.data]
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for each in outputs if each is not None for tensor in flat(each)]


def leaves(arguments):
    """Arguments with tensors that require gradients, and these tensors."""
    inputs = []

    def fresh(value):
        if isinstance(value, PackedSequence):
            return value._replace(data=fresh(value.data))
        if isinstance(value, torch.Tensor):
            inputs.append(value.detach().clone().requires_grad_())
            return inputs[-1]
        return type(value)(fresh(each) for each in value) if isinstance(value, tuple) else value

    same = {id(value): fresh(value) for value in arguments}  # one tensor given thrice stays one
    return [same[id(value)] for value in arguments], inputs


def gradients(module, arguments):
    arguments, inputs = leaves(arguments)
    outputs = flat(module(*arguments))
    loss = sum((y.sin() * (i + 1)).sum() for i, y in enumerate(outputs))
    for parameter in module.parameters():
        parameter.grad = None
    loss.backward()
    return outputs, [x.grad for x in inputs]


def assert_equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", ["csr", "dense"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_sparse_module_computes_what_the_masked_dense_one_does(kind, kernel):
    make, inputs = KINDS[kind]
    dense, arguments = make().double(), inputs()
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.normal_()  # biases, too
    sparse = tk.sparsify(copy.deepcopy(dense), density=0.4, init=None, kernel=kernel, rng=0)
    masked(dense, sparse)
    for training in (True, False):
        expected, input_gradients = gradients(dense.train(training), arguments)
        found, found_gradients = gradients(sparse.train(training), arguments)
        assert_equal(found, expected)
        assert_equal(found_gradients, input_gradients)
    grads = {
        layer: (matrix_of(weight, stored.grad), weight)
        for layer, stored, weight in dense_weights(dense)
    }
    for layer, (grad, _) in grads.items():
        inner = sparse.get_submodule(layer) if layer else sparse
        at = torch.from_numpy(inner.graph.ids_in_groups)
        assert_equal([inner.values.grad], [grad.reshape(-1)[at]])
    total = sum(p.grad.sum() for n, p in dense.named_parameters() if "bias" in n)
    assert_equal(
        [total + torch.zeros(())],
        [sum(p.grad.sum() for n, p in sparse.named_parameters() if "bias" in n) + torch.zeros(())],
    )
    with torch.no_grad():
        assert_equal(flat(sparse(*arguments)), flat(dense(*arguments)))


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_sparse_module_is_the_network_that_is_read(kind):
    dense = KINDS[kind][0]().double()
    sparse = tk.sparsify(copy.deepcopy(dense), density=0.4, init=None, rng=0)
    layers = sparse_layers(sparse)
    found = tk.topology_of(nn.ModuleDict({"a": sparse}))
    assert list(found) == [joined("a", name) for name in layers]
    for name, layer in layers.items():
        assert same_edges(found[joined("a", name)], layer.graph)
        assert layer.graph.n_edges == layer.values.numel()
        assert abs(layer.nnz - 0.4 * layer.graph.n_possible) <= 1
        assert layer.values.dtype == torch.double
    # The masked dense module has the same graphs under the same names.
    dense_found = tk.topology_of(nn.ModuleDict({"a": masked(dense, sparse)}))
    assert dense_found == found
    assert [row.name for row in sparsity_report(sparse).sparse] == [n or "layer" for n in layers]


@pytest.mark.parametrize("kind", list(KINDS))
def test_copies_and_states(kind):
    make, inputs = KINDS[kind]
    one, other = (tk.sparsify(make().double(), density=d, rng=s) for d, s in ((0.3, 1), (0.6, 2)))
    arguments = inputs()
    other.load_state_dict(one.state_dict())
    assert_equal(flat(other(*arguments)), flat(one(*arguments)))
    twin = copy.deepcopy(one)
    assert_equal(flat(twin(*arguments)), flat(one(*arguments)))
    assert one.state_dict().keys() == twin.state_dict().keys()
    assert repr(one)


PADDED = [[False] * 3 + [True] * 2, [False] * 5, [False] * 5]
SEEDED = torch.Generator().manual_seed(3)
MASKS = {
    "causal": {"attn_mask": torch.triu(torch.ones(5, 5, dtype=torch.bool), 1), "is_causal": True},
    "padding": {"key_padding_mask": torch.tensor(PADDED)},
    "both": {
        "attn_mask": torch.triu(torch.ones(5, 5, dtype=torch.bool), 1),
        "key_padding_mask": torch.tensor([[False] * 4 + [True], [False] * 5, [False] * 5]),
    },
    "added": {"attn_mask": torch.randn(5, 5, dtype=torch.double, generator=SEEDED)},
    "by_head": {"attn_mask": torch.rand(6, 5, 5, generator=SEEDED) < 0.3},
    "heads_apart": {"average_attn_weights": False},
}  # fmt: skip


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("name", list(MASKS))
def test_masks_of_attention(name, need_weights, extended):
    dense = nn.MultiheadAttention(
        8, 2, batch_first=True, add_bias_kv=extended, add_zero_attn=extended
    ).double()
    sparse = tk.sparsify(copy.deepcopy(dense), density=0.5, init=None, rng=0)
    masked(dense, sparse)
    x = tensor(3, 5, 8)
    options = {**MASKS[name], "need_weights": need_weights}
    for training in (True, False):
        expected = dense.train(training)(x, x, x, **options)
        found = sparse.train(training)(x, x, x, **options)
        assert (found[1] is None) == (expected[1] is None)
        assert_equal(flat(found), flat(expected))


def test_what_attention_and_recurrent_layers_refuse():
    attention = tk.sparsify(nn.MultiheadAttention(8, 2), density=0.5, rng=0)
    x = torch.ones(3, 5, 8)
    with pytest.raises(ValueError, match="expected attn_mask with is_causal=True"):
        attention(x, x, x, is_causal=True)
    with pytest.raises(TypeError, match="expected attn_mask of bool or floating point"):
        attention(x, x, x, attn_mask=torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected query, key and value of shape"):
        attention(x, x[0], x)
    recurrent = tk.sparsify(nn.LSTM(4, 3), density=0.5, rng=0)
    with pytest.raises(ValueError, match=r"expected an input of \(steps, 4\)"):
        recurrent(torch.ones(5, 2, 3))
    with pytest.raises(ValueError, match="expected at least one step, got none"):
        recurrent(torch.ones(0, 2, 4))
    with pytest.raises(ValueError, match=r"expected a state of shape \[\(1, 2, 3\), \(1, 2, 3\)\]"):
        recurrent(torch.ones(5, 2, 4), (torch.ones(1, 1, 3), torch.ones(1, 2, 3)))
    with pytest.raises(ValueError, match=r"expected an input of \(batch, 4\)"):
        tk.sparsify(nn.GRUCell(4, 3), density=0.5, rng=0)(torch.ones(2, 3))
    with pytest.raises(ValueError, match="expected a pair of tensors as the state, got"):
        recurrent(torch.ones(5, 2, 4), (torch.ones(1, 2, 3),))
    with pytest.raises(ValueError, match="expected a tensor as the state, got tuple"):
        tk.sparsify(nn.RNN(4, 3), density=0.5, rng=0)(torch.ones(5, 2, 4), (torch.ones(1, 2, 3),))
    up = tk.sparsify(nn.ConvTranspose1d(4, 3, 2, stride=2), density=0.5, rng=0)
    with pytest.raises(
        ValueError, match=r"expected an output_size from \[6\] to \[7\], got \(9,\)"
    ):
        up(torch.ones(1, 4, 3), [9])


@pytest.mark.parametrize("dropout", [0.0, 0.9])
def test_dropout_between_recurrent_layers(dropout):
    dense = nn.GRU(4, 30, num_layers=2, dropout=dropout).double()
    sparse = tk.sparsify(copy.deepcopy(dense), density=0.5, init=None, rng=0)
    x = tensor(5, 2, 4)
    assert torch.equal(sparse(x)[0], sparse(x)[0]) == (dropout == 0)
    sparse.eval()
    assert_equal(flat(sparse(x)), flat(masked(dense, sparse).eval()(x)))


LAYERS = {
    "encoder": lambda **o: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, **o),
    "decoder": lambda **o: nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, **o),
}


def masked_model(dense, sparse):
    """A dense model masked like a sparse one, module by module."""
    for name, module in dense.named_modules():
        known = weights_of(module)
        if known and not name.endswith("out_proj"):
            masked(module, sparse.get_submodule(name))
    return dense


@pytest.mark.parametrize("only", [("*",), ("*.linear?",), ("*self_attn",), ("*.out_proj",)])
@pytest.mark.parametrize(
    "options", [{"batch_first": True}, {"batch_first": True, "norm_first": True}, {}]
)
@pytest.mark.parametrize("kind", list(LAYERS))
def test_transformer_layers_in_training_and_evaluation(kind, options, only):
    """In evaluation torch has a fast path for encoders, which reads the dense weights."""
    stack = nn.TransformerEncoder if kind == "encoder" else nn.TransformerDecoder
    nested = {"enable_nested_tensor": not options.get("norm_first") and bool(options)}
    dense = stack(LAYERS[kind](**options), 2, **(nested if kind == "encoder" else {})).double()
    sparse = tk.sparsify(copy.deepcopy(dense), only=only, density=0.5, init=None, rng=0)
    x = tensor(3, 5, 8)
    padded = torch.tensor([[False] * 3 + [True] * 2, [False] * 5, [False] * 4 + [True]])
    causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.double)
    if kind == "encoder":
        calls = [{}, {"src_key_padding_mask": padded}, {"mask": causal, "is_causal": True}]
        arguments = (x,)
    else:
        calls = [{}, {"memory_key_padding_mask": padded}, {"tgt_mask": causal}]
        arguments = (x, tensor(3, 5, 8))
    if not options:
        arguments = tuple(a.transpose(0, 1) for a in arguments)
    called = []
    for layer in sparse_layers(sparse).values():
        layer.forward = counted(layer.forward, called)
    for call in calls:
        expected = sparse.train()(*arguments, **call)
        trained = len(called)
        with torch.no_grad():
            found = sparse.eval()(*arguments, **call)
        assert len(called) == 2 * trained  # not bypassed
        called.clear()
        keep = slice(None)
        if "src_key_padding_mask" in call and options:
            keep = ~padded
        assert_equal([found[keep]], [expected[keep]])
        if only == ("*",):
            masked_model(dense, sparse)
            assert_equal([dense.train()(*arguments, **call)[keep]], [expected[keep]])


def counted(forward, called):
    def counting(*args, **kwargs):
        called.append(1)
        return forward(*args, **kwargs)

    return counting


@pytest.mark.parametrize("kind", ["conv2d_groups", "conv2d_depthwise", "up2d_groups", "attention",
                                  "lstm_everything", "conv3d"])  # fmt: skip
@pytest.mark.parametrize("rule", ["set", "rigl", "ctre_sim"])
def test_every_kind_is_rewired(kind, rule):
    make, inputs = KINDS[kind]
    model = tk.sparsify(make().double(), density=0.3, rng=0)
    arguments = inputs()
    groups = {name: layer.graph.groups for name, layer in sparse_layers(model).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    engine = tk.attach(model, optimizer, rule, every=1, rng=0)
    before = engine.topology
    for _ in range(3):
        optimizer.zero_grad()
        flat(model(*arguments))[0].square().mean().backward()
        optimizer.step()
    moved = [name for name in before if not same_edges(before[name], engine.topology[name])]
    assert moved
    for name, graph in engine.topology.items():
        assert graph.groups == groups[name]
        assert graph.n_edges == before[name].n_edges
        assert np.all(graph.ids_in_groups < graph.n_possible)


def random_convolution(rng):
    """A convolution of random options, and an input of random size that it accepts."""
    dims, groups = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    sides = {
        "in_channels": groups * int(rng.integers(1, 4)),
        "out_channels": groups * int(rng.integers(1, 4)),
    }

    def each(low, high):
        return tuple(int(n) for n in rng.integers(low, high, dims))

    kernel, dilation, stride = each(1, 4), each(1, 3), each(1, 4)
    size = [int(n) for n in rng.integers(5, 9, dims)]
    options = {
        "kernel_size": kernel,
        "dilation": dilation,
        "groups": groups,
        "bias": bool(rng.integers(2)),
    }
    if rng.random() < 0.4:
        padding = tuple(
            min(p, d * (k - 1)) for p, d, k in zip(each(0, 3), dilation, kernel, strict=True)
        )
        output_padding = tuple(
            int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True)
        )
        kind = getattr(nn, f"ConvTranspose{dims}d")
        conv = kind(
            **sides, **options, stride=stride, padding=padding, output_padding=output_padding
        )
    else:
        same = rng.random() < 0.3
        padding = "same" if same else each(0, 4)
        mode = str(rng.choice(["zeros", "reflect", "replicate", "circular"]))
        stride = 1 if same else stride
        kind = getattr(nn, f"Conv{dims}d")
        conv = kind(**sides, **options, stride=stride, padding=padding, padding_mode=mode)
    batch = [int(rng.integers(1, 4))] if rng.random() < 0.8 else []
    return conv.double(), tensor(*batch, sides["in_channels"], *size)


@pytest.mark.parametrize("seed", range(60))
def test_random_convolutions(seed):
    dense, x = random_convolution(np.random.default_rng(seed))
    kernel = ("csr", "dense")[seed % 2]
    sparse = tk.sparsify(copy.deepcopy(dense), density=0.5, init=None, kernel=kernel, rng=seed)
    expected, dx = gradients(masked(dense, sparse), [x])
    found, sparse_dx = gradients(sparse, [x])
    assert_equal(found, expected)
    assert_equal(sparse_dx, dx)
    grad = matrix_of(weights_of(dense)[0], dense.weight.grad).reshape(-1)
    assert_equal([sparse.values.grad], [grad[torch.from_numpy(sparse.graph.ids_in_groups)]])


@pytest.mark.parametrize("kernel", ["csr", "dense"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_what_rules_see_is_the_gradient_of_the_step(kind, kernel):
    """Inputs and output gradients kept for rules give the gradient of every edge's value."""
    make, inputs = KINDS[kind]
    model = tk.sparsify(make().double(), density=0.4, kernel=kernel, rng=0)
    layers = sparse_layers(model).values()
    for layer in layers:
        layer.capture = True
    gradients(model, inputs())
    for layer in layers:
        view = layer.view()
        np.testing.assert_allclose(view.edge_grad(), layer.values.grad, rtol=1e-10, atol=1e-12)
        dense = view.dense_grad(slice(0, layer.n_out)).ravel()[view.graph.edge_ids]
        np.testing.assert_allclose(dense, layer.values.grad, rtol=1e-10, atol=1e-12)
        bias = 0 if layer.bias is None else layer.bias.detach().numpy()
        product = view.inputs @ layer.to_dense().detach().numpy().T + bias
        np.testing.assert_allclose(view.outputs, product, rtol=1e-10, atol=1e-12)


OTHER_MASKS = {
    "one_key_short": {"key_padding_mask": torch.zeros(3, 6, dtype=torch.bool)},
    "one_key_long": {"key_padding_mask": torch.zeros(3, 8)},
    "one_sequence": {"key_padding_mask": torch.zeros(1, 7, dtype=torch.bool)},
    "one_key": {"key_padding_mask": torch.zeros(3, 1)},
    "of_keys_alone": {"key_padding_mask": torch.zeros(7, dtype=torch.bool)},
    "pairs_short": {"attn_mask": torch.zeros(5, 6, dtype=torch.bool)},
    "pairs_long": {"attn_mask": torch.zeros(5, 9)},
    "turned": {"attn_mask": torch.zeros(7, 5)},
    "one_query": {"attn_mask": torch.zeros(1, 7)},
    "of_heads_alone": {"attn_mask": torch.zeros(2, 5, 7)},
    "of_sequences_alone": {"attn_mask": torch.zeros(3, 5, 7)},
    "sequences_and_heads_apart": {"attn_mask": torch.zeros(3, 2, 5, 7)},
}


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("name", list(OTHER_MASKS))
def test_masks_of_another_shape_are_refused_as_by_torch(name, extended):
    dense = nn.MultiheadAttention(8, 2, batch_first=True, add_zero_attn=extended)
    sparse = tk.sparsify(copy.deepcopy(dense), density=0.5, rng=0)
    query, key = torch.randn(3, 5, 8), torch.randn(3, 7, 8)
    ((kind, mask),) = OTHER_MASKS[name].items()
    with pytest.raises((RuntimeError, AssertionError)):
        dense(query, key, key, **{kind: mask})
    for need_weights in (True, False):
        with pytest.raises(ValueError, match=rf"expected {kind} of shape .*, got \("):
            sparse(query, key, key, **{kind: mask}, need_weights=need_weights)


def test_masks_without_a_batch_and_sequences_that_do_not_match():
    dense = nn.MultiheadAttention(8, 2).double()
    sparse = tk.sparsify(copy.deepcopy(dense), density=0.5, init=None, rng=0)
    masked(dense, sparse)
    query, key = tensor(5, 8), tensor(7, 8)
    rows, pairs = torch.arange(7) > 4, torch.ones(2, 5, 7, dtype=torch.bool).triu(2)
    for options in ({"key_padding_mask": rows}, {"attn_mask": pairs}, {"attn_mask": pairs[0]}):
        expected, found = (m(query, key, key, **options) for m in (dense, sparse))
        assert_equal(flat(found), flat(expected))
    for options in ({"key_padding_mask": rows[:-1]}, {"attn_mask": pairs[:1].repeat(4, 1, 1)}):
        with pytest.raises(ValueError, match="mask of shape"):
            sparse(query, key, key, **options)
    some, one = tensor(7, 3, 8), tensor(7, 1, 8)
    for given in ((some, one, one), (one, some, some), (some, one, some), (some, some, some[:1])):
        with pytest.raises((RuntimeError, AssertionError)):
            dense(*given)
        with pytest.raises(ValueError, match="expected a value for each key, and keys for each"):
            sparse(*given)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_states_of_another_shape_are_refused_by_cells_as_by_torch(kind):
    dense = kind(4, 3)
    sparse = tk.sparsify(copy.deepcopy(dense), density=0.5, rng=0)
    pair = kind is nn.LSTMCell
    for shape, wrong in [((2, 4), (1, 3)), ((2, 4), (3,)), ((2, 4), (2, 1)), ((4,), (2, 3)),
                         ((4,), (1, 3)), ((2, 4), (1, 2, 3))]:  # fmt: skip
        x, right = torch.ones(shape), torch.ones(*shape[:-1], 3)
        states = [(torch.ones(wrong), right), (right, torch.ones(wrong))]
        for state in states if pair else [torch.ones(wrong)]:
            with pytest.raises((RuntimeError, ValueError)):
                dense(x, state)
            with pytest.raises(ValueError, match=r"expected a state of shape \("):
                sparse(x, state)
    x, state = torch.ones(2, 4), torch.ones(2, 3)
    for wrong in ((state,) * 3, state) if pair else ((state, state),):
        with pytest.raises(ValueError, match=r"expected a (pair of tensors|tensor|state of shape)"):
            sparse(x, wrong)


def linears(**sizes):
    return {name: nn.Linear(*size) for name, size in sizes.items()}


SQUARE = dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), (8, 8))
RNN = {"weight_ih_l0": (4, 3), "weight_hh_l0": (3, 3)}
GRU = {"weight_ih_l0": (4, 9), "weight_hh_l0": (3, 9)}
LSTM = {"weight_ih_l0": (4, 12), "weight_hh_l0": (2, 12), "weight_hr_l0": (3, 2)}


def test_parts_that_do_not_fit_together_are_refused():
    Attention, Recurrent, Cell = SparseMultiheadAttention, SparseRecurrent, SparseRecurrentCell
    y, _ = Recurrent(linears(**LSTM), "LSTM", proj_size=2)(torch.ones(2, 1, 4))
    assert y.shape == (2, 1, 2)
    wrong = {
        "expected q_proj, k_proj, v_proj, out_proj, got q_proj": lambda: Attention(
            linears(q_proj=(8, 8)), 2
        ),
        "got q_proj, k_proj, v_proj, out_proj, more": lambda: Attention(
            linears(**SQUARE, more=(8, 8)), 2
        ),
        "a number of heads that divides 8, got 3": lambda: Attention(linears(**SQUARE), 3),
        "a number of heads that divides 8, got 0": lambda: Attention(linears(**SQUARE), 0),
        "as many outputs of k_proj as of q_proj, .* got 4 and 8": lambda: Attention(
            linears(**{**SQUARE, "k_proj": (8, 4)}), 2
        ),
        "outputs of v_proj, .*, 8 and 6$": lambda: Attention(
            linears(**{**SQUARE, "v_proj": (8, 6)}), 2
        ),
        "expected a mode of LSTM": lambda: Recurrent(linears(**RNN), "RNN"),
        "expected weight_ih_l0, weight_hh_l0, got weight_ih_l0$": lambda: Recurrent(
            linears(weight_ih_l0=(4, 3)), "RNN_TANH"
        ),
        "got weight_ih_l0, weight_hh_l0, weight_hh_l1": lambda: Recurrent(
            linears(**RNN, weight_hh_l1=(3, 3)), "RNN_TANH"
        ),
        "expected weight_ih_l0, .* weight_hh_l0_reverse, got": lambda: Recurrent(
            linears(**RNN), "RNN_TANH", bidirectional=True
        ),
        "expected weight_ih_l0, weight_hh_l0, weight_hr_l0, got": lambda: Recurrent(
            linears(**GRU), "GRU", proj_size=2
        ),
        "3 gates of equal size in weight_ih_l0, got 10 outputs": lambda: Recurrent(
            linears(weight_ih_l0=(4, 10), weight_hh_l0=(3, 10)), "GRU"
        ),
        "weight_hh_l0 with 3 inputs and 9 outputs, got 2 and 9": lambda: Recurrent(
            linears(**{**GRU, "weight_hh_l0": (2, 9)}), "GRU"
        ),
        "weight_ih_l1 with 3 inputs and 3 outputs, got 4 and 3": lambda: Recurrent(
            linears(**RNN, weight_ih_l1=(4, 3), weight_hh_l1=(3, 3)), "RNN_RELU", num_layers=2
        ),
        "weight_hr_l0 with 3 inputs and 2 outputs, got 4 and 2": lambda: Recurrent(
            linears(**{**LSTM, "weight_hr_l0": (4, 2)}), "LSTM", proj_size=2
        ),
        "expected weight_ih, weight_hh, got weight_ih$": lambda: Cell(
            linears(weight_ih=(4, 9)), "GRU"
        ),
        "weight_hh with 3 inputs and 9 outputs, got 3 and 8": lambda: Cell(
            linears(weight_ih=(4, 9), weight_hh=(3, 8)), "GRU"
        ),
        r"graphs of q_proj, k_proj, v_proj, out_proj, got \['more'\]": lambda: Attention.from_dense(
            nn.MultiheadAttention(4, 2), {"more": None}
        ),
        r"graphs of weight_ih_l0, weight_hh_l0, got \['more'\]": lambda: Recurrent.from_dense(
            nn.GRU(3, 3), {"more": None}
        ),
        r"graphs of weight_ih, weight_hh, got \['more'\]": lambda: Cell.from_dense(
            nn.GRUCell(3, 3), {"more": None}
        ),
    }
    for words, make in wrong.items():
        with pytest.raises(ValueError, match=words):
            make()
    for kind, other in ((Attention, nn.LSTM(3, 3)), (Recurrent, nn.Linear(3, 3)),
                        (Cell, nn.LSTM(3, 3)), (Recurrent, nn.LSTMCell(3, 3))):  # fmt: skip
        with pytest.raises(TypeError, match=r"expected a torch\.nn\.\w+, got (LSTM|Linear)"):
            kind.from_dense(other, {})


def test_heads_narrower_than_the_inputs():
    sizes = {"q_proj": (8, 6), "k_proj": (8, 6), "v_proj": (8, 6), "out_proj": (6, 8)}
    attention = SparseMultiheadAttention(linears(**sizes), 2).double()
    assert attention.head_dim == 3
    x = tensor(5, 2, 8)
    torch.testing.assert_close(attention(x, x, x)[0], attention(x, x, x, need_weights=False)[0])
