"""``flag-analytics privacy``, ``forget`` and ``person``: imported by the command line only, which brings cyclopts."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
from cyclopts import Parameter
from flag_analytics.config.plan import Plan
from flag_analytics.pipeline import open_pipeline
from flag_analytics_delivery.spool import default_directory
from flag_analytics_delivery.spool_reader import SPOOL_PARTS

from .people import Place, sent_on
from .people import forget as forget_in
from .people import person as person_in
from .review import RULES, Rule, broken_rules, review

__all__ = ["add_commands"]

_FINE, _FOUND = 0, 1
_ELSEWHERE = "an application has events of its own in memory: call forget there, or restart it"
_Config = Annotated[
    Path | None,
    Parameter(
        name="--config", env_var="FLAG_ANALYTICS_CONFIG", help="A configuration file, instead of the usual places."
    ),
]
_Form = Annotated[Literal["table", "json"], Parameter(name="--format", help="Lines for people, or json.")]
_FailOn = Annotated[
    tuple[Rule, ...],
    Parameter(name="--fail-on", negative=(), help="End with exit code 1 where a sink breaks the rule."),
]
_Directory = Annotated[
    Path | None, Parameter(name="--spools", help="A directory of spools, instead of delivery.spool_directory.")
]


def add_commands(app: Any, read_plan: Callable[[Path | None], Plan]) -> None:
    """Add the commands to a cyclopts ``App``; they work with the configuration that ``read_plan`` finds."""

    def privacy(
        *,
        config: _Config = None,
        fail_on: _FailOn = (),
        format: _Form = "table",  # noqa: A002 - it is the option's name
    ) -> int:
        """Show which fields of an event reach which sink, and in which form."""
        return _show_review(read_plan(config), fail_on, format)

    def forget(
        targeting_key: str,
        *,
        config: _Config = None,
        spools: _Directory = None,
        format: _Form = "table",  # noqa: A002 - it is the option's name
    ) -> int:
        """Erase what is stored of a person, and print a receipt. It can be run again."""
        plan = read_plan(config)
        return _show_receipt(asyncio.run(_forget(plan, targeting_key, spools)), format)

    def person(targeting_key: str, *, config: _Config = None) -> int:
        """Print all that is stored of a person, as JSON."""
        _say(json.dumps(asyncio.run(_person(read_plan(config), targeting_key)), indent=2, default=str))
        return _FINE

    for command in (privacy, forget, person):
        app.command(command)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _show_review(plan: Plan, fail_on: tuple[Rule, ...], form: str) -> int:
    reviews = review(plan)
    broken = broken_rules(reviews, fail_on)
    if form == "json":
        sinks = [attrs.asdict(each) for each in reviews]
        _say(json.dumps({"sinks": sinks, "broken": [list(each) for each in broken]}, indent=2))
        return _FOUND if broken else _FINE
    for each in reviews:
        _say(f"{each.name} ({'leaves' if each.leaves else 'stays in'} the process)")
        for name, form_of_field in each.fields.items():
            _say(f"  {name:20}{form_of_field}")
        for rule in each.rules:
            _say(f"  {rule}: {RULES[rule]}")
    for name, rule in broken:
        _say(f"{name} breaks {rule}: {RULES[rule]}")
    return _FOUND if broken else _FINE


def _show_receipt(receipt: Mapping[str, Any], form: str) -> int:
    if form == "json":
        _say(json.dumps(receipt, indent=2))
    else:
        _say(f"events before {receipt['cut_off']}")
        for place in receipt["places"]:
            done = "not erased" if place["erased"] is None else f"{place['erased']} erased"
            _say(f"  {place['name']}: {done}{place['note'] and ', ' + place['note']}")
    return _FINE if receipt["complete"] else _FOUND


async def _forget(plan: Plan, targeting_key: str, directory: Path | None) -> dict[str, Any]:
    delivery = plan.delivery_options()
    directory = directory or delivery.spool_directory
    # Where others can write to it, each user has a folder of its own in it.
    spools = [] if directory is None else _spools_in(directory, *sorted(directory.glob("flag-analytics-*")))
    async with open_pipeline(_kept(plan)) as pipeline:
        receipt = await forget_in(pipeline, targeting_key, spools=spools)
    elsewhere = {each.name for each in review(plan) if not each.leaves}
    places = [attrs.evolve(place, note=_ELSEWHERE) if place.name in elsewhere else place for place in receipt.places]
    places += [sent_on(sink.name) for sink in plan.sinks if sink.role == "exporter"]
    if directory is None and delivery.durability == "spool":
        places += map(_perhaps_of_another, _default_directories())
    return attrs.evolve(receipt, places=tuple(places)).to_dict()


def _spools_in(*directories: Path) -> list[Path]:
    """Return the spools in directories, with those that were set aside as corrupt."""
    found = [path for directory in directories for path in sorted(directory.glob("*.spool*"))]
    return [path for path in found if not path.name.endswith(SPOOL_PARTS[1:])]


def _default_directories() -> list[Path]:
    """Return the directories in this user's place for state that hold spools, one for each application."""
    return [folder for folder in sorted(default_directory("").parent.glob("*")) if _spools_in(folder)]


def _perhaps_of_another(directory: Path) -> Place:
    """Return that nothing is erased here unasked: the same key may be another person's in another application."""
    return Place(str(directory), None, "its spools may be of another application: name it by --spools if they are not")


async def _person(plan: Plan, targeting_key: str) -> dict[str, Any]:
    async with open_pipeline(_kept(plan)) as pipeline:
        return dict(await person_in(pipeline, targeting_key))


def _kept(plan: Plan) -> Plan:
    """Return the part of a plan that keeps events beyond a process; the command takes no spool over."""
    sinks = tuple(sink for sink in plan.sinks if sink.role == "collector")
    return attrs.evolve(plan, sinks=sinks, delivery={**plan.delivery, "durability": "memory"})
