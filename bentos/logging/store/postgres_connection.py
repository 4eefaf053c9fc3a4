"""How PostgreSQL is connected to and read, what JSON becomes on the way, what its errors mean."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import psycopg
from msgspec import Raw
from psycopg import Connection
from psycopg.adapt import Buffer, Dumper, Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from bentos.logging.store.errors import StoreError
from bentos.logging.store.queries import Session
from bentos.logging.store.reader import READER_THREADS, QueryTimeoutError, Reader, ResultT
from bentos.logging.store.schema import TOTALS
from bentos.logging.store.source import Source

_CONNECT_SECONDS = 2
# A server that has gone without a word, as after a fail-over, is given up after about four seconds.
_CONNECTION: dict[str, str] = {
    "application_name": "logging-service",
    "connect_timeout": str(_CONNECT_SECONDS),
    "keepalives_idle": "2",
    "keepalives_interval": "1",
    "keepalives_count": "2",
    "tcp_user_timeout": "4000",
    "client_encoding": "UTF8",
}
# Conditions that have a reason of their own, by SQLSTATE or its class:
# postgresql.org/docs/current/errcodes-appendix.html
_REASONS = {
    "25006": "read_only",
    "42501": "read_only",
    "53100": "full",
    "55P03": "busy",
    "57014": "busy",
    "40P01": "busy",
    "40001": "busy",
    "3D000": "missing",
    "3F000": "missing",
    "42": "schema",
    "23502": "schema",
    "XX001": "corrupt",
    "XX002": "corrupt",
    "08": "unreachable",
    "53": "unreachable",
    "57": "unreachable",
}
_OF_A_ROW = ("22", "23")
# No value may be missing in a row: it is a table's default that is, as after its sequence was
# dropped.
_NOT_NULL = "23502"


class _RawDumper(Dumper):
    """Sends JSON as it came."""

    oid = psycopg.adapters.types["json"].oid
    format = Format.BINARY

    def dump(self, obj: Any) -> Buffer:
        return bytes(obj)


class _RawLoader(Loader):
    """Reads JSON as it was sent."""

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


def describe(url: str) -> str:
    """Return the host, port and name of a database, without user, password or options."""
    parts = conninfo_to_dict(url)
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    return f"postgresql://{host}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"


def classify(error: psycopg.Error, secret: object = None) -> StoreError:
    """Return the failure that an error of psycopg or of the server amounts to."""
    state = error.sqlstate or ""
    broken = isinstance(error, psycopg.OperationalError) and not state
    reason = (
        _REASONS.get(state) or _REASONS.get(state[:2]) or ("unreachable" if broken else "other")
    )
    message = " ".join(str(error).split()) or type(error).__name__
    if secret:
        message = message.replace(str(secret), "***")
    return StoreError(reason, f"{message} ({state})" if state else message)


def is_of_a_row(error: psycopg.Error) -> bool:
    """Return whether an error is the fault of a row or of this code, not of the database."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError | psycopg.ProgrammingError)
    return error.sqlstate[:2] in _OF_A_ROW and error.sqlstate != _NOT_NULL


def password(url: str) -> object:
    """Return what no message may show."""
    return conninfo_to_dict(url).get("password")


def to_psycopg(query: str) -> bytes:
    """Return a query as psycopg takes it, of one with `?` for each of its values."""
    return query.replace("?", "%s").encode()


def connect(url: str, **more: str) -> Connection:
    """Connect; each statement commits, and what is stored as JSON goes and comes as bytes."""
    connection = psycopg.connect(conninfo(url, **more), autocommit=True)
    adapt(connection)
    return connection


def conninfo(url: str, **more: str) -> str:
    """Return how to connect: what the URL says, and for the rest what is right here."""
    given = conninfo_to_dict(url)
    return make_conninfo(url, **{k: v for k, v in (_CONNECTION | more).items() if k not in given})


def adapt(connection: Connection) -> None:
    """Have JSON sent and read as it is, unparsed."""
    connection.adapters.register_dumper(Raw, _RawDumper)
    connection.adapters.register_loader("json", _RawLoader)


def milliseconds(seconds: float) -> str:
    """Return a duration as a setting of PostgreSQL, which has 0 for no limit."""
    return f"{max(int(seconds * 1_000), 1)}ms"


class PostgresSession(Session):
    """A connection that reads. Writers that are connected have added to totals of their own."""

    true = "true"
    totals: ClassVar[Mapping[str, str]] = {
        table: f"(SELECT {', '.join(keys)}, CAST(sum(predictions) AS bigint) AS predictions,"  # noqa: S608
        " CAST(sum(defects) AS bigint) AS defects, sum(inference_time_ms) AS inference_time_ms,"
        " min(first_timestamp) AS first_timestamp, max(last_timestamp) AS last_timestamp"
        f" FROM {table} GROUP BY {', '.join(keys)} HAVING sum(predictions) > 0) AS totals"
        for table, keys in TOTALS.items()
    }

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def fetch(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return self._connection.execute(to_psycopg(query), values).fetchall()

    @contextlib.contextmanager
    def stream(
        self, query: str, *values: object, portion: int
    ) -> Iterator[Iterable[tuple[Any, ...]]]:
        """Return the rows of a query, of which `portion` at most are in memory."""
        with self._connection.transaction(), self._connection.cursor(name="rows") as cursor:
            cursor.itersize = portion
            cursor.execute(to_psycopg(query), values)
            yield cursor


class PostgresReader(Reader):
    """Reads through a pool of connections that are opened in the background."""

    def __init__(
        self, url: str, *, timeout_seconds: float, on_failure: Callable[[StoreError], None]
    ) -> None:
        super().__init__(timeout_seconds=timeout_seconds, on_failure=on_failure)
        self._secret = password(url)
        self._pool = ConnectionPool(
            conninfo(url),
            min_size=1,
            max_size=READER_THREADS,
            open=False,
            timeout=max(timeout_seconds, 1.0),
            reconnect_timeout=_CONNECT_SECONDS,
            configure=self._configure,
            check=ConnectionPool.check_connection,
            name="reader",
        )

    def open(self) -> None:
        """Let queries begin."""
        self._pool.open()
        super().open()

    def shut(self) -> None:
        """Let no query begin; those that run end by their time-out."""
        with self._changed:
            self._open = False

    def close(self) -> None:
        """End the threads and the connections."""
        super().close()
        self._pool.close(timeout=1.0)

    def _execute(self, query: Callable[[Session], ResultT]) -> ResultT:
        try:
            with self._pool.connection() as connection:
                return query(PostgresSession(connection))
        except psycopg.errors.QueryCanceled as error:
            raise QueryTimeoutError from error
        except (PoolTimeout, PoolClosed) as error:
            raise StoreError("unreachable", "no connection to read by") from error
        except psycopg.Error as error:
            raise classify(error, self._secret) from error

    def _configure(self, connection: Connection) -> None:
        adapt(connection)
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute(
            b"SELECT set_config('statement_timeout', %s, false)",
            (milliseconds(self._timeout_seconds),),
        )
        connection.commit()


@contextlib.contextmanager
def postgres_source(url: str) -> Iterator[Source]:
    """Read a PostgreSQL database for the block; raises StoreError where that fails."""
    try:
        with contextlib.closing(connect(url)) as connection:
            connection.read_only = True
            yield Source(PostgresSession(connection))
    except psycopg.Error as error:
        raise classify(error, password(url)) from error
