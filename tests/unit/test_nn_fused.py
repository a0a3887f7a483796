"""A ReLU computed within the layer before it: the same numbers, and nobody notices."""

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import topokit as tk
from topokit.graph import LayerGraph
from topokit.nn import Sequential, SparseLinear, sparse_layers
from topokit.nn import fused as fused_module
from topokit.nn.fused import fuse, in_one_kernel
from topokit.nn.kernels import products
from topokit.nn.kernels import threads as kernel_threads
from topokit.nn.kernels.products import PRODUCTS
from topokit.nn.models import set_mlp
from topokit.nn.optimizers import SGD


def plain(*, inplace=False, bias=True, seed=0):
    rng = np.random.default_rng(seed)
    parts = []
    for n_in, n_out in ((12, 9), (9, 7), (7, 5)):
        graph = tk.generate([n_in, n_out], "erdos_renyi", density=0.4, rng=rng)["fc1"]
        layer = SparseLinear(graph, bias=bias, rng=rng)
        if bias:
            nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(seed))
        parts += [layer, nn.ReLU(inplace), nn.Dropout(0.25)]
    return nn.Sequential(nn.Flatten(), *parts[:-2])


def fused(**options):
    model = plain(**options)
    fuse(model)
    return model


BATCH = torch.from_numpy(np.random.default_rng(1).standard_normal((16, 3, 4))).float()


def trained(model, x=BATCH, steps=4):
    """All that a training computes: losses, gradients of input and values, then of biases.

    Biases stay 0: the sums that are their gradients are taken in another order.
    """
    torch.manual_seed(0)
    values = [p for name, p in model.named_parameters() if "bias" not in name]
    biases = [p for name, p in model.named_parameters() if "bias" in name]
    optimizer = torch.optim.SGD(values, lr=0.1, momentum=0.9)
    seen, sums = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        x = x.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(x), torch.arange(16) % 5)
        loss.backward()
        optimizer.step()
        seen += [loss.detach(), x.grad, *(p.grad.clone() for p in values)]
        sums += [p.grad.clone() for p in biases]
        x = x.detach()
    return [*seen, *model.parameters()], sums


def same(some, others):
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        if isinstance(a, list):
            for one, other in zip(a, b, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(a, b)


def same_training(some, others):
    (exact, sums), (also_exact, other_sums) = some, others
    same([*exact, sums], [*also_exact, other_sums])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"inplace": True}, {"bias": False}])
def test_results_are_those_of_torch_bit_for_bit(options, dtype):
    models = plain(**options).to(dtype), fused(**options).to(dtype)
    same_training(*(trained(model, BATCH.to(dtype)) for model in models))
    same_training(*(trained(model.eval(), BATCH.to(dtype)) for model in models))


def test_the_pair_is_one_node_and_a_part_of_it_is_itself():
    model, x = fused(), BATCH.flatten(1)
    assert model[:3](x).grad_fn.name() == plain()[1](x).grad_fn.name() == "EdgeProductBackward"
    assert plain()[:3](x).grad_fn.name() == "ReluBackward0"
    assert type(model[:3]) is Sequential
    assert (model[1](x) < 0).any()
    assert (model[:2](x) < 0).any()  # the ReLU is not in it


def test_names_types_copies_and_representation_stay():
    model, other = fused(), plain()
    assert list(model.state_dict()) == list(other.state_dict())
    assert repr(model) == repr(other)
    assert [type(part) for part in model] == [type(part) for part in other]
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(copied) is Sequential
        same([copied.eval()(BATCH)], [other.eval()(BATCH)])
    other.load_state_dict(model.state_dict())


def hooks():
    """What may be put around a layer or an activation, and undone: by name."""

    def forward(module, seen):
        return module.register_forward_hook(lambda m, i, o: seen.append(o.detach().clone()))

    def before(module, seen):
        return module.register_forward_pre_hook(
            lambda m, a, k: seen.append((a[0].detach().clone(), len(k))), with_kwargs=True
        )

    def backward(module, seen):
        return module.register_full_backward_hook(lambda m, i, o: seen.append(o[0].clone()))

    def before_backward(module, seen):
        return module.register_full_backward_pre_hook(lambda m, o: seen.append(o[0].clone()))

    def everywhere(module, seen):
        return nn.modules.module.register_module_forward_hook(
            lambda m, i, o: seen.append(o.detach().clone()) if m is module else None
        )

    def own_forward(module, seen):
        def call(x):
            seen.append(type(module).forward(module, x).detach())
            return type(module).forward(module, x)

        module.forward = call

    def changes_outputs(module, seen):
        return module.register_forward_hook(lambda m, i, o: o - 0.5)

    return [forward, before, backward, before_backward, everywhere, own_forward, changes_outputs]


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("put", hooks(), ids=lambda put: put.__name__)
@pytest.mark.parametrize("make", ["sequential", "set_mlp"])
def test_what_is_put_around_a_module_sees_what_it_would_see(make, put, which):
    if make == "sequential":
        models = [plain(inplace=False), fused()]
        parts = [model[which] for model in models]
    else:
        topology = tk.generate([12, 9, 5], "erdos_renyi", density=0.4, rng=0)
        models = [set_mlp(topology, rng=1) for _ in range(2)]
        parts = [(m.fc1, m.act1)[which - 1] for m in models]
        unfused = nn.Sequential(nn.Flatten(), models[0].fc1, models[0].act1, models[0].fc2)
        models[0] = unfused
    seen, handles = ([], []), []
    results = []
    for model, part, found in zip(models, parts, seen, strict=True):
        handle = put(part, found)
        results.append(trained(model, steps=2))
        handles.append(handle)
        if handle is not None:
            handle.remove()
    same_training(*results)
    assert len(seen[0]) == len(seen[1]) > 0 or put.__name__ == "changes_outputs"
    for a, b in zip(*seen, strict=True):
        assert torch.equal(a[0], b[0]) and a[1] == b[1] if type(a) is tuple else torch.equal(a, b)
    assert not any(fused_module.EVERYWHERE)


