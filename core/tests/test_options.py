"""The types that options may have, and the problems of values of other types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NewType

import attrs
import pytest
from flag_analytics.config.kinds import ByteSize, Url, describe
from flag_analytics.config.options import OptionsReader, Refused
from flag_analytics.config.sources import EnvText
from hypothesis import given
from hypothesis import strategies as st

Port = NewType("Port", int)


class Level(Enum):
    LOW = "low"
    HIGH = "high"


class Priority(IntEnum):
    FIRST = 1
    SECOND = 2


@attrs.frozen(kw_only=True)
class Login:
    user: str
    password: str = attrs.field(default="", repr=False)
    scopes: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Server:
    host: str = attrs.field(validator=attrs.validators.min_len(3))
    port: Port = Port(80)
    login: Login | None = None

    def __attrs_post_init__(self) -> None:
        if self.host == "localhost" and self.login is not None:
            raise ValueError(f"localhost needs no login, and got {self.login.password}")


@attrs.frozen(kw_only=True)
class Options:
    server: Server = attrs.field(factory=lambda: Server(host="localhost"))
    replicas: list[Server] = attrs.field(factory=list)
    regions: dict[str, Server] = attrs.field(factory=dict)
    timeout: timedelta = attrs.field(default=timedelta(seconds=5), validator=attrs.validators.ge(timedelta(0)))
    pauses: Sequence[timedelta] = ()
    limit: ByteSize = attrs.field(default=2**20, validator=attrs.validators.ge(1))
    address: Url = "https://localhost"
    level: Level = Level.LOW
    priority: Priority = Priority.FIRST
    number: int | Literal["all"] = 5
    either: Server | str = ""
    window: tuple[float, float] = (0.0, 1.0)
    names: frozenset[str] = frozenset()
    labels: Mapping[str, str] = attrs.field(factory=dict)
    noted: Annotated[int, "of our own"] = 0
    day: date | None = None
    hook: Callable[[str], str] | None = None
    anything: Any = None
    path: Path = Path()


def read(table):
    """Return the options of a table, and the problems by path."""
    reader = OptionsReader([])
    try:
        return reader.build(Options, reader.values(Options, table, ""), table, ""), {}
    except Refused:
        return None, {problem.path: problem.message for problem in reader.problems}


def value_of(name, raw):
    options, problems = read({name: raw})
    assert not problems
    return getattr(options, name)


def env(text):
    return EnvText(text, "VARIABLE")


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("timeout", 5, timedelta(seconds=5)),
        ("timeout", 0.25, timedelta(milliseconds=250)),
        ("timeout", "500 ms", timedelta(milliseconds=500)),
        ("timeout", "5s", timedelta(seconds=5)),
        ("timeout", " 1.5min ", timedelta(seconds=90)),
        ("timeout", "2h", timedelta(hours=2)),
        ("timeout", "7d", timedelta(days=7)),
        ("timeout", timedelta(days=1), timedelta(days=1)),
        ("timeout", env("5"), timedelta(seconds=5)),
        ("timeout", env("10 min"), timedelta(minutes=10)),
        ("pauses", ["1s", 2], [timedelta(seconds=1), timedelta(seconds=2)]),
        ("pauses", env("1s, 2"), [timedelta(seconds=1), timedelta(seconds=2)]),
        ("limit", 1_024, 1_024),
        ("limit", "64 MiB", 64 * 2**20),
        ("limit", "1.5KiB", 1_536),
        ("limit", "10 kB", 10_000),
        ("limit", env("1GB"), 10**9),
        ("address", "postgresql+asyncpg://h/d", "postgresql+asyncpg://h/d"),
        ("address", env("https://h"), "https://h"),
        ("level", "high", Level.HIGH),
        ("level", env("high"), Level.HIGH),
        ("level", Level.HIGH, Level.HIGH),
        ("priority", 2, Priority.SECOND),
        ("priority", env("2"), Priority.SECOND),
        ("number", 7, 7),
        ("number", "all", "all"),
        ("number", env("7"), 7),
        ("number", env("all"), "all"),
        ("either", "text", "text"),
        ("either", {"host": "abc"}, Server(host="abc")),
        ("window", [1, 2.5], (1.0, 2.5)),
        ("names", ["a", "b", "a"], frozenset({"a", "b"})),
        ("names", {"a"}, frozenset({"a"})),
        ("labels", {"a": "b", 5: "c"}, {"a": "b", "5": "c"}),
        ("noted", 5, 5),
        ("day", date(2026, 1, 31), date(2026, 1, 31)),
        ("day", None, None),
        ("hook", str.upper, str.upper),
        ("anything", {"a": [env("5"), EnvText("5", "V", quoted=True)]}, {"a": [5, "5"]}),
        ("path", Path("/var"), Path("/var")),
        ("server", Server(host="abc"), Server(host="abc")),
        ("server", {"host": "abc", "port": 8080}, Server(host="abc", port=8080)),
        ("replicas", [{"host": "abc"}, {"host": "def"}], [Server(host="abc"), Server(host="def")]),
        ("regions", {"eu": {"host": "abc", "login": {"user": "u"}}}, {"eu": Server(host="abc", login=Login(user="u"))}),
    ],
)
def test_a_value_is_read_as_the_type_of_its_option(name, raw, expected):
    assert value_of(name, raw) == expected


@pytest.mark.parametrize(
    ("table", "path", "expected"),
    [
        ({"timeout": "5 parsecs"}, "timeout", 'expected a duration in seconds, or as "500 ms", "5s", "10 min"'),
        ({"timeout": "soon"}, "timeout", "got 'soon'"),
        ({"timeout": True}, "timeout", "got true"),
        ({"timeout": -1}, "timeout", "of at least 0:00:00, got -1"),
        ({"timeout": 1e300}, "timeout", "expected a duration"),
        ({"limit": "64 MiT"}, "limit", 'expected a size in bytes, or as "64 MiB", "10 kB" or "1GB", got \'64 MiT\''),
        ({"limit": "0.3 B"}, "limit", "expected a size"),
        ({"limit": 0}, "limit", "of at least 1, got 0"),
        ({"address": "localhost"}, "address", "expected a URL with its scheme, got 'localhost'"),
        ({"level": "hihg"}, "level", "expected one of 'low', 'high', got 'hihg' (did you mean 'high'?)"),
        ({"priority": 3}, "priority", "expected one of 1, 2, got 3"),
        ({"number": "some"}, "number", "expected an integer or one of 'all', got 'some'"),
        ({"number": []}, "number", "expected an integer or one of 'all', got an array"),
        ({"window": [1]}, "window", "expected an array of 2: a number, a number, got an array"),
        ({"window": [1, "x"]}, "window[1]", "expected a number, got 'x'"),
        ({"labels": {"a b": 5}}, 'labels."a b"', "expected text, got 5"),
        ({"day": "tomorrow"}, "day", "expected date, got 'tomorrow'"),
        ({"hook": 5}, "hook", "expected Callable, got 5"),
        ({"server": 5}, "server", "expected a table, got 5"),
        ({"server": {}}, "server.host", "is required: expected text"),
        (
            {"server": {"host": "abc", "prot": 1}},
            "server.prot",
            "unknown option (did you mean 'port'?); known are host,",
        ),
        ({"server": {"host": "ab"}}, "server.host", "expected text of at least 3 in length, got 'ab'"),
        ({"server": {"host": "abc", "login": {}}}, "server.login.user", "is required: expected text"),
        ({"server": {"host": "localhost", "login": {"user": "u"}}}, "server", "is refused: localhost needs no login"),
        ({"replicas": [{"host": "abc"}, {"port": "x"}]}, "replicas[1].port", "expected an integer, got 'x'"),
        ({"replicas": {}}, "replicas", "expected an array of items: a table, got a table"),
        ({"regions": {"eu": {"host": 5}}}, "regions.eu.host", "expected text, got 5"),
        ({"noted": "x"}, "noted", "expected an integer, got 'x'"),
    ],
)
def test_a_wrong_value_is_a_problem_at_its_own_path(table, path, expected):
    _, problems = read(table)
    assert expected in problems[path]


def test_all_problems_of_nested_tables_are_found_at_once():
    _, problems = read(
        {
            "server": {"port": "x", "login": {"usr": 1}},
            "replicas": [{"host": 1}, {}, {"port": "y"}],
            "regions": {"eu": {}, "us": {"host": "abc", "login": 5}},
        }
    )
    assert list(problems) == [
        "server.port",
        "server.login.usr",
        "server.login.user",
        "server.host",
        "replicas[0].host",
        "replicas[1].host",
        "replicas[2].port",
        "replicas[2].host",
        "regions.eu.host",
        "regions.us.login",
    ]


@pytest.mark.parametrize(
    "login",
    [
        {"user": "u", "password": ["CANARY"]},
        {"user": 5, "password": "CANARY-and-more"},
        {"password": {"deep": "CANARY"}},
        {"user": "u", "password": "CANARY", "scopes": 5},
    ],
)
@pytest.mark.parametrize("host", ["localhost", "remote"])
def test_a_secret_inside_a_nested_table_is_not_shown(host, login):
    reader = OptionsReader([])
    table = {"server": {"host": host, "login": login}, "replicas": [{"host": "abc", "login": login}], "level": "x"}
    values = reader.values(Options, table, "")
    assert "level" not in values
    assert reader.problems
    assert "CANARY" not in str(reader.problems)
    assert reader.has_secret_option is isinstance(login["password"], str)


def test_words_about_a_secret_option_are_not_quoted():
    def refuse(_, __, value):
        raise ValueError(f"{value[:4]} is no password")

    @attrs.frozen
    class Secretive:
        password: str = attrs.field(validator=refuse)
        hint: str = attrs.field(default="", validator=refuse)
        known: str = attrs.field(default="", validator=refuse, metadata={"secret": True, "discreet_validator": True})

    reader = OptionsReader([])
    reader.values(Secretive, {"password": "CANARY-and-more", "hint": "some", "known": "text"}, "")
    assert {problem.path: problem.message for problem in reader.problems} == {
        "password": "its value is refused",
        "hint": "some is no password",
        "known": "*** is no password",
    }


def test_a_validator_that_looks_at_other_fields_is_called_with_all_of_them():
    @attrs.frozen
    class Range:
        low: int = 0
        high: int = attrs.field(default=9)

        @high.validator
        def _above(self, _, value):
            if value < self.low:
                raise ValueError("high is below low")

    reader = OptionsReader([])
    table = {"low": 5, "high": 1}
    with pytest.raises(Refused):
        reader.build(Range, reader.values(Range, table, "range"), table, "range")
    assert [str(problem) for problem in reader.problems] == ["range: is refused: high is below low"]


quantities = st.decimals(0, 10**6, places=2)


@given(quantities, st.sampled_from([("ms", 0.001), ("s", 1), ("min", 60), ("h", 3_600), ("d", 86_400), ("", 1)]))
def test_a_duration_is_its_number_times_its_unit(number, unit):
    name, seconds = unit
    expected = timedelta(seconds=float(number) * seconds)
    assert value_of("timeout", f"{number} {name}") == expected
    assert value_of("timeout", env(f"{number}{name}")) == expected


@given(st.integers(1, 10**6), st.sampled_from([("B", 1), ("kB", 10**3), ("MiB", 2**20), ("GB", 10**9), ("", 1)]))
def test_a_size_is_its_number_times_its_unit(number, unit):
    name, size = unit
    assert value_of("limit", f"{number} {name}") == value_of("limit", env(f"{number}{name}")) == number * size


@given(st.sampled_from([field.name for field in attrs.fields(Options)]), st.text(max_size=20))
def test_any_text_is_read_or_refused(name, text):
    for raw in (text, env(text)):
        options, problems = read({name: raw})
        assert (options is None) is bool(problems)


def test_every_type_is_described_in_words():
    assert describe(list[Server]) == "an array of items: a table"
    assert describe(int | None) == "an integer"
    assert describe(Any) == "anything"
