"""Moves predictions to PostgreSQL, and exports them.

    python -m bentos.logging.store migrate --from sqlite:.data/predictions.db
    python -m bentos.logging.store export --parquet folder --since 2026-11-01

The PostgreSQL database is that of DATABASE_URL, or of an address without a password, which
PGPASSWORD or ~/.pgpass then has: a command line is seen by everybody on the machine.
"""

import argparse
import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bentos.logging.store.errors import StoreError
from bentos.logging.store.export import Exported, ExportError, export_parquet
from bentos.logging.store.source import sqlite_source
from bentos.process.secrets import redact

_BUSY_TIMEOUT_SECONDS = 30.0
_REPORT_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 where it failed, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    try:
        return _migrate(options) if options.command == "migrate" else _export(options)
    except (StoreError, ExportError, sqlite3.Error, OSError) as error:
        _say(f"failed: {redact(str(error))}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on where this one ended")
        return 1


def _migrate(options: argparse.Namespace) -> int:
    from bentos.logging.store.postgres import PostgresDatabase
    from bentos.logging.store.transfer import Progress, transfer, verify

    started = time.monotonic()
    reported = 0.0

    def report(progress: Progress) -> None:
        nonlocal reported
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            rate = progress.handled / max(reported - started, 0.001)
            share = 100 * progress.handled / max(progress.total, 1)
            _say(f"{progress.handled} of {progress.total} ({share:.1f}%), {rate:.0f}/s")

    path = _sqlite(options.source)
    target = PostgresDatabase(options.target, busy_timeout_seconds=_BUSY_TIMEOUT_SECONDS)
    with contextlib.closing(target):
        target.open()
        done = transfer(path, target, report=report)
        _say(f"{done.handled} predictions handled, {done.there_before} were there before")
        if done.conflicts:
            _say(f"{done.conflicts} not taken: the target has other content under their ids")
        found = verify(path, target)
    _say(f"source: {found.source_count} predictions, checksum {found.source_checksum}")
    _say(f"target: {found.target_count} predictions, checksum {found.target_checksum}")
    if not found.equal:
        _say("they differ; while a service writes to the source, run the command again")
        return 1
    _say("equal. What is written to the source from now on, the same command brings over")
    return 0


def _export(options: argparse.Namespace) -> int:
    def report(file: Exported) -> None:
        _say(f"{file.path}: {file.predictions} predictions")

    if options.source.startswith("postgres"):
        from bentos.logging.store.postgres_connection import postgres_source

        opened = postgres_source(options.source)
    else:
        opened = sqlite_source(_sqlite(options.source))
    with opened as source:
        total = export_parquet(
            source, options.parquet, since=options.since, until=options.until, report=report
        )
    _say(f"{total} predictions exported")
    return 0


def _parser() -> argparse.ArgumentParser:
    url = os.environ.get("DATABASE_URL") or None
    sqlite = f"sqlite:{os.environ.get('DATABASE_PATH') or '.data/predictions.db'}"
    parser = argparse.ArgumentParser(
        prog="python -m bentos.logging.store", description=(__doc__ or "").partition("\n\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    migrate = commands.add_parser("migrate", help="from an SQLite file to PostgreSQL")
    migrate.add_argument("--from", dest="source", default=sqlite, help="sqlite:PATH")
    migrate.add_argument(
        "--to",
        dest="target",
        type=_address,
        default=url,
        required=url is None,
        help="postgresql://",
    )
    export = commands.add_parser("export", help="to Parquet, a file for each day of arrival")
    export.add_argument("--parquet", type=Path, required=True, help="folder of the files")
    export.add_argument("--from", dest="source", type=_address, default=url or sqlite)
    export.add_argument("--since", type=_day, default=0.0, help="first day, YYYY-MM-DD, UTC")
    export.add_argument("--until", type=_day, default=None, help="the day after the last")
    return parser


def _address(text: str) -> str:
    """Return an address; argparse shows the message of the error for a wrong one."""
    if text == os.environ.get("DATABASE_URL") or not text.startswith("postgres"):
        return text
    from psycopg.conninfo import conninfo_to_dict

    if conninfo_to_dict(text).get("password"):
        # The message must not show it either.
        raise SystemExit(
            "a password on the command line is seen by everybody on the machine: leave it out, and"
            " set PGPASSWORD or the whole address as DATABASE_URL"
        )
    return text


def _day(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()


def _sqlite(source: str) -> Path:
    path = Path(source.removeprefix("sqlite:"))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such database")
    return path


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
