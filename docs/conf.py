"""Sphinx: `make docs` writes docs/_build/html."""

import sys
from pathlib import Path

from zpipeline._version import __version__

sys.path.insert(0, str(Path(__file__).with_name("_extensions")))

project = "zpipeline"
author = "the zpipeline authors"
copyright = author
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "options",  # docs/_extensions/options.py
]
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"

# Literal blocks are shells and consoles; Python says so by itself.
highlight_language = "none"

html_theme = "furo"
html_title = f"zpipeline {version}"
