"""The tables in PostgreSQL, derived from the message, and the migrations of older databases.

`predictions` has a partition for each month of arrival (`received_at`, the service's clock): a
sender whose clock is wrong makes no partition, and retention drops whole ones. That a device's id
is stored once is held by `prediction_ids`, since a unique index of a partitioned table reaches only
as far as a partition. Each writer that is connected adds to rows of totals of its own, its
`shard`: on shared rows each transaction would wait for the commit of the one before.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

from msgspec import Raw
from psycopg import Connection, sql

from bentos.logging.store.errors import StoreError
from bentos.logging.store.schema import COLUMNS, TOTALS, Column

# Any number that no other application uses on this database: what advisory locks are named by.
LOCKS = 0x70726564
MIGRATION_LOCK, PRUNE_LOCK, PARTITION_LOCK = 1_000_001, 1_000_002, 1_000_003

_TEXT = 'text COLLATE "C"'
# JSON is kept as the text that it came as.
_KINDS: Mapping[type, str] = {
    str: _TEXT,
    float: "double precision",
    bool: "boolean",
    Raw: "json",
}
_Migration: TypeAlias = Callable[[Connection], None]


def column_type(column: Column) -> str:
    """Return the type of a column."""
    return _KINDS[column.kind]


def partition_name(month: datetime) -> str:
    """Return the name of a month's partition."""
    return f"predictions_{month:%Y_%m}"


def month_of(received_at: float) -> datetime:
    """Return the first moment of the month of some Unix seconds."""
    moment = datetime.fromtimestamp(received_at, UTC)
    return datetime(moment.year, moment.month, 1, tzinfo=UTC)


def month_after(month: datetime) -> datetime:
    """Return the first moment of the month after."""
    years, months = divmod(month.month, 12)
    return datetime(month.year + years, months + 1, 1, tzinfo=UTC)


def add_partition(connection: Connection, month: datetime) -> None:
    """Add a month's partition where it is not there; readers and writers go on meanwhile."""
    name = partition_name(month)
    first, after = month.timestamp(), month_after(month).timestamp()
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, PARTITION_LOCK))
        if connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() != (None,):
            return
        # To create it as a partition at once would lock out everybody; to attach it does not.
        connection.execute(
            sql.SQL("CREATE TABLE {} (LIKE predictions INCLUDING DEFAULTS)").format(
                sql.Identifier(name)
            )
        )
        connection.execute(
            sql.SQL(
                "ALTER TABLE predictions ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})"
            ).format(sql.Identifier(name), sql.Literal(first), sql.Literal(after))
        )


def partitions(connection: Connection) -> list[str]:
    """Return the names of the partitions that are there, oldest first."""
    rows = connection.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = 'predictions'::regclass ORDER BY 1"
    )
    return [name for (name,) in rows]


def migrate(connection: Connection) -> None:
    """Bring the schema up to date in one transaction, which also proves that writing works.

    Raises StoreError for a database that a newer version of the service has made, or that cannot
    hold every text.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreError(
            "other",
            f"the database's encoding is {encoding}, which cannot hold every text; create it with"
            " ENCODING 'UTF8' TEMPLATE template0",
        )
    with connection.transaction():
        # Replicas that start together come here one after the other.
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, MIGRATION_LOCK))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (version integer PRIMARY KEY,"
            " applied_at timestamptz NOT NULL DEFAULT now())"
        )
        (version,) = connection.execute(
            "SELECT coalesce(max(version), 0) FROM schema_migrations"
        ).fetchone() or (0,)
        if version > len(_MIGRATIONS):
            raise StoreError(
                "schema",
                f"the schema is version {version}; this service knows up to {len(_MIGRATIONS)}",
            )
        for number, step in enumerate(_MIGRATIONS[version:], start=version + 1):
            step(connection)
            connection.execute("INSERT INTO schema_migrations (version) VALUES (%s)", (number,))
        _add_columns(connection)


def _predictions(connection: Connection) -> None:
    columns = "".join(
        f", {one.name} {column_type(one)}{'' if one.nullable else ' NOT NULL'}" for one in COLUMNS
    )
    _run(
        connection,
        "CREATE SEQUENCE prediction_numbers",
        "CREATE TABLE predictions (id bigint NOT NULL DEFAULT nextval('prediction_numbers')"
        f"{columns}, PRIMARY KEY (received_at, id)) PARTITION BY RANGE (received_at)",
        "CREATE INDEX predictions_by_time ON predictions (timestamp, id)",
        "CREATE INDEX predictions_by_device ON predictions (edge_device_id, timestamp, id)",
        "CREATE INDEX defects_by_time ON predictions (timestamp, id) WHERE defect_detected",
        "CREATE INDEX defects_by_device ON predictions (edge_device_id, timestamp, id)"
        " WHERE defect_detected",
        'CREATE TABLE prediction_ids (edge_device_id text COLLATE "C" NOT NULL,'
        ' prediction_id text COLLATE "C" NOT NULL, received_at double precision NOT NULL,'
        " id bigint NOT NULL, PRIMARY KEY (edge_device_id, prediction_id))",
    )


def _totals(connection: Connection) -> None:
    for table, keys in TOTALS.items():
        kinds = "".join(f"{key} {'integer' if key == 'id' else _TEXT}, " for key in keys)
        _run(
            connection,
            f"CREATE TABLE {table} ({kinds}shard integer, predictions bigint NOT NULL,"
            " defects bigint NOT NULL, inference_time_ms double precision NOT NULL,"
            " first_timestamp double precision NOT NULL, last_timestamp double precision NOT NULL,"
            # Room in each page for new versions of its rows, which are updated all the time.
            f" PRIMARY KEY ({', '.join(keys)}, shard)) WITH (fillfactor = 50)",
        )
    _run(
        connection,
        "CREATE TABLE writers (shard integer PRIMARY KEY, seen_at timestamptz NOT NULL)",
    )


def _transfers(connection: Connection) -> None:
    _run(connection, "CREATE TABLE transfers (source text PRIMARY KEY, last_id bigint NOT NULL)")


_MIGRATIONS: Sequence[_Migration] = (_predictions, _totals, _transfers)


def _add_columns(connection: Connection) -> None:
    """Add the columns of fields that the message did not have when the table was made."""
    present = {
        name
        for (name,) in connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'predictions'::regclass"
        )
    }
    for column in COLUMNS:
        if column.name not in present:
            _run(
                connection,
                f"ALTER TABLE predictions ADD COLUMN {column.name} {column_type(column)}",
            )


def _run(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(statement.encode())
