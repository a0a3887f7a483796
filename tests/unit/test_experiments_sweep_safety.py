"""Sweeps: what topokit did not make stays, damaged runs are reported, parts equal the whole."""

import json
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest

from topokit.cli import main
from topokit.experiments.executors import as_completed
from topokit.experiments.study import study_from
from topokit.experiments.sweep import TRIES, gather, sweep, sweep_frame
from topokit.graph.files import locked

pytestmark = pytest.mark.slow


class Here(Executor):
    """Runs each task at once, in this process."""

    def __init__(self):
        self.names = []

    def submit(self, fn, /, *args, **kwargs):
        self.names.append(Path(args[0].directory).name)
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


STUDY = study_from(
    {
        "study": {"name": "small", "recipe": "set_mlp_digits", "seeds": [0, 1, 2]},
        "settings": {
            "epochs": 2, "batch_size": 900, "model.widths": [64, 9, 10],
            "measures.names": ["fan_in"],
        },
    }
)  # fmt: skip


@pytest.fixture
def out(tmp_path):
    sweep(STUDY, tmp_path / "out", executor=Here())
    return tmp_path / "out"


def again(out, **options):
    executor = Here()
    return sweep(STUDY, out, executor=executor, **options), executor.names


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- what topokit did not make --------------------------------------------------------------------


def test_a_strangers_folder_in_the_place_of_a_run_stays(tmp_path):
    mine = tmp_path / "out/runs/seed0"
    (mine / "album").mkdir(parents=True)
    (mine / "holiday.jpg").write_bytes(b"holiday")
    (mine / "album" / "list.txt").write_text("list")
    before = contents(mine)
    result, _ = again(tmp_path / "out", rerun=["seed0", "damaged"])
    assert "expected a new or empty folder" in result.failures["seed0"]
    assert contents(mine) == before
    assert result.frame["run"].unique().tolist() == ["seed1", "seed2"]


def test_a_strangers_configuration_in_the_place_of_a_run_stays(tmp_path):
    mine = tmp_path / "out/runs/seed0"
    mine.mkdir(parents=True)
    (mine / "config.toml").write_text("colour = 'blue'")
    with pytest.raises(ValueError, match="holds a run with another configuration"):
        again(tmp_path / "out")
    assert contents(tmp_path) == {"out/runs/seed0/config.toml": b"colour = 'blue'"}


@pytest.mark.parametrize("name", ["study.toml", "sweep.parquet", "failures.json", "config.toml"])
def test_a_folder_with_other_files_is_no_place_for_a_sweep(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"holds other files \({name}\); choose another --out"):
        again(tmp_path)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_run_is_no_place_for_a_sweep(out):
    with pytest.raises(ValueError, match="holds other files"):
        again(out / "runs/seed0")
    (out / "file").touch()
    with pytest.raises(ValueError, match="is a file; choose another"):
        again(out / "file")


# --- damaged runs ---------------------------------------------------------------------------------


def test_a_run_whose_checkpoint_is_lost_is_not_silently_trained_again(out):
    lost = out / "runs/seed1"
    (lost / "DONE").unlink()
    (lost / "checkpoint.pt").unlink()
    before = contents(lost)
    result, _ = again(out)
    reason = result.failures["seed1"]
    assert "checkpoint" in reason
    assert "'--rerun seed1' trains it again, '--rerun damaged' all damaged runs" in reason
    assert contents(lost) == before
    assert result.frame["run"].unique().tolist() == ["seed0", "seed2"]
    assert json.loads((out / "failures.json").read_text()) == result.failures

    result, names = again(out, rerun=["seed1"])
    assert (result.failures, names) == ({}, ["seed1"])
    assert contents(out / "replaced/seed1-1") == before


