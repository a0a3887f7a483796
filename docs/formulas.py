r"""Formulas as SVG outlines, drawn by matplotlib: no TeX, no script and no network is needed.

Matplotlib typesets a large part of TeX's mathematics. What it cannot typeset fails the build, with
the formula and its page.
"""

import re
from functools import cache

from docutils.nodes import SkipNode
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextToPath
from sphinx.errors import SphinxError

SIZE = 100.0  # units of the outline for one em
EM = 1.05  # of a formula, in those of the text around it
FONT = FontProperties(math_fontfamily="stix", size=SIZE)
LETTER = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C"}

KNOWN = {r"\qquad": r"\ \ \ \ ", r"\quad": r"\ \ ", r"\le ": r"\leq ",
         r"\ge ": r"\geq "}  # fmt: skip


@cache
def svg(formula: str) -> tuple[str, float]:
    """Return the outline of a formula as SVG, and its depth below the line in em."""
    text = " ".join(formula.split())
    for tex, known in KNOWN.items():
        text = text.replace(tex, known)
    layout = TextToPath()
    try:
        vertices, codes = layout.get_text_path(FONT, f"${text}$", ismath=True)
        width, height, depth = layout.get_text_width_height_descent(f"${text}$", FONT, True)
    except ValueError as error:
        raise SphinxError(f"matplotlib cannot typeset the formula {formula!r}: {error}") from None
    scale = SIZE / layout.FONT_SCALE
    parts, corners = [], []
    for (x, y), code in zip(vertices, codes, strict=True):
        corners.append(f"{x * scale:.1f} {height - depth - y * scale:.1f}")
        if code == Outline.CLOSEPOLY:
            parts.append("Z")
            corners = []
        elif len(corners) == {Outline.CURVE3: 2, Outline.CURVE4: 3}.get(code, 1):
            parts.append(LETTER[code] + " ".join(corners))
            corners = []
    size = f'width="{EM * width / SIZE:.3f}em" height="{EM * height / SIZE:.3f}em"'
    box = f'viewBox="0 0 {width:.1f} {height:.1f}"'
    outline = f'<path d="{"".join(parts)}" fill="currentColor"/>'
    return f"<svg {size} {box} overflow='visible'>{outline}</svg>", EM * depth / SIZE


def inline(self, node):
    """Write a formula within a line."""
    drawn, depth = svg(node.astext())
    words = self.encode(node.astext()).replace('"', "&quot;")
    style = f"vertical-align:{-depth:.3f}em"
    self.body.append(f'<span class="math" role="img" aria-label="{words}" style="{style}">')
    self.body.append(f"{drawn}</span>")
    raise SkipNode


def displayed(self, node):
    """Write a formula on a line of its own, one with cases on a line for each."""
    formula = node.astext()
    words = self.encode(formula).replace('"', "&quot;")
    drawn = [svg(line.replace(r"\frac", r"\dfrac"))[0] for line in lines_of(formula)]
    self.body.append(
        f'<div class="math" role="img" aria-label="{words}">{"<br>".join(drawn)}</div>'
    )
    raise SkipNode


def lines_of(formula):
    r"""Return the lines of a formula: of ``\begin{cases}``, which matplotlib lacks, or one."""
    parts = re.fullmatch(
        r"(.*?)\\begin\{cases\}(.*)\\end\{cases\}(.*)", formula.strip(), flags=re.S
    )
    if parts is None:
        return [formula]
    before, rows, after = parts.groups()
    rows = [row.replace("&", r"\qquad ") for row in rows.split(r"\\") if row.strip()]
    return [f"{before} {row.strip()} {after}" for row in rows]


def setup(app):
    """Use these formulas for HTML."""
    app.add_html_math_renderer("outlines", (inline, None), (displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
