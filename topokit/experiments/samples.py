"""What a model learns from: samples gathered in batches, and what is asked of its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import nn

from topokit.data.samples import Data
from topokit.nn.kernels.products import NATIVE, gathered, one_by_one
from topokit.nn.layers import sparse_layers

__all__ = [
    "CLASSES",
    "NUMBERS",
    "OBJECTIVES",
    "Batch",
    "Classes",
    "Numbers",
    "Samples",
    "evaluate",
    "shuffled_together",
]

EVALUATION_BATCH = 2000
WIDEST_CELLS = 1 << 26  # samples times units of the widest layer that are evaluated at once
SHARE_OF_MEMORY = 0.5  # of a device's free memory that samples may take


class Batch(NamedTuple):
    """Some samples, on the device where they are used.

    Parameters
    ----------
    x : (n, n_features) tensor
    y : (n, ...) tensor
        Classes, or numbers to be predicted.
    weights : (n,) tensor or None
        How much each sample counts, 1 on average over all samples; None: all alike.
    """

    x: torch.Tensor
    y: torch.Tensor
    weights: torch.Tensor | None = None

    def share(self, rank: int, size: int) -> Batch:
        """Return the part of one of several processes."""
        x, y = (each.tensor_split(size)[rank] for each in (self.x, self.y))
        weights = self.weights
        return Batch(x, y, None if weights is None else weights.tensor_split(size)[rank])


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return a tensor of an array; torch takes no read-only memory, which is copied."""
    return torch.from_numpy(np.require(array, requirements="W"))


def _taken(x: torch.Tensor, at: Any) -> torch.Tensor:
    """Return some samples, at a slice or at positions; in a tenth of the time of ``x[at]``."""
    return x[at] if isinstance(at, slice) else x.index_select(0, at)


class Samples:
    """Samples from which batches are gathered, on the device on which the model is trained.

    Parameters
    ----------
    x : (n, n_features) float32 array, or scipy.sparse array
        A sparse one stays as it is; its batches are dense.
    y : (n, ...) array
    weights : (n,) float32 array, optional
    device : torch.device or str
    change : callable, optional
        ``change(x, rng) -> x`` of a batch's numpy array, such as `Data.augmented`.

    Notes
    -----
    On a device other than the CPU the samples are stored there once, if they take at most half of
    its free memory, and batches are gathered there. Sparse samples, those that are changed at
    random, and those that do not fit stay in the machine's memory; each batch is copied.

    Examples
    --------
    >>> samples = Samples(np.eye(4, dtype=np.float32), np.arange(4))
    >>> [len(batch.x) for batch in samples.shuffled(3, np.random.default_rng(0))]
    [3, 1]
    """

    def __init__(
        self,
        x: Any,
        y: NDArray[Any],
        weights: NDArray[np.float32] | None = None,
        *,
        device: torch.device | str = "cpu",
        change: Callable[[Any, np.random.Generator], Any] | None = None,
    ) -> None:
        self.device, self.change = torch.device(device), change
        self.sparse = sp.issparse(x)
        self._x: Any = x if self.sparse else _tensor(x)
        self._y = _tensor(y)
        self._weights = None if weights is None else _tensor(weights)
        self.resident = not self.sparse and change is None and self._fits()
        if self.resident:
            self._x, self._y = self._x.to(self.device), self._y.to(self.device)
            self._weights = None if weights is None else self._moved(self._weights)

    @classmethod
    def of(cls, data: Data, device: torch.device | str) -> tuple[Samples, Samples]:
        """Return the training and the test part of a data set."""
        change = None if data.augment is None else data.augmented
        return (
            cls(data.x_train, data.y_train, device=device, change=change),
            cls(data.x_test, data.y_test, device=device),
        )

    def __len__(self) -> int:
        return int(self._x.shape[0])

    @property
    def y(self) -> torch.Tensor:
        """What is to be predicted, of all samples."""
        return self._y

    @property
    def weights(self) -> torch.Tensor | None:
        """How much each sample counts, or None."""
        return self._weights

    def __getitem__(self, positions: NDArray[np.int64]) -> Samples:
        """Return the samples at some positions."""
        at = torch.from_numpy(positions).to(self._y.device)
        part = object.__new__(Samples)
        part.__dict__.update(self.__dict__)
        part._x = self._x[positions] if self.sparse else self._x[at]
        part._y = self._y[at]
        part._weights = None if self._weights is None else self._weights[at]
        return part

    def shuffled(
        self, size: int, rng: np.random.Generator, *, by_units: Callable[[], bool] = bool
    ) -> Iterator[Batch]:
        """Yield all samples once in random order, in batches; the last may be smaller.

        Where ``by_units()``, asked before each batch, is True, its inputs are a transposed view of
        (n_features, n) memory if they can be gathered so.
        """
        order = torch.from_numpy(rng.permutation(len(self)))
        if self.resident:
            order = order.to(self.device)
        x = self._x
        fits = self.resident and self.device.type == "cpu" and x.ndim == 2
        fits = fits and x.dtype in NATIVE and x.is_contiguous()
        for at in order.split(size):
            yield self._batch(at, rng, by_units=fits and by_units())

    def in_order(self, size: int) -> Iterator[Batch]:
        """Yield all samples once, unchanged, in batches; the last may be smaller."""
        for start in range(0, len(self), size):
            yield self._batch(slice(start, start + size), None)

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """Yield the inputs of all samples in order, as `torch.Tensor.split` does."""
        return (batch.x for batch in self.in_order(size))

    @property
    def inputs(self) -> Any:
        """All inputs where rules look at them: a tensor, or these samples if they are sparse."""
        return self if self.sparse else self._x

    def _batch(self, at: Any, rng: np.random.Generator | None, *, by_units: bool = False) -> Batch:
        if self.sparse:
            rows = at if isinstance(at, slice) else at.numpy()
            x = torch.from_numpy(self._x[rows].toarray())
        else:
            x = gathered(self._x, at).t() if by_units else _taken(self._x, at)
        if self.change is not None and rng is not None:
            x = torch.from_numpy(self.change(x.numpy(), rng))
        weights = None if self._weights is None else _taken(self._weights, at)
        if not self.resident:
            return Batch(self._moved(x), self._moved(_taken(self._y, at)), self._moved(weights))
        return Batch(x, _taken(self._y, at), weights)

    def _moved(self, part: Any) -> Any:
        return None if part is None else part.to(self.device)

    def _fits(self) -> bool:
        if self.device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(self.device)
        return self._x.nbytes + self._y.nbytes <= SHARE_OF_MEMORY * free


