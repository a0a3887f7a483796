from pathlib import Path

import numpy as np
import pytest
import scipy.io
from scipy.io import savemat

from topokit.data import DATASETS, load_data
from topokit.data.features import isolet_files
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


def isolet_rows(n, first=0):
    """Lines as in the published files, and their values."""
    rng = np.random.default_rng(first)
    x = rng.uniform(-1, 1, (n, 617)).round(4).astype(np.float32)
    y = (first + np.arange(n)) % 26 + 1
    lines = [
        ", ".join(f"{value:.4f}" for value in row) + f", {label}.\n"
        for row, label in zip(x, y, strict=True)
    ]
    return x, y - 1, lines


def write_isolet(folder, sizes=(60, 20)):
    folder.mkdir(exist_ok=True)
    found = []
    for file, n in zip(("isolet1+2+3+4.data", "isolet5.data"), sizes, strict=True):
        x, y, lines = isolet_rows(n, len(found))
        (folder / file).write_text("".join(lines))
        found += [x, y]
    return found


@pytest.mark.parametrize("place", ["isolet", ""])
def test_isolet_has_a_test_part_of_other_speakers(tmp_path, place):
    x, y, x_test, y_test = write_isolet(tmp_path / place)
    load = isolet_files((60, 20))
    data = load(data_dir=tmp_path, rng=seeded(), scale="none")
    for part, expected in (("x_train", x), ("y_train", y), ("x_test", x_test), ("y_test", y_test)):
        assert np.array_equal(getattr(data, part), expected)
    assert (data.n_features, data.n_classes) == (617, 26)
    assert len(load(data_dir=tmp_path, rng=seeded(), n_train=26).y_train) == 26
    standard = load(data_dir=tmp_path, rng=seeded())
    assert np.allclose(standard.x_train.mean(0), 0, atol=1e-5)


def test_isolet_split_at_random(tmp_path):
    x, _, x_test, _ = write_isolet(tmp_path)
    load = isolet_files((60, 20))
    data = load(data_dir=tmp_path, rng=seeded(), scale="none", parts="random")
    assert (len(data.x_train), len(data.x_test)) == (64, 16)
    rows = sorted(map(bytes, np.concatenate([data.x_train, data.x_test])))
    assert rows == sorted(map(bytes, np.concatenate([x, x_test])))
    few = load(data_dir=tmp_path, rng=seeded(), parts="random", n_train=30, n_test=26)
    assert (len(few.x_train), len(few.x_test)) == (30, 26)
    with pytest.raises(ValueError, match="unknown way to divide 'odd'"):
        load(data_dir=tmp_path, rng=seeded(), parts="odd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "59 lines, not 60"),
        (lambda lines: [*lines, lines[0]], "more than 60 lines"),
        (lambda lines: [*lines[:5], lines[5].replace(", ", " "), *lines[6:]], "line 6: 1 values"),
        (lambda lines: [*lines[:5], lines[5][9:], *lines[6:]], "line 6: 617 values, not 618"),
        (lambda lines: [*lines[:5], "7" + lines[5], *lines[6:]], "line 6: '7-0.|line 6: a feature"),
        (
            lambda lines: [*lines[:5], lines[5][:-3] + "27.\n"],
            "line 6: a class that is not in 1..26",
        ),
        (lambda lines: [*lines[:5], lines[5][:-3] + "1.5\n"], "line 6: a class"),
        (
            lambda lines: [*lines[:5], lines[5].replace(", ", ", ?", 1)],
            r"line 6: '\?.*', which is no",
        ),
    ],
)
def test_other_files_of_isolet_are_refused(tmp_path, change, message):
    write_isolet(tmp_path)
    path = tmp_path / "isolet1+2+3+4.data"
    lines = change(path.read_text().splitlines(keepends=True))
    path.write_text(
        "".join([*lines, *isolet_rows(60)[2][len(lines) :]] if len(lines) == 6 else lines)
    )
    with pytest.raises(ValueError, match=message) as caught:
        isolet_files((60, 20))(data_dir=tmp_path, rng=seeded())
    expected = f"{path}: expected 60 rows of 617 features and a class in 1..26, got: "
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_the_published_sizes_of_isolet():
    assert "6,238 + 1,559 spoken letters, 617 features" in DATASETS["isolet"].__doc__
    with pytest.raises(FileNotFoundError, match=r"unpack the \.Z files with gzip -d"):
        load_data("isolet", data_dir=Path("/nowhere"), rng=0)


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
