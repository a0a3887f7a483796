"""The decisions of a rewiring, on the device where the values of the edges are.

Where values are on a graphics card, rules that drop by a function of `DROPS` and grow at random
decide there, so that no array of edges leaves it. What they choose is what `topokit.rules` chooses,
edge for edge: the same random numbers, and the same order of ties. Everything else (`fits` says
what) is decided on the CPU, from copies of the values.

**How.** All layers are treated as one long row of cells, each layer's after those of the one
before, so that most operations are launched once for all layers; some 30 are for each. All sizes
are known beforehand, but for the numbers of values of each sign, and for whether enough numbers
were drawn: the CPU waits for the device twice. Positions are found by running sums and searches in
sorted ids. Memory is O(edges).

**How it is tested** (``tests/unit/test_nn_rewiring.py``). All operations are torch's and run on any
device: the tests let the CPU have them by `decide_on`, and compare with `topokit.rules`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from topokit.graph import EdgeUpdate, LayerGraph
from topokit.nn.kernels.graphs import DeviceGraph, DeviceUpdate
from topokit.nn.layers import EdgeLayer
from topokit.nn.optimizer_state import carried, compacted
from topokit.nn.rule_data import RuleData
from topokit.rules import LayerView, UpdateRule, drop, grow, rewire_network
from topokit.rules.budget import without_growing
from topokit.rules.init import by_sizes
from topokit.rules.published import no_change
from topokit.rules.rewire import per_layer, zeros
from topokit.rules.stream import stream_of

__all__ = ["Draw", "decide", "decide_on", "fits", "numbers", "subsets"]

Changes = dict[str, tuple[EdgeUpdate, Any]]
Tensor = torch.Tensor

_DEVICES = {"cuda"}

LOW = 0xFFFFFFFF
MOST_CELLS = 1 << 62  # of all layers; more are decided on the CPU
TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
PLANS = (per_layer, no_change)


def decide_on(device: str, there: bool = True) -> None:
    """Let layers on a type of device be rewired there, or by the CPU."""
    (_DEVICES.add if there else _DEVICES.discard)(device)


def fits(rule: UpdateRule, layers: Iterable[EdgeLayer]) -> bool:
    """Return whether a rule can decide on the device of some layers.

    Not those that look at more than values (`needs`, `memory`, `prepare`), that plan or choose by
    other functions than those known here, as plugins do, or whose grown edges start from values of
    others; nor for layers with groups, of complex numbers, or on several devices.
    """
    layers = list(layers)
    devices = {layer.values.device for layer in layers}
    return (
        len(devices) == 1
        and next(iter(devices)).type in _DEVICES
        and rule.drop in DROPS
        and rule.grow is grow.uniform
        and by_sizes(rule.init) is not None
        and rule.plan in PLANS
        and not (rule.needs or rule.memory or rule.prepare or rule.step)
        and all(layer.groups == 1 and layer.values.dtype in TYPES for layer in layers)
        and sum(layer.n_out * layer.n_in for layer in layers) < MOST_CELLS
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
        data.forget_batches()
        return _decided(moving, rule, rng, growing, share)
    if not growing:
        rule = rule._replace(plan=without_growing(rule.plan))
    return rewire_network(data.views(), rule, **share, rng=rng, fixed=fixed)


class _Part(NamedTuple):
    """What is to happen in a layer."""

    graph: LayerGraph
    values: Tensor
    ids: Tensor
    n_drop: int
    n_grow: int

    @property
    def left(self) -> int:
        """Number of edges afterwards."""
        return self.graph.n_edges - self.n_drop + self.n_grow


def _decided(
    layers: Mapping[str, EdgeLayer],
    rule: UpdateRule,
    rng: np.random.Generator,
    growing: bool,
    share: dict[str, float],
) -> Changes:
    views = {name: _view(layer) for name, layer in layers.items()}
    parts = {}
    for name, (n_drop, n_grow) in rule.plan(views, **share).items():
        n_grow = n_grow if growing else 0
        if not n_drop and not n_grow:
            continue
        graph, values = views[name].graph, layers[name].values.detach()
        parts[name] = _Part(graph, values, _ids(graph, layers[name]), n_drop, n_grow)
        if parts[name].left < 1:
            raise ValueError(f"expected at least one edge to stay in layer {name!r}, got none")
    if not parts:
        return {}
    positions = DROPS[rule.drop](list(parts.values()))
    law, regrown = by_sizes(rule.init) or (zeros, False)
    draws, starts = [], {}
    for name, part in parts.items():  # keys are drawn in the order in which the CPU draws them
        if rule.drop is drop.random and part.n_drop:
            draws.append(Draw(stream_of(rng).key, part.graph.n_edges, part.n_drop))
        if part.n_grow:
            absent = part.graph.n_absent + part.n_drop
            draws.append(Draw(stream_of(rng).key, absent, part.n_grow))
            starts[name] = _start(law, views[name], part, rng)
    more, found = 0, None
    while found is None:
        chosen, missing = subsets(draws, part.values.device, more=more, wait=positions is None)
        found = _merged(list(parts.values()), positions, chosen, missing)
        more += 1
    changes: Changes = {}
    for (name, part), update in zip(parts.items(), found, strict=True):
        values = carried(update, part.values)
        if name in starts and (regrown or starts[name] is not None):
            _begin(values, part, update, starts[name], regrown)
        changes[name] = update, values
    return changes


def _view(layer: EdgeLayer) -> LayerView:
    """Return a view that tells sizes and the number type: its values take no memory."""
    kind = torch.float32 if layer.values.dtype == torch.bfloat16 else layer.values.dtype
    zero = torch.zeros((), dtype=kind).numpy()
    return LayerView(layer.graph, np.broadcast_to(zero, layer.nnz))


def _ids(graph: LayerGraph, layer: EdgeLayer) -> Tensor:
    """Return the edge ids of a layer on its device."""
    if isinstance(graph, DeviceGraph) and graph.ids.device == layer.values.device:
        return graph.ids
    rows = torch.arange(0, graph.n_out * graph.n_in, graph.n_in, device=layer.indptr.device)
    rows = torch.repeat_interleave(rows, layer.indptr.diff(), output_size=graph.n_edges)
    return rows + layer.indices


def _start(law: Any, view: LayerView, part: _Part, rng: np.random.Generator) -> Tensor | None:
    """Return the values of grown edges, which depend on sizes alone; None for zeros."""
    if law is zeros:
        return None
    drawn = np.asarray(law(view, np.arange(part.n_grow), rng)).astype(view.values.dtype)
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
# What is dropped.

Positions = list[Tensor] | None


def _checked(counts: Tensor, parts: Sequence[_Part]) -> list[list[int]]:
    """Return counts of layers, the last of which is that of numbers; wait for the device."""
    found = counts.tolist()
    for row, part in zip(found, parts, strict=True):
        if row[-1] != part.graph.n_edges:
            raise ValueError(drop.NAN)
    return found


def _smallest(parts: Sequence[_Part]) -> Positions:
    """As `topokit.rules.drop.smallest_magnitude`."""
    _checked(torch.stack([(p.values == p.values).sum() for p in parts])[:, None], parts)
    return [torch.sort(p.values.abs(), stable=True).indices[: p.n_drop] for p in parts]


def _closest_to_zero(parts: Sequence[_Part]) -> Positions:
    """As `topokit.rules.drop.signed_magnitude`."""
    counts = [
        torch.stack([(v < 0).sum(), (v > 0).sum(), (v == v).sum()])
        for v in (p.values for p in parts)
    ]
    result = []
    for part, (below, above, _) in zip(parts, _checked(torch.stack(counts), parts), strict=True):
        n, n_zero = part.n_drop, part.graph.n_edges - below - above
        values = part.values + 0.0  # one zero, not two
        rising = torch.sort(values, stable=True).indices
        if n <= n_zero:
            result.append(rising[below : below + n])
            continue
        n_below, n_above = drop.of_each_sign(n - n_zero, below, above)
        result.append(rising[below : below + n_zero + n_above])
        if n_below:  # in falling order, as the first of equal ones leave first
            falling = torch.sort(values, stable=True, descending=True).indices
            taken = falling[above + n_zero : above + n_zero + n_below]
            result[-1] = torch.cat([result[-1], taken])
    return result


def _random(parts: Sequence[_Part]) -> Positions:
    """As `topokit.rules.drop.random`: the positions are drawn, no values are looked at."""
    return None


def _none(parts: Sequence[_Part]) -> Positions:
    """As `topokit.rules.drop.nothing`, with its error."""
    for part in parts:
        drop.nothing(None, part.n_drop, None)  # type: ignore[arg-type]  # it looks at neither
    return None


DROPS: dict[Any, Callable[[Sequence[_Part]], Positions]] = {
    drop.smallest_magnitude: _smallest,
    drop.signed_magnitude: _closest_to_zero,
    drop.random: _random,
    drop.nothing: _none,
}
"""Functions of `topokit.rules.drop` that are known here, and what does the same on a device."""


# ---------------------------------------------------------------------------------------------
# The new graphs.


def _merged(
    parts: Sequence[_Part], positions: Positions, chosen: list[Tensor], missing: Tensor
) -> list[DeviceUpdate] | None:
    """Return the changes of layers; None if too few numbers were drawn. Waits for the device.

    `chosen` has in turn the positions to drop, where these are drawn, and the ranks of the edges
    to grow among the absent ones.
    """
    rest = iter(chosen)
    device = missing.device
    cells = _before(p.graph.n_possible for p in parts)
    edges = _before(p.graph.n_edges for p in parts)
    lefts = _before(p.left for p in parts)
    absent = _before(p.graph.n_absent + p.n_drop for p in parts)
    dropped, ranks = [], []
    for i, part in enumerate(parts):
        if part.n_drop:
            dropped.append((next(rest) if positions is None else positions[i]) + edges[i])
        if part.n_grow:
            ranks.append(next(rest) + absent[i])
    ids = torch.cat([part.ids + cells[i] for i, part in enumerate(parts)])
    keep = torch.ones(edges[-1], dtype=torch.bool, device=device)
    if dropped:
        keep.index_fill_(0, torch.cat(dropped), False)
    kept = torch.cat([missing.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
    # The r-th absent cell has the id r + (kept edges with smaller ids). `gaps` are the absent cells
    # before each edge; a dropped edge, itself an absent cell, is counted from the next one on.
    grown = ids.new_empty(0)
    if ranks:
        rank = torch.cat(ranks)
        gaps = ids - kept[:-1]
        grown = rank + kept[torch.searchsorted(gaps, rank, right=True)]
    end = lefts[-1]  # a place that is cut off, for edges that are dropped
    place = torch.where(keep, kept[:-1] + torch.searchsorted(grown, ids), end)
    fresh = kept[torch.searchsorted(ids, grown)] + torch.arange(len(grown), device=device)
    after = ids.new_zeros(end + 1).scatter_(0, place, ids).scatter_(0, fresh, grown)[:end]
    source = ids.new_full((end + 1,), -1)
    source = source.scatter_(0, place, torch.arange(edges[-1], device=device))[:end]
    new = source < 0
    wrong = ~(after[1:] > after[:-1]).all()
    ones = torch.ones_like(after)
    facts, made = [missing, wrong], []
    for i, part in enumerate(parts):
        n_out, n_in = part.graph.shape
        own = slice(lefts[i], lefts[i + 1])
        of_layer = after[own] - cells[i]
        starts = torch.arange(0, (n_out + 1) * n_in, n_in, device=device)
        pointers = torch.searchsorted(of_layer, starts)
        units = (of_layer % n_in).int()
        fan_out = ids.new_zeros(n_in).index_add_(0, units, ones[: part.left])
        facts += [pointers.diff().max(), fan_out.max()]
        moves = (source[own] - edges[i]).clamp_(min=0), new[own]
        made.append((of_layer, units, pointers, moves))
    short, broken, *longest = torch.stack([fact.long() for fact in facts]).tolist()
    if short:
        return None
    if broken:
        raise RuntimeError("expected a graph without an edge twice after a rewiring, got one")
    updates = []
    for i, (part, (of_layer, units, pointers, moves)) in enumerate(zip(parts, made, strict=True)):
        most = longest[2 * i], longest[2 * i + 1]
        graph = DeviceGraph(part.graph.shape, of_layer, units, pointers, most)
        updates.append(DeviceUpdate(part.graph, graph, *moves, part.n_grow))
    return updates


def _before(sizes: Iterable[int]) -> list[int]:
    """Return the sums of the sizes before each, and of all."""
    return [0, *itertools.accumulate(sizes)]


# ---------------------------------------------------------------------------------------------
# Random numbers: `topokit.graph.philox` and `topokit.rules.stream` in torch's operations.


class Draw(NamedTuple):
    """`k` distinct integers below `n`, as `topokit.rules.stream.Stream.subset` draws them."""

    key: int
    n: int
    k: int


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the factors of a round, those of the second pair first, and what is added to keys."""
    both = torch.tensor([[[0xCD9E8D57], [0xD2511F53]], [[0x9E3779B9], [0xBB67AE85]]])
    factors, added = both.to(device)
    return factors, added


