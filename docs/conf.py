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
napoleon_attr_annotations = False  # the signature shows them
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# Shapes are part of the signature; the words below it say what the arrays mean.
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
maximum_signature_line_length = 88
python_use_unqualified_type_names = True


ATTRIBUTES = ("attribute", "data", "property")
COLON = "\ue000"


def hide_colons(app, what, name, obj, options, lines):
    """Before napoleon, which would take what stands before a colon in an attribute's text for its type."""
    if what in ATTRIBUTES:
        lines[:] = [line.replace(":", COLON) for line in lines]


def settle(app, what, name, obj, options, lines):
    """After napoleon; the product sign of prose, as in `+ - *.`, begins no emphasis."""
    lines[:] = [re.sub(r"(?<=\s)\*(?=[\s,.;:)])", r"\\*", line.replace(COLON, ":")) for line in lines]


# An alias is expanded before anybody is asked.
RUNNER = re.compile(r"~?collections\.abc\.Callable\[\[~?collections\.abc\.Callable\[\[.*?running\.Results\]")


def plain_names(app, what, name, obj, options, signature, returns):
    """Shows `Float[Array, 'group']` as it is written, and a default that is made anew for each instance as `...`."""
    names = {"jaxlib._jax.Array": "Array", "<factory>": "..."}
    for long, short in names.items():
        signature, returns = (text and text.replace(long, short) for text in (signature, returns))
    signature, returns = (text and RUNNER.sub("Runner", text) for text in (signature, returns))
    return signature, returns


def skip_tuple_fields(app, what, name, obj, skip, options):
    """Fields of a named tuple stand in its signature, with their meaning in the text of the class."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def setup(app):
    """Registers the hooks; napoleon's own priority is 500."""
    app.connect("autodoc-process-docstring", hide_colons, priority=400)
    app.connect("autodoc-process-docstring", settle, priority=600)
    app.connect("autodoc-process-signature", plain_names)
    app.connect("autodoc-skip-member", skip_tuple_fields)
