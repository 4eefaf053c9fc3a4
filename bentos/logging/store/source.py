"""Reads a whole store as a stream, a few thousand predictions at a time, while it is written to."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from sqlite3 import OperationalError

from bentos.logging.store.queries import Row, Session
from bentos.logging.store.schema import COLUMNS, NAMES, StoredPrediction, from_row
from bentos.logging.store.sqlite import SqliteSession, connect_to_read

_ROWS_AT_ONCE = 2_000
_BUSY_SECONDS = 10.0


class Source:
    """All predictions of a store. `selected` are the columns of a row, all of them in order."""

    def __init__(self, session: Session, selected: str = NAMES) -> None:
        self._session = session
        self._selected = selected

    def after(self, row_id: int) -> tuple[int, list[StoredPrediction]]:
        """Return the next predictions by the order of their numbers, and the last number."""
        rows = self._session.fetch(
            f"SELECT id, {self._selected} FROM predictions WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608
            *(row_id, _ROWS_AT_ONCE),
        )
        return (rows[-1][0] if rows else row_id), [_prediction(row[1:]) for row in rows]

    def count(self, after: int = 0) -> int:
        """Return how many predictions there are after a number."""
        ((found,),) = self._session.fetch("SELECT count(*) FROM predictions WHERE id > ?", after)
        return int(found)

    def first_arrival(self, since: float) -> float | None:
        """Return when the first prediction from `since` on arrived, None for none."""
        ((found,),) = self._session.fetch(
            "SELECT min(received_at) FROM predictions WHERE received_at >= ?", since
        )
        return found if found is None else float(found)

    def arrived(self, start: float, end: float) -> Iterator[list[StoredPrediction]]:
        """Yield what arrived from `start` to before `end`, in the order of arrival."""
        query = (
            f"SELECT {self._selected} FROM predictions"  # noqa: S608 - own names
            " WHERE received_at >= ? AND received_at < ? ORDER BY received_at, id"
        )
        with self._session.stream(query, start, end, portion=_ROWS_AT_ONCE) as rows:
            predictions = map(_prediction, rows)
            while portion := list(islice(predictions, _ROWS_AT_ONCE)):
                yield portion

    def days(self, since: float, until: float) -> Iterator[tuple[datetime, float, float]]:
        """Yield each UTC day with arrivals, and the part of it between `since` and `until`."""
        start = since
        while (first := self.first_arrival(start)) is not None and first < until:
            moment = datetime.fromtimestamp(first, UTC)
            day = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
            end = (day + timedelta(days=1)).timestamp()
            yield day, max(day.timestamp(), since), min(end, until)
            start = end


@contextlib.contextmanager
def sqlite_source(path: Path) -> Iterator[Source]:
    """Read an SQLite database for the block; a service may be writing to it.

    Raises sqlite3.Error where it cannot be read.
    """
    with contextlib.closing(connect_to_read(path, busy_timeout_seconds=_BUSY_SECONDS)) as found:
        # An older database lacks the fields that the message got since.
        present = {row[1] for row in found.execute("PRAGMA table_info(predictions)")}
        if not present:
            raise OperationalError(f"{path} has no table of predictions")
        selected = (one.name if one.name in present else "NULL" for one in COLUMNS)
        yield Source(SqliteSession(found), ", ".join(selected))


def _prediction(row: Row) -> StoredPrediction:
    return StoredPrediction(*from_row(row))
