"""How PostgreSQL is connected to, what JSON becomes on the way, and what its errors mean."""

from typing import Any

import psycopg
from msgspec import Raw
from psycopg import Connection
from psycopg.adapt import Buffer, Dumper, Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format

from bentos.logging.store.errors import StoreError

CONNECT_SECONDS = 2
# A server that has gone without a word, as after a fail-over, is given up after about four seconds.
_CONNECTION: dict[str, str] = {
    "application_name": "logging-service",
    "connect_timeout": str(CONNECT_SECONDS),
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


def connect(url: str) -> Connection:
    """Connect to a server that takes writes; what is stored as JSON goes and comes as bytes."""
    connection = psycopg.connect(conninfo(url, target_session_attrs="read-write"), autocommit=True)
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
