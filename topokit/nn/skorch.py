"""A callback that rewires sparse layers while skorch trains; needs the extra ``trainers``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topokit.nn.engine import attach
from topokit.rules import UpdateRule

try:
    from skorch.callbacks import Callback
except ImportError:
    Callback = None

__all__ = ["Rewiring"]


class Rewiring(Callback or object):  # type: ignore[misc]  # a base chosen at import
    """A callback for nets of skorch that attaches a rule when they begin to train.

    Parameters
    ----------
    rule : str or UpdateRule
        As for `topokit.attach`; layer names are those in the net's module.
    every : int or "epoch"
        Optimizer steps between rewirings, or after each epoch.
    accuracy : str
        Entry of the net's history that is the validation accuracy, for rules that watch it.
    options : mapping, optional
        Further arguments of `topokit.attach`, such as ``drop_fraction``, ``total`` (epochs, or
        steps where `every` counts steps) and parameters of the rule.
    rng : int
        A seed.

    Attributes
    ----------
    engine_ : Engine
        Set when training begins.

    Raises
    ------
    ImportError
        If skorch is not installed.

    Notes
    -----
    The net's module has sparse layers before training begins: give it as an object, or build them
    in its constructor (`topokit.sparsify`). With ``partial_fit`` the engine goes on where it
    stopped. skorch's own checkpoints leave out what callbacks hold: save
    ``callback.engine_.state_dict()`` with them. A pickled or copied net has the engine's state.

    Examples
    --------
    >>> callback = Rewiring("set", rng=0)  # doctest: +SKIP
    >>> net = NeuralNetClassifier(module, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(
        self,
        rule: str | UpdateRule = "set",
        every: int | str = "epoch",
        accuracy: str = "valid_acc",
        options: Mapping[str, Any] | None = None,
        rng: int = 0,
    ) -> None:
        if Callback is None:
            raise ImportError("this callback needs skorch: pip install 'topokit-nn[trainers]'")
        self.rule, self.every, self.accuracy = rule, every, accuracy
        self.options, self.rng = options, rng

    def initialize(self) -> Rewiring:
        """Forget the training before."""
        self.saved_: Any = None
        return self

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Attach; go on if the net has been trained before."""
        if (before := getattr(self, "engine_", None)) is not None:
            before.detach()  # if an error ended the training
        self.engine_ = attach(
            net.module_, net.optimizer_, self.rule,
            **{"every": self.every, "rng": self.rng, **(self.options or {})},
        )  # fmt: skip
        if self.saved_ is not None:
            self.engine_.load_state_dict(self.saved_)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Count an epoch, and rewire if `every` is ``"epoch"``."""
        self.engine_.end_epoch(net.history[-1].get(self.accuracy))

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Detach."""
        self.saved_ = self.engine_.state_dict()
        self.engine_.detach()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if (engine := state.pop("engine_", None)) is not None:
            state["saved_"] = engine.state_dict()
        return state
