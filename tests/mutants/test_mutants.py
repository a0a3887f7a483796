"""The mutation tool: its faults are faults, and those planted by hand still fit the code."""

import ast
from pathlib import Path

import pytest

from tests.mutants.mutations import mutations, sample
from tests.mutants.planted import PLANTED, Planted, locate
from tests.mutants.run import FILES, stages

ROOT = Path(__file__).parents[2]
SOURCE = b'''"""Text with 1 < 2."""

N_ROWS: int = 3


def share(n_in: int, n_out: int = 2) -> float:
    """Not 5."""
    if n_in < 0 and not n_out:
        raise ValueError(f"expected {n_in + 1}")
    total = 0.5
    for i in range(n_in):
        total += i - 1
    values[0] = total
    return max(total, values[1:]) if n_out else -total
'''


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_planted_faults_fit_the_code(planted):
    mutation = locate(planted, ROOT)
    source = (ROOT / mutation.path).read_bytes()
    broken = mutation.apply(source)
    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(source))


def test_a_pattern_that_no_longer_matches_is_an_error():
    gone = Planted("gone", "topokit/measures/nulls.py", "no such code", "pass")
    with pytest.raises(LookupError, match="expected one match of 'no such code'"):
        locate(gone, ROOT)


def test_faults_of_every_kind_and_none_in_texts():
    found = {(m.before, m.after) for m in mutations("example.py", SOURCE)}
    assert found >= {
        ("<", "<="), ("3", "4"), ("2", "3"), ("0.5", "1.0"), ("-", "+"), ("+=", "-="),
        ("total += i - 1", "pass"), ("values[0] = total", "pass"), ("max", "min"),
        ("not n_out", "(n_out)"), ("n_in < 0 and not n_out", "(n_in < 0 or not n_out)"),
        ("n_in", "n_in - 1"), ("n_in", "n_out"), ("1", "1 + 1"), ("-total", "(total)"),
        ("max(total, values[1:]) if n_out else -total",
         "((-total) if n_out else (max(total, values[1:])))"),
    }  # fmt: skip
    text = SOURCE.decode()
    spared = (text.index("1 < 2"), text.index("Not 5"), text.index("n_in + 1"))
    starts = {m.start for m in mutations("example.py", SOURCE)}
    assert not any(at <= start < at + 8 for at in spared for start in starts)


def test_a_sample_is_the_same_for_the_same_seed():
    found = mutations("example.py", SOURCE)
    drawn = [sample(found, SOURCE, 8, seed) for seed in ("0:a", "0:a", "1:a")]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({m.kind for m in drawn[0]}) == 8  # in turn from each kind
    for mutation in drawn[0]:
        ast.parse(mutation.apply(SOURCE))


def test_every_module_has_tests_of_its_own():
    for path in (p for pattern in FILES for p in ROOT.glob(pattern)):
        names = [name for name, _ in stages(str(path.relative_to(ROOT)), ROOT)]
        assert names == ["near", "room", "slow"]
