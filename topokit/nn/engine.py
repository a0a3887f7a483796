"""The rewiring engine: applies a rule to a model's sparse layers while its optimizer steps.

Both `attach`, for user-written training loops, and `topokit.experiments.loop.train` use the same
`Engine`, so both give the same edges, values and optimizer state. What the rule needs between two
rewirings is collected by `topokit.nn.rule_data`.
"""

from __future__ import annotations

import inspect
import json
import warnings
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topokit.graph import EdgeUpdate, LayerGraph, Topology, same_edges
from topokit.nn import attached
from topokit.nn.attached import Attached, Stamps
from topokit.nn.captures import found_inf
from topokit.nn.distributed import Member, in_all_processes, refuse_divided
from topokit.nn.kernels.ops import uncompiled
from topokit.nn.layers import EdgeLayer, sparse_layers
from topokit.nn.optimizer_state import carry_state, stamp_of
from topokit.nn.parameters import check_values
from topokit.nn.rewiring import decide
from topokit.nn.rule_data import NEEDS, RuleData, as_arrays, as_tensors
from topokit.nn.schedule import Schedule
from topokit.nn.sparsify import sparsify
from topokit.nn.wrappers import bare
from topokit.rules import RULES, Rewiring, UpdateRule, make_rule
from topokit.rules.stream import GROWTH
from topokit.tables import as_generator, as_html, check_names, choose, is_integer, need

__all__ = ["Engine", "as_arrays", "as_tensors", "attach", "sparsify"]

Changes = dict[str, tuple[EdgeUpdate, NDArray[Any]]]
"""The change of each layer in which an edge moved, with the values of its new graph's edges."""

STATE = {"steps", "epochs", "updates", "epoch_start", "memory", "rng"}

RESUMED = (
    "the graph of a sparse layer was replaced by that of a loaded state while its model is being "
    "rewired: optimizer state, averages and the rule's memory follow the edges that are in both "
    "graphs, and start anew for the others; load the states of optimizer and engine, too, to go on "
    "exactly as from the saved step"
)

OTHER_STREAM = (
    "the state was saved by another version of topokit, whose random growth drew from another "
    "stream: later rewirings choose other edges than they would have without the interruption"
)


