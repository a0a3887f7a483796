"""What an engine is attached to: optimizers whose steps it counts, and averages of the weights.

Steps of other optimizers on the same values are noticed, and layers that no step trains.
"""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from collections.abc import Collection, Mapping, Sequence
from operator import is_not
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from topokit.graph import EdgeUpdate, LayerGraph, same_edges
from topokit.nn.kernels.graphs import DeviceGraph
from topokit.nn.layers import EdgeLayer, sparse_layers
from topokit.nn.optimizer_state import (
    carried,
    entries_of,
    find_holders,
    keepers_of,
    kept_outside,
    stamp_of,
    tensor_of,
    unwrapped,
)
from topokit.nn.parameters import check_values
from topokit.rules import Rewiring, UpdateRule
from topokit.tables import need

__all__ = [
    "Attached",
    "Stamps",
    "check_average",
    "follow",
    "layers_of_copy",
]

# How steps of other optimizers are noticed.
#
# An engine's hook is on the optimizer it was given. If a loop makes another one for the same
# values, that hook is never called again and nothing is rewired any more. So while an engine is
# attached to layers, torch calls two functions of this module around the step of every optimizer in
# the process. A step is refused if its optimizer holds values of such a layer and is none of the
# engine's. Two kinds of wrappers are no others: an optimizer that makes the step of one of the
# engine's within its own, and one whose step is made within that of one of the engine's (SAM,
# Lookahead and the like do either).
#
# Cost for each step of another optimizer: O(number of its parameter tensors), no reading of values;
# for a step of the engine's own, a comparison of object identities.

FOLLOW = (
    "call engine.follow(optimizer) where the optimizer is made anew, or engine.detach() where the "
    "rewiring is over"
)
GONE = (
    "the engine is gone with its optimizer: call attach again, or keep what it returns and call "
    "detach() where the rewiring is over"
)

UNTRAINED = (
    "layers {} got no gradient in any step since the last rewiring, and keep their graph; expected "
    "a loss that depends on them (look for detach(), torch.no_grad() and layers that are not "
    "called), or their names in skip"
)

_ATTACHMENTS: list[_Attachment] = []


class _Attachment:
    """The layers that an engine was attached to; known also when the engine itself is gone.

    Parameters
    ----------
    layers : dict of EdgeLayer
        Those whose graph may change.

    Attributes
    ----------
    over : bool
        Whether no rewiring is to come.
    """

    def __init__(self, engine: Attached, layers: dict[str, EdgeLayer]) -> None:
        self.engine = weakref.ref(engine)
        self.layers = weakref.WeakValueDictionary(layers)
        self.over = False
        self.before: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    @property
    def tries(self) -> int:
        """Steps of the engine's optimizers so far."""
        engine = self.engine()
        return 0 if engine is None else engine._tries

    def held(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """Return the layers, being rewired and trained, whose values an optimizer holds."""
        if self.over:
            return []
        engine = self.engine()
        if engine is not None and any(optimizer is own for own in engine.optimizers):
            return []
        every = {id(p) for group in optimizer.param_groups for p in group["params"]}
        values = {name: layer._parameters.get("values") for name, layer in self.layers.items()}
        return [
            n for n, v in values.items() if v is not None and v.requires_grad and id(v) in every
        ]


_hooks: list[Any] = []


def _watch(attachment: _Attachment) -> None:
    """Notice steps of other optimizers on an engine's layers from now on."""
    new = set(attachment.layers.values())
    _ATTACHMENTS[:] = [each for each in _ATTACHMENTS if not new & set(each.layers.values())]
    _ATTACHMENTS.append(attachment)
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_before_any_step))
        _hooks.append(register_optimizer_step_post_hook(_after_any_step))


def _unwatch(attachment: _Attachment) -> None:
    """Stop noticing; also for attachments whose layers are gone."""
    _ATTACHMENTS[:] = [each for each in _ATTACHMENTS if each is not attachment and each.layers]
    if not _ATTACHMENTS:
        for hook in _hooks:
            hook.remove()
        _hooks.clear()


def _before_any_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if torch.compiler.is_compiling():
        return
    for attachment in _ATTACHMENTS:
        if attachment.held(optimizer):
            attachment.before[optimizer] = attachment.tries


