import numpy as np
import pytest

from topokit.graph import EdgeUpdate, LayerGraph, same_edges, snapshots

SHAPES = {"fc1": (7, 11), "fc2": (5, 7)}


def history(rng, epochs):
    """Topologies whose edges wander, and the epoch in which each edge was born."""
    graphs = {
        name: LayerGraph.from_edge_ids(rng.permutation(a * b)[: a * b // 3], (a, b))
        for name, (a, b) in SHAPES.items()
    }
    births = {name: np.zeros(graph.n_edges, int) for name, graph in graphs.items()}
    found = [(dict(graphs), dict(births))]
    for epoch in range(1, epochs):
        for name, graph in graphs.items():
            absent = np.setdiff1d(np.arange(graph.n_out * graph.n_in), graph.edge_ids)
            dropped = rng.permutation(graph.n_edges)[: epoch % 4]
            update = EdgeUpdate.from_decisions(graph, dropped, absent[: (epoch + 1) % 5])
            graphs[name] = update.after
            births[name] = np.where(update.grown, epoch, update.carry(births[name]))
        found.append((dict(graphs), dict(births)))
    return found


def write(folder, found, start=0):
    last = None
    for epoch, (topology, _) in enumerate(found):
        last = snapshots.append(folder, epoch + start, topology, last)


@pytest.mark.parametrize("start", [0, 3])
def test_every_epoch_is_read_as_it_was(tmp_path, rng, start):
    found = history(rng, 2 * snapshots.KEYFRAME_EVERY + 3)
    write(tmp_path, found, start)
    assert snapshots.recorded(tmp_path) == list(range(start, start + len(found)))
    for epoch, (topology, births) in enumerate(found):
        read = snapshots.load(tmp_path, epoch + start).topology
        assert list(read) == list(topology)
        assert all(same_edges(read[name], graph) for name, graph in topology.items())
        stored = snapshots.load(tmp_path, epoch + start).births
        expected = {name: (start + born).tolist() for name, born in births.items()}
        assert {name: born.tolist() for name, born in stored.items()} == expected


def test_epochs_after_the_last_are_forgotten(tmp_path, rng):
    write(tmp_path, history(rng, 6))
    snapshots.truncate(tmp_path, 3)
    assert snapshots.recorded(tmp_path) == [0, 1, 2, 3]
    snapshots.truncate(tmp_path, -1)
    assert snapshots.recorded(tmp_path) == []
    with pytest.raises(ValueError, match=r"expected a recorded epoch \(none\), got 0"):
        snapshots.load(tmp_path, 0)


def test_epochs_that_were_not_recorded_are_named(tmp_path, rng):
    write(tmp_path, history(rng, 3))
    with pytest.raises(ValueError, match=r"expected a recorded epoch \(0\.\.2\), got 5"):
        snapshots.load(tmp_path, 5)


def test_a_damaged_file_is_named(tmp_path, rng):
    write(tmp_path, history(rng, 3))
    next(p for p in sorted(tmp_path.iterdir()) if "1" in p.name).write_bytes(b"no archive")
    with pytest.raises(ValueError, match="the recorded topology of epoch 1 is damaged"):
        snapshots.load(tmp_path, 2)
    assert snapshots.load(tmp_path, 0)


def test_layers_without_edges(tmp_path):
    empty = {"fc1": LayerGraph.from_edge_ids([], (2, 3))}
    one = {"fc1": LayerGraph.from_edge_ids([5], (2, 3))}
    write(tmp_path, [(empty, {}), (one, {}), (empty, {})])
    edges = [
        snapshots.load(tmp_path, epoch).topology["fc1"].edge_ids.tolist() for epoch in range(3)
    ]
    assert edges == [[], [5], []]
    assert snapshots.load(tmp_path, 1).births["fc1"].tolist() == [1]


def checks_of(folder, found):
    last, checks = None, {}
    for epoch, (topology, _) in enumerate(found):
        last = snapshots.append(folder, epoch, topology, last, run="r")
        checks[epoch] = last.check
    return checks


def test_a_missing_change_is_named_and_nothing_after_it_is_read(tmp_path, rng):
    checks = checks_of(tmp_path, history(rng, 13))
    (tmp_path / "000004.npz").unlink()
    for known in (checks, None):
        for epoch in (5, 9):
            with pytest.raises(ValueError, match="topology of epoch 4 is missing"):
                snapshots.load(tmp_path, epoch, known)
        assert snapshots.load(tmp_path, 3, known)
        assert snapshots.load(tmp_path, 12, known)
    with pytest.raises(ValueError, match="topology of epoch 4 is missing"):
        snapshots.explored(tmp_path, range(13), checks)


def test_files_of_other_epochs_and_of_other_runs_are_refused(tmp_path, rng):
    found, other = history(rng, 13), history(rng, 13)
    checks = checks_of(tmp_path / "a", found)
    others = checks_of(tmp_path / "b", other)
    assert checks[0] != others[0]
    for source, words in (
        (tmp_path / "a" / "000005.npz", "it is that of epoch 5"),
        (tmp_path / "b" / "000003.npz", "does not build on the graphs of epoch 2"),
    ):
        before = (tmp_path / "a" / "000003.npz").read_bytes()
        (tmp_path / "a" / "000003.npz").write_bytes(source.read_bytes())
        with pytest.raises(ValueError, match=words):
            snapshots.load(tmp_path / "a", 4)
        with pytest.raises(ValueError, match="not the file that was written for this epoch"):
            snapshots.load(tmp_path / "a", 4, checks)
        (tmp_path / "a" / "000003.npz").write_bytes(before)
    assert snapshots.load(tmp_path / "a", 4, checks)


def test_explored_edges_are_those_of_any_epoch(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(snapshots, "MANY_IDS", 20)
    found = history(rng, 14)
    checks = checks_of(tmp_path, found)
    seen = snapshots.explored(tmp_path, range(12), checks)
    for name, graph in seen.items():
        ids = {int(i) for topology, _ in found[:12] for i in topology[name].edge_ids}
        assert graph.edge_ids.tolist() == sorted(ids)


def test_groups_of_a_convolution_are_kept(tmp_path):
    one = {"conv": LayerGraph.from_edge_ids([0, 6], (2, 4), groups=2)}
    checks = checks_of(tmp_path, [(one, {}), ({"conv": one["conv"]}, {})])
    for epoch in range(2):
        assert snapshots.load(tmp_path, epoch, checks).topology["conv"].groups == 2
