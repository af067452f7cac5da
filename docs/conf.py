"""Sphinx settings."""

from sb3_barpo import __version__

project = "sb3_barpo"
author = "The sb3_barpo developers"
copyright = author  # the name is Sphinx's
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build", "supported.md"]  # the latter is a part of a page

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "mixed"

copybutton_prompt_text = r">>> |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"sb3_barpo {release}"
html_static_path = ["_static"]
