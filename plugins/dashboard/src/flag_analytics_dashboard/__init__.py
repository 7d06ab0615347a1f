"""A live page that shows what feature flags are doing, and what became of every event: one ASGI application.

::

    app.mount("/flag-analytics", create_dashboard(pipeline, ApiOptions(token=os.environ["ANALYTICS_TOKEN"])))
"""

from __future__ import annotations

from .app import create_dashboard
from .panels import Chart, DashboardPanel, Points, panel

__all__ = ["Chart", "DashboardPanel", "Points", "create_dashboard", "panel"]
