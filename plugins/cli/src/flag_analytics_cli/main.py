"""The ``flag-analytics`` command: its subcommands, and what its exit code means.

0: all is well. 1: a problem was found, in the configuration, a file, a plugin, or with storing events. 2: the command
line itself is wrong. 130: interrupted.
"""

from __future__ import annotations

import difflib
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast

from cyclopts import App, CycloptsError, Parameter
from flag_analytics.errors import ConfigError, FlagAnalyticsError

from .choices import FileFormat, ImportFormat, LettersFormat, ListFormat, ReportFormat
from .file_errors import ColumnError, FileError
from .terminal import diagnostics, hush_the_library, note, prepare_streams, print_json, results, say
from .visible import visible
from .windows import parse_window
from .wording import counted

__all__ = ["UsageError", "build_app", "main"]

OK, PROBLEM, USAGE, INTERRUPTED = 0, 1, 2, 130

_READ_FILES = ("import", "report")
_OWN_COMMANDS = ("check", "dead-letters", "demo", "import", "plugins", "report", "spool")
_HELP = (
    "What are our feature flags really doing?\n\n"
    "Every command works with the backends that flag-analytics.toml, [tool.flag-analytics] in pyproject.toml or "
    "FLAG_ANALYTICS__... environment variables name. Where none does, events are kept in flag-analytics.db, an SQLite "
    "file, if the database plugin is installed."
)

Config = Annotated[Path | None, Parameter(name="--config", env_var="FLAG_ANALYTICS_CONFIG", show_env_var=True)]
DemoConfig = Annotated[Path | None, Parameter(name="--config")]
"""Without the environment variable: made-up events go to configured backends only where somebody says so."""
Mappings = Annotated[list[str] | None, Parameter(name="--map", negative=())]
Switch = Annotated[bool, Parameter(negative=())]
InputFile = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A path, or ``-``. Whatever else begins with a hyphen is an option that does not exist: see ``_unknown_option``."""


class UsageError(Exception):
    """The command line asks for something that makes no sense; the message says what would."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    prepare_streams()
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(tokens)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has had enough. Python must not meet the broken pipe again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PROBLEM
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    return code


def _run(tokens: list[str]) -> int:
    app = build_app()
    if tokens and tokens[0] in _OWN_COMMANDS:
        hush_the_library()
    else:
        _add_plugin_commands(app, tokens)  # which may leave to the log what they have to say
    try:
        unknown = _unknown_option(app, tokens)
        if unknown is not None:
            raise UsageError(unknown)
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except (CycloptsError, UsageError, ColumnError) as error:
        _complain(error, USAGE)
        command = " ".join(("flag-analytics", *app.parse_commands(tokens)[0]))
        note(f"`{command} --help` shows what is possible")
        return USAGE
    except ConfigError as error:
        from .check import print_problems

        print_problems(diagnostics(), error)
        return PROBLEM
    except BrokenPipeError:
        raise
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else error, PROBLEM)
    except (FlagAnalyticsError, FileError) as error:
        return _complain(error, PROBLEM)
    return code if isinstance(code, int) else OK


def _complain(problem: object, code: int) -> int:
    note(f"flag-analytics: {visible(str(problem))}", "red")
    return code


def _unknown_option(app: App, tokens: Sequence[str]) -> str | None:
    """Return what is wrong with the first option that the command does not have, of those that read a file.

    Their file may begin with a hyphen, since ``-`` is standard input, so that the parser would take it for the file.
    """
    if not tokens or tokens[0] not in _READ_FILES:
        return None
    options = {name for argument in app[tokens[0]].assemble_argument_collection() for name in argument.names}
    options |= {"--help", "-h", "--version"}
    for word in itertools.takewhile(lambda word: word != "--", tokens[1:]):
        name = word.partition("=")[0]
        if name.startswith("-") and name != "-" and name not in options:
            close = difflib.get_close_matches(name, sorted(options), n=1)
            return f"unknown option {name}: " + (f"did you mean {close[0]}?" if close else "there is none of this name")
    return None


def _add_plugin_commands(app: App, tokens: Sequence[str]) -> None:
    """Let the plugins that configuration names add commands.

    Done only where such a command or the list of all may be meant, since it imports those plugins.
    """
    if tokens[:1] == ["--version"]:
        return
    from flag_analytics.registry import default_registry

    from .settings import chosen_plan, chosen_plugins

    registry = default_registry()
    selected = sorted(chosen_plugins(_config_in(tokens), registry) & registry.installed().keys())
    for problem in registry.add_commands(app, selected, chosen_plan):
        note(f"commands of a plugin are missing: {visible(str(problem))}", "yellow")


