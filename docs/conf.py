"""Sphinx: `make docs` writes docs/_build/html."""

from zpipeline._version import __version__

project = "zpipeline"
author = "the zpipeline authors"
copyright = author
version = release = __version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"

html_theme = "alabaster"
html_theme_options = {
    "description": "Web requests to a pool of workers, over ZeroMQ, nothing lost",
    "page_width": "60em",
}
