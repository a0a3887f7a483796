"""Training steps recorded once on a graphics card and replayed from then on.

A step of a small network is some thirty kernels of a few microseconds each, which Python takes a
millisecond or two to launch one by one. A CUDA graph launches them all at once. It repeats what was
recorded: the same kernels, on the same memory, with the same numbers among their arguments. So

- a batch is copied into the memory of the recorded one, and a batch of another size (the last of an
  epoch) is computed as usual;
- numbers that kernels were launched with, such as the learning rate, are compared before each
  replay; after a change the step is recorded anew;
- a rewiring gives layers new values, optimizer state and arrays of their graph. While the number of
  edges stays, they are moved into the memory of those before (`_Layer.moved`); otherwise the step
  is recorded anew;
- the first steps, and the one after every change, are computed as usual: they make optimizer state
  and compile kernels, which must not happen while recording;
- dropout draws from a generator that the graph is told of; a replay moves it on as a step does;
- so are the numbers and switches of modules, and which parameters are trained, at the first step of
  an epoch: a loop over the epochs may have changed them;
- what Python does in a step is not repeated. The engine's counting is called after each replay;
  steps whose activations a rule looks at are computed as usual, and where anything else would be
  left out, no step is recorded, and the run's record says why (`Steps.why`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from topokit.experiments.samples import Batch
from topokit.nn.engine import Engine
from topokit.nn.kernels.recording import Graphs, copy_all
from topokit.nn.layers import sparse_layers
from topokit.nn.optimizers import SGD
from topokit.rules import UpdateRule

__all__ = ["LOOKED_AT", "Counting", "Steps"]

_log = logging.getLogger("topokit.experiments")

LOOKED_AT = "steps whose activations the rule looks at"
FIRST = 3  # steps computed as usual before the first is recorded
KNOWN = ("torch.nn.", "topokit.")  # modules whose classes do all their work on the device
OPTIMIZERS = (SGD, torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


class Counting(Protocol):
    """What is told of steps: an engine, or whatever stands for those of several runs."""

    rule: UpdateRule
    name: str
    paused: bool

    def stepped(self) -> None:
        """Count a step that was made by a replay."""


class _Layer:
    """The memory of a sparse layer that a recorded step uses."""

    def __init__(self, layer: Any, optimizer: torch.optim.Optimizer) -> None:
        self.layer, self.optimizer = layer, optimizer
        self.index, self.values = layer.index, layer.values.detach()
        self.state = self._tensors()

    def _tensors(self) -> dict[str, torch.Tensor]:
        state = self.optimizer.state.get(self.layer.values, {})
        return {name: entry for name, entry in state.items() if torch.is_tensor(entry)}

    @property
    def in_place(self) -> bool:
        """Whether the layer still has this memory, and this graph."""
        known = self.layer._index
        same = known is not None and known[2] is self.index
        return same and self.layer.values.data_ptr() == self.values.data_ptr()

    def pairs(self) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Return this memory with what a rewiring has made of it; None if it does not fit."""
        state = self._tensors()
        if state.keys() != self.state.keys():
            return None
        found = [(self.values, self.layer.values.detach())]
        found += [(old, state[name]) for name, old in self.state.items() if old is not state[name]]
        found += self.layer.index.pairs_with(self.index)
        return None if any(old.shape != new.shape for old, new in found) else found

    def take_back(self) -> None:
        """Let the layer have this memory again."""
        values = self.layer.values
        self.layer.index.take_over(self.index)
        self.optimizer.state[values].update(self.state)
        self.index, values.data, values.grad = self.layer.index, self.values, None


@torch.no_grad()
def moved(layers: Sequence[_Layer]) -> bool:
    """Move what a rewiring has made into a recorded step's memory; False if it does not fit."""
    layers = [layer for layer in layers if not layer.in_place]
    found = [layer.pairs() for layer in layers]
    if any(pairs is None for pairs in found):
        return False
    both = [pair for pairs in found for pair in pairs or ()]
    copy_all([old for old, _ in both], [new for _, new in both])
    for layer in layers:
        layer.take_back()
    return True


