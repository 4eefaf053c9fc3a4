"""The store of predictions: everything that knows SQL, behind the class `Store`.

What differs between the databases lies behind the protocol of `database`, which has the rules of
duplicates, conflicts and totals as well: `sqlite`, the default, and `postgres`, which alone imports
psycopg and is imported only where `DATABASE_URL` is set. Of the other modules `store` puts waiting
batches into transactions, `reader` runs what `queries` asks, `schema` has the columns, and `files`
watches that the file of an SQLite database is not deleted, replaced or damaged.
"""

from pathlib import Path

from bentos.logging.settings import LoggingSettings
from bentos.logging.store.database import Database, Retention, Stored
from bentos.logging.store.errors import StoreError
from bentos.logging.store.queries import PageQuery, StatsQuery
from bentos.logging.store.schema import StoredPrediction
from bentos.logging.store.sqlite import SqliteDatabase
from bentos.logging.store.store import Store

__all__ = [
    "PageQuery",
    "Retention",
    "StatsQuery",
    "Store",
    "StoreError",
    "Stored",
    "StoredPrediction",
    "make_database",
]


def make_database(settings: LoggingSettings, lock_directory: Path | None = None) -> Database:
    """Return the database that the settings name, to be opened.

    `lock_directory` is where the workers of a pod lock one another out, None for a single worker;
    PostgreSQL needs none.
    """
    timeout = settings.busy_timeout_seconds
    if settings.database_url is None:
        path = settings.database_path
        return SqliteDatabase(path, busy_timeout_seconds=timeout, lock_directory=lock_directory)
    from bentos.logging.store.postgres import PostgresDatabase

    url = settings.database_url.get_secret_value()
    return PostgresDatabase(url, busy_timeout_seconds=timeout)
