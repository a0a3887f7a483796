import gc
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

from topokit.graph import LayerGraph
from topokit.graph.convert import load_topology, save_topology
from topokit.read import RUN_MEASURES, read_topologies, run_rows

pytestmark = pytest.mark.slow


@pytest.fixture
def saved(tmp_path):
    rng = np.random.default_rng(0)
    mask = rng.random((30, 40)) < 0.2
    graph = LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)
    save_topology(tmp_path / "topology.npz", {"fc1": graph})
    sp.save_npz(tmp_path / "matrix.npz", graph.to_csr())
    return tmp_path


def damaged(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "flipped":
        for at in range(80, len(data) - 200, 37):
            data[at] ^= 0xFF
    else:
        data = bytearray(b"PK\x03\x04" + b"\0" * 60)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["topology.npz", "matrix.npz"])
@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
def test_damaged_files_are_named_and_closed(saved, name, how):
    damaged(saved / name, how)
    for read in (lambda: read_topologies(saved / name), lambda: load_topology(saved / name)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=name):
                read()
            gc.collect()


def test_whole_files_are_read(saved):
    one, previous, about = read_topologies(saved / "topology.npz")
    two, _, _ = read_topologies(saved / "matrix.npz")
    assert previous is None
    assert about == {"kind": "npz", "notes": []}
    np.testing.assert_array_equal(one["fc1"].edge_ids, two["matrix"].edge_ids)


@pytest.mark.parametrize("name", RUN_MEASURES)
def test_what_is_no_run_has_no_past(saved, name):
    with pytest.raises(ValueError, match=f"{name} needs the epochs of a run directory"):
        run_rows(saved / "topology.npz", [name])
