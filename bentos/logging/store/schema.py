"""The database's tables, derived from the message, and the migrations of older databases."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, inspect
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from bentos.logging.store.errors import StoreError
from bentos.messages import Prediction, held_type

migrations = Migrations("logging_service")

# Pages of the write-ahead log before it is copied into the database: 16 MiB. Predictions with
# random ids touch pages all over an index, and a longer log writes each of them back fewer times.
_CHECKPOINT_PAGES = 4_096
_CACHE_KIBIBYTES = 65_536


class StoredPrediction(Prediction, frozen=True, gc=False):
    """A prediction as it stands in the table `predictions`, its device and request filled in."""

    received_at: Annotated[
        float, Meta(description="When it was stored, Unix seconds of this service's clock.")
    ] = 0.0
    sent_at: (
        Annotated[
            float,
            Meta(
                description="When its batch was sent, Unix seconds of the sender's clock; null"
                " where the sender did not say, or nothing sensible."
            ),
        ]
        | None
    ) = None


class PredictionInPage(StoredPrediction, frozen=True, gc=False):
    """A prediction as a page of `/predictions` shows it."""

    id: Annotated[int, Meta(description="Counts in the order of arrival.")] = 0


@dataclass(frozen=True)
class Column:
    """A column of `predictions`: str, float, bool, or Raw for JSON, and whether it may be null."""

    name: str
    kind: type
    nullable: bool

    @property
    def is_json(self) -> bool:
        """Whether JSON stands in it."""
        return self.kind is Raw


def _columns() -> Iterator[Column]:
    for field in _fields(StoredPrediction):
        kinds = [_bare(one) for one in _members(field.type)]
        (kind,) = (one for one in kinds if not isinstance(one, inspect.NoneType))
        nullable = len(kinds) > 1 and field.name not in _FILLED_IN
        yield Column(field.name, _KINDS[type(kind)], nullable)


def _fields(kind: type) -> tuple[inspect.Field, ...]:
    described = inspect.type_info(kind)
    return described.fields if isinstance(described, inspect.StructType) else ()


def _bare(node: inspect.Type) -> inspect.Type:
    return _bare(node.type) if isinstance(node, inspect.Metadata) else node


def _members(node: inspect.Type) -> tuple[inspect.Type, ...]:
    bare = _bare(node)
    return bare.types if isinstance(bare, inspect.UnionType) else (bare,)


_KINDS: Mapping[type, type] = {
    inspect.StrType: str,
    inspect.LiteralType: str,
    inspect.FloatType: float,
    inspect.BoolType: bool,
    inspect.RawType: Raw,
}
# Optional in a message, since the batch says it for all; never missing in a row.
_FILLED_IN = ("edge_device_id",)
COLUMNS = tuple(_columns())

NAMES = ", ".join(one.name for one in COLUMNS)
# JSON is bound as bytes, without a copy as text.
INSERT = (
    f"INSERT INTO predictions ({NAMES})"  # noqa: S608 - own names
    f" VALUES ({', '.join('CAST(? AS TEXT)' if one.is_json else '?' for one in COLUMNS)})"
)
# What a device sends again when it sends a prediction again; request and trace are other ones. The
# verdict follows from the rest, and a version of this service that did not know it stored none.
CONTENT = tuple(
    field
    for field in Prediction.__struct_fields__
    if field not in ("request_id", "traceparent", "verdict")
)
_HELD = {field.name: held_type(field.type) for field in _fields(Prediction)}


def from_row(row: Sequence[Any]) -> list[Any]:
    """Return the values of a row, selected as NAMES, as they stand in a StoredPrediction."""
    return [
        column.kind(value) if column.kind in (Raw, bool) else value
        for column, value in zip(COLUMNS, row, strict=True)
    ]


def same_content(one: Prediction, other: Prediction) -> bool:
    """Return whether a device sent the same: the request, and how the JSON is written, apart."""
    return all(
        _same_json(getattr(one, name), getattr(other, name), _HELD[name])
        if _HELD[name]
        else getattr(one, name) == getattr(other, name)
        for name in CONTENT
    )


def _same_json(one: Raw, other: Raw, kind: Any) -> bool:
    if bytes(one) == bytes(other):
        return True
    try:
        # Another version of the service may have written it otherwise.
        return bool(msgspec.json.decode(one, type=kind) == msgspec.json.decode(other, type=kind))
    except msgspec.DecodeError:
        return False


# Totals of the stored predictions by these columns; `all_totals` has a single row, of id 1.
TOTALS: Mapping[str, tuple[str, ...]] = {
    "all_totals": ("id",),
    "edge_device_totals": ("edge_device_id",),
    "model_totals": ("model_name", "model_version"),
}
_TOTALS_OF: Mapping[str, tuple[type, str]] = {
    "predictions": (int, "count(*)"),
    "defects": (int, "sum(defect_detected)"),
    "inference_time_ms": (float, "sum(inference_time_ms)"),
    "first_timestamp": (float, "min(timestamp)"),
    "last_timestamp": (float, "max(timestamp)"),
}
TOTAL_COLUMNS = tuple(_TOTALS_OF)


@migrations()
def m001_predictions(database: Database) -> None:
    """Make the table of predictions, with all of today's columns."""
    database.table("predictions").create(
        {"id": int, **{column.name: _sql_kind(column) for column in COLUMNS}},
        pk="id",
        not_null={column.name for column in COLUMNS if not column.nullable},
        strict=True,
    )


