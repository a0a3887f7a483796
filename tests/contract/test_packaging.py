"""What is distributed: the source distribution, its metadata, and the citation."""

import email
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import topokit

ROOT = Path(topokit.__file__).parent.parent


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The files of the source distribution, and its metadata."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist"]
    subprocess.run([*command, "--directory", folder], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.iterdir()
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        info = next(member for member in archive.getmembers() if member.name.endswith("PKG-INFO"))
        metadata = email.message_from_bytes(archive.extractfile(info).read())
    return names, metadata


@pytest.mark.slow
def test_the_source_distribution_is_complete(source):
    names, _ = source
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "topokit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package <= names
    wanted = {"README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "Makefile", "constraints.txt"}
    assert wanted | {"pyproject.toml", "hatch_build.py", "docs/conf.py", "docs/start.md"} <= names
    folders = {name.partition("/")[0] for name in names}
    assert not folders & {"tests", "figures", "runs"}
    assert not any("/_build/" in name or "/_cache/" in name for name in names)


@pytest.mark.slow
def test_the_description_leads_nowhere_that_an_index_lacks(source):
    _, metadata = source
    text = metadata.get_payload()
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "make demo" in text
    assert "![" not in text
    assert "](" not in text.replace("](http", "")
    assert "Typing :: Typed" in metadata.get_all("Classifier")


def test_classifiers_exist():
    known = pytest.importorskip("trove_classifiers").classifiers
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["classifiers"]) <= known


def test_the_citation_names_this_version():
    yaml = pytest.importorskip("yaml")
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert said["cff-version"] == "1.2.0"
    assert said["version"] == topokit.__version__
    assert said["license"] == "BSD-3-Clause"
    assert {"message", "title", "authors", "type"} <= said.keys()