def shuffled_together(
    samples: Sequence[Samples], size: int, rngs: Sequence[np.random.Generator]
) -> Iterator[Batch]:
    """Yield batches of several models together, each with its own samples in its own order.

    Parameters
    ----------
    samples : sequence of Samples
        Of each model; equally many.
    size : int
    rngs : sequence of numpy.random.Generator
        Of each model; drawn from as in `Samples.shuffled`.

    Yields
    ------
    Batch
        Inputs are (n, models, n_features), and classes (models, n).

    Examples
    --------
    >>> samples = Samples(np.eye(4, dtype=np.float32), np.arange(4))
    >>> rngs = [np.random.default_rng(i) for i in range(3)]
    >>> [tuple(batch.x.shape) for batch in shuffled_together([samples] * 3, 3, rngs)]
    [(3, 3, 4), (1, 3, 4)]
    """
    first = samples[0]
    same = all(each is first for each in samples)
    if same and first.resident and not one_by_one(first.y):
        orders = [torch.from_numpy(rng.permutation(len(first))) for rng in rngs]
        for at in torch.stack(orders).to(first.device).split(size, dim=1):
            batch = first._batch(at.reshape(-1), None)
            yield Batch(batch.x.unflatten(0, at.shape).transpose(0, 1), batch.y.view(at.shape))
        return
    pairs = zip(samples, rngs, strict=True)
    each = [own.shuffled(size, rng, by_units=lambda: True) for own, rng in pairs]
    for batches in zip(*each, strict=True):
        x = torch.stack([batch.x.t() for batch in batches])
        yield Batch(x.permute(2, 0, 1), torch.stack([batch.y for batch in batches]))


def _squared_error(
    scores: torch.Tensor, y: torch.Tensor, reduction: str = "mean", *, output_slope: bool = False
) -> torch.Tensor:
    r"""Return half the squared error of the sigmoids of scores, summed over the classes.

    .. math:: \tfrac12 \sum_k (a_k - t_k)^2, \qquad a_k = \sigma(z_k)

    with the scores :math:`z`, and :math:`t_k` 1 for the class of the sample and else 0. Its
    gradient is :math:`(a_k - t_k) \, \sigma'(z_k)`. With `output_slope` the value is the same and
    the gradient :math:`(a_k - t_k) \, \sigma'(a_k)`.

    Parameters
    ----------
    scores : (n, n_classes, ...) tensor
    y : (n, ...) tensor
        Classes.
    reduction : {"mean", "sum", "none"}
        Over the samples, as in `torch.nn.functional.cross_entropy`.
    output_slope : bool
        Whether the slope of the sigmoid is taken at the output in place of the score.
    """
    outputs = scores.sigmoid()
    errors = outputs - torch.zeros_like(scores).scatter_(1, y.unsqueeze(1), 1.0)
    each = 0.5 * errors.square().sum(dim=1)
    if output_slope:
        slope = outputs.sigmoid() * (1 - outputs.sigmoid())
        moves = (scores * (errors * slope).detach()).sum(dim=1)
        each = each.detach() + (moves - moves.detach())
    return each if reduction == "none" else each.mean() if reduction == "mean" else each.sum()


