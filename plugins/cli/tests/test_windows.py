"""Windows as people write them."""

from __future__ import annotations

import pytest
from flag_analytics_cli.windows import describe_window, parse_window


@pytest.mark.parametrize(
    ("text", "seconds", "words"),
    [
        ("90s", 90.0, "the last 90 seconds"),
        ("1s", 1.0, "the last second"),
        ("15m", 900.0, "the last 15 minutes"),
        ("60m", 3_600.0, "the last hour"),
        ("1h", 3_600.0, "the last hour"),
        ("1.5h", 5_400.0, "the last 90 minutes"),
        (" 24H ", 86_400.0, "the last day"),
        ("7d", 604_800.0, "the last 7 days"),
        ("1w", 604_800.0, "the last 7 days"),
        ("2w", 1_209_600.0, "the last 2 weeks"),
        ("0.5s", 0.5, "the last 0.5 seconds"),
        ("all", None, "all time"),
        ("ALL", None, "all time"),
    ],
)
def test_a_window_is_read_and_told(text, seconds, words):
    assert parse_window(text) == seconds
    assert describe_window(seconds) == words


@pytest.mark.parametrize("text", ["", "h", "1", "1y", "-1h", "1 hour", "٣h", "1e3s", "nan", "inf"])
def test_another_text_is_refused_with_examples_of_windows(text):
    with pytest.raises(ValueError, match="is not a window: expected for example 90s, 15m, 1h, 7d, 2w or all"):
        parse_window(text)


@pytest.mark.parametrize("text", ["0s", "0.0h", "999999999w"])
def test_a_window_of_nothing_or_of_centuries_is_refused(text):
    with pytest.raises(ValueError, match="out of range"):
        parse_window(text)
