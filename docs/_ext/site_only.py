"""Keeps pages readable in the repository: Sphinx's own markup stands in comments, which this extension opens.

- ``<!-- site`` … ``-->``, each on a line of its own: the text between them is part of the site only.
- A link to a plugin's README leads to its page here, which is the same text.
- Between ``<!-- tabs -->`` and ``<!-- /tabs -->``, each heading of the fourth level becomes a tab.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_SITE_ONLY = re.compile(r"^<!-- site\n(?P<content>.*?)^-->$", re.MULTILINE | re.DOTALL)
_README = re.compile(r"\]\((?P<up>(?:\.\./)*)\.\./plugins/(?P<plugin>\w+)/README\.md")
_TABS = re.compile(r"^<!-- tabs -->\n(?P<content>.*?)^<!-- /tabs -->$", re.MULTILINE | re.DOTALL)
_TAB = re.compile(r"^#### (?P<title>.+)\n(?P<content>(?:(?!#### ).*\n)*)", re.MULTILINE)


def as_site(text: str) -> str:
    """Return the source of a page as Sphinx is to read it."""
    text = _README.sub(r"](\g<up>backends/\g<plugin>.md", text)
    return _SITE_ONLY.sub(lambda match: match["content"], text)


def with_tabs(text: str) -> str:
    """Return the source of a page with its headings between the marks as tabs."""
    return _TABS.sub(lambda match: f"::::{{tab-set}}\n{_TAB.sub(_tab, match['content'])}::::", text)


def _tab(match: re.Match[str]) -> str:
    return f":::{{tab-item}} {match['title']}\n{match['content']}:::\n\n"


def _read(_: Sphinx, __: str, content: list[str]) -> None:
    content[0] = with_tabs(as_site(content[0]))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
