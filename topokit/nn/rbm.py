"""A restricted Boltzmann machine with weights on the edges of one graph, and its likelihood."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topokit.graph import LayerGraph, Topology
from topokit.nn.kernels import edge_product
from topokit.nn.kernels.products import EdgeIndex
from topokit.nn.layers import SparseLinear
from topokit.tables import as_generator

# Learning. The gradient of the log-likelihood is the mean of h v over the data, hidden units given
# the data, minus its mean under the model. The second is intractable. Contrastive divergence (CD-k)
# replaces it by samples k Gibbs steps away from the data: cheap and biased, but good enough to
# learn features. The persistent variant (PCD) continues from the last batch's samples instead; such
# chains come closer to the model's distribution than k steps from the data do.
#
# The update is written as a loss, `batch_loss`: the difference of the mean free energies of data
# and samples has exactly these gradients. So autograd, the kernels, any torch optimizer and every
# rewiring rule work as for other layers. Its value is replaced by the reconstruction error, since
# a difference of free energies does not measure progress.

__all__ = [
    "LogPartition",
    "SparseRBM",
    "annealed_log_partition",
    "exact_log_partition",
    "log_likelihood",
    "sample_units",
    "set_rbm",
]


class SparseRBM(nn.Module):
    """A binary restricted Boltzmann machine with weights at the edges of a graph only.

    The energy of visible units ``v`` and hidden units ``h``, all 0 or 1, is ``-a.v - c.h - h.W.v``
    with ``a`` and ``c`` the biases and ``W`` the edge values; ``p(v, h)`` is proportional to
    ``exp(-energy)``.

    Parameters
    ----------
    graph : LayerGraph
        Visible units are its inputs, hidden units its outputs.
    cd_steps : int
        Gibbs steps before the negative phase, at least 1: CD-k, or PCD-k if `persistent`.
    persistent : bool
        Continue the negative phase's chains from one batch to the next instead of starting them
        at the data.
    chains : int
        Number of persistent chains; initially each visible unit is 0 or 1 with equal probability.
    threshold : float
        Values above it count as 1, others as 0: in `batch_loss` and `reconstruction_error` only.
    deviation : float
        Standard deviation of the initial weights, which are normal with mean 0. Biases start at 0.
    kernel : {"auto", "csr", "dense"}
        See `topokit.nn.kernels`.
    rng : numpy.random.Generator
        Draws initial weights, then initial chains.
    generator : torch.Generator, optional
        Draws the samples of training; by default one seeded from `rng`.

    Attributes
    ----------
    fc1 : SparseLinear
        Weights (n_edges,) and the hidden units' biases (n_out,); rewired like any layer.
    visible_bias : torch.nn.Parameter
        (n_in,).
    chains : torch.Tensor or None
        (chains, n_in) visible units of the persistent chains; in the ``state_dict``.
    generator : torch.Generator

    Raises
    ------
    ValueError
        If a number is out of range.

    Notes
    -----
    A Gibbs step takes O(batch * n_edges) time for its products and O(batch * (n_in + n_out)) for
    its random numbers; memory is O(n_edges + batch * (n_in + n_out)).

    References
    ----------
    .. [1] Hinton, "Training products of experts by minimizing contrastive divergence", Neural
       Computation 14, 2002.
    .. [2] Tieleman, "Training restricted Boltzmann machines using approximations to the likelihood
       gradient", ICML 2008.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 2, 5], (2, 3))
    >>> rbm = SparseRBM(graph, rng=np.random.default_rng(0))
    >>> optimizer = torch.optim.SGD(rbm.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     rbm.batch_loss(torch.ones(8, 3)).backward()
    ...     optimizer.step()
    >>> rbm.fc1.values.grad.shape, bool((rbm.visible_bias > 0).all())
    (torch.Size([3]), True)
    """

    def __init__(
        self,
        graph: LayerGraph,
        *,
        cd_steps: int = 1,
        persistent: bool = False,
        chains: int = 100,
        threshold: float = 0.5,
        deviation: float = 0.05,
        kernel: str = "auto",
        rng: np.random.Generator | int,
        generator: torch.Generator | None = None,
    ) -> None:
        rng = as_generator(rng)
        super().__init__()
        for name, number in (("cd_steps", cd_steps), ("chains", chains)):
            if number < 1:
                raise ValueError(f"expected {name} of at least 1, got {number}")
        if not deviation >= 0:
            raise ValueError(f"expected a deviation of at least 0, got {deviation}")
        self.fc1 = SparseLinear(graph, kernel=kernel, init="zeros", rng=rng)
        kind = self.fc1.values.dtype
        drawn = torch.from_numpy(rng.standard_normal(graph.n_edges) * deviation)
        self.fc1.values.data.copy_(drawn)
        self.visible_bias = nn.Parameter(torch.zeros(graph.n_in, dtype=kind))
        self.cd_steps, self.threshold = int(cd_steps), float(threshold)
        self.chains: torch.Tensor | None
        initial = None
        if persistent:
            initial = torch.from_numpy(rng.integers(2, size=(chains, graph.n_in))).to(kind)
        self.register_buffer("chains", initial)
        if generator is None:
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        self.generator = generator
        self._back: tuple[EdgeIndex, EdgeIndex, torch.Tensor] | None = None

    def forward(self, visible: torch.Tensor) -> torch.Tensor:
        """Return the probabilities (batch, n_out) that hidden units are 1, given visible units.

        Visible units may be probabilities; samples are flattened.
        """
        hidden = torch.sigmoid(self.fc1(visible.flatten(1)))
        self.fc1.keep("outputs", hidden)
        return hidden

    def visible_scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the log-odds (batch, n_in) that visible units are 1, given hidden (batch, n_out).

        No gradients flow through them.
        """
        index, places = self._transposed()
        with torch.no_grad():
            values = self.fc1.values.detach()[places]
            return edge_product(hidden, values, self.visible_bias.detach(), index, self.fc1.kernel)

    def free_energy(self, visible: torch.Tensor) -> torch.Tensor:
        """Return (batch,) free energies, in nats: ``-log`` of the sum of ``exp(-energy)`` over h.

        ``log p(v)`` is ``-free_energy(v) - log Z``, with Z the partition function.
        """
        visible = visible.flatten(1)
        hidden = nn.functional.softplus(self.fc1(visible)).sum(dim=1)
        return -hidden - visible @ self.visible_bias

    @torch.no_grad()
    def gibbs(
        self, visible: torch.Tensor, *, steps: int = 1, generator: torch.Generator
    ) -> torch.Tensor:
        """Take Gibbs steps: sample hidden units given visible ones, then visible given hidden.

        Parameters
        ----------
        visible : (batch, n_in) tensor
        steps : int
            With 0 the visible units are returned as they are.
        generator : torch.Generator

        Returns
        -------
        (batch, n_in) tensor
            Of zeros and ones.
        """
        for _ in range(steps):
            hidden = sample_units(self(visible), generator=generator)
            visible = sample_units(torch.sigmoid(self.visible_scores(hidden)), generator=generator)
        return visible

    def batch_loss(self, x: torch.Tensor) -> torch.Tensor:
        """Return a loss whose gradients are those of contrastive divergence.

        Its value is the reconstruction error of the batch (mean squared difference, hidden units
        sampled), as printed by the code of SET's authors. Its gradients are

            ``-(mean of p(h|v) v over the data - mean of p(h|v) v over the samples)``

        for weights, and likewise for biases, so any torch optimizer can be used, with momentum and
        weight decay. Visible samples are 0 or 1; for hidden units their probabilities are used,
        which has the same mean as sampling them and less variance.

        Parameters
        ----------
        x : (batch, ...) tensor
            Flattened; values above the threshold count as 1.

        Returns
        -------
        scalar tensor
        """
        data = self.binary(x)
        generator = self.generator
        with torch.no_grad():
            hidden = sample_units(self(data), generator=generator)
            guess = torch.sigmoid(self.visible_scores(hidden))
            error = nn.functional.mse_loss(guess, data)
            if self.chains is None:
                first = sample_units(guess, generator=generator)
                samples = self.gibbs(first, steps=self.cd_steps - 1, generator=generator)
            else:
                samples = self.gibbs(self.chains, steps=self.cd_steps, generator=generator)
                self.chains.copy_(samples)
            weights = torch.cat(
                [data.new_full((len(part),), sign / len(part))
                 for part, sign in ((data, 1.0), (samples, -1.0))]
            )  # fmt: skip
        contrast = (self.free_energy(_stacked(data, samples)) * weights).sum()
        return error + (contrast - contrast.detach())

    @torch.no_grad()
    def reconstruction_error(
        self, x: torch.Tensor, *, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Return each sample's reconstruction error: mean square over visible units, in [0, 1].

        Visible units are compared with their probabilities given sampled hidden units.

        Parameters
        ----------
        x : (batch, ...) tensor
            Flattened; values above the threshold count as 1.
        generator : torch.Generator, optional
            Draws the hidden units. Without it their probabilities are used instead of samples;
            errors are then much smaller, since a probability carries more information than a bit.

        Returns
        -------
        (batch,) tensor
        """
        data = self.binary(x)
        hidden = self(data) if generator is None else sample_units(self(data), generator=generator)
        guess = torch.sigmoid(self.visible_scores(hidden))
        return (guess - data).square().mean(dim=1)

    def binary(self, x: torch.Tensor) -> torch.Tensor:
        """Return samples, flattened, as zeros and ones: which values are above the threshold.

        A value that is ``nan`` stays so, and makes what is computed from it undefined.
        """
        x = x.flatten(1)
        states = (x > self.threshold).to(self.fc1.values.dtype)
        return torch.where(torch.isnan(x), math.nan, states) if x.is_floating_point() else states

    def _transposed(self) -> tuple[EdgeIndex, torch.Tensor]:
        """Return the index of the graph from hidden to visible units, and its edges' positions.

        The positions are those of the edges in the values of `fc1`.
        """
        index = self.fc1.index
        if self._back is None or self._back[0] is not index:
            starts, units, places = index.transposed
            n_out, n_in = index.graph.shape
            back = EdgeIndex(LayerGraph((n_in, n_out), starts, units))
            device = self.fc1.values.device
            self._back = (index, back, torch.from_numpy(places).to(device, torch.int64))
        return self._back[1:]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_back": None}


def set_rbm(
    topology: Topology,
    *,
    cd_steps: int = 1,
    persistent: bool = False,
    chains: int = 100,
    threshold: float = 0.5,
    deviation: float = 0.05,
    kernel: str = "auto",
    rng: np.random.Generator | int,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Build the restricted Boltzmann machine of the SET paper from a topology of one layer.

    The model is trained without labels. In the frames of a run, ``train_loss`` and ``test_loss``
    are reconstruction errors (mean squared difference per visible unit, in [0, 1], hidden units
    sampled), and ``test_accuracy`` is ``nan``. Every test draws its hidden units from the same
    seed, never from the random stream of the training.

    Parameters
    ----------
    topology : dict of LayerGraph
        One layer, from visible to hidden units.
    cd_steps, persistent, chains, threshold, deviation, kernel, rng, generator
        See `SparseRBM`.

    Returns
    -------
    SparseRBM
        With the layer ``fc1``.

    Raises
    ------
    ValueError
        If there is not exactly one layer, or a number is out of range.

    Notes
    -----
    Differences from the authors' sparse code: the update uses the hidden units' probabilities where
    theirs are sampled; visible samples are 0 or 1 where theirs are probabilities; weight decay is
    the optimizer's, while theirs is not multiplied by the learning rate.

    References
    ----------
    .. [1] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nature Communications 9:2383, 2018.

    Examples
    --------
    >>> topology = {"fc1": LayerGraph.from_edge_ids([0, 5], (2, 4))}
    >>> model = set_rbm(topology, cd_steps=3, rng=np.random.default_rng(0))
    >>> model(torch.ones(3, 4)).shape
    torch.Size([3, 2])
    """
    rng = as_generator(rng)
    graphs: Sequence[LayerGraph] = list(topology.values())
    if len(graphs) != 1:
        words = ", ".join(topology) or "none"
        raise ValueError(f"expected one layer, from visible to hidden units, got {words}")
    return SparseRBM(
        graphs[0],
        cd_steps=cd_steps,
        persistent=persistent,
        chains=chains,
        threshold=threshold,
        deviation=deviation,
        kernel=kernel,
        rng=rng,
        generator=generator,
    )


def sample_units(probabilities: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    """Return random units that are 1 with given probabilities.

    Parameters
    ----------
    probabilities : (batch, units) tensor
    generator : torch.Generator
        Best on the device of the probabilities; otherwise its draws are copied there.

    Returns
    -------
    (batch, units) tensor
        Zeros and ones; in memory (units, batch), like all activations.

    Examples
    --------
    >>> sample_units(torch.tensor([[0.0, 1.0]]), generator=torch.Generator())
    tensor([[0., 1.]])
    """
    chances = probabilities.t()
    draws = torch.rand(
        chances.shape, generator=generator, device=generator.device, dtype=chances.dtype
    )
    return (draws.to(chances.device) < chances).to(chances.dtype).t()


def _stacked(*parts: torch.Tensor) -> torch.Tensor:
    """Return batches concatenated, as (units, batch) in memory."""
    return torch.cat([part.t() for part in parts], dim=1).t()


# Likelihood. ``log p(v) = -free_energy(v) - log Z``, and Z sums over all states of one side.
#
# Up to 24 units on the smaller side are enumerated. For larger machines Z is estimated by annealed
# importance sampling (AIS). Idea: the base-rate model, whose visible units are independent, has a
# known Z0. A path of intermediate distributions p_b, b from 0 to 1, leads from it to the machine. A
# chain starts with a sample of the first and takes one Gibbs step for each b; the product over the
# path of p_next(v) / p_b(v), unnormalised, is a weight whose mean over chains is an unbiased
# estimate of Z / Z0. Only ratios of successive distributions enter, so their variance falls with
# the number of steps. Cost: a Gibbs step of all chains for each b. Why this way: a single
# importance weight from the base rates to the machine would have far too large a variance.

MAX_ENUMERATED_UNITS = 24  # 16 million states
STATES_PER_BLOCK = 1 << 12
SMOOTHING = 1.0  # samples of each value added to the counts of the base rates


class LogPartition(NamedTuple):
    """An estimate of the log partition function.

    Parameters
    ----------
    log_z : float
        In nats.
    low, high : float
        In nats: the logarithms of the mean weight minus and plus three standard errors; `low` is
        ``-inf`` where that is not positive, both are ``nan`` for a single run. Modes that no chain
        found are not accounted for.
    effective_runs : float
        Effective sample size: runs of equal weight that would be as informative, from 1 to the
        number of runs.
    largest_share : float
        Share of the sum of all weights that the largest has, from 1 over the number of runs to 1:
        near 1 a single chain decides the estimate.
    """

    log_z: float
    low: float
    high: float
    effective_runs: float
    largest_share: float


@torch.no_grad()
def exact_log_partition(rbm: SparseRBM) -> float:
    """Return the log partition function of a small machine, in nats, by enumeration.

    Parameters
    ----------
    rbm : SparseRBM
        With at most 24 units on its smaller side.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If both sides are larger.

    Notes
    -----
    The 2**n states of the smaller side are enumerated in blocks of 4096; the sum over the other
    side has a closed form. O(2**n * n_edges) time, O(4096 * (n_in + n_out)) memory.

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
    if n > MAX_ENUMERATED_UNITS:
        raise ValueError(
            f"expected at most {MAX_ENUMERATED_UNITS} visible or hidden units to enumerate, got "
            f"{n_in} and {n_out}; estimate with annealed_log_partition"
        )
    bits = torch.arange(n, device=rbm.visible_bias.device)
    bias = _bias(rbm)
    parts = []
    for start in range(0, 1 << n, STATES_PER_BLOCK):
        stop = min(start + STATES_PER_BLOCK, 1 << n)
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
    """Return an estimate of the log partition function by annealed importance sampling.

    Chains start with samples of the base-rate model, whose visible units are independent with the
    rates of the data, and take a Gibbs step in each of the distributions ``p_b(v) ~ exp((1 - b)
    a0.v + b a.v) * prod_j (1 + exp(b (W v + c)_j))`` with b increasing from 0 to 1.

    Parameters
    ----------
    rbm : SparseRBM
    x : (samples, ...) tensor
        Training data, for the base rates; values above the machine's threshold count as 1. One
        sample of each value is added to every unit's counts.
    runs : int
        Number of independent chains, at least 1.
    betas : int or sequence of float
        Inverse temperatures b, increasing from 0 to 1; or their number, at least 2, spaced about as
        in the paper: 3.5 % of them up to 0.5, 27.5 % from there to 0.9, the others above.
    generator : torch.Generator

    Returns
    -------
    LogPartition

    Raises
    ------
    ValueError
        If there are no runs, or the b's do not increase from 0 to 1.

    Notes
    -----
    The estimate of Z is unbiased, so log Z is underestimated on average, and likelihoods are
    overestimated, the more the fewer runs are effective. O(runs * (n_edges + n_in + n_out)) time
    for each b.

    References
    ----------
    .. [1] Salakhutdinov, Murray, "On the quantitative analysis of deep belief networks", ICML 2008.

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
        The log partition function, exact or estimated.

    Returns
    -------
    float
        ``nan`` without samples, or with a value that is ``nan``.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> rbm = SparseRBM(LayerGraph.from_edge_ids([], (2, 3)), rng=np.random.default_rng(0))
    >>> round(log_likelihood(rbm, torch.eye(3), exact_log_partition(rbm)), 4)
    -2.0794
    """
    parts = [-rbm.free_energy(rbm.binary(part)).double() for part in x.split(STATES_PER_BLOCK)]
    return float(torch.cat(parts).mean()) - log_z


def _bias(rbm: SparseRBM) -> torch.Tensor:
    """Return the hidden units' biases."""
    assert rbm.fc1.bias is not None
    return rbm.fc1.bias.detach()


def _betas(betas: int | Sequence[float] | NDArray[np.float64]) -> list[float]:
    """Return the inverse temperatures, increasing from 0 to 1."""
    if isinstance(betas, int):
        if betas < 2:
            raise ValueError(f"expected at least 2 betas, got {betas}")
        return np.interp(np.linspace(0, 1, betas), (0, 0.035, 0.31, 1), (0, 0.5, 0.9, 1)).tolist()
    given = np.asarray(betas, dtype=float)
    if given.ndim != 1 or len(given) < 2 or given[0] or given[-1] != 1 or np.diff(given).min() < 0:
        raise ValueError(
            "expected betas that increase from 0 to 1, such as numpy.linspace(0, 1, 1000)"
        )
    return given.tolist()


def _summary(log_weights: NDArray[np.float64], log_base: float) -> LogPartition:
    """Return the estimate from the chains' log weights: the logarithm of the mean weight."""
    runs, top = len(log_weights), float(log_weights.max())
    weights = np.exp(log_weights - top)
    mean = float(weights.mean())
    error = float(weights.std(ddof=1)) / math.sqrt(runs) if runs > 1 else math.nan
    ends = [mean - 3 * error, mean + 3 * error]
    low, high = (top + math.log(end) if end > 0 else -math.inf for end in ends)
    if runs == 1:
        low = high = math.nan
    effective = float(weights.sum() ** 2 / np.square(weights).sum())
    log_z, largest = log_base + top + math.log(mean), float(1 / weights.sum())
    return LogPartition(log_z, log_base + low, log_base + high, effective, largest)
