"""The database's tables, and the migrations that bring an older database up to date."""

import sqlite3
from typing import NamedTuple

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from bentos.logging.failures import StoreError

migrations = Migrations("logging_service")

# Pages of the write-ahead log before it is copied into the database: 16 MiB. Predictions with
# random ids touch pages all over an index, and a longer log writes each of them back fewer times.
_CHECKPOINT_PAGES = 4_096
_CACHE_KIBIBYTES = 65_536


class PredictionRow(NamedTuple):
    """One prediction as it stands in the table `predictions`; detections and scores as JSON."""

    prediction_id: str | None
    image_id: str
    timestamp: float
    received_at: float
    sent_at: float | None
    edge_device_id: str
    model_name: str
    model_version: str
    inference_time_ms: float
    defect_detected: bool
    detections: str
    confidence_scores: str
    processing_notes: str | None
    request_id: str | None


@migrations()
def m001_predictions(database: Database) -> None:
    """Make the table of predictions, each id once."""
    database.table("predictions").create(
        {
            "id": int,
            "prediction_id": str,
            "image_id": str,
            "timestamp": float,
            "received_at": float,
            "edge_device_id": str,
            "model_name": str,
            "model_version": str,
            "inference_time_ms": float,
            "defect_detected": int,
            "detections": str,
            "confidence_scores": str,
            "processing_notes": str,
        },
        pk="id",
        not_null={
            "image_id",
            "timestamp",
            "received_at",
            "edge_device_id",
            "model_name",
            "model_version",
            "inference_time_ms",
            "defect_detected",
            "detections",
            "confidence_scores",
        },
        strict=True,
    )
    database.execute(
        "CREATE UNIQUE INDEX predictions_by_prediction_id ON predictions (prediction_id)"
        " WHERE prediction_id IS NOT NULL"
    )


@migrations()
def m002_totals(database: Database) -> None:
    """Add totals a device and a model, so that nobody has to count the rows."""
    totals = {
        "predictions": int,
        "defects": int,
        "inference_time_ms": float,
        "first_timestamp": float,
        "last_timestamp": float,
    }
    groups = {
        "edge_device_totals": ("edge_device_id",),
        "model_totals": ("model_name", "model_version"),
    }
    for table, keys in groups.items():
        database.table(table).create(
            {**dict.fromkeys(keys, str), **totals},
            pk=keys if len(keys) > 1 else keys[0],
            not_null={*keys, *totals},
            strict=True,
        )
        columns = ", ".join(keys)
        database.execute(
            f"INSERT INTO {table} ({columns}, {', '.join(totals)})"  # noqa: S608 - own names
            f" SELECT {columns}, count(*), sum(defect_detected), sum(inference_time_ms),"
            " min(timestamp), max(timestamp)"
            f" FROM predictions GROUP BY {columns}"
        )


@migrations()
def m003_pages(database: Database) -> None:
    """Add what pages of `/predictions` are read by, and where a prediction came from."""
    predictions = database.table("predictions")
    predictions.add_column("sent_at", float)
    predictions.add_column("request_id", str)
    for name, columns in (("time", "timestamp"), ("device", "edge_device_id, timestamp")):
        database.execute(f"CREATE INDEX predictions_by_{name} ON predictions ({columns})")
        database.execute(
            f"CREATE INDEX defects_by_{name} ON predictions ({columns}) WHERE defect_detected = 1"
        )


VERSION = 3


def configure(connection: sqlite3.Connection) -> None:
    """Set a writing connection up: write-ahead log, every commit on disk before it returns."""
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError("other", f"the file system allows no write-ahead log, only {mode}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}")
    connection.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT_PAGES * 4_096 * 4}")


def migrate(database: Database) -> None:
    """Bring the schema up to date in one transaction, which also proves that writing works.

    Raises StoreError for a database that a newer version of the service has made.
    """
    connection = database.conn
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise StoreError(
            "other", f"the schema is version {version}; this service knows up to {VERSION}"
        )
    connection.execute("BEGIN IMMEDIATE")
    try:
        migrations.apply(database)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
