"""Activation functions of the SET papers, and dropout from a generator of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

__all__ = ["ACTIVATIONS", "AllReLU", "SReLU", "dropped_out"]


class SReLU(nn.Module):
    """S-shaped rectified linear units: a straight line bent twice, with four numbers a unit.

    ``t_l + a_l (x - t_l)`` below ``t_l``, ``x`` in between, ``t_r + a_r (x - t_r)`` above ``t_r``,
    where ``t_r`` is stored as its distance from ``t_l``.

    Parameters
    ----------
    units : int
    rng : numpy.random.Generator
        Draws ``a_l`` from U(0, 1) and the distance from U(0, 5); ``t_l`` starts at 0, ``a_r`` at 1.

    References
    ----------
    Jin et al., "Deep learning with S-shaped rectified linear activation units", AAAI 2016; the
    initial values are those of the Keras layer that SET's code uses.

    Examples
    --------
    >>> srelu = SReLU(1, rng=np.random.default_rng(0))
    >>> _ = [p.data.fill_(v) for p, v in zip(srelu.parameters(), (0.0, 0.5, 2.0, 0.1))]
    >>> srelu(torch.tensor([[-2.0], [1.0], [12.0]])).flatten().tolist()
    [-1.0, 1.0, 3.0]
    """

    def __init__(self, units: int, *, rng: np.random.Generator) -> None:
        super().__init__()
        dtype = torch.get_default_dtype()
        self.t_left = nn.Parameter(torch.zeros(units, dtype=dtype))
        self.a_left = nn.Parameter(torch.from_numpy(rng.uniform(0, 1, units)).to(dtype))
        self.t_width = nn.Parameter(torch.from_numpy(rng.uniform(0, 5, units)).to(dtype))
        self.a_right = nn.Parameter(torch.ones(units, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., units) to the same shape."""
        t_right = self.t_left + self.t_width.abs()
        low = (x - self.t_left).clamp(max=0)
        high = (x - t_right).clamp(min=0)
        return x + (self.a_left - 1) * low + (self.a_right - 1) * high


class AllReLU(nn.Module):
    """Alternating left ReLU: slope ``-alpha`` left of zero in odd hidden layers, else ``alpha``.

    Parameters
    ----------
    position : int
        Number of the hidden layer, from 1.
    alpha : float
        0.6 for (Fashion-)MNIST and 0.75 for CIFAR-10 in the authors' code.

    References
    ----------
    Curci, Mocanu, Pechenizkiy, "Truly sparse neural networks at scale", 2021.

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
        """The slope left of zero."""
        return f"slope={self.slope}"


def dropped_out(x: torch.Tensor, rate: float, generator: torch.Generator) -> torch.Tensor:
    """Inverted dropout: each number becomes 0 with probability `rate`, else grows by 1/(1-rate).

    Parameters
    ----------
    x : tensor
        The mask is laid out in memory as `x` is.
    rate : float
        In [0, 1); rounded to a multiple of 2**-16, and scaled by what it was rounded to.
    generator : torch.Generator
        The only source of randomness; the mask is drawn on its device.

    Examples
    --------
    >>> y = dropped_out(torch.ones(1000), 0.5, torch.Generator().manual_seed(0))
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """
    if rate == 0:
        return x
    # Sixteen bits an element, drawn four elements at once: several times cheaper than floats.
    steps = min(round(rate * 65536), 65535)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=generator.device)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: x.numel()]
    kept = bits.ge(steps - 32768).to(x.device)
    transposed = x.ndim == 2 and not x.is_contiguous()
    kept = kept.view(x.shape[1], x.shape[0]).t() if transposed else kept.view(x.shape)
    return x * kept.to(x.dtype).mul_(65536 / (65536 - steps))


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
"""Makers ``(position, units, rng) -> module`` of the activation of hidden layer `position`."""
