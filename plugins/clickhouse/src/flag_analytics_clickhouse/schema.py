"""The tables and views: events, hourly counts, daily sketches, dead letters, and what is known of the schema.

Times are whole microseconds since the Unix epoch, UTC, since events may be dated outside the range of ClickHouse's own
types. Texts are compared byte by byte, as ClickHouse does everywhere.

======================  ================================================================================================
``events``              one row for each event, in the order of the questions
``counts``              one row for each (flag, hour, variant, reason, environment): how many events, and their weight
``sketches``            one row for each (flag, day): distinct users, and durations in buckets of their logarithm
``dead_letters``        refused events as JSON
``state``               the version of the schema and the retention that the tables have
======================  ================================================================================================

Counts and sketches are written by materialised views within each insert, for evaluations and exposures. Where a cluster
is named each of these names is a ``Distributed`` table over replicated tables whose names end in ``_local``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import attrs

from .options import ClickHouseOptions

__all__ = [
    "ALL_COLUMNS",
    "BUCKET_RATIO",
    "COLUMN_TYPES",
    "DAY_MICROS",
    "HOUR_MICROS",
    "KINDS",
    "LETTER_COLUMNS",
    "STATE_COLUMNS",
    "Tables",
]

HOUR_MICROS = 3_600_000_000
DAY_MICROS = 24 * HOUR_MICROS

KINDS = ("evaluation", "exposure", "outcome")

BUCKET_RATIO = 1.01 / 0.99
"""The ratio of the bounds of a bucket of durations: its middle is off by at most 1 %.

