"""Events to the bytes of a file and back: JSON Lines, plain or compressed, and Parquet."""

from __future__ import annotations

import gzip
import io
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
from flag_analytics.errors import PluginError
from flag_analytics.frozen import FrozenEvent

__all__ = ["COLUMNS", "check_format", "encode", "ids_of", "merge", "without"]

COLUMNS = (
    "event_id",
    "timestamp",
    "flag_key",
    "value",
    "reason",
    "variant",
    "targeting_key",
    "context_attributes",
    "evaluation_duration_ms",
    "error_type",
    "error_message",
    "flag_version",
    "flag_set_id",
    "provider_name",
    "kind",
    "sample_rate",
)
"""The fields of an event, as ``FlagEvaluationEvent.to_dict`` names them."""

_encode_line = msgspec.json.Encoder().encode


class _Line(msgspec.Struct):
    event_id: str


class _PersonsLine(msgspec.Struct):
    targeting_key: str


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_persons_line = msgspec.json.Decoder(_PersonsLine).decode


def check_format(suffix: str) -> None:
    """Check that what a format needs is installed.

    Raises:
        PluginError: it is not; the message holds the command that installs it.
    """
    if suffix == ".parquet":
        _pyarrow()


def encode(events: Sequence[FrozenEvent], suffix: str) -> bytes:
    """Return the whole file."""
    if suffix == ".parquet":
        return _parquet(events)
    lines = b"".join(_encode_line(_fields_of(event)) + b"\n" for event in events)
    return gzip.compress(lines, 6, mtime=0) if suffix.endswith(".gz") else lines


def merge(bodies: Sequence[bytes], suffix: str) -> bytes:
    """Return one file with the events of several, in their order."""
    if suffix != ".parquet":
        return b"".join(bodies)  # gzip too: a file may have several members
    pa, pq = _pyarrow()
    return _written(pa.concat_tables([pq.read_table(io.BytesIO(body)) for body in bodies]), pq)


def without(body: bytes, targeting_keys: Collection[str], path: str) -> tuple[bytes, int]:
    """Return a file without the events of these targeting keys, and how many they were; a file of none stays as it is.

    Lines that are no events stay, and so do columns that are no fields.
    """
    if path.endswith(".parquet"):
        return _parquet_without(body, targeting_keys)
    lines = (gzip.decompress(body) if path.endswith(".gz") else body).splitlines(keepends=True)
    left = [line for line in lines if _person_of(line) not in targeting_keys]
    if len(left) == len(lines):
        return body, 0
    kept = b"".join(left)
    return gzip.compress(kept, 6, mtime=0) if path.endswith(".gz") else kept, len(lines) - len(left)


def _person_of(line: bytes) -> str | None:
    try:
        return _decode_persons_line(line).targeting_key
    except msgspec.MsgspecError:
        return None  # an event without a targeting key, or no event


def _parquet_without(body: bytes, targeting_keys: Collection[str]) -> tuple[bytes, int]:
    pa, pq = _pyarrow()
    table = pq.read_table(io.BytesIO(body))
    if "targeting_key" not in table.column_names:
        return body, 0
    kept = [key not in targeting_keys for key in table["targeting_key"].to_pylist()]
    removed = len(kept) - sum(kept)
    return (_written(table.filter(pa.array(kept, pa.bool_())), pq), removed) if removed else (body, 0)


def ids_of(body: bytes, suffix: str) -> frozenset[str]:
    """Return the ids of the events in a file; a line that is no event has none."""
    if suffix == ".parquet":
        _, pq = _pyarrow()
        return frozenset(pq.read_table(io.BytesIO(body), columns=["event_id"])["event_id"].to_pylist())
    return frozenset(_ids_of_lines((gzip.decompress(body) if suffix.endswith(".gz") else body).splitlines()))


def _ids_of_lines(lines: Iterable[bytes]) -> Iterable[str]:
    for line in lines:
        try:
            yield _decode_line(line).event_id
        except msgspec.MsgspecError:
            continue  # written by something else


def _fields_of(event: FrozenEvent) -> dict[str, Any]:
    """Return the fields of ``to_dict``; value and context are embedded as they were stored, without being decoded."""
    fields: dict[str, Any] = {name: getattr(event, name) for name in COLUMNS if name not in _JSON}
    fields["timestamp"] = event.timestamp.isoformat()
    fields["value"] = msgspec.Raw(event.value_json)
    fields["context_attributes"] = msgspec.Raw(event.context_json)
    return {name: fields[name] for name in COLUMNS}


_JSON = frozenset({"value", "context_attributes"})


def _parquet(events: Sequence[FrozenEvent]) -> bytes:
    """Return a table with a column for each field; value and context are columns of JSON text."""
    pa, pq = _pyarrow()
    kinds = {
        "timestamp": pa.timestamp("us", tz="UTC"),
        "evaluation_duration_ms": pa.float64(),
        "sample_rate": pa.float64(),
    }
    columns = {name: [getattr(event, name) for event in events] for name in COLUMNS if name not in _JSON}
    columns["value"] = [event.value_json.decode() for event in events]
    columns["context_attributes"] = [event.context_json.decode() for event in events]
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    return _written(pa.table({name: columns[name] for name in COLUMNS}, schema=schema), pq)


def _written(table: Any, pq: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
    except ImportError:
        raise PluginError("Parquet needs pyarrow: run `pip install 'flag-analytics-files[parquet]'`") from None
    return pa, pq