def _config_in(tokens: Sequence[str]) -> Path | None:
    """Return the value of --config before anything is parsed: it decides which commands there are."""
    for word, following in itertools.zip_longest(tokens, tokens[1:]):
        if word.startswith("--config="):
            return Path(word.removeprefix("--config="))
        if word == "--config" and following:
            return Path(following)
    named = os.environ.get("FLAG_ANALYTICS_CONFIG")
    return Path(named) if named else None


def build_app() -> App:
    """Return the command with its own subcommands. What they need is imported when they run."""
    app = App(
        name="flag-analytics",
        help=_HELP,
        help_format="plaintext",
        version=_version,
        console=results(),
        error_console=diagnostics(),
        suppress_keyboard_interrupt=False,
    )
    app.command(demo)
    app.command(import_file, name="import", usage="Usage: flag-analytics import FILE [OPTIONS]")
    app.command(report, usage="Usage: flag-analytics report [FLAG ...] [OPTIONS]")
    app.command(plugins)
    app.command(check)
    app.command(dead_letters)
    spool = App(name="spool", help="Look after the events that wait on disk.")
    spool.command(inspect)
    spool.command(replay)
    spool.command(export)
    app.command(spool)
    return app


def _version() -> str:
    from importlib.metadata import version

    return version("flag-analytics-cli")


def demo(*, events: int = 5_000, seed: int = 1, once: Switch = False, config: DemoConfig = None) -> int:
    """Evaluate real flags for simulated users, and show what was recorded.

    The made-up events go to flag-analytics.db in this directory, never to the backends that are configured here.

    Args:
        events: How many evaluations.
        seed: The same seed brings the same users to the same flags.
        once: No live table: evaluate as fast as possible and print the result, for scripts.
        config: Send the made-up events to the backends of this configuration file instead.
    """
    if events < 1:
        raise UsageError(f"--events {events} is too few: expected at least 1")
    from .demo import run_demo
    from .settings import DATABASE_FILE, demo_plan, is_configured, is_embedded, keeps_events

    plan = demo_plan(config)
    finished = run_demo(plan, events=events, seed=seed, live=not once and results().is_terminal)
    if is_embedded(plan) and keeps_events(plan):
        again = "apart from the backends that are configured" if is_configured() else "`flag-analytics report` shows it"
        note(f"\nKept in {DATABASE_FILE}: {again}.")
    if not finished:
        note("interrupted: these are the evaluations until then")
    return OK if finished else INTERRUPTED


def import_file(
    file: InputFile,
    /,
    *,
    format: ImportFormat = "table",  # noqa: A002 - it is the option's name
    file_format: FileFormat | None = None,
    map: Mappings = None,  # noqa: A002 - it is the option's name
    flag_key: str | None = None,
    encoding: str = "utf-8",
    strict: Switch = False,
    config: Config = None,
) -> int:
    """Import a file of events: CSV, JSON Lines, GO Feature Flag.

    Importing a file again stores nothing twice in a backend that stores each id once, as database does.

    Args:
        file: The file, or - for standard input.
        format: A sentence for people, or json. A file's format is taken for --file-format.
        file_format: The file's format; by default told from its name and first line.
        map: CSV: which column a field of the event is in, as field=column or context.NAME=column; may be repeated.
            Columns with usual names (timestamp, flag_key, variant, group, user_id, value, reason, …) are found without.
        flag_key: The flag's key, where the file does not say.
        encoding: The file's encoding.
        strict: Stop at the first line that is no event.
        config: A configuration file.
    """
    from .imported import Imported, import_json, new_events, print_import
    from .importing import EventFile, ImportReport, read_file, say_bad_lines, say_left_out
    from .settings import chosen_plan, keeps_events
    from .storing import STORED_ONCE, count_stored, flush_all, open_patiently, patient_recorder

    if format not in {"table", "json"}:
        file_format = file_format or cast("FileFormat", format)
    plan = chosen_plan(config)
    if not keeps_events(plan):
        raise FileError(
            "nothing would keep the events after this command: configure a backend that does, such as "
            f"[collectors.database], or see them at once with `flag-analytics report --file {file}`"
        )
    event_file = EventFile(file, file_format, _columns(map), flag_key, encoding)
    outcome = ImportReport()
    with open_patiently(plan) as pipeline:
        before = count_stored(pipeline, plan)
        try:
            read_file(event_file, patient_recorder(pipeline), outcome, strict=strict)
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
            say_bad_lines(file, outcome)
            say_left_out(file, outcome)
        after = count_stored(pipeline, plan)
    names = tuple(sink.name for sink in plan.sinks)
    new = new_events(plan, outcome.events, before, after)
    show = import_json if format == "json" else print_import
    show(Imported(file, outcome, names, new, stopped=strict and bool(outcome.bad_lines)))
    return PROBLEM if outcome.bad_lines else OK


