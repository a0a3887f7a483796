import pytest

from topokit.graph.files import write_atomic


def test_a_file_is_written_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with write_atomic(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary != path
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_content_alone(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def half():
        with write_atomic(path) as temporary:
            temporary.write_text("half")
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_before_anything_is_written_is_itself_reported(tmp_path):
    def early():
        with write_atomic(tmp_path / "file.txt"):
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        early()
    assert not list(tmp_path.iterdir())
