"""The ``options`` directive: a table of the options of a backend (``collectors.memory``) or of an attrs class."""

from __future__ import annotations

import importlib
from typing import Any

import attrs
from attributes import backends, default_text, described
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class OptionsTable(SphinxDirective):
    """Lists every option with its type, its default, and what the class's docstring says of it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        cls = _options_class(name)
        if cls is None:
            raise self.error(f"no backend and no class is called {name}; backends: {', '.join(dict(backends()))}")
        texts = described(cls)
        rows = []
        for field in attrs.fields(cls):
            if field.name not in texts:
                raise self.error(f"{cls.__name__}.{field.name} is not described in the docstring of {cls.__name__}")
            kind = str(field.type).replace("|", "\\|")
            rows.append(f"| `{field.name}` | `{kind}` | {default_text(field)} | {texts[field.name]} |")
        if not rows:
            return self.parse_text_to_nodes("There are no options.")
        table = ["| Option | Type | Default | Meaning |", "|---|---|---|---|", *rows]
        return self.parse_text_to_nodes("\n".join(table))


def _options_class(name: str) -> type[Any] | None:
    known = dict(backends())
    if name in known:
        return known[name].options
    module, _, cls = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError):
        return None


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("options", OptionsTable)
    return {"parallel_read_safe": True}
