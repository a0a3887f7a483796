"""Initial values of edges, by name: ``(view, ids, rng) -> values``.

The same functions are used for edges that a rule grows (`ids` are the grown ones, the view is that
of the layer before) and for the initial weights of a layer (`ids` are all its edges, the view's
values are zeros). In both cases `ids` increase, and the result has the shape of `ids`. Initial
weights are drawn from a numpy generator, values of grown edges from a stream of numbers that every
device computes alike: see `init_named`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.graph import positions_in
from topokit.rules.rewire import Init, LayerView, zeros
from topokit.rules.stream import Stream, stream_of
from topokit.tables import Table, choose

__all__ = [
    "INITS",
    "by_sizes",
    "glorot",
    "glorot_dense_uniform",
    "half_std",
    "he",
    "he_normal",
    "he_uniform",
    "init_named",
    "keep_regrown",
    "zero_or_kept",
    "normal",
    "normal_rbm",
]

Source = np.random.Generator | Stream
Law = Callable[[LayerView, NDArray[np.int64], Source], NDArray[Any]]


def he(view: LayerView, ids: NDArray[np.int64], rng: Source) -> NDArray[Any]:
    """Draw from N(0, 2 / mean fan-in of the graph).

    References
    ----------
    .. [1] He, Zhang, Ren, Sun, "Delving deep into rectifiers: surpassing human-level performance on
       ImageNet classification", ICCV 2015 (for the fan-in of dense layers).
    """
    fan_in = max(1.0, view.graph.n_edges / max(1, view.graph.n_out))
    return rng.standard_normal(ids.size) * math.sqrt(2 / fan_in)


def glorot(view: LayerView, ids: NDArray[np.int64], rng: Source) -> NDArray[Any]:
    """Draw uniformly with variance 2 / (mean fan-in + mean fan-out) of the graph.

    References
    ----------
    .. [1] Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural
       networks", AISTATS 2010 (for the fans of dense layers).
    """
    graph, n_edges = view.graph, max(1, view.graph.n_edges)
    fans = n_edges / max(1, graph.n_out) + n_edges / max(1, graph.n_in)
    return rng.uniform(-1, 1, ids.size) * math.sqrt(6 / max(2.0, fans))


def normal(view: LayerView, ids: NDArray[np.int64], rng: Source) -> NDArray[Any]:
    """Draw from N(0, 0.1^2), as in the authors' sparse SET-MLP code."""
    return rng.standard_normal(ids.size) / 10


def normal_rbm(view: LayerView, ids: NDArray[np.int64], rng: Source) -> NDArray[Any]:
    """Draw from N(0, 0.05^2), as in the authors' SET-RBM code."""
    return rng.standard_normal(ids.size) / 20


