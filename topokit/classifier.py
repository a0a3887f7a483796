"""A sparse network as a scikit-learn estimator: fit, predict, score."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from topokit.data.samples import Data
from topokit.experiments.config import OptimizerSpec
from topokit.experiments.loop import TrainPlan, TrainState, train
from topokit.experiments.record import Recording
from topokit.experiments.runs import make_optimizer
from topokit.generators import generate
from topokit.nn.models import set_mlp
from topokit.rules import RULES, SCHEDULES, Rewiring
from topokit.tables import check_parameters, choose, is_integer, need

__all__ = ["SparseMLPClassifier"]

BATCH = 2000


class SparseMLPClassifier(ClassifierMixin, BaseEstimator):
    """A multilayer perceptron that is sparse from the start and rewired while it is trained.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, or int
        Units of the hidden layers, or of the only one; may be empty.
    generator : str
        Generator of the initial topology, a name in `topokit.GENERATORS`.
    epsilon : float or None
        SET's budget: ``epsilon (n_in + n_out)`` edges in each layer, at most all. Used unless
        `density` is given.
    density : float or None
        Share of the possible edges, in (0, 1], instead of `epsilon`.
    densities : str or None
        How the edges are divided among the layers, a name in `topokit.DENSITIES`.
    rule : str
        How layers are rewired, a name in `topokit.RULES`; ``"static"`` keeps the initial topology.
    rule_params : dict or None
        Parameters of the rule.
    drop_fraction, schedule, stop, skip
        As in `topokit.rules.Rewiring`; layers are named ``fc1``, ``fc2`` and so on.
    every : int or None
        Steps between rewirings; None rewires between epochs.
    activation : {"relu", "srelu", "all_relu"}
        Activation of the hidden layers.
    dropout : float
        Dropout probability of hidden units, in [0, 1).
    learning_rate, momentum, weight_decay : float
        Settings of stochastic gradient descent; the learning rate falls to 0 as a cosine.
    decay_per_step : float
        Share of every weight that is taken off at each step, whatever the learning rate is;
        needs a `weight_decay` of 0.
    batch_size : int
        Number of samples in a batch; if there are fewer samples, one batch has them all.
    max_iter : int
        Number of epochs.
    measures : sequence of str or None
        Topology measures taken at each recorded epoch, names as in `topokit.measure`.
    record_every : int
        Epochs between recorded topologies; the first and the last are always kept.
    random_state : int, numpy.random.RandomState or None
        Seed of all randomness: initial topology, weights, order of samples, rewiring, dropout.

    Attributes
    ----------
    classes_ : (n_classes,) array
    n_features_in_ : int
    feature_names_in_ : array of str
        If `X` had names that are all strings.
    model_ : torch.nn.Module
    topology_ : dict of LayerGraph
        The layer graphs after training.
    history_ : Recording
        ``.epochs`` (``train_loss``: mean over the epoch's batches, with dropout;
        ``train_accuracy``: after the epoch, without dropout; ``seconds``), ``.measures`` and
        ``.topology(epoch)``.
    n_iter_ : int
        Number of epochs trained.

    Notes
    -----
    Inputs are not scaled: scale them first, e.g. with `sklearn.preprocessing.StandardScaler` in a
    pipeline. Memory O(edges) beside the samples, and as much again for each recorded epoch.

    References
    ----------
    .. [1] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nature Communications 9, 2018.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = SparseMLPClassifier((100,), epsilon=4, max_iter=10, random_state=0).fit(X / 16, y)
    >>> model.score(X / 16, y) > 0.95, model.topology_["fc1"].n_edges
    (True, 656)
    """

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] | int = (100, 100),
        *,
        generator: str = "erdos_renyi",
        epsilon: float | None = 5.0,
        density: float | None = None,
        densities: str | None = None,
        rule: str = "set",
        rule_params: dict[str, Any] | None = None,
        drop_fraction: float = 0.3,
        schedule: str = "constant",
        every: int | None = None,
        stop: int | None = None,
        skip: Sequence[str] = (),
        activation: str = "relu",
        dropout: float = 0.0,
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        decay_per_step: float = 0.0,
        batch_size: int = 32,
        max_iter: int = 50,
        measures: Sequence[str] | None = None,
        record_every: int = 1,
        random_state: Any = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.generator = generator
        self.epsilon = epsilon
        self.density = density
        self.densities = densities
        self.rule = rule
        self.rule_params = rule_params
        self.drop_fraction = drop_fraction
        self.schedule = schedule
        self.every = every
        self.stop = stop
        self.skip = skip
        self.activation = activation
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.decay_per_step = decay_per_step
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.measures = measures
        self.record_every = record_every
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> SparseMLPClassifier:
        """Train a new network; an earlier one is discarded.

        Parameters
        ----------
        X : (n_samples, n_features) array
        y : (n_samples,) array
            Classes, of any type.

        Returns
        -------
        SparseMLPClassifier
            Itself.

        Raises
        ------
        ValueError
            If the samples or a parameter are invalid.
        FloatingPointError
            If training diverges.
        """
        samples: Any
        samples, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self._check()
        classes, codes = np.unique(y, return_inverse=True)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        streams = [np.random.default_rng([seed, i]) for i in range(5)]
        widths = [samples.shape[1], *self._hidden(), len(classes)]
        budget = {"epsilon": self.epsilon} if self.density is None else {"density": self.density}
        topology = generate(
            widths, self.generator, **budget, densities=self.densities, rng=streams[0]
        )
        dropout = torch.Generator().manual_seed(int(streams[4].integers(2**62)))
        model = set_mlp(
            topology,
            activation=self.activation,
            dropout=self.dropout,
            rng=streams[1],
            generator=dropout,
        )
        spec = OptimizerSpec(
            "sgd",
            self.learning_rate,
            self.momentum,
            weight_decay=self.weight_decay,
            decay_per_step=self.decay_per_step,
        )
        optimizer = make_optimizer(spec, model.parameters())
        rngs = {"order": streams[2], "rule": streams[3]}
        state = TrainState(model, optimizer, rngs, dropout)
        data = Data("fit", samples, codes, samples, codes, len(classes))
        self.history_ = self._trained(state, data)
        self.classes_, self.model_, self.n_iter_ = classes, model, self.max_iter
        self.topology_ = self.history_.topology(-1)
        return self

    def _hidden(self) -> list[int]:
        """Return the numbers of hidden units."""
        given: Any = self.hidden_layer_sizes
        sizes = list(given) if np.ndim(given) else [given]
        for n in sizes:
            need(is_integer(n, 1), "hidden_layer_sizes", "positive whole numbers", given)
        return [int(n) for n in sizes]

    def _check(self) -> None:
        """Check the parameters that nothing else checks."""
        rule = choose("rule", self.rule, RULES)
        check_parameters("rule", self.rule, rule, self.rule_params or {}, section="rule_params")
        self._options()
        counts = {"batch_size": self.batch_size, "max_iter": self.max_iter}
        counts |= {"record_every": self.record_every}
        self._hidden()
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name}: expected a positive number, got {value!r}")

    def _options(self) -> dict[str, Any]:
        """Return the options of rewiring, checked by `topokit.rules.Rewiring`."""
        options = Rewiring(
            drop_fraction=self.drop_fraction,
            schedule=self.schedule,
            every="epoch" if self.every is None else self.every,
            stop=self.stop,
            skip=self.skip,
        )
        return vars(options)

    def _trained(self, state: TrainState, data: Data) -> Recording:
        """Train for all epochs and return the recorded topologies, measures and losses."""
        plan = TrainPlan(
            epochs=self.max_iter,
            batch_size=self.batch_size,
            rule=RULES[self.rule](**(self.rule_params or {})),
            lr=self.learning_rate,
            lr_schedule=SCHEDULES["cosine"],
            **self._options(),
        )
        recording = Recording(self.measures, every=self.record_every, name="fit")
        for epoch in train(state, data, plan):
            recording(epoch.index, epoch.topology)
            if epoch.index == self.max_iter - 1 and epoch.index not in recording.topologies:
                recording.keep(epoch.index, epoch.topology)
            recording.note(
                epoch.index,
                train_loss=epoch.metrics["train_loss"],
                train_accuracy=epoch.metrics["test_accuracy"],
                seconds=epoch.metrics["seconds"],
            )
        return recording

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of each class.

        Parameters
        ----------
        X : (n_samples, n_features) array

        Returns
        -------
        (n_samples, n_classes) array
            Each row sums to 1; columns are in the order of `classes_`.

        Raises
        ------
        ValueError
            If the number of features is not that of the training samples.
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        check_is_fitted(self)
        samples: Any = validate_data(self, X, dtype=np.float32, reset=False)
        # In double precision, so that the result for a sample does not depend on its batch.
        model = copy.deepcopy(self.model_).double().eval()
        with torch.no_grad():
            scores = [model(part.double()) for part in torch.from_numpy(samples).split(BATCH)]
        return torch.softmax(torch.cat(scores), dim=1).numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each sample.

        Parameters
        ----------
        X : (n_samples, n_features) array

        Returns
        -------
        (n_samples,) array

        Raises
        ------
        ValueError, sklearn.exceptions.NotFittedError
            As in `predict_proba`.
        """
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]
