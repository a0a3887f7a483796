"""Texts cut into blocks of characters."""

import numpy as np
import pytest

from topokit.data import Data, load_data
from topokit.data.text import CHARACTERS


def written(tmp_path, content):
    path = tmp_path / "some.txt"
    path.write_text(content, encoding="utf-8")
    return str(path)


def decoded(codes):
    return "".join(("\0" + CHARACTERS)[int(c)] for c in codes)


def test_blocks_read_on_as_the_text_does(tmp_path):
    content = "".join(chr(32 + i * 7 % 95) for i in range(987)) + "\n\u00e9\t"
    data = load_data("text", path=written(tmp_path, content), length=5, rng=0)
    assert data.n_classes == 97
    assert data.x_train.shape == data.y_train.shape == (178, 5)
    assert data.x_test.shape == data.y_test.shape == (19, 5)
    assert decoded(data.x_train.ravel()) == content[:890]
    assert decoded(data.y_train.ravel()) == content[1:891]
    assert decoded(data.x_test.ravel()) == content[891 : 891 + 95]
    assert decoded(data.y_test.ravel()) == content[892 : 892 + 95]


def test_every_character_has_a_code(tmp_path):
    content = (CHARACTERS + "\u00e9\t\U0001f600\x7f") * 30
    data = load_data("text", path=written(tmp_path, content), length=100, rng=0)
    assert data.x_train[0].astype(int).tolist()[:97] == [*range(1, 97), 0]
    assert data.x_train[0, 96:].tolist() == [0, 0, 0, 0]


def test_the_text_of_python_is_there_and_subsets_are_drawn():
    data = load_data("text", length=50, n_train=30, n_test=20, rng=0)
    again = load_data("text", length=50, n_train=30, n_test=20, rng=0)
    other = load_data("text", length=50, n_train=30, n_test=20, rng=1)
    assert data.x_train.shape == (30, 50)
    assert np.array_equal(data.x_train, again.x_train)
    assert not np.array_equal(data.x_train, other.x_train)
    assert "the" in decoded(load_data("text", length=50, rng=0).x_train[:40].ravel())
    assert load_data("text", rng=0).x_train.size > 300_000


def test_what_is_refused(tmp_path):
    path = written(tmp_path, "abc" * 100)
    with pytest.raises(ValueError, match="expected at least 1300 characters for blocks of 64"):
        load_data("text", path=path, rng=0)
    with pytest.raises(ValueError, match=r"data.length: expected at least 1 character, got 0"):
        load_data("text", path=path, length=0, rng=0)
    with pytest.raises(ValueError, match=r"expected n_train in 1\.\.26, got 27"):
        load_data("text", path=path, length=10, n_train=27, rng=0)
    with pytest.raises(FileNotFoundError, match=r"data.path: expected a file"):
        load_data("text", path=str(tmp_path / "none"), rng=0)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="expected a text in UTF-8"):
        load_data("text", path=str(tmp_path / "bytes"), rng=0)


def test_both_parts_have_classes_of_one_kind():
    x, one, many = np.zeros((2, 3)), np.zeros(2, int), np.zeros((2, 3), int)
    assert Data("a", x, many, x, many, 1).y_train.shape == (2, 3)
    for wrong in (one, np.zeros((2, 4), int)):
        with pytest.raises(ValueError, match="as many classes of a sample in both parts"):
            Data("a", x, many, x, wrong, 1)
    with pytest.raises(ValueError, match="expected x"):
        Data("a", x, np.zeros((2, 3, 1), int), x, many, 1)
