"""``FilesSource``: answers questions about events in files, which DuckDB reads and filters."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import weakref
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
from flag_analytics.errors import PluginError, SourceError
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.metrics import EventsSource, canonical_filter, select
from flag_analytics.outcomes import Outcomes
from flag_analytics.sources import EventFilter, Exposures, FlagActivity, FlagSummary, TimeStep, Window

from .encoding import COLUMNS
from .naming import is_events
from .objects import ObjectStore
from .options import FilesOptions

__all__ = ["FilesSource", "FilesStream"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ALL_TIME = Window(None, datetime.max.replace(tzinfo=UTC))
_ATTEMPTS = 5
_PAGE_EVENTS = 1_000
_SORT_MEMORY = "1GB"
_IN_ORDER_OF_FILES, _BY_TIME = "file, number", "timestamp, event_id"
_MAX_LINE_BYTES = 64 * 2**20
_JSON = {
    **dict.fromkeys(COLUMNS, "VARCHAR"),
    "timestamp": "TIMESTAMPTZ",
    "value": "JSON",
    "context_attributes": "JSON",
    "evaluation_duration_ms": "DOUBLE",
    "sample_rate": "DOUBLE",
}
_DEFAULTS = {
    "evaluation_duration_ms": "0.0",
    "sample_rate": "1.0",
    "kind": "'evaluation'",
    "value": "'null'",
    "context_attributes": "'{}'",
}


class FilesSource:
    """An ``EventSource`` over every file of events in a place: a directory, one file, or an object store.

    An event that is in several files counts once. A line that is no event is left out. Files of an object store are
    copied to a temporary directory first, and anew where they changed. Every method may be called from any event loop.

    Args:
        location: The directory, file or URL, or the options of a collector.

    Raises:
        PluginError: DuckDB, or the library of the object store, is not installed.
        SourceError: there is no such file.
    """

    any_loop = True

    def __init__(self, location: FilesOptions | Path | str) -> None:
        self._duckdb = _imported()
        options = location if isinstance(location, FilesOptions) else FilesOptions(location=str(location))
        self._store: ObjectStore | None = None
        self._copies: dict[str, str] = {}
        self._place = Path(options.location)
        if options.in_object_store:
            self._store = ObjectStore(options.location, options.storage)
            self._place = Path(tempfile.mkdtemp(prefix="flag-analytics-"))
            weakref.finalize(self, shutil.rmtree, self._place, ignore_errors=True)
        elif not isinstance(location, FilesOptions) and not self._place.exists():
            raise SourceError(f"there is no file or directory {location}")

    async def summarise(self, flag_keys: Sequence[str], window: Window, **asked: Any) -> Mapping[str, FlagSummary]:
        """See ``EventSource.summarise``."""
        return await (await self._events(window, flag_keys)).summarise(flag_keys, window, **asked)

    async def get_exposures(self, flag_key: str, window: Window, *, where: EventFilter | None = None) -> Exposures:
        """See ``EventSource.get_exposures``."""
        return await (await self._events(window, [flag_key])).get_exposures(flag_key, window, where=where)

    async def get_outcomes(
        self, flag_key: str, metric: str, window: Window, *, where: EventFilter | None = None
    ) -> Outcomes:
        """See ``OutcomeSource.get_outcomes``."""
        source = await self._events(window, [flag_key, metric])
        return await source.get_outcomes(flag_key, metric, window, where=where)

    async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Sequence[FlagActivity]:
        """See ``EventSource.list_flags``."""
        return await (await self._events(window)).list_flags(window, where=where)

    async def count_steps(
        self, flag_key: str, window: Window, step_seconds: float, **asked: Any
    ) -> Mapping[int, TimeStep]:
        """See ``EventSource.count_steps``."""
        source = await self._events(window, [flag_key])
        return await source.count_steps(flag_key, window, step_seconds, **asked)

    async def count_future(self, now: datetime) -> int:
        """See ``EventSource.count_future``."""
        (row,) = await self._rows("count(*)", "timestamp > ?", [_micros(now)])
        return int(row[0])

    def get_events(
        self,
        flag_key: str | None = None,
        limit: int | None = None,
        *,
        window: Window | None = None,
        where: EventFilter | None = None,
    ) -> FilesStream:
        """Return the events, in the order of their files, or by time where a window or filter is given.

        Iterate over them in bounded memory, or await them for a list.

        Args:
            flag_key: Only the events of this flag.
            limit: Only the last ones, at most this many.
            window: Only the events of this window.
            where: Only the events that pass this filter; by default evaluations and exposures, with a window.
        """
        return FilesStream(self, flag_key, limit, window, where)

    async def _events(self, window: Window, flag_keys: Sequence[str] | None = None) -> EventsSource:
        condition, values = _conditions(window, flag_keys)
        rows = await self._rows(", ".join(COLUMNS), condition, values)
        events = await asyncio.to_thread(lambda: [_event(row) for row in rows])
        return EventsSource(lambda: events)

    async def _rows(self, columns: str, condition: str, values: list[Any]) -> list[tuple[Any, ...]]:
        """Return rows of all files; if one is merged into another while they are read, look again."""
        for attempt in range(_ATTEMPTS):
            files = await self._files()
            try:
                return await asyncio.to_thread(self._query, files, columns, condition, values)
            except self._duckdb.IOException:
                if attempt == _ATTEMPTS - 1:
                    raise SourceError("the files cannot be read") from None
        raise AssertionError

    async def _files(self) -> list[str]:
        if self._store is None:
            return await asyncio.to_thread(_files_in, self._place)
        found = {path: version for path, version in (await self._store.versions("")).items() if is_events(path)}
        for path in self._copies.keys() - found.keys():
            self._copies.pop(path, None)
            (self._place / path).unlink(missing_ok=True)
        for path, version in found.items():
            if self._copies.get(path) != version and (body := await self._store.get(path)) is not None:
                await asyncio.to_thread(_copy, self._place / path, body)
                self._copies[path] = version
        return [str(self._place / path) for path in found if path in self._copies]

    async def pages(self, condition: str, values: list[Any], order: str) -> AsyncIterator[list[FlagEvaluationEvent]]:
        """Yield the events of a condition in an order, some at a time; DuckDB sorts, on disk where they are many."""
        for attempt in range(_ATTEMPTS):
            query = self._text(await self._files(), ", ".join(COLUMNS), condition, order)
            with _sorting(self._duckdb) as connection:
                try:
                    if query is not None:
                        await asyncio.to_thread(connection.execute, query, values)
                except self._duckdb.IOException:
                    if attempt == _ATTEMPTS - 1:
                        raise SourceError("the files cannot be read") from None
                    continue
                while query is not None and (rows := await asyncio.to_thread(connection.fetchmany, _PAGE_EVENTS)):
                    yield [_event(row) for row in rows]
            return

    def _query(self, files: list[str], columns: str, condition: str, values: list[Any]) -> list[tuple[Any, ...]]:
        query = self._text(files, columns, condition, "" if columns == "count(*)" else _IN_ORDER_OF_FILES)
        if query is None:
            return [(0,)] if columns == "count(*)" else []
        with self._duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return cast("list[tuple[Any, ...]]", connection.execute(query, values).fetchall())

    def _text(self, files: list[str], columns: str, condition: str, order: str) -> str | None:
        """Return the query for some columns of the events of these files; None without any file."""
        parquet = [file for file in files if file.endswith(".parquet")]
        lines = [file for file in files if not file.endswith(".parquet")]
        tables = [self._parquet_table(parquet)] if parquet else []
        tables += [self._json_table(lines)] if lines else []
        if not tables:
            return None
        return (
            f"WITH found AS ({' UNION ALL BY NAME '.join(tables)}), "  # noqa: S608 - of our own words and quoted paths
            "events AS (SELECT * FROM found WHERE event_id IS NOT NULL AND flag_key IS NOT NULL "
            "QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY file, number) = 1) "
            f"SELECT {columns} FROM events WHERE {condition}" + (f" ORDER BY {order}" if order else "")
        )

    def _parquet_table(self, files: list[str]) -> str:
        read = f"read_parquet({_quoted(files)}, union_by_name = true, filename = true, file_row_number = true)"
        with self._duckdb.connect() as connection:
            described = connection.execute(f"DESCRIBE SELECT * FROM {read}").fetchall()  # noqa: S608
        return self._selection(read, {name: kind for name, kind, *_ in described})

    def _json_table(self, files: list[str]) -> str:
        columns = ", ".join(f"{name}: '{kind}'" for name, kind in _JSON.items())
        read = (
            f"read_json({_quoted(files)}, format = 'newline_delimited', columns = {{{columns}}}, ignore_errors = true, "
            f"filename = true, maximum_object_size = {_MAX_LINE_BYTES})"
        )
        return self._selection(f"(SELECT *, row_number() OVER () AS file_row_number FROM {read})", _JSON)  # noqa: S608

    def _selection(self, table: str, kinds: Mapping[str, str]) -> str:
        """Return a query for every column of an event, whatever the table has."""
        columns = []
        defaults = {**_DEFAULTS, "event_id": self._id_of_row(kinds)}
        for name in COLUMNS:
            column = _as_stored(name, kinds[name]) if name in kinds else "NULL"
            columns.append(f"coalesce({column}, {defaults.get(name, 'NULL')}) AS {name}")
        return f"SELECT {', '.join(columns)}, filename AS file, file_row_number AS number FROM {table}"  # noqa: S608

    def _id_of_row(self, kinds: Mapping[str, str]) -> str:
        """Return the id of an event that brought none: the same whenever this row of this file is read."""
        told = ", ".join(f"{name}::VARCHAR" for name in ("timestamp", "flag_key", "targeting_key") if name in kinds)
        path = f"substr(filename, {len(str(self._place)) + 1})"
        return f"md5(concat_ws(chr(0), {path}, file_row_number, {told or 'NULL'}))::UUID::VARCHAR"


class FilesStream:
    """Events of files: iterate over them in bounded memory, or await them for a list."""

    def __init__(
        self,
        source: FilesSource,
        flag_key: str | None,
        limit: int | None,
        window: Window | None,
        where: EventFilter | None,
    ) -> None:
        self._source = source
        self._keys = None if flag_key is None else [flag_key]
        self._limit = limit
        self._window = window
        # Without both, what is there is given as it is, outcomes included.
        self._where = None if window is None and where is None else canonical_filter(where)

    def __await__(self) -> Generator[Any, None, list[FlagEvaluationEvent]]:
        return self._all().__await__()

    async def _all(self) -> list[FlagEvaluationEvent]:
        return [event async for event in self]

    async def __aiter__(self) -> AsyncIterator[FlagEvaluationEvent]:
        newest: deque[FlagEvaluationEvent] = deque(maxlen=None if self._limit is None else max(0, self._limit))
        condition, values = _conditions(self._window, self._keys)
        window = self._window or _ALL_TIME
        order = _IN_ORDER_OF_FILES if self._where is None else _BY_TIME
        async for page in self._source.pages(condition, values, order):
            found = page if self._where is None else select(page, window, self._where)
            if self._limit is not None:
                newest.extend(found)
                continue
            for event in found:
                yield event
        for event in newest:
            yield event


@contextmanager
def _sorting(duckdb: Any) -> Iterator[Any]:
    """Yield a connection that sorts in bounded memory."""
    with tempfile.TemporaryDirectory(prefix="flag-analytics-") as directory, duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET memory_limit = '{_SORT_MEMORY}'")
        connection.execute(f"SET temp_directory = {_text_of(directory)}")
        yield connection


def _conditions(window: Window | None, flag_keys: Sequence[str] | None) -> tuple[str, list[Any]]:
    conditions, values = ["true"], list[Any]()
    if window is not None:
        conditions.append("timestamp <= ?")
        values.append(_micros(window.end))
    if window is not None and window.start is not None:
        conditions.append("timestamp >= ?")
        values.append(_micros(window.start))
    if flag_keys is not None:
        conditions.append("flag_key IN (SELECT unnest(?::VARCHAR[]))")
        values.append(list(flag_keys))
    return " AND ".join(conditions), values


def _as_stored(name: str, kind: str) -> str:
    if name == "timestamp":
        return "epoch_us(timestamp::TIMESTAMPTZ)"
    if name in {"evaluation_duration_ms", "sample_rate"}:
        return f"{name}::DOUBLE"
    if name in {"value", "context_attributes"} and kind not in {"VARCHAR", "JSON"}:
        return f"to_json({name})::VARCHAR"
    return f"{name}::VARCHAR"


def _event(row: tuple[Any, ...]) -> FlagEvaluationEvent:
    fields: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    fields["timestamp"] = _EPOCH + timedelta(microseconds=fields["timestamp"])
    fields["value"] = _json_or_text(fields["value"])
    context = _json_or_text(fields["context_attributes"])
    fields["context_attributes"] = context if isinstance(context, dict) else {}
    return FlagEvaluationEvent.from_dict(fields)


def _json_or_text(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _quoted(paths: list[str]) -> str:
    return "[" + ", ".join(map(_text_of, paths)) + "]"


def _text_of(path: str) -> str:
    return "'" + path.replace("'", "''") + "'"


def _files_in(place: Path) -> list[str]:
    if place.is_file():
        return [str(place)]
    found = [path for path in place.rglob("*") if is_events(path.relative_to(place).as_posix()) and path.is_file()]
    return sorted(map(str, found))


def _copy(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{id(body):x}")
    unfinished.write_bytes(body)
    unfinished.replace(path)


def _imported() -> Any:
    try:
        import duckdb
    except ImportError:
        raise PluginError("reading files needs DuckDB: run `pip install 'flag-analytics-files[read]'`") from None
    return duckdb
