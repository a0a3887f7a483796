"""Activation functions of the SET papers, and dropout that draws from a given generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from topokit.nn.kernels.autograd import drawn_bits
from topokit.nn.kernels.ops import composed
from topokit.nn.kernels.products import NATIVE, units_first
from topokit.nn.kernels.threads import (
    Dropout,
    SReLUBackward,
    SReLUForward,
    equal_row_bounds,
    run_kernel,
)
from topokit.tables import as_generator, is_number

__all__ = ["ACTIVATIONS", "AllReLU", "SReLU", "WithDropout", "dropped_out"]


class SReLU(nn.Module):
    """S-shaped rectified linear units: piecewise linear, with four learnt parameters a unit.

    ``t_l + a_l (x - t_l)`` below ``t_l``, ``x`` in between, ``t_r + a_r (x - t_r)`` above ``t_r``,
    where ``t_r`` is stored as its distance from ``t_l``.

    Parameters
    ----------
    units : int
    rng : numpy.random.Generator
        Draws ``a_l`` from U(0, 1) and the distance from U(0, 5); ``t_l`` starts at 0, ``a_r`` at 1.

    References
    ----------
    .. [1] Jin et al., "Deep learning with S-shaped rectified linear activation units", AAAI 2016.
       The initial values are those of the Keras layer that SET's code uses.

    Examples
    --------
    >>> srelu = SReLU(1, rng=np.random.default_rng(0))
    >>> _ = [p.data.fill_(v) for p, v in zip(srelu.parameters(), (0.0, 0.5, 2.0, 0.25))]
    >>> srelu(torch.tensor([[-2.0], [1.0], [12.0]])).flatten().tolist()
    [-1.0, 1.0, 4.5]
    """

    def __init__(self, units: int, *, rng: np.random.Generator | int) -> None:
        rng = as_generator(rng)
        super().__init__()
        dtype = torch.get_default_dtype()
        self.t_left = nn.Parameter(torch.zeros(units, dtype=dtype))
        self.a_left = nn.Parameter(torch.from_numpy(rng.uniform(0, 1, units)).to(dtype))
        self.t_width = nn.Parameter(torch.from_numpy(rng.uniform(0, 5, units)).to(dtype))
        self.a_right = nn.Parameter(torch.ones(units, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., units) to the same shape; on the CPU by compiled kernels."""
        parameters = (self.t_left, self.a_left, self.t_width, self.a_right)
        if x.ndim == 2 and x.dtype == self.t_left.dtype and _compiled_takes(x):
            if x.stride(0) != 1 and x.shape[0] > 1:
                x = x.t().contiguous().t()
            return _CompiledSReLU.apply(x, *parameters)
        return _srelu_of(x, *parameters)


def _srelu_of(
    x: torch.Tensor,
    t_left: torch.Tensor,
    a_left: torch.Tensor,
    t_width: torch.Tensor,
    a_right: torch.Tensor,
) -> torch.Tensor:
    """Return SReLU by torch's operators."""
    low = (x - t_left).clamp(max=0)
    high = (x - (t_left + t_width.abs())).clamp(min=0)
    return x + (a_left - 1) * low + (a_right - 1) * high


