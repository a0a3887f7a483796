"""What docstrings cite: one form everywhere, and the same paper cited alike."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

import topokit as tk

PACKAGE = Path(tk.__file__).parent
SECTION = re.compile(r"^References\n-+\n(.*?)(?:\n\n(?=\S.*\n---)|\Z)", re.M | re.S)
TITLED = re.compile(r'^(.*?), "(.+?[^,])",? (.*?\b(?:1[89]|20)\d\d)\b')


def docstrings():
    """Every docstring of the package that has references, with the place of each."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                doc = ast.get_docstring(node) or ""
                if SECTION.search(doc):
                    where = path.relative_to(PACKAGE).as_posix()
                    yield f"{where}:{getattr(node, 'name', '')}", doc


def entries(doc):
    """The entries of a docstring's references, one line each, and their numbers."""
    text = SECTION.search(doc)[1]
    parts = re.split(r"^\.\. \[(\d+)\] ", text, flags=re.M)
    assert parts[0] == "", f"expected entries '.. [1] ...', got {parts[0]!r}"
    return [int(n) for n in parts[1::2]], [" ".join(part.split()) for part in parts[2::2]]


DOCS = list(docstrings())


@pytest.mark.parametrize(("where", "doc"), DOCS, ids=[where for where, _ in DOCS])
def test_references_have_one_form(where, doc):
    numbers, texts = entries(doc)
    assert numbers == list(range(1, len(numbers) + 1))
    for text in texts:
        assert text.endswith(".")
        assert not re.search(r"arXiv:|Nature Communications \d+,", text), "arXiv 1234.5678; 9:2383"
        authors = text.split('"')[0].split(" et al.")[0]
        assert " and " not in authors, "authors are separated by commas"
    cited = {int(n) for n in re.findall(r"\[(\d+)\]_", doc)}
    assert cited <= set(numbers), "every [n]_ has its entry"


def test_a_paper_is_cited_alike_everywhere():
    found = defaultdict(lambda: defaultdict(list))
    for where, doc in DOCS:
        for text in entries(doc)[1]:
            if match := TITLED.match(text):
                authors, title, published = match.groups()
                found[title.casefold()][authors, title, published].append(where)
    assert len(found) > 80, "papers were read"
    different = {title: dict(forms) for title, forms in found.items() if len(forms) > 1}
    assert not different
    works = [(next(iter(forms))[0], title) for title, forms in found.items()]
    begun = [(a, b) for a in works for b in works if a != b and b[1].startswith(a[1])]
    assert not [(a, b) for a, b in begun if a[0] == b[0]], "a title without its second half"