def numbers(keys: Tensor, counters: Tensor) -> Tensor:
    """Return the numbers of `topokit.graph.philox.pair`, as the int64 of the same 64 bits.

    Parameters
    ----------
    keys : (2, n) int64 tensor
        Low and high words.
    counters : (n,) int64 tensor
        Below 2**32.

    Returns
    -------
    (n, 2) int64 tensor

    Notes
    -----
    Words of 32 bits are in int64; products of two wrap around to the same bits as unsigned ones.
    The upper half of the words that came second is cut off where it is next used.

    Examples
    --------
    >>> numbers(torch.tensor([[7], [0]]), torch.tensor([1]))[0] & 0xFFFF
    tensor([36507, 65387])
    """
    factors, added = _constants(counters.device)
    first = torch.stack([counters, torch.zeros_like(counters)])
    second, keys = torch.zeros_like(first), keys.clone()
    for _ in range(10):
        products = first.flip(0).mul_(factors)
        first = (products >> 32).bitwise_xor_(second).bitwise_xor_(keys).bitwise_and_(LOW)
        second = products
        keys += added
    return (first | (second << 32)).t()


def subsets(
    draws: Sequence[Draw], device: torch.device, *, more: int = 0, wait: bool = False
) -> tuple[list[Tensor], Tensor]:
    """Return sets of distinct integers, increasing, as `Stream.subset` does, in one go.

    Parameters
    ----------
    draws : sequence of Draw
    device : torch.device
    more : int
        With 0 almost always enough numbers are drawn; with each further one twice as many.
    wait : bool
        Wait for the device, and draw more until they are enough. Always so where k is more than
        half of n.

    Returns
    -------
    list of (k,) int64 tensor
    missing : bool tensor
        Whether too few numbers were drawn, and the sets are of no use.
    """
    few = [draw if 2 * draw.k <= draw.n else draw._replace(k=draw.n - draw.k) for draw in draws]
    some = [draw for draw in few if draw.k]
    found: list[Tensor] = []
    missing = torch.zeros((), dtype=torch.bool, device=device)
    while some:
        found, missing = _first_distinct(some, device, more)
        if not ((wait or few != list(draws)) and missing):
            break
        more += 1
    sets, rest = [], iter(found)
    for draw, less in zip(draws, few, strict=True):
        chosen = next(rest) if less.k else torch.empty(0, dtype=torch.int64, device=device)
        if less is not draw:  # all but these
            mask = torch.ones(draw.n, dtype=torch.bool, device=device).index_fill_(0, chosen, False)
            chosen = compacted(torch.arange(draw.n, device=device), mask, draw.k)
        sets.append(chosen)
    return sets, missing