class Engine(Schedule, Attached, Member):
    """Rewires a model's sparse layers as its optimizer steps. Made by `attach`.

    Parameters
    ----------
    model, optimizer, rule, rng, total, epoch_steps, samples, recorder
        As for `attach`.
    options : Rewiring
        How many edges are replaced, when, and in which layers.
    track_explored : bool
        Keep the set of all edges ever present also for rules that do not need it.
    name : str
        What the rule is called.

    Attributes
    ----------
    steps, epochs, updates : int
        Optimizer steps, epochs (`end_epoch`) and rewirings so far.
    paused : bool
        Whether the optimizers' hooks do nothing, while a step is being recorded.
    last : dict of EdgeUpdate
        The changes of the last rewiring; layers that kept their graph are left out.
    topology : dict of LayerGraph
        The current graphs.
    memory : dict
        State kept for rules that need it: ``accuracies``, and for each layer ``sign``,
        ``sensitivity``, ``explored`` (edge ids), ``batches`` (the momentum window),
        ``activations`` and the rule's own memories; and ``trained``, the names of the layers that
        steps since the last rewiring trained.

    Notes
    -----
    Values that a loop keeps by position (lists of tensors, vectors of all parameters) belong to
    other edges after a rewiring, which cannot be noticed when they are written back: see `attach`.

    The momentum window. Rules that need ``"momentum"`` use the gradient of all possible edges,
    summed over recent steps with weights ``momentum ** age``. That matrix has n_out * n_in
    entries and is never formed. A step's gradient is the product ``output_grad.T @ inputs``, so
    the two factors of each step are kept, and `topokit.rules.memory.decayed` stacks them with
    their weights into one longer "batch" whose gradient is the weighted sum. Steps whose weight
    is below 1 % are left out: 45 remain at momentum 0.9. Layers keep (capture) their activations
    only during the steps of this window before a rewiring. ``"gradient"`` is a window of one step.

    Memory beyond O(edges): ``gradient`` O(batch * units); ``momentum`` that times the window;
    ``activations`` O(samples * units).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        rule: UpdateRule,
        options: Rewiring,
        *,
        total: int | None = None,
        epoch_steps: int | None = None,
        samples: torch.Tensor | None = None,
        recorder: Callable[[int, Topology], None] | None = None,
        track_explored: bool = False,
        rng: np.random.Generator,
        name: str | None = None,
    ) -> None:
        super().__init__(options, total, epoch_steps)
        refuse_divided(model)
        model = bare(model)
        self.model, self.rule = model, rule
        self.recorder, self.rng = recorder, rng
        self.name = name or f"{rule.drop.__name__}, {rule.grow.__name__}"
        self.updates = 0
        self.paused = False
        self.last: dict[str, EdgeUpdate] = {}
        self._layers = sparse_layers(model)
        for skipped in options.skip:
            choose("sparse layer", skipped, self._layers)
        check_values(self._layers, self._fixed())
        self._take(optimizer)
        self._check_free()
        self._averages: list[dict[str, EdgeLayer]] = []
        self._stamps = Stamps(self._layers)
        self._data = RuleData(
            model, self._layers, rule, samples=samples, track_explored=track_explored,
            decay=self._momentum,
        )  # fmt: skip
        self.memory = self._data.memory
        self._hooks: list[Any] = []
        self._hook()
        for layer in self._layers.values():
            layer._engine = weakref.ref(self)
        self._watch()
        if recorder is not None:
            recorder(0, self.topology)
        self._switch_capture()

    def _repr_html_(self) -> str:
        facts = {
            "rule": self.name, "every": self.options.every, "steps": self.steps,
            "rewirings": self.updates,
            **{name: f"{layer.nnz} edges" for name, layer in self._layers.items()},
        }  # fmt: skip
        return as_html("Engine", facts)

    def __repr__(self) -> str:
        every = self.options.every
        often = "each epoch" if isinstance(every, str) else f"every {every} steps"
        edges = sum(layer.nnz for layer in self._layers.values())
        names = list(self._layers)
        shown = ", ".join(names if len(names) < 5 else [*names[:2], "...", names[-1]])
        kinds = ", ".join(type(optimizer).__name__ for optimizer in self.optimizers)
        done = f"{self.steps} steps and {self.updates} rewirings so far"
        return (
            f"Engine: {self.name} {often}, {done}{'' if self._hooks else ', detached'}\n"
            f"  {len(names)} sparse layer{'s' if len(names) > 1 else ''}"
            f"{f' ({shown})' if shown else ''}, {edges} edges, {kinds}"
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "an engine belongs to one model and its optimizer: expected engine.state_dict() to "
            "save it, and attach for a copy of the model"
        )

    @property
    def topology(self) -> Topology:
        """The current graphs of the model's sparse layers."""
        return {name: layer.graph for name, layer in self._layers.items()}

    @property
    def explored(self) -> dict[str, float]:
        """Share of each layer's possible edges ever present, where it is tracked."""
        self._data.settle()
        seen = self.memory.get("explored", {})
        graphs = {name: self._layers[name].graph for name in seen}
        return {
            name: LayerGraph.from_edge_ids(seen[name], graph.shape, graph.groups).density
            for name, graph in graphs.items()
        }

    # Steps and epochs.

    def _hook(self) -> None:
        """Count the steps of the engine's optimizers."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        before, after = uncompiled(self._before_step), uncompiled(self._after_step)
        for number, each in enumerate(self.optimizers):
            self._hooks += [
                each.register_step_pre_hook(before),
                each.register_step_post_hook(lambda o, *_, n=number: after(o, n)),
                each.register_state_dict_pre_hook(self._mark_all),
            ]

    def follow(self, optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]) -> None:
        """Count the steps of another optimizer, or several, from now on.

        To be called where a loop makes its optimizer anew while the model is being rewired: the
        engine goes on with its count of steps, memories and random stream. Steps of an optimizer
        that holds values of the layers and that the engine does not follow are refused.

        Parameters
        ----------
        optimizer : torch.optim.Optimizer or list of them
            As for `attach`; of several processes each calls this. The new ones take the place of
            all of before.

        Raises
        ------
        ValueError
            If they do not hold the values of all layers.

        Examples
        --------
        >>> from topokit.nn import SparseLinear
        >>> graph = LayerGraph.from_edge_ids(range(0, 60, 3), (6, 10))
        >>> model = nn.Sequential(SparseLinear(graph, rng=0))
        >>> engine = attach(model, torch.optim.Adam(model.parameters()), every=1, rng=1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> engine.follow(optimizer)
        >>> model(torch.ones(3, 10)).sum().backward()
        >>> optimizer.step()
        >>> engine.steps
        1
        """
        if not self._hooks:
            raise ValueError("expected an engine that is attached, got a detached one")
        if self._processes is None:
            self._take(optimizer)
        else:
            self._processes.together(lambda: self._take(optimizer))
        self._data.keep_momentum(self._momentum)
        self._hook()
        self._switch_capture()

    def step(self) -> None:
        """Do nothing: the engine counts steps by a hook on the optimizer.

        Loops written for libraries that require this call after ``optimizer.step()`` can keep it.
        """

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Collect what belongs to the gradients and weights that a step is made from.

        A step that is given a closure computes its gradients itself; those of the first call of
        the closure belong to the weights before the step.
        """
        if self.paused:
            return None
        self._tries += 1
        if found_inf(optimizer):
            return None
        names = self._held(optimizer)
        self._check_state(names, optimizer)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._collect(optimizer, names)
            return None
        waiting = [names]

        def evaluated() -> Any:
            loss = closure()
            if waiting:
                self._collect(optimizer, waiting.pop())
            return loss

        if len(args) > 1:
            return (args[0], evaluated, *args[2:]), kwargs
        return args, {**kwargs, "closure": evaluated}

    def _collect(self, optimizer: torch.optim.Optimizer, names: list[str]) -> None:
        """Collect what the rule needs of the gradients of a step."""
        if self._ended:
            return
        self._note_gradients(names)
        scale = getattr(optimizer, "grad_scale", None)
        factor = 1.0 if scale is None else float(scale)
        if "sensitivity" in self._data.needs:
            self._data.add_sensitivity(names, factor)
        if self._data.captures:
            self._data.collect(names, factor)

    def _after_step(self, optimizer: torch.optim.Optimizer, number: int) -> None:
        """Count a step once all optimizers have made one, and rewire if one is due."""
        if self.paused or found_inf(optimizer):
            return
        for name in self._held(optimizer):
            layer = self._layers[name]
            self._mark(name)
            if layer.calls is not None:  # of further calls of a closure
                layer.calls.clear()
        if self._ended:
            return
        self._note_changes()
        if self.rule.step is not None:
            moving = [name for name in self._held(optimizer) if name not in self._fixed()]
            self._data.take_step(moving, optimizer, self.rule.step, self.rng)
        self._stepped_since.add(number)
        if len(self._stepped_since) < len(self.optimizers):
            return
        self._stepped_since.clear()
        self.steps += 1
        every = self.options.every
        if isinstance(every, int) and self.steps % every == 0 and self._is_due(self.steps):
            self.rewire()
        self._switch_capture()

    def end_epoch(self, accuracy: float | None = None) -> dict[str, EdgeUpdate]:
        """Count an epoch, and rewire if `every` is ``"epoch"``.

        Parameters
        ----------
        accuracy : float, optional
            Accuracy on validation samples, for rules that depend on it, such as ``ctre_seq``. Of
            several processes the mean counts; those that give None are left out.

        Returns
        -------
        dict of EdgeUpdate
            The changes of the layers in which an edge moved; empty without a rewiring.

        Raises
        ------
        ValueError
            If `every` is ``"epoch"`` and no step was made in the epoch.
        """
        if self._processes is not None:
            accuracy = self._processes.mean(accuracy)
        if accuracy is not None:
            self.memory["accuracies"].append(float(accuracy))
        if self._between_epochs and not self._over:
            self._check_epoch(self.steps - self._epoch_start)
        self.epochs += 1
        self._epoch_start = self.steps
        updates: dict[str, EdgeUpdate] = {}
        if self._removes_last and self._position == self.total:
            updates = self.rewire(grow=False)
        elif self._between_epochs and self._is_due(self.epochs):
            updates = self.rewire()
        if self._between_epochs:
            self._data.forget_batches()
        self._switch_capture()
        return updates

    def _switch_capture(self) -> None:
        """Switch capture on if a rewiring will use the next step, else off."""
        self._set_over(self._over)
        if self._data.captures:
            left = self._steps_left()
            self._data.capture(left is not None and left <= self._data.window)

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
        if torch._C._current_graph_task_id() != -1:
            raise ValueError("expected optimizer steps after the backward pass, got one within it")
        self._check_layers()
        if closure is not None:
            self._data.batch_of(closure)
        changes = self._agreed(lambda: self._decide(grow))
        self._apply(changes)
        self._fit_wrappers(changes)
        self.memory.pop("trained", None)
        self.updates += 1
        self.last = {name: update for name, (update, _) in changes.items()}
        if self.recorder is not None:
            self.recorder(self._position, self.topology)
        self._switch_capture()
        return self.last

    def _decide(self, grow: bool) -> Changes:
        """Return the changes that the rule makes now, from the captured data; uses them up."""
        self._data.check(self._fixed(), self._epochs_done)
        at, end = self._position, self._end
        return decide(
            self._data,
            self.rule,
            drop_fraction=self.options.fraction(at, 1 if end is None else end),
            progress=0.0 if end is None else self.options.progress(at, end),
            rng=self.rng,
            fixed={*self._fixed(), *self._untrained(), *self._data.missing()},
            growing=grow,
            alone=self._processes is None,
        )

    def _apply(self, changes: Changes) -> None:
        """Replace the graphs; optimizer state, averages and memories follow their edges."""
        self._holders()
        keepers, grown = self._find_keepers(), self.options.grown_state
        start: dict[str, Any] = {} if grown == "neutral" else {"grown_state": grown}
        for name, (update, values) in changes.items():
            layer = self._layers[name]
            averages = [copy[name] for copy in self._averages]
            for average in averages:
                attached.check_average(name, average, update.before)
            layer.replace_graph(update, values, keepers, **start)
            for average in averages:
                attached.follow(average, update, values)
            self._stamp(name)
            self._data.carry(name, update, values)

    def average(self, copy: nn.Module) -> nn.Module:
        """Make averaged weights follow the rewiring; return them.

        Code that averages weights, such as ``torch.optim.swa_utils.AveragedModel``, pairs values by
        position. After a rewiring the same position is another edge. An average registered here
        has the model's graphs at all times: edges that stay keep their average, edges that are
        dropped lose it, and that of a grown edge starts at the edge's weight.

        Parameters
        ----------
        copy : torch.nn.Module
            A copy of the model, or a module that has one (``AveragedModel``), made since the last
            rewiring. How and when it is averaged stays as it is. Target networks are averages, too.

        Returns
        -------
        torch.nn.Module
            The copy.

        Raises
        ------
        ValueError
            If it does not have the model's sparse layers, with the same graphs.

        Notes
        -----
        A copy whose graph is overwritten in place by that of a rewired model, as
        ``AveragedModel`` does when it is not registered, is refused when it is next used or saved.
        Averages by hand over ``parameters()`` alone cannot be noticed: register the copy. Lists of
        tensors, or one vector of all parameters, instead of a copy of the model cannot follow by
        themselves. Move the values of each layer after a step that rewired (``engine.updates`` has
        grown): ``mine[name] = engine.last[name].carry(mine[name], fill)``, an array of one number
        for each edge, for the names in ``engine.last``.

        Examples
        --------
        >>> from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
        >>> from topokit.nn import SparseLinear
        >>> graph = LayerGraph.from_edge_ids(range(0, 60, 3), (6, 10))
        >>> model = nn.Sequential(SparseLinear(graph, rng=0))
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> engine = attach(model, optimizer, "set", every=1, rng=1)
        >>> ema = engine.average(AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)))
        >>> model(torch.ones(3, 10)).sum().backward()
        >>> optimizer.step()
        >>> ema.update_parameters(model)
        >>> same_edges(ema.module[0].graph, model[0].graph)
        True
        """
        layers = attached.layers_of_copy(copy, self._layers)
        if layers not in self._averages:  # compared by identity
            self._averages.append(layers)
        return copy

    def loaded(self, layer: EdgeLayer, graph: LayerGraph, values: NDArray[Any]) -> None:
        """Let everything follow a graph that is about to be loaded into a layer.

        Called by the layer. Optimizer state that was loaded before, and is that of the new graph,
        stays.
        """
        (name,) = (name for name, own in self._layers.items() if own is layer)
        for entry in ("batches", "activations"):
            self.memory.get(entry, {}).pop(name, None)
        if same_edges(graph, layer.graph):
            return
        update = EdgeUpdate.between(layer.graph, graph)
        self._stamps[name] = stamp = stamp_of(graph)
        grown = self.options.grown_state
        carry_state(self._keepers, layer.values, update, values, grown, done=stamp)
        self._mark(name)
        for copy in self._averages:
            average = copy[name]
            if not same_edges(average.graph, graph):
                attached.follow(average, EdgeUpdate.between(average.graph, graph), values)
        self._data.carry(name, update, values)
        if self.steps:
            warnings.warn(RESUMED, stacklevel=2)

    def restarted(self, layer: EdgeLayer) -> None:
        """Begin a layer's memories anew: its weights were drawn again. Called by the layer."""
        (name,) = (name for name, own in self._layers.items() if own is layer)
        self._data.start(name, layer)

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
            "stepped": sorted(self._stepped_since),
            "graphs": self._stamps.all(),
            "memory": as_tensors(self._data.settle()),
            "rng": json.dumps(self.rng.bit_generator.state),
            "growth": GROWTH,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`.

        Load the states of model and optimizer first.

        Raises
        ------
        ValueError
            If it is no such state, or the model's graphs are not those of the state.
        """
        whole = isinstance(state, Mapping) and state.keys() >= STATE
        got = [*state][:5] if isinstance(state, Mapping) else state
        need(whole, "state", "what engine.state_dict() returned", got)
        if "graphs" in state and state["graphs"] != self._stamps.all():
            raise ValueError(
                "expected the model to have the graphs of the state, got others; load the states "
                "of model and optimizer first"
            )
        saved = json.loads(state["rng"])
        drawn = state["updates"] and saved != self.rng.bit_generator.state
        if drawn and state.get("growth") != GROWTH:
            warnings.warn(OTHER_STREAM, stacklevel=2)
        self.rng.bit_generator.state = saved
        self.updates = state["updates"]
        self._stepped_since = set(state.get("stepped", ()))
        self._data.forget_batches()
        self._data.capture(False)
        self.go_on(state["steps"], state["epochs"], as_arrays(state["memory"]))
        self._epoch_start = state["epoch_start"]
        self._switch_capture()

    def go_on(self, steps: int, epochs: int, memory: dict[str, Any]) -> None:
        """Continue at the start of an epoch, with the memory saved there."""
        self.steps, self.epochs, self._epoch_start = steps, epochs, steps
        self.memory.pop("trained", None)
        self._data.settle().update(memory)
        if not self._decides:
            self._data.forget_batches()  # the first process has those of the whole batch
        self._switch_capture()

    def detach(self) -> None:
        """Stop rewiring; the model stays as it is."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._unwatch()
        self._data.capture(False)
        for layer in self._layers.values():
            if layer._rewired_by() is self:
                layer._engine = None


@in_all_processes
def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    rule: str | UpdateRule | Callable[..., UpdateRule] = "set",
    *,
    every: int | str,
    drop_fraction: float = 0.3,
    schedule: str | Callable[[int, int], float] = "constant",
    total: int | None = None,
    stop: int | None = None,
    skip: Collection[str] = (),
    grown_state: str | Mapping[str, str] = "neutral",
    epoch_steps: int | None = None,
    samples: torch.Tensor | None = None,
    recorder: Callable[[int, Topology], None] | None = None,
    rng: np.random.Generator | int,
    process_group: Any = "world",
    gradients: str = "mean",
    **params: Any,
) -> Engine:
    """Return an engine that rewires a model's sparse layers within your own training loop.

    Every n steps of the optimizer, or after each epoch, edges are dropped and grown; kept edges
    keep their weights and optimizer state. Nothing else in the loop changes.

    Parameters
    ----------
    model : torch.nn.Module
        A model with sparse layers: see `sparsify`. Several models that are trained together go
        into a ``torch.nn.ModuleList``.
    optimizer : torch.optim.Optimizer or list of them
        The optimizer of the model's parameters, made after `sparsify`; or all optimizers that hold
        values of sparse layers, each layer in one of them. If the loop makes it anew later, call
        `Engine.follow`; steps of other optimizers on values that are being rewired are refused. A
        step of several optimizers is counted
        when each that holds such values has made one since the step counted last, so that no
        rewiring comes between a backward pass and a step. For weight decay see
        `topokit.nn.decay_groups`.
    rule : str, callable or UpdateRule
        A name of `topokit.RULES` or a function that returns a rule, with its `params`; or a rule.
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
        Sparse layers that keep their graph. Frozen layers (``requires_grad`` False) keep theirs,
        too, while they are frozen.
    grown_state : {"neutral", "zero"} or mapping
        What the optimizer keeps for a grown edge at first: as in `topokit.rules.Rewiring`.
    epoch_steps : int, optional
        Optimizer steps of an epoch. With ``every="epoch"``, only the last batches of an epoch are
        then captured for rules that need gradients (otherwise every batch is).
    samples : torch.Tensor, optional
        Training inputs, such that ``model(samples[i:j])`` works, for rules that compare
        activations; by default these use the last batch.
    recorder : callable, optional
        ``recorder(at, topology)``, called at once and after each rewiring, where `at` is the number
        of steps made so far or, with ``every="epoch"``, of epochs ended so far: accuracies of epoch
        0, 1, ... then belong to the graphs of that number. After `Engine.load_state_dict` a
        recorder of your own is set as ``engine.recorder``, since the call at once came before it.
    rng : numpy.random.Generator or int
    process_group : torch.distributed.ProcessGroup, None or "world"
        The processes that train this model together, if ``torch.distributed`` is initialised:
        ``"world"`` are those of the model's DistributedDataParallel, if it is one, else all. None:
        this process alone.
    gradients : {"mean", "sum"}
        How the processes' gradients are combined before a step: see
        `topokit.nn.distributed.reduce_gradients`.
    **params
        Parameters of the named rule.

    Returns
    -------
    Engine
        ``.topology``, ``.steps``, ``.updates``, ``.end_epoch()``, ``.rewire()``, ``.average()``,
        ``.follow()``, ``.state_dict()``, ``.detach()``.

    Raises
    ------
    ValueError
        If there are no sparse layers, the optimizer does not hold the values of one, another
        engine rewires them, a choice is unknown, or the rule needs data that the arguments do not
        provide.

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

    Steps are those of the optimizer, and what a rule sees belongs to the whole step: the sums over
    all forward calls whose gradients are in it, with accumulated gradients, layers used several
    times and recomputed activations. Evaluations in between do not count, nor do steps that a
    gradient scaler skips. Gradients are those the optimizer steps with: without the scaler's
    factor, and clipped if they are clipped by norm. A layer that took no part in the step keeps its
    graph under a rule that looks at a batch. Under all rules a layer that got no gradient in any
    step since the last rewiring (not called, behind ``detach()``) keeps it, and a warning names
    the layer, once: which of its edges are small would tell nothing of their use. It counts as
    trained by a gradient of zeros, with which optimizers step, too, and if its optimizer changes it
    without a gradient, or the rule itself does (``deep_r``). Activations are those after the
    activation function, and for the last layer the softmax of class scores: see
    `topokit.nn.captures.Activations`.

    Optimizer state follows the edges: see `topokit.nn.optimizer_state`. That of LBFGS starts anew
    at each rewiring. Of optimizers that hold others (SAM, Lookahead) all states follow; attached is
    the one whose ``step`` is called, or the one within. Slow weights outside a state, in lists or
    one vector, are refused. Averages of weights follow if they are registered: see
    `Engine.average`. A state that is loaded into the model takes optimizer state, averages and
    memories with it. A copy of the model is not rewired. What a loop keeps of its own is by
    position, and after a rewiring the same position is another edge: lists of the best weights, of
    averages or of gradients, vectors of ``torch.nn.utils.parameters_to_vector``. Written back into
    the model they put values on other edges. This is not noticed, as sizes agree and as constraints
    on weights are written in the same way: keep ``copy.deepcopy(model.state_dict())`` and restore
    it by ``load_state_dict``, or move your own arrays as `Engine.average` says. Parameters and
    buffers stay the same objects, so programs and dictionaries that hold them follow. A model
    converted to another number type or device after a step needs an optimizer that was, too:
    ``optimizer.load_state_dict(optimizer.state_dict())``. Models compiled by ``torch.compile`` can
    be rewired.

    Several processes (``torchrun``) call `attach`, ``optimizer.step()`` and ``end_epoch`` alike,
    with the model or the DistributedDataParallel around it; layers have their names in the model
    inside. The first process gets the captured batches of all, at each step that is captured (give
    `epoch_steps` where `every` is ``"epoch"``), and decides with its `rng`; all apply the same
    changes. So the result is, to rounding, that of one process with the whole batch. With NCCL this
    is untested. Of `samples` that differ between processes the union counts. The state of the first
    process's engine is that to save; every process can load it. Models wrapped by FSDP or with
    tensor parallelism are refused, and so are ``DistributedDataParallel.join`` and processes whose
    weights differ. Every process that gives a `recorder` has it called.

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
    name = rule if isinstance(rule, str) else getattr(rule, "__name__", None)
    if not isinstance(rule, UpdateRule):
        factory = choose("rule", rule, RULES)
        check_names("rule", str(name), factory, params, others=inspect.signature(attach).parameters)
        rule = make_rule(rule, **params)
    elif params:
        raise ValueError(f"expected parameters of a rule named, got {sorted(params)} with a rule")
    options = Rewiring(
        drop_fraction=drop_fraction, schedule=schedule, every=every, stop=stop, skip=skip,
        grown_state=grown_state,
    )  # fmt: skip
    for key, count in (("total", total), ("epoch_steps", epoch_steps)):
        need(count is None or is_integer(count, 1), key, "a positive whole number", count)
    need(recorder is None or callable(recorder), "recorder", "a function", recorder)
    if schedule != "constant" and total is None and stop is None:
        raise ValueError(f"expected the total number of steps for the schedule {schedule!r}")
    by_steps = isinstance(options.every, int)
    if by_steps and epoch_steps is None and (stop is not None or "stalled" in rule.needs):
        what = "a rule that watches validation accuracy" if stop is None else f"stop={stop}"
        raise ValueError(f"expected epoch_steps (optimizer steps of an epoch) with {what}")
    if samples is not None and isinstance(model, nn.ModuleList | nn.ModuleDict):
        raise ValueError("expected samples=None with several models, which cannot be called as one")
    missing = set(rule.needs) - set(NEEDS)
    if missing:
        raise ValueError(f"expected a rule that needs {', '.join(NEEDS)}, got {sorted(missing)}")
    return Engine(
        model, optimizer, rule, options,
        total=total, epoch_steps=epoch_steps, samples=samples, recorder=recorder,
        rng=as_generator(rng), name=name,
    )  # fmt: skip
