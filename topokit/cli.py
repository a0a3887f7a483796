"""The command ``topokit``: thin commands over the tables; errors of the user end in one line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from topokit import console

app = cyclopts.App(
    name="topokit",
    help="Train sparse networks, record the graph of every layer, and measure how it evolves.",
    version_flags=["--version"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

Settings = Annotated[
    list[str],
    Parameter(name="--set", consume_multiple=True, help="KEY=VALUE, e.g. rule.drop_fraction=0.2"),
]
Plugins = Annotated[
    list[str], Parameter(name="--plugin", help="Python module that adds to the tables.")
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as JSON.")]
DataDir = Annotated[
    Path | None, Parameter(name="--data-dir", help="Folder of data sets (else TOPOKIT_DATA).")
]


@app.command
def train(
    recipe: str = "set_mlp_digits",
    /,
    *,
    out: Path | None = None,
    data_dir: DataDir = None,
    seed: int | None = None,
    rule: str | None = None,
    settings: Settings | None = None,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Train a recipe, or a configuration file, and record the topology of every epoch.

    Parameters
    ----------
    recipe
        A name from 'topokit list recipes', or a TOML file.
    out
        The new run's folder; by default runs/RECIPE-seedN.
    seed
        Overrides the recipe's seed; one seed gives one result.
    rule
        Rewire with another rule, e.g. static.
    """
    from topokit.config import load_recipe
    from topokit.runs import run

    _import_plugins(plugin)
    changes = list(settings or [])
    if rule is not None:
        changes.insert(0, f'rule.name="{rule}"')
    if seed is not None:
        changes.append(f"seed={seed}")
    config = load_recipe(recipe).override(changes)
    directory = out or _free_directory(Path("runs"), f"{Path(recipe).stem}-seed{config.seed}")
    with _resumable(directory), console.training(config, quiet=json) as progress:
        history = run(config, directory, data_dir=data_dir, progress=progress)
    return _finished(history, directory, json)