class Classes:
    r"""Outputs are scores of classes: a loss, and accuracy.

    A model that learns without labels has a `batch_loss` and a `reconstruction_error` of its own.

    Parameters
    ----------
    loss : callable, optional
        ``loss(scores, y, reduction="mean")``, as `torch.nn.functional.cross_entropy`, which is the
        default: softmax with cross-entropy, in nats.
    """

    score = "accuracy"

    def __init__(self, loss: Callable[..., torch.Tensor] = nn.functional.cross_entropy) -> None:
        self._loss = loss

    def loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        if hasattr(model, "batch_loss"):
            return model.batch_loss(batch.x)
        if batch.weights is None:
            return self._loss(model(batch.x), batch.y)
        each = self._loss(model(batch.x), batch.y, reduction="none")
        return (each * batch.weights).mean()

    def losses(self, scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of each of several models.

        Parameters
        ----------
        scores : (models, classes, n) tensor
        y : (models, n) tensor
        """
        if one_by_one(scores):
            pairs = zip(scores, y, strict=True)
            return torch.stack([self._loss(own.t(), of) for own, of in pairs])
        return self._loss(scores, y, reduction="none").mean(dim=1)

    def evaluate(self, model: Any, samples: Samples, size: int) -> tuple[float, float]:
        """Return mean loss and accuracy; see `evaluate`."""
        total, right, count = 0.0, 0.0, 0.0
        unlabelled = getattr(model, "reconstruction_error", None)
        draws = torch.Generator(samples.device).manual_seed(0)  # the same in every evaluation
        for x, y, weights in samples.in_order(size):
            if unlabelled is not None:
                total += float(unlabelled(x, generator=draws).sum())
                continue
            scores = model(x)
            if weights is None:
                total += float(self._loss(scores, y, reduction="sum"))
                right += int((scores.argmax(dim=1) == y).sum())
            else:
                each = self._loss(scores, y, reduction="none")
                total += float((each * weights).sum())
                right += float(((scores.argmax(dim=1) == y) * weights).sum())
                count += float(weights.sum())
        count = count or samples.y.numel()
        return total / count, right / count if unlabelled is None else math.nan


class Numbers:
    """Outputs are numbers: squared error, mean over samples and outputs, and R².

    R² is the share of the variance of the samples that is explained, mean over the outputs; of an
    output without variance 1 if it is predicted exactly, else 0.
    """

    score = "r2"

    def loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        each = (model(batch.x) - batch.y).square()
        return each.mean() if batch.weights is None else (each.mean(dim=1) * batch.weights).mean()

    def evaluate(self, model: Any, samples: Samples, size: int) -> tuple[float, float]:
        """Return mean loss and R²."""
        y, weights = samples.y.double(), samples.weights
        ones = torch.ones(len(y), 1, dtype=y.dtype, device=y.device)
        share = ones if weights is None else weights.double()[:, None]
        share = share / share.sum()
        spread = (share * (y - (share * y).sum(dim=0)).square()).sum(dim=0)
        parts = [model(batch.x) for batch in samples.in_order(size)]
        error = (share * (torch.cat(parts).to(y) - y).square()).sum(dim=0)
        r2 = torch.where(spread > 0, 1 - error / spread, (error == 0).to(error))
        return float(error.mean()), float(r2.mean())


CLASSES, NUMBERS = Classes(), Numbers()

OBJECTIVES = {
    "cross_entropy": CLASSES,
    "squared_error": Classes(_squared_error),
    "squared_error_output_slope": Classes(partial(_squared_error, output_slope=True)),
}
r"""What is asked of scores of classes, by the name of the loss (``model.loss``).

``"cross_entropy"`` is that of the softmax of the scores. ``"squared_error"`` is
:math:`\tfrac12 \sum_k (a_k - t_k)^2` of their sigmoids :math:`a_k = \sigma(z_k)`; its gradient in a
score is :math:`(a_k - t_k) \, \sigma'(z_k)`. ``"squared_error_output_slope"`` has the same value,
and the gradient :math:`(a_k - t_k) \, \sigma'(a_k)`: the slope of the sigmoid at its own output,
which lies in [0.197, 0.25], so that outputs near 0 and 1 learn as fast as others. SET's authors'
sparse code and tutorials compute this one. Losses are sums over classes, means over samples.
"""


def evaluate(
    model: Any, samples: Samples, objective: Classes | Numbers = CLASSES
) -> tuple[float, float]:
    """Return the mean loss and the score of a model on samples.

    Both are means over all classes that are to be told, of which a sample may have many, as the
    next characters of a text. Of a model that learns without labels: its mean reconstruction error
    per unit, and ``nan``.

    Parameters
    ----------
    model : torch.nn.Module
        Is in evaluation mode afterwards.
    samples : Samples
        On the model's device.
    objective : Classes or Numbers

    Returns
    -------
    loss, score : float

    Examples
    --------
    >>> evaluate(nn.Identity(), Samples(np.zeros((3, 2), np.float32), np.array([0, 0, 1])))
    (0.6931471824645996, 0.6666666666666666)
    """
    model.eval()
    widest = max((max(layer.graph.shape) for layer in sparse_layers(model).values()), default=1)
    widest = max(widest, getattr(model, "cells", 1))
    size = max(1, min(EVALUATION_BATCH, WIDEST_CELLS // max(1, widest)))
    with torch.no_grad():
        return objective.evaluate(model, samples, size)
