"""The command line: results, exit codes and messages."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from topokit.cli import main
from topokit.cli.catalogue import TABLES
from topokit.graph.convert import load_topology

SMALL = ["--set", "epochs=3", "model.widths=[64,40,10]", "batch_size=300"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "demo"
    assert main(["train", "set_mlp_digits", "--out", str(directory), *SMALL]) == 0
    return directory


def fails(capsys, *arguments, code=2):
    assert main([str(a) for a in arguments]) == code
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    assert 1 <= len(error.splitlines()) <= 2, error
    return error


def prints(capsys, *arguments):
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 0
    return capsys.readouterr().out


def test_training_ends_with_the_results_the_path_and_a_next_command(finished, capsys, tmp_path):
    out = prints(capsys, "train", "set_mlp_digits", "--out", tmp_path / "run", *SMALL)
    for words in ("test accuracy", "training took", f"topokit plot {tmp_path}/run"):
        assert words in out
    summary = json.loads(prints(capsys, "resume", finished, "--json"))
    assert summary["epochs"] == 3
    assert set(summary["edges"]) == {"fc1", "fc2"}


def test_another_rule_by_one_option(tmp_path, capsys):
    arguments = ["--rule", "static", "--out", tmp_path / "run", *SMALL, "--json"]
    summary = json.loads(prints(capsys, "train", "set_mlp_digits", *arguments))
    frame = json.loads(
        prints(capsys, "analyze", summary["run"], "--measures", "turnover", "--json")
    )
    assert {row["value"] for row in frame["measures"]} == {0.0}


def test_analyze_reads_whatever_it_is_given(finished, capsys, tmp_path):
    import networkx as nx
    import torch

    from topokit.graph.convert import to_networkx

    out = tmp_path / "topology.npz"
    prints(capsys, "generate", "erdos_renyi", "--widths", "30,20", "--density", "0.2", "--out", out)
    graph = load_topology(out)["fc1"]
    sp.save_npz(tmp_path / "matrix.npz", graph.to_csr())
    scipy.io.mmwrite(tmp_path / "matrix.mtx", graph.to_csr())
    nx.write_graphml(to_networkx(graph), tmp_path / "graph.graphml")
    torch.save({"fc1.weight": torch.from_numpy(graph.to_csr().toarray())}, tmp_path / "w.pt")
    found = []
    for name in ("topology.npz", "matrix.npz", "matrix.mtx", "graph.graphml", "w.pt"):
        text = prints(
            capsys, "analyze", tmp_path / name, "--measures", "fan_in.mean,spectral_gap", "--json"
        )
        found.append([row["value"] for row in json.loads(text)["measures"]])
    assert np.allclose(found, found[0])
    text = prints(capsys, "analyze", finished, "--bootstrap", "5")
    assert "normalized_spectral_gap" in text
    assert "fc1 fan-in" in text
    early = json.loads(prints(capsys, "analyze", finished, "--epoch", "0", "--json"))
    assert early["epoch"] == 0


@pytest.mark.slow
def test_plot_and_report(finished, capsys, tmp_path):
    paths = prints(capsys, "plot", finished, "--out", tmp_path / "figures").split()
    assert len(paths) >= 4
    prints(capsys, "report", finished, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "http-equiv" not in page
    assert 'src="http' not in page


@pytest.mark.parametrize("table", list(TABLES))
def test_list_shows_every_entry_of_every_table(capsys, table):
    rows = json.loads(prints(capsys, "list", table, "--json"))
    assert [row["name"] for row in rows] == list(TABLES[table]())
    assert all(row["what"] for row in rows)


def test_a_plugin_adds_to_the_tables(capsys, tmp_path, monkeypatch):
    from topokit.measures import LAYER_MEASURES

    code = """
        from topokit.measures import LAYER_MEASURES

        def twice(graph):
            '''Twice the number of edges.'''
            return 2.0 * graph.n_edges

        LAYER_MEASURES["twice"] = twice
    """
    (tmp_path / "plugin_of_this_test.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("topokit.measures.LAYER_MEASURES", dict(LAYER_MEASURES))
    for state in ("_LOADED", "_HOW"):
        monkeypatch.setattr(f"topokit.plugins.{state}", {})
    words = ("list", "measures", "--plugin", "plugin_of_this_test", "--json")
    rows = {row["name"]: row for row in json.loads(prints(capsys, *words))}
    assert rows["twice"]["what"] == "Twice the number of edges."


def test_help_lists_the_commands(capsys):
    text = prints(capsys, "--help")
    for name in ("train", "resume", "analyze", "generate", "plot", "report", "list"):
        assert name in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "set_mlp_digit"], "did you mean 'set_mlp_digits'"),
        (["train", "--set", "rule.name=sett"], "did you mean 'set'"),
        (["train", "--rule", "sett"], "did you mean 'set'"),
        (["train", "--set", "data.name=mnistt"], "did you mean 'mnist'"),
        (["train", "--set", "topology.generator=erdos"], "erdos_renyi"),
        (["train", "--set", 'measures.names=["spectral_gapp"]'], "spectral_gap"),
        (["train", "--set", "topology.density=1.5"], "topology.density"),
        (["train", "--set", "epochs=0"], "epochs"),
        (["train", "--set", "rule.zeta=0.3"], "zeta"),
        (["train", "--set", "model.widths=[65,10]"], "64 features"),
        (["train", "--set", "model.widths=[64,20,11]"], "10 classes"),
        (["train", "--set", "epochs"], "key=value"),
        (["train", "--sett", "epochs=1"], "--sett"),
        (["trian"], "trian"),
        (["resume", "nowhere"], "nowhere"),
        (["analyze", "nowhere.npz"], "nowhere.npz"),
        (["analyze", "."], "run directory"),
        (["plot", "."], "run directory"),
        (["report", ".", "--out", "x.html"], "run directory"),
        (["list", "generator"], "did you mean 'generators'"),
        (["generate", "erdos", "--widths", "3,4", "--density", "0.5"], "erdos_renyi"),
        (["generate", "erdos_renyi", "--widths", "3;4", "--density", "0.5"], "784,1000,10"),
        (["generate", "erdos_renyi", "--widths", "3,4", "--density", "2"], "density"),
        (["generate", "erdos_renyi", "--widths", "3,4"], "epsilon"),
        (["train", "--plugin", "no_such_module"], "no_such_module"),
    ],
)
def test_bad_input_ends_with_exit_code_2_and_a_clear_line(
    arguments, words, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert words in fails(capsys, *arguments)
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


def test_a_missing_data_set_says_where_it_looked(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("TOPOKIT_DATA", raising=False)
    words = fails(capsys, "train", "set_mlp_mnist", "--data-dir", tmp_path, "--out", "x")
    assert str(tmp_path) in words
    assert "train-images-idx3-ubyte" in words


@pytest.mark.parametrize("name", ["bad.npz", "bad.mtx", "bad.graphml", "bad.pt", "bad.safetensors"])
def test_damaged_files_are_named(capsys, tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00nonsense" * 5)
    assert name in fails(capsys, "analyze", tmp_path / name)


def test_a_checkpoint_with_code_in_it_is_refused(capsys, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    fails(capsys, "analyze", tmp_path / "evil.pt")
    assert "executed" not in capsys.readouterr().out


def test_a_run_whose_checkpoint_is_damaged(finished, capsys, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "DONE").unlink()
    (copy / "checkpoint.pt").write_bytes(b"PK\x03\x04 nonsense")
    assert "checkpoint" in fails(capsys, "resume", copy)


def test_two_processes_in_one_run_directory(finished, capsys, tmp_path):
    import shutil

    from topokit.experiments.rundir import RunDirectory

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "DONE").unlink()
    with RunDirectory.open(copy).lock():
        assert "another process" in fails(capsys, "resume", copy)


def test_an_existing_run_is_never_overwritten(finished, capsys):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    words = fails(capsys, "train", "set_mlp_digits", "--out", finished, *SMALL, "seed=77")
    told = "it holds a run with another configuration (seed is 77 and was "
    assert told in words
    assert "choose another --out" in words
    assert main(["train", "set_mlp_digits", "--out", str(finished), *SMALL]) == 0
    printed = capsys.readouterr()
    assert "finished; nothing to do" in printed.err.replace("\n", " ")
    assert "test accuracy" in printed.out
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_a_nan_loss_says_at_which_step(capsys, tmp_path):
    settings = [*SMALL, "optimizer.lr=1e18"]
    words = fails(capsys, "train", "set_mlp_digits", "--out", tmp_path / "run", *settings)
    assert "at step" in words
    assert "learning rate" in words


@pytest.mark.slow
def test_reading_a_run_never_loads_torch(finished):
    code = (
        "import sys, topokit as tk; from topokit.plots import save_figures; "
        f"h = tk.History.load({str(finished)!r}); tk.measure(h.topology(-1)); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
