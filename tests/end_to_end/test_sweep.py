"""Sweeps that are interrupted, killed, or lose a worker of a Dask scheduler."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cache

import pandas as pd
import pytest

from topokit.cli import main
from topokit.data import images
from topokit.experiments import executors
from topokit.experiments.study import STUDIES, load_study
from topokit.experiments.sweep import sweep, sweep_frame

STUDY = """
[study]
name = "small"
recipe = "set_mlp_digits"
seeds = [0, 1]
measures = ["fan_in", "turnover"]

[settings]
epochs = 30
batch_size = 128
model.widths = [64, 40, 10]

[[arms]]
name = "set"

[[arms]]
name = "static"
settings = { "rule.name" = "static" }
"""


@pytest.fixture(scope="module")
def readers():
    """What reads files of images, each only once; runs and studies read the same ones."""
    return {name: cache(getattr(images, name)) for name in ("_cifar_jpegs", "read_idx")}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "small.toml"
    path.write_text(STUDY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(study, tmp_path_factory):
    """The same sweep without interruption, in one thread of this process."""
    directory = tmp_path_factory.mktemp("sweeps") / "whole"
    with ThreadPoolExecutor(1) as executor:
        return sweep(study, directory, executor=executor).frame


def start(*arguments, **options):
    command = [sys.executable, "-m", "topokit", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return found


def started(directory):
    """Start time of each finished run; a changed one means that the run was repeated."""
    return {
        path.parent.name: json.loads((path.parent / "environment.json").read_text())["started"]
        for path in directory.glob("runs/*/DONE")
    }


@pytest.mark.slow
def test_a_sweep_interrupted_and_killed_is_finished(study, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = ("sweep", study, "--out", out, "--workers")

    process = start(*command, 2)
    wait_for(lambda: list(out.glob("runs/*/checkpoint.pt")))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Continue with the same command" in error
    assert "Traceback" not in error

    before = started(out)
    process = start(*command, 1)
    wait_for(lambda: len(started(out)) > len(before))
    process.kill()
    process.communicate(timeout=60)
    before = started(out)
    assert len(before) < 4

    monkeypatch.setattr(executors, "local_pool", lambda *_, **__: ThreadPoolExecutor(1))
    assert main([str(word) for word in (*command, 1)]) == 0
    after = started(out)
    assert len(after) == 4
    assert {name: after[name] for name in before} == before
    pd.testing.assert_frame_equal(sweep_frame(out), whole, check_exact=True)


@pytest.mark.slow
def test_a_dask_cluster_loses_a_worker(study, whole, tmp_path):
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__WORKER__DAEMON": "0"}

    def dask(*words):
        command = [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]]
        place = ["--scheduler-file", str(file)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([*command, *place], env=environment, cwd=tmp_path, **quiet)
        stack.callback(process.wait)
        stack.callback(process.kill)
        return process

    with ExitStack() as stack:
        dask("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0")
        wait_for(lambda: file.is_file() and file.stat().st_size)
        workers = [
            dask("dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard") for _ in range(2)
        ]
        address = json.loads(file.read_text())["address"]
        seen = []

        def lose_one(at):
            seen.append(at)
            if at.done == 1:
                workers[0].kill()

        result = sweep(study, tmp_path / "out", scheduler=address, progress=lose_one)
    assert result.failures == {}
    assert seen[-1].done == 4
    pd.testing.assert_frame_equal(result.frame, whole, check_exact=True)


@pytest.mark.slow
def test_no_scheduler_there(study, tmp_path, capsys, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("topokit.experiments.executors.ANSWER", "0.5s")
    words = ["sweep", str(study), "--out", str(tmp_path / "o"), "--scheduler", "tcp://127.0.0.1:9"]
    assert main(words) == 2
    assert "expected a Dask scheduler at tcp://127.0.0.1:9" in capsys.readouterr().err


def test_exit_codes_and_messages(study, tmp_path, capsys, monkeypatch):
    assert main(["sweep", "tutorial_tabel", "--out", str(tmp_path)]) == 2
    assert "did you mean 'tutorial_table'" in capsys.readouterr().err
    assert main(["sweep", str(study), "--out", str(tmp_path), "--workers", "0"]) == 2
    assert "workers: expected at least 1, got 0" in capsys.readouterr().err

    def failing(planned, out, **options):
        frame = pd.DataFrame({"run": ["a", "a", "b"]})
        from topokit.experiments.sweep import SweepResult

        return SweepResult(out, frame, {"c": "ValueError: no"})

    monkeypatch.setattr("topokit.experiments.sweep.sweep", failing)
    words = ["sweep", str(study), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "c failed: ValueError: no" in printed.err
    assert "2 runs done, 1 failed" in printed.out
    assert main([*words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["done"] == 2


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", STUDIES)
def test_quick_studies(name, data_dir, readers, tmp_path, monkeypatch):
    """Every shipped study runs, in a smaller form of its quick variant."""
    for reader, cached in readers.items():
        monkeypatch.setattr(images, reader, cached)
    study = load_study(name, quick=True)
    less = {"epochs": 2, "data.n_train": 200, "data.n_test": 100}
    settings = {key: less.get(key, value) for key, value in study.settings.items()}
    small = replace(
        study,
        settings={**settings, "epochs": 2, "measures.every": 1},
        grid={key: values[:1] for key, values in study.grid.items()},
        arms={
            arm: {key: value for key, value in own.items() if key != "epochs"}
            for arm, own in study.arms.items()
        },
        seeds=study.seeds[:1],
    )
    with ThreadPoolExecutor(1) as executor:
        result = sweep(small, tmp_path / "out", executor=executor, data_dir=data_dir)
    assert result.failures == {}
    assert result.frame["run"].nunique() == len(small.runs())


@pytest.mark.slow
def test_a_script_is_told_what_its_workers_need(tmp_path):
    """Without the guard each worker runs the script again and gets no further than the sweep."""
    (tmp_path / "small.toml").write_text(STUDY)
    script = tmp_path / "script.py"
    script.write_text('import topokit as tk\n\ntk.sweep("small.toml", "sweeps", workers=1)\n')
    found = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 1
    *before, last = found.stderr.strip().splitlines()
    assert last.startswith("ChildProcessError: no worker could be started: ")
    assert 'if __name__ == "__main__":' in last
    assert any("sweep: reached again as a new process imports this script" in x for x in before)
    assert "another process is writing" not in found.stderr
