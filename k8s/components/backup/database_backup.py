"""Copies the predictions database while it is written to, and puts a copy back.

Runs in the logging service's image with nothing but Python's standard library. Each command
prints one JSON object a line and ends with status 0; a refusal prints its reason and ends with 1.
"""

import argparse
import json
import os
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

PREFIX = "predictions-"
SUFFIX = ".db"
LATEST = "latest"
_SIDE_FILES = ("-wal", "-shm", "-journal")


class BackupError(Exception):
    """A backup or a restore that did not happen; the message says why."""


def say(message: str, **fields: object) -> None:
    """Print one log line."""
    print(json.dumps({"message": message, **fields}), flush=True)


def copies(backups: Path) -> list[Path]:
    """Return the finished copies, oldest first: their names sort by time."""
    return sorted(backups.glob(f"{PREFIX}*{SUFFIX}"))


def check(database: Path) -> None:
    """Raise BackupError where SQLite finds the file damaged."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro&immutable=1", uri=True)) as db:
            verdict = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        verdict = str(error)
    if verdict != "ok":
        raise BackupError(f"{database} is damaged: {verdict}")


def backup(database: Path, backups: Path, *, keep: int) -> Path:
    """Copy the database as it stands at one moment, check the copy, keep the `keep` newest.

    Raises BackupError where there is no database or the copy is damaged; the older copies stay.
    """
    if not database.is_file():
        raise BackupError(f"there is no database {database}")
    for leftover in backups.glob(f"{PREFIX}*.partial"):
        leftover.unlink()
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    partial = backups / f"{PREFIX}{stamp}.partial"
    # One step is one read transaction: in WAL mode it holds up no writer, while a copy in
    # several steps would begin anew after each commit of another process.
    with (
        closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as source,
        closing(sqlite3.connect(partial)) as copy,
    ):
        source.backup(copy, pages=-1)
        # A copy is one file: it needs no side files to be read.
        copy.execute("PRAGMA journal_mode=DELETE")
    check(partial)
    flush(partial)
    finished = partial.with_suffix(SUFFIX)
    partial.rename(finished)
    flush(backups)
    for old in copies(backups)[:-keep]:
        old.unlink()
        say("removed an old backup", file=old.name)
    return finished


def restore(database: Path, backups: Path, *, name: str) -> Path | None:
    """Put a copy in the database's place; return where the former database went, if there was one.

    Raises BackupError, having changed nothing, where there is no such copy, the copy is damaged
    or a process has the database open.
    """
    found = copies(backups) if name == LATEST else [backups / Path(name).name]
    if not found or not found[-1].is_file():
        raise BackupError(
            f"no backup '{name}' in {backups}: {[path.name for path in copies(backups)]}"
        )
    chosen = found[-1]
    check(chosen)
    incoming = database.with_name(f"{database.name}.incoming")
    with closing(sqlite3.connect(chosen.as_uri() + "?mode=ro&immutable=1", uri=True)) as source:
        incoming.unlink(missing_ok=True)
        with closing(sqlite3.connect(incoming)) as copy:
            source.backup(copy, pages=-1)
    flush(incoming)
    former = set_aside(database)
    incoming.rename(database)
    flush(database.parent)
    return former


def set_aside(database: Path) -> Path | None:
    """Move a database that nobody has open to a name of its own, whole in one file if it can be."""
    if not database.exists():
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    former = database.with_name(f"{database.name}.before-restore-{stamp}")
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=2)) as db:
            # Leaving WAL mode needs the file for oneself and folds the log into it.
            db.execute("PRAGMA journal_mode=DELETE")
            db.execute("BEGIN EXCLUSIVE")
            db.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        raise BackupError(
            f"{database} is in use ({error}): scale the logging service to 0 first"
        ) from None
    except sqlite3.DatabaseError as error:
        say("the former database is damaged", error=str(error))
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


def count(database: Path) -> dict[str, int]:
    """Return how many rows each table has."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db:
        tables = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        return {
            name: db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608
            for (name,) in tables
        }


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("backup", "restore", "list"))
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--backups", type=Path, required=True)
    parser.add_argument("--keep", type=int, default=7)
    parser.add_argument("--backup", default=LATEST)
    arguments = parser.parse_args()
    database: Path = arguments.database.absolute()
    backups: Path = arguments.backups.absolute()
    if arguments.keep < 1:
        parser.error("--keep must be at least 1")
    try:
        if arguments.command == "backup":
            made = backup(database, backups, keep=arguments.keep)
            say("backed up", file=made.name, bytes=made.stat().st_size, rows=count(made))
        elif arguments.command == "restore":
            former = restore(database, backups, name=arguments.backup)
            say("restored", rows=count(database), former=former.name if former else None)
        else:
            for path in copies(backups):
                say("backup", file=path.name, bytes=path.stat().st_size)
    except (BackupError, OSError, sqlite3.Error) as error:
        say("failed", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
