"""Torch's own tools on sparse layers: derivatives, torch.func, compilers, number types."""

import copy
import gc
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)

from tests.marks import fast_where
from tests.unit.test_nn_kernels import dense_of, inputs, random_graph
from topokit import attach
from topokit.nn import SparseConv2d, SparseLinear
from topokit.nn.activations import SReLU, dropped_out
from topokit.nn.captures import Calls
from topokit.nn.kernels import EdgeIndex, edge_product, ops
from topokit.nn.layers import EdgeLayer
from topokit.nn.models import set_mlp

KERNELS = ("csr", "dense")
QUIET = "ignore::FutureWarning"  # torch.export uses what torch deprecates
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning"
)  # as does torch.func


def network(kind, kernel, seed=0):
    """Two sparse layers in double precision, and an input."""
    rng = np.random.default_rng(seed)
    if kind == "linear":
        first = SparseLinear(random_graph(rng, 6, 8, 20), kernel=kernel, rng=rng)
        last = SparseLinear(random_graph(rng, 8, 3, 11), kernel=kernel, rng=rng)
        model, x = nn.Sequential(first, nn.Tanh(), last), torch.randn(5, 6)
    else:
        first = SparseConv2d(random_graph(rng, 18, 4, 30), 3, padding=1, kernel=kernel, rng=rng)
        last = SparseLinear(random_graph(rng, 36, 3, 40), kernel=kernel, rng=rng)
        model = nn.Sequential(first, nn.Tanh(), nn.Flatten(), last)
        x = torch.randn(2, 2, 3, 3)
    return model.double(), x.double()


def reference(kind, model):
    """The same network as a function of its parameters, by dense algebra."""
    layers = {name: m.graph for name, m in model.named_children() if hasattr(m, "graph")}
    (first, g1), (last, g2) = layers.items()

    def forward(params, x):
        w1, w2 = (
            dense_of(graph, params[f"{name}.values"]) for name, graph in ((first, g1), (last, g2))
        )
        b1, b2 = params[f"{first}.bias"], params[f"{last}.bias"]
        if kind == "linear":
            hidden = x @ w1.T + b1
        else:
            hidden = nn.functional.conv2d(x, w1.view(4, 2, 3, 3), b1, padding=1)
        return hidden.tanh().flatten(1) @ w2.T + b2

    return forward


