"""Lines of any file: numbered, decoded, bounded."""

from __future__ import annotations

import io
from typing import Any

from flag_analytics_cli.reading.lines import MAX_LINE_BYTES, BadLine, Line, LineReader
from hypothesis import given
from hypothesis import strategies as st


def lines_of(data: bytes, encoding: str = "utf-8") -> list[Line | BadLine]:
    return list(LineReader(io.BytesIO(data), encoding))


def test_lines_are_numbered_from_one_and_lose_their_ends():
    assert lines_of(b"a\nb\r\n\nc") == [Line(1, "a"), Line(2, "b"), Line(3, ""), Line(4, "c")]


def test_an_empty_file_has_no_lines():
    assert lines_of(b"") == []


def test_a_byte_order_mark_is_taken_off():
    assert lines_of("\ufeffa\n\ufeffb".encode()) == [Line(1, "a"), Line(2, "\ufeffb")]


def test_bytes_that_are_no_text_make_a_bad_line_and_the_next_ones_are_read():
    bad, good = lines_of(b"caf\xe9\ncaf\xc3\xa9\n")
    assert bad == BadLine(1, 1, "is not UTF-8 (--encoding NAME reads other encodings)")
    assert good == Line(2, "café")


def test_another_encoding_can_be_read():
    assert lines_of(b"caf\xe9\n", "cp1252") == [Line(1, "café")]


def test_a_line_that_is_too_long_is_a_bad_line_and_takes_no_memory():
    class Endless(io.RawIOBase):
        """Some 50 times the longest line, without an end, then one more line."""

        def __init__(self) -> None:
            self.left = [b"x" * 65_536] * 800 + [b"\n", b"after\n"]
            self.largest = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            if not self.left:
                return 0
            part = self.left.pop(0)
            piece, rest = part[: len(buffer)], part[len(buffer) :]
            if rest:
                self.left.insert(0, rest)
            buffer[: len(piece)] = piece
            return len(piece)

    reader = LineReader(io.BufferedReader(Endless()))
    assert list(reader) == [BadLine(1, 1, f"is longer than {MAX_LINE_BYTES:,} bytes"), Line(2, "after")]


def test_the_longest_line_there_may_be_is_read():
    data = b"x" * (MAX_LINE_BYTES - 1)
    assert lines_of(data + b"\ny") == [Line(1, data.decode()), Line(2, "y")]


def test_the_first_content_is_found_behind_blank_lines_and_not_taken():
    reader = LineReader(io.BytesIO(b"\n  \na\nb"))
    assert reader.first_content() == reader.first_content() == Line(3, "a")
    assert list(reader) == [Line(3, "a"), Line(4, "b")]
    assert reader.first_content() is None


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20), max_size=8))
def test_lines_that_are_written_are_read_again(texts):
    # A mark at the very beginning is no text, and an empty last line is none.
    texts = ["first", *texts, "last"]
    data = "\r\n".join(texts).encode()
    assert lines_of(data) == [Line(number, text) for number, text in enumerate(texts, 1)]
