import gzip
import tracemalloc

import numpy as np
import pytest

from topokit.data import DATASETS
from topokit.data.higgs import _drawn, higgs_table


def seeded(seed=0):
    return np.random.default_rng(seed)


def table(n, seed=0):
    """Rows as in the published file: float32 values with 18 decimals."""
    rng = np.random.default_rng(seed)
    x = rng.lognormal(size=(n, 28)).astype(np.float32) - 1
    y = rng.integers(0, 2, n)
    text = "".join(
        ",".join(f"{value:.18e}" for value in (label, *row)) + "\n"
        for label, row in zip(y, x, strict=True)
    )
    return x, y, text


def put(folder, text, end=".gz", place="higgs"):
    (folder / place).mkdir(exist_ok=True)
    path = folder / place / f"HIGGS.csv{end}"
    path.write_bytes(gzip.compress(text.encode(), 1) if end else text.encode())
    return path


@pytest.mark.parametrize("place", ["higgs", "."])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_the_last_rows_are_the_test_part(tmp_path, place, end):
    x, y, text = table(50)
    put(tmp_path, text, end, place)
    data = higgs_table(50, 12)(data_dir=tmp_path, rng=seeded(), scale="none")
    assert np.array_equal(data.x_train, x[:38])
    assert np.array_equal(data.y_train, y[:38])
    assert np.array_equal(data.x_test, x[38:])
    assert np.array_equal(data.y_test, y[38:])
    assert (data.n_classes, data.n_features) == (2, 28)
    standard = higgs_table(50, 12)(data_dir=tmp_path, rng=seeded())
    mean, deviation = x[:38].mean(0, np.float64), x[:38].std(0, dtype=np.float64)
    assert np.allclose(standard.x_train, (x[:38] - mean) / deviation, atol=1e-5)
    assert np.allclose(standard.x_test, (x[38:] - mean) / deviation, atol=1e-5)


@pytest.mark.parametrize("block", [5000, 1 << 20])
def test_subsets_are_drawn_in_the_order_of_the_file(tmp_path, monkeypatch, block):
    monkeypatch.setattr("topokit.data.rows.BLOCK", block)  # of some rows, or all
    x, y, text = table(300)
    path = put(tmp_path, text)
    load = higgs_table(300, 100)
    data = load(data_dir=tmp_path, rng=seeded(), n_train=50, n_test=20, scale="none")
    rows = [int(np.flatnonzero((x == row).all(1))[0]) for row in data.x_train]
    assert rows == sorted(rows)
    assert len(set(rows)) == 50
    assert rows[-1] < 200
    assert np.array_equal(data.y_train, y[rows])
    held_out = [int(np.flatnonzero((x == row).all(1))[0]) for row in data.x_test]
    assert len(set(held_out)) == 20
    assert min(held_out) >= 200
    path.unlink()
    put(tmp_path, text, "")
    again = load(data_dir=tmp_path, rng=seeded(), n_train=50, n_test=20, scale="none")
    assert again.checksum() == data.checksum()
    other = load(data_dir=tmp_path, rng=seeded(1), n_train=50, n_test=20, scale="none")
    assert other.checksum() != data.checksum()
    scaled = load(data_dir=tmp_path, rng=seeded(), n_train=50, n_test=20)
    assert np.allclose(scaled.x_train.mean(0), 0, atol=1e-5)
    assert np.allclose(scaled.x_train.std(0), 1, atol=1e-5)
    for key, n in (("n_train", 201), ("n_test", 101), ("n_test", 0)):
        with pytest.raises(ValueError, match=f"'higgs': expected {key} in 1..[12]00, got {n}"):
            load(data_dir=tmp_path, rng=seeded(), **{key: n})


def test_every_row_is_as_likely_to_be_drawn():
    counts = sum(_drawn(150_000, 30_000, seeded(i)).astype(int) for i in range(20))
    assert counts.sum() == 20 * 30_000
    # 3 blocks of 65,536, 65,536 and 18,928 rows, each row drawn 4 times of 20 on average
    for block in np.split(counts, [65_536, 131_072]):
        assert abs(block.mean() - 4) < 5 * np.sqrt(20 * 0.2 * 0.8 / block.size)
    assert counts.var() == pytest.approx(20 * 0.2 * 0.8, rel=0.02)


