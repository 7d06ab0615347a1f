"""Events of a file: the shape is recognised, each record becomes an event, and one that cannot be is named."""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from operator import itemgetter
from pathlib import PurePath
from typing import Any

import attrs
import msgspec
from flag_analytics.errors import EventError
from flag_analytics.events import FlagEvaluationEvent

from ..choices import FileFormat
from ..file_errors import ColumnError
from . import goff
from .columns import Layout, find_columns
from .fields import (
    FieldError,
    Fields,
    duration_of,
    event_id_of,
    json_or_text,
    kind_of,
    object_of,
    reason_of,
    sample_rate_of,
    text_of,
)
from .json_values import read_elements, read_objects
from .lines import MAX_JSON_BYTES, MAX_LINE_BYTES, BadLine, LineReader, Row
from .parquet_rows import read_parquet
from .shapes import EVENTS, TABLE, Shape, shape_of
from .skipping import Skipped
from .source import Source
from .tables import Table, read_table
from .times import TimeReader

__all__ = ["EventReader", "ReadOptions"]

Getter = Callable[[Any], Any]
_TABLE_SUFFIXES = frozenset({".csv", ".tsv"})
_MOST_NAMES = 500
_MOST_LAYOUTS = 1_000
_MOST_UNUSED = 50
_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "evaluation_duration_ms": duration_of,
    "sample_rate": sample_rate_of,
    "kind": kind_of,
}
_MAIN_FIELDS = ("timestamp", "flag_key", "value", "reason", "variant", "targeting_key", "context_attributes")


@attrs.frozen(kw_only=True)
class ReadOptions:
    """How to read a file.

    Attributes:
        form: Its shape, None to recognise it.
        columns: Field, or ``context.NAME``, to column or dotted path.
        ignored: Columns that are left out knowingly.
        flag_key: The flag's key, before any that is guessed to be in a column.
        fallback_key: The flag's key where no column has one.
        zone: The zone of times that name none.
        time_format: A format of ``strptime``, or ``excel``.
        time: The time of every event.
        source: A name that goes into the ids of events which the file gives none.
        ids: Whether events need ids; counting does not.
    """

    form: FileFormat | None = None
    columns: Mapping[str, str] = attrs.field(factory=dict[str, str])
    ignored: frozenset[str] = frozenset()
    flag_key: str | None = None
    fallback_key: str | None = None
    zone: tzinfo = UTC
    time_format: str | None = None
    time: datetime | None = None
    source: str = ""
    ids: bool = True


