"""The folder of a sweep as people leave it: renamed, swapped, unfinished, of another study."""

import datetime as dt
import logging
import os
import shutil
import time
from concurrent.futures import Executor, Future
from types import SimpleNamespace

import pandas as pd
import pytest

from topokit.cli import main
from topokit.experiments.compare import _ambiguous, compare
from topokit.experiments.study import study_from
from topokit.experiments.sweep import gather, runs_of, sweep, sweep_frame

pytestmark = pytest.mark.slow
SETTINGS = {
    "epochs": 1, "batch_size": 900, "model.widths": [64, 9, 10], "measures.names": ["fan_in"],
}  # fmt: skip
ARMS = [{"name": "set"}, {"name": "static", "settings": {"rule.name": "static"}}]


def study(name="small", seeds=(0,), **settings):
    return study_from(
        {
            "study": {"name": name, "recipe": "set_mlp_digits", "seeds": list(seeds)},
            "settings": SETTINGS | settings,
            "arms": ARMS,
        }
    )


class Here(Executor):
    """Runs each task at once, in this process."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return sweep(study(), tmp_path_factory.mktemp("sweeps") / "one", executor=Here()).directory


@pytest.fixture
def out(done, tmp_path):
    shutil.copytree(done, tmp_path / "out")
    return tmp_path / "out"


def swap(out, one, other):
    (out / "runs" / one).rename(out / "runs/aside")
    (out / "runs" / other).rename(out / "runs" / one)
    (out / "runs/aside").rename(out / "runs" / other)


def test_folders_that_were_swapped_are_not_taken_for_one_another(out, tmp_path, capsys):
    swap(out, "set-seed0", "static-seed0")
    with pytest.raises(ValueError, match=r"expected run set-seed0 .* found its run static-seed0"):
        compare(out, rng=0)
    for words in (["report", out, "--out", tmp_path / "page.html"], ["plot", out]):
        assert main([*map(str, words)]) == 2
        assert "give it back its name" in capsys.readouterr().err.replace("\n", " ")
    result = gather(study(), out)
    assert set(result.failures) == {"set-seed0", "static-seed0"}
    assert "another configuration than the study" in result.failures["set-seed0"]
    assert result.frame.empty


def test_a_study_edited_after_its_runs_does_not_name_their_results(out):
    result = gather(study(**{"optimizer.lr": 0.3}), out)
    assert set(result.failures) == {"set-seed0", "static-seed0"}
    assert result.frame.empty


def test_device_and_threads_do_not_matter_to_what_is_gathered(out, done):
    found = gather(study(device="auto", threads=2), out)
    assert found.failures == {}
    pd.testing.assert_frame_equal(found.frame, gather(study(), done).frame)


def test_runs_that_are_missing_or_not_of_the_study_are_named(out, caplog, capsys):
    runs = out / "runs"
    with caplog.at_level(logging.WARNING, logger="topokit.experiments"):
        assert len(runs_of(out)) == 2
        assert caplog.messages == []
        shutil.copytree(runs / "set-seed0", runs / "best")
        (runs / "static-seed0/DONE").unlink()
        assert [path.name for path in runs_of(out)] == ["set-seed0", "best"]
    assert caplog.messages == [
        f"1 of 2 runs of the sweep {out} have finished; left out: static-seed0",
        f"the sweep {out} holds runs that differ from its study.toml: best",
    ]
    assert main(["compare", str(out)]) == 0
    error = capsys.readouterr().err.replace("\n", " ")
    assert "1 of 2 runs of the sweep" in error


def test_conditions_of_two_sweeps_are_one_only_if_they_are_equal(out, tmp_path):
    other = sweep(study(seeds=[1], **{"optimizer.lr": 0.02}), tmp_path / "o", executor=Here())
    groups = compare([out, other.directory], rng=0).groups
    assert groups["n"].tolist() == [1] * 4
    assert len(set(groups["group"])) == 4
    assert groups["group"][0].startswith("set (")
    assert "optimizer.lr=" in groups["group"][0]
    more = sweep(study(seeds=[1]), tmp_path / "more", executor=Here())
    assert compare([out, more.directory], rng=0).groups["group"].tolist() == ["set", "static"]


def test_a_condition_that_starts_from_another_is_one():
    def run(seed, source, **more):
        topology = {"generator": "run", "run": f"{source}-seed{seed}"}
        return SimpleNamespace(config={"seed": seed, "topology": topology, **more}), "again"

    assert _ambiguous([run(0, "set"), run(1, "set")]) == set()
    assert _ambiguous([run(0, "set"), run(1, "static")]) == {"again"}
    assert _ambiguous([run(0, "set"), run(1, "set", epochs=3)]) == {"again"}


def test_another_study_is_not_mixed_into_a_sweep(out):
    with pytest.raises(ValueError, match=r"that of a sweep of study other, .* one of study small"):
        sweep(study("other", [7]), out, executor=Here())
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["set-seed0", "static-seed0"]


def test_a_frame_that_is_damaged_or_another_table_is_refused(out):
    path = out / "sweep.parquet"
    content = path.read_bytes()
    frame = sweep_frame(out)
    other = (out / "runs/set-seed0/epochs.parquet").read_bytes()
    for damaged, why in ((content[:-20], "magic"), (b"", "0 bytes"), (other, "another table")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"sweep.parquet is damaged: .*{why}.*--gather"):
            sweep_frame(out)
    refused = 0
    for at in range(4, len(content), 31):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        try:
            pd.testing.assert_frame_equal(sweep_frame(out), frame)
        except ValueError as error:
            refused += "sweep.parquet is damaged" in str(error)
    assert refused > 10
    pd.testing.assert_frame_equal(gather(study(), out).frame, frame)
    pd.testing.assert_frame_equal(sweep_frame(out), frame)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="no time zones of a process")
def test_the_time_is_up_in_every_time_zone(tmp_path, monkeypatch):
    class Elsewhere(Here):
        """A worker whose clock is set to another time zone."""

        def submit(self, fn, /, *args, **kwargs):
            with monkeypatch.context() as patch:
                patch.setenv("TZ", "XXX+05")
                time.tzset()
                future = super().submit(fn, *args, **kwargs)
            time.tzset()
            return future

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        end = dt.datetime.now() - dt.timedelta(hours=1)
        result = sweep(study(), tmp_path / "s", executor=Elsewhere(), until=end)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert result.unfinished == ("set-seed0", "static-seed0")
    assert not os.path.lexists(tmp_path / "s/runs")
