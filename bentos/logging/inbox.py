"""What waits for the writer's thread: batches, a reader's doubt, the word to stop."""

import asyncio
import contextlib
import queue
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from bentos.logging.database import Stored
from bentos.logging.failures import StoreError
from bentos.logging.schema import PredictionRow

# Predictions in one transaction: with more the first of them would wait too long for the last.
_TRANSACTION_ROWS = 5_000


@dataclass(frozen=True, eq=False)
class Waiting:
    """A batch and the future of whoever waits for its end."""

    rows: Sequence[PredictionRow]
    done: asyncio.Future[Stored]


class _Stop:
    """Stands at the end of the queue."""


_Item: TypeAlias = Waiting | StoreError | _Stop


@dataclass
class Turn:
    """What the writer took in one go."""

    waiting: list[Waiting] = field(default_factory=list)
    doubt: StoreError | None = None
    stop: bool = False


class Inbox:
    """A queue from any thread to the writer's."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[_Item] = queue.SimpleQueue()

    def put(self, waiting: Waiting) -> None:
        """Let a batch wait."""
        self._items.put(waiting)

    def doubt(self, failure: StoreError) -> None:
        """Tell that a reader found the database lost."""
        self._items.put(failure)

    def stop(self) -> None:
        """Tell the writer to end after all that was put before."""
        self._items.put(_Stop())

    def take(self, seconds: float) -> Turn:
        """Return all that waits, at most a transaction's worth; wait so long for the first."""
        turn = Turn()
        rows = 0
        with contextlib.suppress(queue.Empty):
            item = self._items.get(timeout=seconds) if seconds > 0 else self._items.get_nowait()
            while True:
                if isinstance(item, _Stop):
                    turn.stop = True
                    break
                if isinstance(item, StoreError):
                    turn.doubt = item
                else:
                    turn.waiting.append(item)
                    rows += len(item.rows)
                if rows >= _TRANSACTION_ROWS:
                    break
                item = self._items.get_nowait()
        return turn