class EventReader:
    """Iterates over the events of a file; what is no event is a ``BadLine``, and what is about none a ``Skipped``.

    Attributes:
        unit: What is counted in a ``BadLine``: a line, an element of an array or a row.
        is_json: Whether it has objects with keys; else it is a table with columns.
        shape: The shape of the file; of JSON it is known with the first record.
        layout: Where each field was found; None where the shape has its own way to read a record.
        unused: Columns or members that nothing was taken from, the first fifty.
        times: How its times were read.

    Raises:
        FileError: the file as a whole cannot be read, or a column that is needed is not there; before the first event.
    """

    def __init__(self, source: Source, options: ReadOptions) -> None:
        self.unit = "line"
        self.is_json = False
        self.shape: Shape | None = None
        self.layout: Layout | None = None
        self.unused: list[str] = []
        self.times = TimeReader(options.zone, options.time_format, options.time)
        self._options = options
        self._builders: dict[Any, Callable[[Row], FlagEvaluationEvent]] = {}
        head = source.head().removeprefix(codecs.BOM_UTF8).lstrip()
        suffix = PurePath(source.name.removesuffix(".gz")).suffix.lower()
        named_table = options.form is None and suffix in _TABLE_SUFFIXES
        looks_like_json = head[:1] in {b"{", b"[", b""} or options.form == "jsonl"
        if head.startswith(b"PAR1"):
            self.unit = "row"
            self._results = self._read_rows(read_parquet(source.stream))
        elif options.form == "csv" or named_table or not looks_like_json:
            lines = LineReader(source.stream, source.encoding, MAX_LINE_BYTES)
            self._results = self._read_rows(read_table(lines, goff.header_of))
        elif head[:1] == b"[":
            self.unit = "element"
            self._results = self._read_values(read_elements(source.stream, source.encoding))
        else:
            lines = LineReader(source.stream, source.encoding, MAX_JSON_BYTES)
            self._results = self._read_values(read_objects(lines))

    def __iter__(self) -> Iterator[FlagEvaluationEvent | BadLine | Skipped]:
        return self._results

    def _read_rows(self, table: Table) -> Iterator[FlagEvaluationEvent | BadLine | Skipped]:
        header = table.header
        self.shape = shape = shape_of(header, TABLE, self._options.form)
        paths = {path for paths in shape.fields.values() for path in paths} | {*self._options.columns.values()}
        inner = [path for path in sorted(paths) if path not in header and path.partition(".")[0] in header]
        places = {name: index for index, name in enumerate(header)}

        def getter_of(path: str) -> Getter:
            if path in places:
                return itemgetter(places[path])
            if path.partition(".")[0] not in places:
                return _nothing
            index, walk = places[path.partition(".")[0]], _walker(path)
            return lambda cells: walk({header[index]: cells[index]})

        if shape.adapt is not None:
            builder = self._adapter(shape.adapt, lambda cells: dict(zip(header, cells, strict=False)), typed=False)
        else:
            self.layout = layout = self._find([*header, *inner], shape, "column")
            marks = {name for mark in shape.marks for name in mark}
            self.unused += [name for name in layout.unused if name in places and name not in marks][:_MOST_UNUSED]
            builder = self._builder(layout, getter_of, typed=False)
        return self._built(table.rows, lambda _: builder, shape, getter_of)

    def _read_values(self, rows: Iterator[Row | BadLine]) -> Iterator[FlagEvaluationEvent | BadLine | Skipped]:
        self.is_json = True
        for row in rows:
            if isinstance(row, Row) and isinstance(row.data, dict):
                self.shape = shape = shape_of(_names(row.data), EVENTS, self._options.form)
                records = _records(itertools.chain((row,), rows), shape)
                yield from self._built(records, self._builder_for, shape, _walker)
            else:
                yield row if isinstance(row, BadLine) else _no_object(row)

    def _built(
        self,
        rows: Iterable[Row | BadLine],
        builder_for: Callable[[Any], Callable[[Row], FlagEvaluationEvent]],
        shape: Shape,
        getter_of: Callable[[str], Getter],
    ) -> Iterator[FlagEvaluationEvent | BadLine | Skipped]:
        path, names = shape.only or ("", frozenset[str]())
        event_name = getter_of(path) if path else None
        for row in rows:
            if isinstance(row, BadLine):
                yield row
                continue
            try:
                if event_name is not None:
                    name = text_of("event", event_name(row.data))
                    if name not in names:
                        raise Skipped(f"{name} event" if name else "other record")
                yield builder_for(row.data)(row)
            except Skipped as skipped:
                yield skipped
            except (FieldError, EventError) as problem:
                yield BadLine(row.first, row.last, str(problem))
            except IndexError:
                yield BadLine(row.first, row.last, f"has {len(row.data)} columns, fewer than the header")

    def _builder_for(self, record: Mapping[str, Any]) -> Callable[[Row], FlagEvaluationEvent]:
        """Return the builder for objects with these members, made with the first of them."""
        shape = self.shape
        assert shape is not None
        key = tuple(record) if shape is EVENTS else None
        builder = self._builders.get(key)
        if builder is not None:
            return builder
        if shape.adapt is not None:
            builder = self._adapter(shape.adapt, _as_is, typed=True)
        else:
            names = _names(record)
            try:
                layout = self._find(names, shape, "key") if shape is EVENTS else self._fixed(names, shape)
            except ColumnError as error:
                if not self._builders:
                    raise
                raise FieldError(str(error)) from None  # other objects of the file were read
            self.layout = self.layout or layout
            self.unused += [name for name in layout.unused if name not in self.unused]
            del self.unused[_MOST_UNUSED:]
            builder = self._builder(layout, _walker, typed=True)
        if len(self._builders) < _MOST_LAYOUTS:
            self._builders[key] = builder
        return builder

    def _find(self, names: Sequence[str], shape: Shape, noun: str) -> Layout:
        options = self._options
        given = {"flag_key"} if options.flag_key and (noun == "column" or "flag_key" not in names) else set[str]()
        given |= {"timestamp"} if options.time else set()
        optional = frozenset({"flag_key"} if options.fallback_key or options.flag_key else ())
        known = {**shape.fields, **{f"context.{name}": (path,) for name, path in shape.context.items()}}
        return find_columns(names, options.columns, known, frozenset(given), optional, options.ignored, noun)

    def _fixed(self, names: Sequence[str], shape: Shape) -> Layout:
        """Return the layout of a shape whose members are known, whichever of them the first record has."""
        wanted = self._options.columns
        fields = {**shape.fields, **{field: (path,) for field, path in wanted.items() if field in _NEEDED}}
        # Of the fields that every event has, a path that is not there is a mistake.
        find_columns(names, {field: path for field, path in wanted.items() if field in _NEEDED}, {}, _NEEDED, _NEEDED)
        context = {**shape.context}
        for field, path in wanted.items():
            if field.startswith("context."):
                context[field.removeprefix("context.")] = path
            else:
                fields[field] = (path,)
        used = {path for paths in fields.values() for path in paths} | {*context.values()}
        known = used | {path.partition(".")[0] for path in used} | {name for mark in shape.marks for name in mark}
        inner = {name.rpartition(".")[0] for name in names}
        unused = (name for name in names if name not in known and name not in inner and not _is_under(name, used))
        return Layout(fields, context, tuple(unused))

    def _adapter(
        self, adapt: Callable[[Mapping[str, Any]], Fields], record_of: Getter, *, typed: bool
    ) -> Callable[[Row], FlagEvaluationEvent]:
        """Return the function that lets the shape read a record, with the user's own mappings on top."""
        wanted = tuple((field, _walker(path)) for field, path in self._options.columns.items())
        event_of = self._maker(typed=typed)

        def build(row: Row) -> FlagEvaluationEvent:
            record = record_of(row.data)
            *main, others = adapt(record)
            if not wanted:
                return event_of(row, *main, (), (), others)
            fields: dict[str, Any] = dict(zip(_MAIN_FIELDS, main, strict=True))
            context = []
            for field, get in wanted:
                if field.startswith("context."):
                    context.append((field.removeprefix("context."), get(record)))
                else:
                    fields[field] = get(record)
            main = [fields.pop(field) for field in _MAIN_FIELDS]
            return event_of(row, *main, context, fields.items(), others)

        return build

    def _builder(
        self, layout: Layout, getter_of: Callable[[str], Getter], *, typed: bool
    ) -> Callable[[Row], FlagEvaluationEvent]:
        """Return the function that makes an event of a record.

        Args:
            layout: Where the fields are.
            getter_of: Returns the function that takes the value of a column or path from a record.
            typed: Whether values have types; else a text may be a number, a boolean or JSON.
        """
        getters = {field: _first(tuple(map(getter_of, paths))) for field, paths in layout.fields.items()}
        get_time, get_key, get_value, get_reason, get_variant, get_user, get_attributes = (
            getters.pop(field, _nothing) for field in _MAIN_FIELDS
        )
        others = tuple(getters.items())
        context = tuple((name, getter_of(path)) for name, path in layout.context.items())
        event_of = self._maker(typed=typed)

        def build(row: Row) -> FlagEvaluationEvent:
            data = row.data
            return event_of(
                row,
                get_time(data),
                get_key(data),
                get_value(data),
                get_reason(data),
                get_variant(data),
                get_user(data),
                get_attributes(data),
                [(name, get(data)) for name, get in context] if context else (),
                [(field, get(data)) for field, get in others] if others else (),
            )

        return build

    def _maker(self, *, typed: bool) -> Callable[..., FlagEvaluationEvent]:
        """Return the function that makes an event of the values of a record."""
        shape, options = self.shape, self._options
        assert shape is not None
        read_time, flag_key, source = self.times.read, options.flag_key or options.fallback_key, options.source
        value_of: Getter = _as_is if typed else _cell_value
        defaults: dict[str, Any] = {"kind": shape.kind}
        if not options.ids:
            defaults["event_id"] = ""
        if shape.provider:
            defaults["provider_name"] = shape.provider

        def event_of(
            row: Row,
            time: Any,
            key: Any,
            value: Any,
            reason: Any,
            variant: Any,
            user: Any,
            attributes: Any,
            context: Iterable[tuple[str, Any]],
            others: Iterable[tuple[str, Any]],
            checked: Mapping[str, Any] | None = None,
        ) -> FlagEvaluationEvent:
            timestamp = read_time(time)
            flag = text_of("flag_key", key) or flag_key
            if flag is None:
                raise FieldError("flag_key is missing or empty")
            further = defaults.copy()
            if checked:
                further.update(checked)
            for field, found in others:
                if found is not None and found != "":
                    convert = _CONVERSIONS.get(field)
                    further[field] = text_of(field, found) if convert is None else convert(found)
            if "event_id" not in further:
                further["event_id"] = event_id_of(timestamp, row.number, row.text, flag, source)
            attributes = object_of("context_attributes", attributes) if attributes else {}
            for name, found in context:
                attributes[name] = value_of(found)
            return FlagEvaluationEvent(
                timestamp,
                flag,
                value_of(value),
                reason_of(reason),
                text_of("variant", variant),
                text_of("targeting_key", user),
                attributes,
                **further,
            )

        return event_of