class _CompiledSReLU(torch.autograd.Function):
    """SReLU by the compiled kernels of `topokit.nn.kernels.cpu`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, *parameters)
        x = units_first(x)
        units, batch = x.shape
        four = [p.detach().contiguous() for p in parameters]
        y = x.new_empty(units, batch)
        call = SReLUForward(
            x.data_ptr(), x.stride(0), y.data_ptr(), batch, *(p.data_ptr() for p in four)
        )
        run_kernel(
            call, item_bytes=x.element_size(), bounds=equal_row_bounds(units), work=4 * x.numel()
        )
        return y.t()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, ...]:
        saved = ctx.saved_tensors
        if torch.is_grad_enabled() or composed(g):
            return _differentiable(g, *saved)
        x, four = units_first(saved[0]), [p.detach().contiguous() for p in saved[1:]]
        units, batch = x.shape
        g, dx, sums = units_first(g), x.new_empty(units, batch), x.new_empty(4, units)
        t_left, a_left, t_width, a_right = (p.data_ptr() for p in four)
        call = SReLUBackward(
            x=x.data_ptr(),
            x_stride=x.stride(0),
            g=g.data_ptr(),
            g_stride=g.stride(0),
            t_left=t_left,
            a_left=a_left,
            t_width=t_width,
            a_right=a_right,
            dx=dx.data_ptr(),
            gradients=sums.data_ptr(),
            units=units,
            batch=batch,
        )
        run_kernel(
            call, item_bytes=x.element_size(), bounds=equal_row_bounds(units), work=8 * x.numel()
        )
        return (dx.t(), *sums)


def _differentiable(
    g: torch.Tensor,
    x: torch.Tensor,
    t_left: torch.Tensor,
    a_left: torch.Tensor,
    t_width: torch.Tensor,
    a_right: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of SReLU's input and parameters, which can be differentiated in turn."""
    below, above = x - t_left, x - (t_left + t_width.abs())
    low, high = g * (below <= 0).to(g.dtype), g * (above >= 0).to(g.dtype)
    lower, upper = a_left - 1, a_right - 1
    shifted = upper * high.sum(0)
    return (
        g + lower * low + upper * high,
        -lower * low.sum(0) - shifted,
        (low * below).sum(0),
        -shifted * t_width.sign(),
        (high * above).sum(0),
    )


class AllReLU(nn.Module):
    """Alternating left ReLU: slope ``-alpha`` below zero in odd hidden layers, ``alpha`` in even.

    Parameters
    ----------
    position : int
        Number of the hidden layer, from 1.
    alpha : float
        0.6 for (Fashion-)MNIST and 0.75 for CIFAR-10 in the authors' code.

    References
    ----------
    .. [1] Curci, Mocanu, Pechenizkiy, "Truly sparse neural networks at scale", arXiv 2102.01732,
       2021.

    Examples
    --------
    >>> AllReLU(1, alpha=0.5)(torch.tensor([-2.0, 3.0])).tolist()
    [1.0, 3.0]
    >>> AllReLU(2, alpha=0.5)(torch.tensor([-2.0, 3.0])).tolist()
    [-1.0, 3.0]
    """

    def __init__(self, position: int, *, alpha: float = 0.6) -> None:
        super().__init__()
        self.slope = -alpha if position % 2 else alpha

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map any shape to the same shape."""
        return nn.functional.leaky_relu(x, self.slope)

    def extra_repr(self) -> str:
        """The slope below zero."""
        return f"slope={self.slope}"


def dropped_out(
    x: torch.Tensor, rate: float, generator: torch.Generator | Sequence[torch.Generator]
) -> torch.Tensor:
    """Return x after inverted dropout: elements are 0 with probability `rate`, else x / (1 - rate).

    Parameters
    ----------
    x : tensor
        Random bits are assigned to its elements in the order of memory.
    rate : float
        In [0, 1); rounded to a multiple of 2**-16, in the scale too.
    generator : torch.Generator or sequence of them
        The only source of randomness; the mask is drawn on its device. Several draw for parts of
        equally many elements, in the order of memory, what each would draw for its part alone.

    Returns
    -------
    tensor
        Of the shape of `x`; `x` itself if the rate is 0.

    Raises
    ------
    RuntimeError
        Where a forward pass is computed again within the backward pass, as by
        ``torch.utils.checkpoint``, which restores torch's generators alone.

    Notes
    -----
    Memory: two bytes of random bits for each element, kept for the backward pass.

    Examples
    --------
    >>> y = dropped_out(torch.ones(1000), 0.5, torch.Generator().manual_seed(0))
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """
    if rate == 0:
        return x
    several = [generator] if isinstance(generator, torch.Generator) else generator
    drawn = drawn_bits(x.numel(), rate, several)
    if _compiled_takes(x) and drawn.bits.device.type == "cpu":
        transposed = x.ndim == 2 and not x.is_contiguous()
        y = _CompiledDropout.apply(x.t() if transposed else x, *drawn)
        return y.t() if transposed else y
    return drawn.applied(x)


class _CompiledDropout(torch.autograd.Function):
    """Dropout by a compiled kernel, the same one forward and backward."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, bits: torch.Tensor, limit: int, scale: float
    ) -> torch.Tensor:
        ctx.save_for_backward(bits)
        ctx.limit, ctx.scale = limit, scale
        return _dropped(x.detach(), bits, limit, scale)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
        (bits,) = ctx.saved_tensors
        if composed(g):
            kept = bits.ge(ctx.limit).view(g.shape)
            return g * kept.to(g.dtype).mul_(ctx.scale), None, None, None
        return _CompiledDropout.apply(g, bits, ctx.limit, ctx.scale), None, None, None


