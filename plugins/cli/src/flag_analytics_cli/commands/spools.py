"""``spool`` and ``dead-letters``: the events that wait on disk, and those that backends refused for good."""

from __future__ import annotations

import sys
from pathlib import Path

from ..choices import LettersFormat, ListFormat
from ..parameters import OK, PROBLEM, Config, UsageError
from ..terminal import note, print_json, results, say
from ..visible import visible
from ..wording import counted

__all__ = ["dead_letters", "export", "inspect", "replay"]


def inspect(
    directory: Path | None = None,
    /,
    *,
    format: ListFormat = "table",  # noqa: A002 - it is the option's name
    config: Config = None,
) -> int:
    """Show the events that wait in spools, and since when. Changes nothing.

    Args:
        directory: The spools' directory; by default the configured one, else all of this user's applications.
        format: A table for people, or json.
        config: A configuration file.
    """
    from ..spool_commands import look_at, print_spools, say_problems

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
    """Deliver the events that ended processes have left in their spools.

    Each event goes to the backends of the same names in the configuration, and leaves the spool once it is stored.

    Args:
        directory: The spools' directory; by default the configured one, else that of this user's only application.
        format: Lines for people, or json.
        config: A configuration file.
    """
    from ..replaying import ReplayReport, print_replay
    from ..replaying import replay as replay_spools
    from ..settings import chosen_plan
    from ..spool_commands import directories_to_replay

    plan = chosen_plan(config)
    folders = directories_to_replay(directory, plan)
    outcome = ReplayReport()
    try:
        for folder in folders:
            replay_spools(plan, folder, outcome)
    finally:
        # Delivered events have left their spool, even where an error followed.
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
    from ..spool_commands import export_events, say_left_out, spools_of

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
    from ..spool_commands import (
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
        from ..kept_letters import kept_dead_letters
        from ..settings import chosen_plan

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
    from ..settings import chosen_plan
    from ..spool_commands import chosen_directories

    # A named directory needs no configuration, which may be broken.
    return chosen_directories(directory, None if directory is not None else chosen_plan(config))
