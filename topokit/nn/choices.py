"""What a device draws and ranks: numbers of edges, random subsets, edges that leave and enter.

All are what `topokit.rules` draws and ranks on the CPU, by operations of torch that run on any
device and, but for some numbers of edges, never wait for it: `topokit.nn.rewiring` puts them
together.

**Scores** are sums over samples, of gradients or of products of activations. They are taken in
float64 and rounded to the number type of what was captured, block by block: of `BLOCK_CELLS` cells,
as on the CPU, and of as many numbers of samples. The CPU adds in the number type itself, and each
device in an order of its own, so a score can differ in its last digit, in float32 by a few of them.
The choice differs only where the last edge that is grown and the first that is not are that close
(of `snfs` also where a layer's share of the edges is that close to another whole number); equal
scores (of units with equal activations, or 0) are equal on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial, reduce
from typing import Any, NamedTuple

import torch

from topokit.graph.layergraph import BLOCK_CELLS
from topokit.nn.kernels.graphs import Row, sums_before
from topokit.nn.optimizer_state import compacted
from topokit.rules import LayerView, UpdateRule, drop
from topokit.rules.budget import PruneTo, ShareByImportance, share_by_means
from topokit.rules.published import ByGradient, gradient_magnitude, no_change
from topokit.rules.rewire import per_layer

__all__ = [
    "BY_VALUES",
    "Best",
    "Draw",
    "Drawing",
    "Dropping",
    "Factors",
    "Scores",
    "among",
    "at_edges",
    "best",
    "drops",
    "gradients",
    "numbers",
    "past_edges",
    "plans",
    "similarities",
    "subsets",
    "uniforms",
    "words",
]

Tensor = torch.Tensor
Scores = Callable[[slice], Tensor]
"""``scores(rows) -> (len(rows), n_in)`` float64, at least 0, in memory of its own."""

LOW = 0xFFFFFFFF


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
        Below 2**62.

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
    none = torch.zeros_like(counters)
    first, second = (torch.stack([word, none]) for word in (counters & LOW, counters >> 32))
    keys = keys.clone()
    for _ in range(10):
        products = first.flip(0).mul_(factors)
        first = (products >> 32).bitwise_xor_(second).bitwise_xor_(keys).bitwise_and_(LOW)
        second = products
        keys += added
    return (first | (second << 32)).t()


def words(keys: Sequence[int], device: torch.device) -> Tensor:
    """Return the low and the high words of keys, (2, len(keys)) int64."""
    both = torch.tensor([[key & LOW for key in keys], [key >> 32 for key in keys]])
    return both.to(device, non_blocking=True)


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
        Wait for the device, and draw more until they are enough.

    Returns
    -------
    list of (k,) int64 tensor
    missing : bool tensor
        Whether too few numbers were drawn, and the sets are of no use.
    """
    if not draws:
        return [], torch.zeros((), dtype=torch.bool, device=device)
    keys = words([draw.key for draw in draws], device)
    while True:
        drawing = Drawing([(draw.n, draw.k) for draw in draws], device, more)
        found, missing = drawing(keys)
        if not (wait and missing):
            return found, missing
        more += 1


