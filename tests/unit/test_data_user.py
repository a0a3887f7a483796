import urllib.error
import warnings

import numpy as np
import pytest

from topokit.data import load_data
from topokit.foreign import ReadingNote


def equal(a, b):
    names = ("x_train", "y_train", "x_test", "y_test")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def seeded(seed=0):
    return np.random.default_rng(seed)


def test_csv(tmp_path, monkeypatch):
    lines = [f"{i}, {2 * i}, {'cat' if i % 3 else 'dog'}" for i in range(30)][::-1]
    (tmp_path / "points.csv").write_text("\n".join(["a, b, kind", *lines]))
    data = load_data("csv", data_dir=tmp_path, rng=seeded(), path="points.csv", scale="none")
    assert (data.x_train.shape, data.x_test.shape, data.n_classes) == ((24, 2), (6, 2), 2)
    assert np.array_equal(data.y_train, (data.x_train[:, 0] % 3 == 0).astype(int))
    by_name = load_data("csv", rng=seeded(), path=str(tmp_path / "points.csv"), label="kind")
    assert equal(by_name, load_data("csv", data_dir=tmp_path, rng=seeded(), path="points.csv"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare.csv").write_text("\n".join(f"{i % 2},{2 * i}" for i in range(20)))
    bare = load_data("csv", rng=seeded(), path="bare.csv", label=0, header=False, scale="none")
    assert np.array_equal(bare.y_test, bare.x_test[:, 0] // 2 % 2)


@pytest.mark.parametrize(
    ("text", "params", "message"),
    [
        ("a,b\n1,0\n2,1\n", {"label": "c"}, "unknown column 'c'; columns: a, b"),
        ("a,b\n1,0\n2,1\n", {"label": 2}, r"data\.label: expected a column in 0\.\.1, got 2"),
        (
            "a,b\nx,0\ny,1\n",
            {},
            r"points\.csv: .* got: 'x' in row 1 of the data, column 'a', no number; leave",
        ),
        ("a,b\n1,0\n,1\n", {}, r"points\.csv: .* no value in row 2 of the data, column 'a'"),
        ("", {}, r"points\.csv: expected a table .*, got: an empty file"),
        (
            "a,b\n1,2,3,4\n5\n6,7,8,9,10\n",
            {},
            r"points\.csv: expected a table .*, got: 2 values in the first line and 4 in the next",
        ),
        (
            "a,b\n2,0.5\n2,1.5\n3,0.5\n4,1.5\n",
            {},
            "expected classes as labels, got numbers such as",
        ),
        ("a,b\n1,0\n2,0\n", {}, "expected 2 to 2 classes among 2 labels, got 1"),
        ("a,b\n2,0\n2,1\n3,2\n4,3\n5,4\n6,5\n", {}, "2 to 3 classes among 6 labels, got 6"),
    ],
)
def test_bad_csv(tmp_path, text, params, message):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_data("csv", data_dir=tmp_path, rng=seeded(), path="points.csv", **params)


@pytest.mark.parametrize("name", ["csv", "npz"])
def test_missing_files(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"data\.path: expected a file, found none at "):
        load_data(name, data_dir=tmp_path, rng=seeded(), path="none")


def test_npz(tmp_path, rng):
    x, y = rng.random((30, 4, 2)), np.array(["a", "b", "c"] * 10)
    np.savez(tmp_path / "points.npz", x=x, y=y)
    data = load_data("npz", data_dir=tmp_path, rng=seeded(), path="points.npz")
    assert (data.x_train.shape, data.x_test.shape, data.n_classes) == ((24, 8), (6, 8), 3)
    np.savez(tmp_path / "parts.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    data = load_data("npz", data_dir=tmp_path, rng=seeded(), path="parts.npz")
    assert np.allclose(data.x_train, x[:20].reshape(20, 8))
    assert np.array_equal(data.y_test, np.array([0, 1, 2] * 10)[20:])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"x": np.ones((4, 2))},
            r"expected an intact \.npz with x, y or x_train, .*, got: arrays x$",
        ),
        ({"x": np.ones((4, 2)), "y": np.ones(3)}, "as many labels as samples, got 3 in y and 4"),
        ({"x": np.ones(4), "y": np.ones(4)}, r"got x float64 \(4,\)"),
        ({"x": np.array([["a"]] * 4), "y": np.ones(4)}, r"got x <U1 \(4, 1\)"),
        (
            {"x": np.ones((4, 1)), "y": np.array([{}] * 4)},
            "expected an intact .npz .* Python objects, which are not unpickled",
        ),
    ],
)
def test_bad_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "points.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_data("npz", data_dir=tmp_path, rng=seeded(), path="points.npz")