@pytest.mark.parametrize("damage", ["cut", "gone", "changed", "mark"])
def test_a_damaged_finished_run_is_reported_and_the_others_are_gathered(out, damage):
    whole = sweep_frame(out)
    record = out / "runs/seed1/record.jsonl"
    if damage == "cut":
        record.write_bytes(record.read_bytes()[:-200])
    elif damage == "gone":
        record.unlink()
    elif damage == "changed":
        record.write_bytes(record.read_bytes().replace(b'"epoch":', b'"epochs":'))
    else:
        (out / "runs/seed1/DONE").write_text("yes")
    result, names = again(out)
    assert names == []
    assert list(result.failures) == ["seed1"]
    assert "it is finished but damaged" in result.failures["seed1"]
    assert "--rerun seed1" in result.failures["seed1"]
    pd.testing.assert_frame_equal(
        result.frame, whole[whole["run"] != "seed1"].reset_index(drop=True)
    )
    result, names = again(out, rerun=["damaged"])
    assert (result.failures, names) == ({}, ["seed1"])
    pd.testing.assert_frame_equal(result.frame, whole)


def test_an_unfinished_run_with_a_damaged_checkpoint_is_trained_again_on_request(out):
    (out / "runs/seed2/DONE").unlink()
    (out / "runs/seed2/checkpoint.pt").write_bytes(b"PK\x03\x04 nothing")
    failures = again(out)[0].failures
    assert list(failures) == ["seed2"]
    assert "--rerun damaged" in failures["seed2"]
    result, names = again(out, rerun=["damaged"])
    assert (result.failures, names) == ({}, ["seed2"])


def test_runs_to_repeat_are_checked_and_counted(out):
    with pytest.raises(ValueError, match="unknown run 'seed4'; did you mean"):
        again(out, rerun=["seed4"])
    for number in (1, 2):
        assert again(out, rerun=["seed0"])[1] == ["seed0"]
        assert (out / f"replaced/seed0-{number}/DONE").is_file()
    assert again(out, rerun=["damaged"])[1] == []


# --- parts ----------------------------------------------------------------------------------------


def test_parts_in_any_order_equal_the_whole(out, tmp_path):
    parts = tmp_path / "parts"
    with pytest.raises(FileNotFoundError, match="expected the directory of a sweep"):
        gather(STUDY, parts)
    second, names = again(parts, part=(2, 2))
    assert names == ["seed1"]
    assert second.frame["run"].unique().tolist() == ["seed1"]
    assert not (parts / "sweep.parquet").exists()
    early = gather(STUDY, parts)
    assert early.failures == {}
    assert early.unfinished == ("seed0", "seed2")
    assert again(parts, part=(1, 2))[1] == ["seed0", "seed2"]
    result = gather(STUDY, parts)
    assert result.failures == {}
    assert result.unfinished == ()
    pd.testing.assert_frame_equal(result.frame, sweep_frame(out))
    for name in ("sweep.parquet", "failures.json", "study.toml"):
        assert (parts / name).read_bytes() == (out / name).read_bytes()


