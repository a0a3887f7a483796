"""What goes through sparse layers: inputs, outputs and gradients of all forward calls of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from topokit.nn.kernels.ops import uncompiled

__all__ = ["Activations", "Call", "Calls", "found_inf", "watch_models"]

# Functions whose output is what a unit passes on, as torch, torch.nn.functional and the methods of
# tensors name them; an underscore at the end (in place) is ignored. A normalisation or dropout
# between layer and activation is passed through.
ACTIVATIONS = frozenset((
    "relu", "relu6", "sigmoid", "tanh", "gelu", "silu", "elu", "selu", "celu", "leaky_relu",
    "hardtanh", "hardswish", "hardsigmoid", "softplus", "softsign", "mish", "prelu", "rrelu",
    "threshold", "logsigmoid", "log_sigmoid", "tanhshrink", "softshrink", "hardshrink", "softmax",
    "clamp", "clamp_min", "clip",
))  # fmt: skip
PASSED = frozenset(
    ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "dropout")
)
COMPARED = 8  # edges of the largest gradients, at which gradients are compared


@dataclass(eq=False)
class Call:
    """One forward call of a layer.

    Parameters
    ----------
    inputs, outputs : torch.Tensor
    output_grad : torch.Tensor or None
        Gradient of the loss with respect to what the layer itself returned.
    watched : bool
        Whether it is known that no activation follows, or `outputs` are those after it.
    version : int
        How often the inputs had been written to.
    shape : tuple of int
        Of what the layer itself returned.
    """

    inputs: torch.Tensor
    outputs: torch.Tensor
    output_grad: torch.Tensor | None = None
    watched: bool = False
    version: int = 0
    shape: tuple[int, ...] = ()


class Calls:
    """The forward calls of a layer that the gradient of its values is the sum of.

    Parameters
    ----------
    every : bool
        Keep all calls, not only those that a gradient came back to.

    Attributes
    ----------
    last : Call or None
        The last call, whether a gradient came back or not.
    done : list of Call
        Calls whose gradient has been added to ``values.grad`` since it was last set to zero.

    Notes
    -----
    A hook on each call's output pairs the gradient that comes back with that call's inputs. Calls
    that no gradient comes back to (an evaluation, the first forward of a checkpointed block) hold
    no memory beyond their graph, except the last. A backward pass that does not reach
    ``values.grad`` (`torch.autograd.grad` of the inputs) counts for nothing, and calls before
    ``zero_grad`` are forgotten when the next gradient arrives. Nor do calls count that were made
    with other values, as ``torch.func.functional_call`` does: `listen` says which are the layer's.
    Memory: inputs, outputs and gradients of the calls of one step.
    """

    def __init__(self, *, every: bool = False) -> None:
        self.every = every
        self.last: Call | None = None
        self.watch: Activations | None = None
        self.done: list[Call] = []
        self._open: list[tuple[int, bool, Call | None]] = []  # of backward passes under way
        self._hook: Any = None
        self._own: int | None = None  # the id of the layer's values; None if they are no parameter
        self._elsewhere = False  # whether a gradient came through values computed from them
        self._seen: tuple[int, int] | None = None  # of values.grad, when it was last added to
        self._largest: tuple[torch.Tensor, torch.Tensor] | None = None

    def listen(self, values: nn.Parameter | None) -> None:
        """Notice when gradients are added to the values of the layer, now these."""
        self.close()
        self._own = None if values is None else id(values)
        if values is not None and values.requires_grad and values.is_leaf:
            self._hook = values.register_post_accumulate_grad_hook(self._added)
            # Where torch has swapped tensors, the hooks are listed here and no longer called.
            values._post_accumulate_grad_hooks = values._post_accumulate_grad_hooks

    def record(self, values: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        """Note a call with inputs x and outputs y."""
        self.last = call = Call(x.detach(), y.detach(), version=_version(x), shape=y.shape)
        if self.watch is not None:
            self.watch.wait_for(y, call)
        if self.every:
            self.done.append(call)
        elif not y.requires_grad:
            return
        elif self._own not in (None, id(values)):
            if values.requires_grad and not values.is_leaf:  # perhaps computed from the layer's
                y.register_hook(self._came_to_others)
        else:
            if self._hook is None and values.requires_grad and values.is_leaf:
                self._hook = values.register_post_accumulate_grad_hook(self._added)
            y.register_hook(partial(self._came_back, values, call))

    @uncompiled
    def _came_to_others(self, gradient: torch.Tensor) -> None:
        self._open.append((_pass(), False, None))

    @uncompiled
    def _came_back(self, values: torch.Tensor, call: Call, gradient: torch.Tensor) -> None:
        if self.done and self._was_zeroed(values.grad):
            self.done.clear()
        if call.output_grad is not None:  # a second backward pass through the same call
            call = dataclasses.replace(call)
        call.output_grad = gradient.detach()
        self._open.append((_pass(), _can_be_differentiated(gradient), call))

    def _was_zeroed(self, grad: torch.Tensor | None) -> bool:
        if grad is None:
            return True
        return (id(grad), grad._version) != self._seen and not grad.any()

    @uncompiled
    def _added(self, values: torch.Tensor) -> None:
        """Count the calls of this backward pass: the gradient of the values has been added to."""
        now = _pass()
        calls = [call for number, _, call in self._open if number == now]
        self.done += [call for call in calls if call is not None]
        self._elsewhere |= None in calls
        self._open = [entry for entry in self._open if entry[0] != now]
        grad = values.grad
        if grad is None or grad.is_sparse:
            return
        self._seen = id(grad), grad._version
        at = largest(grad)
        self._largest = at, grad.detach()[at]

    def accept(self) -> None:
        """Count the calls that a gradient came back to without reaching ``values.grad``."""
        self.done += [call for _, _, call in self._open if call is not None]
        self._open.clear()

    def check(self, name: str) -> None:
        """Raise a ValueError if gradients may have come another way than through the calls."""
        if any(higher for _, higher, _ in self._open):
            raise ValueError(
                f"the loss may depend on gradients of layer {name!r} (create_graph=True, or "
                "torch.func), and the rule's view of absent edges would be wrong; use a rule that "
                "needs no gradient, or if the loss does not depend on them, create_graph=False, "
                "or torch.no_grad() around torch.func"
            )
        if self._elsewhere:
            raise ValueError(
                f"a gradient of layer {name!r} came through values computed from its own (as by "
                "torch.func.functional_call), and the rule's view of absent edges would be wrong; "
                "use a rule that needs no gradient"
            )
        if any(_version(call.inputs) != call.version for call in self.done):
            raise ValueError(
                f"the inputs of layer {name!r} were overwritten between its call and the step, and "
                "the rule's view of absent edges would be wrong; change a copy of them, or load "
                "each batch into a new tensor"
            )

    def factor(self, values: torch.Tensor) -> torch.Tensor:
        """Return what the gradient was multiplied by since it was added: unscaled, clipped by norm.

        1 if it was changed in another way. A float64 number on the device, which is not waited for.
        """
        if self._largest is None or values.grad is None:
            return torch.ones((), dtype=torch.float64, device=values.device)
        at, before = self._largest
        return factor_between(before, values.grad.detach()[at])

    def clear(self) -> None:
        """Forget all calls."""
        self.last, self._largest, self._seen = None, None, None
        self.done, self._open, self._elsewhere = [], [], False

    def close(self) -> None:
        """Remove the hook on the values."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def shown(self) -> list[Call]:
        """Return the calls to show: those that a gradient came back to, or the last."""
        calls = self.done or [call for _, _, call in self._open if call is not None]
        return calls or ([] if self.last is None else [self.last])

    def __getstate__(self) -> dict[str, Any]:
        return Calls(every=self.every).__dict__


