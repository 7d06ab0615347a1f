"""The meaning of a driver's exception for a batch, in codes only: a driver's own words may quote event content.

==================================================  =============================================================
cause                                               exception for the delivery engine
==================================================  =============================================================
SQLSTATE class 22 or 23, 54000; MySQL's and         ``BadBatch``: the content is refused, find the bad events
SQLite's equivalents; values no driver can bind
the connection was lost, or time ran out, while     ``CommitUnknown``: it may be stored, try again under the
the batch was being stored                          same ids
anything else: refused connections, locks, missing  ``SinkUnavailable``: nothing is stored, try again later
tables or permissions, full disks
TLS settings or files that cannot work              ``CannotConnect``: the same, and the configuration is wrong
an argument that the driver does not know           ``WrongArguments``: no further attempt
==================================================  =============================================================
"""

from __future__ import annotations

import errno
import re
import socket
import sqlite3
import ssl
from typing import Any

from flag_analytics.errors import BadBatch, CommitUnknown, DeliveryError, FatalConfiguration, SinkUnavailable
from sqlalchemy.exc import SQLAlchemyError

__all__ = [
    "CannotConnect",
    "IdsKnown",
    "SchemaOutdated",
    "WrongArguments",
    "closed_meanwhile",
    "code_of",
    "delivery_error",
    "is_lost_connection",
    "is_missing_table",
    "is_statement_timeout",
    "unavailable",
    "without_tls",
]

_BAD_STATES = ("22", "23")
_TOO_BIG_STATES = frozenset({"54000"})
"""PostgreSQL: a row that fits no index page; the row is at fault, not the server."""

_BAD_MYSQL = frozenset(
    {
        1048,  # column cannot be null
        1153,  # packet bigger than max_allowed_packet
        1264,  # out of range
        1265,  # data truncated
        1292,  # incorrect value
        1300,  # invalid character string
        1366,  # incorrect string value
        1367,  # illegal value found during parsing
        1406,  # data too long
        1690,  # out of range in an expression
        3140,  # invalid JSON text
        3854,  # cannot convert string
        4025,  # constraint failed (MariaDB)
    }
)
_CANNOT_CONNECT_MYSQL = 2003
_LOST_MYSQL = frozenset({2006, 2013, 2014, 2027, 2055})

_STATEMENT_TIMEOUTS = frozenset({"57014", "mysql-1969", "mysql-3024"})

_BAD_SQLITE = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG})

_NAME_ERRORS = {getattr(socket, name): name for name in dir(socket) if name.startswith("EAI_")}
"""What a name look-up failed with; its numbers mean something else among errno's."""

_MEANINGS = {
    "ECONNREFUSED": ": nothing listens there",
    "EAI_NONAME": ": no host of that name",
    "08P01": ": the server, or a pooler before it, does not take a parameter of the connection string",
    "26000": ": a pooler took the prepared statement away, set pooler = true",
    "28000": ": login refused",
    "28P01": ": login refused",
    "3D000": ": no such database",
    "42501": ": permission denied",
    "42P05": ": a pooler kept another client's prepared statement, set pooler = true",
    "53300": ": too many connections",
    "mysql-1040": ": too many connections",
    "mysql-1044": ": permission denied",
    "mysql-1045": ": login refused",
    "mysql-1049": ": no such database",
    "mysql-1142": ": permission denied",
    "mysql-2003": ": nothing listens there",
    "SQLITE_CANTOPEN": ": the file cannot be opened",
    "SQLITE_READONLY": ": the file is read-only",
    "SQLITE_NOTADB": ": the file is not a SQLite database",
    "certificate": ": the server's certificate is not trusted, or is for another host name",
    "timeout": ": no answer in time",
}
"""The meanings of common codes."""

_UNBINDABLE = (OverflowError, UnicodeError)
"""Raised by drivers on the client's side for a value that no column can take."""
_UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'|'(\w+)' is an invalid keyword argument")


class SchemaOutdated(SinkUnavailable):
    """The tables are of another version than this release needs: run ``flag-analytics db upgrade``."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="schema")


class IdsKnown(Exception):  # noqa: N818 - it is no failure
    """An id of a batch that was taken for new is stored already."""


class CannotConnect(SinkUnavailable):
    """No connection is possible until the configuration, or a file that it names, is corrected."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="configuration")


class WrongArguments(CannotConnect, FatalConfiguration):
    """The driver does not know how it is to connect: no attempt can succeed in this process."""


def without_tls() -> CannotConnect:
    """Return the error for a server without TLS."""
    return CannotConnect(
        "the server offers no TLS, which sslmode or tls_mode requires: turn it on there, or require less here"
    )


def unavailable(error: BaseException) -> SinkUnavailable:
    """Return the meaning of an error that does not concern a batch: while connecting, or setting tables up.

    The result carries a code and no text of the driver. Raise it ``from None``.
    """
    if isinstance(error, SinkUnavailable):
        return error
    code = code_of(error)
    cause = _driver_error(error)
    if code in {"tls-WRONG_VERSION_NUMBER", "tls-refused"}:
        return without_tls()
    if isinstance(cause, TypeError | ValueError) and not isinstance(error, SQLAlchemyError | ssl.SSLError):
        return _wrong_arguments(cause)
    if is_missing_table(error):
        what = "a table, or a column of it, is missing: run flag-analytics db upgrade, or set create_tables"
    elif is_lost_connection(error) or isinstance(cause, TimeoutError):
        what = "the database does not answer"
    else:
        what = "the database refuses"
    return SinkUnavailable(f"{what} ({code}{_MEANINGS.get(code, '')})", code=code)


