"""How the site is built (`make docs`): Sphinx, Markdown through MyST, API from docstrings.

Nothing is fetched, then or later.
"""

from __future__ import annotations

from hwbench import __version__

project = "hwbench"
author = "the authors of hwbench"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
copybutton_prompt_text = "$ "  # what is copied of a session is what was typed
myst_heading_anchors = 3
default_role = "code"  # what docstrings put between single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them
napoleon_use_rtype = False
html_theme = "furo"
html_title = f"hwbench {release}"
html_copy_source = html_show_sourcelink = False
html_show_copyright = False
