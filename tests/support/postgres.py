"""A PostgreSQL server of the tests' own, on a free port, that can be killed like any other."""

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from local.process import free_port, wait_until
from tests.support.tools import missing_tool

USER = "predictions"
# Every character that has to be percent-encoded in a URL is in it somewhere.
PASSWORD = "p@ss/w:rd%?#-5ecret"
_PROGRAMS = "/usr/lib/postgresql"
_START_SECONDS = 60.0


def programs() -> Path:
    """Return where PostgreSQL's programs are; skip the test where there are none."""
    on_path = shutil.which("initdb")
    found = sorted(Path(_PROGRAMS).glob("*/bin/initdb"), key=lambda path: path.parts[-3])
    if on_path is None and not found:
        missing_tool("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent if found else Path(str(on_path)).resolve().parent


class PostgresServer:
    """A cluster in a folder of its own; `start` and `kill` as often as a test likes.

    With `standby_of` it is a hot standby that follows another server.
    """

    def __init__(self, *, standby_of: "PostgresServer | None" = None) -> None:
        self._programs = programs()
        # Not below pytest's folders, which the server's user may not enter.
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        # The server refuses to run as root.
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        if self._user is not None:
            for path in (self._folder, secret):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        program = "initdb"
        arguments = ["--pgdata", str(self._data), "--username", USER, "--auth", "scram-sha-256"]
        arguments += ["--pwfile", str(secret), "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        if standby_of is not None:
            program = "pg_basebackup"
            arguments = ["--pgdata", str(self._data), "--dbname", standby_of.url()]
            arguments += ["--write-recovery-conf", "--checkpoint", "fast", "--no-sync"]
        with self._log_path.open("wb") as log:
            status = self._popen(program, arguments, log.fileno()).wait(_START_SECONDS)
        assert status == 0, self.log
        self.start()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _log_path(self) -> Path:
        return self._folder / "server.log"

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self._log_path.read_text(errors="replace")

    def url(self, name: str = "postgres", *, ports: Sequence[int] = ()) -> str:
        """Return the URL of a database, through other ports where any are given."""
        password = urllib.parse.quote(PASSWORD, safe="")
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports or [self.port])
        return f"postgresql://{USER}:{password}@{hosts}/{name}"

    def make_database(self) -> str:
        """Return the name of a new, empty database."""
        name = f"d{secrets.token_hex(6)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def start(self) -> None:
        """Start it and return when it takes connections."""
        command = ["-D", str(self._data), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        # Processes are killed here, never the machine: what they wrote outlives them without fsync.
        command += ["-c", "max_connections=60", "-c", "fsync=off"]
        with self._log_path.open("ab") as log:
            self._process = self._popen("postgres", command, log.fileno())
        wait_until(
            self._answers, "PostgreSQL answers", seconds=_START_SECONDS, describe=lambda: self.log
        )

    def kill(self) -> None:
        """End the server and all its backends at once, with SIGKILL."""
        if self._process is None:
            return
        with contextlib.suppress(psutil.Error):
            backends = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            for backend in backends:
                with contextlib.suppress(psutil.Error):
                    backend.kill()
            psutil.wait_procs(backends, timeout=10)
        self._process.wait(10)
        self._process = None

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        assert self._process is not None
        return self._process.pid

    def close(self) -> None:
        """End it and delete its files."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _popen(
        self, program: str, arguments: Sequence[str], output: int
    ) -> "subprocess.Popen[bytes]":
        as_user: dict[str, Any] = {}
        if self._user is not None:
            as_user = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        # It ends with the tests, however they end.
        with_us = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        return subprocess.Popen(
            [*with_us, str(self._programs / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            **as_user,
        )


@contextmanager
def postgres_server(*, standby_of: PostgresServer | None = None) -> Iterator[PostgresServer]:
    """Run a server for the block."""
    server = PostgresServer(standby_of=standby_of)
    try:
        yield server
    finally:
        server.close()


def query(url: str, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Return the rows of a query, asked by a connection of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(statement.encode(), values)
        return found.fetchall() if found.description else []


@contextmanager
def locked_tables(url: str, *tables: str) -> Iterator[Callable[[], None]]:
    """Hold the strongest lock on tables for the block, or until what it yields is called."""
    with psycopg.connect(url) as connection:
        for table in tables:
            connection.execute(
                sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table))
            )
        try:
            yield connection.rollback
        finally:
            connection.rollback()