CONVOLUTIONS = [
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
]  # fmt: skip


def convolutional(kind, *, kernel="csr", fusing):
    """Two convolutions with ReLUs, made sparse, and an input."""
    torch.manual_seed(0)
    dims = int(kind.__name__[-2])
    model = nn.Sequential(
        kind(2, 4, 3, padding=1, groups=2), nn.ReLU(), kind(4, 3, 2), nn.ReLU(), nn.Flatten()
    )
    tk.sparsify(model, density=0.6, rng=0, kernel=kernel)
    if not fusing:
        model = nn.Sequential(*model)
    return model, torch.randn(5, 2, *(6,) * dims)


def names_of(node):
    """Names of the nodes of torch's graph from one on."""
    if node is None:
        return set()
    return {node.name()}.union(*(names_of(before) for before, _ in node.next_functions))


@pytest.mark.parametrize("kernel", ["csr", "dense"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_are_computed_with_their_relu(kind, kernel):
    results, found = [], []
    for fusing in (True, False):
        model, x = convolutional(kind, kernel=kernel, fusing=fusing)
        assert type(model) is (Sequential if fusing else nn.Sequential)
        x = x.requires_grad_()
        y = model(x)
        torch.manual_seed(1)
        (y * torch.rand_like(y)).sum().backward()
        exact = [p.grad for name, p in model.named_parameters() if "bias" not in name]
        results.append(([y, x.grad, *exact], [p.grad for p in model.parameters()]))
        assert (y > 0).any()
        assert (y == 0).any()
        last, one = model[2](model[:2](x)), model[:2](x[0])  # of a single sample, too
        assert (last < 0).any()
        assert torch.equal(one, model[:2](x)[0])
        found.append("ReluBackward0" in names_of(model[:2](x).grad_fn))
    same_training(*results)
    assert found == [kernel == "dense", True]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("put", hooks(), ids=lambda put: put.__name__)
def test_what_is_put_around_a_convolution_sees_what_it_would_see(put, which):
    seen, results = ([], []), []
    for fusing, found in zip((True, False), seen, strict=True):
        model, x = convolutional(nn.Conv2d, fusing=fusing)
        handle = put(model[which], found)
        x = x.requires_grad_()
        model(x).square().sum().backward()
        results.append([x.grad, *(p.grad for n, p in model.named_parameters() if "val" in n)])
        if handle is not None:
            handle.remove()
    same(*results)
    assert len(seen[0]) == len(seen[1])
    for a, b in zip(*seen, strict=True):
        assert torch.equal(a[0], b[0]) and a[1] == b[1] if type(a) is tuple else torch.equal(a, b)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_rules_see_the_gradients_before_the_relu_of_a_convolution(kind):
    grown = []
    for fusing in (True, False):
        model, x = convolutional(kind, fusing=fusing)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = [layer.graph for layer in sparse_layers(model).values()]
        tk.attach(model, optimizer, "rigl", every=2, total=9, drop_fraction=0.5, rng=0)
        for _ in range(4):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
        after = [layer.graph for layer in sparse_layers(model).values()]
        assert all(a != b for a, b in zip(before, after, strict=True))
        grown.append([graph.edge_ids for graph in after])
    for a, b in zip(*grown, strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_exact_types_without_more_are_computed_together():
    class Mine(nn.ReLU):
        pass

    class Layer(SparseLinear):
        def forward(self, x):
            return super().forward(x) - 1

    layer = plain()[1]
    assert in_one_kernel(layer, nn.ReLU(inplace=True))
    assert not in_one_kernel(layer, Mine())
    assert not in_one_kernel(Layer(layer.graph, rng=0), nn.ReLU())
    assert not in_one_kernel(nn.Linear(3, 2), nn.ReLU())
    model = fused()
    model[2] = nn.Tanh()  # later
    other = plain()
    other[2] = nn.Tanh()
    same_training(trained(model), trained(other))
    untouched = nn.Sequential(layer, nn.Tanh())
    fuse(untouched)
    assert type(untouched) is nn.Sequential


@pytest.mark.parametrize("rule", ["set", "rigl", "ctre_sim", "snfs", "path_weight"])
def test_rules_see_the_same(rule):
    changes = []
    for model in (plain(), fused()):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        tk.attach(model, optimizer, rule, every=2, total=9, rng=0)
        torch.manual_seed(0)
        for _ in range(6):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(BATCH), torch.arange(16) % 5).backward()
            optimizer.step()
        changes.append([p for v in sparse_layers(model).values() for p in (v.indices, v.values)])
    same(*changes)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_sparsify_leaves_it_and_densify_takes_it_away():
    model = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 5))
    whole = nn.ModuleDict({"a": model, "b": nn.Sequential(nn.Linear(5, 4), nn.Tanh())})
    tk.sparsify(whole, density=0.5, rng=0)
    assert type(model) is Sequential
    assert type(whole["b"]) is nn.Sequential
    dense = tk.densify(model)
    assert type(dense) is nn.Sequential
    assert torch.allclose(dense(BATCH.flatten(1)), model(BATCH.flatten(1)), atol=1e-6)
    torch.jit.script(dense)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_transformations_and_tracing():
    model, x = fused().eval(), BATCH
    expected = plain().eval()(x)
    assert torch.allclose(torch.func.vmap(lambda one: model(one[None])[0])(x), expected, atol=1e-6)
    traced = torch.jit.trace(model, x)
    assert torch.allclose(traced(x), expected, atol=1e-6)
    gradients = torch.func.grad(lambda x: model(x).square().sum())(x)
    one = x.clone().requires_grad_()
    plain().eval()(one).square().sum().backward()
    assert torch.allclose(gradients, one.grad, atol=1e-6)
    second = torch.autograd.functional.hessian(lambda v: model(v).square().sum(), x[:1])
    other = plain().eval()
    assert torch.allclose(
        second, torch.autograd.functional.hessian(lambda v: other(v).square().sum(), x[:1])
    )


