"""Sweeps on an executor in this process: what is run, kept, refused and recorded."""

import datetime as dt
import json
import multiprocessing
import shutil
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from topokit.experiments.config import RunConfig
from topokit.experiments.executors import as_completed, cores, local_pool
from topokit.experiments.record import History
from topokit.experiments.rundir import RunDirectory
from topokit.experiments.runs import run
from topokit.experiments.study import study_from
from topokit.experiments.sweep import TRIES, _replace, gather, runs_of, sweep, sweep_frame


class Here(Executor):
    """Runs each task at once, in this process."""

    def __init__(self):
        self.directories, self.sizes = [], []  # of the first run of each call; runs of each call

    def submit(self, fn, /, *args, **kwargs):
        self.directories.append(args[0].directory)
        self.sizes.append(len(args))
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


SETTINGS = {
    "epochs": 2, "batch_size": 300, "model.widths": [64, 20, 10], "measures.names": ["fan_in"],
}  # fmt: skip


def small(**tables):
    base = {"name": "small", "recipe": "set_mlp_digits", "seeds": [0, 1]}
    return study_from({"study": base, "settings": SETTINGS, **tables})


STUDY = small(grid={"rule.drop_fraction": [0.1, 0.3]})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return sweep(STUDY, tmp_path_factory.mktemp("sweeps") / "one", executor=Here())


def test_one_tidy_frame(done):
    frame = done.frame
    assert list(frame) == [
        "run", "arm", "rule.drop_fraction", "seed", "epoch", "layer", "measure", "value",
    ]  # fmt: skip
    assert done.failures == {}
    assert frame["run"].unique().tolist() == [planned.name for planned in STUDY.runs()]
    pd.testing.assert_frame_equal(sweep_frame(done.directory), frame)
    name = "drop_fraction=0.3-seed1"
    history = History.load(done.directory / "runs" / name)
    mine = frame[(frame["run"] == name) & (frame["measure"] == "test_accuracy")]
    assert mine["value"].tolist() == history.epochs["test_accuracy"].tolist()
    assert set(mine["layer"]) == {"network"}
    assert set(mine["rule.drop_fraction"]) == {0.3}
    mine = frame[(frame["run"] == name) & frame["measure"].str.startswith("fan_in")]
    assert mine["value"].tolist() == history.measures["value"].tolist()
    assert not frame["measure"].eq("seconds").any()


def test_lists_on_the_grid_are_text_in_the_frame(tmp_path):
    study = small(grid={"model.widths": [[64, 9, 10], [64, 20, 20, 10]]})
    frame = sweep(study, tmp_path / "s", executor=Here()).frame
    assert frame["model.widths"].unique().tolist() == ["[64, 9, 10]", "[64, 20, 20, 10]"]
    assert sweep_frame(tmp_path / "s")["run"].iloc[0] == "widths=64x9x10-seed0"


def test_a_run_of_a_sweep_is_an_ordinary_run(done, tmp_path):
    planned = STUDY.runs()[0]
    alone = run(planned.config, tmp_path / "alone")
    ours = History.load(done.directory / "runs" / planned.name)
    left, right = (h.epochs.drop(columns=["run", "seconds"]) for h in (alone, ours))
    pd.testing.assert_frame_equal(left, right, check_exact=True)
    assert RunConfig.from_dict(ours.config) == planned.config


def test_finished_runs_are_never_run_again(done):
    executor = Here()
    again = sweep(STUDY, done.directory, executor=executor)
    assert executor.directories == []
    pd.testing.assert_frame_equal(again.frame, done.frame)


def test_a_larger_study_adds_runs_to_the_same_folder(tmp_path):
    sweep(small(), tmp_path / "s", executor=Here())
    executor, more = Here(), small()
    more = study_from(
        {
            "study": {"name": "small", "recipe": "set_mlp_digits", "seeds": [0, 1, 2]},
            "settings": SETTINGS,
        }
    )
    result = sweep(more, tmp_path / "s", executor=executor)
    assert len(executor.directories) == 1
    assert result.frame["seed"].unique().tolist() == [0, 1, 2]


