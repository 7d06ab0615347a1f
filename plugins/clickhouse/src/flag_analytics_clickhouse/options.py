"""``ClickHouseOptions``: the settings of the ClickHouse collector, checked before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from flag_analytics.config.kinds import ByteSize, Url
from flag_analytics.reports import DeliveryOptions

from .urls import Address, parse_url

__all__ = ["DEFAULT_TABLE", "ClickHouseOptions"]

DEFAULT_TABLE = "flag_evaluation_events"

_DISCREET = {"secret": True, "discreet_validator": True}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_CLUSTER = re.compile(r"[A-Za-z0-9_.{}-]{1,127}")
_SETTING = re.compile(r"[a-z][a-z0-9_]*")
_MOST_DAYS = 36_500

_at_least_one: Any = attrs.validators.ge(1)
_positive: Any = attrs.validators.gt(0)
_days: Any = attrs.validators.optional(attrs.validators.and_(_at_least_one, attrs.validators.le(_MOST_DAYS)))


def _check_url(_: Any, __: Any, url: Any) -> None:
    database = parse_url(url).database
    if database and not _IDENTIFIER.fullmatch(database):
        raise ValueError("expected a plain name of a database after the host: letters, digits and _")


def _identifier(_: Any, field: attrs.Attribute[Any], name: Any) -> None:
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
        raise ValueError(f"{field.name} is not a plain name: expected letters, digits and _, at most 63 of them")


def _check_cluster(_: Any, __: Any, name: Any) -> None:
    if not isinstance(name, str) or not _CLUSTER.fullmatch(name):
        raise ValueError("cluster is not the name of a cluster: expected letters, digits and any of _ . - { }")


def _check_settings(_: Any, __: Any, settings: Mapping[str, str]) -> None:
    for name in settings:
        if not _SETTING.fullmatch(name):
            raise ValueError(f"settings has {name!r}: expected names of ClickHouse's settings, such as insert_quorum")


@attrs.frozen(kw_only=True)
class ClickHouseOptions:
    """Settings of the ClickHouse collector. Times are in seconds unless the name says otherwise.

    Attributes:
        url: The HTTP interface of a server: ``https://host:8443/database``, or ``http://host:8123`` without TLS. User
            and password may be in it. ``chdb:///folder`` is an embedded engine, for one process: see the extra
            ``chdb``.
        username: The user, where the URL has none.
        password: The password, where the URL has none.
        database: The database of the tables, where the URL has none; it is created if it is missing.
        table: The name of the events' table; the others' begin with it.
        cluster: The cluster's name: tables are replicated and distributed over it.
        create_tables: Create missing tables, and bring older ones up to date. Without it they are only used.
        retention_days: Events older than this many days are removed; None keeps all.
        rollup_retention_days: The same for the rollups, which outlive the events.
        batch_size: The most events in one write.
        max_batch_bytes: The most bytes in one write.
        flush_interval_seconds: The longest an event waits for its batch to fill.
        look_up_ids: Look for each event's id before it is stored, so that one that was recorded twice, by a repeated
            import for example, is stored once. Without it only events that may have been written before are looked for.
        deduplication_window: The latest inserts, of all processes, that tables recognise when they come again. More is
            needed only where many processes write: it holds the inserts of some minutes.
        connect_timeout_seconds: The longest a connection attempt may take.
        statement_timeout_seconds: The longest a write may take.
        query_timeout_seconds: The longest a question may take.
        tls_ca_file: Certificates of the authorities that the server's is checked against (PEM), in place of the
            system's.
        tls_cert_file: The client's certificate (PEM).
        tls_key_file: The key of the client's certificate (PEM).
        compress: Whether requests and answers are compressed.
        settings: Settings of ClickHouse for every statement, such as ``insert_quorum``.
    """

    url: Url = attrs.field(repr=False, validator=_check_url, metadata=_DISCREET)
    username: str = ""
    password: str = attrs.field(default="", repr=False, metadata={"secret": True})
    database: str = attrs.field(default="default", validator=_identifier)
    table: str = attrs.field(default=DEFAULT_TABLE, validator=_identifier)
    cluster: str | None = attrs.field(default=None, validator=attrs.validators.optional(_check_cluster))
    create_tables: bool = True
    retention_days: int | None = attrs.field(default=None, validator=_days)
    rollup_retention_days: int | None = attrs.field(default=None, validator=_days)
    batch_size: int = attrs.field(default=20_000, validator=_at_least_one)
    max_batch_bytes: ByteSize = attrs.field(default=32 * 2**20, validator=_at_least_one)
    flush_interval_seconds: float = attrs.field(default=2.0, validator=attrs.validators.ge(0))
    look_up_ids: bool = False
    deduplication_window: int = attrs.field(default=10_000, validator=_at_least_one)
    connect_timeout_seconds: float = attrs.field(default=5.0, validator=_positive)
    statement_timeout_seconds: float = attrs.field(default=30.0, validator=_positive)
    query_timeout_seconds: float = attrs.field(default=60.0, validator=_positive)
    tls_ca_file: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    tls_cert_file: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    tls_key_file: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    compress: bool = True
    settings: Mapping[str, str] = attrs.field(factory=dict[str, str], validator=_check_settings)

    @property
    def address(self) -> Address:
        """Where the events are; user, password and database are those of the options where the URL has none."""
        address = parse_url(self.url)
        return attrs.evolve(
            address,
            username=address.username or self.username,
            password=address.password or self.password,
            database=address.database or self.database,
        )

    def delivery(self) -> DeliveryOptions:
        """Return the default settings of delivery to this server."""
        return DeliveryOptions(
            max_events=max(100_000, 3 * self.batch_size),
            max_bytes=max(96 * 2**20, 3 * self.max_batch_bytes),
            batch_size=self.batch_size,
            max_batch_bytes=self.max_batch_bytes,
            flush_interval_seconds=self.flush_interval_seconds,
            attempt_timeout_seconds=self.connect_timeout_seconds + self.statement_timeout_seconds,
        )
