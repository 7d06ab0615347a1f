"""What holds for every adapter, whatever its SDK."""

from __future__ import annotations

import ast
import io
import logging
import tokenize
import tomllib
from pathlib import Path

import pytest
from flag_analytics.testing.children import can_fork, run_in_child
from flag_analytics.testing.doubles import RecordingCollector
from flag_analytics_sdks import Adapter
from flag_analytics_sdks.adapter import guarded

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
MOST_LINES = 80


class Sample(Adapter):
    provider_name = "Sample"

    @guarded
    def tell(self, key, value, **fields):
        self.record(key, value, **fields)


class Failing:
    def record_nowait(self, event):
        raise ValueError("user-1 is in the words of the error")


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_sdk_has_one_short_module_one_test_module_and_a_row_of_the_table(extra):
    name = extra.replace("-", "_")
    text = (ROOT / "src" / "flag_analytics_sdks" / f"{name}.py").read_text("utf-8")
    assert _code_lines(text) <= MOST_LINES
    assert (ROOT / "tests" / f"test_sdk_{name}.py").exists()
    assert f"\n| `{extra}` |" in (ROOT / "README.md").read_text("utf-8")


def test_a_target_without_record_nowait_is_refused():
    with pytest.raises(TypeError, match="object cannot record events at once: expected a pipeline"):
        Sample(object())


def test_one_string_is_no_list_of_attributes():
    with pytest.raises(TypeError, match="context_attributes is a string"):
        Sample(RecordingCollector(), context_attributes="plan")


def test_attributes_are_a_copy():
    collector = RecordingCollector()
    attributes = {"plan": "team"}
    Sample(collector).tell("f", 1, attributes=attributes)
    attributes["plan"] = "changed"
    assert collector.events[0].context_attributes == {"plan": "team"}


@pytest.mark.parametrize(("user", "kept"), [("u", "u"), (7, "7"), ("", None), (None, None)])
def test_the_targeting_key_is_text_or_none(user, kept):
    collector = RecordingCollector()
    Sample(collector).tell("f", 1, user=user)
    assert collector.events[0].targeting_key == kept


def test_a_failure_is_counted_and_logged_once_a_minute_without_content(caplog, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("flag_analytics_sdks.adapter.time.monotonic", lambda: now[0])
    adapter = Sample(Failing())
    for _ in range(3):
        adapter.tell("secret-flag", "secret", user="user-1")
    now[0] += 61
    adapter.tell("secret-flag", "secret", user="user-1")
    assert adapter.failures == {"ValueError": 4}
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "could not record an evaluation of Sample: ValueError (1 failures so far)",
        "could not record an evaluation of Sample: ValueError (4 failures so far)",
    ]


def test_a_logging_filter_that_raises_reaches_no_evaluation():
    logger = logging.getLogger("flag_analytics.sdks")

    def explode(record):
        raise RuntimeError("a filter")

    logger.addFilter(explode)
    try:
        adapter = Sample(Failing())
        adapter.tell("f", 1)
    finally:
        logger.removeFilter(explode)
    assert adapter.failures == {"ValueError": 1}


@pytest.mark.skipif(not can_fork(), reason="this system has no fork")
def test_a_fork_while_a_failure_is_counted_blocks_no_child():
    adapter = Sample(Failing())

    def child():
        adapter.tell("f", 1)
        assert adapter.failures == {"ValueError": 1}

    with adapter._lock:
        run_in_child(child, 20)


def _code_lines(text):
    """Count the lines that hold code: no comments, docstrings or blank lines."""
    documentation = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documentation.update(range(node.lineno, node.end_lineno + 1))
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in {
            tokenize.COMMENT,
            tokenize.NL,
            tokenize.NEWLINE,
            tokenize.INDENT,
            tokenize.DEDENT,
            tokenize.ENDMARKER,
        }:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - documentation)
