"""Which column of a table, or member of an object, is which field of an event."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

import attrs

from ..file_errors import ColumnError
from .fields import FIELDS

__all__ = ["Layout", "find_columns", "plain"]

_GUESSES: Mapping[str, tuple[str, ...]] = {
    "timestamp": (
        *("time", "datetime", "eventtime", "eventtimestamp", "occurredat", "createdat", "creationdate", "exposuretime"),
        *("exposedat", "firstexposure", "assignedat", "receivedat", "receivedtime", "formatteddate", "date"),
    ),
    "flag_key": (
        *("flag", "flagname", "featureflag", "feature", "featurekey", "featurename"),
        *("experimentid", "experimentkey", "experimentname", "experiment", "key"),
    ),
    "variant": (
        *("variation", "variationid", "variantkey", "variationkey", "variantid", "variantname", "variationname"),
        *("group", "groupname", "groupid", "testgroup", "experimentgroup", "treatment", "arm", "bucket"),
    ),
    "targeting_key": (
        *("userid", "userkey", "user", "subject", "subjectid", "subjectkey", "customerid", "visitorid", "distinctid"),
        *("anonymousid", "contextid", "contextkey", "unitid", "stableid", "deviceid", "clientid", "accountid"),
    ),
    "evaluation_duration_ms": ("durationms", "latencyms"),
    "flag_version": ("version",),
    "provider_name": ("provider",),
    "error_type": ("errorcode",),
}
"""Other common names of a field, without case and separators, the likeliest first."""

_LIKELY_VARIANT = frozenset(
    {"variant", "variants", "variation", "treatment", "group", "arm", "bucket", "cohort", "experiment", "version"}
    | {"condition", "branch", "test"}
)
_LIKELY_USER = frozenset(
    {"user", "userid", "users", "customer", "visitor", "subject", "person", "member", "account", "client", "device"}
    | {"session", "distinct", "anonymous", "unit", "identifier", "identity", "profile", "player", "household", "cookie"}
)
_OTHER_IDS = frozenset(
    {"event", "experiment", "flag", "feature", "variation", "variant", "message", "request", "row", "trace", "span"}
    | {"page", "order", "transaction", "product", "test", "group", "campaign", "record", "index", "insert", "company"}
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@attrs.frozen
class Layout:
    """Where each field of an event is found.

    Attributes:
        fields: Field to the names of columns, of which the first that is not empty counts.
        context: Attribute of the evaluation context to column.
        unused: The columns that nothing was taken from.
    """

    fields: Mapping[str, tuple[str, ...]]
    context: Mapping[str, str]
    unused: tuple[str, ...]


def plain(name: str) -> str:
    """Return a name without its case and separators."""
    return "".join(character for character in name.casefold() if character.isalnum())


def find_columns(
    header: Sequence[str],
    wanted: Mapping[str, str],
    known: Mapping[str, tuple[str, ...]],
    given: frozenset[str] = frozenset(),
    optional: frozenset[str] = frozenset(),
    ignored: frozenset[str] = frozenset(),
    noun: str = "column",
) -> Layout:
    """Return where each field is: as the user wants it, else as the shape of the file has it, else by usual names.

    Args:
        header: The names of the columns.
        wanted: Field, or ``context.NAME``, to column.
        known: The columns of each field, or ``context.NAME``, in a file of this shape; some of them may be missing.
        given: Fields that are not looked for.
        optional: Fields that need not be found.
        ignored: Columns to leave out.
        noun: Word for a column in messages.

    Raises:
        ColumnError: a wanted column is missing or there twice, no column has the time or the flag, or one that seems
            to hold the variant or the user was not used.
    """
    for column in (*wanted.values(), *ignored):
        _check(header, column, noun)
    fields: dict[str, tuple[str, ...]] = {
        field: (column,) for field, column in wanted.items() if not field.startswith("context.")
    }
    context = {field.removeprefix("context."): column for field, column in wanted.items() if field not in fields}
    taken = {*wanted.values(), *ignored}
    plains = [(name, plain(name)) for name in header if name not in taken]
    for field in FIELDS:
        if field in fields or field in given:
            continue
        names = tuple(name for column in known.get(field, ()) for name in _named(column, plains, taken))
        guess = names or _guess(field, plains, taken)
        # Without a variant, a version is as likely to be one.
        if guess and not (field == "flag_version" and "variant" not in fields and plain(guess[0]) == "version"):
            fields[field] = guess
            taken.update(guess)
    for name in header:
        if name.startswith("context.") and name not in taken and name != "context.":
            context[name.removeprefix("context.")] = name
            taken.add(name)
    for field, columns in known.items():
        if field.startswith("context."):
            found = [name for column in columns for name in _named(column, plains, taken)]
            context |= {field.removeprefix("context."): name for name in found}
            taken.update(found)
    covered = {name for path in taken for name in _ancestors(path)} | {
        name for path in header for name in _ancestors(path)
    }
    unused = tuple(
        name for name in header if name not in taken and name not in covered and taken.isdisjoint(_ancestors(name))
    )
    _complete(header, fields, given | optional, unused, noun)
    return Layout(fields, context, unused)


def _ancestors(path: str) -> list[str]:
    """Return the paths of the objects that a member is in."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _named(column: str, plains: Sequence[tuple[str, str]], taken: set[str]) -> list[str]:
    wanted = plain(column)
    found = [name for name, text in plains if text == wanted and name not in taken]
    return found if len(found) == 1 else []


