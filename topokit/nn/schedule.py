"""When a rewiring is due."""

from __future__ import annotations

from typing import Any

from topokit.rules import Rewiring

__all__ = ["Schedule"]


class Schedule:
    """Counts steps and epochs, and says at which of them a rewiring is due.

    Positions count epochs, or steps where `every` counts steps.

    Parameters
    ----------
    options : Rewiring
    total, epoch_steps : int or None
        As for `topokit.attach`.

    Attributes
    ----------
    steps, epochs : int
        Optimizer steps and epochs so far.
    """

    def __init__(self, options: Rewiring, total: int | None, epoch_steps: int | None) -> None:
        self.options, self.total, self.epoch_steps = options, total, epoch_steps
        self.steps = self.epochs = 0
        self._epoch_start = 0  # steps before this epoch

    @property
    def _between_epochs(self) -> bool:
        return isinstance(self.options.every, str)

    @property
    def _position(self) -> int:
        return self.epochs if self._between_epochs else self.steps

    @property
    def _stop(self) -> int | None:
        """The position of `Rewiring.stop`, which counts epochs."""
        stop = self.options.stop
        return stop if stop is None or self._between_epochs else stop * (self.epoch_steps or 1)

    @property
    def _end(self) -> int | None:
        """The first position without rewiring; None if neither total nor stop is known."""
        return min((end for end in (self.total, self._stop) if end is not None), default=None)

    def _is_due(self, position: int) -> bool:
        return self._end is None or position < self._end

    @property
    def _removes_last(self) -> bool:
        """Whether edges are dropped without growing after the last epoch."""
        ends = self.options.final == "drop" and self.total is not None
        return ends and (self._stop is None or (self.total or 0) < self._stop)

    def _steps_left(self) -> int | None:
        """Return the number of steps up to and including the one that the next rewiring follows.

        None if there is no further rewiring.
        """
        if isinstance(self.options.every, int):
            left = [self.options.every - self.steps % self.options.every]
            left = left if self._is_due(self.steps + left[0]) else []
            if self._removes_last and self.steps < (self.total or 0):
                left.append((self.total or 0) - self.steps)
            return min(left, default=None)
        at = self.epochs + 1
        if not self._is_due(at) and not (self._removes_last and at == self.total):
            return None
        if self.epoch_steps is None:
            return 1
        in_epoch = self.steps - self._epoch_start
        return self.epoch_steps - in_epoch if in_epoch < self.epoch_steps else None

    def unseen(self: Any) -> int | None:
        """Return how many coming steps may be made before the engine has to be called again.

        Then `count` is called with all but the last of them, and `Engine.stepped` for the last. 0
        if the next step is one whose activations the rule looks at; None if there is no limit.
        """
        left = self._steps_left()
        window = self._data.window if self._data.captures else 0
        return None if left is None else max(0, left - window)

    def count(self: Any, steps: int) -> None:
        """Count steps of all layers at which nothing is due, made without the optimizers' hooks."""
        self.steps += steps
        self.memory["trained"] = [*self._layers]

    def stepped(self: Any) -> None:
        """Count a step that was made without the optimizers' hooks, as by a recording of one."""
        self._note_replayed()
        for number, each in enumerate(self.optimizers):
            self._before_step(each, (), {})
            self._after_step(each, number)

    @property
    def _epochs_done(self) -> int:
        """Number of finished epochs, by their steps where `every` counts steps."""
        if self._between_epochs or self.epoch_steps is None:
            return self.epochs
        return max(0, self.steps - 1) // self.epoch_steps

    @property
    def _ended(self) -> bool:
        """Whether the last step was made."""
        return not self._between_epochs and self.total is not None and self.steps >= self.total

    @property
    def _over(self) -> bool:
        """Whether no rewiring is to come."""
        end, at = self._end, self._position
        last = self._removes_last and at < (self.total or 0)
        return end is not None and at >= end and not last