TRANSFORMS = {
    "grad": lambda f, p, x: grad(f, (0, 1))(p, x),
    "per-sample gradients": lambda f, p, x: vmap(grad(lambda p, row: f(p, row[None])), (None, 0))(
        p, x
    ),
    "jacfwd": lambda f, p, x: jacfwd(f, (0, 1))(p, x),
    "hessian": lambda f, p, x: hessian(f, (0, 1))(p, x),
    "jacrev of jacrev": lambda f, p, x: jacrev(jacrev(f))(p, x),
    "jacrev of jacfwd": lambda f, p, x: jacrev(jacfwd(f))(p, x),
    "Hessian-vector product": lambda f, p, x: jvp(grad(f, (0, 1)), (p, x), (p, x)),
    "vjp": lambda f, p, x: vjp(f, p, x)[1](torch.tensor(2.0).double()),
    "vmap": lambda f, p, x: vmap(f, (None, 0))(p, torch.stack([x, 2 * x])),
    "vmap of values": lambda f, p, x: vmap(f, (0, None))(
        {name: torch.stack([q, 2 * q]) for name, q in p.items()}, x
    ),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_transformations_equal_those_of_dense_algebra(kind, kernel, name):
    model, x = network(kind, kernel)
    params = {key: p.detach() for key, p in model.named_parameters()}
    dense = reference(kind, model)
    ours = TRANSFORMS[name](lambda p, x: functional_call(model, p, (x,)).square().sum(), params, x)
    theirs = TRANSFORMS[name](lambda p, x: dense(p, x).square().sum(), params, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_gradgradcheck(rng, kernel, relu, bias):
    graph = random_graph(rng, 6, 5, 13)
    x, values, b = (t.requires_grad_() for t in inputs(rng, graph, 4))
    index = EdgeIndex(graph)
    tensors = (x, values, b) if bias else (x, values)

    def product(x, values, b=None):
        return edge_product(x, values, b, index, kernel, relu=relu)

    assert torch.autograd.gradcheck(
        product, tensors, check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(product, tensors, check_fwd_over_rev=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_third_derivatives(rng, kernel):
    graph = random_graph(rng, 4, 3, 7)
    x, values, _ = inputs(rng, graph, 2)
    index = EdgeIndex(graph)

    def third(product):
        f = lambda v: product(x, v).tanh().sum()  # noqa: E731
        return jacrev(jacrev(jacrev(f)))(values)

    ours = third(lambda x, v: edge_product(x, v, None, index, kernel))
    torch.testing.assert_close(ours, third(lambda x, v: x @ dense_of(graph, v).T))


def test_two_levels_of_forward_mode_are_right_or_refused():
    twice = lambda f, p: jacfwd(jacfwd(f))(p)  # noqa: E731
    for kernel in KERNELS:
        model, x = network("linear", kernel)
        params = {key: p.detach() for key, p in model.named_parameters()}

        def loss(p, model=model, x=x):
            return functional_call(model, p, (x,)).square().sum()

        if kernel == "csr":
            with pytest.raises(ValueError, match=r"expected one level of .* or layers with kernel"):
                twice(loss, params)
        else:
            dense = reference("linear", model)
            expected = twice(lambda p, x=x, dense=dense: dense(p, x).square().sum(), params)
            torch.testing.assert_close(twice(loss, params), expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("activation", ["relu", "srelu", "all_relu"])
def test_a_gradient_penalty_trains_a_model(rng, kernel, activation):
    topology = {"fc1": random_graph(rng, 6, 8, 30), "fc2": random_graph(rng, 8, 3, 20)}
    model = set_mlp(topology, activation=activation, kernel=kernel, rng=rng).double()
    for bias in (model.fc1.bias, model.fc2.bias):
        bias.data.normal_()
    x = torch.randn(5, 6).double().requires_grad_()

    def penalty(output):
        (first,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [model.fc1.values, model.fc2.values])

    ours = penalty(model(x))
    w1, w2 = (dense_of(m.graph, m.values) for m in (model.fc1, model.fc2))
    hidden = model.act1((x @ w1.T + model.fc1.bias)[None])[0]
    torch.testing.assert_close(ours, penalty(hidden @ w2.T + model.fc2.bias))


def test_dropout_and_srelu_have_second_derivatives(rng):
    srelu, bits = SReLU(4, rng=rng).double(), torch.Generator().manual_seed(0)
    state = bits.get_state()
    x = torch.randn(3, 4).double().requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x, *_: srelu(x), (x, *srelu.parameters()), check_batched_grad=True
    )

    def dropped(x):
        return dropped_out(x, 0.4, bits.set_state(state)).square()

    assert torch.autograd.gradgradcheck(dropped, (x,), check_batched_grad=True)
    torch.testing.assert_close(
        jacrev(dropped)(x.detach()), torch.autograd.functional.jacobian(dropped, x.detach())
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_an_ensemble_of_different_graphs_is_one_vmap(kind, kernel):
    models = [network(kind, kernel, seed)[0] for seed in range(3)]
    x = network(kind, kernel)[1]
    params, buffers = stack_module_state(models)

    def outputs(params):
        one = lambda p, b: functional_call(models[0], (p, b), (x,))  # noqa: E731
        return vmap(one)(params, buffers)

    torch.testing.assert_close(outputs(params), torch.stack([model(x) for model in models]))
    gradients = grad(lambda p: outputs(p).square().sum())(params)
    for k, model in enumerate(models):
        model(x).square().sum().backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(gradients[name][k], p.grad)


# ---------------------------------------------------------------------------------------------
# Compilers.


def counted(monkeypatch):
    """Count how often the index of a graph is derived from its tensors."""
    made = []

    class Counted(EdgeIndex):
        def __init__(self, graph):
            made.append(graph)
            super().__init__(graph)

    monkeypatch.setattr(ops, "EdgeIndex", Counted)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "options"), [("set", {}), ("gmp", {"total": 12, "final_density": 0.1})]
)
def test_a_compiled_model_follows_every_rewiring(monkeypatch, rule, options):
    torch._dynamo.reset()
    made = counted(monkeypatch)
    model, x = network("linear", "csr")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    engine = attach(model, optimizer, rule, every=2, rng=0, **options)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    before = engine.topology
    for _ in range(9):
        optimizer.zero_grad()
        compiled(x).square().sum().backward()
        ours = [p.grad.clone() for p in model.parameters()]
        optimizer.zero_grad()
        model(x).square().sum().backward()
        for a, p in zip(ours, model.parameters(), strict=True):
            torch.testing.assert_close(a, p.grad)
        optimizer.step()
        torch.testing.assert_close(compiled(x), model(x))
    assert engine.updates == 4
    assert engine.topology != before
    assert len(made) <= 2 * 5  # once for each graph: two layers, five topologies


# torch's tracer looks at the gradient of a tensor that is no leaf, where capture breaks the graph
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("capture", [True, False])
def test_what_is_captured_of_a_compiled_model_is_computed_uncompiled(monkeypatch, capture):
    torch._dynamo.reset()
    model, x = network("linear", "csr")
    seen, original = [], Calls.record

    def record(*args):
        seen.append(torch.compiler.is_compiling())
        return original(*args)

    monkeypatch.setattr(Calls, "record", record)
    for layer in model.modules():
        if isinstance(layer, EdgeLayer):
            layer.capture = capture
    torch.testing.assert_close(torch.compile(model, backend="eager")(x), model(x))
    assert seen == [False] * (4 if capture else 0)  # two layers, both ways


TRAINED = """
import sys, tempfile
import topokit as tk

settings = ["epochs=2", "model.widths=[64,9,10]", "rule.name=rigl", "batch_size=500"]
tk.run(tk.load_recipe("set_mlp_digits").override(settings), tempfile.mkdtemp())
print(*(name for name in ("torch._dynamo", "sklearn", "scipy.stats") if name in sys.modules))

import torch  # whoever compiles afterwards finds everything as it was
from topokit.nn.kernels.ops import uncompiled

inside, outside = torch.compiler.is_compiling, uncompiled(torch.compiler.is_compiling)
both = lambda x: (x + inside(), x + outside())
one, other = torch.compile(both, backend="eager")(torch.zeros(1))
print(one.item(), other.item(), "torch._dynamo" in sys.modules)
"""


@pytest.mark.slow
def test_a_run_does_not_load_torchs_compiler():
    done = subprocess.run([sys.executable, "-c", TRAINED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["", "1.0 0.0 True"]


@pytest.mark.slow
def test_a_loaded_graph_reaches_a_compiled_model():
    torch._dynamo.reset()
    model, x = network("linear", "csr")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(x)
    other = network("linear", "csr", 1)[0]
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(compiled(x), other(x))


@pytest.mark.slow
def test_set_mlp_compiles_to_one_graph(rng):
    torch._dynamo.reset()
    topology = {"fc1": random_graph(rng, 6, 8, 30), "fc2": random_graph(rng, 8, 3, 20)}
    for activation in ("relu", "srelu"):
        model = set_mlp(topology, activation=activation, rng=rng)
        x = torch.randn(5, 6)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's default compiler
def test_torchs_default_compiler():
    """All kinds and kernels in one network, since C++ is compiled for each network anew."""
    torch._dynamo.reset()
    rng = np.random.default_rng(0)
    channels = zip((2, 4), KERNELS, strict=True)
    units = zip((36, 8), (8, 3), KERNELS, strict=True)
    layers = [
        *(SparseConv2d(random_graph(rng, 9 * n, 4, 30), 3, padding=1, kernel=k, rng=rng)
          for n, k in channels),
        nn.Flatten(),
        *(SparseLinear(random_graph(rng, a, b, 20), kernel=k, rng=rng) for a, b, k in units),
    ]  # fmt: skip
    model = nn.Sequential(*itertools.chain(*((layer, nn.Tanh()) for layer in layers))).double()
    x = torch.randn(2, 2, 3, 3).double()
    compiled = torch.compile(model, fullgraph=True)
    found = []
    for forward in (compiled, model):
        y = forward(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings(QUIET)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", fast_where(lambda kind: kind == "linear", ["linear", "conv"]))
def test_exported_programs_take_any_batch(kind, kernel):
    if kind == "conv" and torch.__version__ < "2.7":
        pytest.skip("torch 2.6 excludes a batch of 2**63 - 1")
    model, x = network(kind, kernel)
    sizes = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(model, (x,), dynamic_shapes=sizes)
    names = {node.name for node in program.graph.nodes}
    assert any("product" in name for name in names) == (kernel == "csr")
    many = x.repeat(200, *[1] * (x.ndim - 1))  # above the batch at which the kernel may change
    for decomposed in (program, program.run_decompositions()):
        torch.testing.assert_close(decomposed.module()(many), model(many))


@pytest.mark.filterwarnings(QUIET)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_onnx_gets_torchs_operators_alone(monkeypatch, kind):
    model, x = network(kind, "csr")
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    program = torch.export.export(model, (x,))
    assert "topokit" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of the checks of sizes
def test_traced_models_can_be_saved_without_copying_code(tmp_path):
    model, x = network("linear", "csr")
    traced = torch.jit.trace(model, x)
    traced.save(tmp_path / "model.pt")
    loaded = torch.jit.load(tmp_path / "model.pt")
    torch.testing.assert_close(loaded(x.repeat(3, 1)), model(x.repeat(3, 1)))


def test_what_cannot_be_had_is_refused_in_a_sentence():
    model, _ = network("linear", "csr")
    with pytest.raises(TypeError, match=r"script topokit\.densify\(model\), or use torch\.export"):
        torch.jit.script(model)
    with pytest.raises(TypeError, match=r"expected a torch\.Tensor as input, got Proxy"):
        torch.fx.symbolic_trace(model)


def test_tensors_without_memory_have_the_right_shapes():
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    for kind in ("linear", "conv"):
        model, x = network(kind, "csr")
        torch.testing.assert_close(make_fx(model)(x)(x), model(x))
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert model(mode.from_tensor(x)).shape == (len(x), 3)
        assert copy.deepcopy(model).to("meta")(x.to("meta")).shape == (len(x), 3)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # in torch's own checks
@pytest.mark.parametrize("name", ["product", "transposed_product", "edge_sums"])
def test_operators_keep_torchs_rules(rng, name):
    graph = random_graph(rng, 6, 5, 13)
    index = EdgeIndex(graph)
    edges = ops.edges_of(index, torch.device("cpu"))
    x, values, _ = inputs(rng, graph, 4)
    g = torch.from_numpy(rng.standard_normal((5, 4)))
    a, b = {
        "product": (values, x.t()),
        "transposed_product": (values, g),
        "edge_sums": (g, x.t()),
    }[name]
    operator = getattr(torch.ops.topokit, name).default
    arguments = (a.requires_grad_(), b.detach().requires_grad_(), *edges[:2], edges.n_in)
    torch.library.opcheck(operator, arguments)


def test_what_is_derived_from_a_graph_lives_as_long_as_its_tensors(rng, monkeypatch):
    graph = random_graph(rng, 6, 5, 13)
    made = counted(monkeypatch)
    edges = ops.edges_of(EdgeIndex(random_graph(rng, 6, 5, 13)), torch.device("cpu"))
    indptr, indices = (torch.from_numpy(np.array(a)) for a in (graph.indptr, graph.indices))
    gc.collect()
    before = len(ops._INDICES)
    for _ in range(3):
        assert ops.index_of(indptr, indices, 6).graph == graph
    assert len(made) == 1
    assert len(ops._INDICES) == before + 1
    indptr.copy_(edges.indptr)  # written to: derived anew
    indices.copy_(edges.indices)
    gc.collect()
    before = len(ops._INDICES)
    assert ops.index_of(indptr, indices, 6).graph == ops.index_of(*edges[:2], 6).graph
    assert len(made) == 2
    del indptr, indices, edges
    gc.collect()
    assert len(ops._INDICES) == before - 2
    with pytest.raises(ValueError, match=r"expected input units in 0\.\.5"):
        ops.index_of(torch.tensor([0, 1]), torch.tensor([9]), 6)


def test_a_backward_pass_of_before_a_rewiring_is_refused():
    model, x = network("linear", "csr")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = attach(model, optimizer, "set", every=100, rng=0)
    loss = model(x).square().sum()
    engine.rewire()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_copies_and_pickles_compute_the_same():
    model, x = network("linear", "csr")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(x), model(x))
        assert (other[0].n_in, other[0].n_out, other[0].nnz) == (6, 8, 20)
        compiled = torch.compile(other, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), model(x))


# ---------------------------------------------------------------------------------------------
# Number types.

HALF = (torch.float16, torch.bfloat16)
NUMBERS = (*HALF, torch.float32, torch.float64, torch.complex64, torch.complex128)
REFUSED = (torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.complex32)


def converted(layer, dtype):
    for p in layer.parameters():
        p.requires_grad_(False)
        value = torch.randn(p.shape, dtype=torch.complex128 if dtype.is_complex else torch.double)
        p.data = value.to(dtype)
    return layer


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_every_number_type_is_right_in_every_kernel(kind, dtype):
    exact = torch.complex128 if dtype.is_complex else torch.double
    layer, x = network(kind, "csr")[0][0], network(kind, "csr")[1]
    x = torch.randn(x.shape, dtype=exact).to(dtype)
    converted(layer, dtype)
    for kernel in KERNELS:
        layer.kernel = kernel
        found = []
        for kept in (dtype, exact):
            tensors = [t.detach().to(kept).requires_grad_() for t in (x, layer.values, layer.bias)]
            if kept == dtype:
                names = {"values": tensors[1], "bias": tensors[2]}
                y = functional_call(layer, names, (tensors[0],))
            else:
                weight = dense_of(layer.graph, tensors[1])
                if kind == "linear":
                    y = tensors[0] @ weight.T + tensors[2]
                else:
                    y = nn.functional.conv2d(
                        tensors[0], weight.view(4, 2, 3, 3), tensors[2], padding=1
                    )
            assert y.dtype == kept
            gradients = torch.autograd.grad(y, tensors, torch.ones_like(y) * 0.5)
            found.append([t.detach().to(exact) for t in (y, *gradients)])
        bound = 40 * torch.finfo(dtype).eps
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", REFUSED)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_other_number_types_are_refused(kind, kernel, dtype):
    model, x = network(kind, kernel)
    layer = model[0]
    for p in layer.parameters():
        p.requires_grad_(False)
        p.data = torch.zeros(p.shape).to(dtype)
    with pytest.raises(
        TypeError, match=r"expected edge values of one of float32, .*complex128, got"
    ):
        layer(x.to(dtype))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_inputs_of_another_type_are_refused(kind, kernel):
    model, x = network(kind, kernel)
    for other in (x.float(), x.long(), x.bfloat16(), x.to("meta"), x + 0j):
        with pytest.raises(TypeError, match=r"expected the input in torch.float64 on cpu"):
            model[0](other)
    with pytest.raises(TypeError, match=r"expected a torch\.Tensor as input, got ndarray"):
        model[0](x.numpy())


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_autocast_keeps_the_precision_of_the_values_in_every_kernel(kind):
    found = []
    for kernel in KERNELS:
        torch.manual_seed(0)
        model, x = network(kind, kernel)
        layer, x = model[0].float(), x.bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
            assert y.dtype == torch.float32
            torch.testing.assert_close(layer(x.float()), y)
            y.square().sum().backward()
        found.append([y, layer.values.grad, layer.bias.grad])
        expected = layer(x.float())
        torch.testing.assert_close(y, expected)
        gradients = torch.autograd.grad(expected.square().sum(), [layer.values, layer.bias])
        torch.testing.assert_close(found[-1][1:], list(gradients))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_edge_product_itself_keeps_precision_under_autocast(rng, kernel):
    graph = random_graph(rng, 60, 50, 900)
    x, values, bias = inputs(rng, graph, 4, torch.float32)
    plain = edge_product(x, values, bias, EdgeIndex(graph), kernel)
    with torch.autocast("cpu", torch.bfloat16):
        y = edge_product(x, values, bias, EdgeIndex(graph), kernel)
    assert torch.equal(y, plain)