def test_an_npy_file_is_refused(tmp_path):
    np.save(tmp_path / "points.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"points\.npy: expected an intact \.npz"):
        load_data("npz", data_dir=tmp_path, rng=seeded(), path="points.npy")


def test_openml(monkeypatch, rng):
    import sklearn.datasets

    asked = {}

    def fetch(name, **options):
        asked.update(options, name=name)
        return rng.random((40, 3)), np.array(["yes", "no"] * 20)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    data = load_data("openml", rng=seeded(), dataset="phoneme", version=1)
    assert (data.x_train.shape, data.x_test.shape, data.n_classes) == ((32, 3), (8, 3), 2)
    assert (asked["name"], asked["version"]) == ("phoneme", 1)

    def offline(name, **options):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", offline)
    with pytest.raises(FileNotFoundError, match="'phoneme' is not on this machine") as e:
        load_data("openml", rng=seeded(), dataset="phoneme")
    assert "\n" not in str(e.value)


def table(rng, n=12):
    import pandas as pd

    frame = pd.DataFrame({"a": rng.random(n), "b": rng.random(n), "kind": np.arange(n) % 2})
    return frame.sort_values("kind", ignore_index=True)


def load_csv(folder, **params):
    return load_data("csv", data_dir=folder, rng=seeded(), path="points.csv", **params)


def test_a_column_that_numbers_the_rows_is_refused(tmp_path, rng):
    path, frame = tmp_path / "points.csv", table(rng)
    named = frame.rename_axis("id")
    shuffled = frame.sample(frac=1, random_state=0)
    sparse = frame.set_index(rng.permutation(1000)[:12]).rename_axis("ID")
    for index in (frame, named, frame.set_index(np.arange(1, 13)), shuffled, sparse):
        index.to_csv(path)
        with pytest.raises(ValueError, match=r"numbers the rows; .*index=False.*data.drop=\["):
            load_csv(tmp_path)
        drop = index.index.name or 0
        assert load_csv(tmp_path, drop=[drop]).n_features == 2
    frame.to_csv(path, header=False)
    with pytest.raises(ValueError, match="a first column without a name that numbers the rows"):
        load_csv(tmp_path, header=False)
    for place in (0, 1, 2):  # under any name, at any place
        counted = frame.copy()
        counted.insert(place, "t", np.arange(12.0))
        counted.to_csv(path, index=False)
        words = r"a column 't' that numbers .*data.drop=\[\"t\"\]; if it is a feature, shuffle"
        with pytest.raises(ValueError, match=words):
            load_csv(tmp_path)
    counted.sample(frac=1, random_state=0).to_csv(path, index=False)
    assert load_csv(tmp_path).n_features == 3
    with pytest.raises(ValueError, match="unknown column 'z'"):
        load_csv(tmp_path, drop=["z"])
    path.write_text("a b kind\n" + "\n".join(f"{i} {i * i} 0.5 {i % 2}" for i in range(9)))
    with pytest.raises(ValueError, match="3 values in the first line and 4 in the next"):
        load_csv(tmp_path)
    path.write_text("a,b,kind\n" + "\n".join(f"{i},{i * i},0.5,{i % 2}" for i in range(9)))
    with pytest.raises(ValueError, match="3 values in the first line and 4 in the next: a decimal"):
        load_csv(tmp_path)
    path.write_text("a,b\n" + "1.5,0\n2,1\n" * 20 + "1,2,3\n")
    with pytest.raises(ValueError, match=r"expected a table of numbers .* line 42"):
        load_csv(tmp_path)


def test_separators_are_recognised_and_said(tmp_path, rng):
    path, frame = tmp_path / "points.csv", table(rng)
    frame.to_csv(path, index=False)
    plain = load_csv(tmp_path)
    for separator, decimal, words in (
        (";", ".", "read with semicolons as separators$"),
        (";", ",", "semicolons as separators, decimal commas$"),
        ("\t", ".", "tabs as separators$"),
        ("\t", ",", "tabs as separators, decimal commas$"),
        ("|", ".", "vertical bars as separators$"),
        (" ", ".", "spaces as separators$"),
    ):
        frame.to_csv(path, index=False, sep=separator, decimal=decimal)
        with pytest.warns(ReadingNote, match=words):
            data = load_csv(tmp_path)
        assert np.array_equal(data.x_train, plain.x_train)
        assert words[:-1].removeprefix("read with ") in data.source
    assert "as separators" not in plain.source
    frame.rename(columns={"a": "price, EUR"}).to_csv(path, index=False, sep=";")
    with pytest.warns(ReadingNote, match="semicolons"):
        assert load_csv(tmp_path).n_features == 2


@pytest.mark.parametrize("names", [[], ["size kind"]])
def test_as_many_decimal_commas_in_every_row_do_not_separate(tmp_path, rng, names):
    rows = [f"{i * 7 % 13},5 {i % 2}" for i in range(30)]
    (tmp_path / "t.txt").write_text("\n".join([*names, *rows]))
    with pytest.warns(ReadingNote, match="spaces as separators"):
        data = load_data("csv", data_dir=tmp_path, rng=rng, path="t.txt", scale="none")
    assert set(data.x_train.ravel() % 1) == {0.5}
    assert data.n_classes == 2


@pytest.mark.parametrize("between", [",", ", ", " , ", " ,"])
def test_commas_with_spaces_around_them_separate(tmp_path, rng, between):
    rows = [f"{i * 7 % 13}{between}{i % 5}{between}{i % 2}" for i in range(30)]
    (tmp_path / "t.txt").write_text("\n".join(rows))
    with pytest.warns(ReadingNote):
        data = load_data("csv", data_dir=tmp_path, rng=rng, path="t.txt")
    assert data.n_features == 2


@pytest.mark.parametrize(("text", "drop"), [("a\n1\n2\n1\n2\n", ()), ("a,b\n1,0\n2,1\n", ("a",))])
def test_a_single_column_is_refused(tmp_path, text, drop):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(ValueError, match=r"points\.csv: .*, got: a single column"):
        load_csv(tmp_path, drop=drop)


def test_several_spaces_separate_once(tmp_path, rng):
    path, frame = tmp_path / "points.csv", table(rng)
    frame.to_csv(path, index=False)
    plain = load_csv(tmp_path)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("".join(f"  {'   '.join(cells)}  \n" for cells in lines))
    with pytest.warns(ReadingNote, match="spaces as separators"):
        assert np.array_equal(load_csv(tmp_path).x_train, plain.x_train)
    path.write_text(path.read_text() + "1 2\n")
    with pytest.raises(ValueError, match="expected a table of numbers"):
        load_csv(tmp_path)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["1,234", "2,345", "987"], "may be a decimal point or divide thousands"),
        (
            ["1.234,5", "2.345,6", "7"],
            "'1.234,5' in row 1 .* a number with a comma; save the table",
        ),
        (
            ["0,5", "x", "7"],
            "'0,5' in row 1 of the data, column 'a', no number, a number with a comma",
        ),
        (["5", "x", "7"], "'x' in row 2 of the data, column 'a', no number; leave"),
    ],
)
def test_commas_that_are_not_clear_are_refused_in_words(tmp_path, cells, words):
    rows = [f"{cell};{i % 2}" for i, cell in enumerate(cells * 3)]
    (tmp_path / "points.csv").write_text("\n".join(["a;kind", *rows]))
    with pytest.raises(ValueError, match=words):
        load_csv(tmp_path)
    quoted = [f'"1,5",{i % 2}' for i in range(9)]
    (tmp_path / "points.csv").write_text("\n".join(["a,kind", *quoted]))
    with pytest.raises(ValueError, match=r"'1,5' in row 1 .* a number with a comma"):
        load_csv(tmp_path)