class Drawing:
    """Sets of k distinct integers below n, one for each key, prepared for given sizes.

    They are the first k distinct numbers of a key, or all but the first n - k.

    Parameters
    ----------
    sizes : sequence of tuple of int
        n and k, with 0 <= k <= n.
    device : torch.device
    more : int
        As for `subsets`.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], device: torch.device, more: int) -> None:
        self._wanted = list(sizes)
        less = [(max(n, 1), min(k, n - k)) for n, k in sizes]
        halves = [-(-enough(n, k) // 2) << more for n, k in less]
        starts = sums_before(halves)
        self._offsets = sums_before(n for n, _ in less)
        self._sizes = [k for _, k in less]
        self._wide = max(n for n, _ in less) > LOW
        table = torch.tensor([
            halves,
            starts[:-1],
            [n for n, _ in less],
            [2**64 % n for n, _ in less],
            self._offsets[:-1],
            [2 * start for start in starts[1:]],
            self._sizes,
        ]).to(device, non_blocking=True)  # fmt: skip
        numbers = torch.arange(len(sizes), device=device)
        self._owner = torch.repeat_interleave(numbers, table[0], output_size=starts[-1])
        first, *rest = table[1:5].index_select(1, self._owner)
        self._counters = torch.arange(starts[-1], device=device) - first
        self._n, self._unequal, self._offset = (each[:, None] for each in rest)
        self._last, self._k = table[5] - 1, table[6]

    def __call__(self, keys: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the sets, increasing, for keys as `words` has them; and `missing`."""
        end = self._offsets[-1]
        drawn = numbers(keys.index_select(1, self._owner), self._counters)
        below = _scaled(drawn, self._n, wide=self._wide) + self._offset
        low = drawn * self._n  # the product modulo 2**64
        # Numbers that give none sort behind all others.
        below = torch.where((low < 0) | (low >= self._unequal), below, end).reshape(-1)
        ordered, order = torch.sort(below, stable=True)
        new = ordered < end
        new[1:] &= ordered[1:] != ordered[:-1]
        counts = torch.empty_like(new).scatter_(0, order, new).cumsum(0)
        so_far = torch.cat([counts.new_zeros(1), counts[self._last]])
        most = self._k + so_far[:-1]
        missing = (so_far[1:] < most).any()
        most = most[self._owner, None].expand(-1, 2).reshape(-1)  # each owner has two numbers
        taken = new & (counts <= most)[order]
        chosen = compacted(ordered, taken, sum(self._sizes)).split(self._sizes)
        sets = []
        for own, start, (n, k) in zip(chosen, self._offsets, self._wanted, strict=False):
            less = (own - start).clamp_(0, max(n - 1, 0))  # places, even where some are missing
            if 2 * k > n:  # all but these
                mask = torch.ones(n, dtype=torch.bool, device=keys.device)
                mask.index_fill_(0, less, False)
                less = compacted(torch.arange(n, device=keys.device), mask, k)
            sets.append(less)
        return sets, missing


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


def uniforms(key: int, first: int, count: int, device: torch.device) -> Tensor:
    """Return numbers from `first` on as `topokit.rules.stream.Stream.uniforms` does, in float64.

    Examples
    --------
    >>> from topokit.rules.stream import Stream
    >>> found = uniforms(7, 3, 2, torch.device("cpu"))
    >>> found.tolist() == Stream(7).uniforms(range(3, 5)).tolist()
    True
    """
    halves = torch.arange(first >> 1, (first + count + 1) >> 1, device=device)
    drawn = numbers(words([key], device), halves).reshape(-1)[first & 1 :][:count]
    return ((drawn >> 11) & (2**53 - 1) | 1).double() / 2**53


def among(ids: Tensor, others: Tensor) -> Tensor:
    """Return which of `others` are among sorted ids, of which there is at least one.

    Examples
    --------
    >>> among(torch.tensor([2, 5, 7]), torch.tensor([5, 6, 9])).tolist()
    [True, False, False]
    """
    place = torch.searchsorted(ids, others).clamp(max=len(ids) - 1)
    return ids[place] == others


def past_edges(ids: Tensor, ranks: Tensor) -> Tensor:
    """Return the ids of absent edges, given their ranks among the absent ones.

    Both increase; `ids` are those of the edges that are present.

    Examples
    --------
    >>> past_edges(torch.tensor([0, 2]), torch.tensor([0, 3]))
    tensor([1, 5])
    """
    # The r-th absent cell has the id r + (edges with smaller ids).
    gaps = ids - torch.arange(len(ids), device=ids.device)
    return ranks + torch.searchsorted(gaps, ranks, right=True)


# ---------------------------------------------------------------------------------------------
# How many edges.


def plans(rule: UpdateRule) -> Any:
    """Return what plans as a rule does, ``plan(parts, **share)``; None if it is unknown."""
    plan = rule.plan
    if plan is per_layer or plan is no_change:
        return lambda parts, **share: plan(_views(parts), **share)
    if type(plan) is ShareByImportance and plan.importance is gradient_magnitude:
        return _by_mean_gradient
    if type(plan) is PruneTo and not plan.each:
        return partial(_pruning, plan)
    return None


