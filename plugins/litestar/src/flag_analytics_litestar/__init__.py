"""flag-analytics for Litestar: a pipeline that opens and closes with the application, its page, metrics and commands.

::

    app = Litestar([...], plugins=[FlagAnalyticsPlugin(FlagAnalyticsConfig("flag-analytics.toml"))])
"""

from __future__ import annotations

from .application import FlagAnalyticsPlugin
from .config import FlagAnalyticsConfig
from .databases import database_of

__all__ = ["FlagAnalyticsConfig", "FlagAnalyticsPlugin", "database_of"]
