"""What the writer needs of a database, whichever it is."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bentos.logging.store.batches import Outcome, Retention
from bentos.logging.store.errors import StoreError
from bentos.logging.store.files import Sizes
from bentos.logging.store.reader import Reader
from bentos.logging.store.schema import StoredPrediction


class Database(Protocol):
    """An open database of one writer.

    All methods raise StoreError, after which nothing of the transaction is acknowledged.
    """

    def write(self, batches: Sequence[Sequence[StoredPrediction]]) -> list[Outcome]:
        """Store batches in one transaction and return what became of each, once it is on disk."""

    def check(self, *, proof_seconds: float) -> None:
        """Read; write something as well after `proof_seconds` without a commit."""

    def prune(self, retention: Retention, *, now: float) -> int:
        """Delete some of what need not be kept in one short transaction; return how much."""

    def give_space_back(self) -> bool:
        """Give some free space back to the file system; return whether there may be more."""

    def checkpoint(self) -> None:
        """Have what was written leave the log, so that a later commit need not wait for it."""

    def close(self) -> None:
        """Close the connection."""

    def abandon(self, failure: StoreError) -> None:
        """Close the connection to a database that is lost, without writing to it."""


class Backend(Protocol):
    """Where predictions are kept, open or not."""

    @property
    def name(self) -> str:
        """What log lines call it; no secret is in it."""

    def open(self) -> Database:
        """Open it for the writer, its schema up to date; raises StoreError."""

    def reader(self, on_failure: Callable[[StoreError], None]) -> Reader[Any]:
        """Return what answers questions; `on_failure` is called with each failure it meets."""

    def sizes(self) -> Sizes:
        """Return sizes, as they were last looked at; raises OSError."""

    def close(self) -> None:
        """Let go of what outlives a connection."""
