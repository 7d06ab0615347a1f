"""The entry point: the collector and the source as a plugin of flag-analytics."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flag_analytics.hookspecs import hookimpl
from flag_analytics.protocols import Backend

from .options import FilesOptions
from .sink import FilesSink

if TYPE_CHECKING:
    from .source import FilesSource

__all__ = ["flag_analytics_event_source", "flag_analytics_register_collectors", "flag_analytics_register_sources"]


@hookimpl
def flag_analytics_register_collectors() -> Sequence[Backend[FilesOptions]]:
    """Offer the collector as ``[collectors.files]``."""
    return [Backend("files", options=FilesOptions, create=FilesSink)]


@hookimpl
def flag_analytics_register_sources() -> Sequence[Backend[FilesOptions]]:
    """Offer what is in files as ``[sources.files]``."""
    return [Backend("files", options=FilesOptions, create=_source)]


@hookimpl
def flag_analytics_event_source(source: Any) -> FilesSource | None:
    """Read the files of a path or URL."""
    return _source(os.fspath(source)) if isinstance(source, str | os.PathLike) else None


def _source(location: FilesOptions | str) -> FilesSource:
    from .source import FilesSource  # what only writes needs none of it

    return FilesSource(location)
