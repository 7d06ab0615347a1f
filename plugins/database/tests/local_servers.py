"""Servers of the tests' own: PostgreSQL, MariaDB and pgbouncer on free ports, and certificates for them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

_START_SECONDS = 60.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def ordinary_user() -> str | None:
    """Return a user to run servers as if this one is root, which they refuse; None if it is not root."""
    if sys.platform == "win32" or os.geteuid():
        return None
    import pwd

    names = {user.pw_name for user in pwd.getpwall()}
    found = next((name for name in ("postgres", "nobody") if name in names), None)
    return found or pytest.skip("servers do not run as root, and there is no other user")


@contextlib.contextmanager
def server_directory(user: str | None) -> Iterator[Path]:
    """Give a directory that the server's user may enter; pytest's own are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="flag-analytics-server-") as name:
        if user is not None:
            shutil.chown(name, user)
        yield Path(name)


def run(*command: Any, user: str | None, cwd: Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], user=user, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def serving(*command: Any, user: str | None, cwd: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in the foreground until the block ends; begin once it listens."""
    log = cwd / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command], user=user, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        ends = time.monotonic() + _START_SECONDS
        while not _listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def program(*names: str, places: tuple[str, ...] = ("/usr/sbin", "/usr/local/sbin")) -> str | None:
    search = os.pathsep.join([os.environ.get("PATH", ""), *places])
    return next((found for name in names if (found := shutil.which(name, path=search))), None)


# --- PostgreSQL


@attrs.frozen
class Cluster:
    """A PostgreSQL server, which takes every login from this machine."""

    binaries: Path
    directory: Path
    port: int
    user: str | None

    @property
    def connection_string(self) -> str:
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/postgres"

    def create(self, *settings: str, access: str = "") -> None:
        self._run("initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale")
        data = self.directory / "data"
        common = (f"port = {self.port}", "listen_addresses = '127.0.0.1'", f"unix_socket_directories = '{data.parent}'")
        with (data / "postgresql.conf").open("a") as file:
            file.write("\n".join((*common, "fsync = off", *settings, "")))
        rules = data / "pg_hba.conf"
        rules.write_text(access + rules.read_text())
        self.control("start")

    def control(self, action: str, mode: str = "fast") -> None:
        log = ["-l", self.directory / "log"] if action in {"start", "restart"} else []
        stopped = ["-m", mode] if action in {"stop", "restart"} else []
        self._run("pg_ctl", action, "--wait", *log, *stopped)

    def _run(self, name: str, *arguments: Any) -> None:
        run(
            self.binaries / name, *arguments, "-D", self.directory / "data", user=self.user, cwd=self.directory
        )  # fmt: skip


@contextlib.contextmanager
def postgresql_cluster(*settings: str, access: str = "", files: tuple[Path, ...] = ()) -> Iterator[Cluster]:
    """Run a PostgreSQL server; ``files`` are copied beside its data, readable by it alone."""
    binaries = _postgresql_binaries()
    if binaries is None:
        pytest.skip("no initdb and pg_ctl on this machine: no PostgreSQL server can be started")
    user = ordinary_user()
    with server_directory(user) as directory:
        hand_over(files, directory, user)
        made = Cluster(binaries, directory, free_port(), user)
        made.create(*(setting.format(directory=directory) for setting in settings), access=access)
        try:
            yield made
        finally:
            made.control("stop", "immediate")


def hand_over(files: tuple[Path, ...], directory: Path, user: str | None) -> None:
    for file in files:
        copy = Path(shutil.copy(file, directory))
        copy.chmod(0o600)
        if user is not None:
            shutil.chown(copy, user)


def _postgresql_binaries() -> Path | None:
    """Return the directory of PostgreSQL's programs: on the path, or where Debian has them, the newest first."""
    places = [Path(found).resolve().parent] if (found := shutil.which("initdb")) else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


@contextlib.contextmanager
def pgbouncer(server: Any, pool_size: int = 3) -> Iterator[int]:
    """Run pgbouncer in transaction mode before a server, which a URL names, and give its port."""
    found = program("pgbouncer")
    if found is None:
        reason = "no pgbouncer on this machine"
        if os.environ.get("FLAG_ANALYTICS_REQUIRE_PGBOUNCER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    user, port = ordinary_user(), free_port()
    with server_directory(user) as directory:
        (directory / "users.txt").write_text(f'"{server.username}" "{server.password or ""}"\n')
        config = directory / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host={server.host} port={server.port or 5432}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {directory / 'users.txt'}\n"
            f"pool_mode = transaction\ndefault_pool_size = {pool_size}\nmax_client_conn = 500\n"
        )
        with serving(found, config, user=user, cwd=directory, port=port):
            yield port


# --- MariaDB


@contextlib.contextmanager
def mariadb_server(*options: str, files: tuple[Path, ...] = (), data_of: Path | None = None) -> Iterator[int]:
    """Run a MariaDB server and give its port; its users are ``root`` without a password from this machine."""
    server, install = program("mariadbd", "mysqld"), program("mariadb-install-db", "mysql_install_db")
    if server is None or install is None:
        pytest.skip("no mariadbd and mariadb-install-db on this machine: no MariaDB server can be started")
    user, port = ordinary_user(), free_port()
    with server_directory(user) as directory:
        hand_over(files, directory, user)
        data = directory / "data"
        if data_of is None:
            run(
                install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal",
                "--skip-test-db", "--skip-name-resolve", user=user, cwd=directory,
            )  # fmt: skip
        given = [option.format(directory=directory) for option in options]
        command = [
            server, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1",
            f"--socket={directory / 'socket'}", f"--pid-file={directory / 'pid'}", "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M", *given,
        ]  # fmt: skip
        with serving(*command, user=user, cwd=directory, port=port):
            yield port


# --- certificates


@attrs.frozen
class Certificates:
    """A CA, a server's certificate for ``localhost`` alone, a client's for ``tester``, and a CA that no side trusts."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def other_ca(self) -> Path:
        return self.directory / "other.pem"

    @property
    def server(self) -> tuple[Path, Path]:
        return self.directory / "server.pem", self.directory / "server.key"

    @property
    def client(self) -> tuple[Path, Path]:
        return self.directory / "client.pem", self.directory / "client.key"


def make_certificates(directory: Path) -> Certificates:
    if program("openssl") is None:
        pytest.skip("no openssl on this machine: no certificates can be made")

    def openssl(*arguments: Any) -> None:
        run("openssl", *arguments, user=None, cwd=directory)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "other"):
        openssl(
            "req", "-x509", *key, "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"
        )
    (directory / "names").write_text("subjectAltName = DNS:localhost\n")
    for name, subject in (("server", "/CN=localhost"), ("client", "/CN=tester")):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", f"{name}.pem",
        )  # fmt: skip
    return Certificates(directory)