def test_started_runs_are_resumed(done, tmp_path):
    planned = STUDY.runs()[0]
    path = tmp_path / "s" / "runs" / planned.name

    def stop(epoch, frame):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(planned.config, path, progress=stop)
    assert (path / "checkpoint.pt").is_file()
    started = json.loads((path / "environment.json").read_text())
    other = tmp_path / "s" / "runs" / STUDY.runs()[1].name
    RunDirectory.create(
        other, STUDY.runs()[1].config.to_toml(), {}
    )  # interrupted before a checkpoint
    result = sweep(STUDY, tmp_path / "s", executor=Here())
    pd.testing.assert_frame_equal(result.frame, done.frame)
    assert json.loads((path / "environment.json").read_text()) == started


def test_a_failing_run_stops_no_other(tmp_path):
    study = small(
        arms=[{"name": "bad", "settings": {"optimizer.lr": 1e30}}, {"name": "good"}],
    )
    seen = []
    result = sweep(study, tmp_path / "s", executor=Here(), progress=seen.append)
    assert list(result.failures) == ["bad-seed0", "bad-seed1"]
    assert "FloatingPointError: the loss became" in result.failures["bad-seed0"]
    assert json.loads((tmp_path / "s/failures.json").read_text()) == result.failures
    assert result.frame["arm"].unique().tolist() == ["good"]
    assert (seen[0].total, seen[0].done, seen[0].failed) == (4, 0, 0)
    assert (seen[-1].done, seen[-1].failed, seen[-1].running) == (2, 2, 0)
    assert np.isnan(seen[0].seconds_left)
    assert seen[-1].seconds_left == 0
    assert seen[-1].last == "good-seed1"


def test_all_is_checked_before_the_first_run(tmp_path):
    executor = Here()
    wrong = small(arms=[{"name": "a"}, {"name": "b", "settings": {"rule.nmae": "x"}}])
    with pytest.raises(ValueError, match=r"run b-seed0: unknown key 'rule.nmae'"):
        sweep(wrong, tmp_path / "s", executor=executor)
    wrong = small(grid={"rule.init": ["zeros", "hee"]})
    with pytest.raises(
        ValueError, match=r"run init=hee-seed0: unknown init .hee.; did you mean .he."
    ):
        sweep(wrong, tmp_path / "s", executor=executor)
    wrong = small(grid={"model.widths": [[64, 20, 10], [63, 20, 10]]})
    with pytest.raises(ValueError, match=r"run widths=63x20x10-seed0: model.widths: data set"):
        sweep(wrong, tmp_path / "s", executor=executor)
    wrong = small(settings={"data.name": "mnist"})
    with pytest.raises(FileNotFoundError, match="data set 'mnist'"):
        sweep(wrong, tmp_path / "s", executor=executor, data_dir=tmp_path)
    assert executor.directories == []
    assert not (tmp_path / "s").exists()


def test_another_configuration_is_not_overwritten(done):
    other = small(grid={"rule.drop_fraction": [0.1, 0.3]}, settings={**SETTINGS, "epochs": 3})
    with pytest.raises(ValueError, match="holds a run with another configuration; choose another"):
        sweep(other, done.directory, executor=Here())


def test_a_recipe_with_another_description_is_the_same_configuration(done):
    base = replace(STUDY.base, about={"title": "another title"})
    executor = Here()
    again = sweep(replace(STUDY, base=base), done.directory, executor=executor)
    assert executor.directories == []
    pd.testing.assert_frame_equal(again.frame, done.frame)


def test_two_sweeps_never_write_to_one_folder(tmp_path):
    (tmp_path / "s").mkdir()
    with (
        RunDirectory(tmp_path / "s").lock(),
        pytest.raises(ValueError, match="another process is writing"),
    ):
        sweep(small(), tmp_path / "s", executor=Here())


