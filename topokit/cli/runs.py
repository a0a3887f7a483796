"""Commands for single runs: ``train``, ``resume``, ``verify`` and ``info``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from topokit.cli import console, interrupts
from topokit.cli.options import (
    DataDir,
    Device,
    Json,
    MaybeWhole,
    Nproc,
    Plugins,
    Settings,
    some,
    words_of,
)
from topokit.plugins import load_plugins, told
from topokit.progress import over_epochs

if TYPE_CHECKING:
    from topokit.experiments.config import RunConfig

__all__ = ["info", "resume", "train", "verify"]

TABULAR = (".csv", ".tsv", ".txt", ".dat")  # endings of tables that a user may want to train on

Accept = Annotated[
    list[Literal["config", "data", "plugins", "growth"]],
    Parameter(
        name="--accept",
        help="Go on with an edited config.toml (config), other samples (data), other plugins "
        "(plugins) or the present random stream of growth in a run of an earlier version (growth).",
    ),
]


def train(
    recipe: str = "set_mlp_digits",
    /,
    *,
    out: Path | None = None,
    data_dir: DataDir = None,
    epochs: MaybeWhole = None,
    seed: MaybeWhole = None,
    rule: str | None = None,
    settings: Settings | None = None,
    nproc: Nproc = None,
    device: Device = None,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Train a network from a recipe or a configuration file and record every epoch's topology.

    A run that was interrupted goes on when the same command is given again.

    Parameters
    ----------
    recipe
        A name from 'topokit list recipes', or a TOML file.
    out
        Directory for the run, a new one or that of the same run, interrupted; by default
        runs/RECIPE-seedN. A finished run is left as it is.
    epochs
        Replaces the number of epochs of the recipe.
    seed
        Replaces the seed of the recipe. The same seed gives the same result.
    rule
        Replaces the update rule of the recipe, e.g. static.
    settings
        Keys of the configuration: KEY=VALUE ..., e.g. rule.drop_fraction=0.2.
    """
    from topokit.experiments.config import load_recipe, with_registered
    from topokit.experiments.record import History
    from topokit.experiments.rundir import RunDirectory
    from topokit.experiments.runs import resume as resume_run
    from topokit.experiments.runs import run, take_part

    plugins = load_plugins(plugin or ())
    if Path(recipe).suffix.lower() in TABULAR:
        raise ValueError(
            f"expected a recipe or a TOML file, got a table of samples, {recipe}; train on it with "
            f"topokit train --set data.name=csv data.path={console.shown(recipe)}"
        )
    changes = list(words_of("--set", settings))
    keys = [change.partition("=")[0].strip() for change in changes]
    quoted = None if rule is None else f'"{rule}"'
    for option, key, value in (
        ("epochs", "epochs", epochs), ("seed", "seed", seed), ("rule", "rule.name", quoted),
        ("device", "device", device),
    ):  # fmt: skip
        if value is not None and key in keys:
            raise ValueError(f"--{option}: {key} is given with --set too; give it once")
        if value is not None:
            changes.insert(0, f"{key}={value}")
    config = with_registered(load_recipe(recipe).override(changes))
    name = f"{Path(recipe).stem}-seed{config.seed}"
    directory = out or _free_directory(Path("runs"), name, config.to_toml())
    there = RunDirectory(directory)
    interrupted = there.holds(config.to_toml())
    if interrupted and there.done:
        console.note(f"{directory} holds this run, finished; nothing to do")
        return _finished(History.load(directory), directory, json)
    with _resumable(directory), _several(nproc, data_dir, plugins, config) as processes:
        if processes is not None and not processes.first:
            take_part(processes, data_dir)
            return 0
        options: Any = {"data_dir": data_dir, "processes": processes}
        if interrupted:
            console.note(f"{directory} holds this run, interrupted; going on with it")
        with _epochs(config, json) as progress:
            if interrupted:
                history = resume_run(directory, progress=progress, device=config.device, **options)
            else:
                history = run(config, directory, progress=progress, **options)
    return _finished(history, directory, json)


def _several(
    nproc: int | None, data_dir: Path | None, plugins: tuple[str, ...], config: Any
) -> Any:
    """Return the context of the processes of a run, None if there are no others."""
    from topokit.experiments.processes import several

    return several(nproc, data_dir=data_dir, plugins=plugins, threads=config.threads)


