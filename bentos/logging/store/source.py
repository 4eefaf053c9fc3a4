"""Reads a whole store as a stream, a few thousand predictions at a time, while it is written to."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from bentos.logging.store.files import read_only_uri
from bentos.logging.store.schema import COLUMNS, Column, StoredPrediction, from_row

ROWS_AT_ONCE = 2_000
_BUSY_SECONDS = 10.0


class Source(Protocol):
    """A store that is read by the time of arrival."""

    def first_arrival(self, since: float) -> float | None:
        """Return when the first prediction from `since` on arrived, None for none."""

    def arrived(self, start: float, end: float) -> Iterator[list[StoredPrediction]]:
        """Yield what arrived from `start` to before `end`, in the order of arrival."""

    def close(self) -> None:
        """Close the connection."""


class SqliteSource:
    """The SQLite database at `path`, read only; a service may be writing to it.

    Raises sqlite3.Error where it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(
            read_only_uri(path), uri=True, timeout=_BUSY_SECONDS, isolation_level=None
        )
        # An older database lacks the fields that the message got since.
        present = {row[1] for row in self._connection.execute("PRAGMA table_info(predictions)")}
        if not present:
            raise sqlite3.OperationalError(f"{path} has no table of predictions")
        self._selected = ", ".join(
            _value(one) if one.name in present else "NULL" for one in COLUMNS
        )

    def after(self, row_id: int) -> tuple[int, list[StoredPrediction]]:
        """Return the next predictions by the order of their numbers, and the last number."""
        rows = self._connection.execute(
            f"SELECT id, {self._selected} FROM predictions WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608
            (row_id, ROWS_AT_ONCE),
        ).fetchall()
        return (rows[-1][0] if rows else row_id), [_prediction(row[1:]) for row in rows]

    def count(self, after: int = 0) -> int:
        """Return how many predictions there are after a number."""
        (found,) = self._connection.execute(
            "SELECT count(*) FROM predictions WHERE id > ?", (after,)
        ).fetchone()
        return int(found)

    def first_arrival(self, since: float) -> float | None:
        """Return when the first prediction from `since` on arrived, None for none."""
        (found,) = self._connection.execute(
            "SELECT min(received_at) FROM predictions WHERE received_at >= ?", (since,)
        ).fetchone()
        return found if found is None else float(found)

    def arrived(self, start: float, end: float) -> Iterator[list[StoredPrediction]]:
        """Yield what arrived from `start` to before `end`, in the order of arrival."""
        with contextlib.closing(
            self._connection.execute(
                f"SELECT {self._selected} FROM predictions"  # noqa: S608 - own names
                " WHERE received_at >= ? AND received_at < ? ORDER BY received_at, id",
                (start, end),
            )
        ) as cursor:
            while rows := cursor.fetchmany(ROWS_AT_ONCE):
                yield [_prediction(row) for row in rows]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def days(source: Source, since: float, until: float) -> Iterator[tuple[datetime, float, float]]:
    """Yield each UTC day with arrivals, and the part of it between `since` and `until`."""
    start = since
    while (first := source.first_arrival(start)) is not None and first < until:
        moment = datetime.fromtimestamp(first, UTC)
        day = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
        end = (day + timedelta(days=1)).timestamp()
        yield day, max(day.timestamp(), since), min(end, until)
        start = end


def _value(column: Column) -> str:
    return f"CAST({column.name} AS BLOB)" if column.is_json else column.name


def _prediction(row: Sequence[Any]) -> StoredPrediction:
    return StoredPrediction(*from_row(row))
