"""``import``: a file of events into the configured backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ..choices import FileFormat, ImportFormat
from ..file_errors import FileError
from ..parameters import OK, PROBLEM, Config, FileOptions, InputFile, Switch
from ..terminal import note
from ..visible import visible
from ..wording import counted

if TYPE_CHECKING:
    from flag_analytics.config.plan import Plan

    from ..imported import Imported
    from ..importing import EventFile

__all__ = ["import_file"]

_DEFAULTS = FileOptions()


def import_file(
    file: InputFile,
    /,
    *,
    format: ImportFormat = "table",  # noqa: A002 - it is the option's name
    options: FileOptions = _DEFAULTS,
    source: str = "",
    dry_run: Switch = False,
    config: Config = None,
) -> int:
    """Import a file of events: CSV, JSON, Parquet, and the exports of common tools.

    Importing a file again stores nothing twice in a backend that stores each id once, as database does.

    Args:
        file: The file, or - for standard input.
        format: A sentence for people, or json. A file's format is taken for --file-format.
        source: A name that goes into the events' ids, for two exports that may have the same lines.
        dry_run: Store nothing: show the mapping, and five events as they would be stored.
        config: A configuration file.
    """
    form = None if format in {"table", "json"} else cast("FileFormat", format)
    event_file = options.event_file(file, file_format=form, source=source)
    if dry_run:
        from ..dry_run import dry_import

        return PROBLEM if dry_import(event_file, options.strict, as_json=format == "json").bad_lines else OK
    from ..settings import chosen_plan, keeps_events

    plan = chosen_plan(config)
    if not keeps_events(plan):
        raise FileError(
            "nothing would keep the events after this command: configure a backend that does, such as "
            f"[collectors.database], or see them at once with `flag-analytics report --file {file}`"
        )
    from ..imported import import_json, print_import

    imported = _store(plan, event_file, options.strict)
    show = import_json if format == "json" else print_import
    show(imported)
    return PROBLEM if imported.outcome.bad_lines else OK


def _store(plan: Plan, file: EventFile, strict: bool) -> Imported:
    from ..imported import Imported, new_events
    from ..importing import ImportReport, read_file, say_left_out
    from ..storing import STORED_ONCE, count_stored, flush_all, open_patiently, patient_recorder

    outcome = ImportReport()
    with open_patiently(plan) as pipeline:
        before = count_stored(pipeline, plan)
        try:
            read_file(file, patient_recorder(pipeline), outcome, strict=strict)
            flush_all(pipeline)
        except KeyboardInterrupt:
            pipeline.flush_sync(1.0)
            stored = ", ".join(
                f"{sink.delivered:,} in {visible(name)}" for name, sink in pipeline.stats().sinks.items()
            )
            note(
                f"stored of the {counted(outcome.events, 'event')} read: {stored}; import the file again to go on: "
                f"{STORED_ONCE}"
            )
            raise
        finally:
            say_left_out(file, outcome)
        after = count_stored(pipeline, plan)
    names = tuple(sink.name for sink in plan.sinks)
    new = new_events(plan, outcome.events, before, after)
    return Imported(file.name, outcome, names, new, stopped=strict and bool(outcome.bad_lines))
