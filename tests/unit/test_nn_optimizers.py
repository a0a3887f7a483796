"""Stochastic gradient descent in compiled code: the numbers of torch's optimizer, bit for bit."""

import copy
import io

import pytest
import torch
from torch import nn

from topokit.nn import optimizers
from topokit.nn.kernels.threads import Kernels
from topokit.nn.optimizers import SGD, as_torch_rounds

SIZES = [(1,), (15,), (16,), (47,), (300,), (10, 7), (0,), (1003,)]
OPTIONS = {
    "plain": {},
    "zeros as numbers": {"momentum": 0.0, "weight_decay": 0.0, "dampening": 0.0},
    "decay": {"weight_decay": 2e-4},
    "momentum": {"momentum": 0.9},
    "both": {"momentum": 0.9, "weight_decay": 2e-4},
    "damped": {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "negative": {"maximize": True, "momentum": 0.5},
    "foreach": {"foreach": True, "momentum": 0.5},
}


def weights(dtype=torch.float32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=draw, dtype=dtype)) for s in SIZES]


def steps(kind, options, *, dtype=torch.float32, count=5, lr=0.0123, skip=None):
    """Return weights and momentum after some steps; one parameter has no gradient in some."""
    parameters, draw = weights(dtype), torch.Generator().manual_seed(1)
    optimizer = kind(parameters, lr=lr, **options)
    for number in range(count):
        for at, parameter in enumerate(parameters):
            parameter.grad = torch.randn(parameter.shape, generator=draw, dtype=dtype)
            if at == skip and number != 2:
                parameter.grad = None
        optimizer.step()
    return parameters, optimizer


def same(some, others):
    (ours, own), (theirs, other) = some, others
    assert all(map(torch.equal, ours, theirs))
    states = own.state_dict(), other.state_dict()
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for key, state in states[0]["state"].items():
        assert state.keys() == states[1]["state"][key].keys()
        assert torch.equal(state["momentum_buffer"], states[1]["state"][key]["momentum_buffer"])


@pytest.fixture
def compiled(monkeypatch):
    """Count the calls of compiled code."""
    calls, run = [], Kernels.run
    monkeypatch.setattr(Kernels, "run", lambda self, record: (calls.append(1), run(self, record)))
    as_torch_rounds(torch.float32), as_torch_rounds(torch.float64)
    calls.clear()
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("skip", [None, 3])
@pytest.mark.parametrize("name", list(OPTIONS))
def test_numbers_and_state_are_those_of_torch(compiled, name, skip, dtype):
    ours = steps(SGD, OPTIONS[name], dtype=dtype, skip=skip)
    used = len(compiled)
    same(ours, steps(torch.optim.SGD, OPTIONS[name], dtype=dtype, skip=skip))
    taken = as_torch_rounds(dtype) and name not in ("negative", "foreach")
    assert used == (5 if taken else 0)


def test_it_is_known_whether_torch_rounds_alike(monkeypatch):
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert as_torch_rounds(torch.float32)
        assert as_torch_rounds(torch.float64)
    monkeypatch.setattr(optimizers, "_torch_step", lambda: lambda optimizer: None)
    assert not as_torch_rounds.__wrapped__(torch.float32)


@pytest.mark.parametrize("threads", [1, 3])
def test_large_tensors_on_several_threads(threads):
    before, found = torch.get_num_threads(), []
    try:
        torch.set_num_threads(threads)
        for kind in (SGD, torch.optim.SGD):
            draw = torch.Generator().manual_seed(0)
            weight = nn.Parameter(torch.randn(200_003, generator=draw))
            optimizer = kind([weight], lr=0.1, momentum=0.9, weight_decay=0.01)
            for _ in range(3):
                weight.grad = torch.randn(weight.shape, generator=draw)
                optimizer.step()
            found.append(weight)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "kind", ["sparse", "transposed", "strided", "half", "tensor lr", "closure"]
)
def test_torch_steps_where_compiled_code_cannot(compiled, kind):
    found = []
    for optimizer_kind in (SGD, torch.optim.SGD):
        weight = nn.Parameter(torch.arange(12.0).reshape(3, 4))
        gradient = torch.linspace(-1, 1, 12).reshape(3, 4)
        if kind == "half":
            weight, gradient = nn.Parameter(weight.detach().bfloat16()), gradient.bfloat16()
        lr = torch.tensor(0.1) if kind == "tensor lr" else 0.1
        momentum = 0.0 if kind == "sparse" else 0.9
        optimizer = optimizer_kind([weight], lr=lr, momentum=momentum)
        counted = []
        optimizer.register_step_pre_hook(lambda *_, to=counted: to.append("before"))
        optimizer.register_step_post_hook(lambda *_, to=counted: to.append("after"))
        for _ in range(2):
            weight.grad = gradient
            if kind == "sparse":
                weight.grad = gradient.to_sparse()
            elif kind == "transposed":
                weight.grad = gradient.t().contiguous().t()
            elif kind == "strided":
                weight.grad = torch.stack([gradient, gradient], -1)[..., 0]
            optimizer.step(*[lambda: 3.0] if kind == "closure" else [])
        assert counted == ["before", "after"] * 2
        found.append(weight)
    assert torch.equal(*found)
    assert not compiled


def test_hooks_are_called_once(compiled):
    torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1).step()  # puts hooks around its step
    weight, seen = nn.Parameter(torch.ones(2)), []
    optimizer = SGD([weight], lr=0.5)
    optimizer.register_step_pre_hook(lambda *_: seen.append(weight.tolist()))
    optimizer.register_step_post_hook(lambda *_: seen.append(weight.tolist()))
    optimizer.step()
    weight.grad = torch.ones(2)
    optimizer.step()
    optimizer.step(lambda: None)
    assert seen == [[1.0, 1.0]] * 3 + [[0.5, 0.5]] * 2 + [[0.0, 0.0]]


def test_states_go_to_and_fro_and_copies_go_on():
    options = OPTIONS["both"]
    ours, theirs = steps(SGD, options), steps(torch.optim.SGD, options)
    kept = io.BytesIO()
    torch.save(theirs[1].state_dict(), kept)
    kept.seek(0)
    ours[1].load_state_dict(torch.load(kept))
    parameters, optimizer = copy.deepcopy(ours)
    for those, stepper in (ours, theirs, (parameters, optimizer)):
        for parameter in those:
            parameter.grad = torch.ones_like(parameter)
        stepper.step()
    same(ours, theirs)
    same((parameters, optimizer), theirs)


def test_a_step_between_forward_and_backward_is_noticed():
    weight = nn.Parameter(torch.ones(3))
    optimizer = SGD([weight], lr=0.1)
    loss = weight.square().sum()
    weight.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_state_of_another_size_is_left_to_torch_to_refuse():
    weight = nn.Parameter(torch.ones(4))
    optimizer = SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.ones(4)
    optimizer.step()
    optimizer.state[weight]["momentum_buffer"] = torch.ones(3)
    with pytest.raises(RuntimeError, match="size"):
        optimizer.step()
