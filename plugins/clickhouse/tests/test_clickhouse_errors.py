"""What the client raises becomes a code and a class, and never its words."""

from __future__ import annotations

import aiohttp
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, DataError, OperationalError
from flag_analytics.errors import BadBatch, CommitUnknown, FatalConfiguration, SinkUnavailable
from flag_analytics_clickhouse.errors import delivery_error, is_missing_table, unavailable


def database_error(code):
    return DatabaseError("kanarienvogel", code=code)


def network(cause):
    try:
        raise OperationalError("kanarienvogel") from cause
    except OperationalError as error:
        return error


refused = aiohttp.ClientConnectorError(None, ConnectionRefusedError(111, "kanarienvogel"))


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (database_error(27), BadBatch, "27"),
        (DataError("kanarienvogel"), BadBatch, "DataError"),
        (UnicodeEncodeError("utf-8", "kanarienvogel", 0, 1, "kanarienvogel"), BadBatch, "UnicodeEncodeError"),
        (database_error(252), SinkUnavailable, "252"),
        (database_error(60), SinkUnavailable, "60"),
        (database_error(497), SinkUnavailable, "497"),
        (database_error(516), FatalConfiguration, "516"),
        (database_error(319), CommitUnknown, "319"),
        (database_error(None), CommitUnknown, "DatabaseError"),
        (network(aiohttp.ServerDisconnectedError()), CommitUnknown, "ServerDisconnectedError"),
        (network(ConnectionResetError(104, "kanarienvogel")), CommitUnknown, "ECONNRESET"),
        (network(refused), SinkUnavailable, "ECONNREFUSED"),
        (TimeoutError(), CommitUnknown, "timeout"),
    ],
)
def test_an_error_of_a_write(error, kind, code):
    found = delivery_error(error)
    assert (type(found), found.code) == (kind, code)
    assert "kanarienvogel" not in str(found)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (database_error(516), FatalConfiguration, "check username and password"),
        (database_error(81), SinkUnavailable, "no such database, set create_tables"),
        (network(refused), SinkUnavailable, "nothing listens there"),
        (TimeoutError(), SinkUnavailable, "no answer in time"),
    ],
)
def test_an_error_of_a_question(error, kind, words):
    found = unavailable(error)
    assert type(found) is kind
    assert words in str(found)
    assert "kanarienvogel" not in str(found)


def test_a_missing_table_is_told_from_other_errors():
    assert is_missing_table(database_error(60))
    assert not is_missing_table(database_error(252))
