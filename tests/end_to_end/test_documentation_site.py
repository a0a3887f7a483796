"""The documentation as built by ``make docs``: complete, its links hold, and a browser shows it.

Skipped where the site has not been built; ``make test`` builds it first.
"""

import html
import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

import topokit as tk
from tests.marks import BROWSER

ROOT = Path(tk.__file__).parent.parent
SITE = ROOT / "docs/_build/html"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="no site: make docs builds it"),
]
TABLES = ("GENERATORS", "RULES", "LAYER_MEASURES", "NETWORK_MEASURES", "CHANGE_MEASURES")
TABLES += ("LAYER_PLOTS", "HISTORY_PLOTS", "ACROSS_PLOTS", "DENSITIES", "MODELS", "DATASETS")
DRAWN = ("LAYER_PLOTS", "HISTORY_PLOTS", "ACROSS_PLOTS")


class Page(NamedTuple):
    """Targets and anchors of a page."""

    links: list[str]
    loaded: list[str]
    anchors: set[str]


@cache
def read(path):
    text = path.read_text(encoding="utf-8")
    tags = re.findall(r"<(a|script|img|link|iframe)\s([^>]*)>", text)
    targets = [
        (tag, html.unescape(target))
        for tag, attributes in tags
        for target in re.findall(r'(?:^|\s)(?:href|src)="([^"]*)"', attributes)
    ]
    links = [target for tag, target in targets if tag == "a"]
    loaded = [target for tag, target in targets if tag != "a"]
    return Page(links, loaded, set(re.findall(r'\s(?:id|name)="([^"]+)"', text)))


def pages():
    return sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)


@cache
def file_at(folder, path):
    """Return the file that a link of a page in a folder leads to, None if there is none."""
    target = (folder / unquote(path)).resolve()
    return target if target.is_file() else None


