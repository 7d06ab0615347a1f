"""Every option of the files collector, its unit and its default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

import attrs
from flag_analytics.config.kinds import ByteSize
from flag_analytics.reports import DeliveryOptions

__all__ = ["Compression", "FileFormat", "FilesOptions"]

FileFormat = Literal["jsonl", "parquet"]
Compression = Literal["none", "gzip"]

_at_least_one = attrs.validators.ge(1)


def _check_age(_: Any, __: attrs.Attribute[Any], age: timedelta) -> None:
    if age <= timedelta(0):
        raise ValueError("expected more than 0 seconds")


@attrs.frozen(kw_only=True)
class FilesOptions:
    """Options of the collector.

    Attributes:
        location: The directory, or the URL of a place in an object store: ``s3://bucket/path``, ``gs://…``, ``az://…``.
        format: ``jsonl`` (a line of JSON for each event) or ``parquet``.
        compression: Whether JSON Lines are compressed with ``gzip``; Parquet always is, with Zstandard.
        max_file_events: The most events in one file.
        max_file_bytes: The most bytes of events in one file, before compression.
        max_file_age: How long events wait for a file to fill.
        fsync: Whether a file in a directory is on the disk before its events count as stored.
        storage: Settings of the object store by their names in ``obstore``: ``region``, ``endpoint``, keys.
    """

    location: str = attrs.field(converter=str, validator=attrs.validators.min_len(1))
    format: FileFormat = attrs.field(default="jsonl", validator=attrs.validators.in_(("jsonl", "parquet")))
    compression: Compression = attrs.field(default="none", validator=attrs.validators.in_(("none", "gzip")))
    max_file_events: int = attrs.field(default=20_000, validator=_at_least_one)
    max_file_bytes: ByteSize = attrs.field(default=16 * 2**20, validator=_at_least_one)
    max_file_age: timedelta = attrs.field(default=timedelta(seconds=60), validator=_check_age)
    fsync: bool = True
    storage: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False, metadata={"secret": True})

    @property
    def suffix(self) -> str:
        """The end of a file's name."""
        if self.format == "parquet":
            return ".parquet"
        return ".jsonl.gz" if self.compression == "gzip" else ".jsonl"

    @property
    def in_object_store(self) -> bool:
        """Whether the location is a URL."""
        return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", self.location) is not None

    def engine_options(self) -> DeliveryOptions:
        """Return settings of the delivery engine under which a batch is a file, full by size or age."""
        return DeliveryOptions(
            max_events=max(50_000, 2 * self.max_file_events),
            max_bytes=max(32 * 2**20, 2 * self.max_file_bytes),
            batch_size=self.max_file_events,
            max_batch_bytes=self.max_file_bytes,
            flush_interval_seconds=self.max_file_age.total_seconds(),
            attempt_timeout_seconds=60.0,
        )