def _after_any_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if torch.compiler.is_compiling():
        return
    for attachment in list(_ATTACHMENTS):
        if not attachment.layers:
            _unwatch(attachment)
            continue
        names = attachment.held(optimizer)
        if not names or attachment.before.pop(optimizer, None) != attachment.tries:
            continue
        engine = attachment.engine()
        if engine is not None and _within_step(engine.optimizers):
            continue
        hint = GONE if engine is None else FOLLOW
        if engine is not None and any(optimizer is each for each in engine._keepers):
            hint = "attach with this one, whose steps are made, and not with the one that holds it"
        raise ValueError(
            f"expected steps of the optimizer that layers {', '.join(names)} were attached with, "
            f"got one of another {type(optimizer).__name__} that holds their values, after which "
            f"nothing would be rewired; {hint}"
        )


def _within_step(optimizers: Sequence[torch.optim.Optimizer]) -> bool:
    """Return whether one of the optimizers is making a step, which its hooks will count."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        step = frame.f_code.co_name in ("step", "wrapper")  # itself, or torch's call of it
        own = frame.f_locals.get("self") if step else None
        if any(own is optimizer for optimizer in optimizers):
            return True
        frame = frame.f_back
    return False


def _holding(optimizers: Sequence[torch.optim.Optimizer]) -> list[Any]:
    """Return what holds one of the optimizers, or one that does, and is making a step now."""
    found: list[Any] = [*optimizers]
    frame: Any = sys._getframe(1)
    while frame is not None:
        outer = frame.f_locals.get("self")
        held = getattr(outer, "__dict__", {})
        if hasattr(outer, "param_groups") and any(x is o for x in held.values() for o in found):
            found.append(outer)
        frame = frame.f_back
    return found


class Stamps(dict[str, int]):
    """The stamp of each layer's graph (`stamp_of`).

    Those of graphs whose arrays are on a device are missing until somebody asks for them.
    """

    def __init__(self, layers: Mapping[str, EdgeLayer]) -> None:
        self._layers = layers
        self.unmarked: set[str] = set()  # layers whose optimizer state lacks the stamp
        for name in layers:
            self.forget(name)

    def __missing__(self, name: str) -> int:
        self[name] = stamp_of(self._layers[name].graph)
        return self[name]

    def forget(self, name: str) -> None:
        """Note that a layer has another graph."""
        self.pop(name, None)
        graph = self._layers[name].graph
        if not isinstance(graph, DeviceGraph) or graph.fetched:
            self[name] = stamp_of(graph)

    def all(self) -> dict[str, int]:
        """Return the stamps of all layers."""
        return {name: self[name] for name in self._layers}


def _kind(tensor: torch.Tensor) -> tuple[torch.dtype, torch.device]:
    return tensor.dtype, tensor.device


def _words(kind: tuple[torch.dtype, torch.device]) -> str:
    return f"{str(kind[0]).removeprefix('torch.')} on {kind[1]}"


class Attached:
    """What an engine knows of its layers and optimizers: part of `topokit.nn.engine`."""

    model: nn.Module
    options: Rewiring
    rule: UpdateRule
    memory: dict[str, Any]
    optimizers: list[torch.optim.Optimizer]
    _keepers: list[Any]  # these, what they are wrapped in and what they hold
    _layers: dict[str, EdgeLayer]
    _attachment: _Attachment | None = None
    _stepped_since: set[int]
    _stamps: Stamps
    _tries = 0  # steps of optimizers, counted or not
    _tries_before = 0  # at the end of the last epoch
    _versions: Mapping[str, int] = {}  # of values without a gradient, before the step being made
    _ever: set[str] | None = None  # layers that any step trained; None before the first
    _named: frozenset[str] = frozenset()  # untrained layers that a warning has named

    def _take(self, optimizer: Any) -> None:
        """Let an optimizer, or several, be the engine's; raise a ValueError if they cannot."""
        given = optimizer if isinstance(optimizer, list | tuple) else [optimizer]
        need(bool(given), "optimizer", "one optimizer or several", optimizer)
        optimizers = [unwrapped(each) for each in given]
        holders = self._holders(optimizers).values()
        keepers = keepers_of(given)
        self._check_kept(keepers)
        self._keepers = keepers
        used = [each for each in optimizers if any(each is own for own in holders)]
        self.optimizers = used or optimizers
        self.optimizer = self.optimizers[0]
        self._stepped_since = set()  # optimizers, since the last counted step
        self._known: dict[int, Any] = {}
        self._kinds = {name: _kind(layer.values) for name, layer in self._layers.items()}

    @property
    def _momentum(self) -> float:
        """The momentum of the optimizer, for rules that follow it."""
        return float(self.optimizer.param_groups[0].get("momentum") or 0.9)

    def _watch(self) -> None:
        """Notice steps of other optimizers that hold values of the layers."""
        moving = {n: v for n, v in self._layers.items() if n not in self.options.skip}
        self._attachment = _Attachment(self, moving)
        _watch(self._attachment)

    def _set_over(self, over: bool) -> None:
        if self._attachment is not None:
            self._attachment.over = over

    def _unwatch(self) -> None:
        if self._attachment is not None:
            _unwatch(self._attachment)
            self._attachment = None

    def _check_kept(self, keepers: list[Any]) -> None:
        """Raise a ValueError if an optimizer keeps numbers of edges where they cannot follow."""
        fixed = self._fixed()
        values = [layer.values for name, layer in self._layers.items() if name not in fixed]
        if place := kept_outside(keepers, values):
            raise ValueError(
                "expected what an optimizer keeps of each parameter in its state[parameter], which "
                f"follows the edges, got {place}, where the same position is another edge after a "
                "rewiring; use an optimizer that keeps it in its state"
            )

    def _find_keepers(self) -> list[Any]:
        """Return what keeps a state of the layers, with optimizers around those of the engine."""
        self._keepers = keepers_of([*self._keepers, *_holding(self.optimizers)])
        self._check_kept(self._keepers)
        return self._keepers

    def _states(self, values: torch.Tensor) -> list[dict[str, Any]]:
        """Return what the optimizers keep of a layer's values."""
        if len(self._keepers) == 1:  # as nearly always, and asked for at each step
            return [state] if (state := self._keepers[0].state.get(values)) else []
        return [state for _, state in entries_of(self._keepers, values)]

    def _fixed(self) -> set[str]:
        """Return the layers that keep their graph: those skipped or frozen."""
        frozen = {n for n, layer in self._layers.items() if not layer.values.requires_grad}
        return {*self.options.skip, *frozen}

    # Which layers are trained: those that have a gradient at a step, be it of zeros, by which
    # optimizers step as well; to look at its numbers would wait for a device.

    def _note_gradients(self, names: list[str]) -> None:
        """Note which of some layers the step that is being made trains."""
        trained = self.memory.setdefault("trained", [])
        if len(trained) == len(self._layers):
            return
        self._ever = set() if self._ever is None else self._ever
        values = {name: self._layers[name].values for name in names if name not in trained}
        self._versions = {name: v._version for name, v in values.items() if v.grad is None}
        trained += [name for name, v in values.items() if v.grad is not None]
        self._ever.update(trained)

    def _note_changes(self) -> None:
        """Note which layers without a gradient the optimizer has changed, as some do."""
        for name, before in self._versions.items():
            if self._layers[name].values._version != before:
                self.memory["trained"].append(name)
        self._versions = {}

    def _note_replayed(self) -> None:
        """Note that a step was replayed: it trains the layers that steps before it have."""
        trained = self.memory.setdefault("trained", [])
        known: Collection[str] = self._layers if self._ever is None else self._ever
        trained += [name for name in self._layers if name in known and name not in trained]

    def _untrained(self) -> set[str]:
        """Return the layers that no step since the last rewiring trained; name each once."""
        if "trained" not in self.memory or self.rule.step is not None:
            return set()
        found = {*self._layers} - {*self.memory["trained"]} - self._fixed()
        new = [name for name in self._layers if name in found - self._named]
        self._named |= found
        if new:
            warnings.warn(UNTRAINED.format(", ".join(new)), stacklevel=2)
        return found

    def _holders(
        self, optimizers: list[torch.optim.Optimizer] | None = None
    ) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizer of each layer; raise a ValueError if one has none."""
        holders = find_holders(optimizers or self.optimizers, self._layers)
        without = [name for name in self._layers if name not in {*holders, *self._fixed()}]
        if without:
            raise ValueError(
                f"expected an optimizer that holds the values of layers {', '.join(without)}, "
                "which it would not train; make the optimizer after sparsify and after loading "
                "weights by assignment, pass all optimizers as a list, or name layers in skip"
            )
        return holders

    def _held(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """Return the layers whose values an optimizer holds.

        Raises
        ------
        ValueError
            As `_holders`, if the parameters of optimizer or layers are others than before.
        """
        now = [p for group in optimizer.param_groups for p in group["params"]]
        now += [layer._parameters.get("values") for layer in self._layers.values()]
        known = self._known.get(id(optimizer))
        if known is None or len(now) != len(known[0]) or any(map(is_not, now, known[0])):
            self._check_layers()
            holders = self._holders()
            names = [n for n, holder in holders.items() if holder is optimizer]
            known = now, list(self._layers) if len(self.optimizers) == 1 else names
            self._known[id(optimizer)] = known
        return known[1]

    def _check_state(self, names: list[str], optimizer: torch.optim.Optimizer) -> None:
        """Raise a ValueError if an optimizer's state does not belong to the values of some layers.

        It may be that of another graph, or of another number type or device, if the model was
        converted after a step.
        """
        for name in names:
            values = self._layers[name].values
            state = optimizer.state.get(values, {})
            marks = [each["graph"] for each in self._states(values) if "graph" in each]
            if any(mark != self._stamps[name] for mark in marks):
                raise ValueError(
                    f"the optimizer's state of layer {name!r} is that of another graph; expected "
                    "the states of model and optimizer of the same step to be loaded"
                )
            before, now = self._kinds[name], _kind(values)
            if before == now:
                continue
            for entry in state.values():
                if getattr(entry, "shape", None) == values.shape and _kind(entry) == before:
                    raise ValueError(
                        f"the model was converted ({_words(before)} to {_words(now)}) after a "
                        f"step, and the optimizer's state of layer {name!r} was not; call "
                        "optimizer.load_state_dict(optimizer.state_dict()), which converts it, or "
                        "convert the model before training"
                    )
            self._kinds[name] = now

    def _check_epoch(self, steps: int) -> None:
        """Raise a ValueError if no step was made in an epoch of so many counted steps."""
        if not steps and self._tries == self._tries_before:
            raise ValueError(
                "expected steps of the attached optimizer in the epoch that ends, got none; if "
                "the loop makes its optimizer anew, call engine.follow(optimizer)"
            )
        self._tries_before = self._tries

    def _check_free(self) -> None:
        """Raise a ValueError if another engine rewires one of the layers."""

        def taken() -> list[str]:
            return [n for n, v in self._layers.items() if v._rewired_by() is not None]

        if taken():
            gc.collect()  # an engine whose optimizer is gone is kept only by itself
        if names := taken():
            raise ValueError(
                f"expected layers that no engine rewires, got {', '.join(names)}; call detach() of "
                "the engine attached before"
            )

    def _check_layers(self) -> None:
        """Raise a ValueError if the model's sparse layers are not those of before."""
        now = sparse_layers(self.model)
        if {n: id(layer) for n, layer in now.items()} != {
            n: id(v) for n, v in self._layers.items()
        }:
            raise ValueError(
                "expected the sparse layers that the model had when the engine was attached, got "
                f"{', '.join(now) or 'none'}; call detach() and attach anew"
            )
        check_values(self._layers, self._fixed())

    def _stamp(self, name: str) -> None:
        """Note that a layer has another graph, and with it the optimizers' states of it."""
        self._stamps.forget(name)
        for state in self._states(self._layers[name].values):
            if state.pop("graph", None) is not None:
                self._stamps.unmarked.add(name)
        self._mark(name)

    def _mark(self, name: str) -> None:
        """Note in the optimizers' states which graph they are of, if that is known."""
        if name in self._stamps and (states := self._states(self._layers[name].values)):
            for state in states:
                state["graph"] = self._stamps[name]
            self._stamps.unmarked.discard(name)

    def _mark_all(self, optimizer: torch.optim.Optimizer) -> None:
        """Note it also where the graph has to be fetched: called before a state is saved."""
        for name in [*self._stamps.unmarked]:
            _ = self._stamps[name]
            self._mark(name)