def he_uniform(view: LayerView, ids: NDArray[np.int64], rng: Source) -> NDArray[Any]:
    """Draw uniformly between ``-+ sqrt(6 / n_in)`` (dense fan-in), as in the authors' CTRE code."""
    bound = math.sqrt(6 / max(1, view.graph.n_in // view.graph.groups))
    return rng.uniform(-bound, bound, ids.size)


def glorot_dense_uniform(view: LayerView, ids: NDArray[np.int64], rng: Source) -> NDArray[Any]:
    """Draw uniformly between ``-+ sqrt(6 / (n_in + n_out))``, as in the authors' Keras code of SET.

    This is the scale of the dense layer: at density d about ``sqrt(d)`` of that of `glorot`.
    """
    groups = view.graph.groups
    bound = math.sqrt(6 * groups / max(1, view.graph.n_in + view.graph.n_out))
    return rng.uniform(-bound, bound, ids.size)


def he_normal(view: LayerView, ids: NDArray[np.int64], rng: Source) -> NDArray[Any]:
    """Draw from N(0, 2 / n_in), as in the ``synapses`` package."""
    return rng.standard_normal(ids.size) * np.sqrt(2 / max(1, view.graph.n_in // view.graph.groups))


def half_std(view: LayerView, ids: NDArray[np.int64], rng: Source) -> NDArray[Any]:
    """Draw from a normal law with half the standard deviation of the layer's weights.

    This is ``random_normal2`` in the authors' CTRE code.

    Zeros in a layer that has no weights yet.
    """
    std = float(view.values.std()) if view.values.size else 0.0
    return rng.standard_normal(ids.size) * std / 2


@dataclass(frozen=True)
class _Kept:
    """Values of edges that were present before the rewiring; those of a function for others."""

    init: Init

    @property
    def __name__(self) -> str:
        return "kept"

    def __call__(
        self, view: LayerView, ids: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[Any]:
        values = np.array(self.init(view, ids, rng), dtype=view.values.dtype)
        at = positions_in(view.graph.edge_ids, ids)
        values[at >= 0] = view.values[at[at >= 0]]
        return values


def keep_regrown(init: Init) -> Init:
    """Wrap `init` so that an edge dropped and grown again in one rewiring keeps its value."""
    return _Kept(init)


def zero_or_kept(regrown: str) -> Init:
    """Return the values of grown edges: 0, or with "keep" the value before of one just dropped.

    Raises
    ------
    ValueError
        If `regrown` is neither "zero" nor "keep".

    Examples
    --------
    >>> zero_or_kept("zero") is zeros
    True
    """
    if regrown not in ("zero", "keep"):
        raise ValueError(f"expected regrown to be 'zero' or 'keep', got {regrown!r}")
    return zeros if regrown == "zero" else keep_regrown(zeros)


INITS: dict[str, Law] = {
    "zeros": zeros,
    "normal": normal,
    "normal_rbm": normal_rbm,
    "he": he,
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "he_dense_uniform": he_uniform,
    "glorot": glorot,
    "glorot_dense_uniform": glorot_dense_uniform,
    "half_std": half_std,
}
"""Initial values by name, of grown edges and of whole layers."""
INITS = Table("init", INITS)

_FROM_STREAM = frozenset(INITS.values()) - {zeros}
"""Laws that need no more of a generator than a stream has; those of plugins may."""


@dataclass(frozen=True)
class _Drawn:
    """A law that draws from the stream of growth, by one key from the generator it is given."""

    law: Law

    @property
    def __name__(self) -> str:
        return self.law.__name__

    def __call__(
        self, view: LayerView, ids: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[Any]:
        return self.law(view, ids, stream_of(rng))


def init_named(name: str) -> Init:
    """Return the function of that name in `INITS` for edges that a rule grows.

    Its numbers are those of the stream of growth (`topokit.rules.stream`), by one key from the
    generator it is given; ``zeros`` draws none. A function, or an entry that a plugin has added,
    is returned as it is and draws from the generator.

    Raises
    ------
    ValueError
        If there is none; the message lists the known names.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> view = LayerView(LayerGraph.from_edge_ids(range(4), (2, 2)), np.ones(4))
    >>> init_named("normal")(view, np.arange(3), np.random.default_rng(0)).round(3).tolist()
    [0.013, 0.05, 0.005]
    """
    law = choose("init", name, INITS)
    return _Drawn(law) if law in _FROM_STREAM else law


def by_sizes(init: Init) -> tuple[Init, bool] | None:
    """Return the law of an init that reads no values, and whether regrown edges keep theirs.

    None for any other function. Such a law needs of the layer and of the edges that are grown
    their numbers alone, so it can be asked where the arrays are elsewhere.

    Examples
    --------
    >>> by_sizes(keep_regrown(zeros)) == (zeros, True), by_sizes(init_named("half_std"))
    (True, None)
    """
    kept = isinstance(init, _Kept)
    law = init.init if isinstance(init, _Kept) else init
    plain = law is zeros or (isinstance(law, _Drawn) and law.law is not half_std)
    return (law, kept) if plain else None
