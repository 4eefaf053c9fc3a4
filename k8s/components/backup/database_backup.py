"""Copies databases while they are written to, and puts a copy back.

A copy is called by its database: `review-20260101T021700.000000Z.db` is one of `review.db`. A
backup counts only once it was restored: each new copy is restored beside the others, and the result
checked and counted, before it gets its name. Runs in the logging service's image with nothing but
Python's standard library. Each command prints one JSON object a line and ends with status 0; a
refusal prints its reason and ends with 1.
"""

import argparse
import json
import os
import sqlite3
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

SUFFIX = ".db"
LATEST = "latest"
_SIDE_FILES = ("-wal", "-shm", "-journal")


class BackupError(Exception):
    """A backup or a restore that did not happen; the message says why."""


def report(message: str, **fields: object) -> None:
    """Print one log line."""
    print(json.dumps({"message": message, **fields}), flush=True)


def prefix_of(database: Path) -> str:
    """Return what the names of a database's copies begin with."""
    return f"{database.stem}-"


def copies(database: Path, backups: Path) -> list[Path]:
    """Return the finished copies of a database, oldest first: their names sort by time."""
    return sorted(backups.glob(f"{prefix_of(database)}*{SUFFIX}"))


def made_at(database: Path, copy: Path) -> datetime:
    """Return when a copy was made, UTC, from its name."""
    stamp = copy.name.removeprefix(prefix_of(database)).removesuffix(SUFFIX)
    return datetime.strptime(stamp, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)


def backup(database: Path, backups: Path, *, keep: int) -> tuple[Path, dict[str, int]]:
    """Copy the database as it stands at one moment, restore the copy, keep the `keep` newest.

    Returns the copy and the rows of each table in it. Needs space for `keep` copies and two more.
    Raises BackupError where there is no database, or the copy or what is restored from it is
    damaged or has other rows than the database; then the copy is deleted and the older ones stay.
    """
    if not database.is_file():
        raise BackupError(f"there is no database {database}")
    prefix = prefix_of(database)
    for leftover in backups.glob(f"{prefix}*.partial*"):
        leftover.unlink()
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    partial = backups / f"{prefix}{stamp}.partial"
    restored = backups / f"{prefix}{stamp}.partial-restored"
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as source:
            # What is counted and what is copied is the same read transaction: in WAL mode it
            # holds up no writer.
            source.isolation_level = None
            source.execute("BEGIN")
            expected = count_rows(source)
            copy_database(source, partial)
        require_sound(partial)
        with closing(connect_to_copy(partial)) as copy:
            copy_database(copy, restored)
        require_sound(restored)
        with closing(connect_to_copy(restored)) as copy:
            found = count_rows(copy)
            require_true_totals(copy)
        if found != expected:
            raise BackupError(f"restored from {partial.name}: {found} rows instead of {expected}")
        flush(partial)
        finished = partial.with_suffix(SUFFIX)
        partial.rename(finished)
        flush(backups)
    finally:
        for path in (partial, restored):
            path.unlink(missing_ok=True)
    for old in copies(database, backups)[:-keep]:
        old.unlink()
        report("removed an old backup", file=old.name)
    return finished, found


def restore(database: Path, backups: Path, *, name: str) -> tuple[Path | None, dict[str, int]]:
    """Put a copy in the database's place.

    Returns where the former database went, None where there was none, and the restored rows.
    Raises BackupError, having changed nothing, where there is no such copy, the copy or what is
    restored from it is damaged, or a process has the database open.
    """
    known = copies(database, backups)
    found = known if name == LATEST else [backups / Path(name).name]
    if not found or not found[-1].is_file():
        raise BackupError(f"no backup '{name}' in {backups}: {[path.name for path in known]}")
    chosen = found[-1]
    require_sound(chosen)
    incoming = database.with_name(f"{database.name}.incoming")
    incoming.unlink(missing_ok=True)
    with closing(connect_to_copy(chosen)) as source:
        expected = count_rows(source)
        copy_database(source, incoming)
    require_sound(incoming)
    with closing(connect_to_copy(incoming)) as copy:
        rows = count_rows(copy)
    if rows != expected:
        raise BackupError(f"restored from {chosen.name}: {rows} rows instead of {expected}")
    flush(incoming)
    former = set_aside(database)
    incoming.rename(database)
    flush(database.parent)
    return former, rows