def _first_distinct(
    draws: Sequence[Draw], device: torch.device, more: int
) -> tuple[list[Tensor], Tensor]:
    """Return the first k distinct numbers of each key, increasing."""
    halves = [-(-enough(draw.n, draw.k) // 2) << more for draw in draws]
    starts, offsets = _before(halves), _before(draw.n for draw in draws)
    table = torch.tensor([
        halves,
        starts[:-1],
        [draw.key & LOW for draw in draws],
        [draw.key >> 32 for draw in draws],
        [draw.n for draw in draws],
        [2**64 % draw.n for draw in draws],
        offsets[:-1],
        [2 * start for start in starts[1:]],
        [draw.k for draw in draws],
    ]).to(device, non_blocking=True)  # fmt: skip
    owner = torch.arange(len(draws), device=device)
    owner = torch.repeat_interleave(owner, table[0], output_size=starts[-1])
    of_pair = table[:7].index_select(1, owner)
    counters = torch.arange(starts[-1], device=device) - of_pair[1]
    drawn = numbers(of_pair[2:4], counters)
    n, unequal, offset = of_pair[4:, :, None]
    below = _scaled(drawn, n, wide=max(draw.n for draw in draws) > LOW) + offset
    low = drawn * n  # the product modulo 2**64
    # Numbers that give none sort behind all others.
    below = torch.where((low < 0) | (low >= unequal), below, offsets[-1]).reshape(-1)
    ordered, order = torch.sort(below, stable=True)
    new = ordered < offsets[-1]
    new[1:] &= ordered[1:] != ordered[:-1]
    counts = torch.empty_like(new).scatter_(0, order, new).cumsum(0)
    so_far = torch.cat([counts.new_zeros(1), counts[table[7] - 1]])
    most = table[8] + so_far[:-1]
    missing = (so_far[1:] < most).any()
    taken = new & (counts <= most.index_select(0, owner).repeat_interleave(2))[order]
    sizes = [draw.k for draw in draws]
    chosen = compacted(ordered, taken, sum(sizes)).split(sizes)
    return [own - start for own, start in zip(chosen, offsets, strict=False)], missing


def _scaled(x: Tensor, n: Tensor, *, wide: bool) -> Tensor:
    """Return ``x * n // 2**64`` of unsigned numbers x; n is below 2**32 unless `wide`."""
    x0, x1 = x & LOW, (x >> 32) & LOW
    n0 = n & LOW if wide else n
    middle = x1 * n0 + _upper(x0 * n0)
    if not wide:
        return _upper(middle)
    n1 = n >> 32
    return x1 * n1 + _upper(middle) + _upper(x0 * n1 + (middle & LOW))


def _upper(x: Tensor) -> Tensor:
    return (x >> 32) & LOW


def enough(n: int, k: int) -> int:
    """Return how many draws of integers below n almost surely have k distinct ones; 2 k <= n.

    The mean number of draws, and eight standard deviations. Few of the draws give no integer.
    """
    none = 2**64 % n / 2**64
    mean, variance = n * -math.log1p(-k / n), 2 * k * k / n + 2 * k * none
    return math.ceil((mean + 8 * math.sqrt(variance)) / (1 - none)) + 16
