"""How Sphinx builds the documentation: offline, and with every warning an error."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from pathlib import Path

from flag_analytics.config.schema import configuration_schema
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "flag-analytics"
author = "The flag-analytics authors"
copyright = "2026, The flag-analytics authors"  # noqa: A001 - the name is Sphinx's
version = release = importlib.metadata.version("flag-analytics")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "api_pages",
    "site_only",
    "markdown_twins",
]
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

# A reference to a public name of a module that the API reference describes must resolve. Without a network there is no
# inventory of other projects' names.
_api = Path(__file__).with_name("reference") / "api.md"
_described = re.findall(r"^\.\. automodule:: (\S+)$", _api.read_text("utf-8"), re.MULTILINE)
nitpick_ignore_regex = [
    ("py:.*", pattern)
    for pattern in (
        rf"(?!(?:{'|'.join(map(re.escape, _described))})\.\w+).*",
        r".*\._\w+",
        r"flag_analytics\.protocols\.Options",  # a type variable
    )
]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["copy.js"]
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
