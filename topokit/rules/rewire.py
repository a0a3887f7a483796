"""Views of a layer, update rules, and the functions that apply a rule to a layer or a network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topokit.graph import EdgeUpdate, LayerGraph, check_per_edge, sorted_ids
from topokit.plugins import place_of
from topokit.tables import Table, choose, is_integer, is_number, need

__all__ = [
    "LayerView",
    "Memory",
    "Rewiring",
    "SCHEDULES",
    "Step",
    "UpdateRule",
    "constant",
    "cosine",
    "drop_count",
    "linear",
    "per_layer",
    "rewire",
    "rewire_network",
    "zeros",
]

_BLOCK = 1 << 22
GROWN_STARTS = ("zero", "mean", "value", "lr")  # of what an optimizer keeps for an edge


@dataclass(frozen=True, slots=True, eq=False)
class LayerView:
    """Data of one layer that a rule can read: plain arrays, which it must not change.

    Parameters
    ----------
    graph : LayerGraph
    values : (n_edges,) float array
        One weight for each edge, in the order of ``graph.indices``.
    inputs : (samples, n_in) array, optional
        Inputs of the layer. A convolution gives one sample for each output position.
    outputs : (samples, n_out) array, optional
        Its outputs, after the activation function.
    output_grad : (samples, n_out) array, optional
        Gradient of the loss with respect to the pre-activations.
    extra : mapping of str to anything
        Further entries named in `UpdateRule.needs`: ``explored`` (LayerGraph of all edges ever
        present), ``sign`` ((n_edges,) sign of each weight when its edge was grown),
        ``sensitivity`` ((n_edges,) sum of ``abs(weight * gradient)`` since the last rewiring),
        ``stalled`` (bool: whether validation accuracy has ever stopped improving). Also
        ``progress`` (float: share of rewirings done) and ``fixed`` (bool: whether the layer keeps
        its graph), where a whole network is rewired, and the entries that `UpdateRule.prepare`
        adds.

    Raises
    ------
    ValueError
        If there is not one value for each edge, or a capture has the wrong width.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 3], (2, 2))
    >>> view = LayerView(graph, np.array([0.5, -1.0]), inputs=np.array([[1.0, 2.0]]),
    ...                  output_grad=np.array([[3.0, 0.0]]))
    >>> view.dense_grad(slice(0, 2)).tolist(), view.edge_grad().tolist()
    ([[3.0, 6.0], [0.0, 0.0]], [3.0, 0.0])
    """

    graph: LayerGraph
    values: NDArray[Any]
    inputs: NDArray[Any] | None = None
    outputs: NDArray[Any] | None = None
    output_grad: NDArray[Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_per_edge(self.graph, self.values)
        n_in, n_out = self.graph.n_in, self.graph.n_out
        for name, width in (("inputs", n_in), ("outputs", n_out), ("output_grad", n_out)):
            array = getattr(self, name)
            if array is not None and (array.ndim != 2 or array.shape[1] != width):
                raise ValueError(f"expected {name} of shape (samples, {width}), got {array.shape}")

    def captured(self, *names: str) -> tuple[NDArray[Any], ...]:
        """Return the named captures, with equal numbers of samples.

        Raises
        ------
        ValueError
            If one of them was not captured.
        """
        arrays = tuple(getattr(self, name) for name in names)
        if any(array is None for array in arrays):
            raise ValueError(
                f"this rule needs captured activations: expected {' and '.join(names)} in the "
                "view, got None; switch on capture in the layer before the batch"
            )
        if len({len(array) for array in arrays}) > 1:
            raise ValueError(
                f"expected {' and '.join(names)} of the same samples, "
                f"got {' and '.join(str(len(array)) for array in arrays)} rows"
            )
        return arrays

    def required(self, name: str) -> Any:
        """Return ``extra[name]``; raise a ValueError if there is no such entry."""
        if name not in self.extra:
            raise ValueError(
                f"this rule needs extra[{name!r}] in the view, got {sorted(self.extra)}; "
                "see LayerView for what each entry holds"
            )
        return self.extra[name]

    def dense_grad(self, rows: slice) -> NDArray[Any]:
        """Return the gradient of the loss for every possible edge of some rows.

        Parameters
        ----------
        rows : slice of output units

        Returns
        -------
        (len(rows), n_in) array
            ``output_grad[:, rows].T @ inputs``, in O(samples * len(rows) * n_in) time.

        Raises
        ------
        ValueError
            If inputs or output_grad were not captured.
        """
        inputs, output_grad = self.captured("inputs", "output_grad")
        return output_grad[:, rows].T @ inputs

    def edge_grad(self) -> NDArray[Any]:
        """Return the gradient of the loss at the edges, (n_edges,).

        It is computed in blocks of bounded memory, in O(samples * n_edges) time. Raise a ValueError
        if inputs or output_grad were not captured.
        """
        inputs, output_grad = self.captured("inputs", "output_grad")
        rows, columns = self.graph.rows, self.graph.indices
        result = np.zeros(self.graph.n_edges)
        step = max(1, _BLOCK // max(1, len(inputs)))
        for start in range(0, self.graph.n_edges, step):
            at = slice(start, start + step)
            result[at] = np.einsum("se,se->e", inputs[:, columns[at]], output_grad[:, rows[at]])
        return result


Drop = Callable[[LayerView, int, np.random.Generator], NDArray[np.int64]]
Grow = Callable[[LayerView, LayerGraph, int, np.random.Generator], NDArray[np.int64]]
Init = Callable[[LayerView, NDArray[np.int64], np.random.Generator], NDArray[Any]]
Extras = dict[str, dict[str, Any]]
Prepare = Callable[[Mapping[str, LayerView], float], Extras]
Plan = Callable[..., dict[str, tuple[int, int]]]
Step = Callable[[LayerView, float, np.random.Generator], NDArray[Any]]


def zeros(view: LayerView, ids: NDArray[np.int64], rng: object) -> NDArray[Any]:
    """Return zeros, in the dtype of the layer's values."""
    return np.zeros(ids.size, view.values.dtype)


