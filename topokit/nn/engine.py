"""The rewiring engine: applies a rule to a model's sparse layers while its optimizer steps.

Both `attach`, for user-written training loops, and `topokit.experiments.loop.train` use the same
`Engine`, so both give the same edges, values and optimizer state. Between two rewirings the engine
collects the data that the rule needs (`topokit.rules.UpdateRule.needs`), and nothing for rules
that need none.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topokit.graph import EdgeUpdate, LayerGraph, Topology
from topokit.nn.layers import EdgeLayer, sparse_layers
from topokit.nn.sparsify import sparsify
from topokit.rules import RULES, LayerView, Rewiring, UpdateRule, rewire_network
from topokit.rules.memory import MEMORIES, decayed, stalled
from topokit.rules.rewire import Memory
from topokit.tables import as_generator, choose, need

__all__ = ["Engine", "as_arrays", "as_tensors", "attach", "sparsify"]

Changes = dict[str, tuple[EdgeUpdate, NDArray[Any]]]
"""The change of each layer in which an edge moved, with the values of its new graph's edges."""

FORGOTTEN = 0.01  # batches of a smaller weight are left out of the momentum window
FORWARD_BATCH = 1000
NEEDS = (
    "gradient", "momentum", "activations", "explored", "sign", "sensitivity", "stalled",
)  # fmt: skip