def connect_to_copy(copy: Path) -> sqlite3.Connection:
    """Open a file that no process writes to, for reading; no side file is made beside it."""
    return sqlite3.connect(f"{copy.as_uri()}?mode=ro&immutable=1", uri=True)


def copy_database(source: sqlite3.Connection, target: Path) -> None:
    """Copy a database into one file of its own, in one step.

    A copy in several steps would begin anew after each commit of another process.
    """
    with closing(sqlite3.connect(target)) as copy:
        source.backup(copy, pages=-1)
        # One file: without a write-ahead log it needs no side files to be read.
        copy.execute("PRAGMA journal_mode=DELETE")


def require_sound(database: Path) -> None:
    """Raise BackupError where SQLite finds a copy damaged."""
    try:
        with closing(connect_to_copy(database)) as db:
            verdict = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        verdict = str(error)
    if verdict != "ok":
        raise BackupError(f"{database} is damaged: {verdict}")


def count_rows(db: sqlite3.Connection) -> dict[str, int]:
    """Return how many rows each table has."""
    tables = db.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    return {
        name: db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608
        for (name,) in tables
    }


def require_true_totals(db: sqlite3.Connection) -> None:
    """Raise BackupError where the totals that `/stats` shows are not those of the predictions."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'all_totals'").fetchone():
        return
    totals = db.execute("SELECT total(predictions), total(defects) FROM all_totals").fetchone()
    counted = db.execute("SELECT count(*), total(defect_detected) FROM predictions").fetchone()
    if totals != counted:
        raise BackupError(f"the totals say {totals} predictions and defects, there are {counted}")


def set_aside(database: Path) -> Path | None:
    """Rename a database that no process has open, whole in one file if that can be done."""
    if not database.exists():
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    former = database.with_name(f"{database.name}.before-restore-{stamp}")
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=2)) as db:
            # Leaving WAL mode needs the file for oneself and copies the log into it.
            db.execute("PRAGMA journal_mode=DELETE")
            db.execute("BEGIN EXCLUSIVE")
            db.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        raise BackupError(
            f"{database} is in use ({error}): scale the logging service to 0 first"
        ) from None
    except sqlite3.DatabaseError as error:
        report("the former database is damaged", error=str(error))
    for side in _SIDE_FILES:
        if (beside := database.with_name(database.name + side)).exists():
            beside.rename(former.with_name(former.name + side))
    database.rename(former)
    return former


def flush(path: Path) -> None:
    """Have a file's content, or a directory's names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("backup", "restore", "list"))
    parser.add_argument(
        "--database",
        type=Path,
        required=True,
        action="append",
        help="one must be there; further ones are passed over where they are not",
    )
    parser.add_argument("--backups", type=Path, required=True)
    parser.add_argument("--keep", type=int, default=7)
    parser.add_argument("--backup", default=LATEST)
    arguments = parser.parse_args()
    databases: list[Path] = [path.absolute() for path in arguments.database]
    backups: Path = arguments.backups.absolute()
    if arguments.keep < 1:
        parser.error("--keep must be at least 1")
    try:
        if arguments.command == "backup":
            for database in databases:
                if database != databases[0] and not database.exists():
                    continue
                started = time.monotonic()
                made, rows = backup(database, backups, keep=arguments.keep)
                report(
                    "backed up",
                    file=made.name,
                    bytes=made.stat().st_size,
                    rows=rows,
                    restored_and_checked=True,
                    seconds=round(time.monotonic() - started, 1),
                )
        elif arguments.command == "restore":
            name: str = arguments.backup
            database = next(
                (one for one in databases if name.startswith(prefix_of(one))), databases[0]
            )
            former, rows = restore(database, backups, name=name)
            report("restored", rows=rows, former=former.name if former else None)
        else:
            now = datetime.now(UTC)
            for database in databases:
                for path in copies(database, backups):
                    age = round((now - made_at(database, path)).total_seconds() / 3_600, 1)
                    report("backup", file=path.name, bytes=path.stat().st_size, hours=age)
    except (BackupError, OSError, sqlite3.Error) as error:
        report("failed", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
