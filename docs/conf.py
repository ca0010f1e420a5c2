"""How Sphinx makes the site out of these pages: ``sphinx-build -W --keep-going docs build/docs``."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx

import napari_histomix

ROOT = Path(__file__).resolve().parents[1]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]

project = "napari-histomix"
author = copyright = "The napari-histomix developers"
version = release = napari_histomix.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton", "myst_nb"]
exclude_patterns = ["_templates", "screenshots"]
templates_path = ["_templates"]

# Pages: Markdown as GitHub shows it. Its headings are anchors up to the fourth level.
myst_heading_anchors = 4

# Notebooks run when they have changed; what they showed is kept in build/.jupyter_cache. Not at all with
# sphinx-build -D nb_execution_mode=off.
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True
os.environ |= {"PYTHONWARNINGS": "ignore:IProgress not found", "TQDM_DISABLE": "1"}  # a page shows no bars of progress

# The API reference: docstrings in numpydoc's style.
autosummary_generate = True
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "napari_sphinx_theme"
html_title = project
html_theme_options = {"github_url": URLS["Repository"], "show_prev_next": False}


def link_to_repository(app: Sphinx, doctree: nodes.document) -> None:
    """Links to files that the site does not show, such as a network's card, lead to the repository."""
    for link in [*doctree.findall(pending_xref), *doctree.findall(download_reference)]:
        target = (Path(app.env.doc2path(app.env.docname)).parent / link["reftarget"]).resolve()
        if link.get("refdomain") == "doc":  # a page is named without its ending
            target = target.with_suffix(".md")
        if target.is_file() and target.is_relative_to(ROOT) and not target.is_relative_to(app.srcdir):
            address = f"{URLS['Repository']}/blob/main/{target.relative_to(ROOT).as_posix()}"
            link.replace_self(nodes.reference("", "", *link.children, refuri=address))


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls first."""
    app.connect("doctree-read", link_to_repository)
    return {"parallel_read_safe": True}