def largest(gradient: torch.Tensor) -> torch.Tensor:
    """Return the edges at which gradients are compared: those of the largest."""
    return gradient.detach().abs().topk(min(COMPARED, gradient.numel())).indices


def factor_between(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return what some gradients were multiplied by; 1 if they were changed in another way."""
    before, after = before.double(), after.double()
    one = before.new_ones(())
    if not before.numel():
        return one
    factor = after[0] / before[0]
    same = torch.isclose(after, factor * before, rtol=1e-2, atol=0).all()
    return torch.where(same & torch.isfinite(factor) & (before[0] != 0), factor, one)


def _version(x: torch.Tensor) -> int:
    """Return how often a tensor's memory was written to; tensors of inference do not count it."""
    return 0 if x.is_inference() else x._version


def _can_be_differentiated(gradient: torch.Tensor) -> bool:
    """Return whether a loss can depend on a gradient, outside transformations of torch.func."""
    while torch._C._functorch.is_functorch_wrapped_tensor(gradient):
        gradient = torch._C._functorch.get_unwrapped(gradient)
    return gradient.requires_grad


def _pass() -> int:
    """Return the number of the backward pass under way; passes within another have their own."""
    return torch._C._current_graph_task_id()


def found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a gradient scaler makes this step of a fused optimizer do nothing."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


class Activations(TorchFunctionMode):
    """Watches for the activation function that follows each sparse layer, in one forward call.

    Parameters
    ----------
    model : torch.nn.Module
        The model that is called, once, within this context.
    layers : list of EdgeLayer
        Those of its sparse layers that capture.

    Notes
    -----
    A call's outputs become those of the first activation function that is applied to them
    (`ACTIVATIONS`, as a function or as a module, and topokit's own), where a normalisation or
    dropout may come between. Without one the layer's own outputs stay. Layers followed by an
    activation of one's own say ``layer.keep("outputs", y)``.
    """

    def __init__(self, model: nn.Module, layers: list[Any]) -> None:
        super().__init__()
        self.model, self.layers = model, layers
        self._waiting: dict[int, tuple[torch.Tensor, Call]] = {}
        self._calls: list[Call] = []

    def __enter__(self) -> Activations:
        for layer in self.layers:
            layer.calls.watch = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for layer in self.layers:
            if layer.calls is not None:
                layer.calls.watch = None
        self._waiting.clear()
        super().__exit__(*error)

    def wait_for(self, y: torch.Tensor, call: Call) -> None:
        """Wait for an activation of a call's output."""
        self._waiting[id(y)] = y, call
        self._calls.append(call)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._waiting:
            given = args[0] if args else kwargs.get("input")
            name = getattr(func, "__name__", "").rstrip("_")
            if name in ACTIVATIONS:
                self.saw(given, result)
            elif name in PASSED and id(given) in self._waiting:
                self._waiting[id(result)] = result, self._waiting.pop(id(given))[1]
        return result

    def saw(self, given: Any, result: Any) -> None:
        """Take the result of an activation function as a call's outputs, if it was given them."""
        entry = self._waiting.get(id(given))
        if entry and isinstance(result, torch.Tensor) and result.shape == entry[1].outputs.shape:
            del self._waiting[id(given)]
            entry[1].outputs = result.detach()

    def finish(self, scores: Any) -> None:
        """End the call that returned `scores`: what no activation was applied to has none.

        If the last layer computes class scores, its outputs become their softmax.
        """
        for call in self._calls:
            call.watched = True
        last = self.layers[-1]
        shape = scores.shape if isinstance(scores, torch.Tensor) else ()
        classes = len(shape) == 2 and 1 < shape[-1] == last.n_out
        if classes and not hasattr(self.model, "batch_loss"):
            last.keep("outputs", torch.softmax(scores, dim=1))


class _Hook:
    """A forward hook that copies and pickles of a module do not take over."""

    def __init__(self, call: Any = None) -> None:
        self.call = call

    def __call__(self, *args: Any) -> None:
        if self.call is not None and not torch.compiler.is_compiling():
            self.call(*args)

    def __reduce__(self) -> Any:
        return _Hook, ()


def watch_models(layers: Mapping[nn.Module, list[Any]]) -> list[Any]:
    """Watch activations in each forward call of some models, until the returned hooks are removed.

    Parameters
    ----------
    layers : mapping of torch.nn.Module to list of EdgeLayer
        The sparse layers of each model.
    """
    from topokit.nn.activations import AllReLU, SReLU

    under_way: list[Activations] = []

    def before(module: nn.Module, inputs: Any) -> None:
        capturing = [layer for layer in layers[module] if layer.capture]
        if capturing and not under_way:
            under_way.append(Activations(module, capturing).__enter__())

    def after(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if under_way and under_way[0].model is module:
            watch = under_way.pop()
            if outputs is not None:  # None: an error was raised
                watch.finish(outputs)
            watch.__exit__(None, None, None)

    def applied(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if under_way:
            under_way[0].saw(inputs[0], outputs)

    hooks = []
    for model in layers:
        hooks.append(model.register_forward_pre_hook(_Hook(before)))
        hooks.append(model.register_forward_hook(_Hook(after), always_call=True))
        hooks += [
            part.register_forward_hook(_Hook(applied))
            for part in model.modules()
            if isinstance(part, AllReLU | SReLU)
        ]
    return hooks