def test_links_within_the_site_hold():
    broken = []
    for path in pages():
        for link in dict.fromkeys(read(path).links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = file_at(path.parent, parts.path) if parts.path else path
            fragment = unquote(parts.fragment)
            if target is None:
                broken.append(f"{path.relative_to(SITE)}: {link}")
            elif target.suffix == ".html" and fragment and fragment not in read(target).anchors:
                broken.append(f"{path.relative_to(SITE)}: {link} (no such anchor)")
    assert broken == []


def test_no_markup_of_docstrings_is_left():
    left = []
    for path in pages():
        text = re.sub(r"(?s)<(pre|code|script)\b.*?</\1>", "", path.read_text(encoding="utf-8"))
        left += [
            f"{path.relative_to(SITE)}: {found}"
            for found in re.findall(r"\[\d+\]_|:(?:math|func|class|mod|ref|doc|obj):`|``", text)
        ]
        # An option whose hyphens became a dash, which nobody can type.
        left += re.findall(r"(?<!\w)[–—][a-z][a-z-]+[ =)]", re.sub("<[^>]*>", "", text))
    assert left == []


def test_pages_load_nothing_from_elsewhere():
    for path in pages():
        for source in read(path).loaded:
            parts = urlsplit(source)
            assert parts.scheme in ("", "data"), f"{path}: {source}"
            if parts.path and not parts.scheme:
                assert (path.parent / unquote(parts.path)).is_file(), f"{path}: {source}"


@pytest.mark.parametrize("name", tk.__all__)
def test_every_public_name_has_a_page(name):
    home = {path.stem for path in (SITE / "api").rglob("*.html")}
    index = (SITE / "api/index.html").read_text(encoding="utf-8")
    if name.isupper():
        assert f"tk.{name}" in index
    else:
        assert {f"topokit.{name}", name, name.lower()} & home


TRAINERS = ("lightning.rewiring", "skorch.Rewiring", "transformers.Rewiring")


@pytest.mark.parametrize("name", TRAINERS)
def test_a_callback_for_another_library_has_a_page(name):
    text = (SITE / "api/nn.html").read_text(encoding="utf-8")
    assert f'href="generated/topokit.nn.{name}.html' in text
    page = (SITE / f"api/generated/topokit.nn.{name}.html").read_text(encoding="utf-8")
    assert "rule" in page[page.index("Parameters") :]


@pytest.mark.parametrize("table", TABLES)
def test_every_entry_of_a_table_leads_to_its_page(table):
    package = tk._MODULE_OF[table].split(".")[0]
    text = (SITE / f"api/{package}.html").read_text(encoding="utf-8")
    section = text[text.index(f'id="{table.lower().replace("_", "-")}"') :]
    section = section[: section.index("</section>")]
    for name in getattr(tk, table):
        cell = re.search(rf"<td>.*?>{re.escape(name)}<.*?</td>", section)
        assert cell, f"{table} on the page of topokit.{package} lacks {name}"
        linked = re.search(r'href="generated/[^"]+"', cell.group(0))
        # Loaders that one function makes, such as that of "mnist", have no page of their own.
        assert linked or table == "DATASETS", f"{name}: no page"


@pytest.mark.parametrize("table", DRAWN)
def test_every_plot_is_in_the_gallery(table):
    shown = (SITE / "gallery/index.html").read_text(encoding="utf-8")
    for name in getattr(tk, table):
        assert f'href="{name}.html"' in shown
        assert (SITE / f"_images/{name}.png").is_file()
        assert f"tk.plots.{name}(" in re.sub(
            r"<[^>]+>", "", (SITE / f"gallery/{name}.html").read_text(encoding="utf-8")
        )


def test_every_family_is_drawn():
    shown = (SITE / "topologies/index.html").read_text(encoding="utf-8")
    for name in tk.GENERATORS:
        assert f"/{name}.png" in shown, name


VISIT = """
<script>
window.addEventListener("load", () => setTimeout(() => parent.postMessage([location.hash, {
  theme: document.documentElement.dataset.theme,
  wide: document.documentElement.scrollWidth - window.innerWidth,
  images: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
  title: document.querySelector("h1").textContent,
}], "*"), 500));
</script>
"""
SHOWN = ("index", "gallery/index", "api/generated/topokit.LayerGraph")
WIDTHS = (1400, 400)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What a browser sees of some pages, in frames of two widths: one start for each theme."""
    folder = tmp_path_factory.mktemp("browser")
    visited = {name: SITE / f"{name}-visited.html" for name in SHOWN}
    frames = [
        f'<iframe width="{width}" height="900" src="{page.as_uri()}#{name}-{width}"></iframe>'
        for name, page in visited.items()
        for width in WIDTHS
    ]
    script = (
        "const seen = {}; addEventListener('message', e => { seen[e.data[0].slice(1)] = e.data[1];"
        "document.body.dataset.seen = JSON.stringify(seen); });"
    )
    first = folder / "frames.html"
    first.write_text(f"<body><script>{script}</script>{''.join(frames)}</body>", encoding="utf-8")
    for name, page in visited.items():
        text = (SITE / f"{name}.html").read_text(encoding="utf-8")
        page.write_text(text.replace("</body>", VISIT + "</body>"), encoding="utf-8")
    found = {}
    try:
        for i, theme in enumerate(("dark", "light")):
            command = [
                BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu",
                f"--user-data-dir={folder / theme}", "--enable-logging=stderr",
                "--virtual-time-budget=5000", f"--blink-settings=preferredColorScheme={i}",
                "--dump-dom", first.as_uri(),
            ]  # fmt: skip
            answer = subprocess.run(
                command, capture_output=True, text=True, timeout=120, check=True
            )
            noted = re.search(r'<body[^>]* data-seen="([^"]*)"', answer.stdout)
            assert noted, answer.stderr[-2000:]
            console = [line for line in answer.stderr.splitlines() if "CONSOLE" in line]
            assert [line for line in console if '"[PST]: ' not in line] == []  # the theme's notes
            found[theme] = json.loads(html.unescape(noted.group(1)))
    finally:
        for page in visited.values():
            page.unlink()
    return found


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here to open the pages in")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SHOWN)
def test_a_browser_shows_it(name, width, theme, seen):
    page = seen[theme][f"{name}-{width}"]
    assert page["theme"] == theme
    assert page["images"] == []
    assert page["wide"] <= 0, "the page is wider than its window"
    assert page["title"]
