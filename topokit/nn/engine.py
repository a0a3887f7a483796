"""Rewire a model of your own inside your own training loop."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topokit.graph import EdgeUpdate, Topology
from topokit.nn.layers import EdgeLayer, sparse_layers
from topokit.nn.sparsify import known, sparsify
from topokit.rules import RULES, SCHEDULES, LayerView, UpdateRule, rewire_network
from topokit.rules.memory import birth_signs, decayed, explore

__all__ = ["Engine", "attach", "sparsify"]

GradientFactors = tuple[NDArray[Any], NDArray[Any]]

_FORGOTTEN = 0.01  # weight below which a batch leaves the window of a gradient momentum
_NEEDS = ("gradient", "momentum", "activations", "explored", "sign", "sensitivity")


class Engine:
    """Rewires a model's sparse layers as its optimizer steps. Made by `attach`.

    Attributes
    ----------
    steps, updates : int
        Optimizer steps seen, and rewirings done.
    topology : dict of LayerGraph
        The graphs now.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rule: UpdateRule,
        *,
        every: int,
        drop_fraction: float,
        schedule: Callable[[int, int], float],
        total: int | None,
        skip: Collection[str],
        recorder: Callable[[int, Topology], None] | None,
        rng: np.random.Generator,
    ) -> None:
        self.model, self.optimizer, self.rule = model, optimizer, rule
        self.every, self.drop_fraction, self.schedule = every, drop_fraction, schedule
        self.total, self.skip, self.recorder, self.rng = total, tuple(skip), recorder, rng
        self.steps = self.updates = 0
        momentum = optimizer.param_groups[0].get("momentum") or 0.9
        self._decay = float(momentum)
        window = 1 + math.ceil(math.log(_FORGOTTEN) / math.log(self._decay))
        self._window = window if "momentum" in rule.needs else 1
        self._factors: dict[str, deque[GradientFactors]] = {}
        self._memory: dict[str, dict[str, Any]] = {}
        for name, layer in self._layers().items():
            self._memory[name] = self._start(layer)
        self._hooks = [optimizer.register_step_post_hook(lambda *_: self.step())]
        if "sensitivity" in rule.needs:  # before the step moves the weights its gradient is of
            self._hooks.append(optimizer.register_step_pre_hook(lambda *_: self._add_sensitivity()))
        if recorder is not None:
            recorder(0, self.topology)
        self._watch()

    @property
    def topology(self) -> Topology:
        """The graphs of the model's sparse layers now."""
        return {name: layer.graph for name, layer in self._layers().items()}

    def _layers(self) -> dict[str, EdgeLayer]:
        return sparse_layers(self.model)

    def _start(self, layer: EdgeLayer) -> dict[str, Any]:
        """What the rule needs to be remembered of a layer from the beginning."""
        makers: dict[str, Callable[[], Any]] = {
            "explored": lambda: layer.graph,
            "sign": lambda: np.sign(layer.view().values),
            "sensitivity": lambda: np.zeros(layer.nnz),
        }
        return {need: makers[need]() for need in self.rule.needs if need in makers}

    def _watch(self) -> None:
        """Switch capture on for the batches that the next rewiring looks at."""
        left = self.every - self.steps % self.every
        wanted = {"gradient", "momentum", "activations"} & set(self.rule.needs)
        for layer in self._layers().values():
            layer.capture = bool(wanted) and left <= self._window and not self._finished

    @property
    def _last(self) -> int:
        """The step of the last rewiring: the last multiple of `every` before the end."""
        return max(1, ((self.total or 1) - 1) // self.every * self.every)

    @property
    def _finished(self) -> bool:
        return self.total is not None and self.steps >= self.total

    def step(self) -> None:
        """Count an optimizer step, and rewire if it is time.

        The optimizer calls this after each of its steps; there is no need to.
        """
        if self._finished:
            return
        self.steps += 1
        for name, layer in self._layers().items():
            if layer.capture and "momentum" in self.rule.needs:
                view = layer.view()
                if view.inputs is not None and view.output_grad is not None:
                    window = self._factors.setdefault(name, deque(maxlen=self._window))
                    window.append((view.inputs, view.output_grad))
        if self.steps % self.every == 0 and not self._finished:
            self.rewire()
        self._watch()

    def _add_sensitivity(self) -> None:
        """Add what this step's gradient says of each edge to the sum since the last rewiring."""
        for name, layer in self._layers().items():
            if layer.values.grad is not None:
                share = (layer.values * layer.values.grad).detach().abs().double()
                self._memory[name]["sensitivity"] += share.cpu().numpy()

    def rewire(self) -> dict[str, EdgeUpdate]:
        """Apply the rule once to all layers now, and return what changed."""
        progress = 0.0 if self.total is None else min(1.0, self.steps / self._last)
        factor = self.schedule(self.steps, self.total or 1)
        layers = self._layers()
        changes = rewire_network(
            {name: self._view(name, layer) for name, layer in layers.items()},
            self.rule,
            drop_fraction=self.drop_fraction * factor,
            progress=progress,
            rng=self.rng,
            fixed=self.skip,
        )
        self._factors.clear()
        for name, (update, values) in changes.items():
            layers[name].replace_graph(update, values, self.optimizer)
            self._carry(self._memory[name], update, values)
        self.updates += 1
        if self.recorder is not None:
            self.recorder(self.steps, self.topology)
        return {name: update for name, (update, _) in changes.items()}

    def _view(self, name: str, layer: EdgeLayer) -> LayerView:
        view = dataclasses.replace(layer.view(), extra=self._memory[name])
        if name in self._factors:
            inputs, gradient = decayed(list(self._factors[name]), decay=self._decay)
            view = dataclasses.replace(view, inputs=inputs, outputs=None, output_grad=gradient)
        return view

    def _carry(self, memory: dict[str, Any], update: EdgeUpdate, values: NDArray[Any]) -> None:
        if "explored" in memory:
            memory["explored"] = explore(memory["explored"], update.after)
        if "sign" in memory:
            memory["sign"] = birth_signs(update, memory["sign"], values)
        if "sensitivity" in memory:
            memory["sensitivity"] = np.zeros(update.after.n_edges)

    def detach(self) -> None:
        """Stop rewiring; the model stays as it is."""
        for hook in self._hooks:
            hook.remove()
        for layer in self._layers().values():
            layer.capture = False


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rule: str | UpdateRule = "set",
    *,
    every: int,
    drop_fraction: float = 0.3,
    schedule: str = "constant",
    total: int | None = None,
    skip: Collection[str] = (),
    recorder: Callable[[int, Topology], None] | None = None,
    rng: np.random.Generator,
    **params: Any,
) -> Engine:
    """Rewire a model's sparse layers from inside your own training loop.

    After every so many steps of the optimizer edges are dropped and grown; weights and optimizer
    state follow their edges. Nothing else in the loop changes.

    Parameters
    ----------
    model : torch.nn.Module
        With sparse layers: see `sparsify`.
    optimizer : torch.optim.Optimizer
        Holds the model's parameters.
    rule : str or UpdateRule
        A name of `topokit.RULES` with its `params`, or a rule.
    every : int
        Optimizer steps between rewirings; an epoch's worth for SET.
    drop_fraction : float
        Share of a layer's edges replaced at once, in [0, 1].
    schedule : str
        How it falls over `total` steps, a name of `topokit.rules.SCHEDULES`.
    total : int, optional
        Steps of the whole training. Nothing is rewired from the last of them on. Needed by
        schedules other than ``"constant"``.
    skip : collection of str
        Sparse layers that keep their graph.
    recorder : callable, optional
        ``recorder(steps, topology)``, called at once and after each rewiring.
    rng : numpy.random.Generator
    **params
        Of the rule named.

    Returns
    -------
    Engine
        ``.topology``, ``.steps``, ``.updates``, ``.rewire()``, ``.detach()``.

    Raises
    ------
    ValueError
        If there are no sparse layers, a choice is unknown, or the rule needs what a loop cannot
        give (validation accuracy).

    Notes
    -----
    Rules that compare activations see those of the last batch. Between rewirings the cost is
    nothing unless the rule needs gradients or sensitivities.

    Steps are the optimizer's: with accumulated gradients a step has several batches, and rules
    that look at captured gradients see the last of them, while ``sensitivity`` sees the sum. Steps
    that a gradient scaler skips do not count. Captured gradients carry its factor: nothing to rules
    that rank by gradient alone, but ``mest`` weighs it against weights. A model that went through
    ``torch.compile`` follows every rewiring; ``fullgraph=True`` is not possible. Replicas of a
    distributed run draw the same edges only if their `rng` and captured batches agree.

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
    layers = sparse_layers(model)
    if not layers:
        raise ValueError("expected a model with sparse layers, got none; see topokit.sparsify")
    if isinstance(rule, str):
        known([rule], RULES, "rules")
        rule = RULES[rule](**params)
    elif params:
        raise ValueError(f"expected parameters of a rule named, got {sorted(params)} with a rule")
    if every < 1 or (total is not None and total < 1):
        raise ValueError(f"expected positive numbers of steps, got every={every}, total={total}")
    if not 0 <= drop_fraction <= 1:
        raise ValueError(f"expected a drop_fraction in [0, 1], got {drop_fraction}")
    known([schedule], SCHEDULES, "schedules")
    if schedule != "constant" and total is None:
        raise ValueError(f"expected the total number of steps for the schedule {schedule!r}")
    known(skip, layers, "sparse layers")
    missing = set(rule.needs) - set(_NEEDS)
    if missing:
        raise ValueError(f"expected a rule that needs {', '.join(_NEEDS)}, got {sorted(missing)}")
    return Engine(
        model, optimizer, rule, every=every, drop_fraction=drop_fraction,
        schedule=SCHEDULES[schedule], total=total, skip=skip, recorder=recorder, rng=rng,
    )  # fmt: skip