def drop_count(graph: LayerGraph, drop_fraction: float) -> int:
    """Return how many edges of a layer one rewiring replaces.

    Parameters
    ----------
    graph : LayerGraph
    drop_fraction : float
        Share of the edges, in [0, 1]; rounded down.

    Returns
    -------
    int
        ``floor(drop_fraction * n_edges)``, at most ``n_edges - 1`` unless the fraction is 1, and 0
        in a complete layer, where no edge is absent.

    Raises
    ------
    ValueError
        If the fraction lies outside [0, 1].

    Examples
    --------
    >>> drop_count(LayerGraph.from_edge_ids(range(10), (4, 4)), 0.3)
    3
    >>> drop_count(LayerGraph.from_edge_ids(range(16), (4, 4)), 0.3)
    0
    """
    if not 0 <= drop_fraction <= 1:
        raise ValueError(f"expected a drop_fraction in [0, 1], got {drop_fraction}")
    if not graph.n_absent:
        return 0
    count = math.floor(drop_fraction * graph.n_edges + 1e-9)
    if drop_fraction < 1:
        count = min(count, max(0, graph.n_edges - 1))
    return count


def per_layer(
    views: Mapping[str, LayerView], *, drop_fraction: float, progress: float
) -> dict[str, tuple[int, int]]:
    """Plan the same share of edges in every layer, grown as many as dropped (`drop_count`)."""
    counts = {name: drop_count(view.graph, drop_fraction) for name, view in views.items()}
    return {name: (count, count) for name, count in counts.items()}


