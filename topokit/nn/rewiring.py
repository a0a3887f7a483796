"""The decisions of a rewiring, on the device where the values of the edges are.

Where values are on a graphics card, these rules decide there: `set`, `set_magnitude`, `random`,
`static`, `rigl`, `snfs`, `ctre_sim`, `ctre_seq`, `gmp`, `granet`, `mest`, `gradient_ratio`, and
those that users compose of the same functions. No array of edges, gradients or activations leaves
it. What they choose is what `topokit.rules` chooses, edge for edge: the same random numbers, and
the same order of ties. Scores that are sums may differ in their last digit (`topokit.nn.choices`
says where that shows). Everything else (`fits` says what) is decided on the CPU, from copies of the
values and of what was captured.

**How.** All layers are treated as one long row (`topokit.nn.kernels.graphs.Row`), so that most
operations are launched once for all layers; about ten are for each, and some 40 for each block of
scored cells. Positions are found by running sums and searches in sorted ids. Memory is O(edges),
and what a block of `BLOCK_CELLS` cells takes.

**Waits.** The CPU waits for the device once, to learn whether all scores were numbers, enough
random numbers were drawn and enough scores were positive, and the longest rows of the new graphs;
one wait more for rules that need a number before they can go on: of random numbers (`random`), the
mean momentum of layers (`snfs`), how many each layer loses to pruning (`gmp`, `granet`), how many
of the best edges were just dropped (`ctre_sim`). Where fewer edges than are grown have a positive
score, these are ranked again, with random numbers for the rest, and there is a wait more. Steps
that a rule looks at are not waited for.

**Recorded.** The decisions of `set` and `set_magnitude` are some two hundred operations of a few
microseconds each, which take Python ten times as long to launch. While layers keep their numbers
of edges, they are recorded as a CUDA graph, as training steps are, and replayed
(`topokit.nn.kernels.recording.Recorded`). The memory of a recording stays, an estimated 300 bytes
for each edge, so that networks of more than `MOST_RECORDED` edges, for which it would be much, are
not recorded.

**How it is tested** (``tests/unit/test_nn_rewiring.py`` and ``test_nn_recording.py``). All
operations are torch's and run on any device: the tests let the CPU have them by `decide_on`, and
compare with `topokit.rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
import torch

from topokit.graph import EdgeUpdate, LayerGraph
from topokit.graph.layergraph import BLOCK_CELLS, NAN_SCORES
from topokit.nn.choices import (
    BY_VALUES,
    Best,
    Draw,
    Drawing,
    Factors,
    Scores,
    among,
    at_edges,
    best,
    drops,
    gradients,
    past_edges,
    plans,
    similarities,
    subsets,
    words,
)
from topokit.nn.kernels.graphs import DeviceGraph, DeviceUpdate, Merged, Row, Sizes
from topokit.nn.kernels.recording import Recorded, graphs_of
from topokit.nn.layers import EdgeLayer
from topokit.nn.optimizer_state import carried, compacted
from topokit.nn.rule_data import RuleData
from topokit.rules import LayerView, UpdateRule, drop, grow, rewire_network
from topokit.rules.budget import without_growing
from topokit.rules.init import by_sizes
from topokit.rules.rewire import zeros
from topokit.rules.stream import stream_of

__all__ = ["decide", "decide_on", "fits"]

Changes = dict[str, tuple[EdgeUpdate, Any]]
Tensor = torch.Tensor

_DEVICES = {"cuda"}

MOST_CELLS, MOST_INPUTS = 1 << 62, 1 << 31  # of all layers; more are decided on the CPU
MOST_RECORDED = 1 << 19  # edges of all layers; the decisions for more are launched one by one
TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CAPTURED = ({"gradient"}, {"momentum"}, {"activations"})  # of which a rule may need one


def decide_on(device: str, there: bool = True) -> None:
    """Let layers on a type of device be rewired there, or by the CPU."""
    (_DEVICES.add if there else _DEVICES.discard)(device)


def fits(rule: UpdateRule, layers: Iterable[EdgeLayer]) -> bool:
    """Return whether a rule can decide on the device of some layers.

    Not those that keep something for each edge (`memory`, or ``sign``, ``sensitivity`` or
    ``explored`` among `needs`), prepare the whole network or take part in steps, that plan or
    choose by other functions than those known here, as plugins do, or whose grown edges start from
    values of others; nor for layers with groups, of complex numbers, or on several devices.
    """
    layers = list(layers)
    devices = {layer.values.device for layer in layers}
    captured = {*rule.needs} - {"stalled"}
    return (
        len(devices) == 1
        and next(iter(devices)).type in _DEVICES
        and drops(rule.drop) is not None
        and any(rule.grow is known for known in GROWS)
        and (rule.grow is not grow.cosine_or_random or "stalled" in rule.needs)
        and by_sizes(rule.init) is not None
        and plans(rule) is not None
        and (not captured or captured in CAPTURED)
        and not (rule.memory or rule.prepare or rule.step)
        and all(layer.groups == 1 and layer.values.dtype in TYPES for layer in layers)
        and sum(layer.n_out * layer.n_in for layer in layers) < MOST_CELLS
        and sum(layer.n_in for layer in layers) < MOST_INPUTS
    )


def decide(
    data: RuleData,
    rule: UpdateRule,
    *,
    drop_fraction: float,
    progress: float,
    rng: np.random.Generator,
    fixed: Collection[str],
    growing: bool = True,
    alone: bool = True,
) -> Changes:
    """Return the changes that a rule makes now.

    Parameters
    ----------
    data : RuleData
        Of the layers; what it has collected is used up.
    rule, drop_fraction, progress, rng, fixed
        As for `topokit.rules.rewire_network`.
    growing : bool
        Whether edges are grown, too.
    alone : bool
        Whether no other process gets the changes; they are plain arrays otherwise.
    """
    moving = {name: layer for name, layer in data.layers.items() if name not in fixed}
    share = {"drop_fraction": drop_fraction, "progress": progress}
    if alone and fits(rule, moving.values()):
        return _decided(data, moving, rule, rng, growing, share)
    if not growing:
        rule = rule._replace(plan=without_growing(rule.plan))
    return rewire_network(data.views(), rule, **share, rng=rng, fixed=fixed)


class _Part(NamedTuple):
    """What is to happen in a layer; `view` has its sizes and no memory."""

    view: LayerView
    layer: EdgeLayer
    factors: Factors | None
    n_drop: int = 0
    n_grow: int = 0

    @property
    def graph(self) -> LayerGraph:
        """The graph before."""
        return self.view.graph

    @property
    def values(self) -> Tensor:
        """The values of the edges."""
        return self.layer.values.detach()

    @property
    def ids(self) -> Tensor:
        """Their ids, on the device."""
        return _ids(self.graph, self.layer)

    @property
    def sizes(self) -> Sizes:
        """The numbers of it."""
        return Sizes(*self.graph.shape, self.graph.n_edges, self.n_drop, self.n_grow)

    @property
    def left(self) -> int:
        """Number of edges afterwards."""
        return self.sizes.left

    def captured(self, other: str) -> Factors:
        """Return inputs and `other`, or raise a ValueError as the view does."""
        self.view.captured("inputs", other)
        assert self.factors is not None
        return self.factors

    def gradient(self) -> Tensor:
        """Return ``abs(dL/dw)`` of the edges, in float64."""
        factors, n_in = self.captured("output_grad"), self.graph.n_in
        return at_edges(factors, self.ids // n_in, self.ids % n_in).abs_()


def _decided(
    data: RuleData,
    layers: Mapping[str, EdgeLayer],
    rule: UpdateRule,
    rng: np.random.Generator,
    growing: bool,
    share: dict[str, float],
) -> Changes:
    way = rule.grow
    if way is grow.cosine_or_random and data.stalled:
        way = grow.uniform
    factors = data.factors(activations=way is not grow.uniform)
    every = {name: _part(layer, factors.get(name)) for name, layer in layers.items()}
    parts = {}
    for name, (n_drop, n_grow) in plans(rule)(every, **share).items():
        n_grow = n_grow if growing else 0
        if not n_drop and not n_grow:
            continue
        parts[name] = every[name]._replace(n_drop=n_drop, n_grow=n_grow)
        if parts[name].left < 1:
            raise ValueError(f"expected at least one edge to stay in layer {name!r}, got none")
    if not parts:
        return {}
    moving = list(parts.values())
    law, regrown = by_sizes(rule.init) or (zeros, False)
    keys, starts = [], {}
    for name, part in parts.items():  # keys are drawn in the order in which the CPU draws them
        n_keys = int(rule.drop is drop.random and part.n_drop > 0)
        n_keys += GROWS[way](part.graph.n_absent, part.n_grow) if part.n_grow else 0
        keys.append([stream_of(rng).key for _ in range(n_keys)])
        if part.n_grow:
            starts[name] = _start(law, part, rng)
    if way is grow.uniform:
        found = _uniformly(data, rule.drop, moving, keys)
    else:
        found = _by_scores(data, way, rule.drop, moving, keys)
    changes: Changes = {}
    for (name, part), update in zip(parts.items(), found, strict=True):
        values = carried(update, part.values)
        if name in starts and (regrown or starts[name] is not None):
            _begin(values, part, update, starts[name], regrown)
        changes[name] = update, values
    return changes


def _part(layer: EdgeLayer, factors: Factors | None) -> _Part:
    """Return what is known of a layer; the arrays of its view take no memory."""
    kind = torch.float32 if layer.values.dtype == torch.bfloat16 else layer.values.dtype
    zero = np.zeros((), str(kind).removeprefix("torch."))
    captured: dict[str, Any] = {}
    if factors is not None:
        inputs, others = (sum(map(len, side)) for side in factors[1:])
        captured["inputs"] = np.broadcast_to(zero, (inputs, layer.n_in))
        captured[factors.name] = np.broadcast_to(zero, (others, layer.n_out))
    view = LayerView(layer.graph, np.broadcast_to(zero, layer.nnz), **captured)
    return _Part(view, layer, factors)


def _ids(graph: LayerGraph, layer: EdgeLayer) -> Tensor:
    """Return the edge ids of a layer on its device."""
    if isinstance(graph, DeviceGraph) and graph.ids.device == layer.values.device:
        return graph.ids
    rows = torch.arange(0, graph.n_out * graph.n_in, graph.n_in, device=layer.indptr.device)
    rows = torch.repeat_interleave(rows, layer.indptr.diff(), output_size=graph.n_edges)
    return rows + layer.indices


def _start(law: Any, part: _Part, rng: np.random.Generator) -> Tensor | None:
    """Return the values of grown edges, which depend on sizes alone; None for zeros."""
    if law is zeros:
        return None
    drawn = np.asarray(law(part.view, np.arange(part.n_grow), rng)).astype(part.view.values.dtype)
    return torch.from_numpy(drawn).to(part.values.device, part.values.dtype, non_blocking=True)


def _begin(
    values: Tensor, part: _Part, update: DeviceUpdate, start: Tensor | None, regrown: bool
) -> None:
    """Write the values of grown edges into those of all."""
    at = compacted(torch.arange(part.left, device=values.device), update.new, part.n_grow)
    start = values.new_zeros(part.n_grow) if start is None else start
    if regrown:
        ids = update.after.ids[at]
        place = torch.searchsorted(part.ids, ids).clamp(max=part.graph.n_edges - 1)
        start = torch.where(part.ids[place] == ids, part.values[place], start)
    values.index_copy_(0, at, start)


# ---------------------------------------------------------------------------------------------
# What is grown.

GROWS: dict[Any, Callable[[int, int], int]] = {
    grow.uniform: lambda n_absent, n: 1,
    grow.gradient: lambda n_absent, n: 1,
    grow.cosine_or_random: lambda n_absent, n: 1,
    grow.new_by_cosine: lambda n_absent, n: 2 + (n_absent < n),
}
"""Functions of `topokit.rules.grow` that are known here, and how many keys each draws, given the
number of absent edges, those just dropped not counted, and that of the edges to grow."""


def _check_numbers(counts: Sequence[int], parts: Sequence[_Part]) -> None:
    """Raise a ValueError if not all scores by which a layer loses edges are numbers."""
    for found, part in zip(counts, parts, strict=True):
        if part.n_drop and found != part.graph.n_edges:
            raise ValueError(drop.NAN)


def _uniformly(
    data: RuleData, how: Any, parts: Sequence[_Part], keys: Sequence[Sequence[int]]
) -> list[DeviceUpdate]:
    """Grow edges drawn from all absent ones; draw those that leave, too, where these are drawn."""
    draws = []
    for part, own in zip(parts, keys, strict=True):
        key = iter(own)
        if how is drop.random and part.n_drop:
            draws.append(Draw(next(key), part.graph.n_edges, part.n_drop))
        if part.n_grow:
            draws.append(Draw(next(key), part.sizes.n_absent, part.n_grow))
    n_edges = sum(part.graph.n_edges for part in parts)
    can_be_recorded = how in BY_VALUES and draws and n_edges <= MOST_RECORDED
    for more in count():
        if can_be_recorded:
            row, merged = _recorded(data, how, parts, draws, more)
        else:
            row = _row(data, parts)
            drawn = subsets(draws, row.layer.device, more=more, wait=how is drop.random)
            merged = _moved(row, how, parts, *drawn)
        told = merged.facts.tolist()
        short, *numbers = told[: -row.n_facts]
        if numbers:
            _check_numbers(numbers, parts)
        if not short:
            return row.updates(merged, told[-row.n_facts :], [part.graph for part in parts])
    raise AssertionError


def _row(data: RuleData, parts: Sequence[_Part]) -> Row:
    """Return the row of some layers, that of the last rewiring where it had the same sizes."""
    sizes, device = tuple(part.sizes for part in parts), parts[0].values.device
    row = data.row
    if row is None or (row.sizes, row.layer.device) != (sizes, device):
        row = Row(sizes, device)
    data.row = row if row.edges[-1] <= MOST_RECORDED else None
    return row


class _Arrays(NamedTuple):
    """What `_moved` reads of a layer: a `_Part`, or the memory of a recording."""

    values: Tensor
    ids: Tensor
    n_drop: int
    n_grow: int


def _moved(
    row: Row, how: Any, parts: Sequence[Any], chosen: Sequence[Tensor], missing: Tensor
) -> Merged:
    """Return what comes of drawn numbers, given whether some are missing; waits for nothing."""
    dropping, rest = drops(how)(row, parts), iter(chosen)
    ranks, positions = [], []
    for part in parts:
        none = part.ids[:0]
        positions.append(next(rest) if dropping.keep is None and part.n_drop else none)
        ranks.append(next(rest) if part.n_grow else none)
    keep = row.all_but(positions) if dropping.keep is None else dropping.keep
    ids = row.joined([part.ids for part in parts])
    merged = row.merged(ids, keep, row.absent(ids, keep, ranks))
    facts = [missing.reshape(1).long(), *dropping.facts, merged.facts]
    return merged._replace(facts=torch.cat(facts))


class _Decision:
    """`_moved` for given sizes, as a function of tensors: values and ids of layers, and keys."""

    def __init__(self, how: Any, row: Row, draws: Sequence[tuple[int, int]], more: int) -> None:
        self.how, self.row = how, row
        self.drawing = Drawing(draws, row.layer.device, more)

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        *arrays, keys = tensors
        sizes = self.row.sizes
        values, ids = arrays[: len(sizes)], arrays[len(sizes) :]
        parts = [
            _Arrays(own, at, size.n_drop, size.n_grow)
            for own, at, size in zip(values, ids, sizes, strict=True)
        ]
        return [*_moved(self.row, self.how, parts, *self.drawing(keys))]


def _recorded(
    data: RuleData, how: Any, parts: Sequence[_Part], draws: Sequence[Draw], more: int
) -> tuple[Row, Merged]:
    """Return the row and what `_moved` does, by a recording where there is one."""
    device, row = parts[0].values.device, _row(data, parts)
    drawn = tuple((draw.n, draw.k) for draw in draws)
    if device not in data.recorded:
        data.recorded[device] = Recorded(graphs_of(device))
    key = how, row.sizes, drawn, more, tuple(part.values.dtype for part in parts)
    inputs = [*(part.values for part in parts), *(part.ids for part in parts)]
    inputs.append(words([draw.key for draw in draws], device))
    result = data.recorded[device](key, lambda: _Decision(how, row, drawn, more), inputs)
    return row, Merged(*result)


def _by_scores(
    data: RuleData, way: Any, how: Any, parts: Sequence[_Part], keys: Sequence[Sequence[int]]
) -> list[DeviceUpdate]:
    """Grow the edges of largest score; with `new_by_cosine`, others for those just dropped."""
    row, growing = _row(data, parts), [i for i, part in enumerate(parts) if part.n_grow]
    replacing = way is grow.new_by_cosine
    dropping = drops(how)(row, parts)
    keep = dropping.keep
    if keep is None:
        keep, keys = _drawn_to_stay(row, parts, keys)
    of_layer = keep.split([part.graph.n_edges for part in parts])
    scores = {i: _growth_scores(way, parts[i]) for i in growing}
    found: dict[int, Best] = {}
    ranked = growing  # and again, with random numbers, where too few scores are positive
    for with_random in (False, True):
        for i in ranked:
            part, key = parts[i], keys[i][0] if with_random else None
            shape = part.graph.shape
            found[i] = best(part.ids, of_layer[i], shape, part.n_grow, scores[i], key=key)
        known = {i: among(parts[i].ids, found[i].ids) for i in growing} if replacing else {}
        ids = [found[i].ids if i in found else part.ids[:0] for i, part in enumerate(parts)]
        merged = None if replacing else _merged(row, parts, keep, ids)
        numbers, nan, positive, n_known, facts = _fetched(
            dropping.facts,
            [found[i].nan for i in growing],
            [found[i].positive for i in growing],
            [each.sum() for each in known.values()],
            [] if merged is None else [merged.facts],
        )
        _check_scores(parts, numbers, dict(zip(growing, nan, strict=True)))
        ranked = [i for i, n in zip(growing, positive, strict=True) if n < parts[i].n_grow]
        if not ranked:
            break
    if merged is not None:
        return row.updates(merged, facts, [part.graph for part in parts])
    chosen = {
        i: compacted(found[i].ids, ~known[i], parts[i].n_grow - n)
        for i, n in zip(growing, n_known, strict=True)
    }
    return _replaced(row, parts, keep, chosen, keys)


def _drawn_to_stay(
    row: Row, parts: Sequence[_Part], keys: Sequence[Sequence[int]]
) -> tuple[Tensor, list[Sequence[int]]]:
    """Return which edges stay where those that leave are drawn, and the keys that are left."""
    pairs = list(zip(parts, keys, strict=True))
    draws = [
        Draw(own[0] if part.n_drop else 0, part.graph.n_edges, part.n_drop) for part, own in pairs
    ]
    left = [own[1:] if part.n_drop else own for part, own in pairs]
    return row.all_but(subsets(draws, row.layer.device, wait=True)[0]), left


def _growth_scores(way: Any, part: _Part) -> Scores:
    """Return the scores of a layer's possible edges."""
    if way is grow.gradient:
        return gradients(part.captured("output_grad"))
    return similarities(part.captured("outputs"))


