import numpy as np
import pytest
import scipy.io
from scipy.io import savemat

from topokit.data import load_data
from topokit.data.mat import read_mat


def equal(a, b):
    names = ("x_train", "y_train", "x_test", "y_test")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def seeded(seed=0):
    return np.random.default_rng(seed)


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
        assert "expected an intact MATLAB v5 file with X and Y, got: " in message()
    write_mat(tmp_path / "lung_small", X=x[:, :-1])
    assert "expected X of shape (73, 325) and 7 classes in Y, got (73, 324) and 7" in message()
    write_mat(tmp_path / "lung_small", Y=y[:-1])
    assert "expected numbers X (n, features) and Y (n, 1)" in message()
    write_mat(tmp_path / "lung_small", X=np.array([["a"], ["b"]], dtype=object))
    assert "got: X not a full real array of numbers" in message()


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


def test_mushrooms(tmp_path, rng):
    folder = tmp_path / "mushrooms"
    folder.mkdir()
    rows = {part: rng.integers(0, 2, (n, 112)) for part, n in (("train", 30), ("test", 20))}
    for part, x in rows.items():
        np.savetxt(folder / f"mushrooms.{part}.data", x, fmt="%d", delimiter=",")
    data = load_data("mushrooms", data_dir=tmp_path, rng=seeded())
    assert np.array_equal(data.x_train, rows["train"])
    assert np.array_equal(data.x_test, rows["test"])
    assert data.n_classes == 0
    assert set(data.y_train) == set(data.y_test) == {-1}
    assert load_data("mushrooms", data_dir=tmp_path, rng=seeded(), n_train=7).x_train.shape[0] == 7
    path = folder / "mushrooms.train.data"
    for text, message in (
        ("0,1\n1,0\n", "expected 112 columns of 0 and 1, got 2 columns"),
        (",".join(["2"] * 112), "expected 112 columns of 0 and 1"),
        ("0,1,x\n", "expected rows of 0 and 1, got: "),
        ("0,1\n0\n", "expected rows of 0 and 1, got: "),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"mushrooms\.train\.data: {message}"):
            load_data("mushrooms", data_dir=tmp_path, rng=seeded())


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_of_mat_files_equal_those_of_scipy(tmp_path, rng, compressed):
    arrays = {
        "X": rng.integers(0, 200, (7, 5)).astype(np.float64),
        "Y": rng.integers(0, 3, (7, 1)).astype(np.uint8),
        "F": rng.random((3, 4)).astype(np.float32),
        "text": "a string",
        "cell": np.array([1, "a"], object),
    }
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, arrays, do_compression=compressed)
    found = read_mat(path, ("X", "Y", "F"))
    expected = scipy.io.loadmat(path)
    assert all(np.array_equal(found[name], expected[name]) for name in ("X", "Y", "F"))
    with pytest.raises(ValueError, match="text not a full real array of numbers"):
        read_mat(path, ("text",))


def test_a_mat_file_that_unpacks_to_much_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"X": np.zeros((1000, 1000))}, do_compression=True)
    monkeypatch.setattr("topokit.foreign.LIMIT", 2**20)
    with pytest.raises(ValueError, match="unpacks to 8,0"):
        read_mat(path, ("X",))