def test_the_command_tells_unfinished_runs_from_failed_ones(tmp_path, capsys):
    text = tmp_path / "s.toml"
    lines = ["epochs = 1", "batch_size = 900", '"model.widths" = [64, 9, 10]']
    lines += ['"measures.names" = ["fan_in"]', "[grid]", '"optimizer.lr" = [0.01, 1e30]']
    head = '[study]\nname = "two"\nrecipe = "set_mlp_digits"\nseeds = [0, 1]\n[settings]\n'
    text.write_text(head + "\n".join(lines) + "\n")
    sweep(text, tmp_path / "s", executor=Here(), part=(2, 4))
    sweep(text, tmp_path / "s", executor=Here(), part=(4, 4))
    words = ["sweep", str(text), "--out", str(tmp_path / "s"), "--gather"]
    capsys.readouterr()
    assert main(words) == 1
    said = capsys.readouterr()
    assert "1 run done, 1 failed, 2 not finished yet; results are in" in said.out.replace("\n", " ")
    assert said.err.count(" failed: ") == 1
    assert "not finished yet, or interrupted: " in said.err
    assert main([*words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["done"], len(found["failures"]), len(found["unfinished"])) == (1, 1, 2)


def test_failures_of_parts_are_gathered(tmp_path):
    study = study_from(
        {
            "study": {"name": "bad", "recipe": "set_mlp_digits", "seeds": [0, 1]},
            "settings": {"epochs": 1, "model.widths": [64, 9, 10], "optimizer.lr": 1e30},
        }
    )
    whole = sweep(study, tmp_path / "whole", executor=Here())
    for i in (1, 2):
        sweep(study, tmp_path / "parts", executor=Here(), part=(i, 2))
    result = gather(study, tmp_path / "parts")
    assert list(result.failures) == ["seed0", "seed1"]
    assert result.unfinished == ()
    there = [reason.replace("/whole/", "/parts/") for reason in whole.failures.values()]
    assert list(result.failures.values()) == there


def test_runs_left_alone_keep_their_reasons(tmp_path):
    table = {
        "study": {"name": "bad", "recipe": "set_mlp_digits", "seeds": [0, 1, 2]},
        "settings": {"epochs": 1, "model.widths": [64, 9, 10], "optimizer.lr": 1e30},
    }
    study, out, path = study_from(table), tmp_path / "s", tmp_path / "s/failures.json"
    first = sweep(study, out, executor=Here()).failures
    assert list(first) == ["seed0", "seed1", "seed2"]
    result = sweep(study, out, executor=Here(), only=["seed1"])
    assert result.failures == {"seed1": first["seed1"]}
    assert json.loads(path.read_text()).keys() == first.keys()
    listed = {**first, "seed2": "no memory", "seed9": "of an earlier form of the study"}
    path.write_text(json.dumps(listed))
    (out / "runs/seed0/DONE").touch()  # finished since, by topokit resume
    sweep(study, out, executor=Here(), only=["seed1"])
    assert json.loads(path.read_text())["seed2"] == "no memory"
    assert "seed9" not in json.loads(path.read_text())
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"failures\.json.* may be removed"):
        sweep(study, out, executor=Here(), only=["seed1"])
    sweep(study, out, executor=Here())
    assert json.loads(path.read_text()).keys() >= {"seed1", "seed2"}


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "/dev/zero", "folder"])
def test_damaged_failures_of_parts_are_named_with_the_remedy(out, content):
    path = out / "failures-1-of-2.json"
    if content == "/dev/zero":
        path.symlink_to(content)
    elif content == "folder":
        path.mkdir()
    else:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"failures-1-of-2\.json.* may be removed"):
        gather(STUDY, out)


def test_more_parts_than_runs(tmp_path):
    for i in range(1, 6):
        again(tmp_path / "s", part=(i, 5))
    assert gather(STUDY, tmp_path / "s").failures == {}
    with pytest.raises(ValueError, match="part: expected i of n with 1 <= i <= n, got 3 of 2"):
        again(tmp_path / "s", part=(3, 2))


def test_who_excludes_whom(tmp_path):
    root = tmp_path / "s"
    root.mkdir()
    with locked(root / ".lock"):
        for options in ({}, {"part": (1, 3)}):
            with pytest.raises(ValueError, match="another process is writing to the sweep"):
                again(root, **options)
        with pytest.raises(ValueError, match="the directory of a sweep"):
            gather(STUDY, root)
    with locked(root / ".lock", shared=True), locked(root / ".lock-1-of-3"):
        with pytest.raises(ValueError, match="another process is writing to the sweep"):
            again(root)
        with pytest.raises(ValueError, match="another process is writing to part 1 of 3"):
            again(root, part=(1, 3))
        assert again(root, part=(2, 3))[1] == ["seed1"]
        with pytest.raises(ValueError, match="another process is writing to the sweep"):
            gather(STUDY, root)