def test_headers_are_guessed_and_said(tmp_path, rng):
    path, frame = tmp_path / "points.csv", table(rng)
    frame.to_csv(path, index=False)
    plain = load_csv(tmp_path)
    words = frame.assign(kind=np.where(frame["kind"], "cat", "dog"))
    for content in (frame, words):
        content.to_csv(path, index=False, header=False)
        with pytest.warns(ReadingNote, match="points.csv: read with no line of names"):
            data = load_csv(tmp_path)
        assert data.x_train.shape == plain.x_train.shape
        assert load_csv(tmp_path, header=False).n_features == 2
        with pytest.raises(ValueError, match=r"first line of numbers .*data.header=false"):
            load_csv(tmp_path, header=True)
        content.to_csv(path, index=False)
        assert load_csv(tmp_path).n_features == 2
        with pytest.raises(ValueError, match=r"first line of names; set data.header=true"):
            load_csv(tmp_path, header=False)
    frame.set_axis([0, 1, 2], axis=1).to_csv(path, index=False)
    with pytest.warns(ReadingNote, match="the first line as names"):
        assert load_csv(tmp_path).n_features == 2
    words.set_axis(["0", "1", "kind"], axis=1).to_csv(path, index=False)
    assert load_csv(tmp_path).n_features == 2
    path.write_text(",1.5,0\n" + "0.5,1.5,1\n2,3,0\n" * 5)  # a missing value, not a name
    with pytest.raises(ValueError, match="no value in row 1 of the data, column '0'"):
        load_csv(tmp_path)
    for content in (b"a,b\0\n1,2\n", b",".join([b"a"] * 100_001) + b"\n", b"\xff\xfe\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected a table of numbers"):
            load_csv(tmp_path)


