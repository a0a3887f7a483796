"""How many edges each layer gets: uniform, ER, ERK, equal fan-in; epsilon to density and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from topokit.generators.sampling import check_density

__all__ = [
    "density_from_epsilon",
    "epsilon_from_density",
    "equal_fan_in_densities",
    "er_densities",
    "erk_densities",
    "uniform_densities",
]

Shape = Sequence[int]


def density_from_epsilon(n_in: int, n_out: int, epsilon: float) -> float:
    r"""Density of a layer under SET's budget, at most 1.

    .. math:: \min(1, \epsilon (n_{in} + n_{out}) / (n_{in} n_{out}))

    Parameters
    ----------
    n_in, n_out : int
    epsilon : float
        Not negative; the expected number of edges is ``epsilon (n_in + n_out)``.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If `epsilon` is negative or not a number.

    References
    ----------
    .. [1] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nature Communications 9, 2018, equation 1.

    Examples
    --------
    >>> density_from_epsilon(784, 1000, 20)
    0.0455...
    >>> density_from_epsilon(1000, 10, 20)
    1.0
    """
    if not epsilon >= 0:
        raise ValueError(f"expected epsilon >= 0 (SET's budget per unit), got {epsilon!r}")
    return min(1.0, epsilon * (n_in + n_out) / (n_in * n_out))


def epsilon_from_density(n_in: int, n_out: int, density: float) -> float:
    """SET's epsilon of a layer with this density: the inverse of `density_from_epsilon`.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1].

    Returns
    -------
    float
        ``density n_in n_out / (n_in + n_out)``.

    Examples
    --------
    >>> round(epsilon_from_density(784, 1000, density_from_epsilon(784, 1000, 13)), 12)
    13.0
    """
    return check_density(density) * n_in * n_out / (n_in + n_out)


def uniform_densities(shapes: Sequence[Shape], *, density: float) -> list[float]:
    """Give every layer the same density.

    Parameters
    ----------
    shapes : sequence of tuples
        Dimensions of each layer's weight, ``(n_out, n_in)`` or ``(n_out, n_in, kh, kw)``.
    density : float
        Of the whole network, in [0, 1].

    Returns
    -------
    list of float
        One density for each layer.

    Notes
    -----
    Small last layers starve: 1000 to 10 units at 1 % leaves 10 edges for each class.

    References
    ----------
    .. [1] Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020.

    Examples
    --------
    >>> uniform_densities([(300, 784), (10, 300)], density=0.1)
    [0.1, 0.1]
    """
    return [check_density(density)] * len(shapes)


def er_densities(shapes: Sequence[Shape], *, density: float) -> list[float]:
    """Density proportional to (n_in + n_out) / (n_in n_out), with the network's budget met.

    SET's allocation with epsilon solved from the budget. Layers that would exceed density 1
    become dense and epsilon is solved again for the others, until none exceeds it.

    Parameters
    ----------
    shapes : sequence of tuples
        ``(n_out, n_in)`` or ``(n_out, n_in, kh, kw)``; the kernel counts in the budget only.
    density : float
        Edges of the whole network over its possible edges, in [0, 1].

    Returns
    -------
    list of float
        One density for each layer; the sum of density times size is the budget.

    References
    ----------
    .. [1] Mocanu et al., Nature Communications 9, 2018; Evci et al., ICML 2020.

    Examples
    --------
    >>> shapes = [(300, 784), (100, 300), (10, 100)]
    >>> [round(p, 6) for p in er_densities(shapes, density=0.1)]
    [0.079568, 0.230189, 1.0]
    """
    raw = [(shape[0] + shape[1]) / (shape[0] * shape[1]) for shape in shapes]
    return _within_budget(raw, shapes, density)


def erk_densities(shapes: Sequence[Shape], *, density: float, power: float = 1.0) -> list[float]:
    """Density proportional to the sum over the product of all dimensions, kernels too (ERK).

    Parameters
    ----------
    shapes : sequence of tuples
        ``(n_out, n_in)`` or ``(n_out, n_in, kh, kw)``, in any order.
    density : float
        Edges of the whole network over its possible edges, in [0, 1].
    power : float
        Exponent of the ratio; 1 is the published rule, 0 is uniform.

    Returns
    -------
    list of float
        One density for each layer; saturated layers have 1.

    References
    ----------
    .. [1] Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020.

    Examples
    --------
    >>> shapes = [(1000, 784), (1000, 1000), (1000, 1000), (10, 1000)]
    >>> [round(p, 6) for p in erk_densities(shapes, density=0.02)]
    [0.018716, 0.01645, 0.01645, 0.830715]
    """
    raw = [(sum(shape) / math.prod(shape)) ** power for shape in shapes]
    return _within_budget(raw, shapes, density)


def equal_fan_in_densities(shapes: Sequence[Shape], *, density: float) -> list[float]:
    """Give every unit of the network the same mean fan-in, with the network's budget met.

    Parameters
    ----------
    shapes : sequence of tuples
        ``(n_out, n_in)`` or ``(n_out, n_in, kh, kw)``.
    density : float
        Edges of the whole network over its possible edges, in [0, 1].

    Returns
    -------
    list of float
        One density for each layer; layers with too few inputs have 1.

    References
    ----------
    .. [1] Prabhu, Varma, Namboodiri, "Deep expander networks", ECCV 2018.

    Examples
    --------
    >>> equal_fan_in_densities([(100, 50), (10, 100)], density=0.2)
    [0.2181..., 0.1090...]
    """
    raw = [1.0 / (math.prod(shape) // shape[0]) for shape in shapes]
    return _within_budget(raw, shapes, density)


def _within_budget(raw: Sequence[float], shapes: Sequence[Shape], density: float) -> list[float]:
    """Scale `raw` so that the budget is met with no density above 1 (several may saturate)."""
    density = check_density(density)
    sizes = np.array([math.prod(shape) for shape in shapes], float)
    ratio = np.asarray(raw, float)
    dense = np.zeros(sizes.size, bool)
    result: NDArray[np.float64] = np.ones(sizes.size)
    while not dense.all():
        left = density * sizes.sum() - sizes[dense].sum()
        scale = max(left, 0.0) / (ratio * sizes)[~dense].sum()
        result = np.where(dense, 1.0, scale * ratio)
        if not np.any(over := ~dense & (result > 1.0)):
            break
        dense |= over
    return np.clip(result, 0.0, 1.0).tolist()
