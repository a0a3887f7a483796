import re

import pytest

from tests.contract.test_plots import recorded
from topokit.report import verdict_sentences, write_report


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    histories = [recorded(folder / name, 3) for name in ("a<b", "two")]
    path = write_report(histories, folder / "report.html", bootstrap=5)
    return path.read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(page):
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "@import" not in page
    assert "url(" not in page


def test_every_figure_has_words_and_the_page_headings(page):
    assert page.count("<figure>") == page.count("<figcaption>") > 10
    assert not re.search(r'alt=""', page)
    assert page.count("<h1>") == 1
    assert page.index("<h1>") < page.index("<h2")


def test_names_are_escaped_and_runs_side_by_side(page):
    assert "a&lt;b" in page
    assert "a<b" not in page
    assert page.count("<section") == 2


def test_verdicts_are_seeded_and_in_words(rng):
    from topokit.graph import LayerGraph

    topology = {"fc1": LayerGraph.from_edge_ids(rng.choice(4000, 300, False), (80, 50))}
    one, two = (verdict_sentences(topology, bootstrap=10, seed=3) for _ in range(2))
    assert one == two
    assert [row["side"] for row in one] == ["fan-in", "fan-out"]
    assert all(row["sentence"].startswith(row["verdict"]) for row in one)


def test_a_run_without_epochs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has not recorded an epoch"):
        write_report([recorded(tmp_path / "none", 0)], tmp_path / "report.html")
