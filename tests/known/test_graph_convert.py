"""What is read where a run stands for its last topology."""

import pytest

from topokit.experiments.record import Recording
from topokit.graph import LayerGraph
from topokit.graph.convert import topology_and_previous
from topokit.measures import measure

EPOCHS = ([0, 1, 2], [0, 1, 5], [0, 4, 5], [3, 4, 5])


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_a_run_is_its_last_topology_and_changes_since_the_one_before(epochs):
    recording = Recording()
    for epoch, ids in enumerate(EPOCHS[:epochs]):
        recording(epoch, {"fc1": LayerGraph.from_edge_ids(ids, (2, 3))})
    topology, previous = topology_and_previous(recording)
    assert topology["fc1"].edge_ids.tolist() == EPOCHS[epochs - 1]
    if epochs == 1:
        assert previous is None
    else:
        assert previous["fc1"].edge_ids.tolist() == EPOCHS[epochs - 2]
        (turnover,) = measure(recording, ["turnover"])["value"]
        assert turnover == pytest.approx(1 / 3)


def test_a_run_without_epochs_is_refused():
    with pytest.raises(ValueError, match="run empty has not recorded an epoch yet"):
        topology_and_previous(Recording(name="empty"))
