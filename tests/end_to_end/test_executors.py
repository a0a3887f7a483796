"""Sweeps on executors of other packages; skipped where they are not installed."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pandas as pd
import pytest

from tests.end_to_end.forks import forks
from topokit.experiments.study import study_from
from topokit.experiments.sweep import gather, sweep

pytestmark = pytest.mark.slow
STUDY = {
    "study": {"name": "small", "recipe": "set_mlp_digits", "seeds": [0, 1]},
    "settings": {"epochs": 2, "batch_size": 500, "model.widths": [64, 9, 10], "threads": 1},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with ThreadPoolExecutor(1) as executor:
        return sweep(study_from(STUDY), tmp_path_factory.mktemp("w") / "w", executor=executor).frame


def loky(folder):
    module = pytest.importorskip("loky", reason="loky is not installed")
    return module.ProcessPoolExecutor(1)


def executorlib(folder):
    module = pytest.importorskip("executorlib", reason="executorlib is not installed")
    return module.SingleNodeExecutor(max_workers=1)


def submitit_local(folder):
    module = pytest.importorskip("submitit", reason="submitit is not installed")
    executor = module.LocalExecutor(folder=folder / "logs")
    executor.update_parameters(timeout_min=5)
    return executor


def submitit_debug(folder):
    module = pytest.importorskip("submitit", reason="submitit is not installed")
    return module.DebugExecutor(folder=folder / "logs")


@pytest.mark.parametrize("make", [loky, executorlib, submitit_local, submitit_debug])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_sweep_on_the_executor_of_another_package(tmp_path, make, whole):
    executor = make(tmp_path)
    result = sweep(study_from(STUDY), tmp_path / "s", executor=executor)
    if hasattr(executor, "shutdown"):
        executor.shutdown()
    assert result.failures == {}
    pd.testing.assert_frame_equal(result.frame, whole)


def test_parts_at_the_same_time_in_processes_of_their_own(tmp_path, whole):
    lines = ["[study]", 'name = "small"', 'recipe = "set_mlp_digits"', "seeds = [0, 1]"]
    lines += ["[settings]", *(f"{key} = {value!r}" for key, value in STUDY["settings"].items())]
    (tmp_path / "study.toml").write_text("\n".join(lines))
    command = ["sweep", tmp_path / "study.toml", "--out", tmp_path / "s", "--workers", 1, "--json"]
    with forks(tmp_path) as start:
        parts = [start(*command, "--part", f"{i}/2", in_process=True) for i in (1, 2)]
        for part in parts:
            code, said, _ = part.ended()
            assert (code, json.loads(said)["done"]) == (0, 1)
    result = gather(study_from(STUDY), tmp_path / "s")
    assert result.failures == {}
    pd.testing.assert_frame_equal(result.frame, whole)


def test_a_dask_scheduler_and_its_worker_are_lost(tmp_path):
    pytest.importorskip("distributed", reason="distributed is not installed")
    study = tmp_path / "study.toml"
    study.write_text(
        '[study]\nname = "small"\nrecipe = "set_mlp_digits"\nseeds = [0, 1]\n'
        '[settings]\nepochs = 60\nbatch_size = 500\n"model.widths" = [64, 9, 10]\n'
    )
    file, out = tmp_path / "scheduler.json", tmp_path / "out"
    quick = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **quick}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}

    def start(stack, *words):
        command = [sys.executable, "-m", f"distributed.cli.{words[0]}", *words[1:]]
        process = subprocess.Popen([*command, "--scheduler-file", str(file)], cwd=tmp_path, **quiet)
        stack.callback(process.wait)
        stack.callback(process.kill)
        return process

    def wait_for(condition):
        end = time.monotonic() + 150
        while not condition():
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.05)

    with ExitStack() as stack:
        options = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0")
        scheduler = start(stack, "dask_scheduler", *options)
        wait_for(lambda: file.is_file() and file.stat().st_size)
        worker = start(stack, "dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard")
        address = json.loads(file.read_text())["address"]
        command = [sys.executable, "-m", "topokit", "sweep", str(study), "--out", str(out)]
        process = subprocess.Popen(
            [*command, "--scheduler", address], stderr=subprocess.PIPE, text=True, env=environment
        )
        stack.callback(process.kill)
        wait_for(lambda: list(out.glob("runs/*/checkpoint.pt")))
        for one in (scheduler, worker):
            one.send_signal(signal.SIGKILL)
        _, error = process.communicate(timeout=200)
    assert process.returncode == 1, error
    assert "Traceback" not in error, error
    assert error.count("topokit:") == 1, error
    assert "ended before its runs did" in error.replace("\n", " ")
    with ThreadPoolExecutor(1) as executor:
        assert sweep(study, out, executor=executor).failures == {}
    assert len(list(out.glob("runs/*/DONE"))) == 2