_NEEDED = frozenset({"timestamp", "flag_key", "variant", "targeting_key"})


def _nothing(_record: Any) -> Any:
    return None


def _as_is(value: Any) -> Any:
    return value


def _cell_value(value: Any) -> Any:
    return json_or_text(value) if value.__class__ is str else value


def _first(getters: Sequence[Getter]) -> Getter:
    """Return the function that takes the first value that is there."""
    if len(getters) == 1:
        return getters[0]

    def get(record: Any) -> Any:
        found = None
        for getter in getters:
            found = getter(record)
            if found is not None and found != "":
                return found
        return found

    return get


def _walker(path: str) -> Getter:
    """Return the function that follows a dotted path into an object; a name with dots of its own comes first."""
    if "." not in path:
        return lambda record: record.get(path)

    def get(record: Any) -> Any:
        rest: str = path
        value: Any = record
        while True:
            if value.__class__ is str and value[:1] == "{":
                value = json_or_text(value)
            if not isinstance(value, Mapping):
                return None
            if rest in value:
                return value[rest]
            name, dot, rest = rest.partition(".")
            if not dot:
                return None
            value = value.get(name)

    return get


def _names(record: Mapping[str, Any]) -> list[str]:
    """Return the names of an object's members, and the dotted paths of those within them."""
    names: list[str] = []
    pending = [(name, value) for name, value in record.items()]
    for name, value in pending:
        if len(names) >= _MOST_NAMES:
            break
        names.append(name)
        if isinstance(value, Mapping) and name.count(".") < 4:
            pending += [(f"{name}.{inner}", part) for inner, part in value.items()]
    return names


