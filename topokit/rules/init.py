"""What grown edges start with: every function answers ``(view, ids, rng) -> values``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.graph import positions_in
from topokit.rules.rewire import Init, LayerView, zeros

__all__ = [
    "INITS",
    "half_std",
    "he_normal",
    "he_uniform",
    "init_named",
    "keep_regrown",
    "normal",
    "normal_rbm",
]


def normal(view: LayerView, ids: NDArray[np.int64], rng: np.random.Generator) -> NDArray[Any]:
    """Draw from N(0, 0.1^2), as the authors' sparse SET-MLP code."""
    return rng.standard_normal(ids.size) / 10


def normal_rbm(view: LayerView, ids: NDArray[np.int64], rng: np.random.Generator) -> NDArray[Any]:
    """Draw from N(0, 0.05^2), as the authors' SET-RBM code."""
    return rng.standard_normal(ids.size) / 20


def he_uniform(view: LayerView, ids: NDArray[np.int64], rng: np.random.Generator) -> NDArray[Any]:
    """Draw uniformly up to ``sqrt(6 / n_in)`` either way (dense fan-in), as the CTRE code."""
    bound = np.sqrt(6 / max(1, view.graph.n_in))
    return rng.uniform(-bound, bound, ids.size)


def he_normal(view: LayerView, ids: NDArray[np.int64], rng: np.random.Generator) -> NDArray[Any]:
    """Draw from N(0, 2 / n_in), as the ``synapses`` package."""
    return rng.standard_normal(ids.size) * np.sqrt(2 / max(1, view.graph.n_in))


def half_std(view: LayerView, ids: NDArray[np.int64], rng: np.random.Generator) -> NDArray[Any]:
    """Draw normal values of half the present weights' standard deviation (``random_normal2``)."""
    std = float(view.values.std()) if view.values.size else 0.0
    return rng.standard_normal(ids.size) * std / 2


def keep_regrown(init: Init) -> Init:
    """Wrap `init` so that an edge dropped and grown again in one rewiring keeps its value."""

    def kept(view: LayerView, ids: NDArray[np.int64], rng: np.random.Generator) -> NDArray[Any]:
        values = np.array(init(view, ids, rng), dtype=view.values.dtype)
        at = positions_in(view.graph.edge_ids, ids)
        values[at >= 0] = view.values[at[at >= 0]]
        return values

    return kept


INITS: dict[str, Init] = {
    "zeros": zeros,
    "normal": normal,
    "normal_rbm": normal_rbm,
    "he_uniform": he_uniform,
    "he_normal": he_normal,
    "half_std": half_std,
}


def init_named(name: str) -> Init:
    """Return the function of that name in `INITS`.

    Raises
    ------
    ValueError
        If there is none; the message lists them.
    """
    if name not in INITS:
        raise ValueError(f"unknown init {name!r}; expected one of {', '.join(INITS)}")
    return INITS[name]
