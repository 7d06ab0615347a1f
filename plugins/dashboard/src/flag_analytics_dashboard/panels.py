"""Panels: further pictures of the overview, each a title, a question and how its answer is drawn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Literal, cast

import attrs
from flag_analytics.pipeline import Pipeline

__all__ = ["Chart", "DashboardPanel", "Points", "panel", "panels_of"]

Chart = Literal["bars", "line", "number"]
"""``bars``: one for each name. ``line``: values over time. ``number``: one figure."""
Points = Iterable[tuple[str | datetime, float]]
"""Names, or times for a line, and their values."""


@attrs.frozen
class DashboardPanel:
    """One panel.

    Attributes:
        title: What the picture shows.
        question: Answers with points, asked each time the page is opened; or the path of an address on the same origin
            that answers ``{"points": [{"name": …, "value": …}, …]}``.
        chart: How they are drawn.
    """

    title: str
    question: str | Callable[[Pipeline], Awaitable[Points]]
    chart: Chart = "bars"


def panel(title: str, question: str | Callable[[Pipeline], Awaitable[Points]], chart: Chart = "bars") -> DashboardPanel:
    """Return a panel, for ``create_dashboard(panels=…)`` or a backend's ``dashboard_panels()``.

    Raises:
        ValueError: the question is an address, and not a path on the same origin, which the page could not ask.
    """
    if isinstance(question, str) and (not question.startswith("/") or question.startswith(("//", "/\\"))):
        raise ValueError(f"the question of panel {title!r} is {question!r}: expected a path that begins with one slash")
    return DashboardPanel(title, question, chart)


def panels_of(pipeline: Pipeline, given: Sequence[DashboardPanel]) -> tuple[DashboardPanel, ...]:
    """Return the given panels, and those of the pipeline's backends that have a method ``dashboard_panels()``."""
    found = list(given)
    for backend in (*pipeline.collectors.values(), *pipeline.exporters.values()):
        offered = getattr(backend, "dashboard_panels", None)
        if callable(offered):
            found.extend(cast("Iterable[DashboardPanel]", offered()))
    return tuple(found)
