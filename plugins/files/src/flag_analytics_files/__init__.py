"""Files for flag-analytics: JSON Lines or Parquet, in a directory or an object store, each event once.

::

    [collectors.files]
    location = "s3://analytics/flags"
    format = "parquet"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .options import FilesOptions
from .sink import FilesSink

if TYPE_CHECKING:
    from .source import FilesSource

__all__ = ["FilesOptions", "FilesSink", "FilesSource"]


def __getattr__(name: str) -> Any:
    # Only who asks questions needs the arithmetic of metrics.
    if name != "FilesSource":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .source import FilesSource

    return FilesSource