def test_the_column_of_labels_is_found_by_name_or_is_the_last(tmp_path, rng):
    path, frame = tmp_path / "points.csv", table(rng)
    frame.to_csv(path, index=False)
    plain = load_csv(tmp_path)
    for name in ("label", "Class", "target", "y"):
        frame[["kind", "a", "b"]].rename(columns={"kind": name}).to_csv(path, index=False)
        with pytest.warns(ReadingNote, match=f"read with the column '{name}' as labels"):
            assert equal(load_csv(tmp_path), plain)
        assert equal(load_csv(tmp_path, label=name), plain)
        assert equal(load_csv(tmp_path, label=0), plain)
    frame.rename(columns={"a": "y", "b": "class"}).to_csv(path, index=False)
    assert equal(load_csv(tmp_path), plain)


@pytest.mark.parametrize("value", ["inf", "1e300"])
def test_numbers_that_are_not_finite_are_refused_with_the_file(tmp_path, value):
    (tmp_path / "points.csv").write_text("a,b\n" + f"{value},0\n2,1\n" * 5)
    np.savez(tmp_path / "points.npz", x=np.full((10, 2), float(value)), y=np.arange(10) % 2)
    with np.errstate(all="ignore"):
        for name in ("csv", "npz"):
            with pytest.raises(ValueError, match=rf"points.{name}: expected .* finite values"):
                load_data(name, data_dir=tmp_path, rng=seeded(), path=f"points.{name}")


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("drop", [[0], [1, 4], [-1], ["b"]])
def test_the_position_of_the_labels_counts_the_columns_left_out(tmp_path, rng, header, drop):
    rows = [f"{rng.random():.3f},{i % 4},{i % 2},{rng.random():.3f},{i % 4}" for i in range(24)]
    (tmp_path / "points.csv").write_text("\n".join(["a,b,c,d,e"] * header + rows))
    drop = drop if header else [1 if column == "b" else column for column in drop]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReadingNote)  # no line of names
        for label in (2, -3):
            data = load_csv(tmp_path, label=label, drop=drop)
            assert (data.n_classes, data.n_features) == (2, 4 - len(drop))
        with pytest.raises(ValueError, match=r"data\.drop leaves out the column of labels"):
            load_csv(tmp_path, label=2, drop=[2])


