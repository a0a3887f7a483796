"""Sparse networks as scikit-learn estimators: fit, partial_fit, predict, score."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from topokit.experiments.config import OptimizerSpec
from topokit.experiments.loop import (
    Epoch,
    TrainPlan,
    TrainState,
    device_of,
    load_optimizer,
    move,
    train,
)
from topokit.experiments.preparation import choose_device, make_optimizer
from topokit.experiments.record import Recording
from topokit.experiments.samples import CLASSES, NUMBERS, Classes, Numbers, Samples
from topokit.generators import generate
from topokit.nn.models import set_mlp
from topokit.rules import RULES, SCHEDULES, Rewiring, make_rule
from topokit.tables import check_parameters, choose, is_integer, is_number, need

__all__ = ["SparseMLPClassifier", "SparseMLPRegressor"]

BATCH = 2000
NETWORK = ("generator", "epsilon", "density", "densities", "activation", "dropout")  # and widths


class _SparseMLP(BaseEstimator):
    """What classifier and regressor share: the parameters, and training by the loop of runs."""

    _objective: Classes | Numbers
    _learning_rate: float

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
        learning_rate: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        decay_per_step: float = 0.0,
        batch_size: int = 32,
        max_iter: int = 50,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        measures: Sequence[str] | None = None,
        record_every: int = 1,
        device: str = "cpu",
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
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.measures = measures
        self.record_every = record_every
        self.device = device
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train a new network; an earlier one is discarded.

        Parameters
        ----------
        X : (n_samples, n_features) array, or scipy.sparse array
        y : (n_samples,) array
            Classes of any type; of the regressor numbers, (n_samples, n_outputs) if several.
        sample_weight : (n_samples,) array, optional
            How much each sample counts, at least 0; by default all alike.

        Returns
        -------
        estimator
            Itself.

        Raises
        ------
        ValueError
            If the samples or a parameter are invalid.
        FloatingPointError
            If training diverges.
        """
        x, y, weights = self._validated(X, y, sample_weight, reset=True)
        self._check()
        targets = self._learn_targets(y, weights)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        state = self._new_state(x.shape[1], seed)
        parts = [self._samples(x, targets, weights)] * 2
        best = None
        if self.early_stopping:
            parts, best = self._held_out(x, targets, weights, seed), _Best(state.model, self)
        self.history_ = Recording(self.measures, every=self.record_every, name="fit")
        for epoch in train(state, (parts[0], parts[1]), self._plan(self.max_iter, best)):
            self._note(epoch)
        kept = {epoch.index: epoch.topology}
        self.model_, self.n_iter_ = state.model, state.epoch
        self._training: dict[str, Any] | None = _kept(state)
        if best is not None:
            self.model_, self.best_epoch_, self._training = best.model, best.epoch, None
            kept[best.epoch] = _topology(best.model)
        for index, topology in kept.items():
            if index not in self.history_.topologies:
                self.history_.keep(index, topology)
        self.topology_ = _topology(self.model_)
        return self

    def _partial_fit(self, x: Any, targets: Any, weights: Any) -> Self:
        """Train one epoch on samples; begin with a new network if there is none yet."""
        if self.early_stopping:
            raise ValueError("early_stopping: expected False in partial_fit, got True")
        if self.schedule != "constant" or self.stop is not None:
            what = f"schedule {self.schedule!r}" if self.stop is None else f"stop={self.stop}"
            raise ValueError(f"{what}: partial_fit has no last epoch; expected a constant schedule")
        state = self._state()
        if state is None:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            state = self._new_state(x.shape[1], seed)
            self.history_ = Recording(self.measures, every=self.record_every, name="partial_fit")
        samples = self._samples(x, targets, weights)
        kept: list[torch.nn.Module] = []  # the model before it is rewired

        def watch(index: int, metrics: dict[str, float]) -> bool:
            kept.append(copy.deepcopy(state.model))
            return False

        epochs = train(state, (samples, samples), self._plan(None, watch))
        self._note(next(epochs))
        epochs.close()
        self._training = _kept(state)
        self.model_, self.n_iter_ = kept[0], state.epoch
        self.topology_ = _topology(self.model_)
        return self

    # Samples.

    def _validated(self, X: Any, y: Any, weights: Any, *, reset: bool) -> tuple[Any, Any, Any]:
        """Return checked samples, targets and weights; samples of weight 0 are left out."""
        x, y = validate_data(
            self, X, y, dtype=np.float32, accept_sparse="csr", reset=reset, **self._reading()
        )
        if weights is None:
            return x, y, None
        weights = _check_sample_weight(weights, x, dtype=np.float64)
        if weights.min() < 0 or not weights.any():
            raise ValueError(
                "sample_weight: expected numbers of at least 0, not all 0, got "
                f"{weights.min():g} to {weights.max():g}"
            )
        kept = np.flatnonzero(weights)
        return x[kept], y[kept], weights[kept]

    def _reading(self) -> dict[str, Any]:
        """Return how targets are to be read."""
        return {}

    def _learn_targets(self, y: Any, weights: Any) -> Any:
        """Note what the targets are like, and return them as the network learns them."""
        raise NotImplementedError  # abstract: both estimators define it

    @property
    def _n_outputs(self) -> int:
        raise NotImplementedError  # abstract: both estimators define it

    def _samples(self, x: Any, targets: Any, weights: Any) -> Samples:
        if weights is not None:
            weights = (weights / weights.mean()).astype(np.float32)
        return Samples(x, targets, weights, device=choose_device(self.device))

    def _held_out(self, x: Any, targets: Any, weights: Any, seed: int) -> list[Samples]:
        """Return the samples to train on and those held out."""
        share = self.validation_fraction
        good = is_number(share) and 0 < share < 1
        need(good, "validation_fraction", "a number above 0 and below 1", share)
        stratify = targets if self._objective is CLASSES else None
        try:
            at = train_test_split(
                np.arange(len(targets)), test_size=share, random_state=seed, stratify=stratify
            )
        except ValueError as error:
            raise ValueError(f"early_stopping: no samples to hold out: {error}") from None
        return [
            self._samples(x[i], targets[i], None if weights is None else weights[i]) for i in at
        ]

    # Training.

    def _new_state(self, n_features: int, seed: int) -> TrainState:
        """Return a new network with its optimizer and random streams."""
        streams = [np.random.default_rng([seed, i]) for i in range(5)]
        self._made = self._network()
        widths = [n_features, *self._hidden(), self._n_outputs]
        budget = {"epsilon": self.epsilon} if self.density is None else {"density": self.density}
        topology = generate(
            widths, self.generator, **budget, densities=self.densities, rng=streams[0]
        )
        device = choose_device(self.device)
        dropout = torch.Generator(device).manual_seed(int(streams[4].integers(2**62)))
        model = set_mlp(
            topology,
            activation=self.activation,
            dropout=self.dropout,
            rng=streams[1],
            generator=dropout,
        ).to(device)
        optimizer = self._optimizer(model)
        return TrainState(model, optimizer, {"order": streams[2], "rule": streams[3]}, dropout)

    def _state(self) -> TrainState | None:
        """Return the state to go on from; None if there is none yet."""
        if not hasattr(self, "model_"):
            return None
        if self._training is None:
            raise ValueError(
                "early stopping kept the model of the best epoch and nothing to go on from: "
                "expected partial_fit of a new estimator, or of one fitted without early_stopping"
            )
        for name, value in self._network().items():
            made = getattr(self, "_made", {}).get(name, value)
            need(value == made, name, f"{made!r}, of which the network is, or a new fit", value)
        kept = dict(self._training)
        model = kept["model"] = move(kept["model"], choose_device(self.device))
        optimizer = self._optimizer(model)
        load_optimizer(optimizer, kept.pop("optimizer"))
        # the options are those of now, which may have been set since
        optimizer.param_groups[0].update(momentum=self.momentum, weight_decay=self.weight_decay)
        dropout: Any = model.generator
        return TrainState(**kept, optimizer=optimizer, dropout=dropout)

    def _network(self) -> dict[str, Any]:
        """Return the parameters that the network is made from."""
        own = {name: getattr(self, name) for name in NETWORK}
        return {"hidden_layer_sizes": self._hidden(), **own}

    def _optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        spec = OptimizerSpec(
            "sgd",
            self._rate,
            self.momentum,
            weight_decay=self.weight_decay,
            decay_per_step=self.decay_per_step,
        )
        return make_optimizer(spec, model.parameters())

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled; models that are on a GPU load on machines without one."""
        state = dict(super().__getstate__())
        if getattr(self, "model_", None) is None or device_of(self.model_).type == "cpu":
            return state
        cpu = torch.device("cpu")
        state["model_"] = move(copy.deepcopy(self.model_), cpu)
        if self._training is not None:
            model = move(copy.deepcopy(self._training["model"]), cpu)
            state["_training"] = {**self._training, "model": model}
        return state

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
        counts |= {"record_every": self.record_every, "n_iter_no_change": self.n_iter_no_change}
        self._hidden()
        for name, value in counts.items():
            need(is_integer(value, 1), name, "a positive whole number", value)

    @property
    def _rate(self) -> float:
        return self._learning_rate if self.learning_rate is None else self.learning_rate

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

    def _plan(self, epochs: int | None, watch: Any) -> TrainPlan:
        return TrainPlan(
            epochs=epochs,
            batch_size=self.batch_size,
            rule=make_rule(self.rule, **(self.rule_params or {})),
            lr=self._rate,
            lr_schedule=SCHEDULES["cosine"],
            objective=self._objective,
            watch=watch,
            **self._options(),
        )

    def _note(self, epoch: Epoch) -> None:
        """Record an epoch's topology, measures, losses and score."""
        self.history_(epoch.index, epoch.topology)
        score, part = self._objective.score, "validation" if self.early_stopping else "train"
        metrics = {f"{part}_{score}": epoch.metrics[f"test_{score}"]}
        self.history_.note(
            epoch.index,
            train_loss=epoch.metrics["train_loss"],
            **metrics,
            seconds=epoch.metrics["seconds"],
        )

    def _scores(self, X: Any) -> torch.Tensor:
        """Return the network's outputs, in double precision."""
        check_is_fitted(self)
        samples: Any = validate_data(self, X, dtype=np.float32, accept_sparse="csr", reset=False)
        # In double precision, so that the result for a sample does not depend on its batch.
        model = copy.deepcopy(self.model_).double().eval()
        x = Samples(samples, np.zeros(samples.shape[0], np.int64), device=device_of(model))
        with torch.no_grad():
            return torch.cat([model(part.double()) for part in x.split(BATCH)]).cpu()


