"""Progress of long calls, on standard error, where somebody watches: terminals and notebooks."""

from __future__ import annotations

import html
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["bar", "over_epochs", "over_runs", "watched"]

PAUSE = 0.2  # seconds between two updates of a notebook
Step = Callable[[int, int, str], None]

_shown: ContextVar[bool] = ContextVar("shown", default=False)  # a bar within a bar is not shown


def watched() -> str:
    """Return where progress is seen: "notebook", "terminal", or "" if nowhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and hasattr(shell, "kernel"):
        return "notebook"
    stream = sys.stderr
    return "terminal" if stream is not None and not stream.closed and stream.isatty() else ""


@contextmanager
def bar(
    what: str,
    *,
    wanted: bool | None = None,
    delay: float = 0.0,
    lines: int = 10,
    estimate: bool = True,
    console: Console | None = None,
    write: Callable[[str], None] | None = None,
) -> Iterator[Step]:
    """Yield ``step(done, total, text)``, which shows how far a call is.

    A terminal has a bar on standard error, a notebook one below the cell; both go when the block
    ends. Standard output is never written to.

    Parameters
    ----------
    what : str
        What is counted, such as "epoch".
    wanted : bool, optional
        False: nothing is shown. True: also where nobody watches, as lines. By default only in
        terminals and notebooks.
    delay : float
        Seconds before anything is shown, for calls that are mostly short.
    lines : int
        About how many lines there are where nobody watches.
    estimate : bool
        Whether the time left is estimated and shown; not where the text has an estimate.
    console : rich.console.Console, optional
        Instead of one on standard error; its bar stays when the block ends.
    write : callable, optional
        Writes a line; by default to standard error.

    Examples
    --------
    >>> with bar("step", wanted=False) as step:
    ...     step(1, 10, "loss 0.1")
    """
    if console is not None:
        place = "terminal" if console.is_terminal else ""
    else:
        place = watched()
    if wanted is False or (wanted is None and not place) or _shown.get():
        yield lambda done, total, text: None
        return
    token = _shown.set(True)
    start = time.monotonic()
    made: list[_Terminal | _Notebook | _Lines] = []

    def step(done: int, total: int, text: str = "") -> None:
        if not made and time.monotonic() - start < delay:
            return
        if not made:
            if place == "notebook":
                made.append(_Notebook(what, estimate))
            elif place == "terminal":
                made.append(_Terminal(what, estimate, console))
            else:
                made.append(_Lines(what, lines, write))
        made[0].step(done, total, text)

    try:
        yield step
    finally:
        _shown.reset(token)
        for display in made:
            display.end()


class _Terminal:
    """A bar of rich."""

    def __init__(self, what: str, estimate: bool, console: Console | None) -> None:
        from rich import progress
        from rich.console import Console

        self.progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[text]}", markup=False),
            *([progress.TimeRemainingColumn()] if estimate else []),
            console=Console(stderr=True) if console is None else console,
            transient=console is None,
        )
        self.task = self.progress.add_task(what, total=None, text="")
        self.progress.start()

    def step(self, done: int, total: int, text: str) -> None:
        self.progress.update(self.task, completed=done, total=total, text=text)

    def end(self) -> None:
        self.progress.stop()


class _Notebook:
    """A bar of HTML below the cell, which needs no widgets; one for all calls of a cell."""

    latest: tuple[int, Any] | None = None  # the number of a cell's execution, and its bar

    def __init__(self, what: str, estimate: bool) -> None:
        from IPython import get_ipython
        from IPython.display import HTML, display

        self.what, self.html, self.last = what, HTML, -math.inf
        self.estimate = estimate
        self.start = time.monotonic()
        cell = get_ipython().execution_count
        if _Notebook.latest is None or _Notebook.latest[0] != cell:
            _Notebook.latest = cell, display(HTML(""), display_id=True)
        self.handle = _Notebook.latest[1]

    def step(self, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if now - self.last < PAUSE and done < total:
            return
        self.last = now
        left = ""
        if done and self.estimate:
            left = f", {_span((now - self.start) / done * (total - done))} left"
        words = html.escape(f"{self.what} {done}/{total}{left}  {text}")
        self.handle.update(
            self.html(f'<progress max="{total}" value="{done}"></progress> <code>{words}</code>')
        )

    def end(self) -> None:
        self.handle.update(self.html(""))


class _Lines:
    """Lines, about so many in all."""

    def __init__(self, what: str, lines: int, write: Callable[[str], None] | None) -> None:
        self.what, self.lines, self.write = what, lines, write
        self.start = time.monotonic()

    def step(self, done: int, total: int, text: str) -> None:
        each = max(1, total // self.lines)
        if not text or (done % each and done < total):
            return
        line = f"{self.what} {done}/{total}  {text}  {time.monotonic() - self.start:.0f} s"
        if self.write is not None:
            self.write(line)
        elif sys.stderr is not None:
            sys.stderr.write(f"{line}\n")

    def end(self) -> None:
        pass


def _span(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def over_epochs(
    epochs: int, *, wanted: bool | Callable[[Any, Any], None] | None = None, **options: Any
) -> Iterator[Callable[[Any, Any], None]]:
    """Yield ``progress(epoch, measures)`` for a run: its score and the hubs of the first layer.

    Parameters
    ----------
    epochs : int
    wanted, options
        As for `bar`; or a function, which is called instead.
    """
    if callable(wanted):
        yield wanted
        return
    layer, measure = "fc1", "fan_in.dispersion"
    with bar("epoch", wanted=wanted, **options) as step:
        step(0, epochs, "")

        def progress(epoch: Any, frame: Any) -> None:
            found = frame[(frame["layer"] == layer) & (frame["measure"] == measure)]["value"]
            moving = f"  {layer} fan-in var/mean {found.iloc[0]:.2f}" if len(found) else ""
            step(epoch.index + 1, epochs, f"{_score(epoch.metrics)}{moving}")

        yield progress


def _score(metrics: Mapping[str, Any]) -> str:
    """Return the accuracy of an epoch, or the error of a model that learns without labels."""
    accuracy = metrics["test_accuracy"]
    if math.isnan(accuracy):
        return f"test error {metrics['test_loss']:.4f}"
    return f"accuracy {accuracy:.4f}"


@contextmanager
def over_runs(
    *, wanted: bool | Callable[[Any], None] | None = None, **options: Any
) -> Iterator[Callable[[Any], None]]:
    """Yield ``progress(SweepProgress)`` for a sweep: runs done, running and failed, and time left.

    Parameters
    ----------
    wanted, options
        As for `bar`; or a function, which is called instead.
    """
    if callable(wanted):
        yield wanted
        return
    with bar("runs", wanted=wanted, estimate=False, **options) as step:

        def progress(at: Any) -> None:
            left = "" if math.isnan(at.seconds_left) else f", {_span(at.seconds_left)} left"
            words = f"{at.running} running, {at.failed} failed{left}  {at.last}".rstrip()
            step(at.done + at.failed, at.total, words)

        yield progress
