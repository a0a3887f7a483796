"""What a rule needs to see, gathered while a network trains; nothing for rules that need nothing.

A rule names its needs (`topokit.rules.UpdateRule.needs`). Between two rewirings `Observer` keeps
just those: the last batch's gradient factors, a window of recent ones, sums over the epoch, or
what outlives a rewiring (`memory`, which belongs in a checkpoint).
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topokit.graph import EdgeUpdate, LayerGraph
from topokit.nn.layers import sparse_layers
from topokit.rules.memory import birth_signs, decayed, explore, stalled
from topokit.rules.rewire import LayerView

__all__ = ["Observer"]

FORGOTTEN = 0.01
FORWARD_BATCH = 1000


class Observer:
    """Gathers what a rule needs from a model while it trains.

    Parameters
    ----------
    model : torch.nn.Module
        With sparse layers.
    needs : tuple of str
        As in `topokit.rules.UpdateRule`.
    momentum : float
        Decay of the gradient window for rules that need ``"momentum"``. Batches whose weight
        has fallen below 1 % are left out, and the window starts anew in each epoch.

    Attributes
    ----------
    memory : dict
        ``{need: {layer: array}}`` and ``{"accuracies": list}``: what outlives a rewiring.

    Notes
    -----
    Memory beyond O(edges): ``gradient`` O(batch * units); ``momentum`` that times the window;
    ``activations`` O(samples * units).
    """

    def __init__(self, model: nn.Module, needs: tuple[str, ...], *, momentum: float) -> None:
        self.model, self.needs, self.momentum = model, needs, momentum
        self.memory: dict[str, Any] = {"accuracies": []}
        window = 1 + math.ceil(math.log(FORGOTTEN) / math.log(momentum)) if momentum > 0 else 1
        self.window = window if "momentum" in needs else 1
        self._batches: dict[str, deque[tuple[NDArray[Any], NDArray[Any]]]] = {}
        layers = sparse_layers(model)
        if "sign" in needs:
            self.memory["sign"] = {k: np.sign(_values(v)) for k, v in layers.items()}
        if "sensitivity" in needs:
            self.memory["sensitivity"] = {k: np.zeros(v.graph.n_edges) for k, v in layers.items()}
        if "explored" in needs:
            self.memory["explored"] = {k: v.graph.edge_ids for k, v in layers.items()}

    def before_batch(self, steps_left: int) -> None:
        """Switch capture on for the batches a rewiring in `steps_left` steps will look at."""
        wants = {"gradient", "momentum"} & set(self.needs)
        on = bool(wants) and steps_left <= self.window
        for layer in sparse_layers(self.model).values():
            layer.capture = on

    def after_backward(self) -> None:
        """Note gradients; call it before the optimizer steps."""
        for name, layer in sparse_layers(self.model).items():
            if "sensitivity" in self.needs and layer.values.grad is not None:
                share = _array(layer.values * layer.values.grad)
                self.memory["sensitivity"][name] += np.abs(share)
            if layer.capture:
                view = layer.view()
                if view.inputs is not None and view.output_grad is not None:
                    kept = self._batches.setdefault(name, deque(maxlen=self.window))
                    kept.append((view.inputs, view.output_grad))

    def views(self, x: torch.Tensor) -> dict[str, LayerView]:
        """Return what the rule may look at now, for every sparse layer; `x` is the training set."""
        layers = sparse_layers(self.model)
        for layer in layers.values():
            layer.capture = False
        views = {name: layer.view() for name, layer in layers.items()}
        if "activations" in self.needs:
            views = self._with_activations(views, x)
        for name, batches in self._batches.items():
            inputs, output_grad = decayed(list(batches), decay=self.momentum)
            views[name] = dataclasses.replace(views[name], inputs=inputs, output_grad=output_grad)
        self._batches.clear()
        return {
            name: dataclasses.replace(view, extra=self._extra(name, view.graph))
            for name, view in views.items()
        }

    def rewired(self, name: str, update: EdgeUpdate, values: NDArray[Any]) -> None:
        """Carry what is remembered of a layer to its new graph."""
        if "sign" in self.needs:
            self.memory["sign"][name] = birth_signs(update, self.memory["sign"][name], values)
        if "explored" in self.needs:
            seen = LayerGraph.from_edge_ids(self.memory["explored"][name], update.after.shape)
            self.memory["explored"][name] = explore(seen, update.after).edge_ids
        if "sensitivity" in self.needs:
            self.memory["sensitivity"][name] = np.zeros(update.after.n_edges)

    def explored(self) -> dict[str, float]:
        """Share of each layer's possible edges ever present, for rules that need ``explored``."""
        shapes = {name: layer.graph.shape for name, layer in sparse_layers(self.model).items()}
        return {
            name: ids.size / (shapes[name][0] * shapes[name][1]) if all(shapes[name]) else math.nan
            for name, ids in self.memory["explored"].items()
        }

    def _extra(self, name: str, graph: LayerGraph) -> dict[str, Any]:
        makers: dict[str, Callable[[], Any]] = {
            "sign": lambda: self.memory["sign"][name],
            "sensitivity": lambda: self.memory["sensitivity"][name],
            "explored": lambda: LayerGraph.from_edge_ids(
                self.memory["explored"][name], graph.shape
            ),
            "stalled": lambda: stalled(self.memory["accuracies"]),
        }
        return {need: makers[need]() for need in self.needs if need in makers}

    def _with_activations(
        self, views: Mapping[str, LayerView], x: torch.Tensor
    ) -> dict[str, LayerView]:
        """Run the training set through the network and keep what every layer saw and said."""
        layers = sparse_layers(self.model)
        kept: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {name: [] for name in layers}
        was_training = self.model.training
        self.model.eval()
        for layer in layers.values():
            layer.capture = True
        with torch.no_grad():
            for batch in x.split(FORWARD_BATCH):
                scores = self.model(batch)
                if not hasattr(self.model, "batch_loss"):  # scores of classes
                    list(layers.values())[-1].keep("outputs", torch.softmax(scores, dim=1))
                for name, layer in layers.items():
                    view = layer.view()
                    kept[name].append((np.array(view.inputs), np.array(view.outputs)))
        for layer in layers.values():
            layer.capture = False
        self.model.train(was_training)
        return {
            name: dataclasses.replace(
                view,
                inputs=np.concatenate([inputs for inputs, _ in kept[name]]),
                outputs=np.concatenate([outputs for _, outputs in kept[name]]),
            )
            for name, view in views.items()
        }


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()


def _values(layer: Any) -> NDArray[Any]:
    return _array(layer.values)