def _topology(model: Any) -> dict[str, Any]:
    """Return the graphs of a network's layers."""
    return {name: model.get_submodule(name).graph for name in model.names}


def _kept(state: TrainState) -> dict[str, Any]:
    """Return the fields of a state that `partial_fit` goes on from.

    The dropout stream is that of the model. An optimizer would lose its hooks when it is pickled;
    its state does not, and is stored on the CPU.
    """
    fields = {name: value for name, value in vars(state).items() if name != "dropout"}
    content = io.BytesIO()
    torch.save(state.optimizer.state_dict(), content)
    content.seek(0)
    return fields | {"optimizer": torch.load(content, map_location="cpu", weights_only=True)}


class _Best:
    """Keeps the model of the best epoch, and says when no better one has come for long."""

    def __init__(self, model: torch.nn.Module, estimator: _SparseMLP) -> None:
        self.current, self.estimator = model, estimator
        self.model, self.epoch, self.score = copy.deepcopy(model), 0, -np.inf
        self.mark, self.waited = -np.inf, 0

    def __call__(self, index: int, metrics: dict[str, float]) -> bool:
        score = metrics[f"test_{self.estimator._objective.score}"]
        if score > self.score:
            self.model, self.epoch, self.score = copy.deepcopy(self.current), index, score
        better = score > self.mark + self.estimator.tol
        self.waited = 0 if better else self.waited + 1
        self.mark = score if better else self.mark
        return self.waited >= self.estimator.n_iter_no_change


