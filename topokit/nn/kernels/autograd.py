"""The sparse product as one autograd function, which takes the fastest way in eager training.

Derivatives of its gradients are made of the operators of `topokit.nn.kernels.ops`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from topokit.nn.kernels import ops
from topokit.nn.kernels.products import PRODUCTS, EdgeIndex, Product, samples_first, units_first

__all__ = [
    "MAKERS",
    "Drawn",
    "EdgeProduct",
    "Masked",
    "drawn_bits",
    "is_unchanged",
    "maker_of",
    "seen_by_maker_alone",
]

# ReLU within the product, and its derivative without reading the memory again.
#
# With `relu` the kernel that computes y also rectifies it. The derivative is 0 where y is 0, so the
# gradient g of y must be set to 0 there before it is used. A separate operation would read and
# write all of g once more. But if y is the input of another product, that product's backward kernel
# reads y and writes the gradient dx, which is g. So:
#
# 1. Forward, a product notes whether its input was made by a product with relu (`ctx.maker`).
# 2. Backward, it sets dx to 0 where its input is 0, sums dx over the batch if its kernel can
#    (that is the maker's bias gradient), and leaves a `Masked` record of dx with the maker.
# 3. The maker compares the gradient it gets with that record. If it is the same tensor, unchanged,
#    masking and bias gradient are done. Otherwise (y was used twice, a hook changed the gradient)
#    the maker masks the gradient; masking twice is harmless.
# 4. The gradient of y itself is not 0 there. Where somebody else may look at it, a hook of y,
#    ``retain_grad`` or ``torch.autograd.grad`` (`seen_by_maker_alone`), it is computed once more
#    without the mask, and the maker masks it.
#
# Dropout may be within the product too, after ReLU. An output is then above 0 where its unit is
# active and was kept, so the same mask serves, and the random bits are not needed again. The maker
# multiplies the masked gradient, and the bias gradient left with it, by the scale. The backward
# kernel of the product after could not do that for it: a gradient that reaches the maker in several
# parts, as of an output that was used twice, may be masked twice, but not scaled twice.
#
# Where a gradient is itself to be differentiated, or is a batch of gradients of `torch.vmap`, none
# of this is done: the gradients are then computed by operators that can be differentiated.


class EdgeProduct(torch.autograd.Function):
    """``apply(x, values, bias, index, relu, way)`` maps a (batch, n_in) input to (batch, n_out).

    The batch of x is contiguous in memory; `way` is one of `PRODUCTS`. With `relu` a way that
    `drops` takes what was `drawn` for dropout as one argument more.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Any,
        values: Any,
        bias: Any,
        index: EdgeIndex,
        relu: bool,
        way: type[Product],
        drawn: Drawn | None = None,
    ) -> torch.Tensor:
        """Compute the product; as one node of torch's graph."""
        ctx.maker, ctx.input = maker_of(x), weakref.ref(x)
        if drawn is None:
            y = way.product(units_first(x), values.detach(), bias, index, relu)
        else:
            y = way.dropped(units_first(x), values.detach(), bias, index, drawn)
        ctx.scale = 1.0 if drawn is None else drawn.scale_in(y.dtype)
        y = samples_first(y)  # saved is the tensor returned, whose changes count
        ctx.save_for_backward(x, values, *([y] if relu else []))
        ctx.index, ctx.relu, ctx.way, ctx.masked = index, relu, way, None
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
        """Compute the gradients of x, values and bias."""
        if ops.autocast_on(g):  # gradients in the precision of the values too
            with torch.autocast(g.device.type, enabled=False):
                return EdgeProduct.backward(ctx, g)
        if torch.is_grad_enabled() or ops.composed(g):
            return (*_differentiable(ctx, g), None, None, None, None)
        x, values, *output = ctx.saved_tensors
        needs_x, needs_values, needs_bias, *_ = ctx.needs_input_grad
        known = ctx.masked if ctx.relu and is_unchanged(g, ctx.masked) else None
        dbias = None if known is None else known.sums
        ctx.masked = None
        g = units_first(g)
        if ctx.relu and (known is None or known.whole):
            g = torch.ops.aten.threshold_backward(g, output[0].t(), 0)
        if ctx.scale != 1:
            if g.device.type == "cpu":  # the sums of dropout after the product, to the last digit
                dbias = None
            g, *scaled = torch._foreach_mul([g] if dbias is None else [g, dbias], ctx.scale)
            dbias = scaled[0] if scaled else None
        if needs_bias and dbias is None:
            dbias = g.sum(dim=1)
        dx = dvalues = None
        mask = ctx.maker is not None
        if needs_x or needs_values:
            given = g, units_first(x), values.detach(), ctx.index, needs_x
            dx, dvalues, sums = ctx.way.gradients(*given, mask)
        if dx is not None and mask and (whole := not seen_by_maker_alone(ctx)):
            dx, *_ = ctx.way.gradients(*given, False)
        if dx is not None:
            dx = dx.t()
            if mask:
                ctx.maker.masked = Masked(dx, dx._version, sums, whole)
        gradients = dx, dvalues if needs_values else None, dbias if needs_bias else None
        return (*gradients, None, None, None, None)


MAKERS: set[type[torch.autograd.Function]] = {EdgeProduct}
"""Autograd functions that may compute a ReLU, and then keep a `Masked` record."""


