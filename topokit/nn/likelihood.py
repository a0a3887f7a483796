"""How likely data are under a Boltzmann machine: its partition function, exact and estimated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topokit.nn.rbm import SparseRBM, sample_units

__all__ = ["LogPartition", "annealed_log_partition", "exact_log_partition", "log_likelihood"]

WIDEST_ENUMERATION = 24  # units: 16 million states
STATES = 1 << 12
SMOOTHING = 1.0  # fictitious samples of each value in the base rates


class LogPartition(NamedTuple):
    """An estimate of the log partition function.

    Parameters
    ----------
    log_z : float
        In nats.
    low, high : float
        Three standard errors of the mean weight to each side, in nats; `low` is ``-inf`` where
        the lower end is not positive. The interval knows nothing of modes that no chain found.
    effective_runs : float
        Runs of equal weight that would be as informative, from 1 to their number.
    """

    log_z: float
    low: float
    high: float
    effective_runs: float


@torch.no_grad()
def exact_log_partition(rbm: SparseRBM) -> float:
    """Sum over all states of a small machine: the log partition function, in nats.

    Parameters
    ----------
    rbm : SparseRBM
        With at most 24 units on its smaller side.

    Raises
    ------
    ValueError
        If both sides are larger.

    Notes
    -----
    The smaller side's 2**n states are enumerated in blocks, the other side is summed in closed
    form: O(2**n * n_edges) time, O(4096 * (n_in + n_out)) memory.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> rbm = SparseRBM(LayerGraph.from_edge_ids([], (2, 3)), rng=np.random.default_rng(0))
    >>> round(exact_log_partition(rbm) / math.log(2), 5)
    5.0
    """
    graph = rbm.fc1.graph
    n_out, n_in = graph.shape
    n = min(n_out, n_in)
    if n > WIDEST_ENUMERATION:
        raise ValueError(
            f"expected at most {WIDEST_ENUMERATION} visible or hidden units to enumerate, got "
            f"{n_in} and {n_out}; estimate with annealed_log_partition"
        )
    bits = torch.arange(n, device=rbm.visible_bias.device)
    bias = _bias(rbm)
    parts = []
    for start in range(0, 1 << n, STATES):
        stop = min(start + STATES, 1 << n)
        codes = torch.arange(start, stop, device=bits.device)[:, None]
        state = (codes >> bits & 1).to(rbm.visible_bias.dtype)
        if n == n_out:
            own, scores = state @ bias, rbm.visible_scores(state)
        else:
            own, scores = state @ rbm.visible_bias, rbm.fc1(state)
        total = own.double() + nn.functional.softplus(scores).sum(dim=1, dtype=torch.float64)
        parts.append(torch.logsumexp(total, dim=0))
    return float(torch.logsumexp(torch.stack(parts), dim=0))


@torch.no_grad()
def annealed_log_partition(
    rbm: SparseRBM,
    x: torch.Tensor,
    *,
    runs: int = 100,
    betas: int | Sequence[float] | NDArray[np.float64] = 14_500,
    generator: torch.Generator,
) -> LogPartition:
    """Estimate the log partition function by annealed importance sampling.

    Chains start at the base-rate model, whose visible units are independent with the rates of the
    data, and pass through ``p_b(v) ~ exp((1 - b) a0.v + b a.v) * prod_j (1 + exp(b (W v + c)_j))``
    with b rising from 0 to 1, a Gibbs step at each.

    Parameters
    ----------
    rbm : SparseRBM
    x : (samples, ...) tensor
        Training data, for the base rates; values above the machine's threshold count as 1. A
        sample of each value is added to every unit's count.
    runs : int
        Number of independent chains, at least 1.
    betas : int or sequence of float
        The b's, rising from 0 to 1; or how many, spread about as in the paper: 3.5 % of them up to
        0.5, 27.5 % from there to 0.9, the others above.
    generator : torch.Generator

    Returns
    -------
    LogPartition

    Raises
    ------
    ValueError
        If there are no chains or the b's do not rise from 0 to 1.

    Notes
    -----
    ``Z`` is estimated without bias, so ``log Z`` is underestimated on average, and likelihoods
    overestimated, the more the fewer chains are effective. O(runs * (n_edges + n_in + n_out))
    time for each b.

    References
    ----------
    Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> graph = LayerGraph.from_edge_ids(range(0, 20, 3), (4, 5))
    >>> rbm = SparseRBM(graph, deviation=1, rng=np.random.default_rng(0))
    >>> draws = torch.Generator().manual_seed(0)
    >>> estimate = annealed_log_partition(rbm, torch.eye(5), betas=200, generator=draws)
    >>> abs(estimate.log_z - exact_log_partition(rbm)) < 0.1
    True
    """
    if runs < 1:
        raise ValueError(f"expected at least 1 run, got {runs}")
    steps = _betas(betas)
    end, hidden_bias = rbm.visible_bias.detach(), _bias(rbm)
    data = rbm.binary(x)
    ones = data.sum(dim=0) + SMOOTHING
    base = torch.log(ones / (len(data) + 2 * SMOOTHING - ones))
    rates = torch.sigmoid(base).expand(runs, -1)
    visible = sample_units(rates, generator=generator)
    weights = torch.zeros(runs, dtype=torch.float64, device=visible.device)
    for before, now in itertools.pairwise(steps):
        scores = rbm.fc1(visible)
        softplus = nn.functional.softplus
        gain = softplus(now * scores) - softplus(before * scores)
        shift = visible @ (end - base)
        weights += gain.sum(dim=1, dtype=torch.float64) + (now - before) * shift.double()
        if now < 1:
            chance = torch.sigmoid(now * scores)
            hidden = sample_units(chance, generator=generator)
            back = now * rbm.visible_scores(hidden) + (1 - now) * base
            visible = sample_units(torch.sigmoid(back), generator=generator)
    log_base = float(nn.functional.softplus(base).sum(dtype=torch.float64))
    log_base += hidden_bias.numel() * math.log(2)
    return _summary(weights.cpu().numpy(), log_base)


@torch.no_grad()
def log_likelihood(rbm: SparseRBM, x: torch.Tensor, log_z: float) -> float:
    """Return the mean log-likelihood of samples, in nats.

    Parameters
    ----------
    rbm : SparseRBM
    x : (samples, ...) tensor
        Values above the machine's threshold count as 1.
    log_z : float
        The log partition function: exact or estimated.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> rbm = SparseRBM(LayerGraph.from_edge_ids([], (2, 3)), rng=np.random.default_rng(0))
    >>> round(log_likelihood(rbm, torch.eye(3), exact_log_partition(rbm)), 4)
    -2.0794
    """
    parts = [-rbm.free_energy(rbm.binary(part)).double() for part in x.split(STATES)]
    return float(torch.cat(parts).mean()) - log_z


def _bias(rbm: SparseRBM) -> torch.Tensor:
    """The hidden units' biases."""
    assert rbm.fc1.bias is not None
    return rbm.fc1.bias.detach()


