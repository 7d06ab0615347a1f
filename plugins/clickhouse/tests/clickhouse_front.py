"""The smallest HTTP interface before chDB's engine, which clickhouse-connect speaks to: a process of its own.

``python clickhouse_front.py FOLDER [PORT]`` prints its port. ``POST /cut`` takes a list of ``{"when": "before",
"times": 1, "match": "INSERT INTO `name`"}``, and breaks the connection of the next requests whose statement holds the
text: before the statement is run, or, with "after", when it is run and not answered yet. With a number for ``when``
they are answered with the error of that number.
"""

from __future__ import annotations

import email
import json
import os
import re
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import chdb
from clickhouse_connect.driver.compression import _zstd_decompress

try:
    from lz4.frame import decompress as _lz4_decompress
except ImportError:  # the client has it before Python 3.14
    _lz4_decompress = None

_TRANSPORT = {"query", "database", "wait_end_of_query", "client_protocol_version", "session_id", "query_id", "compress"}
_TRANSPORT |= {"enable_http_compression", "send_progress_in_http_headers", "http_headers_progress_interval_ms"}
# What the client sends with everything, and the embedded engine has no use for.
_TRANSPORT |= {"date_time_input_format", "cast_string_to_dynamic_use_inference", "max_execution_time"}
_TRANSPORT |= {"cancel_http_readonly_queries_on_client_close"}
_INSERT = re.compile(rb"\s*INSERT INTO .* FORMAT \w+\s*?\n", re.IGNORECASE)
_local = threading.local()
_cuts: list[dict] = []
_lock = threading.Lock()


def engine():
    if not hasattr(_local, "engine"):
        _local.engine = chdb.connect(sys.argv[1])
    return _local.engine


def quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def run(statement: bytes, settings: dict, bound: dict, database: str) -> bytes:
    if database:
        engine().query(f"USE `{database}`")
    head = _INSERT.match(statement)
    if head:
        with tempfile.NamedTemporaryFile() as file:
            file.write(statement[head.end() :])
            file.flush()
            clause = ", ".join(f"{name} = {quoted(value)}" for name, value in settings.items())
            into, _, form = head.group().decode().strip().rpartition(" FORMAT ")
            infile = f"FROM INFILE {quoted(file.name)} {f'SETTINGS {clause}' if clause else ''}"
            return engine().query(f"{into} {infile} FORMAT {form}").bytes()
    for name, value in settings.items():
        engine().query(f"SET {name} = {quoted(value)}")
    try:
        return engine().query(statement.decode(), "TabSeparated", params=bound).bytes() or b""
    finally:
        for name in settings:
            engine().query(f"SET {name} = DEFAULT")


def cut_for(statement: bytes):
    with _lock:
        for cut in _cuts:
            if cut["match"].encode() in statement[:2_000]:
                cut["times"] -= 1
                if cut["times"] <= 0:
                    _cuts.remove(cut)
                return cut["when"]
    return None


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits for 40 ms: its head is a packet of its own

    def log_message(self, *_):
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        body = self.body()
        path = urlsplit(self.path)
        if path.path == "/cut":
            with _lock:
                _cuts[:] = json.loads(body)
            return self.answer(200, b"")
        if path.path == "/ping":
            return self.answer(200, b"Ok.\n")
        statement, fields = self.asked(dict(parse_qsl(path.query, keep_blank_values=True)), body)
        when = cut_for(statement)
        if when == "before":
            return self.cut()
        if isinstance(when, int):
            return self.answer(500, b"told to", when)
        answer, code = self.run(statement, fields)
        if when == "after":
            return self.cut()
        return self.answer(200 if code is None else 500, answer, code)

    def asked(self, fields, body):
        """Return the statement, its data after it, and the other fields."""
        coding = self.headers.get("Content-Encoding")
        if coding:
            body = {"lz4": _lz4_decompress, "zstd": _zstd_decompress}[coding](body)
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            message = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
            for part in message.get_payload():
                fields[part.get_param("name", header="content-disposition")] = part.get_payload(decode=True).decode()
            body = b""
        return b"\n".join(filter(None, [fields.get("query", "").encode(), body])), fields

    def run(self, statement, fields):
        """Return the answer, and the code of the error if there is one."""
        bound = {name.removeprefix("param_"): text for name, text in fields.items() if name.startswith("param_")}
        settings = {
            name: text for name, text in fields.items() if name not in _TRANSPORT and not name.startswith("param_")
        }
        try:
            return run(statement, settings, bound, fields.get("database", "")), None
        except Exception as error:
            if "FRONT_DEBUG" in os.environ:
                sys.stderr.write(f"{statement[:500]!r} {settings} {error}\n")
            found = re.search(r"Code: (\d+)", str(error))
            return str(error).encode(), int(found.group(1)) if found else 1002

    def cut(self):
        self.close_connection = True
        self.connection.shutdown(2)

    def answer(self, status, body, code=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-ClickHouse-Timezone", "UTC")
        if code is not None:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        elif body:
            self.send_header("X-ClickHouse-Format", "TabSeparated")
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    server = Server(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0), Front)
    keeper = engine()  # the engine lives as long as one connection to it
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
