"""``flag-analytics check``: every problem of a configuration, or its meaning."""

from __future__ import annotations

from typing import Any

from flag_analytics.config.plan import Plan
from flag_analytics.errors import ConfigError
from rich.console import Console
from rich.text import Text

from .terminal import print_json, say
from .visible import visible
from .wording import counted

__all__ = ["check_json", "print_plan", "print_problems"]


def print_plan(console: Console, plan: Plan) -> None:
    """Show the parts of a pipeline of this plan; option values are not shown, they may be secret."""
    console.print(Text.assemble(("ok  ", "green"), visible(plan.label)))
    rows = [
        *((sink.role, sink.name) for sink in (*plan.sinks, *plan.sources)),
        *(("processor", processor.name) for processor in plan.processors),
    ]
    for role, name in rows:
        console.print(Text.assemble("    ", (f"{role:<10}", "dim"), visible(name)))


def print_problems(console: Console, error: ConfigError) -> None:
    """Show every problem of a configuration on a line of its own."""
    found = counted(len(error.problems), "problem")
    say(console, Text.assemble((found, "red"), " in ", visible(str(error.source))))
    for problem in error.problems:
        path = Text.assemble((visible(problem.path), "bold"), ": ") if problem.path else Text()
        say(console, Text.assemble("  - ", path, visible(problem.message)))


def check_json(plan: Plan | None, error: ConfigError | None) -> None:
    """Write the outcome to standard output as JSON."""
    document: dict[str, Any] = {
        "ok": error is None,
        "source": str(error.source) if error is not None else plan.label if plan is not None else None,
        "problems": [
            {"path": problem.path, "message": problem.message} for problem in (error.problems if error else ())
        ],
        "collectors": [sink.name for sink in plan.sinks if sink.role == "collector"] if plan else [],
        "exporters": [sink.name for sink in plan.sinks if sink.role == "exporter"] if plan else [],
        "sources": [source.name for source in plan.sources] if plan else [],
        "processors": [processor.name for processor in plan.processors] if plan else [],
    }
    print_json(document)