def maker_of(x: torch.Tensor) -> Any:
    """Return the node of the product with ReLU that made a tensor, or None."""
    maker: Any = x.grad_fn
    ours = getattr(type(maker), "_forward_cls", None) in MAKERS  # others may have a `relu` too
    return maker if ours and maker.relu else None


def seen_by_maker_alone(ctx: Any) -> bool:
    """Return whether the gradient of a node's input is for its maker alone.

    To be asked in a backward pass. False also where it is not known: of an input that is gone, and
    where neither node has a parameter that is a leaf of torch's graph.
    """
    x = ctx.input()
    if x is None or x._backward_hooks or x.retains_grad:
        return False
    before = (*ctx.next_functions[1:], *ctx.maker.next_functions[1:])
    leaf = next((node for node, _ in before if hasattr(node, "variable")), None)
    # A leaf is not executed, or torch refuses to answer, where ``torch.autograd.grad`` has named
    # the tensors whose gradients it returns, of which x may be one.
    try:
        return leaf is not None and bool(torch._C._will_engine_execute_node(leaf))
    except RuntimeError:
        return False


def _differentiable(ctx: Any, g: torch.Tensor) -> tuple[Any, Any, Any]:
    """Return the gradients of x, values and bias, which can be differentiated in turn."""
    x, values, *output = ctx.saved_tensors
    needs_x, needs_values, needs_bias, *_ = ctx.needs_input_grad
    edges = ops.edges_of(ctx.index, x.device)
    if ctx.relu:
        g = torch.ops.aten.threshold_backward(g, output[0], 0)
    if ctx.scale != 1:
        g = g * ctx.scale
    dx, dvalues = ops.composed_gradients(
        g, x, values, edges, dense=ctx.way is PRODUCTS["dense"], needs=(needs_x, needs_values)
    )
    return dx, dvalues, g.sum(0) if needs_bias else None


class Drawn(NamedTuple):
    """What was drawn for dropout: an element is kept if its bits, read as a number, reach a limit.

    Examples
    --------
    >>> drawn = Drawn(torch.tensor([7, -9], dtype=torch.int16), limit=0, scale=2.0)
    >>> drawn.applied(torch.ones(2)).tolist()
    [2.0, 0.0]
    """

    bits: torch.Tensor  # int16, flat, in the order of memory of the elements
    limit: int
    scale: float  # by which those kept are multiplied

    def scale_in(self, dtype: torch.dtype) -> float:
        """Return the scale, rounded to a number type."""
        return float(torch.tensor(self.scale, dtype=dtype))

    def of(self, units: int, samples: slice) -> Drawn:
        """Return what was drawn for some samples of all units."""
        bits = self.bits.view(units, -1)[:, samples].flatten()
        return self._replace(bits=bits)

    def applied(self, x: torch.Tensor) -> torch.Tensor:
        """Return x after dropout, by torch's operators."""
        kept = self.bits.ge(self.limit).to(x.device)
        transposed = x.ndim == 2 and not x.is_contiguous()
        kept = kept.view(x.shape[1], x.shape[0]).t() if transposed else kept.view(x.shape)
        return x * kept.to(x.dtype).mul_(self.scale)


def drawn_bits(count: int, rate: float, several: Sequence[torch.Generator]) -> Drawn:
    """Draw for the dropout of `count` elements, as `topokit.nn.activations.dropped_out` says.

    Raises
    ------
    RuntimeError
        Within a backward pass.

    Examples
    --------
    >>> drawn_bits(6, 0.5, [torch.Generator().manual_seed(0)]).bits.shape
    torch.Size([6])
    """
    # Who computes a forward pass again, as checkpoints of activations do, restores torch's own
    # generators for it, but not these.
    if torch._C._current_graph_task_id() != -1:
        raise RuntimeError(_DRAWN_AGAIN)
    # An element is kept if 16 random bits, read as a number, reach a limit. Torch draws 64 bits at
    # a time, so four elements cost one draw: several times cheaper than a random float for each.
    steps = min(round(rate * 65536), 65535)
    each = count // len(several)
    words = torch.empty(len(several), (each + 3) // 4, dtype=torch.int64, device=several[0].device)
    for row, draws in zip(words, several, strict=True):
        row.random_(-(2**63), None, generator=draws)
    bits = words.view(torch.int16)[:, :each].reshape(-1)
    return Drawn(bits, steps - 32768, 65536 / (65536 - steps))


_DRAWN_AGAIN = (
    "expected no dropout from a generator of its own in a forward pass that is computed again "
    "within the backward pass, as torch.utils.checkpoint does: it would drop other elements than "
    "the first time, and gradients would be wrong; use nn.Dropout, which draws from torch's "
    "generator, or no dropout there"
)


class Masked(NamedTuple):
    """A gradient set to 0 where an output is 0, and its sums over the batch."""

    gradient: torch.Tensor  # held, so that autograd does not add another gradient into it
    version: int
    sums: torch.Tensor | None
    whole: bool  # whether `gradient` is still to be set to 0 there; the sums are as if it were


def is_unchanged(g: torch.Tensor, masked: Masked | None) -> bool:
    """Return whether a gradient is the recorded tensor, unchanged since."""
    if masked is None:
        return False
    made = masked.gradient
    same = g.data_ptr() == made.data_ptr() and g.shape == made.shape
    return same and g.stride() == made.stride() and made._version == masked.version