def _is_under(name: str, paths: Iterable[str]) -> bool:
    return any(name.startswith(f"{path}.") for path in paths)


def _no_object(row: Row) -> BadLine:
    return BadLine(row.first, row.last, "is not a JSON object")


def _records(rows: Iterable[Row | BadLine], shape: Shape) -> Iterator[Row | BadLine]:
    """Yield the records of a file, those within a document each with a number of its own."""
    for row in rows:
        if isinstance(row, BadLine):
            yield row
        elif not isinstance(row.data, dict):
            yield _no_object(row)
        elif shape.unpack is None or shape.document not in row.data:
            yield row
        else:
            yield from _unpacked(row, shape.unpack)


def _unpacked(row: Row, unpack: Callable[[Mapping[str, Any]], Iterable[Mapping[str, Any]]]) -> Iterator[Row | BadLine]:
    try:
        for index, record in enumerate(unpack(row.data), 1):
            yield Row(f"{row.number}.{index}", row.first, row.last, record, _as_text(record))
    except FieldError as problem:
        yield BadLine(row.first, row.last, str(problem))


def _as_text(record: Mapping[str, Any]) -> str:
    try:
        return msgspec.json.encode(record).decode()
    except (TypeError, ValueError, RecursionError):
        return json.dumps(record, default=str)