class Steps:
    """The training steps of a model, recorded and replayed where that is possible.

    Parameters
    ----------
    graphs : Graphs
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
    engine : Engine or Counting
    generators : sequence of torch.Generator
        Those of the model's dropout.
    loss : callable
        ``loss(model, batch)``; of several models together one loss for each.
    size : int
        Samples of a full batch.

    Attributes
    ----------
    why : str
        Why no step is recorded, in words; "" if steps are.
    """

    def __init__(
        self,
        graphs: Graphs,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        engine: Engine | Counting,
        *,
        generators: Sequence[torch.Generator],
        loss: Callable[[Any, Batch], torch.Tensor],
        size: int,
    ) -> None:
        self.graphs, self.model, self.optimizer, self.engine = graphs, model, optimizer, engine
        self.generators, self._loss, self.size = generators, loss, size
        self.why, self._settings = "", _settings(model)
        self._look()
        self._sparse = list(sparse_layers(model).values())
        self._usual = FIRST  # steps to be computed as usual before the next is recorded
        self._batch: Batch | None = None
        self._replay: Callable[[], None] | None = None
        self._numbers: Any = None
        self._layers: list[_Layer] = []
        self._last: list[torch.Tensor] = []  # the loss of the recorded step, where replays write it
        self._made: Counter[str] = Counter()

    def replays(self, batch: Batch) -> bool:
        """Return whether the next step is to be a replay; records it if that is due."""
        if not self._made:  # since the last report: of an epoch
            self._look()
        reason = self.why or self._not_now(batch)
        if not reason:
            self._check()
            if self._replay is None and self._usual:
                self._usual -= 1
                reason = "first steps, and those after a change"
            elif self._replay is None:
                self._record(batch)
                reason = self.why
        self._made[reason] += 1
        return not reason

    def _look(self) -> None:
        """Look at the model again: at what keeps steps from being recorded, and at settings."""
        if not self.why:
            self.why = why_not(self.model, self.optimizer, self.engine, self.generators)
            if self.why:
                _log.info("training steps are launched one by one: %s", self.why)
        now = _settings(self.model)
        if now != self._settings:
            self._settings = now
            self._forget()

    def _not_now(self, batch: Batch) -> str:
        if any(layer.capture for layer in self._sparse):
            return LOOKED_AT
        return "" if len(batch.x) == self.size else "smaller batches"

    def _check(self) -> None:
        """Forget the recording if it is not of the present numbers or memory."""
        if self._replay is None:
            return
        same = self._numbers == _numbers(self.optimizer)
        if not (same and moved(self._layers)):
            self._forget()

    def _forget(self) -> None:
        """Have the next step computed as usual, and one after it recorded."""
        self._replay, self._usual = None, max(self._usual, 1)

    def _record(self, batch: Batch) -> None:
        """Record a step on memory of its own for the batch."""
        if self._batch is None:
            self._batch = _like(batch)
        self._fill(batch)
        # A replay holds the function that was recorded. Were that a method, model and recorded
        # memory would outlive the training, until Python looks for cycles.
        step = partial(_step, self.model, self.optimizer, self._loss, self._batch, into=self._last)
        self.engine.paused = True  # its hooks do nothing on the device
        try:
            self._replay = self.graphs.record(step, self.generators)
        except RuntimeError as error:
            first = str(error).partition("\n")[0]
            self.why = f"torch could not record a step ({first})"
            _log.warning("training steps are launched one by one: %s", self.why)
            self._replay = None
            return
        finally:
            self.engine.paused = False
        self._numbers = _numbers(self.optimizer)
        self._layers = [_Layer(layer, self.optimizer) for layer in self._sparse]

    def _fill(self, batch: Batch) -> None:
        assert self._batch is not None
        for own, part in zip(self._batch, batch, strict=True):
            if own is not None and part is not None:
                own.copy_(part)

    def replay(self, batch: Batch) -> torch.Tensor:
        """Make a step by a replay, and return the loss."""
        assert self._replay is not None
        self._fill(batch)
        self._replay()
        loss = self._last[0].clone()
        self.engine.stepped()
        return loss

    def usual(self, call: Callable[[], None]) -> None:
        """Make a step as usual, by a function."""
        self.graphs.apart(call)

    def note(self, reason: str) -> None:
        """Count a step that was made elsewhere, and why."""
        self._made[reason] += 1

    def report(self) -> dict[str, Any]:
        """Return how many steps were replayed since the last report, and why others were not."""
        made, self._made = self._made, Counter()
        replayed = made.pop("", 0)
        return {"replayed": replayed, "one_by_one": dict(made)}


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Any, Batch], torch.Tensor],
    batch: Batch,
    *,
    into: list[torch.Tensor],
) -> None:
    """Make a step, as the loop does, and put the loss into a list."""
    optimizer.zero_grad(set_to_none=True)
    loss = loss_of(model, batch)
    loss.backward(torch.ones_like(loss))
    optimizer.step()
    into[:] = [loss.detach()]


