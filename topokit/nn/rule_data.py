"""The data that a rule reads at a rewiring, collected while a model trains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topokit.graph import EdgeUpdate, LayerGraph, distinct, union
from topokit.nn.captures import Calls, factor_between, largest, watch_models
from topokit.nn.choices import Factors
from topokit.nn.distributed import Processes, without_reducing
from topokit.nn.kernels.graphs import DeviceUpdate, Row
from topokit.nn.kernels.recording import Recorded
from topokit.nn.layers import EdgeLayer
from topokit.nn.optimizer_state import compacted
from topokit.rules import LayerView, UpdateRule
from topokit.rules.memory import MEMORIES, decayed, stalled
from topokit.rules.rewire import Memory, Step
from topokit.tables import need

__all__ = ["NEEDS", "RuleData", "as_arrays", "as_tensors"]

FORGOTTEN = 0.01  # batches of a smaller weight are left out of the momentum window
FORWARD_BATCH = 1000
MOST_WAITING = 4  # times the edges of a layer
FACTORS = ("inputs", "output_grad")
NEEDS = (
    "gradient", "momentum", "activations", "explored", "sign", "sensitivity", "stalled",
)  # fmt: skip


class RuleData:
    """Collects what a rule needs (`topokit.rules.UpdateRule.needs`), and nothing for the others.

    Parameters
    ----------
    model : torch.nn.Module
    layers : dict of EdgeLayer
        The model's sparse layers.
    rule : UpdateRule
    samples : torch.Tensor or None
        Training inputs for rules that compare activations.
    decay : float
        The optimizer's momentum.
    track_explored : bool
        Keep the set of all edges ever present also for rules that do not need it.

    Attributes
    ----------
    memory : dict
        ``accuracies``, and for each layer ``sign``, ``sensitivity``, ``explored`` (edge ids), the
        rule's own memories, ``batches`` (the momentum window) and ``activations`` of the last
        step, which stay on the layer's device.
        Edges that were grown on a device are in ``explored`` after `settle`.
    needs : set of str
    window : int
        Number of steps before a rewiring in which layers capture.
    captures : bool
        Whether the rule needs anything that layers capture.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, EdgeLayer],
        rule: UpdateRule,
        *,
        samples: torch.Tensor | None,
        decay: float,
        track_explored: bool,
    ) -> None:
        own = rule.memory or {}
        for entry, memory in own.items():
            need(isinstance(memory, Memory), f"memory {entry!r} of the rule", "a Memory", memory)
        if taken := sorted(
            {*own} & {*MEMORIES, *NEEDS, "accuracies", "batches", "fixed", "progress", "trained"}
        ):
            raise ValueError(f"expected another name for the rule's memory, got {', '.join(taken)}")
        self.model, self.layers, self.samples = model, layers, samples
        self.processes: Processes | None = None
        self._memories = {**MEMORIES, **own}
        self._shown = {*rule.needs, *own}
        self.needs = {*self._shown, *(["explored"] if track_explored else [])}
        self.keep_momentum(decay)
        self.by_gradient = bool({"gradient", "momentum"} & self.needs)
        self.by_activations = "activations" in self.needs and samples is None
        self.captures = self.by_gradient or self.by_activations
        self._watching: list[Any] = []
        self._grown: dict[str, list[torch.Tensor]] = {}  # explored edges that are on a device
        self.row: Row | None = None  # of the last rewiring: `topokit.nn.rewiring` keeps these two
        self.recorded: dict[torch.device, Recorded] = {}
        self.memory: dict[str, Any] = {"accuracies": []}
        for entry in self._memories:
            if entry in self.needs:
                self.memory[entry] = {}
        for name, layer in layers.items():
            self.start(name, layer)

    def keep_momentum(self, decay: float) -> None:
        """Set the momentum by which the gradients of recent steps count."""
        self._decay, self.window = decay, 1
        if "momentum" in self.needs:
            need(0 < decay < 1, "momentum of the optimizer", "a number below 1", decay)
            self.window += math.ceil(math.log(FORGOTTEN) / math.log(decay))

    def start(self, name: str, layer: EdgeLayer) -> None:
        """Begin a layer's memories anew."""
        self._grown.pop(name, None)
        for entry, memory in self._memories.items():
            if entry in self.memory:
                self.memory[entry][name] = _kept(entry, memory.start(layer.view()))

    def carry(self, name: str, update: EdgeUpdate, values: NDArray[Any] | torch.Tensor) -> None:
        """Carry a layer's memories over to its new graph."""
        kept = [entry for entry in self._memories if entry in self.memory]
        if isinstance(update, DeviceUpdate) and kept == ["explored"]:
            self._note_grown(name, update)
            kept = []
        if not isinstance(values, np.ndarray):
            values = self.layers[name].view().values if kept else np.empty(0)
        for entry, memory in self._memories.items():
            if entry in kept:
                remembered = self.memory[entry]
                remembered[name] = _kept(entry, memory.carry(update, remembered[name], values))
        for entry in ("batches", "activations"):
            self.memory.get(entry, {}).pop(name, None)

    def _note_grown(self, name: str, update: DeviceUpdate) -> None:
        """Keep the ids of grown edges on the device, to be counted as explored later."""
        ids = compacted(update.after.ids, update.new, update.n_grown)
        waiting = self._grown.setdefault(name, [])
        waiting.append(ids)
        if sum(map(len, waiting)) > MOST_WAITING * update.after.n_edges:
            self.settle()

    def settle(self) -> dict[str, Any]:
        """Bring `memory` up to date, with edges that were grown on a device, and return it."""
        for name, waiting in self._grown.items():
            ids = distinct(torch.cat(waiting).cpu().numpy())
            self.memory["explored"][name] = union(self.memory["explored"][name], ids)
        self._grown.clear()
        return self.memory

    # Between rewirings.

    def capture(self, on: bool) -> None:
        """Switch capture of all layers on or off."""
        for layer in self.layers.values():
            layer.capture = on
        if self.by_activations and on != bool(self._watching):
            for hook in self._watching:
                hook.remove()
            self._watching = watch_models(_called(self.model, self.layers)) if on else []

    def collect(self, names: list[str], scale: float = 1.0, *, step: bool = True) -> None:
        """Keep the factors of the gradient, or the activations, of the step being made.

        Parameters
        ----------
        names : list of str
            The layers whose optimizer makes a step.
        scale : float
            What gradients are still multiplied by.
        step : bool
            Whether a step is made, by gradients that ``values.grad`` holds.
        """
        if not any(self.layers[name].capture for name in names):
            return
        if self.processes is None:
            batch = self._batch(names)
            self._check_covered(names, batch, step)
        else:
            batch = self._whole_batch(self.processes, names, step, scale)
        for name, kept in batch.items():
            if self.by_activations:
                entry = {side: _owned(kept[side]) for side in ("inputs", "outputs")}
                self.memory.setdefault("activations", {})[name] = entry
            if self.by_gradient:
                self._keep(name, kept["inputs"], kept["output_grad"], kept["factor"] / scale)

    def _batch(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """Return what layers captured; they forget it."""
        batch: dict[str, dict[str, Any]] = {}
        for name in names:
            layer = self.layers[name]
            calls = layer.calls
            if calls is None:
                continue
            calls.check(name)
            if calls.done:
                found = layer.captured()
                batch[name] = {"inputs": found["inputs"]}
                if self.by_activations:
                    if not all(call.watched for call in calls.done):
                        raise ValueError(
                            f"expected the activations that follow layer {name!r}, which are known "
                            "only if the model itself is called, uncompiled and not recomputed in "
                            "the backward pass; pass samples=... to attach"
                        )
                    batch[name]["outputs"] = found["outputs"]
                if self.by_gradient:
                    batch[name]["output_grad"] = found["output_grad"]
                    batch[name]["factor"] = calls.factor(layer.values)
            calls.clear()
        return batch

    def _whole_batch(
        self, processes: Processes, names: list[str], step: bool, scale: float
    ) -> dict[str, dict[str, Any]]:
        """Return what all processes captured to the first of them, nothing to the others.

        What a gradient was multiplied by is not known before the processes' gradients are combined:
        it is found by comparing the combined one with that of the whole batch.
        """
        own = processes.together(lambda: self._batch(names))
        batch = processes.gathered({
            name: {entry: x.cpu().numpy() for entry, x in kept.items() if entry != "factor"}
            for name, kept in own.items()
        })  # fmt: skip
        for name, kept in batch.items():
            gradient = self.layers[name].values.grad
            kept["factor"] = 1.0
            if step and self.by_gradient and gradient is not None:
                at = largest(gradient)
                edges, graph = at.cpu().numpy(), self.layers[name].graph
                units = graph.rows[edges], graph.indices[edges]
                pairs = kept["output_grad"][:, units[0]], kept["inputs"][:, units[1]]
                before = torch.from_numpy(np.einsum("se,se->e", *pairs, dtype=np.float64))
                kept["factor"] = factor_between(before, gradient.detach()[at].cpu())
            batch[name] = {entry: torch.as_tensor(x) for entry, x in kept.items()}
        processes.decided(lambda: self._check_covered(names, batch, step))
        return batch

    def _check_covered(self, names: list[str], batch: Mapping[str, Any], step: bool) -> None:
        """Raise a ValueError if the gradient of a layer did not come from calls of it."""
        for name in names:
            layer = self.layers[name]
            gradient = layer.values.grad if step and layer.capture else None
            if name not in batch and gradient is not None and gradient.any():
                raise ValueError(
                    f"the gradient of layer {name!r} came from elsewhere than calls of the layer; "
                    "a rule that looks at gradients needs a model that calls it"
                )

    def _keep(
        self, name: str, inputs: torch.Tensor, output_grad: torch.Tensor, factor: torch.Tensor
    ) -> None:
        """Add a step to a layer's momentum window."""
        output_grad = output_grad * factor.to(output_grad.dtype)
        batches = self.memory.setdefault("batches", {}).setdefault(name, {})
        number = 1 + max(map(int, batches), default=0)
        batches[str(number)] = {"inputs": _owned(inputs), "output_grad": output_grad.contiguous()}
        while len(batches) > self.window:
            del batches[next(iter(batches))]

    def forget_batches(self) -> None:
        """Forget the batches of steps up to now."""
        self.memory.pop("batches", None)
        self.memory.pop("activations", None)

    def add_sensitivity(self, names: list[str], scale: float = 1.0) -> None:
        """Add ``abs(weight * gradient)`` of each edge to the sum since the last rewiring."""
        for name in names:
            values = self.layers[name].values
            if values.grad is not None:
                share = (values * values.grad).detach().abs().double() / scale
                self.memory["sensitivity"][name] += share.cpu().numpy()

    def take_step(
        self, names: list[str], optimizer: torch.optim.Optimizer, step: Step, rng: Any
    ) -> None:
        """Let the rule change the values of some layers that an optimizer has just set."""
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for name in names:
            values, view = self.layers[name].values, self.layers[name].view()
            lr = groups.get(id(values), {}).get("lr")
            if lr is None:
                raise ValueError(
                    f"expected a learning rate of layer {name!r} in the optimizer: this rule "
                    "changes the values of every step in proportion to it"
                )
            view = LayerView(view.graph, view.values, extra=self._extra(name, view.graph))
            new = np.asarray(step(view, float(lr), rng))
            if new.shape != view.values.shape:
                raise ValueError(
                    f"expected {view.values.size} values from the rule's step, got shape "
                    f"{new.shape}"
                )
            with torch.no_grad():
                values.copy_(torch.from_numpy(new))

    # At a rewiring.

    def batch_of(self, closure: Callable[[], torch.Tensor]) -> None:
        """Capture the batch whose loss `closure` returns, without changing any ``.grad``."""
        self.forget_batches()
        self.capture(False)
        self.capture(True)
        trained = [layer for layer in self.layers.values() if layer.values.requires_grad]
        with torch.enable_grad(), without_reducing(trained, self.processes):
            torch.autograd.grad(closure(), [layer.values for layer in trained], allow_unused=True)
        for layer in trained:
            if layer.calls is not None:
                layer.calls.accept()
        self.collect(list(self.layers), step=False)

    def missing(self) -> list[str]:
        """Return the layers of which no batch was captured, though the rule looks at one."""
        if not self.captures:
            return []
        entry = "batches" if self.by_gradient else "activations"
        return [name for name in self.layers if name not in self.memory.get(entry, {})]

    def check(self, fixed: Collection[str], epochs: int) -> None:
        """Raise a ValueError if the rule needs a batch or accuracies that are missing.

        Parameters
        ----------
        fixed : collection of str
            Layers that keep their graph.
        epochs : int
            Number of epochs of which an accuracy should be known.
        """
        if self.captures and not {*self.layers} - {*self.missing()} - {*fixed}:
            raise ValueError(
                "this rule looks at a batch, and none was captured: the loss of the last step does "
                "not depend on the layers, or the rewiring is off the schedule, where it is "
                "expected engine.rewire(closure) with a function that returns the loss of a batch"
            )
        known = len(self.memory["accuracies"])
        if "stalled" in self.needs and known < epochs:
            raise ValueError(
                f"this rule watches validation accuracy: expected one for each of {epochs} "
                f"finished epochs, got {known}; call engine.end_epoch(accuracy) after each epoch"
            )

    def views(self) -> dict[str, LayerView]:
        """Return the data that the rule can read, for every sparse layer; captures are cleared."""
        self.capture(False)
        self.settle()
        views = {name: layer.view() for name, layer in self.layers.items()}
        for name, kept in self._activations().items():
            both: dict[str, Any] = {
                side: np.concatenate(arrays_of(parts)) for side, parts in kept.items()
            }
            views[name] = dataclasses.replace(views[name], **both)
        for name, batches in self.memory.get("batches", {}).items():
            sides = [arrays_of(b[side] for b in batches.values()) for side in FACTORS]
            inputs, gradient = decayed([*zip(*sides, strict=True)], decay=self._decay)
            views[name] = dataclasses.replace(views[name], inputs=inputs, output_grad=gradient)
        self.forget_batches()
        return {
            name: dataclasses.replace(view, extra=self._extra(name, view.graph))
            for name, view in views.items()
        }

    def factors(self, *, activations: bool) -> dict[str, Factors]:
        """Return what was captured, on the layers' devices; captures are cleared.

        Without `activations` these are left out, and the model is not called for them. Of several
        batches the older ones count less, as in `topokit.rules.memory.decayed`.
        """
        self.capture(False)
        found = {}
        for name, kept in (self._activations() if activations else {}).items():
            sides = (self._there(name, kept[side]) for side in ("inputs", "outputs"))
            found[name] = Factors("outputs", *sides)
        for name, batches in self.memory.get("batches", {}).items():
            inputs, gradients = (
                self._there(name, [batch[side] for batch in batches.values()]) for side in FACTORS
            )
            for age, gradient in enumerate(reversed(gradients)):
                if age:
                    weight = gradient.new_full((), self._decay**age)
                    gradients[-1 - age] = gradient * weight
            found[name] = Factors("output_grad", inputs, gradients)
        self.forget_batches()
        return found

    def _there(self, name: str, parts: list[Any]) -> list[torch.Tensor]:
        """Return arrays or tensors as tensors on the device of a layer."""
        device = self.layers[name].values.device
        return [torch.as_tensor(part).to(device) for part in parts]

    @property
    def stalled(self) -> bool:
        """Whether validation accuracy has stopped improving."""
        return stalled(self.memory["accuracies"])

    def _extra(self, name: str, graph: LayerGraph) -> dict[str, Any]:
        extra = {
            entry: memory.show(self.memory[entry][name], graph)
            for entry, memory in self._memories.items()
            if entry in self._shown
        }
        if "stalled" in self.needs:
            extra["stalled"] = self.stalled
        return extra

    def _activations(self) -> dict[str, dict[str, list[Any]]]:
        """Return inputs and outputs of sparse layers, batch by batch, if the rule looks at them.

        They are those of the last batch, or of all samples, which are run through the model; those
        of a Boltzmann machine as the zeros and ones that it learns from. If the last layer computes
        class scores, its outputs are their softmax.
        """
        if "activations" not in self.needs:
            return {}
        if self.samples is None:
            last = self.memory.get("activations", {})
            return {
                name: {side: [part] for side, part in kept.items()} for name, kept in last.items()
            }
        kept: dict[str, dict[str, list[Any]]] = {
            name: {"inputs": [], "outputs": []} for name in self.layers
        }
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        hooks = watch_models(_called(self.model, self.layers))
        called = set(kept)
        binary: Any = getattr(self.model, "binary", None)  # of a model with a loss of its own
        binary = binary if hasattr(self.model, "batch_loss") else None
        with torch.no_grad():
            for batch in self.samples.split(FORWARD_BATCH):
                for layer in self.layers.values():
                    layer._keep_calls(Calls(every=True))
                self.model(batch if binary is None else binary(batch))
                for name, layer in self.layers.items():
                    found = layer.captured()
                    called -= set() if found else {name}
                    for side, parts in kept[name].items():
                        parts += [found[side]] if found else []
        for hook in hooks:
            hook.remove()
        self.capture(False)
        for module, training in modes:
            module.training = training
        return {name: sides for name, sides in kept.items() if name in called}


def _called(model: nn.Module, layers: Mapping[str, EdgeLayer]) -> dict[nn.Module, list[Any]]:
    """Return the modules that a training loop calls, with their sparse layers.

    That is the model, or the models in a container.
    """
    container = isinstance(model, nn.ModuleList | nn.ModuleDict)
    own = set(layers.values())
    found = {
        module: [part for part in module.modules() if part in own]
        for module in (model.children() if container else [model])
    }
    return {module: parts for module, parts in found.items() if parts}


def _owned(x: torch.Tensor) -> torch.Tensor:
    """Return a copy by rows in memory of its own: a loop may load the next batch into the old."""
    return x.clone(memory_format=torch.contiguous_format)


def arrays_of(parts: Iterable[Any]) -> list[NDArray[Any]]:
    """Return tensors, or arrays, as arrays."""
    return [part.cpu().numpy() if torch.is_tensor(part) else part for part in parts]


def _kept(entry: str, remembered: Any) -> NDArray[Any]:
    """Return a copy of what a rule remembers: the array it came from may be a layer's values."""
    number = isinstance(remembered, np.ndarray) and remembered.dtype.kind in "biuf"
    need(number, f"memory {entry!r} of the rule", "an array of numbers", remembered)
    return remembered.copy()


def as_tensors(value: Any) -> Any:
    """Return nested dictionaries with arrays as tensors, which load without unpickling objects."""
    if isinstance(value, dict):
        return {key: as_tensors(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(value)
    if isinstance(value, torch.Tensor):
        return value.cpu().clone()
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def as_arrays(value: Any) -> Any:
    """Return nested dictionaries with tensors as arrays of their own: undoes `as_tensors`."""
    if isinstance(value, dict):
        return {key: as_arrays(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(value)
    return value.cpu().numpy().copy() if isinstance(value, torch.Tensor) else value