@app.command
def resume(
    run: Path,
    /,
    *,
    data_dir: DataDir = None,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Continue an interrupted run; it ends as if it had never been stopped."""
    from topokit.config import RunConfig
    from topokit.history import RunDirectory
    from topokit.runs import resume as resume_run

    _import_plugins(plugin)
    directory = RunDirectory.open(run)
    if directory.done:
        console.note(f"{run} has finished already; nothing to do")
        return _finished(directory.history(), run, json)
    config = RunConfig.from_dict(directory.config())
    with _resumable(run), console.training(config, quiet=json) as progress:
        history = resume_run(run, data_dir=data_dir, progress=progress)
    return _finished(history, run, json)


@app.command
def analyze(
    target: Path,
    /,
    *,
    measures: str | None = None,
    epoch: int = -1,
    bootstrap: int = 100,
    seed: int = 0,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Measure the graphs of a run, topology, matrix, checkpoint or GraphML file.

    Parameters
    ----------
    target
        RUN, TOPOLOGY.npz, MATRIX.npz, .mtx, CHECKPOINT.pt, .safetensors or GRAPH.graphml.
    measures
        Comma-separated names from 'topokit list measures'; by default the core measures.
    epoch
        Which epoch of a run; -1 is the last.
    bootstrap
        Replicates behind the power-law p-value in the verdicts; 0 skips the p-value.
    seed
        Seed of the bootstrap.
    """
    from topokit.measures import measure
    from topokit.read import read_topologies
    from topokit.report import verdict_sentences

    _import_plugins(plugin)
    names = [name.strip() for name in measures.split(",") if name.strip()] if measures else None
    topology, previous, about = read_topologies(target, epoch)
    frame = measure(topology, names, previous=previous)
    wanted = names is None or any(name.startswith("power_law") for name in names)
    verdicts = verdict_sentences(topology, bootstrap=bootstrap, seed=seed) if wanted else []
    if json:
        console.print_json(
            {
                "target": str(target),
                **about,
                "measures": frame.to_dict("records"),
                "verdicts": verdicts,
            }
        )
    else:
        console.print_measures(frame, title=f"{target}" + _of_epoch(about))
        console.print_sentences(verdicts)
    return 0


@app.command
def generate(
    generator: str,
    /,
    *,
    widths: str,
    density: float | None = None,
    epsilon: float | None = None,
    seed: int = 0,
    out: Path | None = None,
    settings: Settings | None = None,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Generate a topology and describe it.

    Parameters
    ----------
    generator
        A name from 'topokit list generators'.
    widths
        Units of each layer, input first: 784,1000,10.
    density
        Share of possible edges; or give --epsilon.
    epsilon
        SET's budget: density = epsilon (n_in + n_out) / (n_in n_out) in each layer.
    out
        Where to write the topology (.npz).
    """
    import numpy as np

    from topokit.config import parse_settings
    from topokit.convert import save_topology
    from topokit.generators import generate as generate_topology

    _import_plugins(plugin)
    try:
        sizes = [int(width) for width in widths.split(",")]
    except ValueError:
        raise ValueError(f"expected --widths like 784,1000,10, got {widths!r}") from None
    rng = np.random.default_rng(seed)
    topology = generate_topology(
        sizes,
        generator,
        density=density,
        epsilon=epsilon,
        rng=rng,
        **parse_settings(settings or []),
    )
    if out is not None:
        save_topology(out, topology)
    rows = console.topology_rows(topology)
    if json:
        console.print_json({"generator": generator, "seed": seed, "layers": rows})
    else:
        console.print_rows(rows, title=f"{generator}, seed {seed}")
        if out is not None:
            console.note(f"written to {out}; next: topokit analyze {out}")
    return 0


@app.command
def plot(
    runs: list[Path],
    /,
    *,
    out: Path | None = None,
    formats: Annotated[str, Parameter(name="--formats")] = "png",
    json: Json = False,
) -> int:
    """Draw every figure of one or more runs.

    Parameters
    ----------
    runs
        Run directories.
    out
        Folder for the figures; by default RUN/figures.
    formats
        Comma-separated: png, pdf, svg.
    """
    from topokit.history import History
    from topokit.plots import save_figures

    kinds = tuple(kind.strip() for kind in formats.split(",") if kind.strip())
    histories = [History.load(path) for path in _some(runs)]
    written: list[Path] = []
    for history in histories:
        folder = history.directory / "figures" if out is None else out
        if out is not None and len(histories) > 1:
            folder = out / history.name
        with console.working(f"drawing {history.name}", quiet=json):
            written += save_figures(history, folder, formats=kinds)
    if json:
        console.print_json([str(path) for path in written])
    else:
        for path in written:
            console.say(_relative(path))
    return 0


@app.command
def report(runs: list[Path], /, *, out: Path) -> int:
    """Write one self-contained HTML page about one or more runs.

    Parameters
    ----------
    runs
        Run directories, shown side by side.
    out
        The page, e.g. report.html.
    """
    from topokit.history import History
    from topokit.report import write_report

    histories = [History.load(path) for path in _some(runs)]
    with console.working("writing the report"):
        write_report(histories, out)
    console.say(str(out))
    return 0


@app.command(name="list")
def list_(table: str | None = None, /, *, plugin: Plugins | None = None, json: Json = False) -> int:
    """List what there is: generators, rules, measures, plots, data sets, models, recipes.

    Parameters
    ----------
    table
        One table; by default a summary of all.
    """
    from topokit.catalogue import TABLES, rows_of
    from topokit.config import choose

    _import_plugins(plugin)
    names = list(TABLES) if table is None else [table]
    for name in names:
        choose("table", name, TABLES)
    listing = {name: rows_of(name) for name in names}
    if json:
        console.print_json(listing if table is None else listing[table])
    else:
        for name, rows in listing.items():
            console.print_rows(rows, title=name)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code (0, 1, 2 or 130)."""
    tokens = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(tokens, exit_on_error=False, print_error=False)
    except KeyboardInterrupt as stop:
        console.complain(str(stop) or "interrupted")
        return 130
    except cyclopts.CycloptsError as error:
        console.complain(f"{_first_line(error)} (see 'topokit --help')")
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, FileNotFoundError, FloatingPointError, TypeError) as error:
        if os.environ.get("TOPOKIT_TRACEBACK"):
            raise
        console.complain(str(error))
        return 2
    except OSError as error:
        console.complain(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
        named_by_user = PermissionError | NotADirectoryError | IsADirectoryError | FileExistsError
        return 2 if isinstance(error, named_by_user) else 1
    return int(code) if isinstance(code, int) else 0


@contextmanager
def _resumable(directory: Path) -> Iterator[None]:
    """Say how to go on after an interruption; every finished epoch is on disk already."""
    try:
        yield
    except KeyboardInterrupt:
        if (directory / "checkpoint.pt").is_file():
            words = (
                f"interrupted; finished epochs are saved. Go on with: topokit resume {directory}"
            )
        else:
            words = "interrupted before the run began; nothing was written"
        raise KeyboardInterrupt(words) from None
    except OSError as error:  # a full disk: the last good state can be read and continued
        if (directory / "checkpoint.pt").is_file() and not isinstance(error, FileNotFoundError):
            kept = f"finished epochs are saved; go on with: topokit resume {directory}"
            raise OSError(error.errno, f"{error.strerror or error}; {kept}") from None
        raise


def _first_line(error: Exception) -> str:
    lines = [line.strip(" │╭╮╰╯─") for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)


def _import_plugins(names: list[str] | None) -> None:
    for name in names or []:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f"expected an importable module for --plugin: {error}") from error


def _free_directory(parent: Path, name: str) -> Path:
    candidates = [parent / name, *(parent / f"{name}-{i}" for i in range(2, 10_000))]
    return next(path for path in candidates if not path.exists())


def _some(runs: list[Path]) -> list[Path]:
    if not runs:
        raise ValueError("expected at least one run directory, got none")
    return runs


def _relative(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _of_epoch(about: dict[str, Any]) -> str:
    return f", epoch {about['epoch']}" if "epoch" in about else ""


def _finished(history: Any, directory: Path, json: bool) -> int:
    summary = console.run_summary(history, directory)
    if json:
        console.print_json(summary)
    else:
        console.print_summary(history, summary)
    return 0
