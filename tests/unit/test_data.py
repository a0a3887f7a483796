import dataclasses
import gzip
import inspect
import struct

import numpy as np
import pytest
from scipy.io import savemat

from topokit import data as module
from topokit.data import DATASETS, Data, load_data
from topokit.samples import SCALES, scaled
from topokit.tables import parameters_of


def equal(a, b):
    names = ("x_train", "y_train", "x_test", "y_test")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def seeded(seed=0):
    return np.random.default_rng(seed)


def write_idx(folder, *, n_train=40, n_test=20, end=".gz", seed=0, side=28):
    """Four small files in the format of MNIST; returns the arrays."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, n in (("train", n_train), ("t10k", n_test)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, side, side), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
    for name, array in arrays.items():
        head = struct.pack(f">{1 + array.ndim}I", 2048 + array.ndim, *array.shape)
        content = head + array.tobytes()
        (folder / (name + end)).write_bytes(gzip.compress(content) if end else content)
    return list(arrays.values())


# --- the container -----------------------------------------------------------------------------


def small(**changes):
    values = {
        "name": "small",
        "x_train": np.ones((3, 2)),
        "y_train": np.array([0, 1, 0]),
        "x_test": np.ones((2, 2)),
        "y_test": np.array([1, 1]),
        "n_classes": 2,
    }
    return Data(**values | changes)


def test_data_has_the_types_models_need():
    data = small()
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    assert data.y_train.dtype == data.y_test.dtype == np.int64
    assert data.x_train.flags.c_contiguous
    assert data.n_features == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": np.array([0, 1])}, r"train part: expected x .* got \(3, 2\) and \(2,\)"),
        ({"x_test": np.ones(2)}, r"test part: expected x .* got \(2,\)"),
        ({"x_test": np.ones((2, 3))}, "as many features in both parts, got 2 and 3"),
        ({"x_test": np.full((2, 2), np.nan)}, "test part: expected finite values"),
        ({"y_test": np.array([1, 2])}, r"test part: expected classes in 0\.\.1, got 1\.\.2"),
        ({"n_classes": 0}, r"expected classes in -1\.\.-1, got 0\.\.1"),
        ({"x_train": np.ones((0, 2)), "y_train": np.ones(0)}, "with n of at least 1"),
    ],
)
def test_data_checks_itself(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


# --- digits ------------------------------------------------------------------------------------


def test_digits_splits_by_seed_and_class():
    data = load_data("digits", rng=seeded())
    assert (data.x_train.shape, data.x_test.shape) == ((1348, 64), (449, 64))
    assert (data.n_classes, data.image_shape) == (10, (8, 8))
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert equal(data, load_data("digits", rng=seeded()))
    assert not equal(data, load_data("digits", rng=seeded(1)))
    share = np.bincount(data.y_test) / np.bincount(np.concatenate([data.y_train, data.y_test]))
    assert np.abs(share - 449 / 1797).max() < 0.006
    rows = np.concatenate([data.x_train, data.x_test])
    everything = DATASETS["digits"](rng=seeded(5), n_train=1796, n_test=1)
    again = np.concatenate([everything.x_train, everything.x_test])
    assert sorted(map(bytes, rows)) == sorted(map(bytes, again))


def test_digits_sizes():
    data = load_data("digits", rng=seeded(), n_train=57, n_test=100)
    assert (len(data.y_train), len(data.y_test)) == (57, 100)
    assert np.bincount(data.y_train).min() >= 5
    with pytest.raises(ValueError, match=r"'digits': expected n_train in 1\.\.1348, got 1349"):
        load_data("digits", rng=seeded(), n_train=1349)
    with pytest.raises(ValueError, match=r"expected n_test in 1\.\.1796, got 1797"):
        load_data("digits", rng=seeded(), n_test=1797)


# --- scaling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_scales_use_the_training_part(rng, scale):
    train, test = rng.integers(0, 256, (500, 4)), rng.integers(0, 256, (50, 4))
    train[:, 3] = test[:, 3] = 7
    a, b = scaled(train, test, scale, 255)
    assert a.dtype == b.dtype == np.float32
    t = train.astype(float)
    expected = {
        "none": lambda x: x,
        "unit": lambda x: x / 255,
        "minmax": lambda x: (x - t.min(0)) / np.where(np.ptp(t, 0), np.ptp(t, 0), 1),
        "standard": lambda x: (x - t.mean(0)) / np.where(t.std(0), t.std(0), 1),
        "global": lambda x: (x - t.mean()) / t.std(),
    }[scale]
    assert np.allclose(a, expected(train), atol=1e-5)
    assert np.allclose(b, expected(test), atol=1e-5)


def test_scaling_in_blocks_is_exact(rng):
    train = rng.normal(1000, 3, (9000, 3))
    a, _ = scaled(train, train[:2], "standard", 1)
    assert np.allclose(a.mean(0), 0, atol=1e-4)
    assert np.allclose(a.std(0), 1, atol=1e-4)


def test_constant_features_do_not_explode():
    train, test = np.full((10_000, 1), 0.1), np.full((2, 1), 0.3)
    assert np.allclose(scaled(train, test, "standard", 1)[1], 0.2)


def test_unknown_scale():
    with pytest.raises(ValueError, match=r"data\.scale: expected one of unit, .*, got 'zscore'"):
        load_data("digits", rng=seeded(), scale="zscore")


# --- images in IDX files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mnist", "mnist"),
        ("mnist", ""),
        ("mnist", "MNIST/raw"),
        ("fashion_mnist", "fashion-mnist"),
        ("fashion_mnist", "fashion_mnist"),
        ("fashion_mnist", ""),
    ],
)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_images_are_read_whole_and_in_order(tmp_path, name, place, end):
    arrays = write_idx(tmp_path / place, end=end)
    rng = seeded()
    state = rng.bit_generator.state
    data = load_data(name, data_dir=tmp_path, rng=rng)
    assert np.allclose(data.x_train, arrays[0].reshape(40, -1) / 255)
    assert np.array_equal(data.y_train, arrays[1])
    assert np.allclose(data.x_test, arrays[2].reshape(20, -1) / 255)
    assert np.array_equal(data.y_test, arrays[3])
    assert (data.name, data.n_classes, data.image_shape) == (name, 10, (28, 28))
    assert rng.bit_generator.state == state


def test_data_dir_from_the_environment(tmp_path, monkeypatch):
    write_idx(tmp_path / "mnist")
    monkeypatch.setenv("TOPOKIT_DATA", str(tmp_path))
    assert load_data("mnist", rng=seeded()).x_train.shape == (40, 784)
    with pytest.raises(FileNotFoundError):
        load_data("mnist", data_dir=tmp_path / "elsewhere", rng=seeded())


def test_subsets(tmp_path):
    arrays = write_idx(tmp_path / "mnist")
    data = load_data("mnist", data_dir=tmp_path, rng=seeded(), n_train=20, n_test=10)
    assert np.bincount(data.y_train).tolist() == [2] * 10
    assert np.bincount(data.y_test).tolist() == [1] * 10
    assert equal(data, load_data("mnist", data_dir=tmp_path, rng=seeded(), n_train=20, n_test=10))
    with pytest.raises(ValueError, match=r"'mnist': expected n_test in 1\.\.20, got 21"):
        load_data("mnist", data_dir=tmp_path, rng=seeded(), n_test=21)

    tutorial = load_data(
        "mnist", data_dir=tmp_path, rng=seeded(), n_train=7, n_test=5, subset="tutorial"
    )
    legacy = np.random.RandomState(0)
    order_train, order_test = np.arange(40), np.arange(20)
    legacy.shuffle(order_train)
    legacy.shuffle(order_test)
    assert np.array_equal(tutorial.y_train, arrays[1][order_train[:7]])
    assert np.array_equal(tutorial.y_test, arrays[3][order_test[:5]])


def test_bad_images(tmp_path):
    folder = tmp_path / "mnist"
    write_idx(folder, side=27)
    with pytest.raises(ValueError, match=r"expected images of 28 x 28 .* shape \(40, 27, 27\)"):
        load_data("mnist", data_dir=tmp_path, rng=seeded())
    write_idx(folder)
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(struct.pack(">II", 2049, 20) + bytes([10] * 20)))
    with pytest.raises(ValueError, match=r"t10k-images.* got shape .* 20 labels up to 10"):
        load_data("mnist", data_dir=tmp_path, rng=seeded())
    labels.write_bytes(gzip.compress(struct.pack(">II", 2049, 19) + bytes(19)))
    with pytest.raises(ValueError, match="and 19 labels up to 0"):
        load_data("mnist", data_dir=tmp_path, rng=seeded())
    labels.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz: expected an intact gzip"):
        load_data("mnist", data_dir=tmp_path, rng=seeded())


# --- what is not there -------------------------------------------------------------------------

WITH_FILES = [
    name
    for name, loader in DATASETS.items()
    if name != "digits"
    and all(p.default is not inspect.Parameter.empty for p in parameters_of(loader).values())
]


@pytest.mark.parametrize("name", WITH_FILES)
def test_a_missing_set_says_what_helps(tmp_path, monkeypatch, name):
    with pytest.raises(FileNotFoundError) as caught:
        load_data(name, data_dir=tmp_path, rng=seeded())
    text = str(caught.value)
    assert text.startswith(f"data set {name!r} not found: looked in {tmp_path}")
    assert "\nExpected: " in text
    assert "Get " in text
    assert text.count("\n") == 1
    with pytest.raises(FileNotFoundError, match=r"none \(.*none is no folder\)|none is no folder"):
        load_data(name, data_dir=tmp_path / "none", rng=seeded())
    monkeypatch.delenv("TOPOKIT_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"--data-dir DIR or in TOPOKIT_DATA \(neither is"):
        load_data(name, rng=seeded())


def test_unknown_set():
    with pytest.raises(
        ValueError, match=r"unknown data set 'mnits'; did you mean 'mnist'\? data sets: "
    ):
        load_data("mnits", rng=seeded())


@pytest.mark.parametrize("name", DATASETS)
def test_loaders_document_themselves(name):
    loader = DATASETS[name]
    doc = inspect.getdoc(loader)
    for section in ("Parameters", "Returns", "References", "Examples"):
        assert f"\n{section}\n---" in doc
    for parameter in parameters_of(loader):
        assert f"{parameter}" in doc
    assert loader.__name__ == name


@pytest.mark.parametrize("name", DATASETS)
def test_examples_of_loaders_run(name):
    import doctest

    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=flags)
    for test in finder.find(DATASETS[name], name, globs=vars(module) | {name: DATASETS[name]}):
        assert runner.run(test).failed == 0


# --- MATLAB files ------------------------------------------------------------------------------


def write_mat(folder, **changes):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (73, 325)).astype(np.int16)
    y = np.repeat(np.arange(1, 8), [6, 5, 5, 16, 7, 13, 21])[:, None].astype(np.uint8)
    path = folder / "lung_small.mat"
    savemat(path, {"X": x, "Y": y} | changes, do_compression=True)
    return path, x, y


def test_mat_is_split_and_standardised(tmp_path):
    write_mat(tmp_path / "lung_small")
    data = load_data("lung_small", data_dir=tmp_path, rng=seeded())
    assert (data.x_train.shape, data.x_test.shape, data.n_classes) == ((49, 325), (24, 325), 7)
    assert np.allclose(data.x_train.mean(0), 0, atol=1e-5)
    assert np.bincount(data.y_train, minlength=7).min() >= 3
    assert equal(data, load_data("lung_small", data_dir=tmp_path, rng=seeded()))


def test_bad_mat(tmp_path):
    path, x, y = write_mat(tmp_path / "lung_small")

    def message():
        with pytest.raises(ValueError) as caught:
            load_data("lung_small", data_dir=tmp_path, rng=seeded())
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    intact = path.read_bytes()
    for content in (b"", b"no mat file" * 50, intact[: len(intact) // 2], intact[:130]):
        path.write_bytes(content)
        assert "expected an intact MATLAB v5 file with X and Y, got " in message()
    write_mat(tmp_path / "lung_small", X=x[:, :-1])
    assert "expected X of shape (73, 325) and 7 classes in Y, got (73, 324) and 7" in message()
    write_mat(tmp_path / "lung_small", Y=y[:-1])
    assert "expected numbers X (n, features) and Y (n, 1)" in message()
    write_mat(tmp_path / "lung_small", X=np.array([["a"], ["b"]], dtype=object))
    assert "expected numbers X" in message()


def test_every_flipped_byte_of_a_mat_is_refused_or_harmless(tmp_path):
    path, _, _ = write_mat(tmp_path / "lung_small")
    intact = path.read_bytes()
    for at in np.linspace(0, len(intact) - 1, 60).astype(int):
        damaged = bytearray(intact)
        damaged[at] ^= 0x55
        path.write_bytes(bytes(damaged))
        try:
            load_data("lung_small", data_dir=tmp_path, rng=seeded())
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017


# --- the real files ----------------------------------------------------------------------------

REAL = {
    "mnist": ((60_000, 784), (10_000, 784), 10),
    "fashion_mnist": ((60_000, 784), (10_000, 784), 10),
    "madelon": ((2000, 500), (600, 500), 2),
    "pcmac": ((1554, 3289), (389, 3289), 2),
    "basehock": ((1594, 4862), (399, 4862), 2),
    "tox_171": ((114, 5748), (57, 5748), 4),
    "lung_small": ((49, 325), (24, 325), 7),
}


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_real_files(data_dir, name):
    data = load_data(name, data_dir=data_dir, rng=seeded())
    assert (data.x_train.shape, data.x_test.shape, data.n_classes) == REAL[name]


@pytest.mark.data
def test_real_mnist_has_the_published_counts(data_dir):
    data = load_data("mnist", data_dir=data_dir, rng=seeded())
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(data.y_train).tolist() == train
    assert np.bincount(data.y_test).tolist() == test
    assert data.x_train.mean() == pytest.approx(0.1307, abs=1e-4)
    assert data.x_train.std() == pytest.approx(0.3081, abs=1e-4)
