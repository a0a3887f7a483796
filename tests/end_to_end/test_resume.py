"""A run that is stopped, however, and resumed ends as one that never was."""

import os
import signal
import time

import numpy as np
import pandas as pd
import pytest
import torch

from tests.end_to_end.forks import forks
from topokit.experiments.config import load_recipe
from topokit.experiments.record import History
from topokit.experiments.runs import resume, run
from topokit.graph import same_edges

pytestmark = pytest.mark.slow

SMALL = ["epochs=6", "model.widths=[64,60,40,10]", "batch_size=200", "model.dropout=0.2"]


def config(*more):
    return load_recipe("set_mlp_digits").override([*SMALL, *more])


class Stop(Exception):
    pass


def stop_after(epoch):
    def progress(done, frame):
        if done.index == epoch:
            raise Stop

    return progress


def assert_same_run(a, b):
    a, b = History.load(a), History.load(b)
    for name in ("epochs", "measures"):
        left, right = (getattr(h, name).drop(columns="run") for h in (a, b))
        left, right = (f.drop(columns="seconds", errors="ignore") for f in (left, right))
        pd.testing.assert_frame_equal(left, right, check_exact=True)
    assert a.recorded == b.recorded
    for epoch in a.recorded:
        for name, graph in a.topology(epoch).items():
            assert same_edges(graph, b.topology(epoch)[name])
            assert np.array_equal(a.ages(epoch, name), b.ages(epoch, name))
    weights = [torch.load(h.directory / "checkpoint.pt", weights_only=True) for h in (a, b)]
    for key, value in weights[0]["model"].items():
        assert torch.equal(value, weights[1]["model"][key]), key
    assert weights[0]["rngs"] == weights[1]["rngs"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "whole"
    run(config(), directory)
    return directory


def test_one_seed_gives_one_result(whole, tmp_path):
    run(config(), tmp_path / "again")
    assert_same_run(whole, tmp_path / "again")


@pytest.mark.parametrize("epoch", range(5))
def test_stopped_at_any_epoch(whole, tmp_path, epoch):
    with pytest.raises(Stop):
        run(config(), tmp_path / "stopped", progress=stop_after(epoch))
    resume(tmp_path / "stopped")
    assert_same_run(whole, tmp_path / "stopped")


@pytest.mark.parametrize("place", ["topology", "line", "checkpoint", "end"])
def test_stopped_while_writing(whole, tmp_path, monkeypatch, place):
    """The record may be ahead of the checkpoint by any part of an epoch."""
    from topokit.experiments.rundir import RunDirectory
    from topokit.graph import snapshots

    owner, name = {
        "topology": (snapshots, "append"),
        "line": (RunDirectory, "add_line"),
        "checkpoint": (RunDirectory, "write"),
        "end": (RunDirectory, "write"),
    }[place]
    original, calls = getattr(owner, name), []
    last = {"checkpoint": 3 + 4, "end": 3 + 6 + 2}.get(place, 4)  # 3 files at the beginning

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == last:
            raise Stop
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        with pytest.raises(Stop):
            run(config(), tmp_path / "stopped")
    resume(tmp_path / "stopped")
    assert_same_run(whole, tmp_path / "stopped")


def test_with_adam_and_rewiring_inside_epochs(tmp_path):
    more = ["optimizer.name=adam", "optimizer.momentum=0", "optimizer.lr=0.002", "rule.every=5"]
    run(config(*more), tmp_path / "whole")
    with pytest.raises(Stop):
        run(config(*more), tmp_path / "stopped", progress=stop_after(2))
    resume(tmp_path / "stopped")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_finished_run_is_left_alone(whole):
    before = (whole / "checkpoint.pt").stat().st_mtime_ns
    assert len(resume(whole).epochs) == 6
    assert (whole / "checkpoint.pt").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a command in a fork."""
    with forks(tmp_path_factory.mktemp("said")) as start:
        yield start


def command(directory, *more):
    settings = [*SMALL[1:], "epochs=40", *more]
    return ["train", "set_mlp_digits", "--out", directory, "--set", *settings]


@pytest.mark.slow
def test_sigkill_at_any_moment(start, tmp_path):
    run(config("epochs=40"), tmp_path / "whole")
    stopped = tmp_path / "stopped"
    rng = np.random.default_rng(0)
    arguments = command(stopped)
    for kill in range(4):
        process = start(*arguments)
        process.wait_for(stopped / "topology" / f"{3 + 7 * kill:06d}.npz")
        time.sleep(rng.uniform(0, 0.08))
        process.send_signal(signal.SIGKILL)
        assert process.ended()[0] == -signal.SIGKILL
        arguments = ["resume", stopped]
    assert not (stopped / "DONE").exists()
    resume(stopped)
    assert_same_run(tmp_path / "whole", stopped)


@pytest.mark.slow
def test_sigint_saves_and_says_how_to_go_on(start, tmp_path):
    directory = tmp_path / "run"
    process = start(*command(directory, "epochs=4000"))
    process.wait_for(directory / "topology" / "000002.npz")
    process.send_signal(signal.SIGINT)
    code, _, stderr = process.ended()
    assert code == 130
    assert f"topokit resume {directory}" in stderr
    assert "Traceback" not in stderr
    history = History.load(directory)
    assert len(history.epochs) >= 2


def test_weights_that_diverge_stop_the_run_and_leave_the_last_good_state(tmp_path):
    with pytest.raises(FloatingPointError, match=r"at step \d+ \(epoch \d+\); try a learning rate"):
        run(config("optimizer.lr=1e18"), tmp_path / "run")
    assert History.load(tmp_path / "run").config["optimizer"]["lr"] == 1e18
    assert not (tmp_path / "run" / "DONE").exists()


@pytest.mark.parametrize("again", [False, True])
def test_a_full_disk_leaves_the_last_good_state(whole, again, tmp_path, monkeypatch, capsys):
    from pathlib import Path

    from topokit.cli import main

    original, directory = Path.write_bytes, tmp_path / "run"

    def full(path, data):
        if (directory / "topology" / "000003.npz").exists():
            raise OSError(28, "No space left on device")
        return original(path, data)

    arguments = ["train", "set_mlp_digits", "--out", str(directory), "--set", *SMALL]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "No space left" in error
    assert f"topokit resume {directory}" in error
    assert History.load(directory).epochs["epoch"].tolist() == [0, 1, 2, 3]
    if again:
        assert main([*arguments, "seed=5"]) == 2  # another run than the one there
        assert "another configuration" in capsys.readouterr().err
        assert main(arguments) == 0
        assert "going on with it" in capsys.readouterr().err.replace("\n", " ")
    else:
        resume(directory)
    assert_same_run(whole, directory)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        run(config(), tmp_path / "run")
