"""``demo``, ``plugins``, ``new-plugin``, ``check`` and ``schema``: see it work, and see and extend the installation."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from flag_analytics.errors import ConfigError

from ..choices import ListFormat, PluginKind
from ..parameters import DEFAULT_PORT, OK, PROBLEM, Config, Switch, UsageError
from ..terminal import diagnostics, note, results

__all__ = ["check", "demo", "new_plugin", "plugins", "schema"]

_INTERRUPTED = 130
DemoConfig = Annotated[Path | None, Parameter(name="--config")]
"""Without the environment variable: made-up events go to configured backends only where an option says so."""


def demo(
    *,
    events: int = 5_000,
    seed: int = 1,
    once: Switch = False,
    serve: Switch = False,
    port: int = DEFAULT_PORT,
    config: DemoConfig = None,
) -> int:
    """Evaluate real flags for simulated users, and show the recorded figures.

    The made-up events go to flag-analytics.db in this directory, never to the backends that are configured here.

    Args:
        events: How many evaluations.
        seed: The same seed brings the same users to the same flags.
        once: No live table: evaluate as fast as possible and print the result, for scripts.
        serve: Show the figures on a page in the browser, and go on evaluating until Ctrl-C.
        port: The port of that page, on this machine alone; 0 means any that is free.
        config: Send the made-up events to the backends of this configuration file instead.
    """
    if events < 1:
        raise UsageError(f"--events {events} is too few: expected at least 1")
    from ..demo import run_demo
    from ..settings import DATABASE_FILE, demo_plan, is_configured, is_embedded, keeps_events

    plan = demo_plan(config)
    if serve:
        from ..demo_page import serve_demo

        serve_demo(plan, events=events, seed=seed, port=port)
        return OK
    finished = run_demo(plan, events=events, seed=seed, live=not once and results().is_terminal)
    if is_embedded(plan) and keeps_events(plan) and is_configured():
        note(f"\nKept in {DATABASE_FILE}: apart from the backends that are configured.")
    elif keeps_events(plan):
        where = f" --config {shlex.quote(str(config))}" if config is not None else ""
        kept = f"Kept in {DATABASE_FILE}" if is_embedded(plan) else "Kept in the backends of the configuration"
        note(f"\n{kept}. Go on with:")
        # As typed: `uv run` leaves nothing on the PATH.
        prefix = "uv run --no-dev " if "UV_RUN_RECURSION_DEPTH" in os.environ else ""
        for command in ("report new-checkout", "series pricing-page --group-by variant", "tail --lines 5"):
            note(f"  {prefix}flag-analytics {command}{where}", "none")
    if not finished:
        note("interrupted: these are the evaluations until then")
    return OK if finished else _INTERRUPTED


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

    from ..plugins_command import find_plugins, plugins_json, print_plugins
    from ..settings import chosen_plugins

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
    from ..check import check_json, print_plan, print_problems
    from ..foreseen import foreseen_problems
    from ..settings import chosen_plan

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


def schema() -> int:
    """Print the JSON Schema of a configuration of the installed plugins, for editors and checkers of TOML.

    A first line `#:schema ./flag-analytics.schema.json` in flag-analytics.toml tells editors where it is.
    """
    from flag_analytics.config.schema import configuration_schema

    from ..terminal import print_json
    from ..visible import visible

    document, problems = configuration_schema()
    print_json(document)
    for problem in problems:
        note(f"a plugin is left out: {visible(str(problem))}", "yellow")
    return PROBLEM if problems else OK


def new_plugin(name: str, /, *, kind: PluginKind = "collector", directory: Path | None = None) -> int:
    """Write the project of a new plugin, whose tests pass as they are: put your backend in its place.

    Args:
        name: The plugin's name in configuration: small letters, digits, - and _.
        kind: What the plugin is.
        directory: Where to; by default flag-analytics-NAME in this directory.
    """
    from ..new_plugin import write_project

    place, written = write_project(name, kind, directory)
    for path in written:
        note(f"  {place / path}", "none")
    note("\nGo on with:")
    for command in (f"cd {shlex.quote(str(place))}", 'pip install -e ".[testing]"', "pytest"):
        note(f"  {command}", "none")
    return OK