@migrations()
def m002_totals(database: Database) -> None:
    """Add totals a device and a model, so that nobody has to count the rows."""
    for table in ("edge_device_totals", "model_totals"):
        _create_totals(database, table, str)
        columns = ", ".join(TOTALS[table])
        values = ", ".join(sql for _, sql in _TOTALS_OF.values())
        database.execute(
            f"INSERT INTO {table} ({columns}, {', '.join(TOTAL_COLUMNS)})"  # noqa: S608 - own names
            f" SELECT {columns}, {values} FROM predictions GROUP BY {columns}"
        )


@migrations()
def m003_pages(database: Database) -> None:
    """Add what pages of `/predictions` are read by."""
    for name, columns in (("time", "timestamp"), ("device", "edge_device_id, timestamp")):
        database.execute(f"CREATE INDEX predictions_by_{name} ON predictions ({columns})")
        database.execute(
            f"CREATE INDEX defects_by_{name} ON predictions ({columns}) WHERE defect_detected = 1"
        )


@migrations()
def m004_device_ids_and_retention(database: Database) -> None:
    """Make ids unique for a device, find the oldest arrivals, and keep a total of everything."""
    database.execute("DROP INDEX IF EXISTS predictions_by_prediction_id")
    database.execute(
        "CREATE UNIQUE INDEX predictions_by_device_and_id"
        " ON predictions (edge_device_id, prediction_id) WHERE prediction_id IS NOT NULL"
    )
    database.execute("CREATE INDEX predictions_by_arrival ON predictions (received_at)")
    _create_totals(database, "all_totals", int)
    database.execute(
        "INSERT INTO all_totals SELECT 1, sum(predictions), sum(defects), sum(inference_time_ms),"
        " min(first_timestamp), max(last_timestamp) FROM model_totals HAVING count(*) > 0"
    )


VERSION = 4


def _create_totals(database: Database, table: str, key: type) -> None:
    keys = TOTALS[table]
    database.table(table).create(
        {**dict.fromkeys(keys, key), **{name: kind for name, (kind, _) in _TOTALS_OF.items()}},
        pk=keys if len(keys) > 1 else keys[0],
        not_null={*keys, *TOTAL_COLUMNS},
        strict=True,
    )


def configure(connection: sqlite3.Connection) -> None:
    """Set a writing connection up: write-ahead log, every commit on disk before it returns.

    A new database can give free pages back to the file system (`PRAGMA incremental_vacuum`). One
    that was made without this uses them again, but its file keeps its size.
    """
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
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
            "schema", f"the schema is version {version}; this service knows up to {VERSION}"
        )
    connection.execute("BEGIN IMMEDIATE")
    try:
        migrations.apply(database)
        _add_columns(database)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _add_columns(database: Database) -> None:
    """Add the columns of fields that the message did not have when the table was made."""
    table = database.table("predictions")
    present = set(table.columns_dict)
    for column in COLUMNS:
        if column.name not in present:
            table.add_column(column.name, _sql_kind(column))


def _sql_kind(column: Column) -> type:
    """Return a column's SQLite type, as a Python type."""
    return {Raw: str, bool: int}.get(column.kind, column.kind)
