"""``database_of``: a collector for the database that the application's SQLAlchemy plugin is configured for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["database_of"]


def database_of(config: Any, **options: Any) -> dict[str, Any]:
    """Return the options of ``[collectors.database]`` for the database of a ``SQLAlchemyAsyncConfig``.

    URL and connect arguments are taken over; the engine is not, since the connections of an asynchronous pool belong to
    the event loop that made them, and events are written in another one.

    Args:
        config: The configuration of advanced-alchemy's plugin.
        **options: Further options of the collector, such as ``retention_days=90``.

    Raises:
        ValueError: the configuration has an engine instead of a URL, or no URL.
    """
    url = getattr(config, "connection_string", None)
    if not isinstance(url, str) or not url:
        raise ValueError(
            "the SQLAlchemy configuration has no connection_string: expected one with a URL, since an engine cannot be "
            "shared between event loops"
        )
    arguments = getattr(getattr(config, "engine_config", None), "connect_args", None)
    engine = {"connect_args": dict(arguments)} if isinstance(arguments, Mapping) and arguments else {}
    return {"connection_string": url, **({"engine": engine} if engine else {}), **options}