def resume(
    run: Path,
    /,
    *,
    data_dir: DataDir = None,
    accept: Accept | None = None,
    nproc: Nproc = None,
    device: Device = None,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Continue an interrupted run; the result is the same as without the interruption.

    Parameters
    ----------
    run
        The run directory.
    """
    from topokit.experiments.config import RunConfig
    from topokit.experiments.record import History
    from topokit.experiments.rundir import RunDirectory
    from topokit.experiments.runs import resume as resume_run
    from topokit.experiments.runs import take_part

    plugins = load_plugins(plugin or ())
    directory = RunDirectory.open(run)
    if directory.done:
        console.note(f"{run} is already finished; nothing to do")
        return _finished(History.load(run), run, json)
    if "config" not in (accept or ()):
        directory.compare(directory.read())  # before an edited configuration is used
    config = RunConfig.from_dict(directory.config())
    with _resumable(run), _several(nproc, data_dir, plugins, config) as processes:
        if processes is not None and not processes.first:
            take_part(processes, data_dir)
            return 0
        with _epochs(config, json) as progress:
            history = resume_run(
                run,
                data_dir=data_dir,
                progress=progress,
                accept=accept or (),
                processes=processes,
                device=device,
            )
    return _finished(history, run, json)


def _epochs(config: RunConfig, quiet: bool) -> AbstractContextManager[Callable[..., None]]:
    """Return the context of the progress of a run."""
    options: Any = {"console": console.ERR, "write": console.note}
    return over_epochs(config.epochs, wanted=not quiet, **options)


@contextmanager
def _resumable(directory: Path) -> Iterator[None]:
    """Add to the message of an interruption or an OSError how the run can be continued."""

    def words() -> str:
        if (directory / "checkpoint.pt").is_file():
            command = f"topokit resume {console.shown(directory)}"
            return f"interrupted; finished epochs are saved. Continue: {command}"
        return "interrupted before the first epoch; nothing was saved"

    with interrupts.saying(words):
        try:
            yield
        except Exception as error:  # such as a full disk: the last checkpoint is intact
            ours = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
            if (directory / "checkpoint.pt").is_file() and (ours or told(error)):
                command = f"topokit resume {console.shown(directory)}"
                error.add_note(f"finished epochs are saved; continue: {command}")
            raise


def _free_directory(parent: Path, name: str, config_toml: str) -> Path:
    """Return the first of NAME, NAME-2, NAME-3, ... in which the run can start or go on."""
    from topokit.experiments.rundir import RunDirectory

    candidates = [parent / name, *(parent / f"{name}-{i}" for i in range(2, 10_000))]
    for path in candidates:
        directory = RunDirectory(path)
        with suppress(ValueError):
            if not directory.holds(config_toml) or directory.done:
                directory.check_free(config_toml)
            return path
    raise ValueError(f"expected a free name in {parent}, found none; choose one with --out")


def _finished(history: Any, directory: Path, json: bool) -> int:
    """Print the results of a finished run."""
    summary = console.run_summary(history, directory)
    if json:
        console.print_json(summary)
    else:
        console.print_summary(history, summary)
    return 0


def verify(*runs: Path, recover: bool = False, json: Json = False) -> int:
    """Check every file of runs, and recover what is damaged where that is possible.

    The exit code is 1 if a run is damaged.

    Parameters
    ----------
    runs
        Run directories.
    recover
        Recover what can be; damaged files are kept in the folder 'damaged' of the run.
    """
    from topokit.experiments.verify import verify as verify_run

    found = [verify_run(run, recover=recover) for run in some(list(runs))]
    if json:
        console.print_json(
            [vars(one) | {"findings": list(map(vars, one.findings))} for one in found]
        )
    else:
        for one in found:
            console.say(one.sentence())
    return 0 if all(one.intact for one in found) else 1


def info(*, json: Json = False) -> int:
    """Print versions, processors and data, and what a run would use."""
    from topokit.experiments.preparation import information

    found = information()
    if json:
        console.print_json(found)
        return 0
    packages = ", ".join(f"{name} {number}" for name, number in found["packages"].items())
    unset = "not set (TOPOKIT_DATA); the embedded digits need no files"
    lines = {
        "topokit": f"{packages}; Python {found['python']} on {found['platform']}",
        "cores": f"{found['cores']}, of which a run uses {found['threads']} (threads=N)",
        "GPUs": ", ".join(found["gpus"]) or f"none: {found['why']}",
        "device": f"cpu, unless --device cuda or auto is given; auto means {found['auto']} here",
        "data": found["data"] or unset,
    }
    for name, words in lines.items():
        console.say(f"{name}: {words}")
    return 0
