"""Configuration of the documentation: ``sphinx-build -W -b html docs docs/_build/html``.

Pages that follow from the code (the gallery, the topologies, the tables of the API, commands and
recipes) and pages that are kept elsewhere (studies, benchmarks, notebooks, changelog) are written
by `docs/pages.py` before Sphinx reads the sources. Nothing is fetched from a network.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import topokit  # noqa: E402 - found by the path above

project = "topokit"
author = "The authors of topokit"
copyright = author
release = topokit.__version__
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    "formulas",
]
html_math_renderer = "outlines"
exclude_patterns = ["_build", "_cache", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
default_role = "py:obj"  # single backticks in docstrings are names

autosummary_generate = True
autodoc_mock_imports = ["lightning", "skorch", "transformers"]  # read without them
autodoc_typehints = "none"  # types are in the Parameters sections
numpydoc_show_class_members = False  # the template of classes lists them
numpydoc_xref_param_type = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
smartquotes_action = "qe"  # quotes and ellipses; two hyphens begin an option, they are no dash
nb_execution_mode = "off"  # notebooks are shown with the outputs stored in them
nb_mime_priority_overrides = [("html", "text/html", 0), ("html", "image/svg+xml", 1)]

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Links to the documentation of other libraries need their inventories, which are downloaded: only
# if asked for, so that a build needs no network.
if os.environ.get("TOPOKIT_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
        "networkx": ("https://networkx.org/documentation/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

html_theme = "pydata_sphinx_theme"
html_title = "topokit"
html_static_path = ["_static"]
html_css_files = ["topokit.css"]
html_show_sourcelink = False
html_copy_source = False
html_context = {"default_mode": "auto"}  # light or dark as the reader's system says
html_sidebars = {page: [] for page in ("start", "theory", "glossary")}
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}


def _write_pages(app, config):
    import pages

    pages.write(HERE)


def _own_members_only(app, what, name, obj, skip, options):
    """Leave out what a class inherits from other libraries, such as the methods of a module."""
    module = getattr(obj, "__module__", None) or getattr(
        getattr(obj, "fget", None), "__module__", "topokit"
    )
    return True if not str(module).startswith("topokit") else None


def _public_name(app, env, node, content):
    """Let a name in a docstring lead to the page of the public name, in whatever module it is."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or target.partition(".")[0] not in topokit.__all__:
        return None
    domain, page = env.get_domain("py"), node.get("refdoc", "index")
    return domain.resolve_xref(
        env, page, app.builder, node["reftype"], f"topokit.{target}", node, content
    )


def setup(app):
    """Write the generated pages before the sources are read."""
    app.connect("config-inited", _write_pages)
    app.connect("autodoc-skip-member", _own_members_only)
    app.connect("missing-reference", _public_name)
    return {"parallel_read_safe": True}
