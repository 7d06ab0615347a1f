"""``import``, ``imports`` and ``copy``: events into the configured backends, and out of them again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from cyclopts import Parameter

from ..choices import FileFormat, ImportFormat, ListFormat
from ..file_errors import FileError
from ..parameters import OK, PROBLEM, Config, FileOptions, InputFile, Switch, UsageError
from ..terminal import note, print_json, results, say
from ..visible import visible
from ..wording import counted

if TYPE_CHECKING:
    from flag_analytics.config.plan import Plan

    from ..imported import Imported
    from ..importing import EventFile
    from ..stored import Place

__all__ = ["copy_events", "import_file", "list_imports", "undo_import"]

_DEFAULTS = FileOptions()


def import_file(
    file: InputFile,
    /,
    *,
    format: ImportFormat = "table",  # noqa: A002 - it is the option's name
    options: FileOptions = _DEFAULTS,
    source: str = "",
    name: str | None = None,
    replace: Switch = False,
    dry_run: Switch = False,
    config: Config = None,
) -> int:
    """Import a file of events: CSV, JSON, Parquet, and the exports of common tools.

    Importing a file again stores nothing twice in a backend that stores each id once, as database does.

    Args:
        file: The file, or - for standard input.
        format: A sentence for people, or json. A file's format is taken for --file-format.
        source: A name that goes into the events' ids, for two exports that may have the same lines.
        name: The name of this import, under which it can be undone; by default the file's.
        replace: Remove the events of the import of this name first.
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

    imported = _store(plan, event_file, options.strict, name, replace)
    show = import_json if format == "json" else print_import
    show(imported)
    return PROBLEM if imported.outcome.bad_lines else OK


def copy_events(
    origin: Annotated[str, Parameter(name="FROM", allow_leading_hyphen=True)],
    target: Annotated[str, Parameter(name="TO")],
    /,
    *,
    since: str | None = None,
    until: str | None = None,
    bookmark: Path | None = None,
    format: ListFormat = "table",  # noqa: A002 - it is the option's name
    options: FileOptions = _DEFAULTS,
    config: Config = None,
) -> int:
    """Copy the events of one collector into another, under the same ids; also those of a file.

    Copied again, none is twice in a backend that stores each id once, as database does.

    Args:
        origin: The name of the collector or source to read, as the configuration has it, or a file; - is standard
            input.
        target: The name of the collector to write.
        since: Only events from this time on: 2026-01-05, 2026-01-05T08:00Z, or how long ago, such as 7d.
        until: Only events up to this time, likewise; by default all.
        bookmark: A file that remembers how far the copy has come. With it an interrupted copy goes on from there.
        format: A sentence for people, or json.
        config: A configuration file.
    """
    from ..bookmarks import Bookmark
    from ..copying import Copied, copy_into, print_copy, target_plan
    from ..selection import parse_range
    from ..settings import chosen_plan, is_lasting

    window = parse_range(since, until, datetime.now(UTC))
    plan = chosen_plan(config)
    place = _place_of(plan, origin, options, config)
    collectors = {sink.name: sink for sink in plan.sinks if sink.role == "collector"}
    if target not in collectors:
        raise UsageError(f"{target}: no collector of this name is configured; configured are: {_names(collectors)}")
    if not is_lasting(collectors[target]):
        raise UsageError(f"{target} keeps no events after this command: name a collector that does")
    if target == origin:
        raise UsageError(f"{target} has its own events already: name two collectors")
    if bookmark is not None and place.file is not None:
        raise UsageError("--bookmark is for collectors, which are read by time: a file is read from its beginning")
    mark = None if bookmark is None else Bookmark.read(bookmark, origin, target)
    copied = Copied(origin, target, bookmark=mark)
    copy_into(target_plan(plan, target, processed=place.file is None), place, window, copied)
    if format == "json":
        print_json(copied.to_dict())
    else:
        print_copy(copied)
    return PROBLEM if copied.bad_lines or copied.refused else OK


def list_imports(*, format: ListFormat = "table", config: Config = None) -> int:  # noqa: A002 - the option's name
    """List imports: name, time, events.

    Args:
        format: A table for people, or json.
        config: A configuration file.
    """
    from ..batches import list_batches, print_batches
    from ..settings import chosen_plan

    batches = list_batches(chosen_plan(config))
    if format == "json":
        print_json({"imports": batches})
    else:
        print_batches(results(), batches)
    return OK


def undo_import(name: str, /, *, format: ListFormat = "table", config: Config = None) -> int:  # noqa: A002
    """Remove the events that an import brought, and only those.

    Args:
        name: The import's name, as the list has it.
        format: A sentence for people, or json.
        config: A configuration file.
    """
    from ..batches import undo_batch
    from ..settings import chosen_plan

    removed = undo_batch(chosen_plan(config), name)
    if format == "json":
        print_json({"name": name, "removed": removed})
    for collector, count in removed.items() if format == "table" else ():
        say(results(), f"{visible(collector)}: {counted(count, 'event')} removed")
    return OK


def _store(plan: Plan, file: EventFile, strict: bool, name: str | None, replace: bool) -> Imported:
    from ..batches import name_of, start_batch
    from ..imported import Imported, new_events
    from ..importing import ImportReport, read_file, say_left_out
    from ..storing import STORED_ONCE, count_stored, flush_all, open_patiently, patient_recorder

    outcome = ImportReport()
    with open_patiently(plan) as pipeline:
        for collector, count in start_batch(pipeline, name_of(file.name, name), replace=replace).items():
            note(f"{visible(collector)}: {counted(count, 'event')} of the import before removed")
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


def _place_of(plan: Plan, origin: str, options: FileOptions, config: Path | None) -> Place:
    """Return where the events to copy are."""
    from ..stored import Place

    names = [sink.name for sink in plan.sinks if sink.role == "collector"] + [source.name for source in plan.sources]
    if origin in names:
        if options.is_set:
            raise UsageError(f"--map, --flag-key, --strict and the like are about a file: {origin} is a collector")
        return Place(config, origin)
    if origin != "-" and not Path(origin).exists():
        raise FileError(
            f"{origin}: there is no file of this name, and no collector or source; configured are: {_names(names)}"
        )
    return Place(file=options.event_file(origin), strict=options.strict)


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