class SparseMLPClassifier(ClassifierMixin, _SparseMLP):
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
        How layers are rewired, a name in `topokit.RULES` or a function that returns an
        `UpdateRule`; ``"static"`` keeps the initial topology.
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
        Settings of stochastic gradient descent; the learning rate (None: 0.05, of the regressor
        0.01) falls to 0 as a cosine over `max_iter` epochs, and is constant in `partial_fit`.
    decay_per_step : float
        Share of every weight that is taken off at each step, whatever the learning rate is;
        needs a `weight_decay` of 0.
    batch_size : int
        Number of samples in a batch; if there are fewer samples, one batch has them all.
    max_iter : int
        Number of epochs of `fit`, at most.
    early_stopping : bool
        Hold out a part of the samples, end when its score no longer rises, and keep the model of
        the best epoch, as it was before it was rewired.
    validation_fraction : float
        Share of the samples held out for that, in (0, 1).
    n_iter_no_change : int
        Epochs without a score higher by more than `tol` after which training ends.
    tol : float
    measures : sequence of str or None
        Topology measures taken at each recorded epoch, names as in `topokit.measure`.
    record_every : int
        Epochs between recorded topologies; the first and the last are always kept.
    device : {"cpu", "cuda", "auto"}
        Where the network is trained and predicts: see `topokit.RunConfig`.
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
        The layer graphs of `model_`.
    history_ : Recording
        ``.epochs`` (``train_loss``: mean over the epoch's batches, with dropout;
        ``train_accuracy``: after the epoch, without dropout; with early stopping
        ``validation_accuracy`` instead; ``seconds``), ``.measures`` and ``.topology(epoch)``.
    n_iter_ : int
        Number of epochs trained.
    best_epoch_ : int
        With early stopping: the epoch that `model_` is of, counted from 0.

    Notes
    -----
    Inputs are not scaled: scale them first, e.g. with `sklearn.preprocessing.StandardScaler` in a
    pipeline. Sparse inputs are stored as CSR and made dense a batch at a time. Memory O(edges)
    beside the samples, and as much again for each recorded epoch.

    The weights of samples multiply their losses; they are divided by their mean over all samples,
    and samples of weight 0 are left out. With one batch for all samples, a whole number as weight
    equals that many copies of the sample, but for rounding.

    References
    ----------
    .. [1] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nature Communications 9:2383, 2018.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = SparseMLPClassifier((100,), epsilon=4, max_iter=20, random_state=0).fit(X / 16, y)
    >>> model.score(X / 16, y) > 0.95, model.topology_["fc1"].n_edges
    (True, 656)
    """

    _objective = CLASSES
    _learning_rate = 0.05

    def partial_fit(
        self,
        X: Any,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train one epoch on some samples, from where the last call (or `fit`) left off.

        The network is rewired after each call, or every `every` steps; `model_` is the network as
        it was trained, before that. The learning rate is constant. Parameters that were set since
        the last call hold from now on; those of the network cannot be changed.

        Parameters
        ----------
        X : (n_samples, n_features) array, or scipy.sparse array
        y : (n_samples,) array
        classes : (n_classes,) array, optional
            All classes that will ever come; needed in the first call.
        sample_weight : (n_samples,) array, optional

        Returns
        -------
        SparseMLPClassifier
            Itself.

        Raises
        ------
        ValueError
            If the samples or a parameter are invalid, `classes` is missing, a label is none of
            them, or the model is that of a best epoch, which has nothing to go on from.
        """
        first = not hasattr(self, "model_")
        samples, y, weights = self._validated(X, y, sample_weight, reset=first)
        self._check()
        if first:
            if classes is None:
                raise ValueError("classes: expected all classes in the first partial_fit, got none")
            self.classes_ = np.unique(np.asarray(classes))
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"classes: expected those of the first call ({self.classes_}), got {classes}"
            )
        unknown = np.setdiff1d(y, self.classes_)
        if unknown.size:
            raise ValueError(f"y: expected labels of {self.classes_}, got {unknown[0]!r}")
        return self._partial_fit(samples, np.searchsorted(self.classes_, y), weights)

    def _learn_targets(self, y: Any, weights: Any) -> Any:
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        return codes

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class.

        Parameters
        ----------
        X : (n_samples, n_features) array, or scipy.sparse array

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
        return torch.softmax(self._scores(X), dim=1).numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each sample.

        Parameters
        ----------
        X : (n_samples, n_features) array, or scipy.sparse array

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