Bucket ``i`` holds the durations from ``BUCKET_RATIO ** (i - 1)``, excluded, to ``BUCKET_RATIO ** i`` milliseconds, as
DDSketch has them (Masson, Rim, Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with Relative-Error
Guarantees", 2019). Its middle is ``2 * BUCKET_RATIO ** i / (BUCKET_RATIO + 1)``.
"""

COLUMN_TYPES: dict[str, str] = {
    "event_id": "UUID",
    "batch_id": "String",
    "timestamp": "Int64",
    "received_at": "Int64",
    "kind": "Enum8('evaluation' = 0, 'exposure' = 1, 'outcome' = 2)",
    "flag_key": "LowCardinality(String)",
    "reason": "LowCardinality(String)",
    "variant": "LowCardinality(Nullable(String))",
    "targeting_key": "Nullable(String)",
    "evaluation_duration_ms": "Float64",
    "value": "String",
    "context_attributes": "String",
    "environment": "LowCardinality(String)",
    "sample_rate": "Float64",
    "error_type": "LowCardinality(Nullable(String))",
    "error_message": "Nullable(String)",
    "flag_version": "LowCardinality(Nullable(String))",
    "flag_set_id": "LowCardinality(Nullable(String))",
    "provider_name": "LowCardinality(Nullable(String))",
}
"""The columns of an event as they are inserted; ``environment`` is the context attribute as groups show it."""
ALL_COLUMNS = tuple(COLUMN_TYPES)

_CODECS = {
    "batch_id": "ZSTD(1)",
    "timestamp": "Delta, ZSTD(1)",
    "received_at": "Delta, ZSTD(1)",
    "event_id": "ZSTD(1)",
    "targeting_key": "ZSTD(1)",
    "evaluation_duration_ms": "ZSTD(1)",
    "value": "ZSTD(1)",
    "context_attributes": "ZSTD(1)",
}
_COMPUTED = {
    "weight": "UInt64 MATERIALIZED toUInt64(floor(1000000 / greatest(sample_rate, 0.000001) + 0.5))",
    "is_error": "UInt8 MATERIALIZED reason = 'ERROR' OR ifNull(error_type, '') != ''",
}
"""Computed by the server: the weight in millionths of an event, and whether it counts as an error."""

LETTER_COLUMNS = {
    "event_id": "UUID",
    "at": "Int64",
    "sink": "String",
    "error": "String",
    "code": "String",
    "batch_id": "String",
    "targeting_key": "String",
    "event": "String",
}
STATE_COLUMNS = {"name": "String", "value": "String", "at": "Int64"}

_LAST_SECOND = 4_294_967_295
_MONTHS = (946_684_800_000_000, 4_102_444_800_000_000)
"""2000 to 2100: events dated outside are in one partition, so that hostile times do not make thousands of them."""


@attrs.frozen
class Tables:
    """The names of one installation's tables, as SQL has them, and how they are made.

    Attributes:
        database: The database.
        name: The name of the events' table.
        cluster: The cluster, or None for one server.
        window: The blocks whose tokens each table remembers.
    """

    database: str
    name: str
    cluster: str | None = None
    window: int = 10_000

    @classmethod
    def of(cls, options: ClickHouseOptions) -> Tables:
        """Return the tables that the options name."""
        return cls(options.address.database, options.table, options.cluster, options.deduplication_window)

    def _quoted(self, suffix: str, *, local: bool = False) -> str:
        ending = "_local" if local and self.cluster else ""
        return f"`{self.database}`.`{self.name}{suffix}{ending}`"

    @property
    def events(self) -> str:
        """The events: what is written to and read from."""
        return self._quoted("")

    @property
    def counts(self) -> str:
        """The hourly counts."""
        return self._quoted("_counts")

    @property
    def sketches(self) -> str:
        """The daily sketches."""
        return self._quoted("_sketches")

    @property
    def dead_letters(self) -> str:
        """The refused events."""
        return self._quoted("_dead_letters")

    @property
    def state(self) -> str:
        """The version of the schema, and the retention of the tables."""
        return self._quoted("_state")

    def local(self, suffix: str) -> str:
        """Return the table with this suffix that holds the rows themselves; changes of rows are made there."""
        return self._quoted(suffix, local=True)

    @property
    def on_cluster(self) -> str:
        """The clause that makes a change on each server."""
        return f" ON CLUSTER `{self.cluster}`" if self.cluster else ""

    def create_database(self) -> str:
        """Return the statement that makes the database."""
        return f"CREATE DATABASE IF NOT EXISTS `{self.database}`{self.on_cluster}"

    def create_state(self) -> Sequence[str]:
        """Return the statements that make the table in which the version of the schema is."""
        return [*self._create("_state", _columns(STATE_COLUMNS), order="name", engine="ReplacingMergeTree", by="at")]

    def migrations(self) -> Sequence[Sequence[str]]:
        """Return the statements of each version of the schema; each may be run again."""
        return [[*self._create_all()]]

    def _create_all(self) -> Iterator[str]:
        yield from self._create("_dead_letters", _columns(LETTER_COLUMNS), order="at, event_id", shard="at")
        indexes = [
            "INDEX by_batch batch_id TYPE bloom_filter(0.01) GRANULARITY 1",
            "INDEX by_user targeting_key TYPE bloom_filter(0.01) GRANULARITY 1",
        ]
        computed = [f"`{name}` {text}" for name, text in _COMPUTED.items()]
        yield from self._create(
            "",
            [*_columns(COLUMN_TYPES), *computed, *indexes],
            order="flag_key, timestamp, event_id",
            primary="flag_key, timestamp",
            partition=_month_of("timestamp"),
            shard="cityHash64(flag_key, targeting_key)",
        )
        counts = {
            "flag_key": "LowCardinality(String)",
            "hour": "Int64",
            "variant": "LowCardinality(String)",
            "reason": "LowCardinality(String)",
            "environment": "LowCardinality(String)",
            "events": "SimpleAggregateFunction(sum, Int64)",
            "weight": "SimpleAggregateFunction(sum, Int64)",
            "errors": "SimpleAggregateFunction(sum, Int64)",
            "error_weight": "SimpleAggregateFunction(sum, Int64)",
            "first_event": "SimpleAggregateFunction(min, Int64)",
            "last_event": "SimpleAggregateFunction(max, Int64)",
        }
        yield from self._create(
            "_counts",
            _columns(counts),
            order="flag_key, hour, variant, reason, environment",
            engine="AggregatingMergeTree",
            partition=_month_of("hour"),
            shard="cityHash64(flag_key)",
        )
        sketches = {
            "flag_key": "LowCardinality(String)",
            "day": "Int64",
            "events": "SimpleAggregateFunction(sum, Int64)",
            "users": "AggregateFunction(uniqCombined64(16), String)",
            "durations": "SimpleAggregateFunction(sumMap, Map(Int32, Int64))",
        }
        yield from self._create(
            "_sketches",
            _columns(sketches),
            order="flag_key, day",
            engine="AggregatingMergeTree",
            partition=_month_of("day"),
            shard="cityHash64(flag_key)",
            # A row has up to 100 KB: of one flag no other's should be read.
            granularity=64,
        )
        yield self._view("_counts", self.select_counts(self.local("")))
        yield self._view("_sketches", self.select_sketches(self.local("")))

    def _create(
        self,
        suffix: str,
        columns: Sequence[str],
        *,
        order: str,
        engine: str = "MergeTree",
        by: str = "",
        partition: str = "",
        primary: str = "",
        shard: str = "rand()",
        granularity: int = 8_192,
    ) -> Iterator[str]:
        if self.cluster:
            engine = f"Replicated{engine}"
        partitioned = f"\nPARTITION BY {partition}" if partition else ""
        key = f"\nPRIMARY KEY ({primary})" if primary else ""
        body = ",\n    ".join(columns)
        yield (
            f"CREATE TABLE IF NOT EXISTS {self._quoted(suffix, local=True)}{self.on_cluster} (\n    {body}\n) "
            f"ENGINE = {engine}({by}){partitioned}{key}\nORDER BY ({order})\nSETTINGS {self._remember}, "
            f"index_granularity = {granularity}"
        )
        if self.cluster:
            local = f"{self.name}{suffix}_local"
            yield (
                f"CREATE TABLE IF NOT EXISTS {self._quoted(suffix)}{self.on_cluster} "
                f"AS {self._quoted(suffix, local=True)} "
                f"ENGINE = Distributed(`{self.cluster}`, `{self.database}`, `{local}`, {shard})"
            )

    def _view(self, suffix: str, select: str) -> str:
        view = f"`{self.database}`.`{self.name}{suffix}_view`"
        return f"CREATE MATERIALIZED VIEW IF NOT EXISTS {view}{self.on_cluster} TO {self.local(suffix)} AS\n{select}"

    def select_counts(self, events: str, where: str = "") -> str:
        """Return the query that makes hourly counts of events; ``where`` is as ``e.flag_key = … AND``."""
        return (
            f"SELECT e.flag_key AS flag_key, e.timestamp - positiveModulo(e.timestamp, {HOUR_MICROS}) AS hour, "
            "ifNull(e.variant, '') AS variant, e.reason AS reason, e.environment AS environment, "
            "toInt64(count()) AS events, toInt64(sum(e.weight)) AS weight, "
            "toInt64(countIf(e.is_error)) AS errors, toInt64(sumIf(e.weight, e.is_error)) AS error_weight, "
            "min(e.timestamp) AS first_event, max(e.timestamp) AS last_event\n"
            f"FROM {events} AS e\nWHERE {where}e.kind IN ('evaluation', 'exposure')\n"
            "GROUP BY flag_key, hour, variant, reason, environment"
        )

    def select_sketches(self, events: str, where: str = "") -> str:
        """Return the query that makes daily sketches of events; ``where`` is as ``e.flag_key = … AND``."""
        # Every event is computed, also those that are left out, and the logarithm of 0 fits no integer.
        duration = "if(e.evaluation_duration_ms > 0, e.evaluation_duration_ms, 1)"
        bucket = f"toInt32(ceil(log({duration}) / {math.log(BUCKET_RATIO)!r}))"
        user = "ifNull(e.targeting_key, '')"
        return (
            f"SELECT e.flag_key AS flag_key, e.timestamp - positiveModulo(e.timestamp, {DAY_MICROS}) AS day, "
            "toInt64(count()) AS events, "
            f"uniqCombined64StateIf(16)({user}, {user} != '') AS users, "
            f"sumMapIf(map({bucket}, toInt64(e.weight)), e.evaluation_duration_ms > 0) AS durations\n"
            f"FROM {events} AS e\nWHERE {where}e.kind IN ('evaluation', 'exposure')\n"
            "GROUP BY flag_key, day"
        )

    @property
    def _remember(self) -> str:
        kind = "replicated" if self.cluster else "non_replicated"
        return f"{kind}_deduplication_window = {self.window}"

    def remember(self, suffix: str) -> str:
        """Return the statement that makes a table recognise the latest ``window`` inserts."""
        return f"ALTER TABLE {self.local(suffix)}{self.on_cluster} MODIFY SETTING {self._remember}"

    def keep(self, suffix: str, days: int | None) -> str:
        """Return the statement that makes a table's rows go after so many days, or never."""
        column = {"": "timestamp", "_counts": "hour", "_sketches": "day"}[suffix]
        table = f"{self.local(suffix)}{self.on_cluster}"
        if days is None:
            return f"ALTER TABLE {table} REMOVE TTL"
        latest = _LAST_SECOND - (days + 1) * 86_400
        seconds = f"toUInt32(least(greatest(intDiv({column}, 1000000), 0), {latest}))"
        return f"ALTER TABLE {table} MODIFY TTL toDateTime({seconds}, 'UTC') + toIntervalDay({days})"


def _columns(types: dict[str, str]) -> list[str]:
    return [f"`{name}` {kind}{f' CODEC({_CODECS[name]})' if name in _CODECS else ''}" for name, kind in types.items()]


def _month_of(column: str) -> str:
    first, end = _MONTHS
    month = f"toYYYYMM(toDateTime(toUInt32(intDiv({column}, 1000000)), 'UTC'))"
    return f"if({column} >= {first} AND {column} < {end}, {month}, 0)"
