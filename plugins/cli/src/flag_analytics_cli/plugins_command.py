"""``flag-analytics plugins``: which plugins are installed, selected or broken, and why."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from flag_analytics.errors import PluginError
from flag_analytics.registry import Registry
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .layout import Trimmed
from .terminal import print_json, say
from .visible import visible

__all__ = ["PluginLine", "find_plugins", "plugins_json", "print_plugins"]

_STYLES = {"ok": "green", "broken": "red", "missing": "red", "installed": "dim"}


@attrs.frozen
class PluginLine:
    """One plugin.

    ``state`` is ``ok``, ``broken``, ``missing`` (selected and not installed), or ``installed``, for one that
    was not loaded.
    """

    name: str
    state: str
    selected: bool
    roles: tuple[str, ...] = ()
    distribution: str | None = None
    version: str | None = None
    problem: str | None = None

    @property
    def bad(self) -> bool:
        return self.state in {"broken", "missing"}


def find_plugins(registry: Registry, selected: frozenset[str], *, probe: bool = False) -> list[PluginLine]:
    """Return every installed plugin and every one that is selected, by name.

    The selected ones are loaded, to show whether they work; ``probe`` loads the others as well.
    """
    lines: list[PluginLine] = []
    for name in sorted({*registry.installed(), *selected}):
        owners = registry.installed().get(name, ())
        chosen = name in selected
        line = PluginLine(name, "installed", chosen)
        if probe or chosen or len(owners) > 1:
            try:
                line = attrs.evolve(line, state="ok", roles=registry.roles(name))
            except PluginError as error:
                line = attrs.evolve(line, state="broken" if owners else "missing", problem=str(error))
        known = [attrs.evolve(line, distribution=owner.distribution, version=owner.version) for owner in owners]
        lines += known or [line]
    return lines


def print_plugins(console: Console, lines: Sequence[PluginLine]) -> None:
    """Show the plugins as a table, and below it the problems of those that do not work."""
    if not lines:
        console.print("No plugins are installed: pip install 'flag-analytics[all]' brings all of this project's.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("Plugin", "State", "Selected"):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    table.add_column("Offers")
    table.add_column("Distribution")
    for line in lines:
        table.add_row(
            Text(visible(line.name), "bold"),
            Text(line.state, _STYLES[line.state]),
            "yes" if line.selected else Text("no", "dim"),
            ", ".join(line.roles) or Text("-", "dim"),
            Text(visible(f"{line.distribution} {line.version}") if line.distribution else "-", "dim"),
        )
    console.print(Trimmed(table))
    for line in lines:
        if line.problem:
            console.print()
            say(console, Text.assemble((visible(line.name), "bold"), ": ", visible(line.problem)))


def plugins_json(lines: Sequence[PluginLine]) -> None:
    """Write the plugins to standard output as JSON."""
    print_json({"plugins": [attrs.asdict(line) for line in lines]})
