import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topokit.toml import parse_assignment, parse_settings, parse_toml, read_toml, to_toml

toml_values = st.recursive(
    st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text('ab -."', max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc .", max_size=4), toml_values, max_size=4))
def test_whatever_is_written_is_read_back(table):
    assert tomllib.loads(to_toml(table)) == table


def test_writer_refuses_what_toml_lacks():
    with pytest.raises(TypeError, match="expected a string, number, boolean, list or dictionary"):
        to_toml({"a": {1, 2}})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k=1", 1),
        ("k = 1.5 ", 1.5),
        ("k=true", True),
        ('k="a b"', "a b"),
        ("k=a b", "a b"),
        ("k=[1, 2]", [1, 2]),
        ("k={a = 1}", {"a": 1}),
        ("k=", ""),
        ("k=a=b", "a=b"),
        ("k=1\nj=2", "1\nj=2"),
        ("k=1 # no comment", 1),
    ],
)
def test_values_are_toml_or_words(text, value):
    assert parse_assignment(text) == (("k",), value)


def test_settings_do_not_overwrite_values_by_tables():
    assert parse_settings([]) == {}
    with pytest.raises(ValueError, match=r"^a\.b: expected a table at 'a', got a value$"):
        parse_settings(["a=1", "a.b=2"])
    with pytest.raises(ValueError, match="expected key=value such as"):
        parse_settings(["a"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = " + "[" * 20_000, "nested too deeply"),
        ("x = " + "9" * 5000, "integer string|limit"),
        ("a" + ".a" * 64 + " = 1", "a key of more than 64 parts"),
        ("[a" + " . 'a'" * 90_000 + "]", "more than 262,144|a key of more than 64 parts"),
        ("x = {" + '"a".' * 64 + "a = 1}", "a key of more than 64 parts"),
        ("x = 1\n" * 2, "overwrite"),
        ("#" * 2**18 + "#", "more than 262,144"),
        ("x = \x00", "Invalid value|Illegal character"),
    ],
)
def test_toml_that_is_wrong_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "a.toml"
    path.write_text(text)
    for read in (lambda: read_toml(path), lambda: parse_toml(text)):
        with pytest.raises(ValueError, match=f"(?s)is not valid TOML: .*({words})") as error:
            read()
        assert "\n" not in str(error.value)


def test_toml_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a TOML file, found none"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "a.toml").write_bytes(b"\xff")
    for path in (tmp_path, tmp_path / "a.toml"):
        with pytest.raises(ValueError, match="is not valid TOML"):
            read_toml(path)
