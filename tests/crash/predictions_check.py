"""Whether the predictions database keeps its promises after a power cut."""

import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from bentos.logging.store.errors import StoreError
from bentos.logging.store.sqlite import SqliteDatabase
from tests.crash.predictions_workload import DATABASE


def broken_promise(directory: Path, said: Iterable[str]) -> str | None:
    """Return what is wrong with the database of a directory, None where nothing is.

    What was answered is stored, once.
    """
    path = directory / DATABASE
    database = SqliteDatabase(path, busy_timeout_seconds=5.0)
    try:
        database.open()
    except StoreError as failure:
        return f"it does not open: {failure.message}"
    try:
        with closing(sqlite3.connect(path)) as connection:
            check = connection.execute("PRAGMA integrity_check").fetchall()
            ids = [one[0] for one in connection.execute("SELECT prediction_id FROM predictions")]
    except sqlite3.Error as error:
        return f"it cannot be read: {error}"
    finally:
        database.close()
    if check != [("ok",)]:
        return f"integrity_check: {check}"
    twice = [one for one, count in Counter(ids).items() if count > 1]
    if twice:
        return f"stored twice: {twice[:3]}"
    answered = {line.removeprefix("answered ") for line in said if line.startswith("answered ")}
    lost = answered - set(ids)
    return f"answered and lost: {sorted(lost)[:3]}" if lost else None