def _fetched(*groups: Sequence[Tensor]) -> list[list[int]]:
    """Return the numbers in groups of tensors, group by group; waits for the device, once."""
    every = [each.reshape(-1) for group in groups for each in group]
    told = iter(torch.cat(every).tolist() if every else [])
    return [list(islice(told, sum(each.numel() for each in group))) for group in groups]


def _check_scores(parts: Sequence[_Part], numbers: Sequence[int], nan: Mapping[int, int]) -> None:
    """Raise a ValueError for the first layer that has a score which is no number.

    `numbers` are those of the scores of present edges, if any, and `nan` is the first row with a
    nan among those of absent ones, or -1.
    """
    for i, part in enumerate(parts):
        if numbers:
            _check_numbers(numbers[i : i + 1], [part])
        if (start := nan.get(i, -1)) >= 0:
            step = max(1, BLOCK_CELLS // max(1, part.graph.n_in))
            stop = min(start + step, part.graph.n_out)
            raise ValueError(NAN_SCORES.format(start, stop - 1))


def _merged(row: Row, parts: Sequence[_Part], keep: Tensor, grown: Sequence[Tensor]) -> Merged:
    """Merge the edges that stay with grown ones of each layer."""
    return row.merged(row.joined([part.ids for part in parts]), keep, row.cells_of(grown))


def _replaced(
    row: Row,
    parts: Sequence[_Part],
    keep: Tensor,
    chosen: Mapping[int, Tensor],
    keys: Sequence[Sequence[int]],
) -> list[DeviceUpdate]:
    """Grow `chosen`, and drawn edges up to the number of each layer.

    Those just dropped are drawn only if no others are left, as in `topokit.rules.grow`.
    """
    draws = []
    for i, own in chosen.items():
        absent, n = parts[i].graph.n_absent, parts[i].n_grow
        draws.append(Draw(keys[i][1], absent - len(own), min(n, absent) - len(own)))
        if absent < n:
            draws.append(Draw(keys[i][2], parts[i].n_drop, n - absent))
    of_layer = keep.split([part.graph.n_edges for part in parts])
    for more in count():
        drawn, missing = subsets(draws, keep.device, more=more)
        each = iter(drawn)
        grown = [part.ids[:0] for part in parts]
        for i, own in chosen.items():
            part = parts[i]
            taken = torch.sort(torch.cat([part.ids, own])).values
            some = [own, past_edges(taken, next(each))]
            if part.graph.n_absent < part.n_grow:
                some.append(compacted(part.ids, ~of_layer[i], part.n_drop)[next(each)])
            grown[i] = torch.sort(torch.cat(some)).values
        merged = _merged(row, parts, keep, grown)
        short, *facts = torch.cat([missing.reshape(1).long(), merged.facts]).tolist()
        if not short:
            return row.updates(merged, facts, [part.graph for part in parts])
    raise AssertionError