def _betas(betas: int | Sequence[float] | NDArray[np.float64]) -> list[float]:
    """The inverse temperatures, rising from 0 to 1."""
    if isinstance(betas, int):
        if betas < 2:
            raise ValueError(f"expected at least 2 betas, got {betas}")
        return np.interp(np.linspace(0, 1, betas), (0, 0.035, 0.31, 1), (0, 0.5, 0.9, 1)).tolist()
    given = np.asarray(betas, dtype=float)
    if given.ndim != 1 or len(given) < 2 or given[0] or given[-1] != 1 or np.diff(given).min() < 0:
        raise ValueError("expected betas that rise from 0 to 1, such as numpy.linspace(0, 1, 1000)")
    return given.tolist()


def _summary(log_weights: NDArray[np.float64], log_base: float) -> LogPartition:
    """The estimate from the chains' log weights: their mean in the linear scale."""
    runs, top = len(log_weights), float(log_weights.max())
    weights = np.exp(log_weights - top)
    mean = float(weights.mean())
    error = float(weights.std(ddof=1)) / math.sqrt(runs) if runs > 1 else math.nan
    ends = [mean - 3 * error, mean + 3 * error]
    low, high = (top + math.log(end) if end > 0 else -math.inf for end in ends)
    if runs == 1:
        low = high = math.nan
    effective = float(weights.sum() ** 2 / np.square(weights).sum())
    return LogPartition(log_base + top + math.log(mean), log_base + low, log_base + high, effective)
