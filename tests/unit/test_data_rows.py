import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topokit.data import rows
from topokit.data.rows import lines_of, numbers_of


def write(folder, text, name="a.csv"):
    path = folder / name
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("block", [200, 1 << 20])
@pytest.mark.parametrize("separator", [",", " "])
@pytest.mark.parametrize("end", ["\n", ""])
def test_values_are_those_of_the_file(tmp_path, rng, monkeypatch, name, block, separator, end):
    monkeypatch.setattr(rows, "BLOCK", block)
    x = rng.normal(size=(40, 5)).astype(np.float32)
    joint = {",": ", ", " ": "  \t"}[separator]
    text = "\n".join(joint.join(f"{value:.18e}" for value in row) for row in x) + end
    path = write(tmp_path, text, name)
    assert np.array_equal(numbers_of(path, values=5, separator=separator, rows=40), x)
    found = list(lines_of(path, values=5, separator=separator))
    assert [lines.first for lines in found] == np.cumsum(
        [1] + [len(lines.starts) - 1 for lines in found[:-1]]
    ).tolist()
    which = rng.random(40) < 0.3
    parts = []
    for lines in found:
        here = which[lines.first - 1 :][: len(lines.starts) - 1]
        if here.any():
            parts.append(lines.numbers(here))
    assert np.array_equal(np.concatenate(parts), x[which])


BAD = [
    ("1,2\n3\n5,6\n", "line 2: 1 values, not 2"),
    ("1,2\n3,4,\n5,6\n", "line 2: 3 values, not 2"),
    ("1,2\n\n5,6\n", "line 2: no values, not 2"),
    ("1,2\n3,x\n5,6\n", "line 2: 'x', which is no finite number"),
    ("1,2\n3,4\n5,\n", "line 3: '', which is no finite number"),
    ("1,2\n3,4\nnan,5\n", "line 3: 'nan', which is no finite number"),
    ("1,2\n3,1e999\n5,6\n", "line 2: '1e999', which is no finite number"),
    ("1,2\n3,1e99\n5,6\n", "line 2: '1e99', which is too large"),
    ("1,2\n3,1_0\n5,6\n", "line 2: '1_0', which is no finite number"),
    ("1,2\n3,0x1\n5,6\n", "line 2: '0x1', which is no finite number"),
    ('1,2\n3,"4"\n5,6\n', "line 2: '\"4\"', which is no finite number"),
    ("1,2\n3,4 5\n5,6\n", "line 2: '4 5', which is no finite number"),
    ("1,2\n3,4\r5,6\n", "a carriage return that does not end a line"),
    ("1,2\n3,4\n\r5,6\n", "a carriage return that does not end a line"),
    ("1,2\n3,4\n5,6\r", "a carriage return that does not end a line"),
    ("1,2\n3,4\0\n5,6\n", "no text: it has bytes of value 0"),
    ("1,2\n3,4\n5,6\n7,8\n", "more than 3 lines"),
    ("1,2\n3,4\n", "2 lines, not 3"),
    ("", "0 lines, not 3"),
    ("\n\n", "0 lines, not 3"),
    ("1" * 70_000, "line 1: (more than 65,536 bytes|1 values, not 2)"),
    (("1,2\n" + "1" * 70_000), "line 2: (more than 65,536 bytes|1 values, not 2)"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
@pytest.mark.parametrize("block", [5, 1 << 20])
def test_anything_else_is_refused_with_the_line(tmp_path, monkeypatch, text, message, block):
    monkeypatch.setattr(rows, "BLOCK", block * max(1, len(text) // 1000))
    with pytest.raises(ValueError, match=message):
        numbers_of(write(tmp_path, text), values=2, separator=",", rows=3)


def test_empty_lines_at_the_end_do_not_count(tmp_path, monkeypatch):
    for block in (1, 4, 1 << 20):
        monkeypatch.setattr(rows, "BLOCK", block)
        for end in ("\n", "\r\n", "\n\n", "\n \n\t\n"):
            path = write(tmp_path, "1,2\n3,4" + end)
            assert numbers_of(path, values=2, separator=",", rows=2).tolist() == [[1, 2], [3, 4]]


def test_damaged_gzip_says_after_which_line(tmp_path, monkeypatch, rng):
    text = "".join(f"{a},{b}\n" for a, b in rng.integers(0, 10**6, (4000, 2)))
    path = write(tmp_path, text, "a.csv.gz")
    whole = path.read_bytes()
    monkeypatch.setattr(rows, "BLOCK", 1 << 10)
    for share in (0.3, 0.7, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"damaged or cut off after line \d+: ") as caught:
            numbers_of(path, values=2, separator=",")
        line = int(str(caught.value).split("line ")[1].split(":")[0])
        assert abs(line / 4000 - share) < 0.35
    path.write_bytes(whole[:-6] + b"\1\2\3\4\5\6")
    with pytest.raises(ValueError, match="damaged or cut off after line"):
        numbers_of(path, values=2, separator=",")
    path.write_bytes(b"1,2\n")
    with pytest.raises(ValueError, match="damaged or cut off after line 0: Not a gzipped file"):
        numbers_of(path, values=2, separator=",")


@given(st.binary(max_size=60), st.integers(1, 3), st.sampled_from([",", " "]), st.integers(1, 20))
def test_what_is_read_is_what_python_reads(tmp_path_factory, content, values, separator, block):
    """Whatever the bytes: as many finite numbers in each line as Python finds, or refused."""
    path = write(tmp_path_factory.mktemp("rows"), content)
    before = rows.BLOCK
    rows.BLOCK = block
    try:
        found = numbers_of(path, values=values, separator=separator, dtype=np.float64)
    except ValueError:
        return
    finally:
        rows.BLOCK = before
    lines = content.decode("latin-1").rstrip().split("\n")
    expected = [line.split("," if separator == "," else None) for line in lines]
    assert np.allclose(found, [[float(value) for value in line] for line in expected], rtol=1e-14)


ODD = st.text(alphabet="0123456789.,eE+-_ \n\r\tinfa", max_size=30)


@given(ODD, st.integers(1, 3), st.sampled_from([",", " "]))
def test_numbers_in_odd_forms(tmp_path_factory, text, values, separator):
    path = write(tmp_path_factory.mktemp("rows"), text)
    try:
        found = numbers_of(path, values=values, separator=separator, dtype=np.float64)
    except ValueError:
        return
    lines = text.rstrip().split("\n")
    expected = [line.split("," if separator == "," else None) for line in lines]
    assert np.allclose(found, [[float(value) for value in line] for line in expected], rtol=1e-14)
