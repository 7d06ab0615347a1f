"""Writes the tables of the documentation out of the code: ``python docs/_ext/tables.py`` after a docstring changed.

A table stands between two comments, and a test fails if it differs from this module's text::

    <!-- table: options collectors.memory -->
    …
    <!-- end of table -->

``<!-- table: file PATH -->`` holds a file of the repository, which a test of its own runs.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

from attributes import backends, described, fields_of, first_sentence

__all__ = ["with_tables"]

_ROOT = Path(__file__).parents[2]
_TABLE = re.compile(
    r"^(?P<start><!-- table: (?P<kind>\w+) (?P<names>[\w./ -]+) -->\n).*?^(?P<end><!-- end of table -->)$",
    re.MULTILINE | re.DOTALL,
)
Rows = Iterator[tuple[str, ...]]


def with_tables(page: str) -> str:
    """Return a page with every table in it written anew."""
    return _TABLE.sub(_rewritten, page)


def _rewritten(match: re.Match[str]) -> str:
    write = _file if match["kind"] == "file" else partial(_table, match["kind"])
    return f"{match['start']}\n{write(match['names'].split())}\n{match['end']}"


def _file(paths: list[str]) -> str:
    (path,) = paths
    language = {".py": "python", ".yml": "yaml"}.get(Path(path).suffix, Path(path).suffix[1:])
    skipped = "<!-- skip: next -->\n" if language == "python" else ""
    return f"{skipped}```{language}\n{(_ROOT / path).read_text('utf-8')}```\n"


def _table(kind: str, names: list[str]) -> str:
    rows = [row for name in names for row in _KINDS[kind](name)]
    if len(rows) == len(names):
        return "There are no options.\n"
    # Each name brings a header; the first one is the table's.
    header, lines = rows[0], [row for row in rows if row != rows[0]]
    return "\n".join(_lines([header, ("---",) * len(header), *lines]))


def _lines(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in rows:
        cells = (cell.replace("|", r"\|").replace("``", "`") for cell in row)
        yield "|" + "|".join(cell if cell == "---" else f" {cell} " for cell in cells) + "|"
    yield ""


def _options(name: str) -> Rows:
    cls = dict(backends())[name].options if name in dict(backends()) else _thing(name)
    yield "Option", "Type", "Default", "Meaning"
    yield from _all_fields(cls)


def _fields(name: str) -> Rows:
    yield "Field", "Type", "Default", "Meaning"
    yield from _all_fields(_thing(name))


def _capabilities(name: str) -> Rows:
    yield "Attribute", "Type", "Default", "Meaning"
    yield from _all_fields(_thing(name))


def _answers(name: str) -> Rows:
    yield "Field", "Type", "Meaning"
    for field, kind, _, text in _all_fields(_thing(name)):
        yield field, kind, text


def _all_fields(cls: type[Any]) -> Rows:
    texts = described(cls)
    for field, kind, default in fields_of(cls):
        yield f"`{field}`", kind, default, texts[field]


def _methods(name: str) -> Rows:
    yield "Method", "Meaning"
    for method, function in vars(_thing(name)).items():
        if not method.startswith("_") and inspect.isfunction(function):
            parameters = [
                parameter.replace(annotation=parameter.empty)
                for parameter in list(inspect.signature(function).parameters.values())[1:]
            ]
            waits = "await " if inspect.iscoroutinefunction(function) else ""
            yield f"`{waits}{method}{inspect.Signature(parameters)}`", first_sentence(function)


def _errors(name: str) -> Rows:
    yield "Error", "Is a", "Meaning"
    for error in vars(_thing(name)).values():
        if isinstance(error, type) and issubclass(error, Exception) and error.__module__ == name:
            yield (
                f"`{error.__name__}`",
                ", ".join(f"`{base.__name__}`" for base in error.__bases__),
                first_sentence(error),
            )


def _changes(name: str) -> Rows:
    """Read the simple table in a module's docstring."""
    yield "Kind", "Change"
    rows = (inspect.getdoc(_thing(name)) or "").split("=\n")[2]
    for line in rows.partition("\n=")[0].splitlines():
        kind, text = re.split(r"\s{2,}", line, maxsplit=1)
        yield ", ".join(f"`{each}`" for each in kind.split(", ")), text


def _modules(name: str) -> Rows:
    """List the public names of a module: those in its ``__all__``."""
    yield "Module", "Purpose", "Names"
    yield f"`{name}`", first_sentence(_thing(name)), ", ".join(f"`{public}`" for public in sorted(_thing(name).__all__))


_KINDS: Mapping[str, Callable[[str], Rows]] = {
    "answers": _answers,
    "capabilities": _capabilities,
    "changes": _changes,
    "errors": _errors,
    "fields": _fields,
    "methods": _methods,
    "modules": _modules,
    "options": _options,
}


def _thing(name: str) -> Any:
    """Return a module, or a member of one, by its dotted name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    for path in sorted(Path(__file__).parents[1].rglob("*.md")):
        text = path.read_text("utf-8")
        path.write_text(with_tables(text), "utf-8", newline="\n")
