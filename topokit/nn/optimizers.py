"""Stochastic gradient descent in one call of compiled code, with the numbers of torch's own."""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from topokit.nn.kernels.ops import composed, uncompiled, without_memory
from topokit.nn.kernels.products import NATIVE
from topokit.nn.kernels.threads import Descent, Kernel, Kernels, equal_row_bounds

__all__ = ["SGD", "as_torch_rounds"]

MOST_RECORDS = 8  # sets of sizes whose records are kept; a rewiring may change them
WORK = 4  # multiplications for each weight
SWITCHES = ("maximize", "differentiable", "foreach", "fused")
NUMBERS = ("lr", "momentum", "dampening", "weight_decay")

_NO_STATE: dict[str, Any] = {}
_NOTHING = Descent(*[0] * len(Descent._fields))
_C_NUMBERS: dict[torch.dtype, Any] = {
    torch.float32: ctypes.c_float,
    torch.float64: ctypes.c_double,
}


class SGD(torch.optim.SGD):
    """``torch.optim.SGD``, all parameters in one call of compiled code on the CPU.

    Numbers and state are those of torch's optimizer bit for bit. Whatever the compiled code does
    not take (other devices and number types, sparse gradients, ``maximize``, a learning rate that
    is a tensor, and the like) is computed by torch, and so is everything on machines where torch
    rounds in another way (`as_torch_rounds`).

    Parameters
    ----------
    params : iterable
        As for ``torch.optim.SGD``.
    **options
        As for ``torch.optim.SGD``.

    Notes
    -----
    Of a step of 784-300-300-300-10 at epsilon 20, 50,000 parameters in eight tensors, torch's
    operations spend more time around the computation than in it.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = SGD([weight], lr=0.5, momentum=0.9)
    >>> weight.grad = torch.ones(2)
    >>> optimizer.step()
    >>> weight.tolist()
    [0.5, 0.5]
    """

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self._kernels: dict[Any, Kernels] = {}

    # Torch's own load its compiler.
    add_param_group = uncompiled(inspect.unwrap(torch.optim.SGD.add_param_group))
    zero_grad = uncompiled(inspect.unwrap(torch.optim.SGD.zero_grad))
    state_dict = uncompiled(inspect.unwrap(torch.optim.SGD.state_dict))
    load_state_dict = uncompiled(inspect.unwrap(torch.optim.SGD.load_state_dict))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a step; see ``torch.optim.SGD.step``."""
        groups = [
            (group, None if closure else self._prepared(group)) for group in self.param_groups
        ]
        if any(tensors is None for _, tensors in groups):
            return _torch_step()(self, closure)
        for group, tensors in groups:
            if tensors:
                self._descend(group, tensors)
        return None

    def _prepared(self, group: dict[str, Any]) -> list[tuple[Any, Any, Any]] | None:
        """Return a group's parameters with gradients and momentum; None if torch has to step."""
        tensors: list[tuple[Any, Any, Any]] = []
        momentum, dtype = group["momentum"], None
        for parameter in group["params"]:
            gradient, buffer = parameter.grad, None
            if gradient is None:
                continue
            dtype = parameter.dtype if dtype is None else dtype
            if momentum:
                buffer = self.state.get(parameter, _NO_STATE).get("momentum_buffer")
            for tensor in (parameter, gradient, parameter if buffer is None else buffer):
                if not _is_plain(tensor, dtype) or tensor.shape != parameter.shape:
                    return None
            tensors.append((parameter, gradient, buffer))
        taken = dtype is None or (
            dtype in NATIVE
            and not any(group[name] for name in SWITCHES)
            and all(isinstance(group[name], int | float) for name in NUMBERS)
            and not composed(tensors[0][0])
            and as_torch_rounds(dtype)
        )
        return tensors if taken else None

    def _descend(self, group: dict[str, Any], tensors: list[tuple[Any, Any, Any]]) -> None:
        """Make the step of a group, given as `_prepared` returns it."""
        dtype, sizes = tensors[0][0].dtype, tuple(entry[0].numel() for entry in tensors)
        kernels = self._kernels.get((dtype, sizes))
        if kernels is None:
            if len(self._kernels) >= MOST_RECORDS:
                self._kernels.clear()
            size = torch.finfo(dtype).bits // 8
            kernels = self._kernels[dtype, sizes] = Kernels(
                [Kernel(_NOTHING, size, equal_row_bounds(n), WORK * n) for n in sizes]
            )
        record, momentum, decays = kernels.record(), group["momentum"], group["weight_decay"] != 0
        numbers = group["weight_decay"], momentum, 1 - group["dampening"], -group["lr"]
        settings = (_C_NUMBERS[dtype] * len(numbers))(*numbers)
        where = ctypes.addressof(settings)
        for (parameter, gradient, buffer), start in zip(tensors, kernels.starts, strict=True):
            begins = bool(momentum) and buffer is None
            if begins:
                buffer = self.state[parameter]["momentum_buffer"] = torch.empty_like(gradient)
            record[start : start + len(_NOTHING)] = (
                parameter.data_ptr(),
                gradient.data_ptr(),
                buffer.data_ptr() if momentum else 0,
                where,
                decays,
                begins,
                bool(group["nesterov"]),
            )
        kernels.run(record)
        for parameter, *_ in tensors:
            torch.autograd.graph.increment_version(parameter)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kernels": {}}


def _is_plain(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Return whether a tensor is one block of numbers in the machine's memory."""
    return (
        not without_memory(tensor)
        and tensor.is_cpu
        and tensor.dtype is dtype
        and dtype in NATIVE
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
    )


def _torch_step() -> Callable[..., Any]:
    """Return ``torch.optim.SGD.step`` without the hooks around it, which are around ours."""
    step: Any = torch.optim.SGD.step
    return step.__wrapped__ if getattr(step, "hooked", False) else step


@cache
def as_torch_rounds(dtype: torch.dtype) -> bool:
    """Return whether the compiled step has the numbers of torch's on this machine.

    Torch adds a multiple of a tensor with one rounding where the processor can, and with two
    elsewhere. Two steps are tried with each.

    Examples
    --------
    >>> as_torch_rounds(torch.float32) in (True, False)
    True
    """
    draw = torch.Generator().manual_seed(0)
    weights = torch.rand(64, 47, generator=draw, dtype=dtype)  # vectors, and what is left of them
    options: dict[str, Any] = {
        "lr": 0.8, "momentum": 0.9, "weight_decay": 0.7, "nesterov": True,
    }  # fmt: skip
    ours, theirs = ([nn.Parameter(row.clone()) for row in weights] for _ in range(2))
    own, other = SGD(ours, **options), SGD(theirs, **options)
    torch_step = torch.no_grad()(inspect.unwrap(_torch_step()))  # unwrapped: without compiler
    for _ in range(2):
        for one, another in zip(ours, theirs, strict=True):
            one.grad = another.grad = torch.rand(47, generator=draw, dtype=dtype)
        states = (own.state.get(p, _NO_STATE).get("momentum_buffer") for p in ours)
        own._descend(
            own.param_groups[0], [(p, p.grad, b) for p, b in zip(ours, states, strict=True)]
        )
        torch_step(other)
    return all(map(torch.equal, ours, theirs))
