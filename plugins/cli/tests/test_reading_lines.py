"""Lines of any file: numbered, decoded, bounded."""

from __future__ import annotations

import io
from typing import Any

import pytest
from flag_analytics_cli.reading import MAX_LINE_BYTES, BadLine, FileError, Line, LineReader
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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_utf_16_and_32_are_told_by_their_mark(encoding):
    with pytest.raises(FileError, match="convert it to UTF-8"):
        lines_of("a,b\n".encode(encoding))


def test_bytes_that_are_no_text_make_a_bad_line_and_the_next_ones_are_read():
    bad, good = lines_of(b"caf\xe9\ncaf\xc3\xa9\n")
    assert str(bad) == "line 1: is not UTF-8 (--encoding NAME reads other encodings)"
    assert good == Line(2, "café")


def test_another_encoding_can_be_read():
    assert lines_of(b"caf\xe9\n", "cp1252") == [Line(1, "café")]


@pytest.mark.parametrize(("encoding", "words"), [("klingon", "unknown"), ("utf-16-le", "not supported")])
def test_an_encoding_that_cannot_be_read_is_said_so(encoding, words):
    with pytest.raises(FileError, match=words):
        lines_of(b"", encoding)


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
    assert reader.bytes_read == 65_536 * 800 + 7


def test_the_longest_line_there_may_be_is_read():
    data = b"x" * (MAX_LINE_BYTES - 1)
    assert lines_of(data + b"\ny") == [Line(1, data.decode()), Line(2, "y")]


def test_peeking_takes_nothing():
    reader = LineReader(io.BytesIO(b"a\nb"))
    assert reader.peek() == reader.peek() == Line(1, "a")
    assert list(reader) == [Line(1, "a"), Line(2, "b")]
    assert reader.peek() is None


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20), max_size=8))
def test_what_was_written_line_by_line_is_read_line_by_line(texts):
    # A mark at the very beginning is no text, and an empty last line is none.
    texts = ["first", *texts, "last"]
    data = "\r\n".join(texts).encode()
    assert lines_of(data) == [Line(number, text) for number, text in enumerate(texts, 1)]