def report(
    *flags: str,
    window: str = "all",
    format: ReportFormat = "table",  # noqa: A002 - it is the option's name
    collector: str | None = None,
    file: InputFile | None = None,
    file_format: FileFormat | None = None,
    map: Mappings = None,  # noqa: A002 - it is the option's name
    flag_key: str | None = None,
    encoding: str = "utf-8",
    strict: Switch = False,
    config: Config = None,
) -> int:
    """Show the metrics of flags: all of them, or some.

    Args:
        flags: The keys of flags; without any, all that have events in the window.
        window: How far back from now: 90s, 15m, 1h, 7d, 2w or all.
        format: A table for people; json has every figure, csv a line for each variant of each flag.
        collector: Ask this one of the configured collectors; by default the first that keeps events for good.
        file: Report on this file alone, without storing anything; - is standard input. What follows is as for import.
        file_format: The file's format.
        map: As for import.
        flag_key: As for import; by default the flag that is asked for.
        encoding: As for import.
        strict: As for import.
        config: A configuration file.
    """
    from .reporting import write_report

    seconds = _window(window)
    if file is None:
        if map or flag_key or file_format or strict:
            raise UsageError("--map, --flag-key, --file-format and --strict are about a file: add --file FILE")
        from .stored import stored_report

        figures = stored_report(config, flags, seconds, collector)
        write_report(figures, format)
        for missing in figures.missing if format != "table" else ():
            note(f"no evaluations of {visible(missing)} in the window")
        return PROBLEM if figures.missing else OK
    if collector is not None:
        raise UsageError("--collector names where to read, and so does --file: give one of the two")
    from .importing import EventFile
    from .stored import file_report

    given = flag_key or (flags[0] if len(flags) == 1 else None)
    figures, bad_lines = file_report(
        EventFile(file, file_format, _columns(map), given, encoding), flags, seconds, strict=strict
    )
    write_report(figures, format)
    return PROBLEM if bad_lines or figures.missing else OK


def plugins(
    *,
    probe: Switch = False,
    format: ListFormat = "table",  # noqa: A002 - it is the option's name
    config: Config = None,
) -> int:
    """List plugins: installed, selected, broken and why.

    Args:
        probe: Import those that are not selected, too, to see whether they work.
        format: A table for people, or json.
        config: A configuration file.
    """
    from flag_analytics.registry import default_registry

    from .plugins_command import find_plugins, plugins_json, print_plugins
    from .settings import chosen_plugins

    lines = find_plugins(default_registry(), chosen_plugins(config), probe=probe)
    if format == "json":
        plugins_json(lines)
    else:
        print_plugins(results(), lines)
    return PROBLEM if any(line.bad for line in lines) else OK


def check(
    file: Path | None = None,
    /,
    *,
    format: ListFormat = "table",  # noqa: A002 - it is the option's name
    config: Config = None,
) -> int:
    """Check a configuration, and list all its problems at once.

    Connects to nothing, creates no file, and shows no value that may be secret.

    Args:
        file: The configuration file; by default the one that the other commands would use.
        format: Lines for people, or json.
        config: Another way to name the file.
    """
    from .check import check_json, print_plan, print_problems
    from .foreseen import foreseen_problems
    from .settings import chosen_plan

    plan = problem = None
    try:
        plan = chosen_plan(file if file is not None else config)
        problems = foreseen_problems(plan)
        problem = ConfigError(problems, plan.label) if problems else None
    except ConfigError as error:
        problem = error
    if format == "json":
        check_json(plan, problem)
    elif problem is not None:
        print_problems(diagnostics(), problem)
    elif plan is not None:
        print_plan(results(), plan)
    return OK if problem is None else PROBLEM


def inspect(
    directory: Path | None = None,
    /,
    *,
    format: ListFormat = "table",  # noqa: A002 - it is the option's name
    config: Config = None,
) -> int:
    """Show what waits in spools, and for how long. Changes nothing.

    Args:
        directory: The spools' directory; by default the configured one, else all of this user's applications.
        format: A table for people, or json.
        config: A configuration file.
    """
    from .spool_commands import look_at, print_spools, say_problems

    files = look_at(_spool_directories(directory, config))
    if format == "json":
        print_json({"spools": [file.to_dict() for file in files]})
    else:
        print_spools(results(), files)
    return PROBLEM if say_problems(files) else OK


