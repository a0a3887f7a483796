import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.measures import measure

DENSE = LayerGraph.from_edge_ids(range(12), (3, 4))


def test_the_error_for_unknown_names_gives_the_nearest():
    with pytest.raises(
        ValueError, match=r"unknown measure 'spectralgap'; did you mean 'spectral_gap'"
    ):
        measure({"fc1": DENSE}, ["spectralgap"])
    with pytest.raises(ValueError, match=r"unknown field 'alhpa' of measure 'power_law'.*'alpha'"):
        measure({"fc1": DENSE}, ["power_law.alhpa"])
    with pytest.raises(ValueError, match=r"unknown field 'x' of measure 'turnover'; fields: none"):
        measure({"fc1": DENSE}, ["turnover.x"])


def test_fields_and_wholes_mix():
    frame = measure({"fc1": DENSE}, ["fan_in.mean", "giant_share"])
    assert frame["measure"].tolist() == ["fan_in.mean", "giant_share", "giant_share"]
    assert frame["value"].tolist() == [4.0, 1.0, 1.0]


def test_changes_need_a_previous_layer_of_the_same_shape():
    old = {"fc1": LayerGraph.from_edge_ids([0, 1], (3, 4)), "fc2": DENSE}
    new = {"fc1": LayerGraph.from_edge_ids([0, 2], (3, 4))}
    assert measure(new, ["turnover"], previous=old)["value"].tolist() == [0.5]
    assert measure(new, ["turnover"]).empty
    assert measure({"fc1": DENSE, "fc9": DENSE}, "turnover", previous={"fc9": DENSE})[
        "layer"
    ].tolist() == ["fc9"]


def test_network_values_follow_the_graphs_given():
    empty = LayerGraph.from_edge_ids([], (2, 3))
    first = measure({"fc1": DENSE, "fc2": empty}, ["components"])["value"].iloc[-1]
    full = LayerGraph.from_edge_ids(range(6), (2, 3))
    second = measure({"fc1": DENSE, "fc2": full}, ["components"])["value"].iloc[-1]
    assert (first, second) == (3.0, 1.0)


def test_unchained_layers_have_nan_network_rows():
    frame = measure({"a": DENSE, "b": DENSE}, ["algebraic_connectivity"])
    assert np.isnan(frame["value"].iloc[-1])
