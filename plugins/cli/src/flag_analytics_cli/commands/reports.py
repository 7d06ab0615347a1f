"""``report``: the metrics of flags, of a backend or of a file alone."""

from __future__ import annotations

from ..choices import ReportFormat
from ..parameters import OK, PROBLEM, Config, FileOptions, InputFile, UsageError
from ..terminal import note
from ..visible import visible
from ..windows import parse_window

__all__ = ["report"]

_DEFAULTS = FileOptions()


def report(
    *flags: str,
    window: str = "all",
    format: ReportFormat = "table",  # noqa: A002 - it is the option's name
    collector: str | None = None,
    file: InputFile | None = None,
    options: FileOptions = _DEFAULTS,
    config: Config = None,
) -> int:
    """Show the metrics of flags: all of them, or some.

    Args:
        flags: The keys of flags; without any, all that have events in the window.
        window: How far back from now: 90s, 15m, 1h, 7d, 2w or all.
        format: A table for people; json has every figure, csv a line for each variant of each flag.
        collector: Ask this one of the configured collectors; by default the first that keeps events for good.
        file: Report on this file alone, without storing anything; - is standard input.
        config: A configuration file.
    """
    from ..reporting import write_report

    seconds = _window(window)
    if file is None:
        if options.is_set:
            raise UsageError("--map, --flag-key, --strict and the like are about a file: add --file FILE")
        from ..stored import stored_report

        figures = stored_report(config, flags, seconds, collector)
        write_report(figures, format)
        for missing in figures.missing if format != "table" else ():
            note(f"no evaluations of {visible(missing)} in the window")
        return PROBLEM if figures.missing else OK
    if collector is not None:
        raise UsageError("--collector names where to read, and so does --file: give one of the two")
    from ..stored import file_report

    event_file = options.event_file(file, fallback_key=flags[0] if len(flags) == 1 else None)
    figures, bad_lines = file_report(event_file, flags, seconds, strict=options.strict)
    write_report(figures, format)
    return PROBLEM if bad_lines or figures.missing else OK


def _window(text: str) -> float | None:
    try:
        return parse_window(text)
    except ValueError as error:
        raise UsageError(f"--window: {error}") from None