def layers_of_copy(copy: nn.Module, layers: Mapping[str, EdgeLayer]) -> dict[str, EdgeLayer]:
    """Return the sparse layers of a copy of a model by the names that they have in the model.

    Raises
    ------
    ValueError
        If the copy has other sparse layers or other graphs, or is the model itself.
    """
    found = list(sparse_layers(copy).values())
    good = len(found) == len(layers)
    for theirs, ours in zip(found, layers.values(), strict=False):
        good = good and theirs is not ours and same_edges(theirs.graph, ours.graph)
    if not good:
        raise ValueError(
            "expected a copy of the model with its present graphs, made since the last rewiring"
        )
    return dict(zip(layers, found, strict=True))


def check_average(name: str, average: EdgeLayer, graph: LayerGraph) -> None:
    """Raise a ValueError unless an average has the graph of its layer."""
    if not same_edges(average.graph, graph):
        raise ValueError(
            f"expected averages with the graph of layer {name!r}, got another one; load the states "
            "of model and averages of the same step"
        )


def follow(average: EdgeLayer, update: EdgeUpdate, values: NDArray[Any] | torch.Tensor) -> None:
    """Replace the graph of averaged weights; those of grown edges start at the edges' values."""
    moved = carried(update, average.values.detach(), tensor_of(values))
    average.replace_graph(update, moved)
