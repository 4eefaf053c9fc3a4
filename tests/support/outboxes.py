"""An outbox's file, read from outside while a service may be using it."""

import sqlite3
from contextlib import closing
from pathlib import Path


def rows_in(path: Path) -> int | None:
    """Return how many predictions wait in the file; None where it cannot be read just now."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM outbox").fetchone()[0])
    except sqlite3.OperationalError:
        return None
