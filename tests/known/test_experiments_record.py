"""Changes that a record in memory measures."""

import pytest

from topokit.experiments.record import Recording
from topokit.graph import LayerGraph


def test_an_epoch_kept_again_is_compared_with_the_one_before_it():
    recording = Recording(measures=["turnover"])
    for epoch, ids in ((0, [0, 1, 2, 3]), (1, [0, 1, 2, 4]), (1, [0, 1, 4, 5])):
        recording.keep(epoch, {"fc1": LayerGraph.from_edge_ids(ids, (2, 3))})
    found = recording.measures.query("epoch == 1 and measure == 'turnover'")["value"].tolist()
    assert found == pytest.approx([1 / 2])
    assert recording.recorded == [0, 1]
