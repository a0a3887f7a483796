"""Commands for many runs: ``sweep`` and ``compare``."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from topokit.cli import console, interrupts
from topokit.cli.options import (
    DataDir,
    Device,
    Json,
    MaybeWhole,
    Plugins,
    Whole,
    comma_separated,
    some,
    words_of,
)
from topokit.foreign import first_few
from topokit.plugins import load_plugins
from topokit.progress import over_runs

if TYPE_CHECKING:
    import pandas as pd

    from topokit.experiments.compare import Comparison
    from topokit.experiments.sweep import SweepResult

__all__ = ["compare", "sweep"]

GONE = dt.timedelta(hours=6)  # a time of day this long ago is past, an earlier one tomorrow's


def sweep(
    study: str,
    /,
    *,
    out: Path,
    workers: MaybeWhole = None,
    scheduler: str | None = None,
    quick: bool = False,
    part: str | None = None,
    gather: bool = False,
    only: Annotated[list[str] | None, Parameter(name="--only", consume_multiple=True)] = None,
    until: str | None = None,
    rerun: Annotated[list[str] | None, Parameter(name="--rerun")] = None,
    together: MaybeWhole = None,
    data_dir: DataDir = None,
    device: Device = None,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Run all runs of a study: conditions, a grid over configuration keys, and seeds.

    The same command continues after an interruption; finished runs are not repeated.

    Parameters
    ----------
    study
        A name from 'topokit list studies', or a TOML file.
    out
        Directory of the sweep: runs/, sweep.parquet with all results, failures.json.
    workers
        Number of processes on this machine; by default one for each core.
    scheduler
        Address of a Dask scheduler to use instead, e.g. tcp://host:8786.
    quick
        Run the small variant of the study.
    part
        Run one part of the study only, such as 3/8. Parts may run at the same time, for example in
        the jobs of an array; afterwards --gather collects their results.
    gather
        Run nothing, only collect the results of all parts.
    only
        Run only the runs whose names match these patterns, such as 'set-*-seed0', in their order.
    until
        Stop at this time of day, such as 22:05, after the epoch in which it comes. Nothing is begun
        in the six hours after it, so that several such commands may follow each other.
    rerun
        Train a run again from the start, or all that are damaged with --rerun damaged; may be
        repeated. What was there is moved to replaced/.
    together
        Train up to so many runs that differ only in their seed as one network, which fills a
        graphics card. Each is recorded as if it were alone.
    """
    from topokit.experiments import sweep as sweeping
    from topokit.experiments.study import load_study

    load_plugins(plugin or ())
    planned = load_study(study, quick=quick)
    if device is not None:
        others = [planned.grid, *planned.arms.values(), *planned.cases.values()]
        if any("device" in table for table in others):
            raise ValueError("--device: the study sets the device of single runs itself")
        planned = replace(planned, settings={**planned.settings, "device": device})
    patterns = words_of("--only", only)
    at, end = _part(part), _end(until, dt.datetime.now())
    repeat = f"topokit sweep {console.shown(study)} --out {console.shown(out)}"
    repeat += " --quick" if quick else ""
    if gather:
        _check_alone(
            part=part, rerun=rerun, workers=workers, scheduler=scheduler, device=device, only=only,
            until=until, together=together, data_dir=data_dir,
        )  # fmt: skip
        result = sweeping.gather(planned, out)
    else:
        shown: Any = {"wanted": not json, "console": console.ERR, "write": console.note}

        def words() -> str:
            return (
                f"interrupted; finished epochs are saved in {out}. Continue with the same command"
            )

        with interrupts.saying(words), over_runs(**shown, lines=10**6) as progress:
            result = sweeping.sweep(
                planned,
                out,
                workers=workers,
                scheduler=scheduler,
                data_dir=data_dir,
                plugins=tuple(plugin or ()),
                part=at,
                only=tuple(patterns),
                until=end,
                rerun=tuple(rerun or ()),
                together=1 if together is None else together,
                progress=progress,
            )
    if json:
        n_done = result.frame["run"].nunique()
        found = {"sweep": str(out), "done": n_done, "failures": result.failures}
        listed = {"unfinished": result.unfinished} if gather or end else {}
        console.print_json(found | listed)
    else:
        again = "the same command continues" if end else "run their part (again)"
        _print_result(result, out, again)
        if at is None:
            console.say(f"next: topokit compare {console.shown(out)}")
        else:
            console.say(f"next, when all {at[1]} parts are done: {repeat} --gather")
    return 1 if result.failures or (result.unfinished and end is None) else 0


def _check_alone(**options: object) -> None:
    """Raise a ValueError if an option is given with ``--gather``, which runs nothing."""
    for name, value in options.items():
        if value is not None:
            option = name.replace("_", "-")
            raise ValueError(f"expected --gather alone, which runs nothing, got --{option} too")


def _print_result(result: SweepResult, out: Path, again: str) -> None:
    """Print failures, numbers of runs, and where the results are; `again` does what is left."""
    for run, reason in result.failures.items():
        console.complain(f"{run} failed: {reason}")
    n_done = result.frame["run"].nunique()
    summary = f"{n_done} {'run' if n_done == 1 else 'runs'} done, {len(result.failures)} failed"
    if result.unfinished:
        summary += f", {len(result.unfinished)} not finished yet"
        some = first_few(result.unfinished, 3)
        console.note(f"not finished yet, or interrupted: {some}; {again}")
    console.say(f"{summary}; results are in {out}")