def _views(parts: Mapping[str, Any]) -> dict[str, LayerView]:
    return {name: part.view for name, part in parts.items()}


def _by_mean_gradient(parts: Mapping[str, Any], **share: float) -> dict[str, tuple[int, int]]:
    """As `topokit.rules.budget.ShareByImportance`; waits for the device."""
    means = [
        part.gradient().mean() if part.graph.n_edges else part.ids.sum().double()
        for part in parts.values()
    ]
    found = torch.stack(means).tolist() if means else []
    return share_by_means(_views(parts), found, **share)


def _pruning(
    plan: PruneTo, parts: Mapping[str, Any], *, drop_fraction: float, progress: float
) -> dict[str, tuple[int, int]]:
    """As `PruneTo`: counts of the network's lowest, of all but one in each layer; waits."""
    views = _views(parts)
    n_total, caps = plan.of_network(views, progress)
    magnitudes = [part.values.abs() for part in parts.values()]
    if not magnitudes:
        return {}
    pairs = list(zip(magnitudes, caps.values(), strict=True))
    lowest = torch.cat([each.sort().values[:most] for each, most in pairs])
    layer = [torch.full((most,), i, device=each.device) for i, (each, most) in enumerate(pairs)]
    chosen = torch.cat(layer)[torch.sort(lowest, stable=True).indices[:n_total]]
    counts = [(chosen == i).sum() for i in range(len(pairs))]
    found = torch.stack([*counts, *((each == each).sum() for each in magnitudes)]).tolist()
    if found[len(pairs) :] != [part.graph.n_edges for part in parts.values()]:
        raise ValueError(drop.NAN)
    return plan.given(views, dict(zip(views, found, strict=False)), drop_fraction)


# ---------------------------------------------------------------------------------------------
# Scores of absent edges.


