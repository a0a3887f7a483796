import os

import numpy as np
import pandas as pd
import pytest

from topokit.experiments.record import History, best_epoch, score_column
from topokit.experiments.recorder import Recorder
from topokit.experiments.rundir import RunDirectory
from topokit.graph import EdgeUpdate, LayerGraph, same_edges, sample_absent, snapshots


def evolving(rng, n_epochs):
    graph = LayerGraph.from_edge_ids(rng.choice(600, 90, replace=False), (20, 30))
    out = LayerGraph.from_edge_ids(rng.choice(100, 40, replace=False), (5, 20))
    for _ in range(n_epochs):
        yield {"fc1": graph, "fc2": out}
        dropped = rng.choice(graph.n_edges, 20, replace=False)
        graph = EdgeUpdate.from_decisions(graph, dropped, sample_absent(graph, 20, rng)).after


def measures(value):
    return pd.DataFrame({"layer": ["fc1"], "measure": ["m"], "value": [value]})


def new_run(path):
    return RunDirectory.create(path, "epochs = 30\n", {"seed": 0})


def test_every_epoch_can_be_read_back(tmp_path, rng):
    steps = list(evolving(rng, 25))
    previous = None
    for epoch, topology in enumerate(steps):
        previous = snapshots.append(tmp_path, epoch, topology, previous)
    assert snapshots.recorded(tmp_path) == list(range(25))
    for epoch in (24, 0, 9, 10, 19, 3):
        found = snapshots.load(tmp_path, epoch).topology
        assert all(same_edges(found[name], steps[epoch][name]) for name in found)


def test_ages_follow_edges_across_keyframes(tmp_path, rng):
    steps = list(evolving(rng, 25))
    run = new_run(tmp_path / "run")
    recorder = Recorder(run)
    for epoch, topology in enumerate(steps):
        recorder.write(epoch, {"train_loss": 0.0}, topology, measures(epoch))
    history = History.load(tmp_path / "run")
    for epoch in (0, 8, 10, 24):
        born = {}
        for e in range(epoch + 1):
            now = set(steps[e]["fc1"].edge_ids.tolist())
            born = {i: born.get(i, e) for i in now}
        expected = [epoch - born[i] for i in steps[epoch]["fc1"].edge_ids.tolist()]
        assert history.ages(epoch, "fc1").tolist() == expected
    assert history.ages(24, "fc2").tolist() == [24] * 40
    assert same_edges(history.topology(-1)["fc1"], steps[24]["fc1"])
    with pytest.raises(ValueError, match="expected a layer of fc1, fc2, got 'fc9'"):
        history.ages(0, "fc9")
    with pytest.raises(ValueError, match=r"recorded epoch \(0\.\.24\), got 40"):
        history.topology(40)


def test_a_restarted_recorder_continues_the_record(tmp_path, rng):
    steps = list(evolving(rng, 25))
    for name, stop in (("whole", None), ("stopped", 13)):
        run = new_run(tmp_path / name)
        recorder = Recorder(run)
        explored = []
        for epoch, topology in enumerate(steps):
            if epoch == stop:  # the record is two epochs ahead of the checkpoint
                recorder = Recorder(run, upto=stop - 3)
                for e in range(stop - 2, stop):
                    recorder.explore(steps[e])
                    recorder.write(e, {"loss": e / 7}, steps[e], measures(e))
            explored.append(recorder.explore(topology))
            recorder.write(epoch, {"loss": epoch / 7}, topology, measures(epoch))
        assert explored[-1]["fc2"] == 0.4
    whole, stopped = (History.load(tmp_path / name) for name in ("whole", "stopped"))
    for frame in ("epochs", "measures"):
        a, b = getattr(whole, frame), getattr(stopped, frame)
        pd.testing.assert_frame_equal(a.drop(columns="run"), b.drop(columns="run"))
    for path in sorted((tmp_path / "whole" / "topology").iterdir()):
        twin = tmp_path / "stopped" / "topology" / path.name
        with np.load(path) as a, np.load(twin) as b:
            assert all(np.array_equal(a[key], b[key]) for key in a)


def test_epochs_count_from_the_end_everywhere(tmp_path, rng):
    recorder = Recorder(new_run(tmp_path / "run"))
    for epoch, topology in enumerate(evolving(rng, 12)):
        recorder.write(epoch, {"loss": 0.0}, topology, measures(epoch))
    history = History.load(tmp_path / "run")
    for back in (-1, -5, np.int64(-12)):
        at = 12 + back
        assert np.array_equal(history.ages(back, "fc1"), history.ages(at, "fc1"))
        assert same_edges(history.topology(back)["fc1"], history.topology(at)["fc1"])
        assert history.explored_fraction(back) == history.explored_fraction(at)
    for method in (history.topology, history.explored_fraction, lambda e: history.ages(e, "fc1")):
        with pytest.raises(ValueError, match=r"expected a recorded epoch \(0\.\.11\), got -13"):
            method(-13)