class Memory(NamedTuple):
    """An array that a rule keeps for each layer from one rewiring to the next.

    Parameters
    ----------
    start : callable
        ``start(view) -> array``, the initial array, when training begins.
    carry : callable
        ``carry(update, remembered, values) -> array``, the array after a rewiring of the layer;
        `values` are those of the new graph's edges.
    show : callable
        ``show(remembered, graph)``, the entry that the rule finds in ``view.extra``; by default the
        array itself.

    Examples
    --------
    The number of rewirings that each edge has survived:

    >>> age = Memory(lambda view: np.zeros(view.graph.n_edges), lambda update, age, _: np.where(
    ...     update.grown, 0, update.carry(age) + 1))
    >>> old = LayerGraph.from_edge_ids([0, 1], (1, 3))
    >>> update = EdgeUpdate.from_decisions(old, dropped=[0], grown=[2])
    >>> age.carry(update, np.zeros(2), np.ones(2)).tolist()
    [1.0, 0.0]
    """

    start: Callable[[LayerView], NDArray[Any]]
    carry: Callable[[EdgeUpdate, NDArray[Any], NDArray[Any]], NDArray[Any]]
    show: Callable[[NDArray[Any], LayerGraph], Any] = lambda remembered, graph: remembered


class UpdateRule(NamedTuple):
    """Which edges of a layer are dropped, which are grown, and with what values.

    Parameters
    ----------
    drop : callable
        ``drop(view, n, rng) -> (n,) int64``, distinct positions in ``view.graph.indices``.
    grow : callable
        ``grow(view, occupied, n, rng) -> (n,) int64``, distinct edge ids absent from `occupied`.
    init : callable
        ``init(view, ids, rng) -> (len(ids),)``, values of grown edges, `ids` increasing.
    needs : tuple of str
        Data that the engine must put in the view: ``"gradient"`` (inputs and output_grad of the
        last step), ``"momentum"`` (the same of recent steps, older ones weighted down: see
        `topokit.rules.memory.decayed`), ``"activations"`` (inputs and outputs over the training
        data), or an entry of ``view.extra`` (``"explored"``, ``"sign"``, ``"sensitivity"``,
        ``"stalled"``).
    prepare : callable, optional
        ``prepare(views, drop_fraction) -> {layer: {entry: ...}}``, network-level information
        added to each view's `extra` before planning.
    plan : callable
        ``plan(views, *, drop_fraction, progress) -> {layer: (n_drop, n_grow)}``; `progress` in
        [0, 1] is the share of rewirings done, 1 at the last. By default every layer replaces
        `drop_fraction` of its edges.
    memory : dict of Memory, optional
        Further memories of the rule; each is found in ``view.extra`` under its name. The engine
        initialises them, carries them over rewirings and stores them in checkpoints.
    step : callable, optional
        ``step(view, lr, rng) -> (n_edges,)``, the values after each optimizer step, given those
        that the optimizer with learning rate `lr` has set; the view holds the memories in `needs`
        and no captures. By default the optimizer's values stay.

    Examples
    --------
    >>> from topokit.rules.drop import smallest_magnitude
    >>> from topokit.rules.grow import uniform
    >>> mine = UpdateRule(smallest_magnitude, uniform)
    >>> mine.needs, mine.init.__name__
    ((), 'zeros')
    """

    drop: Drop
    grow: Grow
    init: Init = zeros
    needs: tuple[str, ...] = ()
    prepare: Prepare | None = None
    plan: Plan = per_layer
    memory: Mapping[str, Memory] | None = None
    step: Step | None = None

    def __repr__(self) -> str:
        names = {key: getattr(value, "__name__", value) for key, value in self._asdict().items()}
        shown = [f"{key}={value}" for key, value in names.items() if value]
        return f"UpdateRule({', '.join(shown)})"


