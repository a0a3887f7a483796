"""Commands for figures: ``plot`` and ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from topokit.cli import console
from topokit.cli.options import Json, Plugins, some
from topokit.plugins import load_plugins

__all__ = ["plot", "report"]


def plot(
    runs: list[Path],
    /,
    *,
    out: Path | None = None,
    formats: Annotated[str, Parameter(name="--formats")] = "png",
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Draw all figures of one or more runs.

    Parameters
    ----------
    runs
        Run directories, or sweeps, of which all finished runs are drawn.
    out
        Folder for the figures; by default RUN/figures.
    formats
        Comma-separated: png, pdf, svg; gif adds an animation of the first layer.
    """
    from topokit.experiments.record import History
    from topokit.experiments.sweep import runs_of
    from topokit.graph.files import safe_name
    from topokit.plots import save_figures

    load_plugins(plugin or ())
    kinds = tuple(kind.strip() for kind in formats.split(",") if kind.strip())
    histories = [History.load(run) for path in some(runs) for run in runs_of(path)]
    names = [history.name for history in histories]
    if out is not None and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"expected runs of different names, got two of {twice!r} for one --out")
    written: list[Path] = []
    for history in histories:
        folder = history.directory / "figures" if out is None else out
        if out is None and folder.is_symlink():
            raise ValueError(f"{folder} is a symbolic link; say where to write with --out FOLDER")
        if out is not None and len(histories) > 1:
            folder = out / safe_name(history.name)
        with console.working(f"drawing {history.name}", quiet=json):
            written += save_figures(history, folder, formats=kinds)
    if json:
        console.print_json([str(path) for path in written])
    else:
        for path in written:
            console.say(_relative(path))
    return 0


def report(runs: list[Path], /, *, out: Path, plugin: Plugins | None = None) -> int:
    """Write one self-contained HTML page about one or more runs.

    Parameters
    ----------
    runs
        Run directories, or sweeps, of which all finished runs are included.
    out
        File for the page, e.g. report.html.
    """
    from topokit.experiments.record import History
    from topokit.experiments.sweep import runs_of
    from topokit.plots.report import write_report

    load_plugins(plugin or ())
    histories = [History.load(run) for path in some(runs) for run in runs_of(path)]
    with console.working("writing the report"):
        write_report(histories, out)
    console.say(str(out))
    return 0


def _relative(path: Path) -> str:
    """Return a path relative to the working directory, if it is inside it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
