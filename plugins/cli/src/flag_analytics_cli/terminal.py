"""Where output goes: results to standard output, everything else to standard error; colour only where it belongs."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = [
    "can_draw",
    "diagnostics",
    "discard_output",
    "hush_the_library",
    "note",
    "prepare_streams",
    "print_json",
    "results",
    "say",
]

_PIPE_WIDTH = 120
"""The width where there is no terminal to ask, and COLUMNS is not set."""
_LEAST_WIDTH = 20
"""Narrower terminals, or a COLUMNS of 0, get lines that they wrap themselves."""


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
    console.width = max(console.width, _LEAST_WIDTH)
    return console


def say(console: Console, text: str | Text, style: str = "") -> None:
    """Print a sentence: broken between words at the width of a terminal, on one line for other programs."""
    console.print(text, style=style, soft_wrap=not console.is_terminal)


def note(text: str, style: str = "dim") -> None:
    """Say something that is not a result. Where standard error cannot be written, nothing is said."""
    with suppress(OSError, ValueError):
        say(diagnostics(), text, style)


def print_json(document: Any) -> None:
    """Write a result for other programs. All but ASCII is escaped, control characters included."""
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def can_draw(console: Console) -> bool:
    """Return whether the output can show block characters."""
    return console.encoding.lower().startswith("utf")


def prepare_streams() -> None:
    """Make the standard streams escape characters that their encoding does not have, instead of failing on them.

    One that the parent process closed is replaced by the null device.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Send the rest of standard output nowhere: its reader has stopped or its disk is full, and exit flushes it."""
    null = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):
        os.dup2(null, sys.stdout.fileno())
    os.close(null)


def hush_the_library() -> None:
    """Keep the library's log messages for applications, short of errors, from standard error.

    Where logging is configured, nothing changes. The advice, such as to give ``close`` more time, is for authors of
    programs: a command says itself which events were lost and what to do.
    """
    # Python's handler where no other is configured.
    if logging.lastResort is not None:
        logging.lastResort.addFilter(_is_for_users)


def _is_for_users(record: logging.LogRecord) -> bool:
    # The registry's messages about installed plugins are repeated by no command.
    own = record.name.startswith("flag_analytics") and record.name != "flag_analytics.registry"
    return record.levelno >= logging.ERROR or not own
