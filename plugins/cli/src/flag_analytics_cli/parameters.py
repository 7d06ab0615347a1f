"""Parameters that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import attrs
from cyclopts import Parameter

from .choices import FileFormat

if TYPE_CHECKING:
    from .importing import EventFile

__all__ = [
    "DEFAULT_PORT",
    "OK",
    "PROBLEM",
    "Config",
    "FileOptions",
    "InputFile",
    "SourceOptions",
    "Switch",
    "UsageError",
    "Words",
]

OK, PROBLEM = 0, 1
DEFAULT_PORT = 8350
"""The port of the page: one that no well-known service has."""

Config = Annotated[Path | None, Parameter(name="--config", env_var="FLAG_ANALYTICS_CONFIG", show_env_var=True)]
InputFile = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A path, or ``-``. Anything else that begins with a hyphen is an unknown option: see ``unknown_option``."""
Switch = Annotated[bool, Parameter(negative=())]
Words = Annotated[list[str] | None, Parameter(negative=())]


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class SourceOptions:
    """Where the events are."""

    collector: str | None = None
    """Ask this one of the configured collectors; by default the first that keeps events for good."""
    file: InputFile | None = None
    """Read this file alone, without storing anything; - is standard input."""
    config: Config = None
    """A configuration file."""


class UsageError(Exception):
    """The command line asks for something that makes no sense; the message says what would."""


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class FileOptions:
    """How a file of events is read."""

    file_format: FileFormat | None = None
    """The file's shape; by default recognised by its columns or members."""
    map: Words = None
    """Which column a field is in, as field=COLUMN or context.NAME=COLUMN, of JSON a dotted path; may be repeated."""
    ignore: Words = None
    """A column that is left out knowingly; may be repeated."""
    flag_key: str | None = None
    """The flag's key, where the file does not say."""
    timezone: str | None = None
    """The zone of times that name none, such as Europe/Berlin; by default UTC."""
    timestamp: str | None = None
    """The time of every event, for a file that has none."""
    timestamp_format: str | None = None
    """The form of the times, such as '%d/%m/%Y %H:%M', or excel for the serial days of a spreadsheet."""
    encoding: str = "utf-8"
    """The file's encoding."""
    strict: Switch = False
    """Stop at the first line that is no event."""

    @property
    def is_set(self) -> bool:
        return self != FileOptions()

    def event_file(
        self,
        name: str,
        *,
        file_format: FileFormat | None = None,
        fallback_key: str | None = None,
        source: str = "",
    ) -> EventFile:
        """Return the file of this name with these options.

        Raises:
            UsageError: an option makes no sense.
        """
        from .importing import EventFile, MapError, parse_map
        from .reading import ReadOptions, parse_time, parse_zone

        try:
            columns = parse_map(self.map or ())
        except MapError as error:
            raise UsageError(str(error)) from None
        try:
            zone = parse_zone(self.timezone or "UTC")
        except ValueError as error:
            raise UsageError(f"--timezone {error}") from None
        try:
            time = None if self.timestamp is None else parse_time(self.timestamp, zone)
        except ValueError as error:
            raise UsageError(f"--timestamp {error}") from None
        options = ReadOptions(
            form=self.file_format or file_format,
            columns=columns,
            ignored=frozenset(self.ignore or ()),
            flag_key=self.flag_key,
            fallback_key=fallback_key,
            zone=zone,
            time_format=self.timestamp_format,
            time=time,
            source=source,
        )
        return EventFile(name, options, self.encoding)
