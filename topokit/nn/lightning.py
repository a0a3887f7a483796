"""A callback that rewires sparse layers while Lightning trains; needs the extra ``lightning``."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch

from topokit.graph import Topology
from topokit.nn.engine import attach
from topokit.rules import UpdateRule
from topokit.tables import is_integer, need

__all__ = ["rewiring"]


def rewiring(
    rule: str | UpdateRule = "set",
    *,
    every: int | None = None,
    drop_fraction: float = 0.3,
    schedule: str | Callable[[int, int], float] = "constant",
    stop: int | None = None,
    skip: Collection[str] = (),
    grown_state: str | Mapping[str, str] = "neutral",
    samples: torch.Tensor | None = None,
    recorder: Callable[[int, Topology], None] | None = None,
    rng: np.random.Generator | int,
    **params: Any,
) -> Any:
    """Return a Lightning callback that attaches a rule to the optimizers of a fit.

    Parameters
    ----------
    rule, drop_fraction, schedule, stop, skip, grown_state, samples, recorder, rng, **params
        As for `topokit.attach`; layer names are those in the LightningModule.
    every : int, optional
        Optimizer steps between rewirings; by default those of an epoch.

    Returns
    -------
    lightning.Callback
        Its attribute ``engine`` (`topokit.nn.engine.Engine`) is set when a fit starts. The total
        number of steps is that of the trainer; nothing is rewired after the last one. For rules
        that depend on validation accuracy, call ``callback.engine.end_epoch(accuracy)`` after each
        validation.

    Raises
    ------
    ImportError
        If Lightning is not installed.
    ValueError
        If `every` is no number of steps; when a fit starts, if it is None and the length of the
        data is not known.

    Notes
    -----
    A checkpoint of Lightning contains the graphs with the weights, the optimizer state per edge,
    and the state of the engine (steps, random stream, memories of the rule): a fit resumed from it
    equals one that was not interrupted. Of several optimizers those count that hold values of
    sparse layers; a step is counted when each of them has made one. See `topokit.attach` for
    accumulated gradients, mixed precision, compiled models and several processes.

    Examples
    --------
    >>> import importlib.util
    >>> if importlib.util.find_spec("lightning"):
    ...     callback = rewiring("rigl", every=100, rng=np.random.default_rng(0))
    ...     # lightning.Trainer(callbacks=[callback]).fit(model, loader)
    """
    need(every is None or is_integer(every, 1), "every", "a positive number of steps", every)
    try:
        from lightning.pytorch import Callback
    except ImportError as error:
        raise ImportError(
            "this callback needs Lightning: pip install 'topokit-nn[lightning]'"
        ) from error

    class Rewiring(Callback):
        """Attach when a fit starts, detach when it ends."""

        engine: Any = None
        saved: Any = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            total = trainer.estimated_stepping_batches
            batches = trainer.num_training_batches / trainer.accumulate_grad_batches
            steps = max(1, math.ceil(batches)) if math.isfinite(batches) else None
            if every is None and steps is None:
                raise ValueError(
                    "expected `every` (optimizer steps between rewirings), got None with data of "
                    "unknown length"
                )
            if trainer.max_steps > 0:  # of all optimizers together
                total = total // max(1, len(trainer.optimizers))
            self.engine = attach(
                pl_module,
                list(trainer.optimizers),
                rule,
                every=every or steps or 1,
                drop_fraction=drop_fraction,
                schedule=schedule,
                total=int(total) if math.isfinite(total) and total > 0 else None,
                stop=stop,
                skip=skip,
                grown_state=grown_state,
                epoch_steps=steps,
                samples=samples,
                recorder=recorder,
                rng=rng,
                **params,
            )
            if self.saved is not None:
                self.engine.load_state_dict(self.saved)
                self.saved = None

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.engine.detach()

        def on_exception(self, trainer: Any, pl_module: Any, exception: Any) -> None:
            if self.engine is not None:
                self.engine.detach()

        def state_dict(self) -> dict[str, Any]:
            return {} if self.engine is None else self.engine.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.saved = state_dict or None

    return Rewiring()
