"""Commands for figures: ``plot`` and ``report``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from topokit.cli import console
from topokit.cli.options import Json, Plugins, comma_separated, some
from topokit.foreign import printable
from topokit.plugins import load_plugins

__all__ = ["plot", "report"]


def plot(
    runs: list[Path],
    /,
    *,
    out: Path | None = None,
    only: Annotated[str | None, Parameter(name="--only")] = None,
    layer: str | None = None,
    size: str = "column",
    formats: Annotated[str, Parameter(name="--formats")] = "png",
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Draw figures of one or more runs, by default all.

    Parameters
    ----------
    runs
        Run directories, or sweeps, of which all finished runs are drawn.
    out
        Folder for the figures; by default RUN/figures.
    only
        Comma-separated names of figures, see 'topokit list plots', e.g. summary,network.
    layer
        Layer to draw; by default the first, or all for figures of a layer.
    size
        Size of the figures: column (3.5 inches wide) or page (7.2).
    formats
        Comma-separated: png, pdf, svg; gif, html or mp4 (needs ffmpeg) is an animation of a layer.
    """
    from topokit.experiments.record import History
    from topokit.experiments.sweep import runs_of
    from topokit.graph.files import safe_name
    from topokit.plots import save_figures

    load_plugins(plugin or ())
    kinds = tuple(comma_separated(formats))
    names = None if only is None else comma_separated(only)
    if names == []:
        raise ValueError("--only: expected names of figures, see 'topokit list plots', got none")
    histories = [History.load(run) for path in some(runs) for run in runs_of(path)]
    titles = [history.name for history in histories]
    if out is not None and len(set(titles)) < len(titles):
        twice = next(name for name in titles if titles.count(name) > 1)
        raise ValueError(f"expected runs of different names, got two of {twice!r} for one --out")
    written: list[Path] = []
    for history in histories:
        folder = history.directory / "figures" if out is None else out
        if out is None and folder.is_symlink():
            raise ValueError(f"{folder} is a symbolic link; say where to write with --out FOLDER")
        if out is not None and len(histories) > 1:
            folder = out / safe_name(history.name)
        with _progress(history.name, quiet=json) as progress:
            written += save_figures(
                history,
                folder,
                formats=kinds,
                only=names,
                layer=layer,
                size=size,
                progress=progress,
            )
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
    found: list[str] = []
    with _progress("the report") as progress:
        write_report(histories, out, progress=progress, tell=found.append)
    for sentence in found:
        console.say(sentence)
    console.say(str(out))
    return 0


@contextmanager
def _progress(what: str, *, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Show which figure is drawn: in one changing line on a terminal, else in a line for each."""
    if quiet:
        yield lambda name, number, total: None
    elif not console.ERR.is_terminal:
        yield lambda name, number, total: console.note(f"{number + 1}/{total}  {name}")
    else:
        with console.ERR.status(Text(printable(f"drawing {what}"))) as line:
            yield lambda name, number, total: line.update(
                Text(printable(f"drawing {what}: {name} ({number + 1} of {total})"))
            )


def _relative(path: Path) -> str:
    """Return a path relative to the working directory, if it is inside it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
