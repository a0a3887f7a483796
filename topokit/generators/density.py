"""How many edges each layer gets: the budget of a network and how layers share it.

A budget is a density, SET's epsilon, or a list with the density of each layer. `layer_densities`
turns it into densities for all that make graphs: `generate`, runs, `sparsify`, the classifier.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from topokit.generators.sampling import check_density, check_sizes
from topokit.tables import Table, choose

__all__ = [
    "DENSITIES",
    "density_from_epsilon",
    "epsilon_from_density",
    "equal_fan_in_densities",
    "er_densities",
    "erk_densities",
    "layer_densities",
    "shapes_of",
    "uniform_densities",
]

Shape = Sequence[int]


def shapes_of(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Return the shapes ``(n_out, n_in)`` of the layers between successive widths.

    Raises a ValueError if there are fewer than two widths or one is not a positive integer.

    Examples
    --------
    >>> shapes_of([784, 1000, 10])
    [(1000, 784), (10, 1000)]
    """
    if isinstance(widths, str | int) or len(widths) < 2:
        raise ValueError(f"expected at least two widths such as [784, 1000, 10], got {widths!r}")
    pairs = [check_sizes(a, b) for a, b in itertools.pairwise(widths)]
    return [(n_out, n_in) for n_in, n_out in pairs]


def layer_densities(
    shapes: Sequence[Shape],
    *,
    density: float | None = None,
    epsilon: float | None = None,
    densities: str | Sequence[float] | None = None,
) -> list[float]:
    """Return the density of each layer under a budget.

    Parameters
    ----------
    shapes : sequence of tuples
        Dimensions of each layer's weight, ``(n_out, n_in)`` or ``(n_out, n_in, kh, kw)``.
    density : float, optional
        Edges of the whole network over its possible edges, in [0, 1].
    epsilon : float, optional
        SET's budget: ``epsilon (n_in + n_out)`` edges in each layer, at most all possible edges;
        of a convolution with ``n_in kh kw`` in place of n_in.
    densities : str or sequence of float, optional
        With `density` or `epsilon`: how layers share the budget, a name of `DENSITIES`; by default
        "uniform" with `density` and "er" with `epsilon`. Under another rule than "er", `epsilon`
        sets the budget of the whole network. Alone: a list with the density of each layer.

    Returns
    -------
    list of float
        One density in [0, 1] for each layer.

    Raises
    ------
    TypeError
        If `densities` is neither a name nor a list.
    ValueError
        If not exactly one budget is given, a number is out of range, a name is unknown, or a list
        does not have one density for each layer.

    References
    ----------
    .. [1] Mocanu et al., Nature Communications 9:2383, 2018.
    .. [2] Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020.

    Examples
    --------
    >>> shapes = [(20, 50), (10, 20)]
    >>> layer_densities(shapes, epsilon=2), layer_densities(shapes, density=0.1)
    ([0.14, 0.3], [0.1, 0.1])
    >>> layer_densities(shapes, densities=[0.2, 1])
    [0.2, 1.0]
    """
    given = {"density": density, "epsilon": epsilon}
    words = " and ".join(f"{key} {value!r}" for key, value in given.items() if value is not None)
    if densities is not None and not isinstance(densities, str):
        if words:
            raise ValueError(f"expected a list of densities alone, got {words} with it")
        if not isinstance(densities, Sequence | np.ndarray):
            raise TypeError(
                f"densities: expected a list with one for each of {len(shapes)} layers, or the "
                f"name of an allocation, got {densities!r}; one number for all layers is density"
            )
        if len(densities) != len(shapes):
            raise ValueError(
                f"expected one density for each of {len(shapes)} layers, got {len(densities)}"
            )
        return [check_density(share, "each of densities") for share in densities]
    if (density is None) == (epsilon is None):
        raise ValueError(
            "expected exactly one of density and epsilon, got "
            + (words or "neither (nor a list of densities)")
        )
    if densities is not None:
        choose("allocation", densities, DENSITIES)
    if epsilon is not None:
        sizes = [math.prod(shape) for shape in shapes]
        shares = [
            density_from_epsilon(size // shape[0], shape[0], epsilon)
            for shape, size in zip(shapes, sizes, strict=True)
        ]
        if densities in (None, "er"):
            return shares
        total = sum(share * size for share, size in zip(shares, sizes, strict=True))
        density = min(1.0, total / sum(sizes))
    return DENSITIES[densities or "uniform"](shapes, density=check_density(density))


def density_from_epsilon(n_in: int, n_out: int, epsilon: float) -> float:
    r"""Return the density of a layer under SET's budget, at most 1.

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
       connectivity inspired by network science", Nature Communications 9:2383, 2018, equation 1.

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
    """Return SET's epsilon of a layer with this density: the inverse of `density_from_epsilon`.

    Of a complete layer the smallest that makes it complete.

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
    """Return the same density for every layer.

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
    A small last layer gets few edges: from 1000 to 10 units, 1 % is 10 edges for each class.

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
    """Return densities proportional to (n_in + n_out) / (n_in n_out) that meet a budget.

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
    .. [1] Mocanu et al., Nature Communications 9:2383, 2018.
    .. [2] Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020.

    Examples
    --------
    >>> shapes = [(300, 784), (100, 300), (10, 100)]
    >>> [round(p, 6) for p in er_densities(shapes, density=0.1)]
    [0.079568, 0.230189, 1.0]
    """
    raw = [(shape[0] + shape[1]) / (shape[0] * shape[1]) for shape in shapes]
    return _within_budget(raw, shapes, density)


def erk_densities(shapes: Sequence[Shape], *, density: float, power: float = 1.0) -> list[float]:
    """Return densities proportional to the sum over the product of all dimensions (ERK).

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
    """Return densities with the same mean fan-in in every layer that meet the network's budget.

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
    .. [1] Prabhu, Varma, Namboodiri, "Deep expander networks: efficient deep networks from graph
       theory", ECCV 2018: layers of given fan-in. That all layers have the same one is
       topokit's own choice.

    Examples
    --------
    >>> equal_fan_in_densities([(100, 50), (10, 100)], density=0.2)
    [0.2181..., 0.1090...]
    """
    raw = [1.0 / (math.prod(shape) // shape[0]) for shape in shapes]
    return _within_budget(raw, shapes, density)


def _within_budget(raw: Sequence[float], shapes: Sequence[Shape], density: float) -> list[float]:
    """Return `raw` scaled so that the budget is met and no density is above 1."""
    # Layers that would exceed density 1 become dense and their edges leave the budget, which
    # raises the scale of the others, so that further layers may exceed 1: repeat until none does.
    # At most one round for each layer.
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


DENSITIES: dict[str, Callable[..., list[float]]] = {
    "uniform": uniform_densities,
    "er": er_densities,
    "erk": erk_densities,
    "equal_fan_in": equal_fan_in_densities,
}
"""How layers share a budget, by name: ``(shapes, *, density) -> densities``."""
DENSITIES = Table("allocation", DENSITIES)