def rewire(
    view: LayerView,
    rule: UpdateRule,
    *,
    n_drop: int,
    n_grow: int,
    rng: np.random.Generator,
) -> tuple[EdgeUpdate, NDArray[Any]]:
    """Apply a rule once to one layer: drop exactly `n_drop` edges, grow exactly `n_grow`.

    An edge dropped in this call may be grown again in the same call. It then counts both as dropped
    and as grown: its source in the update is -1, and its optimizer state starts anew.

    Parameters
    ----------
    view : LayerView
    rule : UpdateRule
    n_drop, n_grow : int
        Equal for a rewiring that keeps the number of edges; ``n_grow=0`` to prune.
    rng : numpy.random.Generator

    Returns
    -------
    update : EdgeUpdate
    values : (update.after.n_edges,) array
        Kept edges keep their value bit for bit; grown ones get ``rule.init``. The dtype is that
        of ``view.values``.

    Raises
    ------
    ValueError
        If the counts cannot be met, or the rule returns a wrong result: positions out of range or
        repeated, grown edges that are present, or the wrong number of either.

    Notes
    -----
    O(n_edges) beyond what the rule's own functions cost.

    Examples
    --------
    >>> from topokit.rules import RULES
    >>> view = LayerView(LayerGraph.from_edge_ids([0, 1, 2], (2, 3)), np.array([3.0, -0.1, 2.0]))
    >>> update, values = rewire(view, RULES["set_magnitude"](), n_drop=1, n_grow=1,
    ...                         rng=np.random.default_rng(0))
    >>> update.after.edge_ids.tolist(), values.tolist()
    ([0, 2, 4], [3.0, 2.0, 0.0])
    """
    # The order matters. First the rule drops; `pruned` is the graph without those edges. Then it
    # grows absent edges of `pruned`, so that a dropped edge may be grown again. Last, one merge
    # builds the graph from both decisions: an edge dropped and grown again gets source -1, so that
    # its weight and optimizer state start anew although the edge is the same. Each result of the
    # rule is checked before it is used, which costs O(n_edges), as the merge does.
    before, n = view.graph, view.graph.n_edges
    if not 0 <= n_drop <= n:
        raise ValueError(f"expected n_drop in 0..{n} (the layer's edges), got {n_drop}")
    room = before.n_absent + n_drop
    if not 0 <= n_grow <= room:
        raise ValueError(
            f"expected n_grow in 0..{room} (the absent edges and the dropped ones), got {n_grow}"
        )
    if not n_drop and not n_grow:
        return EdgeUpdate(before, before, np.arange(n)), view.values.copy()
    dropped = np.empty(0, np.int64)
    chosen = rule.drop(view, n_drop, rng) if n_drop else dropped
    with _returned_by("drop", rule.drop):
        dropped = _integers(chosen, n_drop, "positions to drop")
        if n_drop and (dropped.min() < 0 or dropped.max() >= n):
            raise ValueError(
                f"expected positions to drop in 0..{n - 1}, got {dropped.min()}..{dropped.max()}"
            )
        pruned = EdgeUpdate.from_decisions(before, dropped, [])
        if pruned.n_dropped != n_drop:
            raise ValueError(f"expected {n_drop} distinct positions to drop, got one twice")
    if not n_grow:
        return pruned, pruned.carry(view.values)
    chosen = rule.grow(view, pruned.after, n_grow, rng)
    with _returned_by("grow", rule.grow):
        grown = sorted_ids(_integers(chosen, n_grow, "edges to grow"))
        if np.any(grown[1:] == grown[:-1]):
            raise ValueError(f"expected {n_grow} distinct edges to grow, got one twice")
        update = EdgeUpdate.from_decisions(before, dropped, grown)
    values = update.carry(view.values)
    start = np.asarray(rule.init(view, grown, rng))
    with _returned_by("init", rule.init):
        if start.shape != (n_grow,):
            raise ValueError(f"expected {n_grow} starting values, got shape {start.shape}")
        values[update.grown] = start
    return update, values


@contextmanager
def _returned_by(part: str, function: Callable[..., Any]) -> Iterator[None]:
    """Name the function of a rule, and its place, in an error about what it returned."""
    try:
        yield
    except ValueError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise ValueError(f"{part} {name!r}{place_of(function)}: {error}") from None


def _integers(decision: Any, count: int, what: str) -> NDArray[np.int64]:
    """Return what a rule returned as int64; raise a ValueError unless it is `count` integers."""
    array = np.asarray(decision)
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"expected {count} {what} as a flat integer array, "
            f"got shape {array.shape} of {array.dtype}"
        )
    return array.astype(np.int64)


