"""``flag-analytics spool`` and ``dead-letters``: which spools are meant, and their contents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from flag_analytics.config.plan import Plan
from flag_analytics.errors import FlagAnalyticsError
from flag_analytics.reports import DeadLetter
from flag_analytics_delivery.spool import orphans
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .layout import Trimmed
from .settings import is_embedded
from .spool_files import SpoolFile, dead_letters, known_directories, look, spools_in, waiting_events
from .terminal import note, print_json
from .visible import visible
from .wording import counted

__all__ = [
    "NoDirectoryError",
    "chosen_directories",
    "dead_letters_json",
    "directories_to_replay",
    "export_events",
    "look_at",
    "print_dead_letters",
    "print_spools",
    "read_dead_letters",
    "say_left_out",
    "say_problems",
    "spools_of",
    "write_dead_letters",
]


class NoDirectoryError(FlagAnalyticsError):
    """It is not clear which spools are meant; the message names the choices."""


def chosen_directories(directory: Path | None, plan: Plan | None) -> list[Path]:
    """Return the directories to look into: the one given, else the configured one, else all of this user's.

    Where others can write to it, each user has a folder of its own in it.

    Raises:
        NoDirectoryError: there is no such directory.
    """
    configured = None if plan is None else plan.delivery_options().spool_directory
    chosen = directory or configured
    if chosen is not None:
        if not chosen.is_dir():
            raise NoDirectoryError(f"{chosen} is no directory: expected the folder that holds spools")
        folders = [folder for folder in sorted(chosen.glob("flag-analytics-*")) if spools_in(folder)]
        return [chosen, *folders] if spools_in(chosen) or not folders else folders
    return known_directories()


def directories_to_replay(directory: Path | None, plan: Plan) -> list[Path]:
    """Return the same directories, where it is certain that their events belong into the plan's backends.

    Raises:
        NoDirectoryError: there is no such directory, or it is not certain.
    """
    chosen = [folder for folder in chosen_directories(directory, plan) if orphans(folder)]
    is_named = directory is not None or plan.delivery_options().spool_directory is not None
    listed = ", ".join(map(str, chosen))
    # A replayed event leaves its spool: with the wrong backends it would be lost to its own application.
    if len(chosen) > 1:
        raise NoDirectoryError(
            f"{len(chosen)} applications have spools here, and only one can be replayed at a time: give its directory, "
            f"one of {listed}"
        )
    if chosen and is_embedded(plan):
        raise NoDirectoryError(
            f"there are spools in {listed}, and no backends are configured that they belong to: name the application's "
            "configuration with --config FILE"
        )
    if chosen and not is_named:
        note(f"from {visible(listed)}")
    return chosen


def spools_of(directories: Iterable[Path]) -> list[Path]:
    """Return every spool of these directories."""
    return [path for directory in directories for path in spools_in(directory)]


def look_at(directories: Iterable[Path]) -> list[SpoolFile]:
    """Return the contents of every spool of these directories."""
    return [look(path) for path in spools_of(directories)]


def print_spools(console: Console, files: Sequence[SpoolFile]) -> None:
    """Show spools by directory, one line for each."""
    if not files:
        console.print("No spools.")
        return
    for index, directory in enumerate(dict.fromkeys(file.path.parent for file in files)):
        if index:
            console.print()
        console.print(Text(visible(str(directory)), "bold"), soft_wrap=True)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("Spool", "State"):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        for name in ("KiB", "Waiting", "Dead"):
            table.add_column(name, justify="right")
        table.add_column("Oldest (UTC)", no_wrap=True)
        for file in files:
            if file.path.parent == directory:
                table.add_row(
                    Text(visible(file.path.name)),
                    Text(file.state, "red" if file.state == "corrupt" else "none"),
                    f"{file.size_bytes / 1024:,.0f}",
                    _waiting(file.waiting),
                    Text(f"{file.dead:,}", "red" if file.dead else "none"),
                    "-" if file.oldest is None else f"{file.oldest:%Y-%m-%d %H:%M:%S}",
                )
        console.print(Trimmed(table))


def _waiting(waiting: Mapping[str, int]) -> Text:
    parts = [f"{count:,} for {visible(sink)}" for sink, count in waiting.items() if count]
    return Text("\n".join(parts) or "none")


def say_problems(files: Iterable[SpoolFile]) -> bool:
    """Say on standard error which parts of these spools cannot be read, and why; return whether there are any."""
    problems: list[str] = []
    for file in files:
        if file.problem is not None:
            problems.append(f"{file.path} {file.problem}")
        if file.unreadable:
            problems.append(f"{counted(file.unreadable, 'event')} in {file.path} cannot be read")
    for problem in problems:
        note(visible(problem), "yellow")
    return bool(problems)


def export_events(spools: Iterable[Path], file: TextIO, left: list[str]) -> int:
    """Write the events that wait as JSON Lines, as ``flag-analytics import`` reads them; return how many.

    Args:
        left: Gets a line about each unreadable part.
    """
    count = 0
    for path in spools:
        for event in waiting_events(path, left):
            _write_line(file, event.to_dict())
            count += 1
    return count


def read_dead_letters(spools: Iterable[Path], left: list[str]) -> list[DeadLetter]:
    """Return the dead letters of these spools, and in ``left`` a line about each unreadable part."""
    return [letter for path in spools for letter in dead_letters(path, left)]


def say_left_out(left: Iterable[str]) -> None:
    """Say on standard error which parts could not be read."""
    for what in left:
        note(f"left out: {visible(what)}", "yellow")


def print_dead_letters(console: Console, letters: Sequence[DeadLetter]) -> None:
    """Show how many events each sink refused, and why."""
    groups: dict[tuple[str, str, str, str], list[float]] = {}
    for letter in letters:
        groups.setdefault((letter.sink, letter.event.flag_key, letter.error, letter.code), []).append(letter.at)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("Sink", "Flag", "Error", "Code"):
        table.add_column(name, overflow="fold")
    table.add_column("Events", justify="right", no_wrap=True)
    table.add_column("Latest (UTC)", no_wrap=True)
    for (sink, flag_key, error, code), times in sorted(groups.items()):
        latest = datetime.fromtimestamp(max(times), UTC)
        cells = [Text(visible(text) or "-") for text in (sink, flag_key, error, code)]
        table.add_row(*cells, f"{len(times):,}", f"{latest:%Y-%m-%d %H:%M:%S}")
    console.print(Trimmed(table))


def write_dead_letters(letters: Iterable[DeadLetter], file: TextIO) -> None:
    """Write dead letters as JSON Lines."""
    for letter in letters:
        _write_line(file, _letter(letter))


def dead_letters_json(letters: Iterable[DeadLetter]) -> None:
    """Write dead letters to standard output as one JSON array."""
    print_json([_letter(letter) for letter in letters])


def _letter(letter: DeadLetter) -> dict[str, Any]:
    """Return the event, and under ``dead_letter`` why it was refused."""
    why = {
        "sink": letter.sink,
        "error": letter.error,
        "code": letter.code,
        "batch_id": letter.batch_id,
        "at": datetime.fromtimestamp(letter.at, UTC).isoformat(),
    }
    return {**letter.event.to_dict(), "dead_letter": why}


def _write_line(file: TextIO, fields: dict[str, Any]) -> None:
    file.write(json.dumps(fields, ensure_ascii=True, separators=(",", ":")) + "\n")
