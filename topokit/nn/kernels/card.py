"""The sparse product on a graphics card: the arrays its kernels need, and how they are launched.

The kernels are in `topokit.nn.kernels.card_kernels`, in Triton, which comes with torch for CUDA.
They are compiled when they are first used; importing this module imports neither triton nor them.

**Long rows.** Rewiring by SET makes units of hundreds of edges beside others of twenty. One program
computes one row, so the longest row would decide how long a product takes. Rows longer than
`part_length` are therefore split into parts of that length, whose sums go to a workspace and are
added in a fixed order by a second, small kernel. Where no row is longer, there is neither. How many
parts there may be depends on the number of edges only, so that a graph of as many edges fits the
arrays of another (`EdgeIndex.take_over`), as recorded steps need it.

**Dropout** after ReLU is part of the forward kernel, as bias and ReLU are; after SReLU, as in the
recipes of SET, it is not. Random bits are drawn by torch as for dropout by itself, from the
generator that a recorded step is told of. The kernel reads them, rounds a sum to the number type of
the output, as if it were stored, and multiplies it by the scale or by 0: the numbers are those of
separate operations, nan and infinity times 0 included. The backward pass needs no bits, as an
output is above 0 where its unit was active and kept (`topokit.nn.kernels.autograd`). It differs in
two cases: the gradient of an element that was dropped is 0, where separate operations multiply a
nan or an infinity that comes back by 0; and where an activation that was dropped is nan or
infinite, and hence the output nan, it is the gradient that comes back, scaled. Steps in which a
rule looks at a layer's activations, which are those before dropout, are computed by separate
operations. A hidden activation that something changes in place, as a hook before the next layer
may, is refused by torch in the backward pass, like that of a ReLU alone; after dropout by itself it
is not.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch

from topokit.nn.kernels.graphs import by_input_unit, longest_rows, tensors_of
from topokit.nn.kernels.products import (
    PRODUCTS,
    EdgeIndex,
    Gradients,
    Product,
    use_on_device,
)

__all__ = ["CONFIGURATIONS", "Configuration", "Side", "part_length"]


class Configuration(NamedTuple):
    """What a program does at once, for blocks of up to a number of samples."""

    samples: int  # the largest block
    edges: int  # read at a time
    warps: int


# Rows in order of the block of the batch; the last is also the largest block. Those for blocks of
# 64 samples and more were measured on one H200 (2026-11-27, torch 2.11, Triton 3.6), in layers of
# 3072-4000-1000-4000-10 and 3072-16000-16000-16000-10 with batches of 128 and of
# 784-1000-1000-1000-10 with batches of 100, all at epsilon 20: 4, 8, 16 and 32 edges at a time,
# blocks of 32, 64 and 128 samples, one, two and four warps. Where there are so few programs that
# some processors would be idle (`FEW`), smaller blocks, or more warps, are faster although each
# edge costs more. Smaller blocks, which were not measured, get more edges at a time, so that a
# program reads as many numbers. `python benchmarks/gpu.py --tune` prints such times for the card
# it runs on.
CONFIGURATIONS: dict[str, tuple[Configuration, ...]] = {
    "forward": (
        Configuration(16, 64, 1),
        Configuration(32, 32, 1),
        Configuration(64, 16, 1),
        Configuration(128, 8, 1),
    ),
    "forward, few programs": (
        Configuration(16, 64, 1),
        Configuration(32, 32, 1),
        Configuration(64, 32, 1),
    ),
    "backward": (
        Configuration(16, 64, 1),
        Configuration(32, 32, 1),
        Configuration(64, 16, 1),
        Configuration(512, 8, 1),
        Configuration(1024, 4, 1),
    ),
    "sampled": (
        Configuration(16, 64, 1),
        Configuration(32, 32, 1),
        Configuration(64, 16, 1),
        Configuration(128, 8, 1),
    ),
    "sampled, few programs": (
        Configuration(16, 64, 1),
        Configuration(32, 32, 1),
        Configuration(64, 16, 1),
        Configuration(128, 16, 4),
    ),
}
MOST_SAMPLES = 1 << 21  # in one launch of the forward kernel: a card takes 65535 blocks of 64
FEW = 2048  # programs: of 1000 and of 4000, the two numbers measured, the first are few

SHORTEST = 64  # edges below which no row is split, in a layer with enough rows to fill a card
SHORTEST_OF_FEW = 32  # the same where there are few rows
ENOUGH_ROWS = 512  # rows, each a program, that keep a card busy


def part_length(n_rows: int, n_edges: int) -> int:
    """Return the length above which rows are split: twice the mean, and at least 64 edges.

    Less where there are too few rows to keep a card busy. It depends on the sizes alone, so that
    the arrays of one graph fit another of the same sizes.

    Examples
    --------
    >>> part_length(1000, 40_000), part_length(10, 40_000)
    (80, 80)
    >>> part_length(10, 1000)
    32
    """
    length = max(SHORTEST, 2 * n_edges // max(n_rows, 1))
    if n_rows < ENOUGH_ROWS:
        length = max(SHORTEST_OF_FEW, min(length, n_edges // ENOUGH_ROWS))
    return -(-length // 8) * 8


class Side(NamedTuple):
    """The arrays of one direction of a graph, int32 on a device.

    Parameters
    ----------
    parts : (n_rows + 1,) or (4, n_parts) tensor
        Row pointers; or where there are longer rows, of each part its row, first edge, end, and
        slot of the workspace (-1 for a whole row, -2 for an entry that is not used).
    units : (n_edges,) tensor
        The unit at the other end of each edge.
    positions : (n_edges,) tensor
        The position of each edge in ``graph.indices``; of no elements where it is its own.
    longer : (3, n_longer) tensor
        Of each row with several parts its number, first slot and count of slots.
    """

    parts: torch.Tensor
    units: torch.Tensor
    positions: torch.Tensor
    longer: torch.Tensor

    @property
    def split(self) -> bool:
        """Whether there are rows with several parts."""
        return self.longer.shape[1] > 0

    @property
    def slots(self) -> int:
        """Rows of the workspace: as many parts as longer rows of so many edges can have."""
        n_longer = self.longer.shape[1]
        return 2 * n_longer + 1 if n_longer else 0


def by_output(index: EdgeIndex, device: torch.device) -> Side:
    """Return the arrays by output units, for forward products and gradients of edges."""
    pointers, units = tensors_of(index.graph, device)
    return _side(pointers, units, units.new_empty(0), longest_rows(index.graph)[0])


def by_input(index: EdgeIndex, device: torch.device) -> Side:
    """Return the arrays by input units, for transposed products and gradients of inputs."""
    columns, rows, positions = by_input_unit(index.graph, device)
    return _side(columns.long(), rows.int(), positions.int(), longest_rows(index.graph)[1])


def _side(
    pointers: torch.Tensor, units: torch.Tensor, positions: torch.Tensor, longest: int
) -> Side:
    """Return a side from row pointers; the rest is its arrays and the length of the longest row."""
    n_rows, n_edges = len(pointers) - 1, len(units)
    length = part_length(n_rows, n_edges)
    if longest <= length:
        return Side(pointers.int(), units, positions, units.new_empty(3, 0))
    n_parts, n_longer = n_rows + n_edges // length, n_edges // (length + 1)
    counts = (-(-pointers.diff() // length)).clamp(min=1)
    unused = n_parts - counts.sum(0, keepdim=True)  # entries of a row that does not exist
    numbers = torch.arange(n_rows + 1, device=units.device)
    rows = torch.repeat_interleave(numbers, torch.cat([counts, unused]), output_size=n_parts)
    before = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    nth = torch.arange(n_parts, device=units.device) - before[rows]
    exists = rows < n_rows
    first = torch.where(exists, pointers[rows] + nth * length, 0)
    end = torch.minimum(first + length, pointers[(rows + 1).clamp(max=n_rows)])
    end = torch.where(exists, end, 0)
    several = counts > 1
    slots = torch.where(several, counts, 0)
    first_slot = torch.cat([slots.cumsum(0) - slots, slots.new_zeros(1)])
    several = torch.cat([several, several.new_zeros(1)])
    slot = torch.where(several[rows], first_slot[rows] + nth, torch.where(exists, -1, -2))
    parts = torch.stack([rows, first, end, slot]).int()
    # The longer rows to the front, each to its place; all others to a place that is cut off.
    place = torch.where(several, several.cumsum(0) - 1, n_longer)
    longer = torch.zeros(3, n_longer + 1, dtype=torch.int64, device=units.device)
    longer[0] = n_rows
    table = torch.stack([numbers, first_slot, torch.cat([slots, slots.new_zeros(1)])])
    longer.scatter_(1, place.expand(3, -1), table)
    return Side(parts, units, positions, longer[:, :n_longer].int().contiguous())


@cache
def _kernels() -> Any:
    """Import the kernels, and with them triton."""
    from topokit.nn.kernels import card_kernels

    return card_kernels


def _sums_in(x: torch.Tensor) -> Any:
    """Return the number type of sums as Triton names it."""
    language = _kernels().tl
    return language.float64 if x.dtype == torch.float64 else language.float32


def _workspace(side: Side, x: torch.Tensor) -> torch.Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(side.slots, x.shape[1], dtype=dtype)


def _on(x: torch.Tensor) -> Any:
    """Return a context in which kernels are launched on a tensor's device."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def block_of(samples: int) -> int:
    """Return the smallest power of two that holds a number of samples.

    Examples
    --------
    >>> block_of(1), block_of(100), block_of(128)
    (1, 128, 128)
    """
    return 1 << (samples - 1).bit_length()