def constant(step: int, total: int) -> float:
    """Return 1 at every step: the drop fraction is constant (SET, CTRE)."""
    return 1.0


def cosine(step: int, total: int) -> float:
    """Return ``(1 + cos(pi * step / total)) / 2``: from 1 to 0, flat at both ends (RigL, SNFS).

    Examples
    --------
    >>> [round(cosine(step, 4), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    return (1 + math.cos(math.pi * min(max(step / max(total, 1), 0.0), 1.0))) / 2


def linear(step: int, total: int) -> float:
    """Return ``1 - step / total``, from 1 to 0.

    Examples
    --------
    >>> [linear(step, 4) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    return 1 - min(max(step / max(total, 1), 0.0), 1.0)


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
}
"""``(step, total) -> factor`` in [0, 1] by which the initial drop fraction is multiplied."""
SCHEDULES = Table("schedule", SCHEDULES)


@dataclass(frozen=True, kw_only=True)
class Rewiring:
    """How many edges a rule replaces, when, and in which layers.

    The options of configurations (``[rule]``), of `topokit.attach`, of the Lightning callback and
    of the scikit-learn classifier are declared and checked here.

    Parameters
    ----------
    drop_fraction : float
        Share of a layer's edges replaced at one rewiring, 0 to 1, before the schedule.
    schedule : str or callable
        How `drop_fraction` changes over the training, or until `stop`: a name of `SCHEDULES` or
        ``schedule(at, end) -> factor``. Both count epochs, or steps where `every` counts steps.
    every : "epoch" or int
        Rewire after each epoch, or after every n optimizer steps. No rewiring follows the last
        epoch or step. None means "epoch".
    stop : int, optional
        The first epoch (counted from 0) without rewiring; by default the last.
    skip : sequence of str
        Names of layers that keep their graph.
    final : {"keep", "drop"}
        After the last epoch, do nothing ("keep"), or remove edges once more without growing, as in
        the SET paper ("drop").
    grown_state : {"neutral", "zero"} or mapping
        What the optimizer keeps for a grown edge at first. "neutral": 0 for means of gradients, and
        for means of their squares the mean of the layer's edges that stay, so that the first steps
        of a grown edge are about as long as those of others. "zero": 0 for everything, with which
        the first step under Adam is about three learning rates long. A mapping gives entries of
        the optimizer's state other starts than the neutral ones: "zero", "mean", "value" (the
        edge's weight) or "lr".

    Raises
    ------
    ValueError
        If a value is of the wrong kind or out of range.

    Examples
    --------
    >>> options = Rewiring(drop_fraction=0.5, schedule="linear", every=100)
    >>> options.fraction(250, 1000)
    0.375
    >>> [options.progress(at, 1000) for at in (100, 900, 1000)]
    [0.1111111111111111, 1.0, 1.0]
    """

    drop_fraction: float = 0.3
    schedule: str | Callable[[int, int], float] = "constant"
    every: str | int = "epoch"
    stop: int | None = None
    skip: Collection[str] = ()
    final: str = "keep"
    grown_state: str | Mapping[str, str] = "neutral"

    section: ClassVar[str] = ""  # where the keys stand in a configuration, for messages

    def __post_init__(self) -> None:
        where, zeta, every, skip = self.section, self.drop_fraction, self.every, self.skip
        good = is_number(zeta) and 0 <= zeta <= 1
        need(good, f"{where}drop_fraction", "a number from 0 to 1", zeta)
        if not callable(self.schedule):
            choose("drop-fraction schedule", self.schedule, SCHEDULES)
        every = "epoch" if every is None else every
        good = every == "epoch" or is_integer(every, 1)
        need(good, f"{where}every", '"epoch" or a positive number of steps', every)
        good = self.stop is None or is_integer(self.stop, 0)
        need(good, f"{where}stop", "an epoch (an integer of at least 0)", self.stop)
        good = isinstance(skip, Collection) and not isinstance(skip, str)
        good = good and all(isinstance(name, str) for name in skip)
        need(good, f"{where}skip", "a list of names", skip)
        need(self.final in ("keep", "drop"), f"{where}final", '"keep" or "drop"', self.final)
        start = self.grown_state
        named = start.values() if isinstance(start, Mapping) else ()
        good = isinstance(start, Mapping) or start in ("neutral", "zero")
        what = '"neutral", "zero" or the starts of entries ("zero", "mean", "value" or "lr")'
        need(good and {*named} <= {*GROWN_STARTS}, f"{where}grown_state", what, start)
        plain = {
            "drop_fraction": float(zeta),
            "every": every if isinstance(every, str) else int(every),
            "stop": None if self.stop is None else int(self.stop),
            "skip": tuple(skip),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def fraction(self, at: int, end: int) -> float:
        """Return the drop fraction at epoch or step `at` of a rewiring that ends at `end`."""
        schedule = self.schedule if callable(self.schedule) else SCHEDULES[self.schedule]
        return self.drop_fraction * schedule(at, end)

    def progress(self, at: int, end: int) -> float:
        """Return the share of rewirings done, in [0, 1]: 1 at the last one before `end`.

        Rules that change the density depend on it, so that they end at their final density.
        """
        every = 1 if isinstance(self.every, str) else self.every
        return min(1.0, at / max(1, (end - 1) // every * every))


def rewire_network(
    views: Mapping[str, LayerView],
    rule: UpdateRule,
    *,
    drop_fraction: float,
    progress: float,
    rng: np.random.Generator,
    fixed: Collection[str] = (),
) -> dict[str, tuple[EdgeUpdate, NDArray[Any]]]:
    """Apply a rule once to all layers of a network.

    Parameters
    ----------
    views : mapping of layer name to LayerView
        Input to output, each with the data that ``rule.needs`` names.
    rule : UpdateRule
    drop_fraction : float
        In [0, 1], the schedule already applied. Rules that determine the counts otherwise ignore
        it.
    progress : float
        Share of rewirings done, in [0, 1] and 1 at the last; used by rules that change the density.
    rng : numpy.random.Generator
    fixed : collection of str
        Layers that keep their graph. ``rule.prepare`` gets their views, too.

    Returns
    -------
    dict of layer name to (EdgeUpdate, values)
        Only layers in which an edge moved.

    Raises
    ------
    ValueError
        If a layer would lose its last edge, or a layer name in `fixed` is unknown, or as
        `topokit.rules.rewire` does.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> from topokit.rules import RULES
    >>> view = LayerView(LayerGraph.from_edge_ids(range(8), (4, 4)), np.linspace(-1, 1, 8))
    >>> changes = rewire_network({"fc1": view}, RULES["set"](), drop_fraction=0.25, progress=0.0,
    ...                          rng=np.random.default_rng(0))
    >>> update, values = changes["fc1"]
    >>> update.n_dropped, update.n_grown
    (2, 2)
    """
    unknown = sorted(set(fixed) - set(views))
    if unknown:
        raise ValueError(f"expected fixed layers among {list(views)}, got {unknown}")
    views = {
        name: dataclasses.replace(
            view, extra={**view.extra, "progress": progress, "fixed": name in fixed}
        )
        for name, view in views.items()
    }
    if rule.prepare is not None:
        extras = rule.prepare(views, drop_fraction)
        views = {
            name: dataclasses.replace(view, extra={**view.extra, **extras.get(name, {})})
            for name, view in views.items()
        }
    moving = {name: view for name, view in views.items() if name not in fixed}
    plan = rule.plan(moving, drop_fraction=drop_fraction, progress=progress)
    result = {}
    for name, view in moving.items():
        n_drop, n_grow = plan[name]
        if not n_drop and not n_grow:
            continue
        if view.graph.n_edges - n_drop + n_grow < 1:
            raise ValueError(f"expected at least one edge to stay in layer {name!r}, got none")
        result[name] = rewire(view, rule, n_drop=n_drop, n_grow=n_grow, rng=rng)
    return result