def _like(batch: Batch) -> Batch:
    """Return memory for batches of this size; of vectors in the order that products read."""

    def memory(part: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(part.movedim(0, -1).contiguous()).movedim(-1, 0)

    x, y, weights = batch  # x may be (n, features), or (n, models, features)
    return Batch(memory(x), y.clone(), None if weights is None else weights.clone())


def _numbers(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the numbers that an optimizer's kernels are launched with."""
    groups = optimizer.param_groups
    return [{key: value for key, value in group.items() if key != "params"} for group in groups]


def _settings(model: nn.Module) -> list[Any]:
    """Return what a step of a model depends on besides tensors, and which of them are trained."""
    plain = (bool, int, float, str)
    return [
        (
            id(module),
            {key: value for key, value in vars(module).items() if isinstance(value, plain)},
            [parameter.requires_grad for parameter in module.parameters(recurse=False)],
        )
        for module in model.modules()
    ]


def why_not(
    model: Any,
    optimizer: torch.optim.Optimizer,
    engine: Engine | Counting,
    generators: Sequence[torch.Generator] = (),
) -> str:
    """Return why steps cannot be recorded, in words; "" if they can.

    `generators` are those that the graph is told of.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> from topokit.nn import SparseLinear
    >>> from topokit.nn.engine import attach
    >>> graph = LayerGraph.from_edge_ids(range(0, 60, 3), (6, 10))
    >>> model = nn.Sequential(SparseLinear(graph, rng=0))
    >>> optimizer = torch.optim.Adagrad(model.parameters())
    >>> why_not(model, optimizer, attach(model, optimizer, every=1, rng=1))
    'the optimizer is Adagrad, and not one of SGD, Adam, AdamW'
    """
    if hasattr(model, "batch_loss"):
        return f"{type(model).__name__} computes its loss itself, with states that it keeps"
    modules = list(model.modules())
    for module in modules:
        kind = type(module)
        if not f"{kind.__module__}.".startswith(KNOWN):
            return f"{kind.__name__} is neither of torch nor of topokit, and may do work on the CPU"
        own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        if any(own) or module._backward_pre_hooks:
            return f"{kind.__name__} has hooks, which a replay does not call"
        draws, drops = (getattr(module, name, None) for name in ("generator", "dropout"))
        told = any(draws is generator for generator in generators)
        if isinstance(draws, torch.Generator) and drops and not told:
            return f"{kind.__name__} draws from another generator than that of the training"
    if type(optimizer) not in OPTIMIZERS:
        names = ", ".join(dict.fromkeys(kind.__name__ for kind in OPTIMIZERS))
        return f"the optimizer is {type(optimizer).__name__}, and not one of {names}"
    if not all(group.get("capturable", True) for group in optimizer.param_groups):
        return f"the optimizer {type(optimizer).__name__} was made without capturable=True"
    if any(torch.is_tensor(n) for group in _numbers(optimizer) for n in group.values()):
        return "the optimizer has tensors among its options, whose changes would not be noticed"
    hooks = [
        *optimizer._optimizer_step_pre_hooks.values(),
        *optimizer._optimizer_step_post_hooks.values(),
    ]
    others = [hook for hook in hooks if not getattr(hook, "recorded", False)]
    if len(others) > 2:  # those of the engine
        return "the optimizer has hooks, which a replay does not call"
    if "sensitivity" in engine.rule.needs:
        return f"the rule ({engine.name}) adds up the gradients of all steps"
    return "" if engine.rule.step is None else f"the rule ({engine.name}) takes part in every step"