class SparseMLPRegressor(RegressorMixin, _SparseMLP):
    """A sparse multilayer perceptron that predicts numbers, rewired while it is trained.

    It learns by squared error. Targets are shifted and scaled to mean 0 and deviation 1 for the
    network, each by itself; predictions are in the units of `y`.

    Parameters
    ----------
    hidden_layer_sizes, generator, epsilon, density, densities, rule, rule_params, drop_fraction, \
    schedule, every, stop, skip, activation, dropout, learning_rate, momentum, weight_decay, \
    decay_per_step, batch_size, max_iter, early_stopping, validation_fraction, n_iter_no_change, \
    tol, measures, record_every, device, random_state
        As for `SparseMLPClassifier`. Early stopping watches R² of the samples held out.

    Attributes
    ----------
    target_mean_, target_scale_ : (n_outputs,) array
        By which targets are shifted and scaled: weighted mean and deviation of those of `fit`, or
        of the first `partial_fit`.
    model_, topology_, history_, n_iter_, n_features_in_, feature_names_in_, best_epoch_
        As for `SparseMLPClassifier`; losses are mean squared errors of the scaled targets, and the
        score of an epoch is ``train_r2``, or ``validation_r2`` with early stopping.

    Notes
    -----
    As for `SparseMLPClassifier`.

    References
    ----------
    .. [1] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nature Communications 9:2383, 2018.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SparseMLPRegressor((50,), max_iter=20, random_state=0).fit(X * 20, y)
    >>> model.score(X * 20, y) > 0.4, model.predict(X[:3]).shape
    (True, (3,))
    """

    _objective = NUMBERS
    _learning_rate = 0.01

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def partial_fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train one epoch on some samples, from where the last call (or `fit`) left off.

        The network is rewired after each call, or every `every` steps; `model_` is the network as
        it was trained, before that. The learning rate is constant. Parameters that were set since
        the last call hold from now on; those of the network cannot be changed.

        Parameters
        ----------
        X : (n_samples, n_features) array, or scipy.sparse array
        y : (n_samples,) or (n_samples, n_outputs) array
        sample_weight : (n_samples,) array, optional

        Returns
        -------
        SparseMLPRegressor
            Itself.

        Raises
        ------
        ValueError
            If the samples or a parameter are invalid, or the model is that of a best epoch, which
            has nothing to go on from.
        """
        first = not hasattr(self, "model_")
        samples, y, weights = self._validated(X, y, sample_weight, reset=first)
        self._check()
        targets = self._learn_targets(y, weights) if first else self._scaled(y)
        return self._partial_fit(samples, targets, weights)

    def _reading(self) -> dict[str, Any]:
        return {"multi_output": True, "y_numeric": True}

    def _learn_targets(self, y: Any, weights: Any) -> Any:
        columns = np.asarray(y, np.float64).reshape(len(y), -1)
        self._several = np.ndim(y) == 2
        self.target_mean_ = np.average(columns, axis=0, weights=weights)
        spread = np.average((columns - self.target_mean_) ** 2, axis=0, weights=weights)
        varies = np.ptp(columns, axis=0) > 0  # rounding errors would make a constant vary
        self.target_scale_ = np.where(varies, np.sqrt(spread), 1.0)
        return self._scaled(y)

    def _scaled(self, y: Any) -> NDArray[np.float32]:
        """Return targets as the network learns them."""
        columns = np.asarray(y, np.float64).reshape(len(y), -1)
        if columns.shape[1] != self._n_outputs:
            raise ValueError(
                f"y: expected {self._n_outputs} numbers for each sample, got {columns.shape[1]}"
            )
        return ((columns - self.target_mean_) / self.target_scale_).astype(np.float32)

    @property
    def _n_outputs(self) -> int:
        return len(self.target_mean_)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return the predicted numbers.

        Parameters
        ----------
        X : (n_samples, n_features) array, or scipy.sparse array

        Returns
        -------
        (n_samples,) or (n_samples, n_outputs) array
            Of the shape that `y` had.

        Raises
        ------
        ValueError
            If the number of features is not that of the training samples.
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        scores = self._scores(X).numpy() * self.target_scale_ + self.target_mean_
        return scores if self._several else scores.ravel()