def test_a_run_that_another_process_writes_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("topokit.experiments.worker.PATIENCE", 0.0)
    study = small()
    path = tmp_path / "s/runs/seed0"
    path.mkdir(parents=True)
    with RunDirectory(path).lock():
        result = sweep(study, tmp_path / "s", executor=Here())
    assert "another process is writing to the run" in result.failures["seed0"]
    assert result.frame["run"].unique().tolist() == ["seed1"]
    assert sweep(study, tmp_path / "s", executor=Here()).failures == {}


def test_options_are_checked(tmp_path):
    with pytest.raises(ValueError, match="workers: expected at least 1, got 0"):
        sweep(STUDY, tmp_path, workers=0)
    with pytest.raises(ValueError, match="at most one of executor, workers and scheduler"):
        sweep(STUDY, tmp_path, workers=1, scheduler="tcp://here:1")
    with pytest.raises(FileNotFoundError, match="expected the frame of a sweep"):
        sweep_frame(tmp_path)


def test_runs_of_a_sweep_or_a_run(done, tmp_path):
    found = runs_of(done.directory)
    assert [path.name for path in found] == sorted(planned.name for planned in STUDY.runs())
    assert runs_of(found[0]) == [found[0]]
    with pytest.raises(ValueError, match="expected a run directory"):
        runs_of(tmp_path)
    (tmp_path / "study.toml").touch()
    with pytest.raises(ValueError, match=r"no run of the sweep .* has finished yet"):
        runs_of(tmp_path)


class Fragile(Here):
    """Breaks at some runs, as a pool whose worker was killed; from then on it runs nothing."""

    def __init__(self, deadly):
        super().__init__()
        self.deadly, self.broken = deadly, False

    def submit(self, fn, /, *args, **kwargs):
        self.broken |= self.deadly(args[0].directory)
        if self.broken:
            Path(args[0].directory).mkdir(parents=True, exist_ok=True)
            future = Future()
            future.set_exception(BrokenProcessPool("a process ended abruptly"))
            return future
        return super().submit(fn, *args, **kwargs)


def test_a_killed_worker_is_replaced(tmp_path, monkeypatch):
    pools = [Fragile(lambda path: path.endswith("seed1")), Here()]
    monkeypatch.setattr(
        "topokit.experiments.executors.local_pool", lambda *_, **__: nullcontext(pools.pop(0))
    )
    result = sweep(STUDY, tmp_path / "s")
    assert result.failures == {}
    assert result.frame["run"].nunique() == 4
    assert pools == []


def test_a_run_whose_worker_keeps_dying_is_given_up(tmp_path, monkeypatch):
    started = []

    def pool(*_, **__):
        started.append(Fragile(lambda path: path.endswith("seed1")))
        return nullcontext(started[-1])

    monkeypatch.setattr("topokit.experiments.executors.local_pool", pool)
    result = sweep(small(), tmp_path / "s")
    reason = f"its worker died {TRIES} times: a process ended abruptly"
    assert result.failures == {"seed1": reason}
    assert result.frame["run"].unique().tolist() == ["seed0"]
    assert len(started) == TRIES


def test_no_worker_at_all(tmp_path, monkeypatch):
    class Dead(Executor):
        def submit(self, fn, /, *args, **kwargs):
            raise BrokenProcessPool("cannot start")

    monkeypatch.setattr(
        "topokit.experiments.executors.local_pool", lambda *_, **__: nullcontext(Dead())
    )
    with pytest.raises(ChildProcessError, match="no worker could be started: cannot start") as told:
        sweep(small(), tmp_path / "s")
    assert "workers import the script that starts them; put what" in str(told.value)


