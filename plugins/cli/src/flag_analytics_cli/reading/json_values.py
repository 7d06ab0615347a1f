"""JSON values of a file, one after the other: an object on each line, arrays, or documents over many lines."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from .lines import MAX_JSON_BYTES, BadLine, Line, LineReader, Row

__all__ = ["read_elements", "read_objects"]

_CHUNK_BYTES = 65_536
_NOT_JSON = "is not JSON"
_decode = msgspec.json.Decoder().decode
_scan = json.JSONDecoder().raw_decode
_ERRORS = (msgspec.DecodeError, RecursionError, UnicodeError)


def read_objects(lines: LineReader) -> Iterator[Row | BadLine]:
    """Yield the value on each line; a value over several lines, as people format them, is read as well."""
    for line in lines:
        if isinstance(line, BadLine):
            yield line
            continue
        number, text = line
        if not text or text.isspace():
            continue
        try:
            yield Row(number, number, number, _decode(text), text)
        except _ERRORS:
            yield _document(line, lines) if text.rstrip().endswith(("{", "[", ",")) else _bad(line)


def _bad(line: Line) -> BadLine:
    return BadLine(line.number, line.number, _NOT_JSON)


def _document(first: Line, lines: LineReader) -> Row | BadLine:
    """Return the value that begins with a line and ends with a bracket at the beginning of another."""
    texts = [first.text]
    size, last = len(first.text), first.number
    for line in lines:
        # A new value at the beginning of a line: the one before it does not end.
        if isinstance(line, BadLine) or line.text.startswith(("{", "[")) or size + len(line.text) > MAX_JSON_BYTES:
            lines.push_back(line)
            break
        texts.append(line.text)
        size, last = size + len(line.text), line.number
        if line.text.startswith(("}", "]")):
            text = "\n".join(texts)
            try:
                return Row(first.number, first.number, last, _decode(text), text)
            except _ERRORS:
                continue  # a bracket within it
    return BadLine(first.number, last, _NOT_JSON)


def read_elements(stream: BinaryIO, encoding: str) -> Iterator[Row | BadLine]:
    """Yield the elements of one array or several, numbered from 1, each within a bound of memory."""
    decoder = codecs.getincrementaldecoder(encoding)()
    buffer, at, number, ended = "", 0, 1, False
    while True:
        at = _skip(buffer, at)
        if at < len(buffer):
            try:
                value, end = _scan(buffer, at)
            except (ValueError, RecursionError):
                # Cut off by the end of the chunk, unless nothing follows or the element is longer than any should be.
                if ended or len(buffer) - at > MAX_JSON_BYTES:
                    yield BadLine(number, number, f"{_NOT_JSON}, and so the rest of the array cannot be read")
                    return
            else:
                yield Row(number, number, number, value, buffer[at:end])
                number += 1
                at = end
                continue
        if ended:
            return
        # As much again as is there: an element of many chunks is not scanned once for each of them.
        raw = stream.read(max(_CHUNK_BYTES, len(buffer) - at))
        ended = not raw
        try:
            buffer = buffer[at:] + decoder.decode(raw, final=ended)
        except UnicodeError:
            yield BadLine(number, number, f"is not {encoding.upper()} (--encoding NAME reads other encodings)")
            return
        at = 0


def _skip(text: str, at: int) -> int:
    """Return the place of the next value: after spaces, commas, and the brackets of the arrays themselves."""
    while at < len(text) and text[at] in " \t\r\n,[]\ufeff":
        at += 1
    return at