def replay(
    directory: Path | None = None,
    /,
    *,
    format: ListFormat = "table",  # noqa: A002 - it is the option's name
    config: Config = None,
) -> int:
    """Deliver what processes that are gone have left in their spools.

    Each event goes to the backends of the same names in the configuration, and leaves the spool once it is stored.

    Args:
        directory: The spools' directory; by default the configured one, else that of this user's only application.
        format: Lines for people, or json.
        config: A configuration file.
    """
    from .replaying import ReplayReport, print_replay
    from .replaying import replay as replay_spools
    from .settings import chosen_plan
    from .spool_commands import directories_to_replay

    plan = chosen_plan(config)
    folders = directories_to_replay(directory, plan)
    outcome = ReplayReport()
    try:
        for folder in folders:
            replay_spools(plan, folder, outcome)
    finally:
        # What was delivered has left its spool, whatever came after it.
        for file, count in outcome.set_aside.items():
            note(f"set aside: {counted(count, 'event')} that cannot be read, kept in {visible(file)}", "yellow")
        for left in outcome.left:
            note(f"left alone: {visible(left)}", "yellow")
        if format == "json":
            print_json(outcome.to_dict())
        else:
            print_replay(results(), outcome)
    if format == "table" and outcome.found_nothing:
        say(results(), "Nothing to replay.")
    return OK if outcome.is_complete else PROBLEM


def export(directory: Path | None = None, /, *, output: Path | None = None, config: Config = None) -> int:
    """Write the events that wait in spools as JSON Lines, and leave them where they are.

    Args:
        directory: The spools' directory; by default the configured one, else all of this user's applications.
        output: The file to write; by default standard output.
        config: A configuration file.
    """
    from .spool_commands import export_events, say_left_out, spools_of

    spools = spools_of(_spool_directories(directory, config))
    left: list[str] = []
    if output is None:
        export_events(spools, sys.stdout, left)
    else:
        with output.open("w", encoding="utf-8") as file:
            count = export_events(spools, file, left)
        say(results(), f"{counted(count, 'event')} written to {visible(str(output))}")
    say_left_out(left)
    return PROBLEM if left else OK


def dead_letters(
    directory: Path | None = None,
    /,
    *,
    limit: int = 1_000,
    format: LettersFormat = "table",  # noqa: A002 - it is the option's name
    config: Config = None,
) -> int:
    """Show the events that backends refused for good: those in spools, and those that a backend keeps itself.

    Args:
        directory: Look into the spools of this directory alone; by default into the configured one, else those of all
            of this user's applications, and into the configured backends.
        limit: The most events of each backend, the newest.
        format: A table of how many and why; the events as one json array; or jsonl, as `import` reads it.
        config: A configuration file.
    """
    from .spool_commands import (
        dead_letters_json,
        print_dead_letters,
        read_dead_letters,
        say_left_out,
        spools_of,
        write_dead_letters,
    )

    if limit < 1:
        raise UsageError(f"--limit {limit} is too few: expected at least 1")
    left: list[str] = []
    letters = read_dead_letters(spools_of(_spool_directories(directory, config)), left)
    say_left_out(left)
    failed = bool(left)
    if directory is None:
        from .kept_letters import kept_dead_letters
        from .settings import chosen_plan

        kept, problems = kept_dead_letters(chosen_plan(config), limit)
        letters += kept
        failed = failed or bool(problems)
        for problem in problems:
            note(visible(problem), "red")
    if format == "json":
        dead_letters_json(letters)
    elif format == "jsonl":
        write_dead_letters(letters, sys.stdout)
    elif letters:
        print_dead_letters(results(), letters)
    elif not failed:
        say(results(), "No dead letters.")
    return PROBLEM if failed else OK


def _spool_directories(directory: Path | None, config: Path | None) -> list[Path]:
    from .settings import chosen_plan
    from .spool_commands import chosen_directories

    # A directory that is named needs no configuration, which may be why somebody looks into it.
    return chosen_directories(directory, None if directory is not None else chosen_plan(config))


def _columns(mappings: list[str] | None) -> dict[str, str]:
    from .importing import MapError, parse_map

    try:
        return parse_map(mappings or [])
    except MapError as error:
        raise UsageError(str(error)) from None


def _window(text: str) -> float | None:
    try:
        return parse_window(text)
    except ValueError as error:
        raise UsageError(f"--window: {error}") from None
