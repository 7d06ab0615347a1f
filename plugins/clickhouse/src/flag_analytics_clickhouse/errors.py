"""The meaning of the client's exceptions for a batch, in codes only: ClickHouse quotes values in its messages.

==================================================  =============================================================
cause                                               exception for the delivery engine
==================================================  =============================================================
a value that cannot be encoded or parsed            ``BadBatch``: the content is refused, find the bad events
the connection was lost, or time ran out, after     ``CommitUnknown``: it may be stored, try again under the
the batch was sent                                  same token
login refused                                       ``FatalConfiguration``: no further attempt
anything else: refused connections, too many        ``SinkUnavailable``: try again later
parts, missing tables or rights, full disks
==================================================  =============================================================

After any of them a part of the batch may be stored, its views may lag behind: see ``once``.
"""

from __future__ import annotations

import errno
import ssl
from struct import error as StructError  # noqa: N812 - it is a class

import aiohttp
from clickhouse_connect.driver.exceptions import ClickHouseError, DataError
from flag_analytics.errors import BadBatch, CommitUnknown, DeliveryError, FatalConfiguration, SinkUnavailable

__all__ = ["SchemaTooNew", "code_of", "delivery_error", "is_missing_table", "unavailable"]

_LOGIN = frozenset({192, 193, 194, 516})
_MISSING = frozenset({16, 36, 47, 60, 81})
_NO_DATABASE = 81
_UNKNOWN = frozenset({209, 210, 319})
"""Codes of a server that lost another one, or the answer of it."""
_BAD = frozenset(
    {
        6,  # cannot parse text
        26,  # cannot parse a quoted string
        27,  # cannot parse input
        38,  # cannot parse a date
        41,  # cannot parse a time
        53,  # type mismatch
        69,  # argument out of bound
        70,  # cannot convert a type
        72,  # cannot parse a number
        117,  # incorrect data
        131,  # text too large
        190,  # sizes of arrays do not match
        321,  # value out of range
        349,  # null in an ordinary column
        376,  # cannot parse a UUID
        469,  # violated constraint
        691,  # unknown element of an enum
    }
)
_MEANINGS = {
    "ECONNREFUSED": ": nothing listens there",
    "60": ": a table is missing, set create_tables",
    "81": ": no such database, set create_tables",
    "192": ": login refused",
    "193": ": login refused",
    "194": ": login refused",
    "241": ": out of memory",
    "242": ": a replica is read-only",
    "243": ": the disk is full",
    "252": ": too many parts, write larger batches less often",
    "497": ": permission denied",
    "516": ": login refused",
    "certificate": ": the server's certificate is not trusted, or is for another host name",
    "timeout": ": no answer in time",
}
"""The meanings of common codes: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp."""

_UNENCODABLE = (OverflowError, UnicodeError, TypeError, ValueError, AttributeError, StructError)
"""Raised while rows are encoded, before anything is sent."""


class SchemaTooNew(SinkUnavailable):
    """The tables were made by a later release than this one: update this process."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="schema")


def unavailable(error: BaseException) -> DeliveryError:
    """Return the meaning of an error that does not concern a batch. Raise it ``from None``."""
    if isinstance(error, DeliveryError):
        return error
    code = code_of(error)
    if _number_of(error) in _LOGIN:
        return FatalConfiguration(f"the server refuses the login ({code}): check username and password", code=code)
    what = "the server does not answer" if _number_of(error) is None else "the server refuses"
    return SinkUnavailable(f"{what} ({code}{_MEANINGS.get(code, '')})", code=code)


def delivery_error(error: BaseException) -> DeliveryError:
    """Return the meaning of an error that was raised while a batch was being stored. Raise it ``from None``."""
    if isinstance(error, DeliveryError):
        return error
    number, code = _number_of(error), code_of(error)
    if number in _LOGIN:
        return unavailable(error)
    if number in _BAD or isinstance(error, (DataError, *_UNENCODABLE)):
        return BadBatch("the content was refused", code=code)
    if isinstance(_cause_of(error), aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return unavailable(error)
    if number is None or number in _UNKNOWN:
        return CommitUnknown("the connection was lost while the batch was being stored", code=code)
    return SinkUnavailable(f"the server cannot store the batch now{_MEANINGS.get(code, '')}", code=code)


def is_missing_table(error: BaseException) -> bool:
    """Return whether a statement failed since a database, a table or a column is not there."""
    return _number_of(error) in _MISSING


def is_missing_database(error: BaseException) -> bool:
    """Return whether a statement failed since the database is not there."""
    return _number_of(error) == _NO_DATABASE


def code_of(error: BaseException) -> str:
    """Return ClickHouse's number of the error, or the errno's name; else the exception's class."""
    number = _number_of(error)
    if number is not None:
        return str(number)
    cause = _cause_of(error)
    if isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__:
        return "timeout"
    if isinstance(cause, ssl.SSLCertVerificationError | aiohttp.ClientConnectorCertificateError):
        return "certificate"
    if isinstance(cause, OSError) and cause.errno:
        return errno.errorcode.get(cause.errno, type(cause).__name__)
    return type(cause).__name__


def _number_of(error: BaseException) -> int | None:
    number = getattr(error, "code", None) if isinstance(error, ClickHouseError) else None
    return number if isinstance(number, int) else None


def _cause_of(error: BaseException) -> BaseException:
    """Return what a transport's exception was raised from: an exception of aiohttp or of the system."""
    for _ in range(5):
        reason = getattr(error, "reason", None)  # urllib3's, of its last attempt
        inner = reason if isinstance(reason, BaseException) else error.__cause__
        if inner is None or isinstance(error, aiohttp.ClientError) or (isinstance(error, OSError) and error.errno):
            break
        error = inner
    return error