def test_a_script_without_a_guard_is_refused_in_its_workers(tmp_path, monkeypatch):
    here = multiprocessing.current_process()
    monkeypatch.setattr(here, "_inheriting", True, raising=False)  # as while a worker imports it
    with pytest.raises(RuntimeError, match=r"sweep: reached again .* `if __name__ == "):
        sweep(small(), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_the_pool_gives_each_worker_its_threads():
    with local_pool(1, threads=1) as pool:
        assert pool.submit(_threads).result() == "1"
    assert cores() >= 1


def _threads():
    import os

    return os.environ["OMP_NUM_THREADS"]


STARTING = {
    "arms": [
        {"name": "again", "after": "set", "settings": {"topology.generator": "run"}},
        {"name": "set"},
    ]
}


def test_runs_that_start_from_others_come_after_them(tmp_path):
    executor = Here()
    result = sweep(small(**STARTING), tmp_path / "s", executor=executor)
    assert [Path(path).name for path in executor.directories] == [
        "set-seed0", "set-seed1", "again-seed0", "again-seed1",
    ]  # fmt: skip
    assert result.failures == {}
    first, again = (History.load(tmp_path / f"s/runs/{arm}-seed1") for arm in ("set", "again"))
    assert again.topology(0) == first.topology(-1)
    assert again.config["topology"]["run"] == "set-seed1"


def test_a_run_whose_source_is_missing_fails_and_is_run_later(tmp_path):
    executor = Here()
    study = small(**STARTING)
    result = sweep(study, tmp_path / "s", executor=executor, only=["again-*"])
    assert set(result.failures) == {"again-seed0", "again-seed1"}
    assert "expected a finished run to start from" in result.failures["again-seed0"]
    assert sweep(study, tmp_path / "s", executor=executor).failures == {}


def test_cases_have_a_column(tmp_path):
    study = small(cases=[{"name": "a"}, {"name": "b", "settings": {"optimizer.lr": 0.02}}])
    frame = sweep(study, tmp_path / "s", executor=Here()).frame
    assert list(frame)[:4] == ["run", "arm", "case", "seed"]
    assert frame["case"].unique().tolist() == ["a", "b"]


def test_only_the_runs_that_match_in_the_order_of_the_patterns(done, tmp_path):
    executor = Here()
    only = ["*=0.3-seed1", "*-seed0"]
    result = sweep(STUDY, tmp_path / "s", executor=executor, only=only)
    names = ["drop_fraction=0.3-seed1", "drop_fraction=0.1-seed0", "drop_fraction=0.3-seed0"]
    assert [Path(path).name for path in executor.directories] == names
    assert (result.unfinished, result.failures) == ((), {})
    assert sorted(result.frame["run"].unique()) == sorted(names)
    rest = sweep(STUDY, tmp_path / "s", executor=Here(), only=["*=0.1-*"])
    pd.testing.assert_frame_equal(rest.frame, done.frame)  # of all finished runs, in their order
    with pytest.raises(ValueError, match=r"names of runs \(drop.*and 1 more\), got 'seed7'"):
        sweep(STUDY, tmp_path / "s", executor=Here(), only=["seed7"])
    with pytest.raises(ValueError, match="at most one of part and only"):
        sweep(STUDY, tmp_path / "s", executor=Here(), only=["*"], part=(1, 2))


def test_runs_stop_in_time_and_go_on(done, tmp_path, monkeypatch):
    now = [dt.datetime(2026, 1, 1, 12)]

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            now[0] += dt.timedelta(minutes=10)
            return now[0].astimezone(tz)

    monkeypatch.setattr("topokit.experiments.worker.dt.datetime", Clock)
    end = dt.datetime(2026, 1, 1, 12, 35)
    seen, executor = [], Here()
    result = sweep(
        STUDY, tmp_path / "s", executor=executor, until=end, progress=seen.append
    )  # 12:10 begins, 12:20 its first epoch ends; 12:30 the second run begins, 12:40 its first
    first, second = (run.name for run in STUDY.runs()[:2])
    assert result.failures == {}
    assert result.unfinished == tuple(run.name for run in STUDY.runs()[1:])
    assert result.frame["run"].unique().tolist() == [first]
    assert len(History.load(tmp_path / "s/runs" / second).epochs) == 1
    assert not (tmp_path / "s/runs" / STUDY.runs()[2].name).exists()
    assert json.loads((tmp_path / "s/failures.json").read_text()) == {}
    assert seen[-1].done == 1
    monkeypatch.undo()
    again = sweep(STUDY, tmp_path / "s", executor=executor)
    pd.testing.assert_frame_equal(again.frame, done.frame)
    assert again.unfinished == ()


def test_a_run_that_ends_when_the_time_is_up_is_finished(tmp_path, monkeypatch):
    now = iter(dt.datetime(2026, 1, 1, 12) + dt.timedelta(minutes=10 * i) for i in range(99))

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return next(now).astimezone(tz)

    monkeypatch.setattr("topokit.experiments.worker.dt.datetime", Clock)
    end = dt.datetime(2026, 1, 1, 12, 20)  # after the first epoch of the first run, 12:10
    result = sweep(small(), tmp_path / "s", executor=Here(), until=end)
    assert result.unfinished == ("seed1",)
    assert result.frame["run"].unique().tolist() == ["seed0"]


@pytest.mark.parametrize(
    ("key", "values", "column"),
    [
        ("rule.every", ["epoch", 50], ["50", "epoch"]),
        ("measures.every", [1, "log"], ["1", "log"]),
        ("rule.stop", [1, 2**64], ["1", str(2**64)]),
        ("rule.skip", [["fc1"], ["fc2"]], ["['fc1']", "['fc2']"]),
        ("optimizer.momentum", [0, 0.5], [0.0, 0.5]),
        ("optimizer.nesterov", [False, True], [False, True]),
    ],
)
def test_values_of_several_kinds_are_text_in_the_frame(tmp_path, key, values, column):
    short = {**SETTINGS, "epochs": 1, "optimizer.momentum": 0.9}
    short.pop(key, None)
    study = study_from({
        "study": {"name": "kinds", "recipe": "set_mlp_digits"},
        "settings": short, "grid": {key: values},
    })  # fmt: skip
    found = sweep(study, tmp_path / "s", executor=Here())
    assert found.failures == {}
    assert sorted(found.frame[key].unique().tolist()) == column
    read = sweep_frame(tmp_path / "s")
    assert sorted(read[key].unique().tolist()) == column
    assert not read[key].isna().any()


def test_the_results_of_one_study_are_not_replaced_by_none_of_another(done, tmp_path):
    root = tmp_path / "s"
    shutil.copytree(done.directory, root)
    other = replace(STUDY, name="other")
    with pytest.raises(ValueError, match=r"sweep of study other, .* holds one of study small"):
        gather(other, root)
    assert len(sweep_frame(root)) == len(done.frame)
    (root / ".lock").unlink()  # a copy without it is still a sweep
    assert len(gather(STUDY, root).frame) == len(done.frame)


def test_what_was_replaced_before_is_kept_where_some_was_removed(done, tmp_path):
    root = tmp_path / "s"
    shutil.copytree(done.directory, root)
    name = "drop_fraction=0.1-seed0"
    for number in (1, 3):
        shutil.copytree(root / "runs" / name, root / "replaced" / f"{name}-{number}")
    for _ in range(2):
        _replace(STUDY.runs(), root, [name])
        shutil.copytree(done.directory / "runs" / name, root / "runs" / name)
    assert len(list((root / "replaced").iterdir())) == 4


def test_a_plugin_that_calls_exit_ends_no_sweep(tmp_path, monkeypatch):
    def ends(*_, **__):
        raise SystemExit(0)

    monkeypatch.setattr("topokit.experiments.runs.run", ends)
    failures = sweep(STUDY, tmp_path / "s", executor=Here()).failures
    assert failures == dict.fromkeys((run.name for run in STUDY.runs()), "SystemExit: 0")
    ended = Future()
    ended.set_exception(SystemExit(0))
    given = SimpleNamespace(submit=lambda *_: ended)
    assert [call.error for call in as_completed(given, max, {"a": ()})] == ["SystemExit: 0"]
