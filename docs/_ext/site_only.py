"""Keeps pages readable in the repository: Sphinx's own markup stands in comments, which this extension opens.

- ``<!-- site`` … ``-->``, each on a line of its own: the text between them is part of the site only.
- A link to a plugin's README leads to its page here, which is the same text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_SITE_ONLY = re.compile(r"^<!-- site\n(?P<content>.*?)^-->$", re.MULTILINE | re.DOTALL)
_README = re.compile(r"\]\((?P<up>(?:\.\./)*)\.\./plugins/(?P<plugin>\w+)/README\.md")


def as_site(text: str) -> str:
    """Return the source of a page as Sphinx is to read it."""
    text = _README.sub(r"](\g<up>backends/\g<plugin>.md", text)
    return _SITE_ONLY.sub(lambda match: match["content"], text)


def _read(_: Sphinx, __: str, content: list[str]) -> None:
    content[0] = as_site(content[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
