"""``panel``: a further picture of the overview, from a question that answers with a table of figures."""

from __future__ import annotations

from typing import Literal

from flag_analytics_api import Panel

__all__ = ["Chart", "panel"]

Chart = Literal["bars", "line", "number"]
"""``bars``: one for each name. ``line``: values over time. ``number``: one figure."""


def panel(title: str, question: str, chart: Chart = "bars") -> Panel:
    """Return a panel for ``create_dashboard(panels=…)``.

    Args:
        title: What the picture shows.
        question: The address of its figures on the same origin: JSON, ``{"points": [{"name": …, "value": …}, …]}``.
            For a line, names are times in ISO 8601.
        chart: How they are drawn.

    Raises:
        ValueError: the address is not a path on the same origin, which the page could not ask.
    """
    if not question.startswith("/") or question.startswith(("//", "/\\")):
        raise ValueError(f"the question of panel {title!r} is {question!r}: expected a path that begins with one slash")
    return Panel(title, question, chart)
