"""Trackers of experiments: one small protocol, ``log(values, step)``, and what is like it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Tracker", "logger_of", "tracked"]

Tracker: TypeAlias = Any
"""A function ``log(values, step)``, or an object with one of the methods of `SHAPES`."""

Log = Callable[[dict[str, float], int], None]


def _tensorboard(writer: Any) -> Log:
    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return log


SHAPES: dict[str, Callable[[Any], Log]] = {
    "log_metrics": lambda mlflow: lambda values, step: mlflow.log_metrics(values, step=step),
    "add_scalar": _tensorboard,
    "log": lambda run: lambda values, step: run.log(values, step=step),
}
"""Method by which a tracker is known (MLflow, TensorBoard, Weights & Biases), and its use."""


def logger_of(tracker: Tracker) -> Log:
    """Return a tracker as a function ``log(values, step)``.

    Parameters
    ----------
    tracker : object
        A run of Weights & Biases or the module ``wandb`` (or whatever has ``log(values, step=)``),
        a ``SummaryWriter`` of TensorBoard (``add_scalar``), the module ``mlflow``
        (``log_metrics``), or a function ``log(values, step)``.

    Raises
    ------
    TypeError
        If it is none of these.

    Examples
    --------
    >>> logger_of(print)({"test_accuracy": 0.5}, 3)
    {'test_accuracy': 0.5} 3
    """
    for method, adapt in SHAPES.items():
        if callable(getattr(tracker, method, None)):
            return adapt(tracker)
    if callable(tracker):
        return tracker
    raise TypeError(
        "expected a tracker with a method log(values, step), add_scalar or log_metrics, or a "
        f"function log(values, step), got {type(tracker).__name__}"
    )


def tracked(
    progress: Callable[[Any, pd.DataFrame], None], tracker: Tracker | None
) -> Callable[[Any, pd.DataFrame], None]:
    """Return a progress function that also logs each epoch to a tracker.

    Logged are the metrics (``test_accuracy``) and the measures (``fc1/fan_in.dispersion``) that
    are defined. A tracker that fails never ends a run: a warning says so, once, and nothing is
    logged from then on.

    Parameters
    ----------
    progress : callable
        ``progress(epoch, measures)``.
    tracker : object, optional
        See `logger_of`.
    """
    if tracker is None:
        return progress
    log, failed = logger_of(tracker), False

    def report(epoch: Any, frame: pd.DataFrame) -> None:
        nonlocal failed
        progress(epoch, frame)
        if failed:
            return
        try:
            log(values_of(epoch.metrics, frame), epoch.index)
        except Exception as error:
            failed = True
            warnings.warn(
                f"the tracker failed at epoch {epoch.index} and is not used any more: "
                f"{type(error).__name__}: {error}",
                stacklevel=2,
            )

    return report


def values_of(metrics: Mapping[str, float], measures: pd.DataFrame) -> dict[str, float]:
    """Return the defined numbers of an epoch by name."""
    rows = zip(measures["layer"], measures["measure"], measures["value"], strict=True)
    values = {name: float(value) for name, value in metrics.items()}
    values |= {f"{layer}/{measure}": float(value) for layer, measure, value in rows}
    return {name: value for name, value in values.items() if not math.isnan(value)}
