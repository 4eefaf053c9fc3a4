"""Moves predictions from an SQLite file to PostgreSQL, while a service writes to either."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bentos.logging.store.database import Conflict
from bentos.logging.store.postgres import PostgresDatabase
from bentos.logging.store.schema import CONTENT, StoredPrediction
from bentos.logging.store.source import sqlite_source

_MODULUS = 1 << 128


@dataclass(frozen=True)
class Progress:
    """How far a transfer is: predictions handled of all, of which some were there before."""

    handled: int
    total: int
    there_before: int
    conflicts: int


@dataclass(frozen=True)
class Verified:
    """Predictions of the source and of the target, and checksums of their content.

    A checksum is a sum of hashes, so that the order does not matter.
    """

    source_count: int
    target_count: int
    source_checksum: str
    target_checksum: str

    @property
    def equal(self) -> bool:
        """Whether the target has all of the source."""
        return (self.source_count, self.source_checksum) == (
            self.target_count,
            self.target_checksum,
        )


def transfer(
    path: Path, target: PostgresDatabase, *, report: Callable[[Progress], None]
) -> Progress:
    """Copy what the target does not have, until nothing is left, and return how it went.

    How far it came stands in the target, in the transactions that brought it there: after a crash
    it goes on behind the last of them, and stores nothing twice, predictions without an id
    included. `report` is called after each transaction. Raises StoreError and sqlite3.Error.
    """
    name = str(path.resolve())
    last = target.transferred(name)
    with sqlite_source(path) as source:
        total = source.count()
        handled = total - source.count(last)
        progress = Progress(handled, total, 0, 0)
        while True:
            last, rows = source.after(last)
            if not rows:
                return progress
            outcomes = target.write([[row] for row in rows], transferred=(name, last))
            conflicts = sum(isinstance(one, Conflict) for one in outcomes)
            duplicates = sum(getattr(one, "duplicates", 0) for one in outcomes)
            handled += len(rows)
            total = max(total, handled)  # a service may go on writing
            progress = Progress(
                handled,
                total,
                progress.there_before + duplicates,
                progress.conflicts + conflicts,
            )
            report(progress)


def verify(path: Path, target: PostgresDatabase) -> Verified:
    """Compare all of the source with what the target has under the same ids.

    Predictions without an id are compared as a whole: with all of them that the target has.
    """
    counts, sums = [0, 0], [0, 0]

    def add(side: int, rows: Iterable[StoredPrediction]) -> None:
        for row in rows:
            counts[side] += 1
            sums[side] = (sums[side] + _hash(row)) % _MODULUS

    with sqlite_source(path) as source:
        nameless = False
        last, rows = source.after(0)
        while rows:
            named = [row for row in rows if row.prediction_id is not None]
            nameless = nameless or len(named) < len(rows)
            add(0, rows)
            add(1, target.find(named).values())
            last, rows = source.after(last)
    if nameless:
        add(1, target.nameless())
    return Verified(counts[0], counts[1], f"{sums[0]:032x}", f"{sums[1]:032x}")


def _hash(row: StoredPrediction) -> int:
    values = [getattr(row, name) for name in CONTENT]
    # However the JSON was written.
    plain = [
        msgspec.json.decode(bytes(one)) if isinstance(one, msgspec.Raw) else one for one in values
    ]
    encoded = msgspec.json.encode(plain, order="deterministic")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=16).digest(), "big")
