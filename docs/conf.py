"""Configuration of the documentation site; `make docs` builds it with warnings as errors."""

import importlib.metadata
import os
import re

os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "agent_tunix"
author = "The agent_tunix authors"
copyright = "The agent_tunix authors, Apache-2.0"
release = version = importlib.metadata.version("agent-tunix")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"agent_tunix {release}"
html_show_sourcelink = False

myst_enable_extensions = ["deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# Single backticks in docstrings are code, as in Markdown.
default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# Shapes are part of the signature; the words below it say what the arrays mean.
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
maximum_signature_line_length = 88
python_use_unqualified_type_names = True


def escape_lone_stars(app, what, name, obj, options, lines):
    """The product sign of prose, as in `+ - *.`, begins no emphasis."""
    lines[:] = [re.sub(r"(?<=\s)\*(?=[\s,.;:)])", r"\\*", line) for line in lines]


def setup(app):
    """Registers the hook above."""
    app.connect("autodoc-process-docstring", escape_lone_stars)
