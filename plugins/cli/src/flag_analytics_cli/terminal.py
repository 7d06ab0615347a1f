"""Where output goes: results to standard output, everything else to standard error; colour only where it belongs."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = ["can_draw", "diagnostics", "hush_the_library", "note", "prepare_streams", "print_json", "results", "say"]

_PIPE_WIDTH = 120
"""What fits where there is no terminal to ask for its width, and COLUMNS is not set."""


def results() -> Console:
    """Return the console for results. Keys and values are shown as they are: no markup, no emoji codes, no links."""
    return _console(stderr=False)


def diagnostics() -> Console:
    """Return the console for progress, notes and problems."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(
        stderr=stderr,
        markup=False,
        emoji=False,
        highlight=False,
        # https://no-color.org; rich alone would still print bold and dim.
        color_system=None if os.environ.get("NO_COLOR") else "auto",
    )
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdecimal():
        console.width = _PIPE_WIDTH
    return console


def say(console: Console, text: str | Text, style: str = "") -> None:
    """Print a sentence: broken between words at the width of a terminal, on one line for other programs."""
    console.print(text, style=style, soft_wrap=not console.is_terminal)


def note(text: str, style: str = "dim") -> None:
    """Say something that is not a result."""
    say(diagnostics(), text, style)


def print_json(document: Any) -> None:
    """Write a result for other programs. All but ASCII is escaped, control characters included."""
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def can_draw(console: Console) -> bool:
    """Return whether the output can show block characters."""
    return console.encoding.lower().startswith("utf")


def prepare_streams() -> None:
    """Make the standard streams spell out what their encoding has no character for, instead of failing on it."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def hush_the_library() -> None:
    """Keep what the library logs for applications, short of errors, from standard error, unless logging is configured.

    Its advice, such as to give ``close`` more time, is for whoever writes a program. A command says in its own words
    what was lost and what to do.
    """
    # Python writes with it where nobody has configured a handler.
    if logging.lastResort is not None:
        logging.lastResort.addFilter(_is_for_users)


def _is_for_users(record: logging.LogRecord) -> bool:
    # What the registry says about installed plugins is said by no command.
    own = record.name.startswith("flag_analytics") and record.name != "flag_analytics.registry"
    return record.levelno >= logging.ERROR or not own