class Engine:
    """Rewires a model's sparse layers as its optimizer steps. Made by `attach`.

    Parameters
    ----------
    model, optimizer, rule, rng, total, epoch_steps, samples, recorder
        As for `attach`.
    options : Rewiring
        How many edges are replaced, when, and in which layers.
    track_explored : bool
        Keep the set of all edges ever present also for rules that do not need it.

    Attributes
    ----------
    steps, epochs, updates : int
        Optimizer steps, epochs (`end_epoch`) and rewirings so far.
    last : dict of EdgeUpdate
        The changes of the last rewiring; layers that kept their graph are left out.
    topology : dict of LayerGraph
        The current graphs.
    memory : dict
        State kept for rules that need it: ``accuracies``, and for each layer ``sign``,
        ``sensitivity``, ``explored`` (edge ids), ``batches`` (the momentum window) and the rule's
        own memories.

    Notes
    -----
    The momentum window. Rules that need ``"momentum"`` use the gradient of all possible edges,
    summed over recent batches with weights ``momentum ** age``. That matrix has n_out * n_in
    entries and is never formed. A batch's gradient is the product ``output_grad.T @ inputs``, so
    the two factors of each batch are kept, and `topokit.rules.memory.decayed` stacks them with
    their weights into one longer "batch" whose gradient is the weighted sum. Batches whose weight
    is below 1 % are left out: 45 remain at momentum 0.9. Layers keep (capture) their activations
    only during the steps of this window before a rewiring. ``"gradient"`` is a window of one batch.

    Memory beyond O(edges): ``gradient`` O(batch * units); ``momentum`` that times the window;
    ``activations`` O(samples * units).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rule: UpdateRule,
        options: Rewiring,
        *,
        total: int | None = None,
        epoch_steps: int | None = None,
        samples: torch.Tensor | None = None,
        recorder: Callable[[int, Topology], None] | None = None,
        track_explored: bool = False,
        rng: np.random.Generator,
    ) -> None:
        self.model, self.optimizer, self.rule, self.options = model, optimizer, rule, options
        self.total, self.epoch_steps, self.samples = total, epoch_steps, samples
        self.recorder, self.rng = recorder, rng
        self.steps = self.epochs = self.updates = 0
        self.last: dict[str, EdgeUpdate] = {}
        layers = self._layers()
        for name in options.skip:
            choose("sparse layer", name, layers)
        own = rule.memory or {}
        for entry, memory in own.items():
            need(isinstance(memory, Memory), f"memory {entry!r} of the rule", "a Memory", memory)
        if taken := sorted({*own} & {*MEMORIES, *NEEDS, "accuracies", "batches", "progress"}):
            raise ValueError(f"expected another name for the rule's memory, got {', '.join(taken)}")
        self._memories = {**MEMORIES, **own}
        self._shown = {*rule.needs, *own}
        self._needs = {*self._shown, *(["explored"] if track_explored else [])}
        self._decay = float(optimizer.param_groups[0].get("momentum") or 0.9)
        self._window = 1
        if "momentum" in self._needs:
            need(0 < self._decay < 1, "momentum of the optimizer", "a number below 1", self._decay)
            self._window += math.ceil(math.log(FORGOTTEN) / math.log(self._decay))
        self._by_gradient = bool({"gradient", "momentum"} & self._needs)
        self._by_last_batch = "activations" in self._needs and samples is None
        self._epoch_start = 0  # steps before this epoch
        self._activations: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
        self.memory: dict[str, Any] = {"accuracies": []}
        for entry, memory in self._memories.items():
            if entry in self._needs:
                self.memory[entry] = {
                    name: _kept(entry, memory.start(layer.view())) for name, layer in layers.items()
                }
        self._hooks = [optimizer.register_step_post_hook(lambda *_: self._stepped())]
        if "sensitivity" in self._needs:  # weights and gradients belong together before the step
            self._hooks.append(optimizer.register_step_pre_hook(lambda *_: self._add_sensitivity()))
        if recorder is not None:
            recorder(0, self.topology)
        self._switch_capture()

    @property
    def topology(self) -> Topology:
        """The current graphs of the model's sparse layers."""
        return {name: layer.graph for name, layer in self._layers().items()}

    @property
    def explored(self) -> dict[str, float]:
        """Share of each layer's possible edges ever present, where it is tracked."""
        shapes = {name: layer.graph.shape for name, layer in self._layers().items()}
        return {
            name: LayerGraph.from_edge_ids(ids, shapes[name]).density
            for name, ids in self.memory.get("explored", {}).items()
        }

    def _layers(self) -> dict[str, EdgeLayer]:
        return sparse_layers(self.model)

    # The schedule. Positions count epochs, or steps where `every` counts steps.

    @property
    def _between_epochs(self) -> bool:
        return isinstance(self.options.every, str)

    @property
    def _position(self) -> int:
        return self.epochs if self._between_epochs else self.steps

    @property
    def _stop(self) -> int | None:
        """The position of `Rewiring.stop`, which counts epochs."""
        stop = self.options.stop
        return stop if stop is None or self._between_epochs else stop * (self.epoch_steps or 1)

    @property
    def _end(self) -> int | None:
        """The first position without rewiring; None if neither total nor stop is known."""
        return min((end for end in (self.total, self._stop) if end is not None), default=None)

    def _is_due(self, position: int) -> bool:
        return self._end is None or position < self._end

    @property
    def _removes_last(self) -> bool:
        """Whether edges are dropped without growing after the last epoch."""
        ends = self.options.final == "drop" and self.total is not None
        return ends and (self._stop is None or (self.total or 0) < self._stop)

    def _steps_left(self) -> int | None:
        """Return the number of steps up to and including the one that the next rewiring follows.

        None if there is no further rewiring.
        """
        if isinstance(self.options.every, int):
            left = [self.options.every - self.steps % self.options.every]
            left = left if self._is_due(self.steps + left[0]) else []
            if self._removes_last and self.steps < (self.total or 0):
                left.append((self.total or 0) - self.steps)
            return min(left, default=None)
        at = self.epochs + 1
        if not self._is_due(at) and not (self._removes_last and at == self.total):
            return None
        if self.epoch_steps is None:
            return 1
        in_epoch = self.steps - self._epoch_start
        return self.epoch_steps - in_epoch if in_epoch < self.epoch_steps else None

    def step(self) -> None:
        """Do nothing: the engine counts steps by a hook on the optimizer.

        Loops written for libraries that require this call after ``optimizer.step()`` can keep it.
        """

    def _stepped(self) -> None:
        """Count a step of the optimizer, and rewire if one is due."""
        if not self._between_epochs and self.total is not None and self.steps >= self.total:
            return
        self.steps += 1
        if self._by_gradient or self._by_last_batch:
            self._collect()
        every = self.options.every
        if isinstance(every, int) and self.steps % every == 0 and self._is_due(self.steps):
            self.rewire()
        self._switch_capture()

    def end_epoch(self, accuracy: float | None = None) -> dict[str, EdgeUpdate]:
        """Count an epoch, and rewire if `every` is ``"epoch"``.

        Parameters
        ----------
        accuracy : float, optional
            Accuracy on validation samples, for rules that depend on it, such as ``ctre_seq``.

        Returns
        -------
        dict of EdgeUpdate
            The changes of the layers in which an edge moved; empty without a rewiring.
        """
        if accuracy is not None:
            self.memory["accuracies"].append(float(accuracy))
        self.epochs += 1
        self._epoch_start = self.steps
        updates: dict[str, EdgeUpdate] = {}
        if self._removes_last and self._position == self.total:
            updates = self.rewire(grow=False)
        elif self._between_epochs and self._is_due(self.epochs):
            updates = self.rewire()
        if self._between_epochs:
            self._forget_batches()
        self._switch_capture()
        return updates

    def _switch_capture(self) -> None:
        """Switch capture on if a rewiring will use the next batch, else off."""
        if not (self._by_gradient or self._by_last_batch):
            return
        left = self._steps_left()
        for layer in self._layers().values():
            layer.capture = left is not None and left <= self._window

    # The data for the rule.

    def _collect(self) -> None:
        """Keep the factors of the gradient, or the activations, of the last batch."""
        for name, layer in self._layers().items():
            if not layer.capture:
                continue
            view = layer.view()
            if view.inputs is None:
                continue
            if self._by_last_batch and view.outputs is not None:
                self._activations[name] = view.inputs, view.outputs
            if self._by_gradient and view.output_grad is not None:
                batches = self.memory.setdefault("batches", {}).setdefault(name, {})
                batches[str(self.steps)] = {"inputs": view.inputs, "output_grad": view.output_grad}
                while len(batches) > self._window:
                    del batches[next(iter(batches))]

    def _forget_batches(self) -> None:
        self.memory.pop("batches", None)
        self._activations.clear()

    def _add_sensitivity(self) -> None:
        """Add ``abs(weight * gradient)`` of each edge to the sum since the last rewiring."""
        for name, layer in self._layers().items():
            if layer.values.grad is not None:
                share = (layer.values * layer.values.grad).detach().abs().double()
                self.memory["sensitivity"][name] += share.cpu().numpy()

    def _views(self) -> dict[str, LayerView]:
        """Return the data that the rule can read, for every sparse layer; captures are cleared."""
        layers = self._layers()
        for layer in layers.values():
            layer.capture = False
        views = {name: layer.view() for name, layer in layers.items()}
        if "activations" in self._needs:
            found = self._activations if self.samples is None else self._forward(self.samples)
            for name, (inputs, outputs) in found.items():
                views[name] = dataclasses.replace(views[name], inputs=inputs, outputs=outputs)
        for name, batches in self.memory.get("batches", {}).items():
            factors = [(batch["inputs"], batch["output_grad"]) for batch in batches.values()]
            inputs, gradient = decayed(factors, decay=self._decay)
            views[name] = dataclasses.replace(views[name], inputs=inputs, output_grad=gradient)
        self._forget_batches()
        return {
            name: dataclasses.replace(view, extra=self._extra(name, view.graph))
            for name, view in views.items()
        }

    def _extra(self, name: str, graph: LayerGraph) -> dict[str, Any]:
        extra = {
            entry: memory.show(self.memory[entry][name], graph)
            for entry, memory in self._memories.items()
            if entry in self._shown
        }
        if "stalled" in self._needs:
            extra["stalled"] = stalled(self.memory["accuracies"])
        return extra

    def _forward(self, samples: torch.Tensor) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Run samples through the network and return inputs and outputs of every sparse layer.

        If the last layer computes class scores, its outputs are their softmax.
        """
        layers = self._layers()
        kept: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {name: [] for name in layers}
        modes = [(module, module.training) for module in self.model.modules()]
        last = list(layers.values())[-1]
        self.model.eval()
        for layer in layers.values():
            layer.capture = True
        with torch.no_grad():
            for batch in samples.split(FORWARD_BATCH):
                scores = self.model(batch)
                classes = scores.ndim == 2 and 1 < scores.shape[1] == last.n_out
                if classes and not hasattr(self.model, "batch_loss"):
                    last.keep("outputs", torch.softmax(scores, dim=1))
                for name, layer in layers.items():
                    view = layer.view()
                    kept[name].append((np.array(view.inputs), np.array(view.outputs)))
        for layer in layers.values():
            layer.capture = False
        for module, training in modes:
            module.training = training
        return {
            name: (
                np.concatenate([inputs for inputs, _ in batches]),
                np.concatenate([outputs for _, outputs in batches]),
            )
            for name, batches in kept.items()
        }

    # The rewiring.

    def rewire(
        self, closure: Callable[[], torch.Tensor] | None = None, *, grow: bool = True
    ) -> dict[str, EdgeUpdate]:
        """Apply the rule once to all layers now, and return what changed.

        Parameters
        ----------
        closure : callable, optional
            Returns the loss of a batch, whose gradients and activations the rule then uses. Needed
            only for rewirings outside the schedule, for which the engine has captured no batch. The
            gradients of the parameters are not changed.
        grow : bool
            Whether to grow edges, too; False is the last removal of the SET paper.

        Returns
        -------
        dict of EdgeUpdate
            The changes of the layers in which an edge moved.

        Raises
        ------
        ValueError
            If the rule needs a batch and none was captured, or needs validation accuracy and it is
            missing for a finished epoch.
        """
        if closure is not None:
            self._capture_batch(closure)
        self._check_needs()
        changes = self._decide(grow)
        self._apply(changes)
        self.updates += 1
        self.last = {name: update for name, (update, _) in changes.items()}
        if self.recorder is not None:
            self.recorder(self.steps, self.topology)
        self._switch_capture()
        return self.last

    def _decide(self, grow: bool) -> Changes:
        """Return the changes that the rule makes now, from the captured data; uses them up."""
        rule, at, end = self.rule, self._position, self._end
        return rewire_network(
            self._views(),
            rule if grow else rule._replace(plan=_without_growing(rule.plan)),
            drop_fraction=self.options.fraction(at, 1 if end is None else end),
            progress=0.0 if end is None else self.options.progress(at, end),
            rng=self.rng,
            fixed=self.options.skip,
        )

    def _apply(self, changes: Changes) -> None:
        """Replace the graphs, and carry optimizer state and memories over to them."""
        layers = self._layers()
        for name, (update, values) in changes.items():
            layers[name].replace_graph(update, values, self.optimizer)
            self._carry(name, update, values)

    def _capture_batch(self, closure: Callable[[], torch.Tensor]) -> None:
        """Capture the batch whose loss `closure` returns, without changing any ``.grad``."""
        layers = self._layers().values()
        self._forget_batches()
        for layer in layers:
            layer.capture = True
        with torch.enable_grad():
            torch.autograd.grad(closure(), [layer.values for layer in layers], allow_unused=True)
        self._collect()

    def _check_needs(self) -> None:
        """Raise a ValueError if the rule needs a batch or accuracies that are missing."""
        without = self._by_gradient and "batches" not in self.memory
        if without or (self._by_last_batch and not self._activations):
            raise ValueError(
                "this rule looks at a batch, and none was captured for a rewiring off the "
                "schedule; expected engine.rewire(closure) with a function that returns the loss "
                "of a batch"
            )
        if "stalled" in self._needs:
            done = self.epochs
            if self.epoch_steps is not None and not self._between_epochs:
                done = max(0, self.steps - 1) // self.epoch_steps
            if len(self.memory["accuracies"]) < done:
                raise ValueError(
                    f"this rule watches validation accuracy: expected one for each of {done} "
                    f"finished epochs, got {len(self.memory['accuracies'])}; call "
                    "engine.end_epoch(accuracy) after each epoch"
                )

    def _carry(self, name: str, update: EdgeUpdate, values: NDArray[Any]) -> None:
        """Carry the memories of a layer over to its new graph."""
        for entry, memory in self._memories.items():
            if entry in self.memory:
                remembered = self.memory[entry]
                remembered[name] = _kept(entry, memory.carry(update, remembered[name], values))

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Return the engine's state; those of model and optimizer are not included.

        Numbers, text and tensors only, so that ``torch.load(..., weights_only=True)`` can read it.
        """
        return {
            "steps": self.steps,
            "epochs": self.epochs,
            "updates": self.updates,
            "epoch_start": self._epoch_start,
            "memory": as_tensors(self.memory),
            "rng": json.dumps(self.rng.bit_generator.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`.

        Load the states of model and optimizer first, so that the model has the graphs that belong
        to the state.
        """
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.updates = state["updates"]
        self.go_on(state["steps"], state["epochs"], as_arrays(state["memory"]))
        self._epoch_start = state["epoch_start"]
        self._switch_capture()

    def go_on(self, steps: int, epochs: int, memory: dict[str, Any]) -> None:
        """Continue at the start of an epoch, with the memory saved there."""
        self.steps, self.epochs, self._epoch_start = steps, epochs, steps
        self.memory |= memory
        self._switch_capture()

    def detach(self) -> None:
        """Stop rewiring; the model stays as it is."""
        for hook in self._hooks:
            hook.remove()
        for layer in self._layers().values():
            layer.capture = False


def _without_growing(plan: Callable[..., dict[str, tuple[int, int]]]) -> Any:
    """Turn a plan into one that only drops."""

    def drops(*args: Any, **kwargs: Any) -> dict[str, tuple[int, int]]:
        return {name: (n_drop, 0) for name, (n_drop, _) in plan(*args, **kwargs).items()}

    return drops


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
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def as_arrays(value: Any) -> Any:
    """Return nested dictionaries with tensors as arrays of their own: undoes `as_tensors`."""
    if isinstance(value, dict):
        return {key: as_arrays(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(value)
    return value.numpy().copy() if isinstance(value, torch.Tensor) else value


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rule: str | UpdateRule = "set",
    *,
    every: int | str,
    drop_fraction: float = 0.3,
    schedule: str | Callable[[int, int], float] = "constant",
    total: int | None = None,
    stop: int | None = None,
    skip: Collection[str] = (),
    epoch_steps: int | None = None,
    samples: torch.Tensor | None = None,
    recorder: Callable[[int, Topology], None] | None = None,
    rng: np.random.Generator | int,
    **params: Any,
) -> Engine:
    """Return an engine that rewires a model's sparse layers within your own training loop.

    Every n steps of the optimizer, or after each epoch, edges are dropped and grown; kept edges
    keep their weights and optimizer state. Nothing else in the loop changes.

    Parameters
    ----------
    model : torch.nn.Module
        A model with sparse layers: see `sparsify`.
    optimizer : torch.optim.Optimizer
        The optimizer of the model's parameters.
    rule : str or UpdateRule
        A name of `topokit.RULES` with its `params`, or a rule.
    every : int or "epoch"
        Optimizer steps between rewirings (an epoch's worth for SET); with ``"epoch"`` the loop
        calls ``engine.end_epoch()`` after each epoch.
    drop_fraction : float
        Share of a layer's edges replaced at once, in [0, 1].
    schedule : str or callable
        How it changes over `total`: a name of `topokit.rules.SCHEDULES`, or
        ``schedule(at, end) -> factor``.
    total : int, optional
        Steps of the whole training, or epochs with ``every="epoch"``. Nothing is rewired after the
        last of them. Needed by schedules other than ``"constant"``, unless `stop` is given.
    stop : int, optional
        The first epoch (counted from 0) without rewiring; needs `epoch_steps` where `every` counts
        steps.
    skip : collection of str
        Sparse layers that keep their graph.
    epoch_steps : int, optional
        Optimizer steps of an epoch. With ``every="epoch"``, only the last batches of an epoch are
        then captured for rules that need gradients (otherwise every batch is).
    samples : torch.Tensor, optional
        Training inputs, such that ``model(samples[i:j])`` works, for rules that compare
        activations; by default these use the last batch.
    recorder : callable, optional
        ``recorder(steps, topology)``, called at once and after each rewiring.
    rng : numpy.random.Generator or int
    **params
        Parameters of the named rule.

    Returns
    -------
    Engine
        ``.topology``, ``.steps``, ``.updates``, ``.end_epoch()``, ``.rewire()``, ``.state_dict()``,
        ``.detach()``.

    Raises
    ------
    ValueError
        If there are no sparse layers, a choice is unknown, or the rule needs data that the
        arguments do not provide.

    Notes
    -----
    `topokit.run` uses the same engine, and the same loop gives the same result. Two inputs that a
    run supplies by itself are arguments here. Rules that compare activations (``ctre_sim``,
    ``ctre_seq``) use the whole training set, and the softmax of the last layer, only if `samples`
    is given; otherwise they use the last batch and the last layer's scores. Rules that depend on
    validation accuracy (``ctre_seq``) get it from ``engine.end_epoch(accuracy)``; where `every`
    counts steps, they need `epoch_steps`, by which a missing accuracy is detected.

    Between rewirings there is no cost unless the rule needs gradients, activations of the last
    batch or sensitivities.

    Steps are those of the optimizer. With accumulated gradients a step has several batches:
    captured gradients are those of the last one, while ``sensitivity`` uses the sum. Steps that a
    gradient scaler skips do not count. Captured gradients are multiplied by its factor; this does
    not matter to rules that rank by gradient alone, but does to ``mest``, which adds them to
    weights. Models compiled by ``torch.compile`` can be rewired; ``fullgraph=True`` is not
    possible. Replicas of a distributed run draw the same edges only if their `rng` and captured
    batches agree.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> from topokit.nn import SparseLinear
    >>> graph = LayerGraph.from_edge_ids(range(0, 60, 3), (6, 10))
    >>> model = nn.Sequential(SparseLinear(graph, rng=np.random.default_rng(0)))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> engine = attach(model, optimizer, "set", every=2, rng=np.random.default_rng(1))
    >>> for _ in range(4):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(3, 10)).square().mean().backward()
    ...     optimizer.step()
    >>> engine.updates, model[0].nnz
    (2, 20)
    """
    if not sparse_layers(model):
        raise ValueError("expected a model with sparse layers, got none; see topokit.sparsify")
    if isinstance(rule, str):
        rule = choose("rule", rule, RULES)(**params)
    elif params:
        raise ValueError(f"expected parameters of a rule named, got {sorted(params)} with a rule")
    options = Rewiring(
        drop_fraction=drop_fraction, schedule=schedule, every=every, stop=stop, skip=skip
    )
    for name, count in (("total", total), ("epoch_steps", epoch_steps)):
        need(count is None or count >= 1, name, "a positive number", count)
    if schedule != "constant" and total is None and stop is None:
        raise ValueError(f"expected the total number of steps for the schedule {schedule!r}")
    by_steps = isinstance(options.every, int)
    if by_steps and epoch_steps is None and (stop is not None or "stalled" in rule.needs):
        what = "a rule that watches validation accuracy" if stop is None else f"stop={stop}"
        raise ValueError(f"expected epoch_steps (optimizer steps of an epoch) with {what}")
    missing = set(rule.needs) - set(NEEDS)
    if missing:
        raise ValueError(f"expected a rule that needs {', '.join(NEEDS)}, got {sorted(missing)}")
    return Engine(
        model, optimizer, rule, options,
        total=total, epoch_steps=epoch_steps, samples=samples, recorder=recorder,
        rng=as_generator(rng),
    )  # fmt: skip
