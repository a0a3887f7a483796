"""A self-contained HTML report on one or more runs: findings first, then figures and tables."""

from __future__ import annotations

import base64
import inspect
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

import topokit
from topokit.experiments.record import (
    History,
    Recording,
    as_run,
    best_epoch,
    check_seeds_differ,
    conditions,
    score_column,
    unfinished,
)
from topokit.experiments.views import recorded_epochs
from topokit.foreign import printable
from topokit.graph import Topology
from topokit.graph.files import write_atomic
from topokit.measures import describe_fit, power_law_of
from topokit.measures.scalefree import bootstrap_stream
from topokit.plots import CAPTIONS, PAGE, degree_distribution, drawable, frames, summary_across
from topokit.plots.history import scores_of
from topokit.plots.parts import draw_in
from topokit.plots.style import figure, save
from topokit.plots.tables import (
    compared,
    configurations,
    decimals,
    listed_words,
    measure_tables,
    unique,
    verdict_table,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from topokit.experiments.record import RunLike

__all__ = ["verdict_sentences", "write_report"]

BOOTSTRAP = 100
DPI = 150  # of figures
LAYERS = 8  # largest number of layers whose degrees have figures of their own
FRAMES = 60  # largest number of epochs in the player
ENDINGS = (".html", ".htm", "")
SHOWN = 4  # up to this many runs are all drawn, else the first one of each condition
WIDEST = ("power law", "heavy-tailed", "broad")  # verdicts wider than random, the widest first
Progress = Callable[[str, int, int], None]


def verdict_sentences(
    topology: Topology, *, bootstrap: int = BOOTSTRAP, seed: int = 0
) -> list[dict[str, str]]:
    """Return the verdict on the degrees of every layer and side, in words.

    Parameters
    ----------
    topology : dict of LayerGraph
    bootstrap : int
        Number of replicates for each p-value; with 0 the verdict is never "power law".
    seed : int
        Seed of the bootstrap. Each layer and side has a random stream of its own.

    Returns
    -------
    list of dict
        ``layer``, ``side`` ("fan-in" or "fan-out"), ``verdict``, ``label`` (the verdict, with "(not
        bootstrapped)" where a bootstrap could change it) and ``sentence``.

    Notes
    -----
    The verdicts are those of `topokit.measures.degree_report` with the same number of replicates
    and the streams of `topokit.measures.scalefree.bootstrap_stream`.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> layer = LayerGraph.from_edge_ids(range(12), (3, 4))
    >>> [row["verdict"] for row in verdict_sentences({"fc1": layer})]
    ['complete', 'complete']
    """
    rows = []
    for i, (layer, graph) in enumerate(topology.items()):
        for side in ("fan_in", "fan_out"):
            rng = bootstrap_stream(seed, i, side) if bootstrap else None
            fit = power_law_of(graph, side, bootstrap=bootstrap, rng=rng)
            rows.append(
                {
                    "layer": layer,
                    "side": side.replace("_", "-"),
                    "verdict": fit.verdict,
                    "label": fit.label,
                    "sentence": describe_fit(fit),
                }
            )
    return rows


def write_report(
    histories: RunLike | Sequence[RunLike],
    path: str | os.PathLike[str],
    *,
    bootstrap: int = BOOTSTRAP,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Write a self-contained HTML page, which loads nothing from the network or other files.

    The first screen says what was found: the verdict on the degrees of every layer, and the score
    of each condition with its 95 % interval over seeds (runs that differ only in their seed form a
    condition). Figures and tables follow, of several runs side by side.

    Parameters
    ----------
    histories : run or sequence of runs
        Of more than four, the first of each condition is drawn; the tables hold all.
    path : path
        Ending in .html or .htm, or without an ending.
    bootstrap : int
        Number of replicates for the p-values of the verdicts.
    progress : callable, optional
        Called with the name of a figure, its number from 0 and their number before it is drawn.
    tell : callable, optional
        Called with each sentence on what was found, before figures are drawn.

    Returns
    -------
    Path
        The page, as `path`.

    Raises
    ------
    ValueError
        If there is no run, one has not recorded an epoch, two of one condition have the same seed,
        or the path has the ending of another kind of file.
    OSError
        If the page cannot be written there, before figures are drawn.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"expected a page ending in .html, got {path.name!r}")
    if isinstance(histories, str | os.PathLike | History | Recording):
        histories = [histories]
    runs = [as_run(history) for history in histories]
    if not runs:
        raise ValueError("expected at least one run, got none")
    for history in runs:
        recorded_epochs(history)
    with write_atomic(path, sync=False) as temporary:  # refuses a bad path before long work
        page = _page(runs, bootstrap, progress, tell)
        temporary.write_text(page, encoding="utf-8")
    return path


def _page(
    runs: Sequence[History],
    bootstrap: int,
    progress: Progress | None,
    tell: Callable[[str], None] | None,
) -> str:
    """Return the HTML text of the page."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
    )
    arms = conditions(runs)
    check_seeds_differ(runs, arms)
    rows = [_run(h, i, arm, bootstrap) for i, (h, arm) in enumerate(zip(runs, arms, strict=True))]
    findings = _findings(rows)
    if tell is not None:
        for name, sentence in findings:
            tell(f"{name} {sentence}".strip())
    shown = _shown(runs, arms)
    data = json.dumps({"runs": [_player(runs[i]) for i in shown]}).replace("<", "\\u003c")
    return environment.get_template("report.html.jinja").render(
        title="topokit: " + listed_words([history.name for history in runs], 3),
        heading=_heading(runs, arms),
        version=topokit.__version__,
        bootstrap=bootstrap,
        findings=findings,
        compared=compared(rows),
        verdicts=verdict_table(rows),
        runs=rows,
        shown=[rows[i] for i in shown],
        wide=_wide(runs, progress),
        gallery=_gallery([runs[i] for i in shown], progress, int(len(runs) > 1)),
        player=Markup(data),
        layers_left=max(0, *(len(run.topology(run.recorded[-1])) - LAYERS for run in runs), 0),
        measures=measure_tables([runs[i] for i in shown]),
        configuration=configurations(runs),
    )


def _visible(value: Any) -> Any:
    """Return a value of the page; control characters in names, which HTML cannot hold, as text."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, keep="\n\t")
    return value


def _shown(runs: Sequence[History], arms: Sequence[str]) -> list[int]:
    """Return the positions of the runs that are drawn: all if there are few, else one an arm."""
    return list(range(len(runs))) if len(runs) <= SHOWN else [arms.index(a) for a in unique(arms)]


def _heading(runs: Sequence[History], arms: Sequence[str]) -> str:
    """Return the heading of the page: the run, or how many there are of which conditions."""
    if len(runs) == 1:
        return f"Run {runs[0].name}"
    n = len(set(arms))
    return f"{len(runs)} runs of {listed_words(unique(arms), 4)}" if n > 1 else f"{len(runs)} runs"


# --- what was found ------------------------------------------------------------------------------


def _run(history: History, number_: int, arm: str, bootstrap: int) -> dict[str, Any]:
    """Return the values of one run: scores, verdicts, first layer, command."""
    epochs, recorded = history.epochs, history.recorded
    first, last = recorded[0], recorded[-1]
    column = score_column(epochs)
    scores, label = _scores(history)
    best = best_epoch(epochs) if column else len(epochs) - 1
    seed = history.config.get("seed")
    topology = history.topology(last)
    verdicts = {
        epoch: verdict_sentences(history.topology(epoch), bootstrap=bootstrap, seed=int(seed or 0))
        for epoch in dict.fromkeys((first, last))
    }
    return {
        "name": history.name,
        "condition": arm,
        "anchor": f"run-{number_}",
        "rule": history.config.get("rule", {}).get("name", "–"),
        "epochs": unfinished(history).removesuffix(" epochs") or len(epochs),
        "unfinished": unfinished(history),
        "label": label,
        "value": float(epochs[column].iloc[-1]) if column else float("nan"),
        "final": scores[-1],
        "best": scores[best],
        "best_epoch": int(epochs["epoch"].iloc[best]) if column else "–",
        "edges": sum(graph.n_edges for graph in topology.values()),
        "seed": seed,
        "first_layer": next(iter(topology)),
        "dispersion": _last(history, "fan_in.dispersion"),
        "gap": _last(history, "normalized_spectral_gap"),
        "verdicts": verdicts,
        "n_tests": sum(map(len, verdicts.values())),
        "command": history.environment.get("command", "not recorded"),
        "environment": json.dumps(history.environment, indent=2),
    }


def _last(history: History, measure: str) -> float:
    """Return a measure of the first layer at the last epoch that has it, nan if none has."""
    frame = history.measures
    layer = next(iter(history.topology(history.recorded[-1])))
    mine = frame[(frame["layer"] == layer) & (frame["measure"] == measure)]
    return float(mine.sort_values("epoch")["value"].iloc[-1]) if len(mine) else float("nan")


def _scores(history: History) -> tuple[list[str], str]:
    """Return the scores of all epochs as text, a dash for one that is missing, and their name."""
    if score_column(history.epochs) is None:
        return ["–"] * len(history.epochs), "score"
    scores, label = scores_of(history)
    words = [f"{score:.{decimals([score], 4)}f}" for score in scores]
    return [w if np.isfinite(s) else "–" for w, s in zip(words, scores, strict=True)], label


def _findings(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return what was found: for each condition its name and verdicts, for one run its score."""
    found = []
    alike: dict[str, list[str]] = {}  # conditions of which the same is found are told together
    for arm in unique([row["condition"] for row in rows]):
        words = _verdicts_in_words([row for row in rows if row["condition"] == arm])
        alike.setdefault(words, []).append(arm)
    for words, arms in alike.items():
        several = len(rows) > 1
        name = f"{listed_words(arms, 6)}:" if several else ""
        found.append([name, words if several else words[:1].upper() + words[1:]])
    if len(rows) == 1:
        (row,) = rows
        if row["best"] != "–":
            done = (
                f"Unfinished: {row['unfinished']} reached" if row["unfinished"] else "It ended at"
            )
            article = "an" if row["label"][0] in "aeiou" else "a"
            final = f"of {row['final']}" if row["final"] != "–" else "that is no finite number"
            score = f"{final} (best {row['best']} at epoch {row['best_epoch']})"
            found.append(["", f"{done} {article} {row['label']} {score}; one run, one seed."])
        elif row["unfinished"]:
            found.append(["", f"Unfinished: {row['unfinished']}."])
    elif any(row["unfinished"] for row in rows):
        names = [f"{row['name']} ({row['unfinished']})" for row in rows if row["unfinished"]]
        found.append(["Unfinished:", f"{listed_words(names, 5)}."])
    return found


def _verdicts_in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return sentences on which degrees are wider than random at the last epoch of these runs."""
    seen: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        for verdict in list(row["verdicts"].values())[-1]:
            key = verdict["layer"], verdict["side"]
            seen.setdefault(key, Counter())[verdict["label"]] += 1
    epochs = {list(row["verdicts"])[-1] for row in rows}
    when = f"at epoch {epochs.pop()}" if len(epochs) == 1 else "at the end"
    labels = [f"{word}{more}" for word in WIDEST for more in ("", " (not bootstrapped)")]
    left = sum(not any(counts[label] for label in labels) for counts in seen.values())
    parts = []
    for label in labels:
        names = []
        for (layer, side), counts in seen.items():
            if counts[label]:
                of = f" (in {counts[label]} of {counts.total()} runs)" if len(rows) > 1 else ""
                names.append(f"{layer} {side}{of}")
        if names:
            verb = "follows a" if label == "power law" else "is"
            verb = verb if len(names) == 1 else {"is": "are"}.get(verb, "follow a")
            parts.append(f"{listed_words(names, 6)} {verb} {label}")
    if not parts:
        return f"{when} no layer has degrees wider than those of a random graph."
    rest = f"; {left} of {len(seen)} are not wider than random" if left else ""
    told = {label for counts in seen.values() for label in counts}
    power = " None follows a power law."
    if "power law" in told:
        power = ""
    elif any(label.endswith("(not bootstrapped)") for label in told):
        power = " Whether any is a power law was not tested: there was no bootstrap."
    return f"{when} {'; '.join(parts)}{rest}.{power}"


# --- pictures ------------------------------------------------------------------------------------


def _player(history: History) -> dict[str, Any]:
    """Return the data of the player: degrees and blocks of every layer at up to `FRAMES` epochs."""
    # The page holds them as JSON: distributions as [k, share] pairs, which the player draws as
    # steps, and block densities (0..99) as one base64 string for each epoch, with one byte for each
    # block, row by row. That is a third of the length of a list of numbers, and one call of `atob`
    # decodes it.
    data = frames(history, n_frames=FRAMES)
    scores, label = _scores(history)
    score_of = dict(zip(history.epochs["epoch"], scores, strict=True))
    curves: dict[str, Any] = {}
    for name, layer in data["layers"].items():
        for side in ("fan_in", "fan_out"):
            curves[f"{printable(name)} {side.replace('_', '-')}"] = {
                "side": side.replace("_", "-"),
                "units": layer[side]["units"],
                "nulls": [list(zip(*null, strict=True)) for null in layer[side]["nulls"]],
                "null": layer[side]["null"],
                "epochs": [list(zip(*curve, strict=True)) for curve in layer[side]["ccdf"]],
                "dispersion": [
                    "–" if value is None else f"{value:.2f}" for value in layer[side]["dispersion"]
                ],
                "layer": printable(name),
            }
    blocks = {
        printable(name): {
            "shape": [len(layer["blocks"][0]), len((layer["blocks"][0] or [[]])[0])],
            "units": layer["shape"],
            "densest": f"{100 * layer['densest']:.3g} %",
            "epochs": [_bytes(rows) for rows in layer["blocks"]],
        }
        for name, layer in data["layers"].items()
    }
    return {
        "epochs": data["epochs"],
        "label": label,
        "scores": [score_of[epoch] for epoch in data["epochs"]],
        "curves": curves,
        "blocks": blocks,
    }


def _bytes(rows: list[list[int]]) -> str:
    """Encode numbers in 0..255 as base64, one byte each."""
    return base64.b64encode(np.array(rows, np.uint8).tobytes()).decode("ascii")


def _wide(runs: Sequence[History], progress: Progress | None) -> list[dict[str, str]]:
    """Draw the conditions compared, if there are several runs."""
    if len(runs) == 1:
        return []
    if progress is not None:
        progress("summary across runs", 0, 1)
    caption = (
        "All runs on one time axis: score, and of the first layer variance over mean of the fan-in "
        "(1 − density in a random graph), largest fan-in, spectral gap, largest component and "
        "turnover. Lines are means over seeds, bands 95 % intervals; a condition of one seed has "
        "no band."
    )
    found = {
        "name": "Conditions compared",
        "caption": caption,
        "alt": f"Plot of all runs. {caption}",
    }
    return [found | {"data": _pngs([partial(summary_across, runs)], size=PAGE)[0]}]


def _gallery(runs: Sequence[History], progress: Progress | None, done: int) -> list[dict[str, Any]]:
    """Draw every figure of every run; those of one name are together, with common axes."""
    drawn: dict[str, list[tuple[History, str, Callable[..., Any]]]] = {}
    for history in runs:
        for name, caption, draw in _figures(history):
            drawn.setdefault(name, []).append((history, caption, draw))
    found = []
    for i, (name, several) in enumerate(drawn.items()):
        if progress is not None:
            progress(name, i + done, len(drawn) + done)
        wide = name == "summary"
        data = _pngs([draw for _, _, draw in several], size=PAGE if wide else "column")
        pictures = [
            {"run": h.name, "alt": f"Plot of {h.name}: {name}. {caption}", "data": png}
            for (h, caption, _), png in zip(several, data, strict=True)
        ]
        entry = {"name": name, "caption": several[0][1], "wide": wide, "pictures": pictures}
        entry["layer"] = name.startswith("degrees of ")
        found.append(entry)
    return found


def _figures(history: History) -> list[tuple[str, str, Callable[..., Any]]]:
    """Return name, caption and function of the history plots and the degrees of the layers."""
    drawn: list[tuple[str, str, Callable[..., Any]]] = [
        (name.replace("_", " "), CAPTIONS.get(name) or _first_line(plot), partial(plot, history))
        for name, plot in drawable(history).items()
    ]
    first, last = (history.topology(history.recorded[i]) for i in (0, -1))
    for layer, graph in list(last.items())[:LAYERS]:
        for side in ("fan_in", "fan_out"):
            word = side.replace("_", "-")
            caption = (
                f"{layer}: {word} at the last epoch, at the first epoch and of a random graph."
            )
            title = f"{layer} {word}, last epoch"
            draw = partial(degree_distribution, graph, side=side, initial=first[layer], title=title)
            drawn.append((f"degrees of {layer}, {word}", caption, draw))
    return drawn


def _first_line(plot: Callable[..., Any]) -> str:
    """Return the first line of a plot function's docstring, the caption of a user's plot."""
    return (inspect.getdoc(plot) or "").partition("\n")[0]


def _pngs(draws: Sequence[Callable[..., Any]], *, size: str | tuple[float, float]) -> list[str]:
    """Return figures as base64 PNG, with the same limits where they have the same axes."""
    found = []
    with ExitStack() as stack:
        drawn = []
        for draw in draws:
            ax = stack.enter_context(figure(size=size))
            draw_in(draw, ax)
            drawn.append(ax)
        for axis in ("x", "y"):
            _same_limits(drawn, axis)
        for ax in drawn:
            buffer = io.BytesIO()
            save(ax, buffer, format="png", dpi=DPI)
            found.append(base64.b64encode(buffer.getvalue()).decode("ascii"))
    return found


def _same_limits(drawn: Sequence[Axes], axis: str) -> None:
    """Give axes without panels of their own, of one scale and direction, common limits.

    Those of axes with one value only, such as a turnover of 0, do not count where the limits of
    the others hold it.
    """
    alike = {(getattr(ax, f"get_{axis}scale")(), getattr(ax, f"get_{axis}label")(),
              getattr(ax, f"{axis}axis_inverted")()) for ax in drawn}  # fmt: skip
    if len(drawn) < 2 or len(alike) > 1 or any(ax.child_axes for ax in drawn):
        return
    limits = np.sort([getattr(ax, f"get_{axis}lim")() for ax in drawn])
    first, last = np.array([getattr(ax.dataLim, f"interval{axis}") for ax in drawn]).T
    varied = first != last
    low, high = limits[varied, 0].min(initial=np.inf), limits[varied, 1].max(initial=-np.inf)
    kept = limits[varied | (first < low) | (last > high)]
    low, high = kept.min(), kept.max()
    turned = getattr(drawn[0], f"{axis}axis_inverted")()
    for ax in drawn:
        getattr(ax, f"set_{axis}lim")((high, low) if turned else (low, high))
