"""Sparse samples: the same results as dense ones, and batches that are made dense one at a time."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.io import savemat

import topokit as tk
from topokit.data import DATASETS, Data
from topokit.data.features import mat_features
from topokit.data.samples import scaled
from topokit.experiments.samples import Samples
from topokit.nn.initial_topology import snip


def pair(n=60, n_features=30, n_classes=3, seed=0):
    """The same data, dense and sparse."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 9, (n, n_features)) * (rng.random((n, n_features)) < 0.2)
    y = rng.integers(0, n_classes, n)
    cut = n * 2 // 3
    parts = (x[:cut], y[:cut], x[cut:], y[cut:])
    dense = Data("counts", *parts, n_classes)
    few = (sp.csr_array(x[:cut]), y[:cut], sp.coo_array(x[cut:]), y[cut:])
    return dense, Data("counts", *few, n_classes)


def test_sparse_samples_are_checked_and_kept():
    dense, few = pair()
    for part in ("x_train", "x_test"):
        found = getattr(few, part)
        assert isinstance(found, sp.csr_array)
        assert found.dtype == np.float32
        assert np.array_equal(found.toarray(), getattr(dense, part))
    assert repr(few) == repr(dense)
    assert few.n_features == dense.n_features
    x, y = few.x_train, few.y_train
    bad = x.copy()
    bad.data[3] = np.inf
    with pytest.raises(ValueError, match="train part: expected finite values"):
        Data("bad", bad, y, x, y, 3)
    with pytest.raises(
        ValueError, match=r"expected x \(n, n_features\) .*, got \(39, 30\) and \(40,"
    ):
        Data("bad", x[:39], y, x, y, 3)
    with pytest.raises(ValueError, match="expected dense images to augment"):
        Data("bad", x, y, x, y, 3, (5, 6), augment="crop_flip")


def test_checksums_of_sparse_samples_show_every_change():
    _, few = pair()
    x, y = few.x_train, few.y_train

    def checksum(x):
        return Data("counts", x, y, few.x_test, few.y_test, 3).checksum()

    assert checksum(x) == few.checksum()
    wide = sp.csr_array((x.data, x.indices.astype(np.int64), x.indptr.astype(np.int64)), x.shape)
    assert checksum(wide) == few.checksum()
    mixed = x.copy()
    for i in range(x.shape[0]):
        row = slice(x.indptr[i], x.indptr[i + 1])
        mixed.indices[row] = mixed.indices[row][::-1]
        mixed.data[row] = mixed.data[row][::-1]
    mixed = sp.csr_array((mixed.data, mixed.indices, mixed.indptr), x.shape)
    assert checksum(mixed) == few.checksum()
    for change in (x * np.float32(2), x[:, ::-1], x[::-1]):
        assert checksum(change) != few.checksum()


COUNTS = arrays(
    np.int8, st.tuples(st.integers(2, 8), st.integers(1, 5)), elements=st.integers(0, 3)
)


@given(COUNTS, st.integers(1, 7), st.sampled_from(["none", "unit", "minmax"]), st.booleans())
def test_scaled_sparse_samples_equal_dense_ones(x, cut, scale, negative):
    cut = min(cut, len(x) - 1)
    x = x - 2 * negative
    dense = scaled(x[:cut], x[cut:], scale, 3)
    few = scaled(sp.csr_array(x[:cut]), sp.csr_array(x[cut:]), scale, 3)
    for expected, found in zip(dense, few, strict=True):
        assert np.array_equal(found.toarray(), expected)


def test_samples_given_to_scaled_stay_as_they_are():
    x = sp.csr_array(np.arange(12.0).reshape(4, 3))
    before = x.toarray()
    scaled(x, x, "minmax", 1)
    assert np.array_equal(x.toarray(), before)


def test_snip_finds_the_same_edges():
    dense, few = pair()
    options = {"widths": [30, 20, 3], "density": [0.1, 0.5], "samples": 20}
    for data in (dense, few):
        graphs = snip(data.x_train, data.y_train, rng=np.random.default_rng(0), **options)
        first = graphs if data is dense else first  # noqa: F821  (set in the first round)
    assert all(np.array_equal(first[k].edge_ids, graphs[k].edge_ids) for k in first)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The configuration of a run on word counts in a MATLAB file, with more settings."""
    rng = np.random.default_rng(0)
    x = (rng.integers(1, 9, (80, 50)) * (rng.random((80, 50)) < 0.2)).astype(np.uint8)
    savemat(tmp_path / "small.mat", {"X": x, "Y": 1 + (np.arange(80) % 2)[:, None]})
    loader = mat_features("small", "small.mat", (80, 50), 2, 20, "no paper")
    monkeypatch.setitem(DATASETS, "small", loader)

    def config(*more):
        settings = ["data.name=small", "data.scale=minmax", "model.widths=[50,20,2]", "epochs=3"]
        settings += ["batch_size=20", "measures.names=[]", "topology.epsilon=4", *more]
        return tk.load_recipe("set_mlp_pcmac").override(settings)

    return config


@pytest.mark.parametrize("rule", ["set", "rigl", "ctre_sim"])
def test_a_run_on_sparse_samples_equals_one_on_dense_ones(tmp_path, small, rule):
    found = []
    for storage in ("dense", "sparse"):
        config = small(f"data.storage={storage}", f"rule.name={rule}")
        found.append(tk.run(config, tmp_path / storage, data_dir=tmp_path))
    dense, few = found
    columns = ["train_loss", "test_loss", "test_accuracy"]
    assert dense.epochs[columns].equals(few.epochs[columns])
    last = dense.topology(-1), few.topology(-1)
    assert all(np.array_equal(last[0][k].edge_ids, last[1][k].edge_ids) for k in last[0])


def test_a_run_on_sparse_samples_resumes(tmp_path, small, monkeypatch):
    config = small("data.storage=sparse")
    whole = tk.run(config, tmp_path / "whole", data_dir=tmp_path)

    def stop(epoch, *rest):
        if epoch.index == 1:
            raise KeyboardInterrupt

    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        tk.run(config, part, data_dir=tmp_path, progress=stop)
    again = tk.resume(part, data_dir=tmp_path)
    assert again.recorded == [0, 1, 2]
    assert again.epochs["train_loss"].equals(whole.epochs["train_loss"])


def test_batches_are_made_dense_one_at_a_time():
    x = sp.random_array((4000, 20_000), density=5e-4, rng=np.random.default_rng(0), format="csr")
    data = Data("wide", x, np.zeros(4000), x[:10], np.zeros(10), 1)  # dense: 320 MB
    samples, _ = Samples.of(data, "cpu")
    total = 0.0
    tracemalloc.start()
    for batch in samples.shuffled(50, np.random.default_rng(0)):
        assert batch.x.shape == (50, 20_000)
        total += float(batch.x.double().sum())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == pytest.approx(data.x_train.sum(dtype=np.float64), rel=1e-6)
    assert peak < 4 * 50 * 20_000 * 4


@pytest.mark.data
def test_real_word_counts_are_stored_as_sparse(data_dir):
    for name in ("pcmac", "basehock"):
        options = {"data_dir": data_dir, "rng": np.random.default_rng(0), "scale": "minmax"}
        dense = DATASETS[name](**options)
        few = DATASETS[name](**options | {"rng": np.random.default_rng(0)}, storage="sparse")
        assert np.array_equal(few.x_train.toarray(), dense.x_train)
        assert few.x_train.nnz < 0.02 * dense.x_train.size