def _note_runs(runs: pd.DataFrame) -> None:
    """Note which of the compared runs are unfinished or without a value."""
    for run, done, planned in runs[["run", "epochs", "planned"]].itertuples(index=False):
        if done < planned:
            console.note(f"{run} is unfinished: its values are those of {done} of {planned} epochs")
    for run, metric in runs.loc[runs["value"].isna(), ["run", "metric"]].itertuples(index=False):
        console.note(f"{run} ended with a {metric} of nan: it is left out of means and pairs")


def _part(text: str | None) -> tuple[int, int] | None:
    """Return (i, n) of the text i/n."""
    if text is None:
        return None
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise ValueError(f"expected --part i/n with 1 <= i <= n, such as 3/8, got {text!r}")
    return int(i), int(n)


def _end(text: str | None, now: dt.datetime) -> dt.datetime | None:
    """Return the next time that a clock shows HH:MM, or the last if it was `GONE` ago or less."""
    if text is None:
        return None
    try:
        at = dt.time.fromisoformat(text)
        if at.tzinfo is not None:
            raise ValueError
    except ValueError:
        raise ValueError(f"expected --until HH:MM, such as 22:05, got {text!r}") from None
    end = dt.datetime.combine(now.date(), at)
    day = dt.timedelta(days=1)
    return min(e for e in (end - day, end, end + day) if e >= now - GONE)


def compare(
    runs: list[Path],
    /,
    *,
    measures: str | None = None,
    reference: str | None = None,
    out: Path | None = None,
    csv: Path | None = None,
    seed: Whole = 0,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Compare groups of runs over seeds: accuracy, edges, measures, and differences of pairs.

    Models without labels are compared by their test loss.

    Parameters
    ----------
    runs
        Run directories, sweeps and folders of runs.
    measures
        Comma-separated, such as fc1/fan_in.dispersion; without a layer the mean over layers.
    reference
        The group with which all others are compared, by its name in the table.
    out
        File for a figure of all runs, e.g. compare.png.
    csv
        Folder for the tables as groups.csv, pairs.csv and runs.csv.
    seed
        Seed of the permutation tests.
    """
    import numpy as np

    from topokit.experiments import compare as comparing
    from topokit.graph.files import check_writable, write_atomic

    load_plugins(plugin or ())
    names = None if measures is None else comma_separated(measures)
    if names == []:
        raise ValueError(
            "--measures: expected names of measures, see 'topokit list measures', got none"
        )
    if out is not None:
        _check_figure(out)
        check_writable(out.parent)
    if csv is not None:
        check_writable(csv, made=True)
    rng = np.random.default_rng(seed)
    found = comparing.compare(some(runs), measures=names, reference=reference, rng=rng)
    _note_runs(found.runs)
    if out is not None:
        _draw_comparison(found, out)
    if csv is not None:
        csv.mkdir(parents=True, exist_ok=True)
        for name in ("groups", "pairs", "runs"):
            with write_atomic(csv / f"{name}.csv", sync=False) as temporary:
                getattr(found, name).to_csv(temporary, index=False)
    groups: Any = found.groups.to_dict("records")
    pairs: Any = found.pairs.to_dict("records")
    if json:
        listed = found.runs.to_dict("records")
        console.print_json({"groups": groups, "pairs": pairs, "runs": listed})
        return 0
    title = "means over seeds, with 95 % intervals (of value from low to high)"
    columns = found.groups.columns.astype(str)
    taken = [name.removesuffix(".low") for name in columns if name.endswith(".low")]
    console.print_rows((_with_intervals(row, taken) for row in groups), title=title)
    if pairs:
        console.print_rows(pairs, title="value of group minus other, over shared seeds")
    for path in (out, csv):
        if path is not None:
            console.say(str(path))
    return 0


def _draw_comparison(found: Comparison, out: Path) -> None:
    """Draw the values of all runs, group by group, into a file."""
    from topokit.plots.across import arms_side_by_side
    from topokit.plots.style import figure, save

    metrics = found.groups["metric"].unique()
    if len(metrics) > 1:
        raise ValueError(
            "expected runs of one metric in a figure, got runs compared by "
            f"{' and '.join(metrics)}; compare them without --out"
        )
    shown = found.runs.rename(columns={"value": metrics[0]})
    lines = sum(1 + len(name) // 30 for name in found.groups["group"])  # long names are wrapped
    with figure(size=(3.5, 1.2 + 0.16 * len(found.groups) + 0.12 * lines)) as ax:
        arms_side_by_side(shown, metrics[0], arm="group", ax=ax)
        save(ax, out, dpi=200)


def _check_figure(path: Path) -> None:
    """Raise a ValueError if a figure cannot be written in the format of a file's name."""
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = {*FigureCanvasBase.get_supported_filetypes()} - {"pgf", "raw", "rgba"}  # no pictures
    if path.suffix and path.suffix[1:].lower() not in kinds:
        raise ValueError(
            f"--out: expected a figure, such as compare.png or compare.pdf, got {path}; the tables "
            "are written by --csv FOLDER"
        )


def _with_intervals(row: dict[str, Any], measures: Iterable[str]) -> dict[str, Any]:
    """Return a row of the table of groups in which measures and their intervals are one column."""
    shown = dict(row)
    for name in measures:
        low, high = shown.pop(f"{name}.low"), shown.pop(f"{name}.high")
        if not math.isnan(low):
            ends = f"[{console.number(low)}, {console.number(high)}]"
            shown[name] = f"{console.number(shown[name])} {ends}"
    return shown
