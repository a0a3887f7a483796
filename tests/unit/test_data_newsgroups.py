import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

from topokit.data import DATASETS
from topokit.data.newsgroups import bags_of_words, read_counts


def seeded(seed=0):
    return np.random.default_rng(seed)


def counts_of(rng, n, n_words, density=0.2):
    found = sp.random_array(
        (n, n_words), density=density, rng=rng, data_sampler=lambda size: rng.integers(1, 9, size)
    )
    found = sp.lil_array(found)
    found[:, 0] = 1  # no document is empty
    return sp.csr_array(found)


def write(folder, sizes=(30, 20), n_words=50):
    """The four files of a small collection; returns counts and labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for part, n in zip(("train", "test"), sizes, strict=True):
        counts = counts_of(rng, n, n_words)
        coo = counts.tocoo()
        lines = [f"{i + 1} {j + 1} {c:g}\n" for i, j, c in zip(*coo.coords, coo.data, strict=True)]
        (folder / f"{part}.data").write_text("".join(lines))
        y = np.arange(n) % 4
        (folder / f"{part}.label").write_text("".join(f"{label + 1}\n" for label in y))
        found += [counts, y]
    return found


small = bags_of_words((30, 20), 50, 4)


@pytest.mark.parametrize("place", ["20news-bydate/matlab", "newsgroups", "."])
def test_counts_stay_sparse(tmp_path, place):
    x, y, x_test, y_test = write(tmp_path / place)
    data = small(data_dir=tmp_path, rng=seeded(), scale="none")
    assert sp.issparse(data.x_train)
    assert data.x_train.dtype == np.float32
    assert np.array_equal(data.x_train.toarray(), x.toarray())
    assert np.array_equal(data.x_test.toarray(), x_test.toarray())
    assert np.array_equal(data.y_train, y)
    assert np.array_equal(data.y_test, y_test)
    assert (data.n_features, data.n_classes) == (50, 4)
    assert data.x_train.nnz == x.nnz
    few = small(data_dir=tmp_path, rng=seeded(), n_train=8, n_test=4)
    assert np.bincount(few.y_train).tolist() == [2] * 4
    assert few.x_test.shape == (4, 50)


@pytest.mark.parametrize("scale", ["unit", "minmax"])
def test_scaled_counts_are_those_of_dense_samples(tmp_path, scale):
    from topokit.data.samples import scaled

    x, _, x_test, _ = write(tmp_path / "newsgroups")
    data = small(data_dir=tmp_path, rng=seeded(), scale=scale)
    dense = scaled(x.toarray(), x_test.toarray(), scale, float(x.max()))
    assert np.array_equal(data.x_train.toarray(), dense[0])
    assert np.array_equal(data.x_test.toarray(), dense[1])
    # the first word, once in every document, is only shifted
    assert scale == "unit" or not data.x_train[:, [0]].nnz


def test_scales_that_leave_no_zeros(tmp_path):
    write(tmp_path)
    for scale in ("standard", "global"):
        with pytest.raises(
            ValueError, match=rf"for sparse samples, got '{scale}', which leaves no"
        ):
            small(data_dir=tmp_path, rng=seeded(), scale=scale)
    with pytest.raises(ValueError, match=r"expected one of unit, minmax, none .*, got 'wide'$"):
        small(data_dir=tmp_path, rng=seeded(), scale="wide")


WHOLE = "".join(f"{i} 1 2\n" for i in range(1, 31))
BAD = [
    ("train.data", WHOLE.removesuffix("30 1 2\n"), "no word for 1 of 30 documents, .* document 30"),
    ("train.data", WHOLE[:-2], "line 30: 2 values, not 3"),
    ("train.data", WHOLE + "31 1 1\n", r"line 31: '31 1 1', not a document in 1\.\.30"),
    ("train.data", WHOLE + "3 51 1\n", r"line 31: '3 51 1', not .* a word in 1\.\.50"),
    ("train.data", WHOLE + "3 0 1\n", "line 31: '3 0 1', not"),
    ("train.data", WHOLE + "3 5 0\n", "line 31: '3 5 0', not .* a whole number"),
    ("train.data", WHOLE + "3 5 1.5\n", "line 31: '3 5 1.5', not"),
    ("train.data", WHOLE + "3 5 -1\n", "line 31: '3 5 -1', not"),
    ("train.data", WHOLE + "3 5 99999999999\n", "line 31: '3 5 1e.11', not"),
    ("train.data", WHOLE + "3 1 1\n", "1 words that come twice in a document"),
    ("train.data", WHOLE + "3 1 x\n", "line 31: 'x', which is no finite number"),
    ("train.data", "", "an empty file"),
    ("train.data", "\n", "no lines"),
    ("train.label", "1\n" * 29, "29 lines, not 30"),
    ("train.label", "1\n" * 31, "more than 30 lines"),
    ("train.label", "1\n" * 29 + "5\n", "line 30: 5"),
    ("train.label", "1\n" * 29 + "1.5\n", "line 30: 1.5"),
    ("train.label", "1\n2 3\n", "line 2: 2 values, not 1"),
]


@pytest.mark.parametrize(("file", "text", "message"), BAD)
def test_other_files_are_refused(tmp_path, file, text, message):
    write(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        small(data_dir=tmp_path, rng=seeded())
    assert str(caught.value).startswith(f"{tmp_path / file}: expected ")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_memory_grows_with_the_counts_not_with_the_words(tmp_path):
    """4,000 documents of 20 words each: 80,000 counts, of which 4,000 x 60,000 would be 960 MB."""
    rng = np.random.default_rng(0)
    lines = []
    for document in range(1, 4001):
        words = np.sort(rng.choice(60_000, 20, replace=False))
        lines += [
            f"{document} {word + 1} {count}\n"
            for word, count in zip(words, rng.integers(1, 9, 20), strict=True)
        ]
    (tmp_path / "train.data").write_text("".join(lines))
    (tmp_path / "train.label").write_text("1\n2\n" * 2000)
    for end in ("data", "label"):
        (tmp_path / f"test.{end}").write_text((tmp_path / f"train.{end}").read_text())
    read_counts(tmp_path / "train.data", 4000, 60_000)  # imports
    peaks = []
    for n_words in (60_000, 600_000):
        tracemalloc.start()
        data = bags_of_words((4000, 4000), n_words, 2)(data_dir=tmp_path, rng=seeded())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert data.x_train.nnz == 80_000
    assert peaks[0] < 60e6
    assert peaks[1] < peaks[0] + 12e6  # some bytes for each word


def test_the_published_sizes():
    doc = DATASETS["newsgroups"].__doc__
    assert "11,269 + 7,505 documents, 61,188 word counts" in doc
    assert "20 classes" in doc
