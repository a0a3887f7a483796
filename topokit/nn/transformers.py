"""A callback that rewires sparse layers while the Trainer of transformers trains.

It needs the extra ``trainers``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from topokit.graph.files import write_atomic
from topokit.nn.engine import attach
from topokit.rules import UpdateRule
from topokit.tables import is_integer, need

try:
    from transformers import TrainerCallback
except ImportError:
    TrainerCallback = None

__all__ = ["Rewiring"]

FILE = "topokit_engine.pt"


class Rewiring(TrainerCallback or object):  # type: ignore[misc]  # a base chosen at import
    """A callback for the Trainer of transformers that attaches a rule when training begins.

    Parameters
    ----------
    rule : str or UpdateRule
        As for `topokit.attach`; layer names are those in the Trainer's model.
    every : int, optional
        Optimizer steps between rewirings; by default those of an epoch.
    accuracy : str
        Entry of the evaluation's metrics that is the validation accuracy, for rules that watch it;
        evaluate once an epoch.
    **options
        Further arguments of `topokit.attach`, with `rng`. The total number of steps is that of the
        Trainer.

    Attributes
    ----------
    engine : Engine or None
        Set while the Trainer trains.

    Raises
    ------
    ImportError
        If transformers is not installed.
    ValueError
        If `every` is no number of steps. When training begins, if it is None and the length of the
        data is not known. When training is resumed, if the checkpoint has no state of the engine.

    Notes
    -----
    The Trainer makes the optimizer, so the rule is attached when training begins. The engine's
    state is a file of each checkpoint, ``topokit_engine.pt``; a resumed training equals one that
    was not interrupted. Resume from a folder ``checkpoint-N`` of ``output_dir``. With
    ``load_best_model_at_end`` the model's graphs become those of the best checkpoint, with a
    warning that they were replaced.

    Examples
    --------
    >>> callback = Rewiring("rigl", every=100, rng=0)  # doctest: +SKIP
    >>> Trainer(model, arguments, callbacks=[callback]).train()  # doctest: +SKIP
    """

    def __init__(
        self,
        rule: str | UpdateRule = "set",
        *,
        every: int | None = None,
        accuracy: str = "eval_accuracy",
        **options: Any,
    ) -> None:
        if TrainerCallback is None:
            words = "this callback needs transformers: pip install 'topokit-nn[trainers]'"
            raise ImportError(words)
        need(every is None or is_integer(every, 1), "every", "a positive number of steps", every)
        self.rule, self.every, self.accuracy, self.options = rule, every, accuracy, options
        self.engine: Any = None

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """Attach; go on from the checkpoint if training is resumed."""
        steps = _epoch_steps(args, state, train_dataloader)
        if self.every is None and steps is None:
            raise ValueError(
                "expected `every` (optimizer steps between rewirings), got None with data of "
                "unknown length"
            )
        if self.engine is not None:  # of a training that an error ended
            self.engine.detach()
        self.engine = attach(
            model, optimizer, self.rule,
            every=self.every or steps or 1, total=state.max_steps, epoch_steps=steps,
            **self.options,
        )  # fmt: skip
        if state.global_step:
            path = self._file(args, state)
            if not path.is_file():
                raise ValueError(f"expected the state of the rewiring at {path}, found none")
            self.engine.load_state_dict(torch.load(path, weights_only=True))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Note the validation accuracy."""
        if self.engine is not None and (metrics or {}).get(self.accuracy) is not None:
            self.engine.end_epoch(metrics[self.accuracy])

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save the engine's state with the checkpoint."""
        path = self._file(args, state)
        if state.is_world_process_zero and path.parent.is_dir():
            with write_atomic(path) as temporary:
                torch.save(self.engine.state_dict(), temporary)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Detach."""
        self.engine.detach()
        self.engine = None

    def _file(self, args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE


def _epoch_steps(args: Any, state: Any, loader: Any) -> int | None:
    """Return the Trainer's optimizer steps of an epoch; None if the data have no length.

    Versions differ in whether batches left over at the end of an epoch make a step: the number of
    all steps, or of epochs, tells.
    """
    try:
        batches = len(loader)
    except TypeError:
        return None
    whole, rest = divmod(batches, args.gradient_accumulation_steps)
    for steps in (whole + bool(rest), max(1, whole)):
        if args.max_steps > 0:
            fits = math.ceil(args.max_steps / steps) == state.num_train_epochs
        else:
            fits = math.ceil(args.num_train_epochs * steps) == state.max_steps
        if fits:
            return steps
    return max(1, whole)