def _dropped(x: torch.Tensor, bits: torch.Tensor, limit: int, scale: float) -> torch.Tensor:
    """Return elements times `scale` where their bits, by rows, reach a limit, else times 0."""
    x = x.contiguous()
    y, factor = torch.empty_like(x), torch.tensor(scale, dtype=x.dtype)
    call = Dropout(
        x=x.data_ptr(),
        bits=bits.data_ptr(),
        y=y.data_ptr(),
        limit=limit,
        scale=factor.data_ptr(),
    )
    run_kernel(
        call, item_bytes=x.element_size(), bounds=equal_row_bounds(x.numel()), work=2 * x.numel()
    )
    return y


def _compiled_takes(x: torch.Tensor) -> bool:
    """Return whether the compiled kernels can be used on a tensor."""
    return x.device.type == "cpu" and x.dtype in NATIVE and not composed(x)


def _relu(position: int, units: int, rng: np.random.Generator) -> nn.Module:
    return nn.ReLU()


def _srelu(position: int, units: int, rng: np.random.Generator) -> nn.Module:
    return SReLU(units, rng=rng)


def _all_relu(position: int, units: int, rng: np.random.Generator) -> nn.Module:
    return AllReLU(position)


ACTIVATIONS: dict[str, Callable[[int, int, np.random.Generator], nn.Module]] = {
    "relu": _relu,
    "srelu": _srelu,
    "all_relu": _all_relu,
}
"""Functions ``(position, units, rng) -> module`` that make the activation of a hidden layer."""


class WithDropout(nn.Module):
    """A module with dropout from a generator of its own, which is copied and pickled with it.

    Parameters
    ----------
    dropout : float
        Probability that an element is dropped in training, in [0, 1).
    generator : torch.Generator, optional
        Draws the masks; by default one seeded from `rng`.
    rng : numpy.random.Generator, optional
        Needed without a generator.

    Raises
    ------
    ValueError
        If `dropout` is outside [0, 1).
    """

    def __init__(self, *, dropout: float, generator: torch.Generator | None, rng: Any) -> None:
        super().__init__()
        if not (is_number(dropout) and 0 <= dropout < 1):
            raise ValueError(f"expected a dropout in [0, 1), got {dropout!r}")
        if generator is None:
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        self.dropout, self.generator = float(dropout), generator

    @property
    def generators(self) -> Sequence[torch.Generator]:
        """What masks are drawn from; several where networks are computed side by side."""
        return (self.generator,)

    def dropped(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` after dropout in training, `x` itself in evaluation."""
        if not (self.training and self.dropout):
            return x
        several = self.generators
        if len(several) > 1 and x.stride(0) != 1:  # each draws for units of its own
            x = x.t().contiguous().t()
        return dropped_out(x, self.dropout, several)

    def __getstate__(self) -> dict[str, Any]:
        device = str(self.generator.device)
        return {**self.__dict__, "generator": (device, self.generator.get_state())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        device, bits = state["generator"]
        generator = torch.Generator(device)
        generator.set_state(bits)
        super().__setstate__({**state, "generator": generator})
