"""Stochastic gradient descent in one call of compiled code, with the numbers of torch's own."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from topokit.nn.kernels.ops import composed, without_memory
from topokit.nn.kernels.products import NATIVE
from topokit.nn.kernels.threads import Descent, Kernel, Kernels, equal_row_bounds

__all__ = ["SGD", "as_torch_rounds"]

MOST_RECORDS = 8  # sets of sizes whose records are kept; a rewiring may change them
WORK = 4  # multiplications for each weight
SWITCHES = ("maximize", "differentiable", "foreach", "fused")
NUMBERS = ("lr", "momentum", "dampening", "weight_decay")

_AT = {name: at for at, name in enumerate(Descent._fields)}
_NOTHING = Descent(*[0] * len(_AT))
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

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a step; see ``torch.optim.SGD.step``."""
        groups = None if closure is not None else self._taken()
        if groups is None:
            return _torch_step()(self, closure)
        for group, parameters, gradients in groups:
            self._descend(group, parameters, gradients)
        return None

    def _taken(self) -> list[Any] | None:
        """Return each group with its parameters that have gradients; None if torch has to step."""
        groups = []
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            tensors = [*parameters, *(p.grad for p in parameters)]
            if group["momentum"]:
                states = (self.state.get(p, {}).get("momentum_buffer") for p in parameters)
                tensors += [buffer for buffer in states if buffer is not None]
            dtype = parameters[0].dtype
            if (
                any(group[name] for name in SWITCHES)
                or not all(isinstance(group[name], int | float) for name in NUMBERS)
                or not all(_is_plain(tensor, dtype) for tensor in tensors)
                or composed(parameters[0])
                or not as_torch_rounds(dtype)
            ):
                return None
            groups.append((group, parameters, tensors[len(parameters) : 2 * len(parameters)]))
        return groups

    def _descend(self, group: dict[str, Any], parameters: list[Any], gradients: list[Any]) -> None:
        """Make the step of a group's parameters."""
        dtype, sizes = parameters[0].dtype, tuple(p.numel() for p in parameters)
        kernels = self._kernels.get((dtype, sizes))
        if kernels is None:
            if len(self._kernels) >= MOST_RECORDS:
                self._kernels.clear()
            size = torch.finfo(dtype).bits // 8
            kernels = self._kernels[dtype, sizes] = Kernels(
                [Kernel(_NOTHING, size, equal_row_bounds(n), WORK * n) for n in sizes]
            )
        record, momentum = kernels.record(), group["momentum"]
        numbers = group["weight_decay"], momentum, 1 - group["dampening"], -group["lr"]
        settings = (_C_NUMBERS[dtype] * len(numbers))(*numbers)
        for parameter, gradient, start in zip(parameters, gradients, kernels.starts, strict=True):
            record[start + _AT["weights"]] = parameter.data_ptr()
            record[start + _AT["gradient"]] = gradient.data_ptr()
            record[start + _AT["settings"]] = ctypes.addressof(settings)
            record[start + _AT["decays"]] = group["weight_decay"] != 0
            if momentum:
                state = self.state[parameter]
                buffer = state.get("momentum_buffer")
                if buffer is None:
                    buffer = state["momentum_buffer"] = torch.empty_like(gradient)
                    record[start + _AT["begins"]] = 1
                record[start + _AT["momentum"]] = buffer.data_ptr()
                record[start + _AT["nesterov"]] = group["nesterov"]
        kernels.run(record)
        for parameter in parameters:
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
        and not tensor.is_neg()
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
    own, other = SGD(ours, **options), torch.optim.SGD(theirs, **options)
    for _ in range(2):
        for one, another in zip(ours, theirs, strict=True):
            one.grad = another.grad = torch.rand(47, generator=draw, dtype=dtype)
        own._descend(own.param_groups[0], ours, [p.grad for p in ours])
        _torch_step()(other)
    return all(map(torch.equal, ours, theirs))
