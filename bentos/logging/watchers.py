"""Whom the writer tells of its work, each from the writer's thread."""

from typing import Protocol


class Observer(Protocol):
    """What is told of transactions."""

    def transaction_started(self) -> None:
        """Hear that the database is called."""

    def transaction_ended(self) -> None:
        """Hear that the database returned, whatever came of it."""

    def committed(self, *, predictions: int, seconds: float) -> None:
        """Hear of a transaction that is on disk."""


class Readers(Protocol):
    """Whoever else in the process has the database open."""

    def admit(self) -> None:
        """Read from now on."""

    def shut(self) -> None:
        """Read no more, and return when no connection is open."""
