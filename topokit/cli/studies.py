"""Commands over many runs: ``sweep`` and ``compare``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from topokit import console
from topokit.cli.options import DataDir, Json, Plugins, import_plugins

if TYPE_CHECKING:
    from topokit.sweep import SweepProgress

__all__ = ["sweep"]


def sweep(
    study: str,
    /,
    *,
    out: Path,
    workers: int | None = None,
    scheduler: str | None = None,
    quick: Annotated[bool, Parameter(negative="")] = False,
    data_dir: DataDir = None,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Do every run of a study: arms, a grid over any configuration keys, seeds.

    The same command goes on after an interruption; finished runs are never run again.

    Parameters
    ----------
    study
        A name from 'topokit list studies', or a TOML file.
    out
        The sweep's folder: runs/, sweep.parquet with all results, failures.json.
    workers
        Processes on this machine; by default as many as cores.
    scheduler
        Address of a Dask scheduler whose workers do the runs instead, e.g. tcp://host:8786.
    quick
        The study's small variant.
    """
    from topokit.study import load_study
    from topokit.sweep import sweep as run_sweep

    import_plugins(plugin)
    planned = load_study(study, quick=quick)
    try:
        with _sweeping(quiet=json) as progress:
            result = run_sweep(
                planned,
                out,
                workers=workers,
                scheduler=scheduler,
                data_dir=data_dir,
                plugins=tuple(plugin or ()),
                progress=progress,
            )
    except KeyboardInterrupt:
        words = f"interrupted; finished epochs are saved. The same command goes on in {out}"
        raise KeyboardInterrupt(words) from None
    n_done = result.frame["run"].nunique()
    if json:
        console.print_json({"sweep": str(out), "done": n_done, "failures": result.failures})
    else:
        for run, reason in result.failures.items():
            console.complain(f"{run} failed: {reason}")
        console.say(f"{n_done} runs done, {len(result.failures)} failed; results are in {out}")
        console.say(f"next: topokit compare {out}")
    return 1 if result.failures else 0


@contextmanager
def _sweeping(*, quiet: bool) -> Iterator[Callable[[SweepProgress], None]]:
    """Show done, running, failed and the time left; a line for each run where no terminal is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[s]}"),
    )
    terminal = console.ERR.is_terminal
    with Progress(*columns, console=console.ERR, disable=quiet or not terminal) as bar:
        task = bar.add_task("runs", total=None, s="checking")

        def progress(at: Any) -> None:
            left = "" if at.seconds_left != at.seconds_left else f", {_span(at.seconds_left)} left"
            words = f"{at.running} running, {at.failed} failed{left}"
            bar.update(task, completed=at.done + at.failed, total=at.total, s=words)
            if not quiet and not terminal:
                console.note(f"{at.done}/{at.total} done, {words}  {at.last}".rstrip())

        yield progress


def _span(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
