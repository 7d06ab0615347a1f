"""Hostile text is shown, and does nothing."""

from __future__ import annotations

import pytest
from flag_analytics_cli.visible import cell, visible
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("page_redesign", "page_redesign"),
        ("Ampelmännchen ✓ 旗", "Ampelmännchen ✓ 旗"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\nb\tc\r", r"a\x0ab\x09c\x0d"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202eevil", r"\u202eevil"),
        ("a\u00a0b\u200b", r"a\xa0b\u200b"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("[red]x[/red]", "[red]x[/red]"),
    ],
)
def test_characters_that_do_not_print_are_escaped(text, shown):
    assert visible(text) == shown


@given(st.text())
def test_nothing_visible_can_steer_a_terminal(text):
    assert visible(text).isprintable()


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"])
def test_a_cell_is_never_a_formula(text):
    assert cell(text) == "'" + visible(text)


@given(st.text())
def test_cells_are_text_and_plain_ones_stay_as_they_are(text):
    shown = cell(text)
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r"))
    if text.isalnum():
        assert shown == text