def _wrong_arguments(cause: BaseException) -> CannotConnect:
    unknown = _UNKNOWN_ARGUMENT.search(str(cause))
    argument = f"it does not know {next(filter(None, unknown.groups()))!r}" if unknown else type(cause).__name__
    # Without the name of an argument it may be a driver that stumbles over a connection that was cut.
    kind = WrongArguments if unknown else CannotConnect
    return kind(f"the driver does not accept how to connect ({argument}): check connection_string and engine")


def closed_meanwhile() -> SinkUnavailable:
    """Return the error for a question that a close did not wait for."""
    return SinkUnavailable("the database was closed meanwhile", code="closed")


def is_missing_table(error: BaseException) -> bool:
    """Return whether a statement failed since a table or a column is not there."""
    cause = _driver_error(error)
    if _mysql_number(cause) in {1054, 1146} or getattr(cause, "sqlstate", None) in {"42P01", "42703"}:
        return True
    return isinstance(cause, sqlite3.OperationalError) and str(cause).startswith(("no such table", "no such column"))


def delivery_error(error: BaseException) -> DeliveryError:
    """Return the meaning of an error that was raised while a batch was being stored.

    The result carries a code and no text of the driver. Raise it ``from None``.
    """
    if isinstance(error, DeliveryError):
        return error
    cause = _driver_error(error)
    code = code_of(cause)
    if _is_bad_content(cause):
        return BadBatch("the database refused the content", code=code)
    if isinstance(cause, TimeoutError) or is_lost_connection(cause):
        return CommitUnknown("the connection was lost while the batch was being stored", code=code)
    return SinkUnavailable(f"the database cannot store the batch now{_MEANINGS.get(code, '')}", code=code)


def code_of(error: BaseException) -> str:
    """Return the SQLSTATE, the server's or SQLite's error code, or the errno's name; else the exception's class."""
    cause = _driver_error(error)
    number = _mysql_number(cause)
    if number is not None:  # its SQLSTATE is HY000 more often than not
        return f"mysql-{number}"
    for name in ("sqlstate", "sqlite_errorname"):
        value = getattr(cause, name, None)
        if isinstance(value, str) and value:
            return value
    if isinstance(cause, TimeoutError):
        return "timeout"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "certificate"
    if isinstance(cause, ssl.SSLError):
        return f"tls-{cause.reason or 'error'}"
    if type(cause) is ConnectionError and "rejected SSL" in str(cause):
        return "tls-refused"
    if isinstance(cause, socket.gaierror):
        return _NAME_ERRORS.get(cause.errno or 0, "EAI")
    if isinstance(cause, OSError) and cause.errno:
        return errno.errorcode.get(cause.errno, str(cause.errno))
    return type(cause).__name__


def is_statement_timeout(error: BaseException) -> bool:
    """Return whether the server ended the statement since it took too long."""
    return code_of(error) in _STATEMENT_TIMEOUTS


def is_lost_connection(error: BaseException) -> bool:
    """Return whether the connection broke without an answer from the server."""
    cause = _driver_error(error)
    number = _mysql_number(cause)
    if number is not None:
        return number in _LOST_MYSQL
    state = getattr(cause, "sqlstate", None)
    if isinstance(state, str):
        return state.startswith("08")
    if isinstance(cause, OSError | EOFError):
        return True
    return type(cause).__name__ in {"InterfaceError", "InternalClientError", "ConnectionDoesNotExistError"}


def _is_bad_content(error: BaseException) -> bool:
    number = _mysql_number(error)
    if number in _BAD_MYSQL:
        return True
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return state.startswith(_BAD_STATES) or state in _TOO_BIG_STATES
    if number is not None:
        return False
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # raised by the module itself, not by SQLite: a value that it cannot bind
            return isinstance(error, sqlite3.DataError | sqlite3.InterfaceError) or "binding" in str(error)
        return (code & 0xFF) in _BAD_SQLITE
    if type(error).__name__ in {"DataError", "IntegrityError"}:  # PEP 249's names, whatever the driver
        return True
    return isinstance(error, _UNBINDABLE)


def _driver_error(error: BaseException) -> BaseException:
    """Return the driver's own exception inside SQLAlchemy's wrappers."""
    seen = 0
    while seen < 5:
        inner = getattr(error, "orig", None)
        if not isinstance(inner, BaseException):
            # SQLAlchemy's adapters raise an emulated DBAPI class from the driver's exception.
            inner = error.__cause__ if type(error).__module__.startswith("sqlalchemy.") else None
        if not isinstance(inner, BaseException):
            break
        error, seen = inner, seen + 1
    if _mysql_number(error) == _CANNOT_CONNECT_MYSQL:  # the number stands for any reason
        reason = error.__cause__ or error.__context__
        return reason if isinstance(reason, OSError) else error
    return error


def _mysql_number(error: BaseException) -> int | None:
    if type(error).__module__.partition(".")[0] not in {"asyncmy", "aiomysql", "pymysql", "MySQLdb", "mysql"}:
        return None
    args: tuple[Any, ...] = error.args
    return args[0] if args and isinstance(args[0], int) else None
