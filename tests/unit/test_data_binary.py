import numpy as np
import pytest

from topokit.data import DATASETS, load_data
from topokit.data.binary import binary_set


def seeded(seed=0):
    return np.random.default_rng(seed)


SIZES = {"train": 30, "valid": 5, "test": 20}


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    return {part: rng.integers(0, 2, (n, 12)) for part, n in SIZES.items()}


def write(folder, form, parts):
    """The files of one of the three distributions; returns that with the training part."""
    folder.mkdir(exist_ok=True)
    if form == "npz":
        arrays = {f"{part}_data": x.astype(np.float32) for part, x in parts.items()}
        np.savez(folder / "small.npz", inputsize=12, **arrays)
        return folder / "small.npz"
    for part, x in parts.items():
        label = np.arange(len(x)) % 3 - 1
        if form == "debd":
            np.savetxt(folder / f"small.{part}.data", x, fmt="%d", delimiter=",")
        elif form == "amat":
            np.savetxt(folder / f"small_{part}.amat", np.column_stack([x, label]), fmt="%d")
        else:
            lines = [
                " ".join([f"{y:+d}", *(f"{i + 1}:1" for i in np.flatnonzero(row))]) + " \n"
                for y, row in zip(label, x, strict=True)
            ]
            (folder / f"small_{part}.libsvm").write_text("".join(lines))
    ends = {"debd": "small.train.data", "amat": "small_train.amat"}
    return folder / ends.get(form, "small_train.libsvm")


def small(form):
    return binary_set("small", 12, (30, 20), f"small_{{}}.{form if form == 'amat' else 'libsvm'}")


@pytest.mark.parametrize("place", ["small", ""])
@pytest.mark.parametrize("form", ["debd", "amat", "libsvm", "npz"])
def test_all_distributions_have_the_same_samples(tmp_path, parts, form, place):
    path = write(tmp_path / place, form, parts)
    data = small(form)(data_dir=tmp_path, rng=seeded())
    assert np.array_equal(data.x_train, parts["train"])
    assert np.array_equal(data.x_test, parts["test"])
    assert data.n_classes == 0
    assert set(data.y_train) == set(data.y_test) == {-1}
    assert data.source == f"{path}; as stored"
    few = small(form)(data_dir=tmp_path, rng=seeded(), n_train=7, n_test=3)
    assert (len(few.x_train), len(few.x_test)) == (7, 3)


def test_parts_are_not_taken_from_two_distributions(tmp_path, parts):
    write(tmp_path, "debd", {"train": parts["train"]})
    write(tmp_path, "libsvm", {"test": parts["test"]})
    with pytest.raises(FileNotFoundError, match="data set 'small' not found"):
        small("libsvm")(data_dir=tmp_path, rng=seeded())
    write(tmp_path, "npz", parts)
    assert ".npz" in small("libsvm")(data_dir=tmp_path, rng=seeded()).source


ROW = "0,1," + ",".join("0" * 10) + "\n"
BAD = [
    ("debd", ROW * 29, "29 lines, not 30"),
    ("debd", ROW * 31, "more than 30 lines"),
    ("debd", ROW * 3 + "0,1\n", "line 4: 2 values, not 12"),
    ("debd", ROW * 29 + ROW.replace("1", "2"), "line 30: 2, not 0 or 1"),
    ("debd", ROW * 29 + ROW.replace("1", "0.5"), "line 30: 0.5, not 0 or 1"),
    ("debd", ROW * 29 + ROW.replace("1", "x"), "line 30: 'x', which is no finite number"),
    ("amat", "0 1\n", "line 1: 2 values, not 13"),
    ("amat", "1 " * 12 + "a\n", "line 1: 'a', which is no finite number"),
    ("libsvm", "+1 3:1 5:1\n" * 29, "29 lines, not 30"),
    ("libsvm", "+1 3:1 5:1\n" * 31, "more than 30 lines"),
    ("libsvm", "+1 3:1 13:1\n", r"line 1: '13:1', not a feature in 1\.\.12"),
    ("libsvm", "+1 3:1\n+1 0:1\n", "line 2: '0:1', not a feature"),
    ("libsvm", "+1 5:1 3:1\n", "line 1: '3:1', not a feature"),
    ("libsvm", "+1 5:1 5:1\n", "line 1: '5:1', not a feature"),
    ("libsvm", "+1 5:2\n", "line 1: '5:2', not a feature in .* with the value 1"),
    ("libsvm", "+1 5\n", "line 1: '5', not a feature"),
    ("libsvm", "+1 -5:1\n", "line 1: '-5:1', not a feature"),
    ("libsvm", "+1 99999999999999999999:1\n", "line 1: '9+:1', not a feature"),
    ("libsvm", "5:1 6:1\n", "line 1: no label, and then features such as 3:1"),
    ("libsvm", "+1 5:1\n\n+1 5:1\n", "line 2: no label"),
    ("libsvm", "\0\0\0", "line 1: no label"),
]


@pytest.mark.parametrize(("form", "text", "message"), BAD)
def test_other_files_are_refused(tmp_path, parts, form, text, message):
    path = write(tmp_path / "small", form, parts)
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        small(form)(data_dir=tmp_path, rng=seeded())
    assert str(caught.value).startswith(f"{path}: expected 30 rows of 12 values 0 or 1, got: ")
    assert "\n" not in str(caught.value)


def test_other_arrays_are_refused(tmp_path, parts):
    for change in (
        {"train": parts["train"][:-1]},
        {"test": parts["test"][:, :-1]},
        {"train": parts["train"] * 2},
    ):
        path = write(tmp_path, "npz", parts | change)
        with pytest.raises(
            ValueError, match=r"small\.npz: expected 0 and 1 of shape \((30|20), 12"
        ):
            small("npz")(data_dir=tmp_path, rng=seeded())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"expected an intact \.npz with train_data, test_data"):
        small("npz")(data_dir=tmp_path, rng=seeded())


PUBLISHED = {  # features, training, test: the table of DEBD's README, and mlpython for dna and web
    "adult": (123, 5000, 26147),
    "connect4": (126, 16000, 47557),
    "dna": (180, 1400, 1186),
    "mushrooms": (112, 2000, 5624),
    "nips": (500, 400, 1240),
    "ocr_letters": (128, 32152, 10000),
    "rcv1": (150, 40000, 150000),
    "web": (300, 14000, 32561),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name, tmp_path):
    n_features, n, held_out = PUBLISHED[name]
    line = f"{n:,} + {held_out:,} samples of {n_features} binary features"
    assert line in DATASETS[name].__doc__.partition("\n")[0]
    with pytest.raises(
        FileNotFoundError, match=rf"Get .*{name}\.npz .*into a folder {name}/ there"
    ):
        load_data(name, data_dir=tmp_path, rng=0)


@pytest.mark.data
@pytest.mark.parametrize("name", PUBLISHED)
def test_real_binary_sets(data_dir, name):
    try:
        data = load_data(name, data_dir=data_dir, rng=seeded())
    except FileNotFoundError:
        pytest.skip(f"no files of {name} in TOPOKIT_DATA")
    assert (data.n_features, len(data.y_train), len(data.y_test)) == PUBLISHED[name]
