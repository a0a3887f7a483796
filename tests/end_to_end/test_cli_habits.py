"""Habits of the command line: what a person tries is done, or refused with what to type instead."""

import io
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

import topokit as tk
from topokit.cli import console, main
from topokit.cli.catalogue import TABLES
from topokit.experiments.sweep import runs_of
from topokit.plots import HISTORY_PLOTS

WIDTHS = {"model.widths": [64, 12, 10], "measures.names": ["fan_in.dispersion"]}


def topokit(*words):
    return main([str(word) for word in words])


def refused(capsys, *words):
    assert topokit(*words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "Traceback" not in told.err
    return " ".join(told.err.split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with spaces in its name, of runs: two rules, two seeds."""
    folder = tmp_path_factory.mktemp("some") / "my runs"
    for rule in ("set", "static"):
        for seed in (0, 1):
            name = f"{rule}-{seed}"
            tk.run("set_mlp_digits", folder / name, epochs=1, seed=seed, rule=rule, **WIDTHS)
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train my.csv", "--set data.name=csv data.path=my.csv"),
        ("train my.TSV", "--set data.name=csv data.path=my.TSV"),
        ("list set", "'set' is no table, but in one: topokit list rules set"),
        ("list fan_in", "topokit list measures fan_in"),
        ("list erdos_renyi", "topokit list generators erdos_renyi"),
        ("list rule", "unknown table 'rule'; did you mean 'rules'?"),
    ],
)
def test_what_stands_in_the_wrong_place_is_told_where_it_belongs(words, expected, capsys):
    assert expected in refused(capsys, *words.split())


# --- train ---------------------------------------------------------------------------------------


def test_the_number_of_epochs_is_an_option(tmp_path, capsys):
    words = ("train", "--epochs", 2, "--out", tmp_path / "run", "--json")
    assert topokit(*words, "--set", *(f"{key}={json.dumps(v)}" for key, v in WIDTHS.items())) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--drop-fraction 0.2", "(a key of the configuration: --set rule.drop_fraction=0.2)"),
        ("--lr=0.2", "(a key of the configuration: --set optimizer.lr=0.2)"),
        ("--batchsize 3", "(a key of the configuration: --set batch_size=3)"),
        ("--nonsense 3", "Unknown option: "),
        ("--epochs 2 --set epochs=3", "--epochs: epochs is given with --set too; give it once"),
        ("--seed 2 --set seed=3", "--seed: seed is given with --set too"),
        ("--rule set --set rule.name=rigl", "--rule: rule.name is given with --set too"),
        ("--epochs 2.5", "--epochs: expected a whole number, got 2.5"),
        ("--seed 1.0", "--seed: expected a whole number, got 1.0"),
        ("--nproc x", "--nproc: expected a whole number, got x"),
        ("--set rule.zeta=0.3", "further keys of [rule]: drop_fraction, every, final"),
    ],
)
def test_what_is_meant_is_said(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = refused(capsys, "train", *words.split())
    assert expected in told
    assert "Did you mean --nproc" not in told


def test_no_number_is_rounded(capsys):
    """cyclopts rounds 2.5 to 2 for a parameter of type int."""
    for command in (
        "analyze x --epoch -1.5",
        "analyze x --nulls 2.5",
        "analyze x --bootstrap 9.9",
        "generate x --widths 9,9 --seed 0.5",
        "sweep x --out y --workers 1.5",
        "compare x --seed 1.5",
    ):
        told = refused(capsys, *command.split())
        assert f"expected a whole number, got {command.split()[-1]}" in told, command


def test_no_stray_options(capsys):
    for command in ("train", "resume", "analyze", "generate", "plot", "sweep", "compare", "list"):
        assert topokit(command, "--help") == 0
        page = capsys.readouterr().out
        assert "--empty" not in page, command
        assert "--no-" not in page, command


# --- options without effect ----------------------------------------------------------------------


def test_options_without_effect_are_refused(runs, capsys, tmp_path):
    run, file = runs / "set-0", tmp_path / "x.npz"
    tk.save_topology(file, tk.History.load(run).topology(0))
    cases = {
        ("analyze", file, "--epoch", 3): "--epoch: expected a run",
        ("analyze", run, "--transpose"): "run",
        ("analyze", run, "--entry", "x"): "run",
        ("analyze", file, "--measures", "fan_in", "--bootstrap", 5): "--bootstrap: no fit",
        ("analyze", file, "--measures", "fan_in", "--seed", 5): "--seed: nothing is drawn",
        ("analyze", file, "--deep", "--bootstrap", 0): "expected at least 1 with --deep",
        ("sweep", "madelon", "--out", tmp_path, "--gather", "--workers", 2): "--gather alone",
        ("analyze", file, "--null-model", "exact"): "--null-model: expected the number",
        ("analyze", file, "--nulls", 2, "--null-model", "er"): "null models: erdos_renyi, exact",
        ("compare", run, "--out", "x.csv"): "the tables are written by --csv FOLDER",
        ("compare", run, "--measures", "fc1/fan_in.dispersio"): "did you mean 'fan_in.dispersion'",
        ("compare", run, "--measures", "fc9/fan_in.dispersion"): "no run has a layer 'fc9'",
    }
    for words, expected in cases.items():
        assert expected in refused(capsys, *words), words


# --- compare -------------------------------------------------------------------------------------


def test_a_folder_of_runs_is_compared(runs, capsys, tmp_path):
    tables = tmp_path / "tables"
    assert topokit("compare", runs, "--reference", "rule.name=static", "--csv", tables) == 0
    said = capsys.readouterr().out
    assert str(tables) in said
    groups, pairs = (pd.read_csv(tables / f"{name}.csv") for name in ("groups", "pairs"))
    first, second = groups["group"]
    assert first.startswith("rule.name=set")
    for name in ("", ".low", ".high"):
        shown = f"{groups['fc1/fan_in.dispersion' + name][0]:.4g}"
        assert f"{shown} [" in said or f"[{shown}, " in said or f", {shown}]" in said
    assert second == "rule.name=static"
    assert pairs[["group", "other"]].values.tolist() == [[first, second]]
    assert len(pd.read_csv(tables / "runs.csv")) == 4
    told = refused(capsys, "compare", runs, "--reference", "rule.name=stati")
    assert "unknown group 'rule.name=stati'; did you mean 'rule.name=static'?" in told
    difference = tk.compare(runs, rng=0).pairs["difference"][0]
    turned = tk.compare(runs, reference=first, rng=0).pairs
    assert turned[["group", "other"]].values.tolist() == [[second, first]]
    assert turned["difference"][0] == pytest.approx(-difference)


def test_runs_of_a_sweep_are_in_the_order_of_the_study(runs, tmp_path):
    study = """
        [study]
        name = "tiny"
        recipe = "set_mlp_digits"
        seeds = [1, 0]
        [[arms]]
        name = "static"
        settings = {"rule.name" = "static"}
        [[arms]]
        name = "set"
        settings = {}
    """
    folder = tmp_path / "swept"
    for name in ("static-0", "static-1", "set-0", "set-1"):
        rule, seed = name.split("-")
        shutil.copytree(runs / name, folder / "runs" / f"{rule}-seed{seed}")
    (folder / "study.toml").write_text("\n".join(line.strip() for line in study.splitlines()))
    names = [run.name for run in runs_of(folder)]
    assert names == ["static-seed1", "static-seed0", "set-seed1", "set-seed0"]
    assert tk.compare(folder, rng=0).groups["group"].tolist() == ["static", "set"]
    (folder / "study.toml").write_text("what = 1")
    assert [run.name for run in runs_of(folder)] == sorted(names)


# --- words to copy -------------------------------------------------------------------------------


def test_commands_to_copy_are_quoted(runs, capsys, tmp_path, monkeypatch):
    path = tmp_path / "a run"
    shutil.copytree(runs / "set-0", path)
    assert topokit("train", "--epochs", 1, "--out", path, "--set",
                   *(f"{key}={json.dumps(v)}" for key, v in WIDTHS.items())) == 0  # fmt: skip
    out = capsys.readouterr().out
    command = next(line for line in out.splitlines() if line.startswith("next: "))
    assert shlex.split(command.removeprefix("next: ")) == ["topokit", "plot", str(path)]
    (path / "record.jsonl").write_bytes(b"nonsense\n")
    told = refused(capsys, "compare", path)
    assert f"topokit verify {shlex.quote(str(path))}" in told
    (path / "record.jsonl").write_bytes((runs / "set-0" / "record.jsonl").read_bytes())
    (path / "config.toml").write_text("epochs = 3")
    told = refused(capsys, "compare", path)
    for command in ("verify", "resume"):
        assert f"topokit {command} {shlex.quote(str(path))}" in told


# --- list ----------------------------------------------------------------------------------------


def test_list_without_a_table_counts(capsys):
    assert topokit("list") == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 25
    for name, entries in TABLES.items():
        assert f"{name} " in out
        assert str(len(entries())) in out
    assert "topokit list TABLE" in out


@pytest.mark.parametrize("table", TABLES)
def test_list_fits_80_columns(table, capsys, monkeypatch):
    monkeypatch.setattr(console.OUT, "_width", 80)
    assert topokit("list", table) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 or table == "rules"
    for name in TABLES[table]():
        assert any(line.strip().startswith(name.partition(" (")[0]) for line in lines), name


def test_list_of_rules_says_what_every_rule_has(capsys):
    assert topokit("list", "rules") == 0
    out = capsys.readouterr().out
    for option in ("drop_fraction=0.3", "every='epoch'", "stop=None", "schedule='constant'"):
        assert option in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("rules", "rigl"), "Rigged Lottery"),
        (("measures", "giant_share"), "giant"),
        (("measures", "active_flow"), "active_flow (network)"),
        (("recipes", "set_mlp_digits"), "[topology]"),
        (("generators", "peg"), "Parameters"),
    ],
)
def test_list_of_one_entry(words, expected, capsys):
    assert topokit("list", *words) == 0
    assert expected in capsys.readouterr().out
    assert topokit("list", *words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"].startswith(words[1])


def test_list_of_an_unknown_entry(capsys):
    assert "unknown rule 'rigll'; did you mean 'rigl'" in refused(capsys, "list", "rules", "rigll")


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are Unicode")
@pytest.mark.parametrize("name", [b"L\xe4ufe", b"\xff\xfe", "Läufe ✓ 一".encode(), b"two\nlines"])
def test_runs_in_folders_of_any_name(name, tmp_path, capsys, monkeypatch):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    for plot in set(HISTORY_PLOTS) - {"summary", "degree_evolution"}:
        monkeypatch.delitem(HISTORY_PLOTS, plot)  # they do not show the name of a run
    words = [f"{key}={json.dumps(value)}" for key, value in WIDTHS.items()]
    words = ["train", "set_mlp_digits", "--out", str(folder), "--set", "epochs=1", *words]
    words.append("model.widths=[64,10]")
    monkeypatch.setattr(sys, "argv", ["topokit", *words])
    assert topokit(*words) == 0
    assert topokit("verify", folder) == 0
    assert topokit("report", folder, "--out", folder.with_suffix(".html")) == 0
    assert topokit("plot", folder, "--only", "degree_evolution") == 0
    shown = name.decode(errors="backslashreplace")
    assert tk.History.load(folder).name == shown
    content = io.BytesIO((folder / "epochs.parquet").read_bytes())
    assert pd.read_parquet(content)["run"].tolist() == [shown]