def _guess(field: str, plains: Sequence[tuple[str, str]], taken: set[str]) -> tuple[str, ...]:
    for wanted in (plain(field), *_GUESSES.get(field, ())):
        found = [name for name, text in plains if text == wanted]
        # A name that stands twice says nothing certain.
        if len(found) == 1 and found[0] not in taken:
            return (found[0],)
    return ()


def _complete(
    header: Sequence[str],
    fields: Mapping[str, tuple[str, ...]],
    optional: frozenset[str],
    unused: Sequence[str],
    noun: str,
) -> None:
    if "timestamp" not in fields and "timestamp" not in optional:
        raise ColumnError(
            f"no {noun} has the time of an event: name it with --map timestamp=COLUMN, from {_listed(header)}, or give "
            "the time of all with --timestamp"
        )
    if "flag_key" not in fields and "flag_key" not in optional:
        raise ColumnError(
            f"no {noun} has the key of the flag: give it with --flag-key KEY, or name a {noun} with "
            f"--map flag_key=COLUMN, from {_listed(header)}"
        )
    for field, is_likely in (("variant", _may_be_variant), ("targeting_key", _may_be_user)):
        likely = [] if field in fields or field in optional else [name for name in unused if is_likely(name)]
        if likely:
            raise ColumnError(
                f"no {noun} was used as {field}, but {_listed(likely)} may be it: say so with "
                f"--map {field}={likely[0]}, or leave it out with --ignore {likely[0]}"
            )


def _may_be_variant(name: str) -> bool:
    return not _LIKELY_VARIANT.isdisjoint(_words(name))


def _may_be_user(name: str) -> bool:
    words = _words(name)
    is_id = words[-1:] == ["id"] or (words[-1:] != [] and words[-1].endswith("id") and len(words) == 1)
    return not _LIKELY_USER.isdisjoint(words) or (is_id and len(words) > 1 and _OTHER_IDS.isdisjoint(words))


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name.rpartition(".")[2])]


def _check(header: Sequence[str], column: str, noun: str) -> None:
    count = header.count(column)
    if count == 1:
        return
    if count > 1:
        raise ColumnError(f"{noun} {column!r} is there {count} times: give them different names")
    close = difflib.get_close_matches(column, header, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {_listed(header)}"
    raise ColumnError(f"{noun} {column!r} is not in the file: {hint}")


def _listed(header: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in header[:20])
    return shown if len(header) <= 20 else f"{shown} and {len(header) - 20} more"
