import inspect
from pathlib import Path

import numpy as np
import pytest

from topokit.data import DATASETS, load_data
from topokit.tables import parameters_of


def seeded(seed=0):
    return np.random.default_rng(seed)


WITH_FILES = [
    name
    for name, loader in DATASETS.items()
    if name not in ("digits", "synthetic", "text")
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
    with pytest.raises(FileNotFoundError, match="none is not a folder"):
        load_data(name, data_dir=tmp_path / "none", rng=seeded())
    monkeypatch.delenv("TOPOKIT_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"--data-dir DIR or in TOPOKIT_DATA \(neither is"):
        load_data(name, rng=seeded())


def test_unknown_set():
    with pytest.raises(
        ValueError, match=r"unknown data set 'mnits'; did you mean 'mnist'\? \(one of"
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


GLOBALS = {"np": np, "Path": Path}


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "openml"])
def test_examples_of_loaders_run(name):
    import doctest

    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=flags)
    for test in finder.find(DATASETS[name], name, globs=GLOBALS | {name: DATASETS[name]}):
        result = runner.run(test)
        assert (result.failed, result.attempted > 0) == (0, True)


REAL = {
    "mnist": ((60_000, 784), (10_000, 784), 10),
    "fashion_mnist": ((60_000, 784), (10_000, 784), 10),
    "cifar10": ((50_000, 3072), (10_000, 3072), 10),
    "mushrooms": ((2000, 112), (5624, 112), 0),
    "madelon": ((2000, 500), (600, 500), 2),
    "pcmac": ((1554, 3289), (389, 3289), 2),
    "basehock": ((1594, 4862), (399, 4862), 2),
    "tox_171": ((114, 5748), (57, 5748), 4),
    "lung_small": ((49, 325), (24, 325), 7),
    "cifar100": ((50_000, 3072), (10_000, 3072), 100),
    "isolet": ((6238, 617), (1559, 617), 26),
    "isolet_small": ((1248, 617), (312, 617), 26),
    "newsgroups": ((11_269, 61_188), (7505, 61_188), 20),
}


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
@pytest.mark.slow
def test_real_files(data_dir, name):
    try:
        data = load_data(name, data_dir=data_dir, rng=seeded())
    except FileNotFoundError as missing:
        pytest.skip(f"TOPOKIT_DATA lacks {name}: {missing}".partition("\n")[0])
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