@pytest.mark.parametrize(
    ("accuracy", "loss", "best"),
    [
        ([0.5, 0.8, 0.8, 0.7], [1, 2, 3, 0], 1),
        ([np.nan, 0.3, 0.2], [1, 2, 3], 1),
        ([np.nan] * 3, [3.0, 1.0, 2.0], 1),
        ([np.nan] * 3, [np.nan, 5.0, 5.0], 1),
    ],
)
def test_the_best_epoch(accuracy, loss, best):
    frame = pd.DataFrame({"epoch": range(len(loss)), "test_accuracy": accuracy, "test_loss": loss})
    assert best_epoch(frame) == best


@pytest.mark.parametrize(
    ("columns", "chosen", "best"),
    [
        ({"train_acc": [0.1, 0.9, 0.5], "val_acc": [0.7, 0.1, 0.2]}, "val_acc", 0),
        ({"Train accuracy": [0.1, 0.9, 0.5], "val_loss": [3, 2, 1]}, "val_loss", 2),
        ({"train_loss": [3, 1, 2], "valid_err": [2, 3, 1]}, "valid_err", 2),
        ({"train_loss": [3, 1, 2], "train_acc": [0.3, 0.5, 0.9]}, "train_acc", 2),
        ({"accumulated_loss": [3, 1, 2]}, "accumulated_loss", 1),
        ({"test_loss": [3, 1, 2], "val_acc": [0.9, 0.1, 0.2]}, "test_loss", 1),
    ],
)
def test_runs_are_judged_by_samples_held_out_if_there_are_any(columns, chosen, best):
    for frame in (pd.DataFrame(columns), pd.DataFrame(dict(reversed(columns.items())))):
        assert (score_column(frame), best_epoch(frame)) == (chosen, best)


def test_no_best_epoch_without_numbers():
    frame = pd.DataFrame({"test_accuracy": [np.nan], "test_loss": [np.nan]})
    with pytest.raises(ValueError, match="expected an epoch with a test accuracy or loss, got 1"):
        best_epoch(frame)


def test_known_changes_are_recorded_as_compared_ones_are(tmp_path, rng):
    steps = list(evolving(rng, 12))
    before = None
    for name in ("compared", "known"):
        recorder = Recorder(new_run(tmp_path / name))
        for epoch, topology in enumerate(steps):
            changes = None
            if name == "known" and epoch:
                before = steps[epoch - 1]
                changes = {k: EdgeUpdate.between(before[k], g) for k, g in topology.items()}
            recorder.write(epoch, {"loss": 0.0}, topology, measures(epoch), changes)
    for path in sorted((tmp_path / "known" / "topology").iterdir()):
        with np.load(path) as a, np.load(tmp_path / "compared" / "topology" / path.name) as b:
            assert all(np.array_equal(a[key], b[key]) for key in a)


def test_explored_share_counts_every_edge_once(tmp_path, rng):
    recorder = Recorder(new_run(tmp_path / "run"))
    seen = set()
    for topology in evolving(rng, 12):
        seen |= set(topology["fc1"].edge_ids.tolist())
        assert recorder.explore(topology)["fc1"] == len(seen) / 600


def test_one_process_at_a_time(tmp_path):
    run = new_run(tmp_path / "run")
    with run.lock(), pytest.raises(ValueError, match="another process"), run.lock():
        pass
    with run.lock():
        pass


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="found no folder"):
        History.load(tmp_path / "none")
    with pytest.raises(ValueError, match="is none"):
        History.load(tmp_path)
    run = new_run(tmp_path / "run")
    recorder = Recorder(run)  # after two epochs there is a checkpoint, or was one
    for epoch, topology in enumerate(evolving(np.random.default_rng(0), 2)):
        recorder.write(epoch, {"loss": 1.0}, topology, measures(0.0))
    with pytest.raises(ValueError, match="topokit resume"):
        new_run(tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="choose another --out"):
        new_run(tmp_path / "other")
    (run.path / "record.jsonl").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"record\.jsonl of run .* is damaged"):
        History.load(run.path)


def test_a_failed_write_leaves_the_last_good_state(tmp_path, rng, monkeypatch):
    run = new_run(tmp_path / "run")
    recorder = Recorder(run)
    steps = list(evolving(rng, 3))
    recorder.write(0, {"loss": 1.0}, steps[0], measures(0.0))

    real = os.write

    def full(file, content):
        if len(content) < 20:
            raise OSError(28, "No space left on device")
        return real(file, content[: len(content) // 2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space") as caught:
        recorder.write(1, {"loss": 2.0}, steps[1], measures(1.0))
    assert caught.value.filename.endswith("record.jsonl")
    monkeypatch.undo()
    history = History.load(run.path)
    assert history.epochs["epoch"].tolist() == history.recorded == [0]
    assert not list(run.path.rglob("*.tmp"))


def test_a_folder_renamed_before_the_run_goes_on_has_one_name(tmp_path, rng):
    steps = list(evolving(rng, 4))
    recorder = Recorder(new_run(tmp_path / "old"))
    for epoch in range(2):
        recorder.write(epoch, {"loss": 0.5}, steps[epoch], measures(epoch))
    run = RunDirectory.open((tmp_path / "old").rename(tmp_path / "new"))
    recorder = Recorder(run, upto=1)
    for epoch in range(2, 4):
        recorder.write(epoch, {"loss": 0.5}, steps[epoch], measures(epoch))
    history = History.load(run.path)
    assert set(history.epochs["run"]) == set(history.measures["run"]) == {"new"}
    assert len(history.wide()) == 4
