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
