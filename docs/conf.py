"""How Sphinx builds the documentation: offline, and with every warning an error."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

from flag_analytics.config.schema import configuration_schema
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "flag-analytics"
author = "The flag-analytics authors"
copyright = "2026, The flag-analytics authors"  # noqa: A001 - the name is Sphinx's
version = release = importlib.metadata.version("flag-analytics")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "api_pages", "site_only", "markdown_twins"]
exclude_patterns = ["_build", "_ext"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_custom_sections = [("Capabilities", "params_style")]

# Without a network there is no inventory of other projects' names. Of our own, private ones, type variables and the
# modules inside a backend are not described; every other reference must resolve.
nitpick_ignore_regex = [
    ("py:.*", pattern)
    for pattern in (r"(?!flag_analytics).*", r".*\._\w+", r"flag_analytics_.*", r"flag_analytics\.protocols\.Options")
]

html_theme = "furo"
html_title = "flag-analytics"
html_copy_source = False
html_show_sourcelink = False


def setup(app: Sphinx) -> None:
    """Put the JSON Schema of a configuration of all of this project's plugins onto the site."""

    def write_schema(app: Sphinx, error: Exception | None) -> None:
        if error is None:
            schema, _ = configuration_schema()
            (Path(app.outdir) / "flag-analytics.schema.json").write_text(json.dumps(schema, indent=2), "utf-8")

    app.connect("build-finished", write_schema)