@pytest.mark.slow
def test_compiled():
    model, other = fused().eval(), plain().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(BATCH), other(BATCH), atol=1e-6)
    exported = torch.export.export(model, (BATCH,)).module()
    assert torch.allclose(exported(BATCH), other(BATCH), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kernels", [("csr", "csr", "csr"), ("csr", "dense", "csr")])
def test_dropout_within_the_product_changes_no_bit(
    rng, monkeypatch, dtype, streams, threads, kernels
):
    monkeypatch.setattr(products, "TILE_BYTES", 4000)
    monkeypatch.setattr(kernel_threads, "SERIAL_WORK", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    sizes = [40, 60, 50, 6]
    topology = {
        f"fc{at}": LayerGraph.from_edge_ids(
            np.sort(rng.choice(n_in * n_out, n_in * n_out // 3, replace=False)), (n_out, n_in)
        )
        for at, (n_in, n_out) in enumerate(pairwise(sizes), start=1)
    }
    generators = [torch.Generator() for _ in range(streams)]
    model = set_mlp(topology, dropout=0.3, rng=0, generator=generators[0]).to(dtype)
    monkeypatch.setattr(type(model), "generators", tuple(generators))
    for layer, kernel in zip((model.fc1, model.fc2, model.fc3), kernels, strict=True):
        layer.kernel = kernel
    x = torch.from_numpy(rng.standard_normal((300, 40))).to(dtype)
    used, original = [], PRODUCTS["compiled"].dropped

    def counted(*arguments):
        used.append(1)
        return original(*arguments)

    monkeypatch.setattr(PRODUCTS["compiled"], "dropped", staticmethod(counted))

    def steps():
        own = copy.deepcopy(model)
        for number, generator in enumerate(generators):
            generator.manual_seed(number)
        optimizer, seen = SGD(own.parameters(), lr=1e-4, momentum=0.9), []
        for _ in range(3):
            optimizer.zero_grad()
            batch = x.clone().requires_grad_()
            y = own(batch)
            y.square().sum().backward()
            assert torch.isfinite(y).all()
            optimizer.step()
            seen += [y.detach(), batch.grad, *(p.grad.clone() for p in own.parameters())]
        return [*seen, *(p.detach() for p in own.parameters())]

    together = steps()
    assert len(used) == 3 * sum(kernel == "csr" for kernel in kernels[:2])
    monkeypatch.setattr(PRODUCTS["compiled"], "drops", False)
    for one, other in zip(together, steps(), strict=True):
        assert torch.equal(one, other)
    assert len(used) == 3 * sum(kernel == "csr" for kernel in kernels[:2])
