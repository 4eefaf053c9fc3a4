"""Predictions in PostgreSQL: for several replicas of the service, and more than one file.

One connection writes, a pool of two reads. The writing one is used for nothing else: its staging
table and the shard that its totals go to live as long as its session, so a pooler between the
service and PostgreSQL has to be in session mode.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import psycopg
from msgspec.structs import astuple
from psycopg import sql

from bentos.logging.store.database import (
    Changes,
    Groups,
    Key,
    Outcome,
    Retention,
    Sizes,
    Totals,
    adding_statement,
    asked_keys,
    sort_batches,
    totals_by_table,
)
from bentos.logging.store.errors import StoreError
from bentos.logging.store.postgres_connection import (
    PostgresReader,
    classify,
    connect,
    describe,
    is_of_a_row,
    milliseconds,
    password,
    to_psycopg,
)
from bentos.logging.store.postgres_schema import (
    LOCKS,
    PRUNE_LOCK,
    add_partition,
    column_type,
    migrate,
    month_of,
    partition_name,
    partitions,
)
from bentos.logging.store.schema import COLUMNS, NAMES, TOTALS, StoredPrediction, from_row

_COPY = f"COPY staging ({NAMES}) FROM STDIN (FORMAT BINARY)".encode()
_COPY_TYPES = [column_type(one).partition(" COLLATE")[0] for one in COLUMNS]
# Ids first, in the order of the index: replicas that store the same ones wait for each other
# instead of ending in a deadlock. Only where all of them are new are the rows stored.
_INSERT = (
    "WITH ids AS (INSERT INTO prediction_ids (edge_device_id, prediction_id, received_at, id)"  # noqa: S608
    " SELECT edge_device_id, prediction_id, received_at, id FROM staging"
    " WHERE prediction_id IS NOT NULL ORDER BY edge_device_id, prediction_id"
    " ON CONFLICT DO NOTHING RETURNING id)"
    f" INSERT INTO predictions (id, {NAMES}) SELECT id, {NAMES} FROM staging"
    " WHERE (SELECT count(*) FROM ids) = %s"
).encode()
# What duplicates were found to be may be committed and not yet on the standby's disk: a commit that
# writes something waits for all before it.
_WAIT_FOR_EARLIER = b"SELECT pg_logical_emit_message(true, 'logging-service', '')"
_UNDO = (
    b"DELETE FROM prediction_ids AS ids USING staging"
    b" WHERE ids.edge_device_id = staging.edge_device_id"
    b" AND ids.prediction_id = staging.prediction_id AND ids.id = staging.id"
)
_NAMELESS = f"SELECT {NAMES} FROM predictions WHERE prediction_id IS NULL".encode()  # noqa: S608
_TRANSFERRED = (
    b"INSERT INTO transfers (source, last_id) VALUES (%s, %s)"
    b" ON CONFLICT (source) DO UPDATE SET last_id = excluded.last_id"
)
_ASKED = "unnest(%s::text[], %s::text[]) AS asked (device, prediction)"
_OF_ASKED = "ids.edge_device_id = asked.device AND ids.prediction_id = asked.prediction"
# An id whose prediction was deleted by hand, or with its partition, is free again.
_FREE = (
    f"DELETE FROM prediction_ids AS ids USING {_ASKED}"  # noqa: S608 - own names
    f" WHERE {_OF_ASKED} AND NOT EXISTS"
    " (SELECT FROM predictions AS kept"
    " WHERE kept.received_at = ids.received_at AND kept.id = ids.id)"
).encode()
_FIND = (
    f"SELECT {', '.join(f'found.{one.name}' for one in COLUMNS)} FROM {_ASKED}"  # noqa: S608 - own names
    f" JOIN prediction_ids AS ids ON {_OF_ASKED}"
    " JOIN predictions AS found ON found.received_at = ids.received_at AND found.id = ids.id"
).encode()
_DELETE = (
    b"WITH old AS MATERIALIZED (SELECT received_at, id FROM predictions WHERE received_at < %s"
    b" ORDER BY received_at, id LIMIT %s), gone AS (DELETE FROM predictions USING old"
    b" WHERE predictions.received_at = old.received_at AND predictions.id = old.id"
    b" RETURNING predictions.*), ids AS (DELETE FROM prediction_ids USING gone"
    b" WHERE prediction_ids.edge_device_id = gone.edge_device_id"
    b" AND prediction_ids.prediction_id = gone.prediction_id)"
    b" SELECT edge_device_id, model_name, model_version, count(*),"
    b" count(*) FILTER (WHERE defect_detected), sum(inference_time_ms)"
    b" FROM gone GROUP BY 1, 2, 3"
)
_PRUNE_ROWS = 500
# How often a transaction is tried anew: each time, another replica has stored a part of it.
_ATTEMPTS = 50
# Shards of the totals, one for each writer that is connected; beyond, writers share them.
_SHARDS = 64
# A month's partition is made so long before it begins.
_AHEAD_SECONDS = 7 * 86_400.0
_NO_PARTITION = "23514"


class PostgresDatabase:
    """The PostgreSQL database at a URL, or another form that libpq takes.

    Where the connection breaks during a commit, what it brought may yet be stored: a sender that
    sends its batch again then gets duplicates.
    """

    _connection: psycopg.Connection

    def __init__(self, url: str, *, busy_timeout_seconds: float) -> None:
        self.name = describe(url)
        self.is_open = False
        self._url = url
        self._busy_timeout_seconds = busy_timeout_seconds
        self._secret = password(url)
        self._proved_at = 0.0
        self._size = 0
        self._deleted = False
        self._months: set[datetime] = set()

    def open(self) -> None:
        """Connect, the schema brought up to date where that is needed; raises StoreError."""
        self._months.clear()
        with self._failures():
            self._connection = connect(self._url, target_session_attrs="read-write")
        try:
            with self._failures():
                self._set_up()
        except BaseException:
            self._connection.close()
            raise
        self.is_open = True

    def write(
        self,
        batches: Sequence[Sequence[StoredPrediction]],
        *,
        transferred: tuple[str, int] | None = None,
    ) -> list[Outcome]:
        """Store batches in one transaction; see `Database.write`.

        Returns only after the commit is on the server's disk, and on that of its synchronous
        standby where it has one. `transferred` is a source, and how far these batches bring its
        transfer.
        """
        known: dict[Key, StoredPrediction] = {}
        with self._failures():
            for _ in range(_ATTEMPTS):
                outcomes, changes = sort_batches(batches, known.get)
                try:
                    if self._insert(changes, transferred):
                        self._proved_at = time.monotonic()
                        return outcomes
                    known = self.find([row for rows in batches for row in rows])
                except psycopg.errors.CheckViolation as error:
                    # Another replica has dropped a month's partition that was known here.
                    if error.sqlstate != _NO_PARTITION or not self._months:
                        raise
                    self._months.clear()
        raise StoreError("busy", "other replicas go on storing the same predictions")

    def check(self, *, proof_seconds: float) -> None:
        """Read; write something after `proof_seconds` without a commit."""
        with self._failures():
            self._connection.execute(b"SELECT id FROM predictions LIMIT 1").fetchone()
            if time.monotonic() - self._proved_at < proof_seconds:
                return
            now = time.time()
            self._require_partitions([now, now + _AHEAD_SECONDS])
            self._connection.execute(
                b"INSERT INTO writers (shard, seen_at) VALUES (%s, now())"
                b" ON CONFLICT (shard) DO UPDATE SET seen_at = excluded.seen_at",
                (self._shard,),
            )
            self._size = self._number(b"SELECT pg_database_size(current_database())")
        self._proved_at = time.monotonic()

    def transferred(self, source: str) -> int:
        """Return how far a source was transferred: the number of its last row, 0 for none."""
        with self._failures():
            row = self._connection.execute(
                b"SELECT last_id FROM transfers WHERE source = %s", (source,)
            ).fetchone()
        return int(row[0]) if row else 0

    def nameless(self) -> Iterator[StoredPrediction]:
        """Yield the predictions that have no id."""
        with (
            self._failures(),
            self._connection.transaction(),
            self._connection.cursor(name="nameless") as cursor,
        ):
            cursor.execute(_NAMELESS)
            for row in cursor:
                yield StoredPrediction(*from_row(row))

    def retain(self, retention: Retention) -> Iterator[int]:
        """Delete what need not be kept, and drop emptied partitions; see `Database.retain`."""
        if retention.days is None:
            return
        expired = time.time() - retention.days * 86_400
        while deleted := self._prune(expired):
            yield deleted
        while self._drop_emptied(expired):
            yield 0

    def abandon(self, _failure: StoreError) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self.is_open:
            self._connection.close()
        self.is_open = False

    def reader(
        self, *, timeout_seconds: float, on_failure: Callable[[StoreError], None]
    ) -> PostgresReader:
        """Return what answers questions."""
        return PostgresReader(self._url, timeout_seconds=timeout_seconds, on_failure=on_failure)

    def sizes(self) -> Sizes:
        """Return the size of the database as the last check found it; disks are the server's."""
        return Sizes(database=self._size)

    def _prune(self, expired: float) -> int:
        """Delete the oldest of what has expired in one short transaction; return how many rows.

        It is 0 where there is nothing to delete, or where another replica is at it.
        """
        groups: Groups = {}
        deleted = 0
        with self._failures(), self._connection.transaction():
            if not self._locked_alone():
                return 0
            for device, model, version, count, defects, milliseconds in self._connection.execute(
                _DELETE, (expired, _PRUNE_ROWS)
            ):
                groups[device, model, version] = Totals(-count, -defects, -milliseconds)
                deleted += count
            self._add_to_totals(groups)
        self._deleted = self._deleted or deleted > 0
        return deleted

    def _drop_emptied(self, expired: float) -> bool:
        """Drop a partition that retention has emptied; return whether it did."""
        try:
            with self._failures(), self._connection.transaction():
                # Whoever writes waits behind what waits for a lock here.
                self._connection.execute(b"SET LOCAL lock_timeout = '200ms'")
                return self._drop_oldest(expired)
        except StoreError as failure:
            if failure.reason == "busy":
                return False  # the next round tries again
            raise

    def _drop_oldest(self, expired: float) -> bool:
        if not self._locked_alone():
            return False
        if self._deleted:
            self._forget_emptied()
            self._deleted = False
        oldest = next(iter(partitions(self._connection)), None)
        if oldest is None or expired <= 0 or oldest >= partition_name(month_of(expired)):
            return False
        table = sql.Identifier(oldest)
        self._connection.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(table))
        # With a column: a row without any is an empty tuple, as false as no row.
        if self._connection.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(table)).fetchone():
            return False
        self._connection.execute(sql.SQL("DROP TABLE {}").format(table))
        self._months.clear()
        return True

    def _set_up(self) -> None:
        execute = self._connection.execute
        # What another replica has committed is seen by the next statement; `write` relies on it.
        self._connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        # A transaction that a dead network has left open holds its locks no longer than that.
        # There is no statement_timeout: it would end the wait for a synchronous standby, and the
        # commit would look as if it were on the standby's disk too.
        execute(b"SET idle_in_transaction_session_timeout = '10s'")
        execute(
            b"SELECT set_config('lock_timeout', %s, false)",
            (milliseconds(self._busy_timeout_seconds),),
        )
        # What is acknowledged is on disk, whatever the database's or the role's setting is.
        execute(
            b"SELECT set_config('synchronous_commit', 'on', false)"
            b" WHERE current_setting('synchronous_commit') = 'off'"
        )
        migrate(self._connection)
        columns = ", ".join(f"{one.name} {column_type(one)}" for one in COLUMNS)
        execute(
            "CREATE TEMP TABLE staging (id bigint NOT NULL DEFAULT nextval('prediction_numbers'),"
            f" {columns}) ON COMMIT DELETE ROWS".encode()
        )
        self._shard = self._take_shard()
        self.check(proof_seconds=0.0)

    def _take_shard(self) -> int:
        """Return a shard that no other session has, held until this one ends."""
        for shard in range(_SHARDS):
            row = self._connection.execute(
                b"SELECT pg_try_advisory_lock(%s, %s)", (LOCKS, shard)
            ).fetchone()
            if row == (True,):
                return shard
        return self._connection.info.backend_pid % _SHARDS

    def _insert(self, changes: Changes, transferred: tuple[str, int] | None) -> bool:
        """Store rows, all or none; return whether it did, which it does not where one is there."""
        self._require_partitions([row.received_at for row in changes.rows])
        with self._connection.transaction(), self._connection.cursor() as cursor:
            if not changes.rows:
                cursor.execute(_WAIT_FOR_EARLIER)
            elif not self._copy(cursor, changes.rows):
                # Not rolled back: psycopg would forget all prepared statements, and plan anew.
                cursor.execute(b"SET LOCAL synchronous_commit = off")
                cursor.execute(_UNDO)
                return False
            self._add_to_totals(changes.groups)
            if transferred is not None:
                cursor.execute(_TRANSFERRED, transferred)
            return True

    def _copy(self, cursor: psycopg.Cursor, rows: Sequence[StoredPrediction]) -> bool:
        with cursor.copy(_COPY) as copy:
            copy.set_types(_COPY_TYPES)
            for row in rows:
                copy.write_row(astuple(row))
        named = sum(row.prediction_id is not None for row in rows)
        return cursor.execute(_INSERT, (named,)).rowcount == len(rows)

    def find(self, rows: Sequence[StoredPrediction]) -> dict[Key, StoredPrediction]:
        """Return what is stored under the ids of predictions."""
        asked = asked_keys(rows)
        keys = ([device for device, _ in asked], [prediction for _, prediction in asked])
        self._connection.execute(_FREE, keys)
        found = (StoredPrediction(*from_row(row)) for row in self._connection.execute(_FIND, keys))
        return {(one.edge_device_id or "", one.prediction_id or ""): one for one in found}

    def _add_to_totals(self, groups: Groups) -> None:
        with self._connection.pipeline():
            for table, keys, changes in totals_by_table(groups):
                statement = to_psycopg(adding_statement(table, (*keys, "shard")))
                # Always in the same order, or two writers that share a shard would lock each other
                # out.
                for key, totals in sorted(changes.items(), key=lambda item: repr(item[0])):
                    self._connection.execute(statement, (*key, self._shard, *astuple(totals)))

    def _forget_emptied(self) -> None:
        """Delete the totals of devices and models of which retention has left nothing."""
        for table, keys in TOTALS.items():
            columns = ", ".join(keys)
            # Writers wait meanwhile, or what one of them is adding would be deleted with it.
            self._connection.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE".encode())
            self._connection.execute(
                f"DELETE FROM {table} WHERE ({columns}) IN (SELECT {columns} FROM {table}"  # noqa: S608
                f" GROUP BY {columns} HAVING sum(predictions) <= 0)".encode()
            )

    def _require_partitions(self, moments: Sequence[float]) -> None:
        for month in {month_of(moment) for moment in moments} - self._months:
            add_partition(self._connection, month)
            self._months.add(month)

    def _locked_alone(self) -> bool:
        """Return whether this replica is the one that deletes, until its transaction ends."""
        row = self._connection.execute(
            b"SELECT pg_try_advisory_xact_lock(%s, %s)", (LOCKS, PRUNE_LOCK)
        ).fetchone()
        return row == (True,)

    def _number(self, query: bytes) -> int:
        row = self._connection.execute(query).fetchone()
        return int(row[0]) if row else 0

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            if is_of_a_row(error):
                raise
            raise classify(error, self._secret) from error
