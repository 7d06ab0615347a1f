"""The entry point: the collector and the source as a plugin of flag-analytics."""

from __future__ import annotations

from collections.abc import Sequence

from flag_analytics.hookspecs import hookimpl
from flag_analytics.protocols import Backend

from .options import FilesOptions
from .sink import FilesSink

__all__ = ["flag_analytics_register_collectors"]


@hookimpl
def flag_analytics_register_collectors() -> Sequence[Backend[FilesOptions]]:
    """Offer the collector as ``[collectors.files]``."""
    return [Backend("files", options=FilesOptions, create=FilesSink)]
