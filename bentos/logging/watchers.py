"""Whom the writer tells of its work, each from the writer's thread."""

from typing import Protocol


class Readers(Protocol):
    """Whoever else in the process has the database open."""

    def admit(self) -> None:
        """Read from now on."""

    def shut(self) -> None:
        """Read no more, and return when no connection is open."""
