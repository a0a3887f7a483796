"""The gallery: every entry of the tables of plots with its picture and the code that draws it.

Runs are trained once and kept in ``_cache``, in folders named after their settings.
"""

from __future__ import annotations

import hashlib
import inspect
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

import topokit as tk
from topokit.experiments.study import study_from
from topokit.toml import parse_toml

mpl.use("Agg")

RUN = ["epochs=40", "model.widths=[64,300,300,10]", "topology.epsilon=4", "threads=1"]
STUDY = """
[study]
name = "gallery"
recipe = "set_mlp_digits"
seeds = [0, 1, 2]
measures = ["fan_in", "normalized_spectral_gap"]

[settings]
epochs = 12
model.widths = [64, 100, 10]

[[arms]]
name = "SET"
settings = { "rule.name" = "set", "topology.density" = 0.1 }

[[arms]]
name = "static"
settings = { "rule.name" = "static", "topology.density" = 0.1 }

[[arms]]
name = "static, sparser"
settings = { "rule.name" = "static", "topology.density" = 0.04 }
"""

SECTIONS = {
    "LAYER_PLOTS": (
        "A layer",
        "Of one layer graph: of a run, a model, or a file.",
        """\
history = tk.History.load("runs/mine")
graph = history.topology(-1)["fc1"]  # or any layer graph, matrix or model of one layer
""",
    ),
    "HISTORY_PLOTS": (
        "A run",
        "Of a finished run, or of the `Recording` of your own loop.",
        'history = tk.History.load("runs/mine")\n',
    ),
    "ACROSS_PLOTS": (
        "Many runs",
        "Of the runs of a study: conditions, with several seeds each.",
        """\
frame = tk.sweep("study.toml", "runs/study").frame
frame = frame[frame["layer"].isin(["network", "fc1"])]
index = ["run", "arm", "seed", "epoch"]
runs = frame.pivot(index=index, columns="measure", values="value").reset_index()
last = runs[runs["epoch"] == runs["epoch"].max()]
""",
    ),
}
"""Title and words for each table, and the code that stands before the call."""

CALLS = {
    "accuracy_against": 'tk.plots.accuracy_against(last, "normalized_spectral_gap")',
    "mean_over_seeds": "tk.plots.mean_over_seeds(runs)",
    "arms_side_by_side": "tk.plots.arms_side_by_side(last)",
}
"""Calls with other arguments than the one of the table."""

ARGUMENTS = {"LAYER_PLOTS": "graph", "HISTORY_PLOTS": "history", "ACROSS_PLOTS": "runs"}


def pages(docs: Path, fill: Any, plain: Any) -> Iterable[tuple[str, str | bytes]]:
    """Yield the index of the gallery, and the page and picture of every plot."""
    given = data(docs)
    sections = []
    for table, (title, about, before) in SECTIONS.items():
        plots = []
        for name, function in getattr(tk, table).items():
            text = plain(inspect.getdoc(function) or "").partition("\n\nParameters\n")[0]
            first, _, rest = text.partition("\n")
            code = before + CALLS.get(name, f"tk.plots.{name}({ARGUMENTS[table]})")
            yield f"gallery/{name}.png", drawn(code.partition("\n")[2], given)
            plot = {"name": name, "first": first, "rest": rest.strip()}
            plot["code"] = f"import topokit as tk\n\n{code}"
            yield f"gallery/{name}.md", fill("plot.md", plot=plot)
            plots.append(plot)
        sections.append({"title": title, "about": about, "plots": plots})
    yield "gallery/index.md", fill("gallery.md", sections=sections)


def data(docs: Path) -> dict[str, Any]:
    """Return what the examples draw: trained at the first build, read at later ones."""
    config = tk.load_recipe("set_mlp_digits").override(RUN)
    study = study_from(parse_toml(STUDY))
    plans = "\n".join(plan.config.to_toml() for plan in study.runs())
    run = cached(docs, config.to_toml()) / "set_mlp_digits"  # the name that titles show
    if not (run / "DONE").is_file():
        tk.run(config, run)
    swept = tk.sweep(study, cached(docs, plans), workers=2)
    if swept.failures:
        raise RuntimeError(f"runs of the gallery failed: {swept.failures}")
    return {"history": tk.History.load(run), "frame": swept.frame}


def cached(docs: Path, configuration: str) -> Path:
    """Return the folder of what this version of topokit trains with a complete configuration."""
    key = hashlib.sha256(f"{tk.__version__}\n{configuration}".encode()).hexdigest()[:12]
    return docs / "_cache" / key


def drawn(code: str, given: Mapping[str, Any]) -> bytes:
    """Execute the code of an example and return the picture of the axes that it ends with."""
    *before, last = code.splitlines()
    names = {"tk": tk, **given}
    plt.close("all")
    style = {
        **tk.plots.style.RC,
        "figure.figsize": (5.2, 3.9),
        "figure.constrained_layout.use": True,
    }
    with mpl.rc_context(style):
        exec("\n".join(before), names)
        axes = eval(last, names)
        file = io.BytesIO()
        tk.plots.style.save(axes, file, dpi=170, metadata={"Software": "topokit"})
        plt.close("all")
    return file.getvalue()
