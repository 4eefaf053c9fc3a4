"""What PostgreSQL answers: queries through a pool of connections."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from bentos.logging.store.errors import StoreError
from bentos.logging.store.postgres_connection import (
    CONNECT_SECONDS,
    adapt,
    classify,
    conninfo,
    milliseconds,
)
from bentos.logging.store.postgres_schema import TOTAL_SUMS
from bentos.logging.store.queries import (
    STATS_ROWS,
    PageQuery,
    StatsQuery,
    page_conditions,
    page_json,
    require_known,
    stats_json,
)
from bentos.logging.store.reader import READER_THREADS, QueryTimeoutError, Reader
from bentos.logging.store.schema import COLUMNS, StoredPrediction, from_row
from bentos.logging.store.source import ROWS_AT_ONCE

ResultT = TypeVar("ResultT")
_Rows: TypeAlias = list[tuple[Any, ...]]

_NAMES = ", ".join(one.name for one in COLUMNS)
_ROWS_AT_ONCE = 16


class PostgresReader(Reader[Connection]):
    """Reads through a pool of connections that are opened in the background."""

    def __init__(
        self, url: str, *, timeout_seconds: float, on_failure: Callable[[StoreError], None]
    ) -> None:
        super().__init__(timeout_seconds=timeout_seconds, on_failure=on_failure)
        self._secret = conninfo_to_dict(url).get("password")
        self._opening = threading.Lock()
        self._pool = ConnectionPool(
            conninfo(url),
            min_size=1,
            max_size=READER_THREADS,
            open=False,
            timeout=max(timeout_seconds, 1.0),
            reconnect_timeout=CONNECT_SECONDS,
            configure=self._configure,
            check=ConnectionPool.check_connection,
            name="reader",
        )

    def read_page(self, connection: Connection, query: PageQuery) -> bytes:
        """Return a page of `/predictions`; raises ServiceError 404 for an unknown device."""
        if query.edge_device_id is not None:
            known = connection.execute(
                b"SELECT 1 FROM edge_device_totals WHERE edge_device_id = %s"
                b" HAVING sum(predictions) > 0",
                (query.edge_device_id,),
            )
            require_known(query.edge_device_id, known.fetchone())
        where, values = page_conditions(query, "%s", "true")
        statement = (
            f"SELECT {_NAMES}, id FROM predictions{where}"  # noqa: S608 - own names
            f" ORDER BY timestamp DESC, id DESC LIMIT {query.limit + 1}"
        )
        # A few rows at a time: all of them may be a thousand times as large as a page.
        with connection.cursor(name="page") as cursor:
            cursor.itersize = _ROWS_AT_ONCE
            cursor.execute(statement.encode(), values)
            return page_json(cursor, query.limit)

    def read_stats(self, connection: Connection, query: StatsQuery) -> bytes:
        """Return `/stats`, the sums of what all writers have added."""

        def select(columns: str, table: str, end: str = "") -> _Rows:
            statement = f"SELECT {columns} FROM {table} {end}"  # noqa: S608 - own names
            return connection.execute(statement.encode(), named).fetchall()

        named = {"after": query.after, "rows": STATS_ROWS, "more": STATS_ROWS + 1}
        present = "HAVING sum(predictions) > 0"
        by_model = f"GROUP BY model_name, model_version {present}"
        everything = select(TOTAL_SUMS, "all_totals", present)
        return stats_json(
            everything=everything[0] if everything else None,
            devices=select(
                f"edge_device_id, {TOTAL_SUMS}",
                "edge_device_totals",
                f"WHERE edge_device_id > %(after)s GROUP BY edge_device_id {present}"
                " ORDER BY edge_device_id LIMIT %(more)s",
            ),
            devices_total=_count(
                select, "edge_device_totals", f"GROUP BY edge_device_id {present}"
            ),
            models=select(
                f"model_name, model_version, {TOTAL_SUMS}",
                "model_totals",
                f"{by_model} ORDER BY model_name, model_version LIMIT %(rows)s",
            ),
            models_total=_count(select, "model_totals", by_model),
            by_model=select(
                "model_name, sum(predictions)::bigint",
                "model_totals",
                f"GROUP BY model_name {present} ORDER BY model_name LIMIT %(rows)s",
            ),
        )

    def open(self) -> None:
        """Let queries begin."""
        with self._opening:
            if self._pool.closed and not self._open:
                with contextlib.suppress(ValueError):  # it was open before, and goes on
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

    def _execute(self, query: Callable[[Connection], ResultT]) -> ResultT:
        try:
            with self._pool.connection() as connection:
                return query(connection)
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


class PostgresSource:
    """All of a PostgreSQL store, read as a stream; raises StoreError where that fails."""

    def __init__(self, url: str) -> None:
        self._secret = conninfo_to_dict(url).get("password")
        with self._failures():
            self._connection = psycopg.connect(conninfo(url))
            adapt(self._connection)
            self._connection.read_only = True

    def first_arrival(self, since: float) -> float | None:
        """Return when the first prediction from `since` on arrived, None for none."""
        with self._failures(), self._connection.transaction():
            (found,) = self._connection.execute(
                b"SELECT min(received_at) FROM predictions WHERE received_at >= %s", (since,)
            ).fetchone() or (None,)
        return found if found is None else float(found)

    def arrived(self, start: float, end: float) -> Iterator[list[StoredPrediction]]:
        """Yield what arrived from `start` to before `end`, in the order of arrival."""
        statement = (
            f"SELECT {_NAMES} FROM predictions"  # noqa: S608 - own names
            " WHERE received_at >= %s AND received_at < %s ORDER BY received_at, id"
        )
        with (
            self._failures(),
            self._connection.transaction(),
            self._connection.cursor(name="arrived") as cursor,
        ):
            cursor.execute(statement.encode(), (start, end))
            while rows := cursor.fetchmany(ROWS_AT_ONCE):
                yield [StoredPrediction(*from_row(row)) for row in rows]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise classify(error, self._secret) from error


def _count(select: Callable[[str, str], _Rows], table: str, groups: str) -> int:
    return int(select("count(*)", f"(SELECT FROM {table} {groups}) AS present")[0][0])