BAD = [
    (lambda lines: [*lines[:7], lines[7] + ",1.0", *lines[8:]], "line 8: 30 values, not 29"),
    (lambda lines: [*lines[:7], lines[7][:300], *lines[8:]], r"line 8: \d+ values, not 29"),
    (lambda lines: [*lines[:7], "2" + lines[7][1:], *lines[8:]], "line 8: the class 2, not 0 or 1"),
    (lambda lines: [*lines[:7], lines[7][:-9] + "zzz", *lines[8:]], "line 8: '.*zzz', which is no"),
    (lambda lines: lines[:-1], "39 lines, not 40"),
    (lambda lines: [*lines, lines[0]], "more than 40 lines"),
    (lambda lines: ["label" + ",feature" * 28, *lines[1:]], "line 1: 'label', which is no finite"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_other_tables_are_refused(tmp_path, change, message, end):
    text = table(40)[2]
    path = put(tmp_path, "\n".join(change(text.splitlines())) + "\n", end)
    beginning = f"{path}: expected rows of a class 0 or 1 and 28 numbers, got: "
    with pytest.raises(ValueError, match=message) as caught:
        higgs_table(40, 10)(data_dir=tmp_path, rng=seeded())
    assert str(caught.value).startswith(beginning)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused(tmp_path):
    path = put(tmp_path, table(4000)[2])
    whole = path.read_bytes()
    load = higgs_table(4000, 1000)
    for content, message in (
        (whole[: len(whole) // 2], r"damaged or cut off after line \d\d\d+: "),
        (whole[:-5], "damaged or cut off after line"),
        (b"", "got: an empty file"),
        (b"no gzip", "Not a gzipped file"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            load(data_dir=tmp_path, rng=seeded(), n_train=1, n_test=1)
        assert str(path) in str(caught.value)
    path.rename(path.with_suffix(""))
    path.with_suffix("").write_bytes(whole)
    with pytest.raises(ValueError, match="a gzip archive; unpack it first"):
        load(data_dir=tmp_path, rng=seeded())


def short_table(folder, n):
    """A file of `n` rows with short numbers, and their first 500."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 29)).round(2)
    x[:, 0] = rng.integers(0, 2, 500)
    block = "".join(",".join(f"{value:g}" for value in row) + "\n" for row in x)
    put(folder, block * (n // 500))
    return x


def peak(load, folder, **sizes):
    load(data_dir=folder, rng=seeded(), n_train=1, n_test=1)  # imports
    tracemalloc.start()
    try:
        data = load(data_dir=folder, rng=seeded(), **sizes)
        return tracemalloc.get_traced_memory()[1], data
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_grows_with_what_is_kept_not_with_the_file(tmp_path):
    short_table(tmp_path, 200_000)
    load = higgs_table(200_000, 50_000)
    (tmp_path / "small").mkdir()
    short_table(tmp_path / "small", 20_000)
    few, _ = peak(load, tmp_path, n_train=500, n_test=100)
    of_few, _ = peak(higgs_table(20_000, 5000), tmp_path / "small", n_train=500, n_test=100)
    half, _ = peak(load, tmp_path, n_train=75_000, n_test=25_000)
    whole, data = peak(load, tmp_path)
    kept = data.x_train.nbytes + data.x_test.nbytes + data.y_train.nbytes + data.y_test.nbytes
    assert kept == 200_000 * (28 * 4 + 8)
    # a few blocks of a megabyte, and a byte for each of ten times as many rows
    assert few < 14e6
    assert few < of_few + 3e6
    assert whole < kept + few + 4e6
    assert half < kept / 2 + few + 4e6


def test_the_table_has_the_published_size():
    assert "11,000,000" in DATASETS["higgs"].__doc__
    assert "The last 500,000 rows" in DATASETS["higgs"].__doc__