class Factors(NamedTuple):
    """What went through a layer: products of both sides score every possible edge.

    Parameters
    ----------
    name : str
        What the others are called: ``"output_grad"`` or ``"outputs"``.
    inputs : list of (samples, n_in) tensor
    others : list of (samples, n_out) tensor
        Gradients of the outputs, or the outputs, of the same samples.

    Examples
    --------
    >>> one = Factors("output_grad", [torch.tensor([[1.0, 2.0]])], [torch.tensor([[3.0, -1.0]])])
    >>> gradients(one)(slice(0, 2)).tolist()
    [[3.0, 6.0], [1.0, 2.0]]
    >>> at_edges(one, torch.tensor([0, 1]), torch.tensor([1, 0])).tolist()
    [6.0, -1.0]
    >>> similarities(one)(slice(0, 2)).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """

    name: str
    inputs: list[Tensor]
    others: list[Tensor]

    @property
    def pairs(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Both sides, batch by batch."""
        return zip(self.inputs, self.others, strict=True)

    @property
    def dtype(self) -> torch.dtype:
        """The number type that products are rounded to."""
        return reduce(torch.promote_types, [each.dtype for each in (*self.inputs, *self.others)])

    def products(self, rows: slice) -> Tensor:
        """Return ``others[:, rows].T @ inputs`` in float64, rounded: O(samples * cells) time."""
        total = None
        for inputs, others in self.pairs:
            step = max(1, BLOCK_CELLS // max(1, inputs.shape[1], others.shape[1]))
            for x, y in zip(inputs.split(step), others[:, rows].split(step), strict=True):
                part = y.double().t() @ x.double()
                total = part if total is None else total.add_(part)
        assert total is not None
        return total.to(self.dtype).double()


def gradients(factors: Factors) -> Scores:
    """Return the scores of `topokit.rules.grow.gradient`, given gradients of the outputs."""
    return lambda rows: factors.products(rows).abs_()


def similarities(factors: Factors) -> Scores:
    """Return the scores of `topokit.rules.grow.cosine_scores`, given outputs."""

    def norms(parts: list[Tensor]) -> Tensor:
        squares = [part.double().square().sum(0) for whole in parts for part in whole.split(1024)]
        return torch.stack(squares).sum(0).sqrt()

    of_inputs, of_outputs = norms(factors.inputs), norms(factors.others)

    def scores(rows: slice) -> Tensor:
        both = of_outputs[rows, None] * of_inputs
        return torch.where(both > 0, factors.products(rows).abs_() / both, 0.0)

    return scores


def at_edges(factors: Factors, rows: Tensor, units: Tensor) -> Tensor:
    """Return what `products` has at some edges, as `topokit.rules.LayerView.edge_grad` does.

    Parameters
    ----------
    factors : Factors
    rows, units : (n_edges,) integer tensor
        The output and the input unit of each edge.
    """
    total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for inputs, others in factors.pairs:
        step = max(1, BLOCK_CELLS // max(1, len(inputs)))
        parts = [total, rows, units]
        for sums, row, unit in zip(*(part.split(step) for part in parts), strict=True):
            of_edges = inputs.index_select(1, unit).double()
            sums += of_edges.mul_(others.index_select(1, row)).sum(0)
    return total.to(factors.dtype).double()


class Best(NamedTuple):
    """The absent edges of largest score, and what has to be known of the scores.

    Parameters
    ----------
    ids : (n,) int64 tensor
        Increasing.
    nan : int64 tensor
        The first row of the first block that has a nan, or -1. With one, `ids` mean nothing.
    positive : int64 tensor
        Number of absent edges of positive score.
    """

    ids: Tensor
    nan: Tensor
    positive: Tensor


def best(
    ids: Tensor,
    keep: Tensor,
    shape: tuple[int, int],
    n: int,
    scores: Scores,
    *,
    key: int | None = None,
) -> Best:
    """Return the `n` absent edges of largest score, as `topokit.rules.grow.best_positive` does.

    Parameters
    ----------
    ids : (n_edges,) int64 tensor
        Edges of a layer.
    keep : (n_edges,) bool tensor
        Which of them are present.
    shape : tuple of int
        ``(n_out, n_in)``.
    n : int
        At least 1, at most the number of absent edges.
    scores : callable
    key : int, optional
        Of the random numbers by which edges of score 0 are ordered. Without it they come in the
        order of their ids, which is right where `positive` is at least `n`.

    Notes
    -----
    Memory O(block + n + n_edges) for a block of `BLOCK_CELLS` cells or one row; time O(n_out *
    n_in), and O(n_edges) for each block.

    Examples
    --------
    >>> ids, scores = torch.tensor([0]), torch.tensor([[9, 1, 0], [0, 0, 2.0]])
    >>> best(ids, ids == 0, (2, 3), 2, lambda rows: scores[rows].double()).ids
    tensor([1, 5])
    """
    n_out, n_in = shape
    device = ids.device
    found, ranks = ids.new_empty(0), torch.empty(0, dtype=torch.float64, device=device)
    nan, positive = ids.new_full((), -1), ids.new_zeros(())
    step = max(1, BLOCK_CELLS // max(1, n_in))
    for start in range(0, n_out, step):
        stop = min(start + step, n_out)
        first, size = start * n_in, (stop - start) * n_in
        block = scores(slice(start, stop)).reshape(-1)
        nan = torch.where((nan < 0) & block.isnan().any(), start, nan)
        here = keep & (ids >= first) & (ids < first + size)
        present = torch.zeros(size + 1, dtype=torch.bool, device=device)
        present = present.index_fill_(0, torch.where(here, ids - first, size), True)[:size]
        some = block > 0
        positive = positive + (some & ~present).sum()
        rest = -1.0 if key is None else -uniforms(key, first, size, device)
        block = torch.where(some, block, rest).masked_fill_(present, -math.inf)
        ranks = torch.cat([ranks, block])
        found = torch.cat([found, torch.arange(first, first + size, device=device)])
        if len(ranks) > n:  # the ids increase: of equal scores the first ones stay
            least = ranks.topk(n, sorted=False).values.min()
            above, equal = ranks > least, ranks == least
            taken = above | (equal & (equal.cumsum(0) <= n - above.sum()))
            at = compacted(torch.arange(len(ranks), device=device), taken, n)
            ranks, found = ranks[at], found[at]
    return Best(found, nan, positive)


# ---------------------------------------------------------------------------------------------
# Edges that leave: `topokit.rules.drop`, for all layers at once.


class Dropping(NamedTuple):
    """What leaves each layer.

    Parameters
    ----------
    keep : (edges,) bool tensor, or None
        Which edges of the row stay; None where those that leave are drawn.
    numbers : (layers,) int64 tensor, or None
        How many scores of each layer are numbers, where they have to be.
    """

    keep: Tensor | None
    numbers: Tensor | None = None

    @property
    def facts(self) -> list[Tensor]:
        """What has to be known of it, as vectors of integers."""
        return [] if self.numbers is None else [self.numbers]


def drops(how: Any) -> Any:
    """Return what drops as a function of `topokit.rules` does, ``drop(row, parts)``; or None."""
    if type(how) is ByGradient:
        return partial(_by_gradient, how)
    return next((ours for known, ours in DROPS.items() if known is how), None)


def _lowest(row: Row, scores: Sequence[Tensor]) -> Dropping:
    """As `topokit.rules.drop.lowest`."""
    flat = torch.cat(list(scores))
    _, numbers = row.counted(flat == flat)
    return Dropping(row.lowest(row.ascending(flat)), numbers)


def _smallest(row: Row, parts: Sequence[Any]) -> Dropping:
    """As `topokit.rules.drop.smallest_magnitude`."""
    return _lowest(row, [part.values.abs() for part in parts])


def _by_gradient(how: ByGradient, row: Row, parts: Sequence[Any]) -> Dropping:
    """As `topokit.rules.published.ByGradient`."""
    return _lowest(row, [how.importance(p.values.abs().double(), p.gradient()) for p in parts])


def _closest_to_zero(row: Row, parts: Sequence[Any]) -> Dropping:
    """As `topokit.rules.drop.signed_magnitude`."""
    # By magnitude, zeros come first, then both signs in turns: an edge leaves if it is among the
    # first zeros, or among the first of its sign. How many of each sign is told by
    # `topokit.rules.drop.of_each_sign`, here for all layers at once.
    values = torch.cat([part.values for part in parts])
    order = row.ascending(values.abs())
    ordered = values[order]
    below, above = ordered < 0, ordered > 0
    rank_below, n_below = row.counted(below)
    rank_above, n_above = row.counted(above)
    n_some = n_below + n_above
    n_zero = row.starts.diff() - n_some
    rest = (row.n_drop - n_zero).clamp_(min=0)
    share = n_some - 2 * rest * n_above
    share = torch.div(share, (2 * n_some).clamp_(min=1), rounding_mode="floor").neg_()
    share = torch.maximum(share, rest - n_below)
    of_above = torch.minimum(torch.minimum(share, n_above), rest)
    each = torch.stack([torch.minimum(row.n_drop, n_zero), rest - of_above, of_above])
    zeros, most_below, most_above = each[:, row.layer]
    leave = row.rank < zeros
    leave |= below & (rank_below <= most_below)
    leave |= above & (rank_above <= most_above)
    _, numbers = row.counted(values == values)
    return Dropping(row.stay(order, leave), numbers)


def _random(row: Row, parts: Sequence[Any]) -> Dropping:
    """As `topokit.rules.drop.random`: the positions are drawn, no values are looked at."""
    return Dropping(None)


def _none(row: Row, parts: Sequence[Any]) -> Dropping:
    """As `topokit.rules.drop.nothing`, with its error."""
    for part in parts:
        drop.nothing(None, part.n_drop, None)  # type: ignore[arg-type]  # it looks at neither
    return Dropping(torch.ones_like(row.layer, dtype=torch.bool))


DROPS: dict[Any, Callable[[Row, Sequence[Any]], Dropping]] = {
    drop.smallest_magnitude: _smallest,
    drop.signed_magnitude: _closest_to_zero,
    drop.random: _random,
    drop.nothing: _none,
}
"""Functions of `topokit.rules.drop` that are known here, and what does the same on a device."""

BY_VALUES = (drop.smallest_magnitude, drop.signed_magnitude)  # of them, alone: can be recorded