# --- executors and workers ------------------------------------------------------------------------


class Job:
    """As of an executor that returns no futures: only ``done`` and ``result``."""

    def __init__(self, result, looks):
        self.value, self.looks = result, looks

    def done(self):
        self.looks -= 1
        return self.looks < 0

    def result(self):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class Jobs:
    def __init__(self):
        self.count = 0

    def submit(self, fn, /, *args, **kwargs):
        self.count += 1
        return Job(fn(*args, **kwargs), 3 - self.count)


def test_any_executor_will_do(out, tmp_path):
    result = sweep(STUDY, tmp_path / "other", executor=Jobs())
    assert result.failures == {}
    pd.testing.assert_frame_equal(result.frame, sweep_frame(out))


class Made:
    def __init__(self, *results):
        self.results = list(results)

    def submit(self, fn, /, *args):
        return Job(self.results.pop(0), 0)


def test_outcomes_of_calls():
    calls = as_completed(
        Made(1, BrokenProcessPool("gone"), OSError("no room")), max, dict.fromkeys("abc", ())
    )
    ended = {one.name: (one.result, one.error, one.broken) for one in calls}
    assert ended == {
        "a": (1, "", False),
        "b": (None, "gone", True),
        "c": (None, "OSError: no room", False),
    }
    with pytest.raises(ConnectionError, match="the executor or its scheduler ended before"):
        list(as_completed(Made(CancelledError()), max, {"a": ()}))


def test_a_thousand_calls_are_cheap():
    looks = 0

    class Counting(Job):
        def done(self):
            nonlocal looks
            looks += 1
            return super().done()

    class Many:
        def submit(self, fn, number):
            return Counting(number, 0 if number % 100 else 1)

    tasks = {str(i): (i,) for i in range(1000)}
    assert len(list(as_completed(Many(), max, tasks))) == 1000
    assert looks <= 3000


class Stillborn(Here):
    """Its workers die before they start a run."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        future.set_exception(BrokenProcessPool("killed"))
        return future


def test_a_worker_killed_while_it_starts_is_replaced(tmp_path, monkeypatch):
    pools = [Stillborn() for _ in range(TRIES - 1)] + [Here()]
    monkeypatch.setattr(
        "topokit.experiments.executors.local_pool", lambda *_, **__: nullcontext(pools.pop(0))
    )
    assert sweep(STUDY, tmp_path / "s").failures == {}
    assert pools == []


def test_runs_that_make_progress_are_not_blamed_for_dying_workers(tmp_path, monkeypatch):
    """Each pool breaks, but this run finishes an epoch each time: it is no reason to give up."""

    class Slow(Here):
        def submit(self, fn, /, *args, **kwargs):
            path = Path(args[0].directory)
            if path.name != "seed0" or Slow.left == 0:
                return super().submit(fn, *args, **kwargs)
            path.mkdir(parents=True, exist_ok=True)
            (path / "checkpoint.pt").unlink(missing_ok=True)
            Slow.left -= 1
            if Slow.left:
                (path / "checkpoint.pt").write_text("later")
                stamp = 1_700_000_000 - Slow.left
                __import__("os").utime(path / "checkpoint.pt", (stamp, stamp))
            future = Future()
            future.set_exception(BrokenProcessPool("killed"))
            return future

    Slow.left = 2 * TRIES
    monkeypatch.setattr(
        "topokit.experiments.executors.local_pool", lambda *_, **__: nullcontext(Slow())
    )
    assert sweep(STUDY, tmp_path / "s").failures == {}


def test_a_lock_file_of_a_run_is_not_made_in_a_strangers_folder(tmp_path):
    mine = tmp_path / "s/runs/seed0"
    mine.mkdir(parents=True)
    (mine / "notes").touch()
    again(tmp_path / "s")
    assert contents(mine) == {"notes": b""}