def test_white_space_around_labels_is_none_of_them(tmp_path, rng):
    kinds = np.array(["cat", "cat ", "dog", " dog"] * 6)
    rows = [f"{rng.random():.3f},{kind}" for kind in kinds]
    (tmp_path / "points.csv").write_text("\n".join(["a,kind", *rows]))
    assert load_csv(tmp_path).n_classes == 2
    for y in (kinds, kinds.astype(np.bytes_)):
        np.savez(tmp_path / "points.npz", x=rng.random((24, 1)), y=y)
        assert load_data("npz", data_dir=tmp_path, rng=seeded(), path="points.npz").n_classes == 2


@pytest.mark.parametrize(
    ("y_train", "y_test", "message"),
    [
        (np.arange(20) / 3, np.arange(10) % 2, "expected classes as labels, got numbers such as"),
        (np.arange(20) % 2, np.arange(10) / 3, "expected classes as labels, got numbers such as"),
        (np.r_[np.nan, np.arange(19) % 2], np.arange(10) % 2, "numbers such as nan"),
        (np.r_[np.inf, np.arange(19) % 2], np.arange(10) % 2, "numbers such as inf"),
        (np.zeros(20), np.zeros(10), "expected 2 to 15 classes among 30 labels, got 1"),
        (np.arange(20), np.arange(10), "expected 2 to 15 classes among 30 labels, got 20"),
        (np.arange(20) % 2, np.array(["0", "1"] * 5), "labels of one kind .* int64 and <U1"),
    ],
)
def test_labels_of_a_given_split_are_checked_as_others(tmp_path, y_train, y_test, message):
    x = {"x_train": np.ones((20, 2)), "x_test": np.ones((10, 2))}
    np.savez(tmp_path / "points.npz", **x, y_train=y_train, y_test=y_test)
    with pytest.raises(ValueError, match=message):
        load_data("npz", data_dir=tmp_path, rng=seeded(), path="points.npz")


def test_classes_without_training_samples_are_noted(tmp_path):
    x = {"x_train": np.ones((20, 2)), "x_test": np.ones((10, 2))}
    np.savez(tmp_path / "points.npz", **x, y_train=np.arange(20) % 2, y_test=np.arange(10) % 2 + 1)
    with pytest.warns(ReadingNote, match="no training sample is of .* the test part: 2$"):
        data = load_data("npz", data_dir=tmp_path, rng=seeded(), path="points.npz")
    assert data.n_classes == 3


def test_missing_labels_are_refused(monkeypatch, rng):
    import sklearn.datasets

    for missing in (None, np.nan):
        y = np.array([missing, "yes", "no", "yes"] * 5, object)
        monkeypatch.setattr(
            sklearn.datasets, "fetch_openml", lambda name, y=y, **_: (rng.random((20, 3)), y)
        )
        with pytest.raises(ValueError, match="a label for each sample, got none for number 0"):
            load_data("openml", rng=seeded(), dataset="phoneme")


def test_the_smallest_integer_has_an_absolute_value(tmp_path):
    x = np.r_[np.int8(-128), np.arange(39, dtype=np.int8)][:, None]
    np.savez(tmp_path / "points.npz", x=x, y=np.arange(40) % 2)
    data = load_data("npz", data_dir=tmp_path, rng=seeded(), path="points.npz", scale="unit")
    both = np.concatenate([data.x_train, data.x_test])
    assert both.min() == -1
    assert both.max() == 38 / 128


@pytest.mark.parametrize("kind", [np.int64, np.float32, np.int8])
def test_samples_without_labels_are_read(tmp_path, rng, kind):
    x, y = rng.random((20, 3)) < 0.5, np.full(20, -1, kind)
    np.savez(tmp_path / "one.npz", x=x, y=y)
    np.savez(tmp_path / "two.npz", x_train=x, y_train=y, x_test=x[:5], y_test=y[:5])
    for name, n in (("one.npz", 16), ("two.npz", 20)):
        data = load_data("npz", data_dir=tmp_path, rng=seeded(), path=name)
        assert (data.n_classes, len(data.y_train)) == (0, n)
        assert set(data.y_train) == set(data.y_test) == {-1}
    y[::2] = 1  # a class called -1 is one
    np.savez(tmp_path / "two.npz", x_train=x, y_train=y, x_test=x[:5], y_test=y[:5])
    assert load_data("npz", data_dir=tmp_path, rng=seeded(), path="two.npz").n_classes == 2