def configuration(kernel: str, samples: int, programs: int) -> tuple[int, dict[str, int]]:
    """Return the number of blocks of a batch, and what a kernel is launched with.

    Examples
    --------
    >>> configuration("forward", 300, 4000)
    (3, {'EDGES': 8, 'BLOCK': 128, 'num_warps': 1})
    >>> configuration("forward", 300, 1000)
    (5, {'EDGES': 32, 'BLOCK': 64, 'num_warps': 1})
    """
    few = f"{kernel}, few programs"
    table = CONFIGURATIONS[few if programs < FEW and few in CONFIGURATIONS else kernel]
    block = min(block_of(samples), table[-1].samples)
    chosen = next(row for row in table if block <= row.samples)
    options = {"EDGES": chosen.edges, "BLOCK": block, "num_warps": chosen.warps}
    return -(-samples // block), options


def _steps(batch: int, *tensors: torch.Tensor) -> tuple[int, list[int]]:
    """Return a number of samples that divides a batch and strides, at most 16, and these by it."""
    sizes = [batch, *(tensor.stride(0) for tensor in tensors)]
    vec = math.gcd(16, *sizes)
    return vec, [size // vec for size in sizes]


class _CardProduct(Product):
    """The product by the Triton kernels of `topokit.nn.kernels.card_kernels`.

    Notes
    -----
    Results are the same bit for bit whenever they are computed on the same card with the same
    versions: no memory is added to by several programs. A workspace of a row of the batch for each
    part of a long row is the only memory besides outputs.
    """

    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    drops = True

    @staticmethod
    def product(x: Any, values: Any, bias: Any, index: EdgeIndex, relu: bool) -> torch.Tensor:
        side = index.on(x.device, by_output)
        y = x.new_empty(index.graph.n_out, x.shape[1])
        _forward(x, values, y, side, bias=bias, relu=relu)
        return y

    @staticmethod
    def dropped(x: Any, values: Any, bias: Any, index: EdgeIndex, drawn: Any) -> torch.Tensor:
        side = index.on(x.device, by_output)
        y = x.new_empty(index.graph.n_out, x.shape[1])
        _forward(x, values, y, side, bias=bias, relu=True, drawn=drawn)
        return y

    @staticmethod
    def transposed(g: Any, values: Any, index: EdgeIndex) -> torch.Tensor:
        dx = g.new_empty(index.graph.n_in, g.shape[1])
        _forward(g, values, dx, index.on(g.device, by_input))
        return dx

    @staticmethod
    def gradients(
        g: Any, x: Any, values: Any, index: EdgeIndex, needs_x: bool, mask: bool
    ) -> Gradients:
        batch = x.shape[1]
        dvalues = values.new_empty(index.graph.n_edges)
        if not batch:
            return x.new_empty(x.shape) if needs_x else None, dvalues.zero_(), None
        if needs_x and batch <= CONFIGURATIONS["backward"][-1].samples:
            dx, sums = x.new_empty(x.shape[0], batch), None
            if mask:
                sums = x.new_empty(x.shape[0])
            _backward(g, values, x, dx, dvalues, sums, index.on(x.device, by_input))
            return dx, dvalues, sums
        _sampled(x, g, dvalues, index.on(x.device, by_output))
        if not needs_x:
            return None, dvalues, None
        dx = x.new_empty(x.shape[0], batch)
        _forward(g, values, dx, index.on(x.device, by_input), mask=x if mask else None)
        return dx, dvalues, None


def _forward(
    x: torch.Tensor,
    values: torch.Tensor,
    y: torch.Tensor,
    side: Side,
    *,
    bias: torch.Tensor | None = None,
    relu: bool = False,
    mask: torch.Tensor | None = None,
    drawn: Any = None,
) -> None:
    """Fill y with the sums over each row's edges; set to 0 where `mask` is not above 0."""
    rows, batch = y.shape
    if not y.numel():
        return
    if batch > MOST_SAMPLES:
        for start in range(0, batch, MOST_SAMPLES):
            some = slice(start, start + MOST_SAMPLES)
            _forward(
                x[:, some], values, y[:, some], side, bias=bias, relu=relu,
                mask=None if mask is None else mask[:, some],
                drawn=None if drawn is None else drawn.of(rows, some),
            )  # fmt: skip
        return
    values, partial = values.detach().contiguous(), _workspace(side, x)
    of_bias = values if bias is None else bias.detach().contiguous()
    own = x if mask is None else mask
    finish = {"BIAS": bias is not None, "RELU": relu, "MASK": mask is not None}
    draws = _draws(drawn, y)
    programs = side.parts.shape[-1] - (not side.split)
    blocks, options = configuration("forward", batch, programs)
    vec, (samples, *strides) = _steps(batch, x, y, own)
    options["VEC"] = vec
    with _on(x):
        _kernels().forward[programs, blocks](
            x, strides[0], values, of_bias, y, strides[1], own, strides[2],
            side.parts, programs, rows, side.units, side.positions, partial, samples,
            SPLIT=side.split, PERMUTED=side.positions.numel() > 0, ACC=_sums_in(x),
            **finish, **draws, **options,
        )  # fmt: skip
        if side.split:
            _add_parts(partial, side, y, None, draws, bias=of_bias, x=own, **finish)


def _draws(drawn: Any, y: torch.Tensor) -> dict[str, Any]:
    """Return what the kernels are given of dropout, which may be None."""
    if drawn is None:
        return {"bits": y, "limit": 0, "scale": 0, "DROP": False}
    scale = int(np.float64(drawn.scale_in(y.dtype)).view(np.int64))
    return {"bits": drawn.bits.to(y.device), "limit": drawn.limit, "scale": scale, "DROP": True}


def _backward(
    g: torch.Tensor,
    values: torch.Tensor,
    x: torch.Tensor,
    dx: torch.Tensor,
    dvalues: torch.Tensor,
    sums: torch.Tensor | None,
    side: Side,
) -> None:
    """Fill dx, dvalues and sums; with sums dx is 0 where x is not above 0."""
    rows, batch = dx.shape
    if not dx.numel():
        return
    values, partial = values.detach().contiguous(), _workspace(side, x)
    programs = side.parts.shape[-1] - (not side.split)
    _, options = configuration("backward", batch, programs)
    masked = sums is not None
    to = dx if sums is None else sums
    vec, (samples, *strides) = _steps(batch, g, x, dx)
    options["VEC"] = vec
    with _on(x):
        _kernels().backward[(programs,)](
            g, strides[0], values, x, strides[1], dx, strides[2], dvalues, to,
            side.parts, programs, rows, side.units, side.positions, partial, samples,
            SPLIT=side.split, MASK=masked, SUMS=masked, ACC=_sums_in(x), **options,
        )  # fmt: skip
        if side.split:
            finish = {"BIAS": False, "RELU": False, "MASK": masked}
            _add_parts(partial, side, dx, sums, _draws(None, dx), bias=values, x=x, **finish)


def _add_parts(
    partial: torch.Tensor,
    side: Side,
    y: torch.Tensor,
    sums: torch.Tensor | None,
    draws: dict[str, Any],
    *,
    bias: torch.Tensor,
    x: torch.Tensor,
    **finish: bool,
) -> None:
    """Fill the rows of y that have several parts."""
    rows, batch = y.shape
    n_longer = side.longer.shape[1]
    kernel = "forward" if sums is None else "backward"
    blocks, options = configuration(kernel, batch, n_longer)
    vec, (samples, *strides) = _steps(batch, x, y)
    _kernels().add_parts[n_longer, blocks](
        partial, side.longer, n_longer, rows, bias, x, strides[0], y, strides[1],
        y if sums is None else sums, samples,
        SUMS=sums is not None, ACC=_sums_in(y), BLOCK=options["BLOCK"], VEC=vec, num_warps=1,
        **finish, **draws,
    )  # fmt: skip


def _sampled(x: torch.Tensor, g: torch.Tensor, dvalues: torch.Tensor, side: Side) -> None:
    """Fill dvalues with the products of input and gradient at each edge."""
    rows, batch = g.shape
    if not dvalues.numel():
        return
    programs = side.parts.shape[-1] - (not side.split)
    blocks, options = configuration("sampled", batch, programs)
    vec, (samples, *strides) = _steps(batch, x, g)
    with _on(x):
        _kernels().sampled[(programs,)](
            x, strides[0], g, strides[1], dvalues, side.parts, programs, rows, side.units, samples,
            SPLIT=side.split, WHOLE=blocks == 1, ACC=_sums_in(x), VEC=vec, **options,
        )  # fmt: skip


PRODUCTS["triton"] = _CardProduct
if find_spec("triton") is not None:
    use_on_device("cuda", "triton")
