"""``DatabaseOptions``: the settings of the database collector, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
from flag_analytics.reports import DeliveryOptions

from .names import DEFAULT_TABLE, TLS_MODES, TlsMode, check_identifier

__all__ = ["DatabaseOptions"]

_positive: Any = attrs.validators.gt(0)


def _identifier(_: Any, field: attrs.Attribute[Any], name: Any) -> None:
    check_identifier(name, field.name)


def _usable(options: Any, _: attrs.Attribute[Any], connection_string: Any) -> None:
    # SQLAlchemy costs more than all of this, and only a URL needs it.
    from .parameters import read_parameters
    from .urls import check_driver, parse_url

    url = parse_url(connection_string)
    check_driver(url)
    if read_parameters(url).read_only and options is None:  # a configuration is checked before there are options
        raise ValueError(
            "connection_string opens the file for reading only, and a configured collector writes: leave mode and "
            "immutable out; for questions alone give an engine of that URL to AnalyticsAggregator"
        )


def _known_to_sqlalchemy(options: DatabaseOptions, _: Any, arguments: Mapping[str, Any]) -> None:
    if not arguments:
        return
    from .engine import from_options

    try:
        from_options(options)
    except TypeError as error:  # SQLAlchemy names the arguments, and then its own classes
        raise ValueError(f"engine: {str(error).partition(', using')[0]}") from None


@attrs.frozen(kw_only=True)
class DatabaseOptions:
    """Settings of the database collector. Times are in seconds unless the name says otherwise.

    Attributes:
        connection_string: An SQLAlchemy URL. ``sqlite:///file.db``, ``postgresql://…``, ``mysql://…`` and
            ``mariadb://…`` choose the async driver themselves.
        batch_size: The most events in one write.
        flush_interval_seconds: The longest an event waits for its batch to fill.
        create_tables: Create missing tables; a table made by litestar-flags is taken over with the first event, every
            row kept.
        upgrade: Bring an older schema up to date at start. Without it such tables are refused until
            ``flag-analytics db upgrade`` has run.
        require_database: Fail at creation unless the database answers; otherwise a slow or unavailable database delays
            nothing and events wait for it.
        echo: Log every statement, as SQLAlchemy's ``echo`` does; parameters are hidden.
        table: The table's name.
        schema: The schema (PostgreSQL) or database (MySQL) of the tables; the connection's default without it.
        retention_days: Events older than this many days are removed; None keeps all.
        rollup_retention_days: Rollups older than this many days are removed; None keeps all.
        prune_interval_seconds: The pause between searches for old events while events are written.
        partition_by: On PostgreSQL, new tables are partitioned by ``month`` or ``day`` and pruned by partitions.
        rollups: Keep counts by the hour beside the events. Once a table has them, every process that writes to it keeps
            them.
        rollup_experiments: Keys of flags whose summaries also tell the users of each variant.
        pooler: Whether a pooler in transaction mode, such as pgbouncer, is between here and PostgreSQL: then no
            statement stays prepared on a connection.
        tls_mode: How connections to a server are encrypted and verified, in the terms of libpq's ``sslmode``; as the
            connection string says without it. The file options replace those of the connection string too.
        tls_ca_file: Certificates of the authorities that a server's certificate is checked against (PEM).
        tls_cert_file: The client's certificate (PEM).
        tls_key_file: The key of the client's certificate (PEM).
        connect_timeout_seconds: The longest a connection attempt may take.
        statement_timeout_seconds: The longest a write may take in the database.
        query_timeout_seconds: The longest a question may take in the database.
        engine: Further arguments of SQLAlchemy's ``create_async_engine``.
    """

    connection_string: str = attrs.field(
        repr=False, validator=_usable, metadata={"secret": True, "discreet_validator": True}
    )
    batch_size: int = attrs.field(default=100, validator=attrs.validators.ge(1))
    flush_interval_seconds: float = attrs.field(default=5.0, validator=attrs.validators.ge(0))
    create_tables: bool = True
    upgrade: bool = False
    require_database: bool = False
    echo: bool = False
    table: str = attrs.field(default=DEFAULT_TABLE, validator=_identifier)
    schema: str | None = attrs.field(default=None, validator=attrs.validators.optional(_identifier))
    retention_days: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.and_(_positive, attrs.validators.le(36_500)))
    )
    rollup_retention_days: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.and_(_positive, attrs.validators.le(36_500)))
    )
    prune_interval_seconds: float = attrs.field(default=3_600.0, validator=_positive)
    partition_by: Literal["month", "day"] | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.in_(("month", "day")))
    )
    rollups: bool = False
    rollup_experiments: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    pooler: bool = False
    tls_mode: TlsMode | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.in_(TLS_MODES))
    )
    tls_ca_file: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    tls_cert_file: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    tls_key_file: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    connect_timeout_seconds: float = attrs.field(default=5.0, validator=_positive)
    statement_timeout_seconds: float = attrs.field(default=10.0, validator=_positive)
    query_timeout_seconds: float = attrs.field(default=60.0, validator=_positive)
    engine: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, validator=_known_to_sqlalchemy)

    def delivery(self) -> DeliveryOptions:
        """Return the default settings of delivery to this database."""
        return DeliveryOptions(
            batch_size=self.batch_size,
            flush_interval_seconds=self.flush_interval_seconds,
            attempt_timeout_seconds=self.connect_timeout_seconds + self.statement_timeout_seconds,
        )
