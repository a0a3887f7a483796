"""Progress is shown where somebody watches, and never on standard output."""

import io
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import topokit as tk
from topokit import progress
from topokit.experiments.study import study_from
from topokit.measures import powerlaw
from topokit.measures.powerlaw import bootstrap_p, fit_tail, tally

TINY = {"epochs": 2, "model.widths": [64, 12, 10], "measures.names": ["fan_in.dispersion"]}


class Terminal(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self):
        return True


class Notebook:
    """What a notebook shows, and all that it has shown."""

    def __init__(self, monkeypatch):
        self.shown, self.bars = [], 0
        self.shell = types.SimpleNamespace(kernel=True, execution_count=1)
        fake = types.ModuleType("IPython")
        fake.get_ipython = lambda: self.shell
        display = types.ModuleType("IPython.display")
        display.HTML = str
        display.display = self.display
        monkeypatch.setattr(progress._Notebook, "latest", None)
        monkeypatch.setitem(sys.modules, "IPython", fake)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, value, display_id):
        self.bars += 1
        return types.SimpleNamespace(update=self.shown.append)


def watched(monkeypatch):
    """Put a terminal in place of standard error; pytest would replace one made by a fixture."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    return stream


def test_the_calls_of_a_cell_share_a_bar(monkeypatch):
    notebook = Notebook(monkeypatch)
    for cell, bars in ((1, 1), (1, 1), (2, 2)):
        notebook.shell.execution_count = cell
        with progress.bar("step") as step:
            step(1, 2, "")
        assert notebook.bars == bars
    assert notebook.shown[-1] == ""


@pytest.mark.parametrize("wanted", [None, False])
def test_nothing_is_shown_where_nobody_watches(tmp_path, capsys, wanted):
    tk.run("set_mlp_digits", tmp_path / "run", progress=wanted, **TINY)
    assert capsys.readouterr() == ("", "")


def test_lines_where_they_are_wanted(tmp_path, capsys):
    tk.run("set_mlp_digits", tmp_path / "run", progress=True, **TINY)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.partition("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all("accuracy 0." in line and "fc1 fan-in var/mean" in line for line in lines)


def test_a_terminal_has_a_bar_that_goes(tmp_path, monkeypatch, capsys):
    terminal = watched(monkeypatch)
    tk.run("set_mlp_digits", tmp_path / "run", **TINY)
    assert "epoch" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()
    assert capsys.readouterr().out == ""
    assert not progress._shown.get()
    before = terminal.getvalue()
    tk.run("set_mlp_digits", tmp_path / "silent", progress=False, **TINY)
    assert terminal.getvalue() == before


def test_a_notebook_has_a_bar_without_widgets(tmp_path, monkeypatch, capsys):
    notebook = Notebook(monkeypatch)
    monkeypatch.setattr(progress, "PAUSE", 0)
    assert progress.watched() == "notebook"
    tk.run("set_mlp_digits", tmp_path / "run", **TINY)
    assert 'max="2" value="1"' in notebook.shown[1]
    assert "accuracy 0." in notebook.shown[1]
    assert notebook.shown[-1] == "", "the bar is taken away"
    assert capsys.readouterr() == ("", "")


def test_a_sweep_has_one_bar_and_its_runs_none(tmp_path, monkeypatch):
    terminal = watched(monkeypatch)
    study = study_from({
        "study": {"name": "tiny", "recipe": "set_mlp_digits", "seeds": [0, 1]},
        "settings": TINY,
    })  # fmt: skip
    tk.sweep(study, tmp_path, executor=ThreadPoolExecutor(1))
    assert "runs" in terminal.getvalue()
    assert "epoch" not in terminal.getvalue()


@pytest.mark.parametrize("place", ["terminal", "notebook"])
def test_a_sweep_has_one_estimate_of_the_time_left(place, monkeypatch):
    at = {"done": 1, "running": 1, "failed": 0, "total": 4, "last": "set-0", "seconds_left": 50.0}
    made = Notebook(monkeypatch) if place == "notebook" else watched(monkeypatch)
    with progress.over_runs() as step:
        step(types.SimpleNamespace(**at))
    shown = made.shown[-2] if place == "notebook" else made.getvalue()
    assert "50 s left" in shown
    assert shown.count(" left") == 1
    assert ":--" not in shown


def test_a_bar_within_a_bar_is_not_shown(monkeypatch):
    terminal = watched(monkeypatch)
    with progress.bar("outer") as outer, progress.bar("inner") as inner:
        inner(1, 2, "never")
        outer(1, 2, "seen")
    assert "seen" in terminal.getvalue()
    assert "never" not in terminal.getvalue()


def test_short_calls_show_nothing(monkeypatch):
    terminal = watched(monkeypatch)
    with progress.bar("replicates", delay=60) as step:
        for i in range(5):
            step(i, 5, "")
    assert terminal.getvalue() == ""


def test_a_bar_goes_when_its_call_fails(monkeypatch):
    watched(monkeypatch)

    def fails():
        with progress.bar("step") as step:
            step(1, 2, "")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert not progress._shown.get()


@pytest.mark.parametrize("replicates", [1, 49, 120])
def test_a_bootstrap_in_parts_equals_one_at_once(replicates, monkeypatch):
    """The parts draw on one after the other from the same stream."""
    samples = tally(np.random.default_rng(0).zipf(2.2, 300))
    fit = fit_tail(samples)
    found = bootstrap_p(samples, fit, replicates=replicates, rng=np.random.default_rng(1))
    monkeypatch.setattr(powerlaw, "PARTS", 1)
    whole = bootstrap_p(samples, fit, replicates=replicates, rng=np.random.default_rng(1))
    assert found == whole
