"""The harness of the benchmarks, with contenders whose time is known; nothing here measures anything."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_"))


@pytest.fixture
def harness(monkeypatch):
    """Return the harness; the benchmarks are in no installed package."""
    monkeypatch.syspath_prepend(str(ROOT))
    yield importlib.import_module("benchmarks._harness")
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


def takes(*ns):
    """Return a timer that says so many ns per operation, in turn, whatever happens."""
    said = list(ns)
    return lambda operations: operations * (said.pop(0) if len(said) > 1 else said[0])


def test_a_ratio_is_the_median_of_the_rounds_and_a_time_the_fastest(harness):
    # The first call of each finds out how many operations make a round.
    steady = harness.Contender("steady", takes(1e8, 100, 100, 100))
    uneven = harness.Contender("uneven", takes(1e8, 500, 200, 300))
    table = harness.compare("title", [steady, uneven], rounds=3, round_ns=1)
    assert [(row.ns, row.ratio) for row in table.rows] == [(100, 1.0), (200, 3.0)]


def test_rounds_are_interleaved(harness):
    order = []

    def contender(name):
        return harness.Contender(name, lambda operations: order.append(name) or operations * 1e9)

    harness.compare("title", [contender("a"), contender("b")], rounds=3, round_ns=1)
    assert order[-6:] == ["a", "b", "a", "b", "a", "b"]


def test_no_round_exceeds_what_a_contender_can_take(harness):
    asked = []
    contender = harness.Contender("small", lambda operations: asked.append(operations) or operations, most=7)
    harness.compare("title", [contender], rounds=2)
    assert max(asked) == 7


@pytest.mark.parametrize(("at_most", "kept"), [(0.5, True), (0.4, False)])
def test_a_limit_is_judged_against_the_contender_it_names(harness, at_most, kept):
    contenders = [harness.Contender("ours", takes(100)), harness.Contender("theirs", takes(200))]
    table = harness.compare(
        "title", contenders, limits=[harness.Limit("ours", at_most=at_most, times="theirs")], rounds=1, round_ns=1
    )
    assert table.kept is kept
    assert [verdict.kept for verdict in table.verdicts] == [kept]


def test_a_limit_against_a_peer_that_is_not_there_is_left_out(harness):
    limit = harness.Limit("ours", at_most=0.1, times="theirs")
    table = harness.compare("title", [harness.Contender("ours", takes(100))], limits=[limit], rounds=1, round_ns=1)
    assert table.verdicts == []


def test_a_figure_is_judged_by_its_own_bounds(harness):
    figures = [harness.Figure("size", 64, "bytes", at_most=64), harness.Figure("rate", 9, "events/s", at_least=10)]
    assert [verdict.kept for verdict in harness.judge(figures)] == [True, False]


def test_a_table_is_readable_by_people_and_by_programs(harness):
    table = harness.compare("title", [harness.Contender("ours", takes(1234))], rounds=1, round_ns=1)
    assert "| ours      |       1,234 |" in harness.as_text(table)
    assert json.loads(harness.as_json([table]))[0]["rows"][0]["name"] == "ours"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_module_lists_its_benchmarks_and_is_listed_itself(path):
    tree = ast.parse(path.read_text("utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    (listed,) = [
        [name.id for name in node.value.elts]
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "BENCHMARKS"
    ]
    assert listed
    assert set(listed) <= functions
    assert f"| `{path.stem}` |" in (ROOT / "benchmarks" / "README.md").read_text("utf-8")
