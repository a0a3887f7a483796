"""Runs carried out by several processes."""

import json
import multiprocessing
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from topokit.cli import main
from topokit.experiments import processes
from topokit.experiments.config import load_recipe
from topokit.experiments.processes import several
from topokit.experiments.record import History
from topokit.experiments.runs import resume, run

pytestmark = pytest.mark.slow


@pytest.fixture
def forked(monkeypatch):
    """Processes that are forks of one that has imported everything, so that they start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["topokit.experiments.runs"])
    start = SimpleNamespace(get_context=lambda kind: context)
    monkeypatch.setattr(processes, "multiprocessing", start)


SMALL = ["epochs=4", "model.widths=[64,40,10]", "model.dropout=0.0", "batch_size=100"]
RULES = {
    "rigl": ['rule.name="rigl"'],
    "snfs": ['rule.name="snfs"', "rule.every=20"],
}


def config_of(rule, *more):
    return load_recipe("set_mlp_digits").override([*SMALL, *RULES[rule], *more])


def same(a, b, tolerance):
    assert a.epochs["epoch"].tolist() == b.epochs["epoch"].tolist()
    for epoch in a.recorded:
        assert a.topology(epoch) == b.topology(epoch)
    for column in ("train_loss", "test_loss", "test_accuracy"):
        np.testing.assert_allclose(a.epochs[column], b.epochs[column], rtol=tolerance)


class Stop(Exception):
    pass


def stopping(at, act):
    """Return a callback that acts after an epoch."""

    def progress(epoch, measures):
        if epoch.index == at:
            act()

    return progress


def stop():
    raise Stop


@pytest.mark.parametrize("rule", list(RULES))
def test_two_processes_give_the_run_of_one(forked, tmp_path, rule):
    config = config_of(rule)
    alone = run(config, tmp_path / "one")
    with several(2) as two, pytest.raises(Stop):
        run(config, tmp_path / "two", processes=two, progress=stopping(1, stop))
    assert not multiprocessing.active_children()
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert environment["nproc"] == 2
    assert len(History.load(tmp_path / "two").epochs) == 2
    if rule == "rigl":  # go on with another number of processes
        whole = resume(tmp_path / "two")
    else:
        with several(2) as two:
            whole = resume(tmp_path / "two", processes=two)
    same(alone, whole, 1e-4)


def test_a_resumed_run_equals_an_uninterrupted_one_with_dropout(forked, tmp_path):
    config = config_of("rigl", "model.dropout=0.3", "epochs=3")
    with several(2) as two:
        whole = run(config, tmp_path / "whole", processes=two)
    with several(2) as two, pytest.raises(Stop):
        run(config, tmp_path / "part", processes=two, progress=stopping(0, stop))
    with several(2) as two:
        part = resume(tmp_path / "part", processes=two)
    same(whole, part, 0)


def test_the_end_of_one_process_ends_all_with_one_message(forked, tmp_path, capsys):
    def kill():
        (child,) = multiprocessing.active_children()
        os.kill(child.pid, signal.SIGKILL)

    expected = "process 1 of 2 ended: killed by signal 9"
    with pytest.raises(ConnectionError, match=expected), several(2) as two:
        run(config_of("rigl"), tmp_path / "r", processes=two, progress=stopping(0, kill))
    assert not multiprocessing.active_children()
    assert len(History.load(tmp_path / "r").epochs) >= 1


def test_what_another_process_refuses_is_told_by_the_first(tmp_path, capsys):
    expected = "process 1 of 2 ended: plugin no_such_module"
    with pytest.raises(ValueError, match=expected), several(2, plugins=["no_such_module"]):
        pass
    assert not multiprocessing.active_children()


def test_the_command_takes_a_number_of_processes(tmp_path, capsys):
    out = tmp_path / "run"
    settings = ["--set", *SMALL, "epochs=1", 'rule.name="set"']
    assert main(["train", "set_mlp_digits", "--out", str(out), "--nproc", "2", *settings]) == 0
    assert History.load(out).environment["nproc"] == 2
    diverging = ["optimizer.lr=1e30"]
    command = ["train", "set_mlp_digits", "--out", str(tmp_path / "bad"), "--nproc", "2"]
    assert main([*command, *settings, *diverging]) == 2
    assert "the loss became" in capsys.readouterr().err
    assert not multiprocessing.active_children()
    assert main([*command[:-1], "0"]) == 2
    assert "expected --nproc of at least 1, got 0" in capsys.readouterr().err
