"""The ``flag-analytics`` command: its subcommands and its exit codes.

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

from cyclopts import App, CycloptsError, UnknownCommandError
from flag_analytics.errors import ConfigError, FlagAnalyticsError

from .commands.files import copy_events, import_file, list_imports, undo_import
from .commands.reports import export_events, report, series, tail
from .commands.serving import serve
from .commands.setup import check, demo, new_plugin, plugins, schema
from .commands.spools import dead_letters, export, inspect, replay
from .file_errors import ColumnError, FileError
from .parameters import OK, PROBLEM, UsageError
from .terminal import diagnostics, discard_output, hush_the_library, note, prepare_streams, results
from .visible import visible

__all__ = ["UsageError", "build_app", "main"]

USAGE, INTERRUPTED = 2, 130

_READ_FILES = ("copy", "export", "import", "report", "series")
_OWN_COMMANDS = (
    *("check", "copy", "dead-letters", "demo", "export", "import", "imports", "new-plugin", "plugins"),
    *("report", "schema", "series", "serve", "spool", "tail"),
)
_HELP = (
    "What are our feature flags really doing?\n\n"
    "Every command works with the backends that flag-analytics.toml, [tool.flag-analytics] in pyproject.toml or "
    "FLAG_ANALYTICS__... environment variables name. Where none does, events are kept in flag-analytics.db, an SQLite "
    "file, if the database plugin is installed."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    prepare_streams()
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(tokens)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
        return PROBLEM
    except OSError as error:  # the output itself: a full disk
        discard_output()
        return _complain(f"the output cannot be written: {error.strerror}", PROBLEM)
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    return code


def _run(tokens: list[str]) -> int:
    app = build_app()
    if tokens and tokens[0] in _OWN_COMMANDS:
        hush_the_library()
    else:
        _add_plugin_commands(app, tokens)  # which may leave their messages to the log
    try:
        unknown = _unknown_option(app, tokens)
        if unknown is not None:
            raise UsageError(unknown)
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except (CycloptsError, UsageError, ColumnError) as error:
        _complain(error, USAGE)
        command = " ".join(("flag-analytics", *app.parse_commands(tokens)[0]))
        if isinstance(error, UnknownCommandError) and command == "flag-analytics":
            note(
                "plugins add commands once the configuration names them: "
                'plugins = ["privacy"] adds `forget`, `person` and `privacy`, [collectors.clickhouse] adds `clickhouse`'
            )
        note(f"`{command} --help` shows what is possible")
        return USAGE
    except ConfigError as error:
        from .check import print_problems

        print_problems(diagnostics(), error)
        return PROBLEM
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:
            raise
        return _complain(f"{error.filename}: {error.strerror}", PROBLEM)
    except (FlagAnalyticsError, FileError) as error:
        return _complain(error, PROBLEM)
    return code if isinstance(code, int) else OK


def _complain(problem: object, code: int) -> int:
    note(f"flag-analytics: {visible(str(problem))}", "red")
    return code


def _unknown_option(app: App, tokens: Sequence[str]) -> str | None:
    """Return the problem with the first option that the command does not have, of those that read a file.

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
    """Return the command with its own subcommands."""
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
    app.command(copy_events, name="copy", usage="Usage: flag-analytics copy FROM TO [OPTIONS]")
    imports = App(name="imports", help="List imports, and undo one.")
    imports.default(list_imports)
    imports.command(undo_import, name="undo", usage="Usage: flag-analytics imports undo NAME [OPTIONS]")
    app.command(imports)
    app.command(report, usage="Usage: flag-analytics report [FLAG ...] [OPTIONS]")
    app.command(series, usage="Usage: flag-analytics series FLAG [OPTIONS]")
    app.command(tail, usage="Usage: flag-analytics tail [FLAG ...] [OPTIONS]")
    app.command(export_events, name="export", usage="Usage: flag-analytics export [FLAG ...] [OPTIONS]")
    app.command(plugins)
    app.command(new_plugin, usage="Usage: flag-analytics new-plugin NAME [OPTIONS]")
    app.command(check)
    app.command(schema)
    app.command(serve)
    app.command(dead_letters)
    spool = App(name="spool", help="Look after the events that wait on disk.")
    for command in (inspect, replay, export):
        spool.command(command)
    app.command(spool)
    return app


def _version() -> str:
    from importlib.metadata import version

    return version("flag-analytics-cli")
